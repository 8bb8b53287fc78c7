"""Marks that a terminal draws into the cell before them: thousands on one cell freeze a browser."""

from __future__ import annotations

import codecs
import itertools
import re
import unicodedata
from collections.abc import Iterator
from functools import cache

MOST = 30  # on one cell: what Unicode's Stream-Safe Text Format (UAX 15) leaves on a letter
# Beyond the first plane, xterm.js knows only these.
ASTRAL = (range(0x10A01, 0x10A40), range(0x1D165, 0x1D245), range(0xE0001, 0xE01F0))
# No marks to Unicode: the vowels and ends of Korean syllables, and a sign of the Koran's.
LETTERS = {*range(0x1160, 0x1200), 0x06DE}


class MarkBound:
    """Bounds the marks on one cell in a stream of UTF-8: what comes after `MOST` is left out."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._marks = 0  # how many end what came

    def bound(self, data: bytes) -> bytes:
        """The next bytes, bounded; a character that is not whole waits for the rest of it."""
        if data.isascii() and not self._decoder.getstate()[0]:
            self._marks = 0
            return data
        before = "\u0301" * self._marks
        text = _run().sub(r"\1", before + self._decoder.decode(data))
        end = text[-MOST:]
        self._marks = len(end) - len(end.rstrip(marks()))
        return text[len(before) :].encode()


@cache
def marks() -> str:
    """Every character that xterm.js draws into the cell before it, and some more."""
    spans = (range(0x300, 0x10000), *ASTRAL)
    return "".join(chr(code) for span in spans for code in span if _is_mark(code))


def _is_mark(code: int) -> bool:
    return code in LETTERS or unicodedata.category(chr(code)) in ("Mn", "Mc", "Me", "Cf")


@cache
def _run() -> re.Pattern[str]:
    """More marks in a row than one cell may have; the first group is what it may."""
    # In ranges, and the first one by itself: ten times as fast as the plain class, 30 MB a second.
    some = "".join(_ranges())
    return re.compile(f"([{some}][{some}]{{{MOST - 1}}})[{some}]+")


def _ranges() -> Iterator[str]:
    """The marks as ranges of a regular expression's class."""
    codes = [ord(char) for char in marks()]
    for _, group in itertools.groupby(enumerate(codes), lambda pair: pair[1] - pair[0]):
        span = [code for _, code in group]
        yield f"{chr(span[0])}-{chr(span[-1])}"
