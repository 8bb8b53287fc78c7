"""Hermes's config without the keys that are ours: they soon end, and setup writes fresh ones.

Nothing else is taken out. A key of the user's own stays in the file, and so is saved: whoever may
read the volume may read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import yaml

from hermes.trust import is_our_name
from hermes.urls import cloud_of
from hermes.yaml_text import compose, set_scalars
from webapp.keep.content import LeftOutError

MOST = 2**20  # bytes of a config
LONG = 16  # characters: a key of that length is no word of a text


def empty_our_keys(data: bytes) -> bytes:
    """Empty our entries' keys in Hermes's config, wherever they stand; every other byte stays.

    Arguments:
        data: the file's bytes.

    Returns:
        The same without these keys.

    Raises:
        LeftOutError: where it is not valid YAML, so that nobody can say which keys are ours.
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
    try:
        compose(emptied)
    except yaml.YAMLError:  # an anchor went with its scalar, and an alias misses it
        emptied = text
    for key in sorted(keys, key=len, reverse=True):
        if len(key) >= LONG:  # in a comment, or behind "Bearer"
            emptied = emptied.replace(key, "")
    return emptied.encode()


def _our_keys(tree: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """The keys of our providers, and the model's where it goes to one of them or to Databricks."""
    config = _fields(tree)
    providers = config.get("custom_providers")
    items = providers.value if isinstance(providers, yaml.SequenceNode) else [providers]
    named = [(_text(_fields(item).get("name")), item) for item in items]
    named += _fields(config.get("providers")).items()
    ours = [_fields(entry) for name, entry in named if is_our_name(name)]
    urls = {_text(entry.get("base_url")) for entry in ours} - {""}
    model = _fields(config.get("model"))
    url = _text(model.get("base_url"))
    for entry in [*ours, model] if url in urls or _is_databricks(url) else ours:
        if isinstance(key := entry.get("api_key"), yaml.ScalarNode):
            yield key


def _is_databricks(url: str) -> bool:
    with suppress(ValueError):
        parts = urlsplit(url)
        return parts.scheme == "https" and cloud_of(parts.hostname) != ""
    return False


def _fields(node: yaml.Node | None) -> dict[str, yaml.Node]:
    """A mapping's values by key; {} for another node."""
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def _text(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


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
