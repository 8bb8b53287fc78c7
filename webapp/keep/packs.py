"""Which blocks the volume has, in which packs, and how new ones get there."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Collection, Iterable

from webapp.keep.format import Location, State

PACK = 2**23  # bytes, at least, but for the last
SMALL, MANY = 2**22, 32  # packs of fewer bytes are put together once there are more than that many


class Packs:
    """The blocks that the volume has."""

    def __init__(self) -> None:
        self.blocks: dict[str, Location] = {}
        self.sizes: dict[str, int] = {}
        self.stale = set[str]()  # packs whose blocks are to be sent again, as far as they can be

    def learn(self, state: State) -> None:
        """Take in what a whole state has."""
        self.blocks |= state.blocks
        self.sizes |= state.packs

    def has(self, blocks: Iterable[str]) -> bool:
        """Whether all of these blocks are there."""
        return self.blocks.keys() >= set(blocks)

    def fresh(self, blocks: Iterable[str]) -> bool:
        """Whether all of these blocks are there, and need not be sent again."""
        return self.has(blocks) and not any(self.blocks[one].pack in self.stale for one in blocks)

    def forget(self, packs: Collection[str]) -> None:
        """These packs are gone."""
        self.blocks = {block: at for block, at in self.blocks.items() if at.pack not in packs}
        self.sizes = {pack: size for pack, size in self.sizes.items() if pack not in packs}

    def mark_stale(self, used: Iterable[str], fixed: Iterable[str]) -> None:
        """Have blocks sent again: of packs that are mostly unused, or small and many.

        Arguments:
            used: the blocks that the next state needs.
            fixed: those among them that nobody can send again.
        """
        live = dict.fromkeys(self.sizes, 0)
        for block in set(used) & self.blocks.keys():
            live[self.blocks[block].pack] += self.blocks[block].length
        for block in set(fixed) & self.blocks.keys():
            live.pop(self.blocks[block].pack, None)
        small = {pack for pack, size in live.items() if 0 < size < SMALL}
        self.stale = small if len(small) > MANY else set()
        for pack, size in live.items():
            if 0 < size < self.sizes[pack] / 4 and self.sizes[pack] > SMALL:
                self.stale.add(pack)


class PackWriter:
    """Collects blocks that the volume has not, and sends them, some MB at a time.

    Arguments:
        packs: what the volume has; it learns of what is sent.
        upload: writes a file on the volume.
    """

    def __init__(self, packs: Packs, upload: Callable[[str, bytes], None]) -> None:
        self.packs = packs
        self._upload = upload
        self._waiting: dict[str, bytes] = {}
        self._size = 0

    def add(self, data: bytes) -> str:
        """Send a block, now or later; gives its SHA-256."""
        block = hashlib.sha256(data).hexdigest()
        if block not in self._waiting and not self.packs.fresh((block,)):
            self._waiting[block] = zlib.compress(data, 1)
            self._size += len(self._waiting[block])
            if self._size >= PACK:
                self.flush()
        return block

    def flush(self) -> None:
        """Send what waits."""
        if not self._waiting:
            return
        data = b"".join(self._waiting.values())
        name, offset = f"pack-{hashlib.sha256(data).hexdigest()}", 0
        self._upload(name, data)
        for block, packed in self._waiting.items():
            self.packs.blocks[block] = Location(name, offset, len(packed))
            offset += len(packed)
        self.packs.sizes[name] = len(data)
        self._waiting, self._size = {}, 0
