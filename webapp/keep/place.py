"""A saved state into the home directory: only where it may be, and where nothing newer is."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import zlib
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from webapp.keep.content import is_sqlite, last_change
from webapp.keep.format import BLOCK, MEANINGLESS, File, Folder, Link, State, Tree
from webapp.keep.selection import Rules

# For what could not be put back once, and whose place is taken meanwhile.
ASIDE = "projects/brought-back"


class Placer:
    """Puts a state's files in their places; what cannot be put is named, with the reason.

    Arguments:
        home: the home directory.
        state: what was saved.
        packs: a folder with the state's packs, on the same disk.
    """

    def __init__(self, home: Path, state: State, packs: Path) -> None:
        self.home, self.state, self.packs = home, state, packs
        self.missing: dict[str, str] = {}  # path: reason
        self.carried = Tree()  # the entries of these paths
        self._rules = Rules()
        self._checked: set[str] = set()  # folders that are there, and no link leads elsewhere

    def put(self) -> None:
        """Put everything where it belongs; see `missing` and `carried` after it."""
        folders = {entry.path for entry in self.state.tree.folders}
        others = {entry.path for entry in self.state.tree} - folders
        for entry in self.state.tree:
            self._try(entry, entry.path)
        for entry in self.state.carried:
            above = {entry.path, *map(str, PurePosixPath(entry.path).parents)}
            claimed = entry.path in folders and not isinstance(entry, Folder)
            claimed |= not others.isdisjoint(above)
            self._try(entry, self._find_place(entry, claimed))

    def _find_place(self, entry: Folder | File | Link, claimed: bool) -> str:
        """An entry's own place if nothing is there and nothing else claims it, or one aside."""
        path = entry.path
        folders = chain([ASIDE], (f"{ASIDE}/{number}" for number in count(2)))
        while claimed or (os.path.lexists(self.home / path) and not isinstance(entry, Folder)):
            path, claimed = f"{next(folders)}/{entry.path}", False
        return path

    def _try(self, entry: Folder | File | Link, path: str) -> None:
        try:
            self._put(entry, path)
        except (OSError, *MEANINGLESS) as error:
            self.missing[entry.path] = getattr(error, "strerror", None) or type(error).__name__
            self.carried.add(entry)

    def _put(self, entry: Folder | File | Link, path: str) -> None:
        parts = path.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise OSError(errno.EPERM, "not a path below the home directory")
        for depth in range(1, len(parts)):
            self._enter("/".join(parts[:depth]))
        if why := self._rules.forbidden(entry.path, isinstance(entry, Folder)):
            raise OSError(errno.EPERM, why)
        full = self.home / path
        if not is_there(full, entry):
            self._make(entry, full)

    def _make(self, entry: Folder | File | Link, full: Path) -> None:
        """Make an entry where nothing is, or an older file."""
        older = isinstance(entry, File) and full.is_file() and not full.is_symlink()
        if os.path.lexists(full) and not older:
            raise FileExistsError(errno.EEXIST, "something else is in its place")
        if isinstance(entry, Folder):
            full.mkdir()
            full.chmod(entry.mode & 0o777 | 0o700)
        elif isinstance(entry, File):
            self._put_file(entry, full)
        else:
            os.symlink(entry.target, full)

    def _enter(self, path: str) -> None:
        """See that a folder is there, and is one: what is below a link would land elsewhere."""
        if path in self._checked:
            return
        if why := self._rules.forbidden(path, True):
            raise OSError(errno.EPERM, why)
        full = self.home / path
        if "/" in path and full.is_symlink():
            raise OSError(errno.ELOOP, "below a link")
        full.mkdir(exist_ok=True)
        self._checked.add(path)

    def _put_file(self, file: File, full: Path) -> None:
        handle, name = tempfile.mkstemp(dir=self.packs)
        try:
            with open(handle, "wb") as target:
                self._write(file, target)
            os.chmod(name, file.mode & 0o777)
            os.utime(name, ns=(file.mtime, file.mtime))
            for suffix in ("-wal", "-shm", "-journal") if is_sqlite(full) else ():
                Path(f"{full}{suffix}").unlink(missing_ok=True)  # of the database that goes
            os.replace(name, full)
        except BaseException:
            os.unlink(name)  # it takes room that another file may need
            raise

    def _write(self, file: File, target: BinaryIO) -> None:
        for block in file.blocks:
            data = self._block(block)
            if len(data) == BLOCK and not any(data):
                target.seek(BLOCK, os.SEEK_CUR)  # sparse, as it may have been
            else:
                target.write(data)
        if target.tell() != file.size:
            raise ValueError("its blocks are not of its size")
        target.truncate()

    def _block(self, block: str) -> bytes:
        at = self.state.blocks[block]
        with open(self.packs / at.pack, "rb") as source:
            source.seek(at.offset)
            return zlib.decompressobj().decompress(source.read(at.length), BLOCK)


def is_there(full: Path, entry: Folder | File | Link) -> bool:
    """Whether an entry is in a place on the disk; a file, as it was saved or newer."""
    if isinstance(entry, Folder):
        return os.path.isdir(full)
    if isinstance(entry, Link):
        return os.path.islink(full) and os.readlink(full) == entry.target
    if not os.path.lexists(full):
        return False
    info = full.lstat()
    return stat.S_ISREG(info.st_mode) and last_change(full, info) >= entry.mtime
