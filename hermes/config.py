"""Hermes's config file: merged, kept whole, and its keys kept fresh."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

import yaml

from hermes.routes import Routes, candidate_routes, direct_route
from hermes.settings import MCP_DEFAULTS, Settings

GATEWAY, DIRECT, SECOND = "databricks-gateway", "databricks-direct", "databricks-fallback"
OURS = (GATEWAY, DIRECT, SECOND)

Config = dict[str, Any]


def merge_config(existing: Config, settings: Settings, routes: Routes, written: Config | None = None) -> Config:
    """Put our model, providers and fallback chain into a Hermes config.

    Arguments:
        existing: the config as read; not changed.
        settings: checked settings with a token.
        routes: where the models are.
        written: `fallback_providers` and `mcp_servers` as an earlier setup wrote them: these are ours to replace.

    Returns:
        A new config: the user's keys in their order, ours replaced where they stand, else added at the end.
    """
    config, written = copy.deepcopy(existing), written or {}
    urls, block = _ours(settings, routes)
    here = [*candidate_routes(settings.host, settings.gateway), *urls.values()]

    old_model = config["model"] if isinstance(config.get("model"), dict) else {}
    ours = {"default": settings.model, "provider": "custom", "base_url": routes.primary, "api_key": settings.token}
    if old_model.get("base_url") not in here:
        old_model.pop("api_mode", None)  # another vendor's protocol
    config["model"] = {**old_model, **ours}

    def stale(entry: object) -> bool:
        """An inline key of an older setup: Hermes reads such a key once per process, so it outlives its rotation."""
        models = [settings.model, settings.fallback_model, old_model.get("default")]
        is_ours = isinstance(entry, dict) and "api_key" in entry and entry.get("model") in models
        return is_ours and str(cast(Config, entry).get("base_url")).rstrip("/") in here

    replaced = [*block, *_list(written.get("fallback_providers"))]
    theirs = [e for e in _list(config.get("fallback_providers")) if e not in replaced and not stale(e)]
    wanted = {name: {"name": name, "base_url": url, "api_key": settings.token} for name, url in urls.items()}
    # A provider of ours stays, with a fresh key, while an entry of the user's names it.
    named = [e.get("provider") for e in theirs if isinstance(e, dict)]
    providers = []
    for entry in _list(config.get("custom_providers")):
        name = entry.get("name") if isinstance(entry, dict) else None
        if name not in OURS:
            providers.append(entry)
        elif name in wanted or f"custom:{name}" in named:
            providers.append({**entry, "api_key": settings.token, **wanted.pop(name, {})})
    config["custom_providers"] = providers + list(wanted.values())
    # `hermes doctor --fix` moves the list into this mapping, which Hermes reads first.
    if isinstance(migrated := config.get("providers"), dict) and any(name in migrated for name in OURS):
        config["providers"] = {k: v for k, v in migrated.items() if k not in OURS}
    config["fallback_providers"] = block + theirs

    # Hermes then fetches neither packages nor the newest build of its command scanner while it runs.
    _fill(config, "security", {"allow_lazy_installs": False, "tirith_path": "~/.local/bin/tirith"})
    if isinstance(servers := config.get("mcp_servers"), dict):
        # What CODA's own setup wrote before us counts as ours.
        before = written.get("mcp_servers", {name: {"url": url} for name, (_, url) in MCP_DEFAULTS.items()})
        config["mcp_servers"] = {name: entry for name, entry in servers.items() if before.get(name, ...) != entry}
    _fill(config, "mcp_servers", _servers(settings))
    skills = settings.home / ".claude" / "skills"
    if skills.is_dir():
        _fill(config, "skills", {"external_dirs": [str(skills)]})
    return config


def _ours(settings: Settings, routes: Routes) -> tuple[dict[str, str], list[Config]]:
    """Our providers, URL by name, and our entries of the fallback chain."""
    direct = direct_route(settings.host)
    names = {routes.fallback: SECOND, routes.primary: GATEWAY, direct: DIRECT}
    chain = [(routes.primary, settings.model), (routes.fallback, settings.fallback_model)]
    if routes.direct:
        chain.append((direct, settings.fallback_model))
    entries = [{"provider": f"custom:{names[url]}", "model": model} for url, model in dict.fromkeys(chain)]
    return {names[url]: url for url, _ in chain}, entries


def _servers(settings: Settings) -> Config:
    return {name: {"url": url} for name, url in settings.mcp_servers.items() if url}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []


def _fill(config: Config, key: str, defaults: Config) -> None:
    """Add what the user has not set; a section of another type than a mapping is the user's own affair."""
    section = config.get(key)
    if defaults and (section is None or isinstance(section, dict)):
        config[key] = {**(section or {}), **{k: v for k, v in defaults.items() if k not in (section or {})}}


def dump(config: object) -> str:
    """YAML in block style: keys of `model` and of list entries stand two spaces deep, where CODA's token rotator looks."""
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=False, width=2**20)


def _render(text: str, old: Config, new: Config) -> str:
    """Write a changed config, keeping the text, comments included, of each top-level block that stays as it is."""
    # Dumps are compared, not values: a few aliases can stand for more than can be compared, or for themselves.
    if dump(old) == dump(new) and _keys_in_reach(text):
        return text
    if not old:
        comments_only = all(line.lstrip().startswith("#") or not line.strip() for line in text.splitlines())
        return (text if comments_only else "") + dump(new)
    try:
        starts = [key.start_mark.index for key, _ in _compose(text).value]
        if len(starts) != len(old):
            return dump(new)
        result = text[: starts[0]]
        for key, start, end in zip(old, starts, [*starts[1:], len(text)], strict=True):
            block = text[start:end]
            comments = re.search(r"(?:^(?:#.*)?\r?\n)*\Z", block, re.MULTILINE)
            if dump(old[key]) != dump(new[key]) or not _keys_in_reach(block):
                block = dump({key: new[key]}) + (comments[0] if comments else "")
            result += block
        added = {key: value for key, value in new.items() if key not in old}
        result += ("" if result.endswith("\n") else "\n") + (dump(added) if added else "")
        return result if dump(yaml.safe_load(result)) == dump(new) else dump(new)
    except (yaml.YAMLError, ValueError):
        return dump(new)


def _keys_in_reach(text: str) -> bool:
    """Whether each of our keys in a text stands where CODA's rotator looks; Hermes itself indents lists deeper."""
    try:
        return all(text[: key.start_mark.index].rpartition("\n")[2] == "  api_key: " for key in _our_keys(_compose(text)))
    except (yaml.YAMLError, ValueError):
        return True


def _parse_config(raw: bytes) -> tuple[Config, str]:
    """Read a config's bytes: what it means and "", or what can be kept of it and what is wrong."""
    try:
        config = yaml.safe_load(raw.decode())
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        return {}, f"is not valid YAML ({' '.join(str(error).split())[:120]})"
    if config is None:
        return {}, ""
    if not isinstance(config, dict):
        return {}, f"holds a {type(config).__name__}, not a mapping"
    for key, kinds in (("model", (dict, str)), ("custom_providers", list), ("fallback_providers", (list, dict))):
        if config.get(key) is not None and not isinstance(config[key], kinds):
            return config, f"has a {key} that Hermes does not understand"
    return config, ""


def write_config(path: Path, settings: Settings, routes: Routes) -> str:
    """Bring Hermes's config up to date.

    Arguments:
        path: the file; a symlink is followed.
        settings: checked settings with a token.
        routes: where the models are.

    Returns:
        What was done, in a few words.

    Raises:
        OSError: when it cannot be written; then the old file is there as it was.
    """
    with _locked(path) as memory:
        raw = path.read_bytes() if path.exists() else b""
        existing, problem = _parse_config(raw)
        written = _recall(memory)
        text = raw.decode() if not problem else ""
        if written and not problem:
            # The keys first, in place: after a mere rotation nothing else changes.
            text = _with_key(text, settings.token)
            existing, problem = _parse_config(text.encode())
        foreign = bool(existing) and not (written and _our_keys(_compose(text)))
        merged = merge_config(existing, settings, routes, written)
        text = dump(merged) if problem else _render(text, existing, merged)
        note = ""
        if text.encode() != raw:
            if problem or foreign:
                kept = path.with_name(f"{path.name}.{datetime.now(UTC):%Y-%m-%dT%H%M%S.%f}.bak")
                _write_atomically(kept, raw)
                note = f"; the old one {problem or 'was not ours'}, kept as {kept.name}"
            _write_atomically(path, text.encode())
        path.chmod(0o600)
        memory.seek(0)
        memory.truncate()
        json.dump({"fallback_providers": _ours(settings, routes)[1], "mcp_servers": _servers(settings)}, memory)
        return f"written{note}" if text.encode() != raw else "unchanged"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    """Hold the lock on a config file, waiting for whoever holds it; inside, leftovers of a killed writer are gone."""
    real = path.resolve()
    with open(real.with_name(f".{real.name}.setup"), "a+", opener=lambda p, flags: os.open(p, flags, 0o600)) as memory:
        fcntl.flock(memory, fcntl.LOCK_EX)
        for leftover in real.parent.glob(f".{real.name}.*.tmp"):
            leftover.unlink(missing_ok=True)
        yield memory


def _recall(memory: IO[str]) -> Config:
    """What the last setup left in the lock's file; {} where there is nothing that can be read."""
    memory.seek(0)
    try:
        written = json.load(memory)
    except ValueError:
        return {}
    return written if isinstance(written, dict) else {}


def _write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content: at any moment the old or the new is there, whole, and the new is for its owner alone."""
    real = path.resolve()
    handle, name = tempfile.mkstemp(prefix=f".{real.name}.", suffix=".tmp", dir=real.parent)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, real)
    except BaseException:
        os.unlink(name)
        raise
    folder = os.open(real.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def refresh_token(config_path: Path, token: str) -> bool:
    """Replace the key of exactly our entries in Hermes's config; every other byte stays.

    Arguments:
        config_path: the file; a symlink is followed.
        token: the new key.

    Returns:
        True when something changed; False where all was up to date, or there is no config of ours to change.

    Raises:
        OSError: when it cannot be written; then the old file is there as it was.
    """
    if not config_path.exists():
        return False
    with _locked(config_path):
        raw = config_path.read_bytes()
        if _parse_config(raw)[1]:
            return False
        text = _with_key(raw.decode(), token)
        if text.encode() == raw:
            return False
        _write_atomically(config_path, text.encode())
        return True


def _with_key(text: str, token: str) -> str:
    """Replace our keys in a text; all else stays, but YAML too odd for that (anchors, lines) is written anew, as it means."""
    tree = _compose(text)
    keys = _our_keys(tree)
    scalar, spliced = dump([token])[2:].rstrip("\n"), text
    for key in sorted(keys, key=lambda node: -node.start_mark.index):
        if key.value != token:
            spliced = spliced[: key.start_mark.index] + scalar + spliced[key.end_mark.index :]
        key.tag, key.value, key.style = "tag:yaml.org,2002:str", token, None
    if spliced == text:
        return text
    anew = yaml.serialize(tree, Dumper=yaml.SafeDumper, allow_unicode=True, width=2**20)
    try:
        return spliced if dump(yaml.safe_load(spliced)) == dump(yaml.safe_load(anew)) else anew
    except yaml.YAMLError:
        return anew


def _compose(text: str) -> yaml.Node:
    """The node tree, from PyYAML's own loader: its marks count characters."""
    return cast(yaml.Node, yaml.compose(text, Loader=yaml.SafeLoader))


def _our_keys(tree: yaml.Node) -> set[yaml.ScalarNode]:
    """The nodes of the `api_key` values that are ours: those of our providers, and the model's if it uses one of them."""

    def fields(node: yaml.Node | None) -> dict[str, yaml.Node]:
        return {k.value: v for k, v in node.value if k.id == "scalar"} if isinstance(node, yaml.MappingNode) else {}

    top = fields(tree)
    listed = top.get("custom_providers")
    entries = [fields(e) for e in listed.value] if isinstance(listed, yaml.SequenceNode) else []
    ours = [e for e in entries if "name" in e and e["name"].value in OURS]
    ours += [fields(entry) for name, entry in fields(top.get("providers")).items() if name in OURS]
    urls = [e[key].value for e in ours for key in ("base_url", "api", "url") if key in e]
    model = fields(top.get("model"))
    if "base_url" in model and model["base_url"].value in urls:
        ours.append(model)
    keys = {e.get("api_key") for e in ours}
    return {key for key in keys if isinstance(key, yaml.ScalarNode)}
