"""Patterns in gitignore's syntax; of our own, since the app's machine need not have git."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache


class Ignore:
    """Patterns of which the last that fits decides.

    Arguments:
        lines: the patterns. A folder above a path is asked for itself.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.rules: list[tuple[re.Pattern[str], bool, bool]] = []  # pattern, ignored, folders only
        for line in lines:
            pattern = re.sub(r"(?<!\\)((?:\\\\)*) +$", r"\1", line.rstrip("\r\n"))
            if not pattern or pattern.startswith("#"):
                continue
            ignored = not pattern.startswith("!")
            pattern = pattern.removeprefix("!")
            folders = pattern.endswith("/")
            pattern = pattern.removesuffix("/")
            anchored = "/" in pattern
            pattern = pattern.removeprefix("/")
            # An error is such as a range that runs backwards: git matches nothing with it either.
            with suppress(re.error):
                regex = re.compile(("" if anchored else "(?:.*/)?") + _regex(pattern), re.DOTALL)
                self.rules.append((regex, ignored, folders))

    def __call__(self, path: str, folder: bool) -> bool:
        """Whether a path relative to the patterns' own folder is ignored."""
        for regex, ignored, folders in reversed(self.rules):
            if (folder or not folders) and regex.fullmatch(path):
                return ignored
        return False


@lru_cache(maxsize=1024)
def _regex(pattern: str) -> str:
    """A pattern of gitignore as a regular expression.

    What follows a wildcard is taken where it first fits, in an atomic group, or a few stars would
    take years. A star's ends with its name in the path, that of `**/` at the next one.
    Source: https://git-scm.com/docs/gitignore#_pattern_format
    """
    regex = name = names = ""  # name and names close the groups that are open
    start = 0
    while start < len(pattern):
        rest = pattern[start:]
        first_of_name = start == 0 or pattern[start - 1] == "/"
        if first_of_name and rest.startswith("**/"):
            regex, names, length = regex + names + "(?>(?:.*?/)??", ")", 3
        elif first_of_name and rest == "**":
            regex, length = regex + ".+", 2
        elif rest[0] == "*":
            regex, name, length = regex + name + "(?>[^/]*?", ")", 1
        elif rest[0] == "/":
            regex, name, length = regex + "/" + name, "", 1
        else:
            one, length = _one_character(rest)
            regex += one
        start += length
    return regex + r"\Z" + name + names


def _one_character(rest: str) -> tuple[str, int]:
    """What stands for one character at the beginning of a pattern, and how long it is."""
    never = r"(?!)"
    if rest[0] == "?":
        return "[^/]", 1
    if rest[0] == "\\":
        return (re.escape(rest[1]), 2) if len(rest) > 1 else (never, 1)  # git: it never matches
    if rest[0] != "[":
        return re.escape(rest[0]), 1
    found = re.match(r"\[([!^]?)(\]?(?:\[:\w+:\]|\\.|[^\]\\])*)\]", rest, re.DOTALL)
    if not found:
        return never, 1
    inner = re.sub(r"\[:(\w+):\]", lambda match: _CLASSES.get(match[1], ""), found[2])
    inner = "\\" + inner if inner[:1] in "]^" else inner
    inner = re.sub(r"(?<!\\)([\[&~|])", r"\\\1", inner)
    return f"(?!/)[{'^' if found[1] else ''}{inner}]", len(found[0])


_CLASSES = {
    "alpha": "a-zA-Z",
    "digit": "0-9",
    "alnum": "a-zA-Z0-9",
    "lower": "a-z",
    "upper": "A-Z",
    "space": r"\s",
}
