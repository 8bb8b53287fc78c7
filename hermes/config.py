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
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import yaml

from hermes import yaml_text
from hermes.merge import Config, Memory, as_list, merge_config, model_url, name_of, url_of
from hermes.routes import Routes
from hermes.settings import HermesSettings
from hermes.small_file import MOST, read_small_file
from hermes.trust import Trust, trust_of_refresh, trust_of_setup
from hermes.urls import as_dict

log = logging.getLogger(__name__)

LOCK_WAIT = 30.0  # seconds; a setup or a refresh holds the lock for a fraction of one

_MANAGED = {"model", "custom_providers", "fallback_providers", "providers", "mcp_servers"}
_KINDS = {  # what Hermes understands of the sections that we write to
    "model": (dict, str),
    "custom_providers": (list,),
    "fallback_providers": (list, dict),
}


def write_config(
    path: Path, settings: HermesSettings, routes: Routes, proved: bool | None = None
) -> str:
    """Bring Hermes's config up to date.

    Arguments:
        path: the file; a symlink is followed.
        settings: checked settings with a token.
        routes: where the models are.
        proved: whether the primary route answered, to be shown; None where it was not asked.

    Returns:
        What was done, in a few words.

    Raises:
        OSError: when it cannot be written; then the old file is there as it was.
    """
    with _locked(path) as file:
        raw = path.read_bytes() if path.exists() else b""
        memory = _recall(file)
        text, why, remembered = _updated(raw, settings, routes, memory)
        note = _replace(path, raw, text, why)
        path.chmod(0o600)
        file.seek(0)
        file.write(json.dumps(asdict(replace(remembered, proved=proved))))
        file.truncate()
        return note


def _updated(
    raw: bytes, settings: HermesSettings, routes: Routes, memory: Memory
) -> tuple[str, str, Memory]:
    """A config's new text, why the old one is kept beside it ("" for not), and the new memory."""
    config, problem = parse_config(raw)
    if problem:
        merged, remembered = merge_config(config, settings, routes, memory)
        return yaml_text.dump(merged), problem, remembered
    trust = trust_of_setup(settings.host, settings.gateway, memory.host, memory.providers.values())
    # The keys first, in place: after a mere rotation nothing else changes.
    before = _with_key(raw.decode(), config, settings.token, trust)
    existing = yaml.safe_load(before) or {}
    merged, remembered = merge_config(existing, settings, routes, memory)
    text = yaml_text.render(before, existing, merged, _astray(before, settings.token))
    if not existing:
        return text, "", remembered
    url, last = model_url(existing), memory.providers.values()
    known = bool(last) and (url in last or trust.allows(url))
    return text, _lost(before, text) if known else "was not ours", remembered


def own_cap(path: Path) -> int:
    """The user's own `model.max_tokens` in a config; 0 where there is none."""
    config, _ = parse_config(path.read_bytes())
    cap = as_dict(config.get("model")).get("max_tokens")
    return cap if type(cap) is int and cap > 0 else 0


def was_proved(path: Path) -> bool | None:
    """Whether the last setup proved the primary route; None where it did not ask."""
    try:
        return Memory.read(json.loads(read_small_file(_beside(path)))).proved
    except (OSError, RuntimeError, ValueError):
        return None


def refresh_token(config_path: Path, token: str, host: str = "") -> bool:
    """Replace the key of exactly our entries in Hermes's config; every other byte stays.

    Arguments:
        config_path: the file; a symlink is followed.
        token: the new key.
        host: the URL of the token's workspace, if known: a config of another one is left alone.

    Returns:
        Whether something changed. A config that cannot be read is logged.

    Raises:
        OSError: when it cannot be written; then the old file is there as it was.
    """
    if not config_path.exists():
        return False
    with _locked(config_path) as file:
        memory = _recall(file)
        trust = trust_of_refresh(host, memory.host, memory.providers.values())
        if trust is None:
            return False
        raw = config_path.read_bytes()
        config, problem = parse_config(raw)
        if problem and not config:
            log.warning("%s %s: Hermes's token in it is not renewed.", config_path, problem)
            return False
        before = raw.decode()
        text = _with_key(before, config, token, trust)
        return _replace(config_path, raw, text, _lost(before, text)) != "unchanged"


def parse_config(raw: bytes) -> tuple[Config, str]:
    """Read a config's bytes: what can be kept of it, and what is wrong, "" for nothing."""
    try:
        config = yaml.safe_load(raw.decode())
        yaml_text.dump(config)
    except RecursionError:
        return {}, "is nested too deeply"
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:
        return {}, f"is not valid YAML ({' '.join(str(error).split())[:120]})"
    if config is None:
        return {}, ""
    if not isinstance(config, dict):
        return {}, f"holds a {type(config).__name__}, not a mapping"
    for key, kinds in _KINDS.items():
        if config.get(key) is not None and not isinstance(config[key], kinds):
            return config, f"has a {key} that Hermes does not understand"
    return config, ""


def _with_key(text: str, config: Config, token: str, trust: Trust) -> str:
    """Replace our keys in a text that means `config`; all else stays, but odd YAML (anchors) is
    written anew.
    """
    new = _renewed(config, token, trust)
    if new == config:
        return text
    nodes = yaml_text.changed_scalars(yaml_text.compose(text), config, new)
    spliced = yaml_text.set_scalars(text, [n for n in nodes if n.value != token], token)
    return spliced if yaml_text.means(spliced, new) else yaml_text.render(text, config, new)


def _renewed(config: Config, token: str, trust: Trust) -> Config:
    """A config with a new key in our providers, and in `model` where that uses one of them; what
    stays is the same object.
    """
    urls = []

    def renewed(entry: Any, name: object) -> Any:
        if not isinstance(entry, dict) or not trust.is_ours(name, url_of(entry)):
            return entry
        urls.append(url_of(entry))
        return {**entry, "api_key": token}

    new = dict(config)
    if isinstance(config.get("custom_providers"), list):
        listed = as_list(config["custom_providers"])
        new["custom_providers"] = [renewed(entry, name_of(entry)) for entry in listed]
    if isinstance(moved := config.get("providers"), dict):
        new["providers"] = {name: renewed(entry, name) for name, entry in moved.items()}
    if model_url(config) in urls:
        new["model"] = {**config["model"], "api_key": token}
    return new


def _astray(text: str, token: str) -> set[str]:
    """The blocks with the token where CODA's rotator does not look: Hermes indents lists deeper."""
    return {
        block
        for block, line in yaml_text.lines_by_block(text)
        if block in _MANAGED and token in line and not line.startswith("  api_key: ")
    }


def _lost(old: str, new: str) -> str:
    """Say so where the new text lacks lines of the user's: comments and anchors anywhere, and any
    line outside our blocks.
    """
    kept = set(new.splitlines())
    for block, line in yaml_text.lines_by_block(old):
        own = block not in _MANAGED or re.search("[#&*]", line)
        if own and line.strip() and line not in kept:
            return "had lines that had to go"
    return ""


def _beside(path: Path) -> Path:
    """The file that is locked, and in which a setup remembers what it wrote."""
    real = path.resolve()
    return real.with_name(f".{real.name}.setup")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    """Hold the lock on a config file; inside, what a killed writer left over is gone."""
    real = path.resolve()

    def opener(name: str, flags: int) -> int:
        # Neither emptied nor appended to when it is opened: only who holds the lock may change it.
        return os.open(name, flags | os.O_CREAT, 0o600)

    memory = _beside(path)
    if memory.exists() and not memory.is_file():
        raise OSError(f"{memory} is not a regular file; expected what setup remembers: delete it")
    with open(memory, "r+", opener=opener) as file:
        _lock(file)
        for leftover in real.parent.glob(f".{real.name}.*.tmp"):
            leftover.unlink(missing_ok=True)
        yield file


def _lock(file: IO[str]) -> None:
    """Lock a file; an error says so where another program holds it for `LOCK_WAIT` seconds."""
    deadline = time.monotonic() + LOCK_WAIT
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(f"{file.name} is locked by another program; end that one") from None
        time.sleep(0.02)


def _recall(file: IO[str]) -> Memory:
    """What the last setup left in the lock's file."""
    try:
        return Memory.read(json.loads(file.read(MOST + 1)))
    except (ValueError, RecursionError):
        return Memory()


def _replace(path: Path, raw: bytes, text: str, why: str) -> str:
    """Bring a new text into a config; its old bytes are kept beside it first, if there is a reason.

    What it returns says in a few words what was done.
    """
    if text.encode() == raw:
        return "unchanged"
    note = ""
    if why:
        kept = path.with_name(f"{path.name}.{datetime.now(timezone.utc):%Y-%m-%dT%H%M%S.%f}.bak")
        write_whole(kept, raw)
        note = f"; the old one {why}, kept as {kept.name}"
    write_whole(path, text.encode())
    return f"written{note}"


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file's content: at any moment the old or the new is there, whole.

    A symlink is followed. The new file is for its owner alone.

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
