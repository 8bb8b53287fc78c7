"""What is below a folder: listed, read and packed, without ever following a link."""

from __future__ import annotations

import heapq
import os
import stat
import time
import zipfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO, RawIOBase
from pathlib import Path
from typing import Any
from urllib.parse import quote

CHUNK = 256 * 1024  # bytes read, written or packed at once
ENTRIES = (
    50_000  # files and folders in one zip: its table of contents is kept in memory until the end
)
PART = ".upload-"  # how the name of a file begins while it is being uploaded; it is not listed, and not packed
OPEN = (
    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
)  # O_NONBLOCK: a named pipe would wait for its writer


@dataclass(frozen=True)
class Entry:
    """A file or folder as the panel shows it."""

    name: str  # as the file system has it, for a path
    folder: bool
    link: bool
    size: int  # bytes
    time: float  # seconds since 1970, of the last change


def open_below(root: Path, parts: Sequence[str], make: bool = False) -> int:
    """Open what these names lead to, following no link below the root: at no moment is a path looked up twice.

    Arguments:
        root: where to begin.
        parts: names, none of them "..".
        make: make the folders that are missing, the root included.

    Returns:
        A file descriptor for reading.

    Raises:
        OSError: as the system says.
    """
    if make:
        root.mkdir(exist_ok=True)
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for part in parts:
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=handle)
            below = os.open(part, OPEN, dir_fd=handle)
        finally:
            os.close(handle)
        handle = below
    return handle


def list_folder(root: Path, parts: Sequence[str], word: str, most: int) -> tuple[list[Entry], int]:
    """List a folder, newest first.

    Arguments:
        root: the folder that is served.
        parts: names that lead from there to the folder.
        word: only names that hold this, in any case.
        most: entries to return.

    Returns:
        The entries, and how many there are in all.

    Raises:
        OSError: where there is no such folder, or a link is on the way.
    """
    found = list[Entry]()
    with closed(open_below(root, parts)) as handle, os.scandir(handle) as inside:
        for entry in inside:
            if word.casefold() in entry.name.casefold() and not entry.name.startswith(PART):
                with suppress(OSError):  # it has just gone
                    status = entry.stat(follow_symlinks=False)
                    kind = entry.is_dir(follow_symlinks=False), entry.is_symlink()
                    found.append(Entry(entry.name, *kind, status.st_size, status.st_mtime))
    return heapq.nlargest(most, found, key=lambda entry: (entry.time, entry.name)), len(found)


@contextmanager
def closed(handle: int) -> Iterator[int]:
    """A file descriptor that is closed in the end."""
    try:
        yield handle
    finally:
        os.close(handle)


def address(parts: Sequence[str]) -> str:
    """The URL's path of a file or folder."""
    return "/files/" + "/".join(quote(os.fsencode(part), safe="") for part in parts)


def text(name: str) -> str:
    """A name as text, unharmed where it is UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def shown(name: str) -> str:
    """A name as it can stand in a line for a person: what cannot be printed, or is not UTF-8, is escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text(name)
    )


def read(file: FileIO, size: int) -> Generator[bytes]:
    """Read as many bytes as were promised; a file that has shrunk meanwhile ends the connection, which the browser reports."""
    with file:
        while size and (chunk := file.read(min(CHUNK, size))):
            size -= len(chunk)
            yield chunk


def is_packable(root: Path, parts: Sequence[str]) -> bool:
    """Whether a folder holds few enough files for one zip."""
    return sum(1 for _ in _walk(root, parts, ENTRIES + 1)) <= ENTRIES


def pack(root: Path, parts: Sequence[str]) -> Generator[bytes]:
    """Make a zip of a folder, piece by piece. Links, and what cannot be read, are not in it; a text in it names them.

    Arguments:
        root: the folder that is served.
        parts: names that lead from there to the folder.

    Returns:
        The zip's bytes.
    """
    sink, left_out = _Sink(), list[str]()
    top = text(parts[-1] if parts else root.name)
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, status in _walk(root, parts, ENTRIES):
            name = "/".join([top, *map(text, path)])
            folder = status is not None and stat.S_ISDIR(status.st_mode)
            file = None
            with suppress(OSError):
                if status and stat.S_ISREG(status.st_mode):
                    file = FileIO(open_below(root, [*parts, *path]))
            if status is None or not (folder or file):
                left_out.append(shown(name))
                continue
            # The format knows the years from 1980 to 2107.
            when = max(time.localtime(min(max(status.st_mtime, 0), 4e9))[:6], (1980, 1, 1, 0, 0, 0))
            info = zipfile.ZipInfo(name + "/" * folder, when)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (status.st_mode & 0xFFFF) << 16
            with archive.open(info, "w", force_zip64=status.st_size > 1 << 30) as entry:
                for piece in read(file, status.st_size) if file else ():
                    entry.write(piece)
                    if len(sink.data) >= CHUNK:
                        yield sink.take()
        if left_out:
            archive.writestr(
                f"{top}/LEFT OUT.txt",
                "\n".join(["Links, and what could not be read:", *left_out, ""]),
            )
    yield sink.take()


def _walk(
    root: Path, parts: Sequence[str], most: int
) -> Iterator[tuple[tuple[str, ...], os.stat_result | None]]:
    """All that is below a folder, by its names from there; without a status where it cannot be read."""
    waiting: list[tuple[str, ...]] = [()]
    while waiting and most > 0:
        folder = waiting.pop()
        try:
            handle = open_below(root, [*parts, *folder])
        except OSError:
            yield folder, None
            continue
        with closed(handle), os.scandir(handle) as found:
            inside = [(*folder, entry.name) for entry in found if not entry.name.startswith(PART)][
                :most
            ]
            most -= len(inside)
            for path in inside:
                status = None
                with suppress(OSError):
                    status = os.stat(path[-1], dir_fd=handle, follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(path)
                yield path, status


class _Sink(RawIOBase):
    """A stream that cannot be sought in, for zipfile; keeps what is written until it is taken."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: Any, /) -> int:
        self.data += data
        return len(data)

    def take(self) -> bytes:
        """What has been written since the last time."""
        data = bytes(self.data)
        self.data.clear()
        return data
