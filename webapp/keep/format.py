"""A saved state into the home directory: where it may be, and where nothing newer is."""

from __future__ import annotations

import os
import re
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webapp.keep.selection import MOST_IN_ALL, is_sqlite, kept_rules, last_change

BLOCK = 2**20  # bytes of a file, uncompressed

Index = dict[str, Any]


@dataclass
class Done:
    """What a save or a restore did."""

    saved: str = ""  # the state's time, ISO 8601 in UTC; "" where there is none
    older: bool = False  # newer states were there, but torn
    files: int = 0
    sent: int = 0  # bytes
    left_out: dict[str, str] = field(default_factory=dict)  # path: reason


def check(index: Index) -> set[str]:
    """See that an index means something.

    Arguments:
        index: as it was read.

    Returns:
        The packs that it needs.

    Raises:
        ValueError: or another error of its kind, where it does not.
    """
    packs = dict(index["packs"])
    if not all(
        re.fullmatch("pack-[0-9a-f]{64}", pack) and _count(size) for pack, size in packs.items()
    ):
        raise ValueError("a pack's name")
    for block, pack, offset, length in index["blocks"]:
        if not (
            _name(block)
            and _count(pack, offset, length)
            and offset + length <= index["packs"][pack][1]
        ):
            raise ValueError("a block's place")
    for path, mode, mtime, size, blocks in index["files"]:
        if not (
            _name(path)
            and _count(mode, size, *blocks, abs(mtime))
            and len(blocks) == -(-size // BLOCK)
        ):
            raise ValueError("a file")
        if max(blocks, default=-1) >= len(index["blocks"]):
            raise ValueError("a file's blocks")
    if not all(_name(path) and _name(target) for path, target in index["links"]):
        raise ValueError("a link")
    if not all(_name(path) and _count(mode) for path, mode in index["folders"]):
        raise ValueError("a folder")
    if sum(size for _, _, _, size, _ in index["files"]) > 2 * MOST_IN_ALL:
        raise ValueError("too much")
    return set(packs)


def _count(*numbers: object) -> bool:
    return all(type(number) is int and number >= 0 for number in numbers)


def _name(path: str) -> bool:
    return path != "" and b"\0" not in os.fsencode(path)


def put(home: Path, index: Index, packs: Path, beside: bool, done: Done) -> None:
    """Put a state's files in their places, where nothing newer is, and where it may be.

    Arguments:
        home: the home directory.
        index: a checked one.
        packs: a folder with the packs, on the same disk.
        beside: as for `Archive.restore`.
        done: is told what is left out.
    """
    rules = kept_rules(["!*"])  # whatever was saved comes back
    real: dict[str, bool] = {}

    def welcome(path: str, folder: bool) -> bool:
        """Whether a path is one that would be saved too, and no link on this disk leads it elsewhere."""
        parts = path.split("/")
        above = ["/".join(parts[:n]) for n in range(1, len(parts))]
        for parent in above:
            if parent not in real:
                full = home / parent
                real[parent] = (
                    rules(parent, True)
                    and full.is_dir()
                    and not ("/" in parent and full.is_symlink())
                )
        plain = not any(part in ("", ".", "..") or "\0" in part for part in parts)
        return plain and rules(path, folder) and all(real[parent] for parent in above)

    @contextmanager
    def named(path: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, OverflowError, zlib.error) as error:
            done.left_out[path] = getattr(error, "strerror", None) or type(error).__name__

    for path, mode in sorted(index["folders"]):
        with named(path):
            if welcome(path, True) and not os.path.lexists(home / path):
                (home / path).mkdir()
                (home / path).chmod(mode & 0o777 | 0o700)
                real.pop(path, None)
    for path, mode, mtime, size, blocks in index["files"]:
        with named(path):
            full = home / path
            if not welcome(path, False):
                continue
            if os.path.lexists(full):
                info = full.lstat()
                here = last_change(full, info)
                if not stat.S_ISREG(info.st_mode) or here == mtime or (here > mtime and not beside):
                    continue
                full = full.with_name(f"{full.name}.restored") if here > mtime else full
            _write(
                full,
                (mode, mtime, size),
                [index["blocks"][number] for number in blocks],
                index["packs"],
                packs,
            )
    for path, target in index["links"]:
        with named(path):
            if welcome(path, False) and not os.path.lexists(home / path):
                os.symlink(target, home / path)


def _write(
    full: Path, told: tuple[int, int, int], blocks: list[Any], names: list[Any], packs: Path
) -> None:
    (mode, mtime, size), (handle, name) = told, tempfile.mkstemp(dir=packs)
    with open(handle, "wb") as file:
        for _, pack, offset, length in blocks:
            with open(packs / names[pack][0], "rb") as source:
                source.seek(offset)
                data = zlib.decompressobj().decompress(source.read(length), BLOCK)
            if len(data) == BLOCK and not any(data):
                file.seek(BLOCK, os.SEEK_CUR)  # sparse, as it may have been
            else:
                file.write(data)
        file.truncate(size)
    os.chmod(name, mode & 0o777)
    os.utime(name, ns=(mtime, mtime))
    for suffix in ("-wal", "-shm", "-journal") if is_sqlite(full) else ():
        Path(f"{full}{suffix}").unlink(missing_ok=True)  # they belong to the database that goes
    os.replace(name, full)
