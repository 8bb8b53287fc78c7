"""Several files written as one: all of them, or none."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def write_all(folder: Path, files: Mapping[str, bytes | None]) -> None:
    """Make, replace and delete files, in the order given.

    All is written beside its place before the first file is replaced. Where one cannot be, those
    that were are put back.

    Arguments:
        folder: where the files are.
        files: the new bytes of each by its path in the folder; None deletes it.

    Raises:
        OSError: where that failed.
    """
    paths = {folder / name: data for name, data in files.items()}
    old = {path: path.read_bytes() if path.is_file() else None for path in paths}
    # Where each new content waits: random names, as nothing that is there may be replaced.
    beside = {path: path.with_name(f".{path.name}.{uuid.uuid4().hex}") for path in paths}
    try:
        for path, data in paths.items():
            _write_beside(path, beside[path], data)
        for path, data in paths.items():
            _settle(path, beside[path], data)
    except OSError:
        for path, data in old.items():
            with suppress(OSError):
                _put_back(path, beside[path], data)
        _remove_empty_folders(folder, paths)
        raise
    _remove_empty_folders(folder, paths)


def _write_beside(path: Path, beside: Path, data: bytes | None) -> None:
    """Write a file's new content beside it, with its mode."""
    if data is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside.open("xb") as file:
        file.write(data)
    if path.exists():
        shutil.copymode(path, beside)


def _settle(path: Path, beside: Path, data: bytes | None) -> None:
    """Put what was written beside a file in its place, or delete the file."""
    if data is None:
        path.unlink(missing_ok=True)
    else:
        beside.replace(path)


def _put_back(path: Path, beside: Path, data: bytes | None) -> None:
    """Give a file its content back, where it has another."""
    beside.unlink(missing_ok=True)
    if data is None:
        path.unlink(missing_ok=True)
    elif not path.exists() or path.read_bytes() != data:
        path.write_bytes(data)


def _remove_empty_folders(folder: Path, paths: Mapping[Path, object]) -> None:
    """Remove the folders of some files where nothing is left in them but compiled Python."""
    for parent in sorted({p.parent for p in paths} - {folder}, reverse=True):
        if parent.is_dir() and all(entry.name == "__pycache__" for entry in os.scandir(parent)):
            shutil.rmtree(parent, ignore_errors=True)
