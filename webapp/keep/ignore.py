"""Patterns in gitignore's syntax; of our own, since git need not be on the machine that runs the app."""

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
            with suppress(
                re.error
            ):  # such as a range that runs backwards: git matches nothing with it either
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
    """A pattern of gitignore as a regular expression. Source: https://git-scm.com/docs/gitignore#_pattern_format

    What follows a wildcard is taken where it first fits, in an atomic group, or a few stars would take years. A star's ends
    with its name in the path, that of `**/` at the next one.
    """
    regex, i, name, names = "", 0, "", ""  # and what closes the groups that are open
    while i < len(pattern):
        rest = pattern[i:]
        char = rest[0]
        if rest.startswith("**/") and (i == 0 or pattern[i - 1] == "/"):
            regex, names, i = regex + names + "(?>(?:.*?/)??", ")", i + 3
        elif rest == "**" and (i == 0 or pattern[i - 1] == "/"):
            regex, i = regex + ".+", i + 2
        elif char == "*":
            regex, name, i = regex + name + "(?>[^/]*?", ")", i + 1
        elif char == "/":
            regex, name, i = regex + "/" + name, "", i + 1
        elif char == "?":
            regex, i = regex + "[^/]", i + 1
        elif char == "[" and (
            found := re.match(r"\[([!^]?)(\]?(?:\[:\w+:\]|\\.|[^\]\\])*)\]", rest, re.DOTALL)
        ):
            inner = re.sub(r"\[:(\w+):\]", lambda m: _CLASSES.get(m[1], ""), found[2])
            inner = re.sub(
                r"(?<!\\)([\[&~|])", r"\\\1", "\\" + inner if inner[:1] in "]^" else inner
            )
            regex, i = regex + f"(?!/)[{'^' if found[1] else ''}{inner}]", i + len(found[0])
        elif char == "\\":
            if len(rest) == 1:
                return r"(?!)"  # git: a trailing backslash never matches
            regex, i = regex + re.escape(rest[1]), i + 2
        elif char == "[":
            return r"(?!)"
        else:
            regex, i = regex + re.escape(char), i + 1
    return regex + r"\Z" + name + names


_CLASSES = {
    "alpha": "a-zA-Z",
    "digit": "0-9",
    "alnum": "a-zA-Z0-9",
    "lower": "a-z",
    "upper": "A-Z",
    "space": r"\s",
}
