"""What a terminal printed last, for windows that come later."""

from __future__ import annotations

import re

from webapp.terminal.marks import MarkBound

SCROLLBACK = 1_000_000  # bytes kept


class Scrollback:
    """The end of a terminal's output; a place in it is an offset from the output's first byte."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.start = 0  # the offset of the first byte that is kept
        self._marks = MarkBound()

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.start + len(self.data)

    def add(self, data: bytes) -> None:
        """Add output; the oldest goes where there is too much."""
        self.data += self._marks.bound(data)
        excess = len(self.data) - SCROLLBACK
        if excess > 0:
            cut = self._boundary(excess)
            del self.data[:cut]
            self.start += cut

    def read(self, begin: int, end: int) -> bytes:
        """What stands between two offsets."""
        return bytes(self.data[begin - self.start : end - self.start])

    def _boundary(self, least: int) -> int:
        """Where to cut: between lines, or before an escape sequence; else between characters."""
        found = re.compile(rb"\n|(?=\x1b)").search(self.data, least, least + 4096)
        if found:
            return found.end()
        cut = least
        while cut < len(self.data) and self.data[cut] & 0xC0 == 0x80:
            cut += 1
        return cut
