"""A saved state as it lies on the volume: a manifest, an index, packs of compressed blocks.

    manifest  JSON: "format": 2, "saved": ISO 8601 in UTC, "files": how many,
              "index": its "size" and "sha256"
    index     zlib of JSON: `folders`, `files`, `links`, `carried` (the same three, of what could
              not be put back and stays saved), `blocks` and `packs`; each entry is one of the
              NamedTuples below, as a list
    pack      blocks, each `zlib.compress`ed; a block is a MiB of one file, or its end

A manifest without "format" is of format 1, which had no `carried`.
The SHA-256 of an index and of a pack is all that is checked. What means nothing though it is whole
is taken for torn, what it names is bounded where it is read, and `place` sees where a path leads.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

FORMAT = 2
BLOCK = 2**20  # bytes of a file, uncompressed
MAIN = ""  # the history in the volume's folder itself
MOST_IN_AN_INDEX = 2**26  # bytes, unpacked: some 300,000 files
MOST_IN_A_MANIFEST = 2**14  # bytes
MOST_IN_A_PACK = 2**26  # bytes
PACK_NAME = re.compile("pack-[0-9a-f]{64}")  # it becomes a path on the disk
MEANINGLESS = (  # what reading something else raises
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    zlib.error,
)


class History(NamedTuple):
    """States that follow each other; a volume may have several."""

    name: str  # its folder, `MAIN` for the first one
    saved: str  # when its newest state was begun, ISO 8601 in UTC; "" where that cannot be read
    files: int


def new_name() -> str:
    """A name for a history that begins now."""
    return f"line-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def folder_of(volume: str, name: str) -> str:
    """The folder that a history is in."""
    return f"{volume}/{name}" if name else volume


class Folder(NamedTuple):
    """A folder; its path is relative to the home directory."""

    path: str
    mode: int


class Link(NamedTuple):
    """A symbolic link."""

    path: str
    target: str


class File(NamedTuple):
    """A file: its content is these blocks, by SHA-256 of what is in them."""

    path: str
    mode: int
    mtime: int  # nanoseconds
    size: int
    blocks: tuple[str, ...]


class Location(NamedTuple):
    """Where on the volume a block is."""

    pack: str
    offset: int
    length: int


@dataclass
class Tree:
    """Folders, files and links."""

    folders: list[Folder] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)

    def __iter__(self) -> Iterator[Folder | File | Link]:
        yield from self.folders
        yield from self.files
        yield from self.links

    def add(self, entry: Folder | File | Link) -> None:
        """Put an entry where its kind is."""
        if isinstance(entry, Folder):
            self.folders.append(entry)
        elif isinstance(entry, File):
            self.files.append(entry)
        else:
            self.links.append(entry)


@dataclass
class State:
    """All that an index says."""

    tree: Tree
    carried: Tree  # saved once, not put back, and so saved on
    blocks: dict[str, Location]
    packs: dict[str, int]  # sizes in bytes


class TornError(Exception):
    """What was read is not what was written, or is not there."""


class NewerFormatError(Exception):
    """A later version of this app wrote it."""


class Manifest(NamedTuple):
    """What a manifest says."""

    saved: str
    files: int
    index_name: str


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Take what means nothing for torn."""
    try:
        yield
    except MEANINGLESS as error:
        raise TornError(f"is no {what}: {type(error).__name__}") from None


def write_manifest(saved: str, files: int, index: bytes) -> bytes:
    """The manifest of a state whose index is written."""
    digest = hashlib.sha256(index).hexdigest()
    told = {"size": len(index), "sha256": digest}
    return json.dumps({"format": FORMAT, "saved": saved, "files": files, "index": told}).encode()


def read_manifest(data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        TornError: where it is none.
        NewerFormatError: where a later version of this app wrote it.
    """
    with reading("manifest"):
        told = json.loads(data)
        version = told.get("format", 1)
        if version > FORMAT:
            raise NewerFormatError(
                "it was saved by a later version of this app"
                f" (format {version}, expected at most {FORMAT})"
            )
        name = f"index-{told['index']['sha256']}"
        return Manifest(str(told["saved"]), told.get("files", 0), name)


def write_index(state: State) -> bytes:
    """An index, compressed.

    Raises:
        ValueError: where it would be too large to be read again.
    """
    used = dict.fromkeys(
        b for tree in (state.tree, state.carried) for f in tree.files for b in f.blocks
    )
    numbers = {block: number for number, block in enumerate(used)}
    packs = list(dict.fromkeys(state.blocks[block].pack for block in used))
    order = {pack: number for number, pack in enumerate(packs)}
    places = [(block, state.blocks[block]) for block in used]
    index = _listed(state.tree, numbers) | {
        "carried": _listed(state.carried, numbers),
        "blocks": [[block, order[at.pack], at.offset, at.length] for block, at in places],
        "packs": [[pack, state.packs[pack]] for pack in packs],
    }
    data = json.dumps(index, separators=(",", ":")).encode()
    if len(data) > MOST_IN_AN_INDEX:
        raise ValueError(f"too many files: their list is over {MOST_IN_AN_INDEX // 2**20} MB")
    return zlib.compress(data)


def _listed(tree: Tree, numbers: dict[str, int]) -> dict[str, Any]:
    """A tree as an index has it: a block is named by its number."""
    files = [[*file[:-1], [numbers[block] for block in file.blocks]] for file in tree.files]
    return {"folders": tree.folders, "files": files, "links": tree.links}


def read_index(data: bytes) -> State:
    """Read an index whose SHA-256 is right.

    Raises:
        TornError: where it means nothing, or is too large.
    """
    with reading("index"):
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(data, MOST_IN_AN_INDEX)
        if not unpacking.eof:
            raise TornError("its index is cut, or too large")
        index = json.loads(text)
        packs = dict(index["packs"])
        if not all(map(PACK_NAME.fullmatch, packs)):
            raise TornError("its index names no pack")
        order, blocks = list(packs), index["blocks"]
        names = [block for block, *_ in blocks]
        places = {block: Location(order[pack], *at) for block, pack, *at in blocks}
        return State(_tree(index, names), _tree(index.get("carried", {}), names), places, packs)


def _tree(index: dict[str, Any], names: list[str]) -> Tree:
    files = [
        File(path, mode, mtime, size, tuple(names[number] for number in blocks))
        for path, mode, mtime, size, blocks in index.get("files", [])
    ]
    folders = [Folder(*entry) for entry in index.get("folders", [])]
    return Tree(folders, files, [Link(*entry) for entry in index.get("links", [])])
