"""Hermes's config file: read, brought up to date, written whole, and its keys kept fresh.

What the last setup wrote is remembered in the lock's file beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

import yaml

from hermes.merge import (
    Config,
    as_list,
    is_our_name,
    merge_config,
    model_url,
    name_of,
    routes_here,
    url_of,
)
from hermes.routes import Routes
from hermes.settings import HermesSettings
from hermes.urls import as_dict, cloud_of

log = logging.getLogger(__name__)

_MANAGED = ("model", "custom_providers", "fallback_providers", "providers", "mcp_servers")

Ours = Callable[[object, object], bool]  # of a provider's name and URL


def write_config(
    path: Path, settings: HermesSettings, routes: Routes, proved: bool | None = None
) -> str:
    """Bring Hermes's config up to date.

    Arguments:
        path: the file; a symlink is followed.
        settings: checked settings with a token.
        routes: where the models are.
        proved: whether the primary route answered, for whoever shows it; None where it was not asked.

    Returns:
        What was done, in a few words.

    Raises:
        OSError: when it cannot be written; then the old file is there as it was.
    """
    with _locked(path) as memory:
        raw = path.read_bytes() if path.exists() else b""
        existing, problem = _parse_config(raw)
        written = _recall(memory)
        before = text = raw.decode() if not problem else ""
        here = routes_here(settings, routes, written)
        if not problem:
            # The keys first, in place: after a mere rotation nothing else changes.
            before = text = _with_key(
                text, existing, settings.token, lambda name, url: is_our_name(name) and url in here
            )
            existing = yaml.safe_load(text) or {}
        known = written and model_url(existing) in {
            *here,
            *as_dict(written.get("providers")).values(),
        }
        merged, remembered = merge_config(existing, settings, routes, written)
        text = dump(merged) if problem else _render(text, existing, merged, settings.token)
        why = (
            problem
            or ("was not ours" if existing and not known else "")
            or (existing and _lost(before, text))
            or ""
        )
        note = _replace(path, raw, text, why)
        path.chmod(0o600)
        memory.seek(0)
        memory.write(json.dumps({**remembered, "proved": proved}))
        memory.truncate()
        return note


def own_cap(path: Path) -> int:
    """The user's own `model.max_tokens` in a config; 0 where there is none."""
    cap = as_dict(_parse_config(path.read_bytes())[0].get("model")).get("max_tokens")
    return cap if type(cap) is int and cap > 0 else 0


def was_proved(path: Path) -> bool | None:
    """Whether the last setup proved the primary route; None where it did not ask, or there is none."""
    try:
        with path.resolve().with_name(f".{path.resolve().name}.setup").open() as memory:
            proved = _recall(memory).get("proved")
    except (OSError, RuntimeError):
        return None
    return proved if isinstance(proved, bool) else None


def refresh_token(config_path: Path, token: str, host: str = "") -> bool:
    """Replace the key of exactly our entries in Hermes's config; every other byte stays.

    Arguments:
        config_path: the file; a symlink is followed.
        token: the new key.
        host: the URL of the workspace that the token is of, where it is known: a config of another one is left alone.

    Returns:
        True when something changed; False where all was up to date, or there is no config of ours to change. One that
        cannot be read is logged.

    Raises:
        OSError: when it cannot be written; then the old file is there as it was.
    """
    if not config_path.exists():
        return False
    with _locked(config_path) as memory:
        written = _recall(memory)
        if host and written.get("host", host) != host:
            return False
        raw = config_path.read_bytes()
        config, problem = _parse_config(raw)
        if problem and not config:
            log.warning("%s %s: Hermes's token in it is not renewed.", config_path, problem)
            return False
        last = as_dict(written.get("providers"))

        def ours(name: object, url: object) -> bool:
            if last or not is_our_name(name):
                return is_our_name(name) and last.get(cast(str, name)) == url
            # Nothing is remembered: the workspace's own host, where it is known, or else Databricks' own.
            plain = re.match(r"https://[\w.-]+/", str(url))
            return str(url).startswith(f"{host}/") if host else bool(plain and cloud_of(plain[0]))

        text = _with_key(raw.decode(), config, token, ours)
        return _replace(config_path, raw, text, _lost(raw.decode(), text)) != "unchanged"


def dump(config: object) -> str:
    """YAML in block style: keys of `model` and of list entries stand two spaces deep, where CODA's token rotator looks."""
    return yaml.safe_dump(
        config, sort_keys=False, allow_unicode=True, default_flow_style=False, width=2**20
    )


def _parse_config(raw: bytes) -> tuple[Config, str]:
    """Read a config's bytes: what it means and "", or what can be kept of it and what is wrong."""
    try:
        config = yaml.safe_load(raw.decode())
        dump(config)
    except RecursionError:
        return {}, "is nested too deeply"
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:
        return {}, f"is not valid YAML ({' '.join(str(error).split())[:120]})"
    if config is None:
        return {}, ""
    if not isinstance(config, dict):
        return {}, f"holds a {type(config).__name__}, not a mapping"
    for key, kinds in (
        ("model", (dict, str)),
        ("custom_providers", list),
        ("fallback_providers", (list, dict)),
    ):
        if config.get(key) is not None and not isinstance(config[key], kinds):
            return config, f"has a {key} that Hermes does not understand"
    return config, ""


def _render(text: str, old: Config, new: Config, token: str = "") -> str:
    """Write a changed config, keeping the text, comments included, of each top-level block that stays as it is.

    A block of ours that has the token where CODA's rotator does not look is written anew: Hermes itself indents lists deeper.
    """
    if not old:
        comments_only = all(
            line.lstrip().startswith("#") or not line.strip() for line in text.splitlines()
        )
        return (text if comments_only else "") + dump(new)
    try:
        starts = [key.start_mark.index for key, _ in _compose(text).value]
        if len(starts) != len(old):
            return dump(new)
        result = text[: starts[0]]
        for key, start, end in zip(old, starts, [*starts[1:], len(text)], strict=True):
            block = text[start:end]
            lines = block.split("\n")
            astray = key in _MANAGED and any(
                token in line and not line.startswith("  api_key: ") for line in lines if token
            )
            # Dumps are compared, not values: a few aliases can stand for more than can be compared, or for themselves.
            if astray or dump(old[key]) != dump(new[key]):
                last = len(lines)
                while last > 1 and (lines[last - 1].startswith("#") or not lines[last - 1].strip()):
                    last -= 1
                block = dump({key: new[key]}) + "\n".join(lines[last:])
            result += block
        added = {key: value for key, value in new.items() if key not in old}
        result += ("" if result.endswith("\n") else "\n") + (dump(added) if added else "")
        return result if dump(yaml.safe_load(result)) == dump(new) else dump(new)
    except (yaml.YAMLError, ValueError):
        return dump(new)


def _with_key(text: str, config: Config, token: str, ours: Ours) -> str:
    """Replace our keys in a text; all else stays, but YAML too odd for that (anchors, lines) is written anew, as it means."""

    def fresh(entry: Any) -> Any:
        return (
            {**entry, "api_key": token}
            if isinstance(entry, dict) and ours(name_of(entry), url_of(entry))
            else entry
        )

    new = dict(config)
    if isinstance(listed := config.get("custom_providers"), list):
        new["custom_providers"] = [fresh(entry) for entry in listed]
    if isinstance(moved := config.get("providers"), dict):
        new["providers"] = {
            k: {**e, "api_key": token} if ours(k, url_of(e)) else e for k, e in moved.items()
        }
    entries = [
        *as_list(config.get("custom_providers")),
        *({"name": k, **as_dict(e)} for k, e in as_dict(moved).items()),
    ]
    urls = [url_of(e) for e in entries if ours(name_of(e), url_of(e))]
    if model_url(config) in urls and model_url(config):
        new["model"] = {**config["model"], "api_key": token}
    if dump(new) == dump(config):
        return text
    spliced, scalar = text, dump([token])[2:].rstrip("\n")
    for key in sorted(
        set(_changed(_compose(text), config, new)), key=lambda node: -node.start_mark.index
    ):
        if key.value != token:
            spliced = spliced[: key.start_mark.index] + scalar + spliced[key.end_mark.index :]
    try:
        return spliced if dump(yaml.safe_load(spliced)) == dump(new) else _render(text, config, new)
    except yaml.YAMLError:
        return _render(text, config, new)


def _compose(text: str) -> yaml.Node:
    """The node tree, from PyYAML's own loader: its marks count characters."""
    return cast(yaml.Node, yaml.compose(text, Loader=yaml.SafeLoader))


def _changed(node: yaml.Node, old: Any, new: Any) -> Iterator[yaml.ScalarNode]:
    """The scalars that mean something else now; what stays is the same object in both."""
    if old is new:
        return
    if isinstance(new, list):
        for part in zip(node.value, old, new, strict=True):
            yield from _changed(*part)
    elif isinstance(new, dict):
        for key, value in node.value:
            if key.id == "scalar" and key.value in old:
                yield from _changed(value, old[key.value], new[key.value])
    elif isinstance(node, yaml.ScalarNode):
        yield node


def _lost(old: str, new: str) -> str:
    """Say so where lines of the user's are not in the new text: comments and anchors anywhere, all outside our blocks."""
    kept, block = set(new.splitlines()), ""
    for line in old.splitlines():
        if re.match(r"[^\s#-]", line):
            block = line.partition(":")[0]
        if (
            line.strip()
            and line not in kept
            and (re.search("[#&*]", line) or block not in _MANAGED)
        ):
            return "had lines that had to go"
    return ""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    """Hold the lock on a config file, waiting for whoever holds it; inside, leftovers of a killed writer are gone."""
    real = path.resolve()
    # Neither emptied nor appended to when it is opened: only who holds the lock may change it.
    with open(
        real.with_name(f".{real.name}.setup"),
        "r+",
        opener=lambda p, f: os.open(p, f | os.O_CREAT, 0o600),
    ) as memory:
        fcntl.flock(memory, fcntl.LOCK_EX)
        for leftover in real.parent.glob(f".{real.name}.*.tmp"):
            leftover.unlink(missing_ok=True)
        yield memory


def _recall(memory: IO[str]) -> Config:
    """What the last setup left in the lock's file; {} where there is nothing that can be read."""
    memory.seek(0)
    try:
        written = as_dict(json.load(memory))
    except (ValueError, RecursionError):
        return {}
    providers = {
        name: url for name, url in as_dict(written.get("providers")).items() if isinstance(url, str)
    }
    return {**written, "providers": providers} if written else {}


def _replace(path: Path, raw: bytes, text: str, why: str) -> str:
    """Bring a new text into a config; its old bytes are kept beside it first, where there is a reason to.

    Returns:
        What was done, in a few words.
    """
    if text.encode() == raw:
        return "unchanged"
    note = ""
    if why:
        kept = path.with_name(f"{path.name}.{datetime.now(UTC):%Y-%m-%dT%H%M%S.%f}.bak")
        write_whole(kept, raw)
        note = f"; the old one {why}, kept as {kept.name}"
    write_whole(path, text.encode())
    return f"written{note}"


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file's content: at any moment the old or the new is there, whole, and the new is for its owner alone.

    Arguments:
        path: the file; a symlink is followed.
        data: its new content.

    Raises:
        OSError: when it cannot be written; then the old file is there as it was.
    """
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
