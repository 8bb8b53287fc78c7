"""Files that a user's programs may have put there: only what is small and regular is read."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

import yaml

MOST = 256 * 1024  # bytes; Hermes's config has about 2,000


def is_small_file(path: Path) -> bool:
    """Whether it is a regular file, or a link to one, of at most `MOST` bytes."""
    try:
        found = path.stat()
    except (OSError, RuntimeError):  # RuntimeError: a loop of links
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size <= MOST


def read_small_file(path: Path) -> bytes:
    """Read a regular file, or what a link to one leads to.

    Raises:
        OSError: where it cannot be read, is no regular file, or has more than `MOST` bytes.
    """
    data = read_regular(path, MOST + 1, follow=True)
    if len(data) > MOST:
        raise OSError(errno.EFBIG, f"more than {MOST} bytes", str(path))
    return data


def read_regular(path: Path, size: int, follow: bool) -> bytes:
    """Read the first bytes of a regular file.

    Raises:
        OSError: where it cannot be read, or is something else, such as a link that is not followed.
    """
    # Without O_NONBLOCK, opening a FIFO waits until somebody writes to it.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    with open(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read(size)


def most_pairs(data: bytes) -> int:
    """How many pairs a mapping of a YAML text has at most, once its merges (`<<`) are followed.

    A loader copies all of them: 1.7 kB of merges of merges take it minutes and gigabytes. What is
    not YAML has none.
    """
    sizes: dict[int, int] = {}  # of each node that was seen
    with suppress(yaml.YAMLError, ValueError, RecursionError):
        root = yaml.compose(data.decode(), Loader=yaml.SafeLoader)
        if root:
            _measure(root, sizes)
    return max(sizes.values(), default=0)


def _measure(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The pairs of a node once its merges are followed; its parts' go into `sizes` too."""
    if id(node) in sizes:
        return sizes[id(node)]
    sizes[id(node)] = 0  # a node may hold itself
    count = 0
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            size = _measure(value, sizes)
            count += size if key.tag == "tag:yaml.org,2002:merge" else 1
    elif isinstance(node, yaml.SequenceNode):
        count = sum(_measure(part, sizes) for part in node.value)
    sizes[id(node)] = count
    return count
