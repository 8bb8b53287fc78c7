"""Hermes's config without the keys that are ours: they soon end, and setup writes fresh ones.

Nothing else is taken out. A key of the user's own stays in the file, and so is saved: whoever may
read the volume may read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from hermes.trust import is_our_name
from hermes.urls import cloud_of
from hermes.yaml_text import compose, set_scalars
from webapp.keep.content import LeftOutError

MOST = 2**20  # bytes of a config
LONG = 16  # characters: a key of that length is no word of a text


def is_config(home: Path, path: str) -> bool:
    """Whether a file of a home directory is Hermes's config, also where that is a link to it."""
    full, config = (home / path).resolve(), (home / ".hermes" / "config.yaml").resolve()
    with suppress(OSError):
        return full == config or full.samefile(config)  # a hard link
    return False


def empty_our_keys(data: bytes) -> bytes:
    """Empty our entries' keys in Hermes's config, wherever they stand; every other byte stays.

    Raises:
        LeftOutError: where it is not valid YAML, so that nobody can say which keys are ours, or
            where one of them would stay.
    """
    if len(data) > MOST:
        raise LeftOutError(f"over {MOST // 2**20} MB")
    try:
        text = data.decode()
        tree = compose(text)  # nodes: an alias is not expanded
        keys = {node.value for node in _our_keys(tree)} - {""}
        emptied = set_scalars(text, [node for node in _scalars(tree) if node.value in keys], "")
    except (yaml.YAMLError, ValueError, RecursionError):
        raise LeftOutError("is not valid YAML") from None
    with suppress(yaml.YAMLError):
        compose(emptied)
        text = emptied  # else an anchor went with its scalar, and an alias misses it
    long = sorted((key for key in keys if len(key) >= LONG), key=len, reverse=True)
    for key in long:  # in a comment, or behind "Bearer"
        text = text.replace(key, "")
    if _still_has(text, keys, long):
        raise LeftOutError("has a key of ours that cannot be taken out")
    return text.encode()


def _still_has(text: str, keys: set[str], long: list[str]) -> bool:
    """Whether a text has one of these keys still, such as one that it spells with escapes."""
    try:
        tree = compose(text)
    except yaml.YAMLError:
        return True
    if any(node.value in keys for node in _our_keys(tree)):
        return True
    return any(key in node.value for node in _scalars(tree) for key in long)


def _our_keys(tree: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """The keys of our providers, and the model's where it goes to one of them or to Databricks."""
    ours = list(_our_providers(tree))
    urls = {url for entry in ours for url in _texts(_nearest(entry, "base_url"))} - {""}
    for model in _values(tree, "model"):
        if any(url in urls or _is_databricks(url) for url in _texts(_values(model, "base_url"))):
            ours.append(model)
    for entry in ours:
        yield from (key for key in _values(entry, "api_key") if isinstance(key, yaml.ScalarNode))


def _our_providers(tree: yaml.Node | None) -> Iterator[yaml.Node]:
    for providers in _values(tree, "custom_providers"):
        items = providers.value if isinstance(providers, yaml.SequenceNode) else [providers]
        yield from (i for i in items if any(map(is_our_name, _texts(_nearest(i, "name")))))
    for providers in _values(tree, "providers"):
        for part in _parts(providers):
            yield from (entry for name, entry in _pairs(part) if is_our_name(name))


def _is_databricks(url: str) -> bool:
    with suppress(ValueError):
        parts = urlsplit(url)
        return parts.scheme == "https" and cloud_of(parts.hostname) != ""
    return False


def _parts(node: yaml.Node | None) -> list[yaml.MappingNode]:
    """A mapping and all that is merged into it, the nearest first; [] for another node."""
    parts: list[yaml.MappingNode] = []
    pending: list[yaml.Node] = [node] if isinstance(node, yaml.MappingNode) else []
    seen = set[int]()
    for part in pending:  # it grows
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, yaml.SequenceNode):
            pending += part.value
        elif isinstance(part, yaml.MappingNode):
            parts.append(part)
            pending += [value for name, value in _pairs(part) if name == "<<"]
    return parts


def _pairs(part: yaml.MappingNode) -> list[tuple[str, yaml.Node]]:
    """A mapping's own names and values, a name that is there twice with both."""
    return [(key.value, value) for key, value in part.value if isinstance(key, yaml.ScalarNode)]


def _values(node: yaml.Node | None, name: str) -> list[yaml.Node]:
    """All values that a mapping, and what is merged into it, have under a name."""
    return [value for part in _parts(node) for key, value in _pairs(part) if key == name]


def _nearest(node: yaml.Node | None, name: str) -> list[yaml.Node]:
    """Those of the mapping itself; of what is merged into it where it has none."""
    found = ([v for key, v in _pairs(part) if key == name] for part in _parts(node))
    return next(filter(None, found), [])


def _texts(nodes: list[yaml.Node]) -> set[str]:
    return {str(node.value) for node in nodes if isinstance(node, yaml.ScalarNode)}


def _scalars(tree: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """Each scalar once, however often it is named."""
    pending, seen = [tree], set[int]()
    while pending:
        node = pending.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            yield node
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value
        elif isinstance(node, yaml.MappingNode):
            pending += [part for pair in node.value for part in pair]
