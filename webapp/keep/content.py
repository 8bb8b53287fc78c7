"""A file's content as it is saved: regular files within a bound, databases whole at any moment."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from hermes.small_file import read_regular

LOCKED = 5.0  # seconds that a locked database is waited for


class LeftOutError(Exception):
    """Why a file is not saved, in a few words."""


def read_whole(path: Path, most: int) -> bytes:
    """Read a regular file of at most so many bytes; a link is none.

    Raises:
        LeftOutError: where it is larger.
        OSError: where it cannot be read, or is something else.
    """
    data = read_regular(path, most + 1, follow=False)
    if len(data) > most:
        raise LeftOutError(
            f"over {most // 2**20} MB" if most >= 2**20 else f"over {most // 2**10} kB"
        )
    return data


def head(path: Path, size: int) -> bytes:
    """The first bytes of a regular file; b"" where it is none or cannot be read."""
    with suppress(OSError):
        return read_regular(path, size, follow=False)
    return b""


def is_sqlite(path: Path) -> bool:
    """Whether a file is an SQLite database, by its first bytes."""
    return head(path, 16) == b"SQLite format 3\0"


def side_files(full: Path) -> Iterator[os.stat_result]:
    """The logs beside a file that may be a database."""
    for suffix in ("-wal", "-journal"):
        with suppress(OSError):
            yield os.lstat(f"{full}{suffix}")


def last_change(full: Path, info: os.stat_result) -> int:
    """When a file was changed last, in nanoseconds; a database, by its log too."""
    return max([info.st_mtime_ns, *(beside.st_mtime_ns for beside in side_files(full))])


def copy_database(full: Path, copy: Path, most: int) -> bytes:
    """A database's bytes through SQLite's own backup, whole also while it is written to.

    A transaction that a killed program left open is rolled back in the copy, and what only begins
    as a database does is taken as it is.

    Arguments:
        full: the database.
        copy: a file to make and remove again.
        most: bytes.

    Raises:
        LeftOutError: where it is too large, or what is beside it is no log.
        OSError: where it is locked for long, or cannot be copied.
    """
    if not all(stat.S_ISREG(beside.st_mode) for beside in side_files(full)):
        raise LeftOutError("a database whose log is not a regular file")
    if (data := _read_closed(full, most)) is not None:
        return data
    copy.unlink(missing_ok=True)
    try:
        _back_up(f"{full.as_uri()}?mode=ro", copy)
        return read_whole(copy, most)
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            return read_whole(full, most)
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY:  # a journal to roll back
            return _rolled_back(full, copy, most)
        raise OSError(errno.EIO, f"a database that cannot be copied: {error}") from None
    finally:
        copy.unlink(missing_ok=True)


def _read_closed(full: Path, most: int) -> bytes | None:
    """The bytes of a WAL database that has no log, so that no program has it open; None of another.

    SQLite would make a log in the user's folder to read it, and leave it there.
    """
    before = full.lstat()
    if head(full, 20)[18:] != b"\2\2" or list(side_files(full)):  # sqlite.org/fileformat2.html
        return None
    data = read_whole(full, most)
    after = full.lstat()
    changed = (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns)
    return None if changed or list(side_files(full)) else data


def _back_up(source: str, copy: Path) -> None:
    """Copy the database of a URI."""
    until = time.monotonic() + LOCKED

    def give_up(status: int, remaining: int, total: int) -> None:
        if status in (5, 6) and time.monotonic() > until:  # SQLITE_BUSY, SQLITE_LOCKED
            raise OSError(errno.EBUSY, "a database that is locked")

    with (
        closing(sqlite3.connect(source, uri=True, timeout=0)) as database,
        closing(sqlite3.connect(copy)) as target,
    ):
        database.backup(target, progress=give_up)


def _rolled_back(full: Path, copy: Path, most: int) -> bytes:
    """The bytes of a database whose journal has a transaction that nobody will end."""
    own = copy.with_name(f"{copy.name}-own")
    journal = Path(f"{own}-journal")
    try:
        own.write_bytes(read_whole(full, most))
        journal.write_bytes(read_whole(Path(f"{full}-journal"), most))
        copy.unlink(missing_ok=True)
        _back_up(own.as_uri(), copy)  # SQLite rolls back what the journal holds
        return read_whole(copy, most)
    except sqlite3.Error as error:
        raise OSError(errno.EIO, f"a database that cannot be copied: {error}") from None
    finally:
        own.unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
