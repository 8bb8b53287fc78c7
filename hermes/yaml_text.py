"""Edits of YAML text that keep its comments.

Values are set where they stand; a block is written anew only where it changes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, cast

import yaml


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.2 takes for a number, and YAML 1.1 does not: Hermes 0.22 reads 1.2."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    number = re.fullmatch(r"[-+]?(\.\d+|\d+(\.\d*)?)(e[-+]?\d+)?|0o[0-7]+", text, re.IGNORECASE)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if number else None)


_Dumper.add_representer(str, _represent_text)


def dump(value: object) -> str:
    """YAML in block style: keys of mappings and of list entries stand two spaces deep, where CODA's
    token rotator looks.
    """
    return yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=2**20,
    )


def compose(text: str) -> yaml.Node:
    """The node tree, from PyYAML's own loader: its marks count characters."""
    return cast(yaml.Node, yaml.compose(text, Loader=yaml.SafeLoader))


def set_scalars(text: str, nodes: Iterable[yaml.ScalarNode], value: str) -> str:
    """Give scalars of a text's own tree another value; every other character stays."""
    scalar = dump([value])[2:].rstrip("\n")
    ends = {node.start_mark.index: node.end_mark.index for node in nodes}
    for start in sorted(ends, reverse=True):
        # A block scalar ends after its last line's end.
        end = "\n" if text[start] in "|>" else ""
        text = text[:start] + scalar + end + text[ends[start] :]
    return text


def changed_scalars(node: yaml.Node, old: Any, new: Any) -> Iterator[yaml.ScalarNode]:
    """The scalars of a tree that mean something else now; what stays is the same object in `old`
    and `new`.
    """
    if old is new:
        return
    if isinstance(new, list):
        for part in zip(node.value, old, new, strict=True):
            yield from changed_scalars(*part)
    elif isinstance(new, dict):
        for key, value in node.value:
            if key.id == "scalar" and key.value in old:
                yield from changed_scalars(value, old[key.value], new[key.value])
    elif isinstance(node, yaml.ScalarNode):
        yield node


def render(text: str, old: dict[Any, Any], new: dict[Any, Any], anew: Collection[Any] = ()) -> str:
    """Write a changed mapping; top-level blocks that stay keep their text and comments.

    Arguments:
        text: what it was.
        old: what that means.
        new: what it shall mean, the old keys first and in their order.
        anew: keys of blocks that are written anew though they mean the same.
    """
    try:
        head, *blocks = _blocks(text)
        kept = [
            # Dumps are compared, not values: aliases can stand for themselves, or for too much.
            block
            if key not in anew and dump(old[key]) == dump(new[key])
            else dump({key: new[key]}) + _trailing_comments(block)
            for key, block in zip(old, blocks, strict=True)
        ]
    except (yaml.YAMLError, ValueError):  # or a key is there twice
        return dump(new)
    result = "".join([head, *kept])
    added = {key: value for key, value in new.items() if key not in old}
    if added:
        result += ("\n" if result and not result.endswith("\n") else "") + dump(added)
    return result if means(result, new) else dump(new)


def means(text: str, value: object) -> bool:
    """Whether a text is YAML that means just that."""
    try:
        return dump(yaml.safe_load(text)) == dump(value)
    except (yaml.YAMLError, ValueError):
        return False


def lines_by_block(text: str) -> Iterator[tuple[str, str]]:
    """The top-level key above each line, "" before the first, and the line."""
    block = ""
    for line in text.splitlines():
        if re.match(r"[^\s#-]", line):
            block = line.partition(":")[0]
        yield block, line


def _blocks(text: str) -> list[str]:
    """What stands before the first key, and the block of each."""
    tree = compose(text)
    starts = [key.start_mark.index for key, _ in tree.value] if tree else []
    bounds = [0, *starts, len(text)]
    return [text[start:end] for start, end in itertools.pairwise(bounds)]


def _trailing_comments(block: str) -> str:
    """The comments and blank lines at the end of a block that are about what follows."""
    lines = block.split("\n")
    last = len(lines)
    while last > 1 and (lines[last - 1].startswith("#") or not lines[last - 1].strip()):
        last -= 1
    return "\n".join(lines[last:])
