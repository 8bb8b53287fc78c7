"""Files that a user's programs may have put there: only what is small and regular is read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

MOST = 256 * 1024  # bytes; Hermes's config has about 2,000


def is_small_file(path: Path) -> bool:
    """Whether it is a regular file, or a link to one, of at most `MOST` bytes."""
    try:
        found = path.stat()
    except (OSError, RuntimeError):  # RuntimeError: a loop of links
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size <= MOST


def read_small_file(path: Path) -> bytes:
    """Read a regular file, or what a link to one leads to; never waits for a writer.

    Raises:
        OSError: where it cannot be read, is no regular file, or has more than `MOST` bytes.
    """
    # Without O_NONBLOCK, opening a FIFO waits until somebody writes to it.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{path} is not a regular file")
        data = file.read(MOST + 1)
    if len(data) > MOST:
        raise OSError(f"{path} has more than {MOST} bytes")
    return data
