"""A folder as a zip: packed first, into a file without a name, then downloaded like any file."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import IO, NamedTuple

from starlette.exceptions import HTTPException

from webapp.files.folder import Found, open_below, read, shown, text, walk

ENTRIES = 50_000  # files and folders in one zip: its table of contents is kept in memory
LIMIT = 2_000_000_000  # bytes of one zip
KEPT = 2  # zips that are there at once
AGE = 3600.0  # seconds after its last use, after which a zip is removed
TAR = "pack it in a terminal with tar"
EARLIEST, LATEST = (1980, 1, 1, 0, 0, 0), 4e9  # a date in a zip, and seconds since 1970: year 2096


class Key(NamedTuple):
    """What makes two requests speak of one zip."""

    zip: str  # a random word of the asker's
    path: tuple[str, ...]


class StoppedError(Exception):
    """Nobody wants this zip any more."""


class Zip:
    """A zip that is being packed in a thread, is ready, or failed.

    Arguments:
        root: the folder that is served.
        parts: names that lead from there to the folder.

    Attributes:
        done, size: bytes of files that are packed, and that there are.
        ended: whether nothing more is done.
        error: why it failed.
    """

    def __init__(self, root: Path, parts: Sequence[str]) -> None:
        self.root, self.parts = root, parts
        self.name = text(parts[-1] if parts else root.name)
        self.done, self.size, self.ended = 0, 0, False
        self.error: HTTPException | OSError | StoppedError | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._unwanted, self._turn = False, threading.Lock()
        # Without a name nothing is left of it by a server that was killed.
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=root)  # noqa: SIM115 (closed by `close`)
        # A daemon: the app's end does not wait for it.
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def ready(self) -> bool:
        """Whether it is packed."""
        return self.ended and not self.error

    def close(self) -> None:
        """Free the disk. Whoever is downloading it has a file descriptor of its own."""
        with self._turn:
            self._unwanted = True
            if self.ended:
                self.file.close()

    def _run(self) -> None:
        try:
            self._count()
            pack(self.root, self.parts, self.file, self._report)
            self.file.flush()
        except (HTTPException, OSError, StoppedError) as error:
            self.error = error
        except Exception as error:  # else whoever waits for it would wait for ever
            reason = f"it cannot be packed ({type(error).__name__})"
            self.error = HTTPException(500, f"{shown(self.name)}: {reason}; {TAR}")
        with self._turn:
            self.ended = True
            if self.error or self._unwanted:
                self.file.close()

    def _count(self) -> None:
        os.close(open_below(self.root, self.parts))  # raises where it is not there
        for count, found in enumerate(walk(self.root, self.parts, ENTRIES + 1), 1):
            if count > ENTRIES:
                raise HTTPException(
                    413, f"{shown(self.name)}: it holds more than {ENTRIES} files; {TAR}"
                )
            if found.status and stat.S_ISREG(found.status.st_mode):
                self.size += found.status.st_size

    def _report(self, count: int) -> None:
        self.done += count
        if self._unwanted:
            raise StoppedError
        if self.file.tell() > LIMIT:
            raise HTTPException(
                413, f"{shown(self.name)}: its zip has more than {LIMIT // 10**6} MB; {TAR}"
            )


class Zips:
    """The zips that are being packed, or are ready.

    Arguments:
        root: the folder that is served.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[Key, Zip] = {}

    def pack(self, key: Key) -> Zip:
        """Begin to pack a folder; or, where that has begun, say how it goes.

        Raises:
            HTTPException: it is refused, and why.
            OSError: as the system says.
        """
        if key not in self._known:
            if len(self._known) >= KEPT:
                self._make_place()
            self._known[key] = Zip(self.root, key.path)
        found = self.get(key)
        if found.error:
            self.forget(key)
            raise found.error
        return found

    def get(self, key: Key) -> Zip:
        """A zip that is known; its age counts anew.

        Raises:
            HTTPException: it is not there any more.
        """
        found = self._known.get(key)
        if not found:
            raise HTTPException(404, "This zip is not there any more; pack the folder again")
        if found.timer:
            found.timer.cancel()
        found.timer = asyncio.get_running_loop().call_later(AGE, self.forget, key)
        return found

    def forget(self, key: Key) -> None:
        """Remove a zip, also while it is being packed."""
        if found := self._known.pop(key, None):
            found.close()
            if found.timer:
                found.timer.cancel()

    def _make_place(self) -> None:
        """Remove the oldest zip that is not being packed."""
        for key, found in self._known.items():
            if found.ended:
                self.forget(key)
                return
        raise HTTPException(503, f"{KEPT} folders are being packed; the next one waits")


def pack(root: Path, parts: Sequence[str], file: IO[bytes], report: Callable[[int], None]) -> None:
    """Make a zip of a folder.

    Links, what cannot be read, and what lies too deep are not in it; a text in it says so.

    Arguments:
        root: the folder that is served.
        parts: names that lead from there to the folder.
        file: where the zip goes.
        report: is told of each piece of a file how many bytes it had.

    Raises:
        OSError: the zip cannot be written.
    """
    top, left_out = text(parts[-1] if parts else root.name), list[str]()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for found in walk(root, parts, ENTRIES):
            name = "/".join([top, *map(text, found.path)])
            if not _add(archive, name, found, root, parts, report):
                left_out.append(shown(name))
        if left_out:
            lines = ["Links, what could not be read, and what lies too deep:", *left_out, ""]
            archive.writestr(f"{top}/LEFT OUT.txt", "\n".join(lines))


def _add(
    archive: zipfile.ZipFile,
    name: str,
    found: Found,
    root: Path,
    parts: Sequence[str],
    report: Callable[[int], None],
) -> bool:
    """Add a file or folder to a zip. Returns whether it could be added."""
    status = found.status
    if status is None:
        return False
    when = time.localtime(min(max(status.st_mtime, 0), LATEST))[:6]
    info = zipfile.ZipInfo(name, max(when, EARLIEST))
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = (status.st_mode & 0xFFFF) << 16
    if stat.S_ISDIR(status.st_mode):
        info.filename += "/"
        archive.writestr(info, b"")
        return True
    if not stat.S_ISREG(status.st_mode):
        return False
    try:
        file = FileIO(open_below(root, [*parts, *found.path]))
    except OSError:
        return False
    large = status.st_size > 1 << 30
    with file, archive.open(info, "w", force_zip64=large) as entry:
        for piece in read(file, 0, status.st_size):
            entry.write(piece)
            report(len(piece))
    return True
