"""What is uploaded, and what was: the app's files, sent where they have changed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from databricks.sdk.errors import NotFound
from databricks.sdk.service.workspace import ExportFormat, ImportFormat

from deploying.console import few, say
from deploying.target import Target
from hermes.urls import SettingError

# What runs in the app: all that may be uploaded, and of which kinds where Git does not tell.
RUNS = (
    "app.py",
    "setup_hermes.py",
    "utils.py",
    "hermes",
    "webapp",
    "app.yaml",
    "requirements.txt",
    "constraints.txt",
)
KINDS = (".py", ".yaml", ".css", ".js", ".txt")
MANIFEST = ".deployed.json"


def read_files(root: Path) -> dict[str, bytes]:
    """What runs in the app, by path below its folder.

    That is what Git tracks of it; without Git, what is of KINDS and not hidden. Links are left out.

    Arguments:
        root: the checkout.

    Raises:
        SettingError: where there is no app.yaml among it.
    """
    root = root.resolve()
    names = sorted(_tracked(root) or _known_kinds(root))
    files = {name: (root / name).read_bytes() for name in names if _is_own(root, name)}
    if "app.yaml" not in files:
        raise SettingError("app.yaml: it is not uploaded; expected a file that Git tracks")
    return files


def _tracked(root: Path) -> list[str]:
    """What Git tracks of what runs; [] where this is no checkout of Git's."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(root), "ls-files", "-z", "--", *RUNS]
    try:
        done = subprocess.run(command, env=env, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _known_kinds(root: Path) -> Iterable[str]:
    for part in RUNS:
        found = (root / part).rglob("*") if (root / part).is_dir() else [root / part]
        for path in found:
            name = path.relative_to(root)
            hidden = any(p.startswith((".", "__pycache__")) for p in name.parts)
            if name.suffix in KINDS and not hidden:
                yield name.as_posix()


def _is_own(root: Path, name: str) -> bool:
    """Whether it is a file of the checkout itself, not one that a link leads to."""
    path = root / name
    return path.is_file() and path.resolve() == path


@dataclass(frozen=True)
class Manifest:
    """What was uploaded.

    Arguments:
        files: each file's SHA-256, "" while it is on its way.
        given: the settings that are not in the checkout's own app.yaml.
        deployment: the id of the deployment that was made of it.
    """

    files: dict[str, str] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    deployment: str = ""


def read_manifest(target: Target) -> Manifest:
    """What was uploaded before; nothing where that cannot be read."""
    try:
        with target.client.workspace.download(
            f"{target.folder}/{MANIFEST}", format=ExportFormat.AUTO
        ) as file:
            found = json.loads(file.read())
        files = {str(name): str(digest) for name, digest in found["files"].items()}
        inside = {n: d for n, d in files.items() if ".." not in n and not n.startswith("/")}
        return Manifest(inside, _read_given(found), str(found["deployment"]))
    except (NotFound, ValueError, LookupError, TypeError, AttributeError):
        return Manifest()


def _read_given(found: dict[str, object]) -> dict[str, str]:
    given = found["given"]
    if isinstance(given, dict):
        return {str(name): str(value) for name, value in given.items()}
    # Before 2026-11: names alone, and the value of one.
    return {"HERMES_VOLUME": str(found["volume"])} if found["volume"] else {}


def write_manifest(target: Target, manifest: Manifest) -> None:
    """Keep what was uploaded, beside it."""
    _send(target, MANIFEST, json.dumps(asdict(manifest), indent=1).encode())


def upload(
    target: Target, files: dict[str, bytes], given: Mapping[str, str], old: Manifest
) -> Manifest:
    """Bring the app's folder up to date.

    What has changed is sent, files of ours that are gone are deleted, others' stay.

    Arguments:
        target: the app.
        files: each file's content by its path below the folder.
        given: the settings that are not in the checkout's own app.yaml.
        old: what was uploaded before.

    Returns:
        What is there now.
    """
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    changed = [name for name, digest in digests.items() if old.files.get(name) != digest]
    gone = [name for name in old.files if name not in files]
    same = not changed and not gone
    new = Manifest(digests, dict(given), old.deployment if same else "")
    if not target.dry and new != old:
        folders = {str(PurePosixPath(target.folder, name).parent) for name in changed}
        for folder in sorted(folders):
            target.client.workspace.mkdirs(folder)
        # What is on its way counts as unknown, so that the next run mends what is cut off.
        write_manifest(target, Manifest(old.files | dict.fromkeys(changed, ""), new.given))
        _replace(target, {name: files[name] for name in changed}, gone)
        write_manifest(target, new)
    _say_changes(target, len(files), changed, gone)
    return new


def _say_changes(target: Target, count: int, changed: list[str], gone: list[str]) -> None:
    if changed:
        sent = f"{len(changed)} of {count} {target.done('uploaded')} to {target.folder}"
        say("Files", f"{sent}: {few(changed)}")
    if gone:
        say("Files", f"{few(gone)} {target.done('deleted')}")
    if not changed and not gone:
        say("Files", f"{count} in {target.folder} (unchanged)")


def _replace(target: Target, files: dict[str, bytes], gone: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: _send(target, name, files[name]), files))
    for name in gone:
        with suppress(NotFound):
            target.client.workspace.delete(f"{target.folder}/{name}")


def _send(target: Target, name: str, content: bytes) -> None:
    path = f"{target.folder}/{name}"
    target.client.workspace.upload(path, content, format=ImportFormat.AUTO, overwrite=True)
