"""What is below a folder: opened, listed and named, without ever following a link."""

from __future__ import annotations

import heapq
import os
import re
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

CHUNK = 256 * 1024  # bytes that are read at once
LONGEST = 4096  # bytes of a path below a folder: PATH_MAX of Linux; hardly any program goes deeper
# How the name of a file begins while it is being uploaded; 32 hexadecimal digits follow.
PART = ".upload-"
_PART_NAME = re.compile(re.escape(PART) + "[0-9a-f]{32}")
# O_NONBLOCK: a named pipe would wait for its writer.
OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True)
class Entry:
    """A file or folder as the panel shows it."""

    name: str  # as the file system has it, for a path
    folder: bool
    link: bool
    size: int  # bytes
    time: float  # seconds since 1970, of the last change


class Found(NamedTuple):
    """Something below a folder."""

    path: tuple[str, ...]  # names that lead to it from that folder
    status: os.stat_result | None  # None where it cannot be read, or lies too deep


def open_below(root: Path, parts: Sequence[str], make: bool = False) -> int:
    """Open what these names lead to, following no link below the root, each name looked up once.

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


@contextmanager
def closed(handle: int) -> Iterator[int]:
    """A file descriptor that is closed in the end."""
    try:
        yield handle
    finally:
        os.close(handle)


def is_part(name: str) -> bool:
    """Whether a file of this name is being uploaded; it is not listed, and not packed."""
    return _PART_NAME.fullmatch(name) is not None


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
            if word.casefold() in entry.name.casefold() and not is_part(entry.name):
                with suppress(OSError):  # it has just gone
                    status = entry.stat(follow_symlinks=False)
                    kind = entry.is_dir(follow_symlinks=False), entry.is_symlink()
                    found.append(Entry(entry.name, *kind, status.st_size, status.st_mtime))
    return heapq.nlargest(most, found, key=lambda entry: (entry.time, entry.name)), len(found)


def walk(root: Path, parts: Sequence[str], most: int) -> Iterator[Found]:
    """All that is below a folder, uploads on their way left out.

    What has a path of more than `LONGEST` bytes comes without a status, and is not looked into.

    Arguments:
        root: the folder that is served.
        parts: names that lead from there to the folder.
        most: files and folders after which it stops.
    """
    waiting: list[tuple[str, ...]] = [()]
    while waiting and most > 0:
        folder = waiting.pop()
        try:
            handle = open_below(root, [*parts, *folder])
        except OSError:
            yield Found(folder, None)
            continue
        with closed(handle), os.scandir(handle) as inside:
            names = [entry.name for entry in inside if not is_part(entry.name)][:most]
            most -= len(names)
            for name in names:
                path = (*folder, name)
                too_long = len(os.fsencode("/".join(path))) > LONGEST
                found = Found(path, None if too_long else _status(name, handle))
                if found.status and stat.S_ISDIR(found.status.st_mode):
                    waiting.append(found.path)
                yield found


def _status(name: str, folder: int) -> os.stat_result | None:
    with suppress(OSError):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    return None


def read(file: FileIO, start: int, end: int) -> Generator[bytes]:
    """Read a part of a file, less where it has shrunk; the file's own position is not used."""
    while start < end and (chunk := os.pread(file.fileno(), min(CHUNK, end - start), start)):
        start += len(chunk)
        yield chunk


def address(parts: Sequence[str]) -> str:
    """The URL's path of a file or folder."""
    return "/files/" + "/".join(quote(os.fsencode(part), safe="") for part in parts)


def text(name: str) -> str:
    """A name as text, unharmed where it is UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def shown(name: str) -> str:
    """A name for a person's line: what cannot be printed, or is not UTF-8, is escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text(name)
    )
