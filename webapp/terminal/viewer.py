"""One window on a terminal: what it was sent, what it has, and what comes next."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from webapp.terminal.scrollback import Scrollback

PIECE = 64 * 1024  # bytes at most in one write to a window
WINDOW = 8 * PIECE  # bytes on their way to a window, and behind before reading pauses
RESET = "\x1bc"


class Piece(NamedTuple):
    """Output that is on its way to a window."""

    length: int  # bytes
    end: int  # the offset after it


class Viewer:
    """One window on a terminal; `Terminal.join` makes it.

    Arguments:
        write: shows text; when awaited, returns once the window has it.
        size: of the window, rows and columns.
    """

    def __init__(self, write: Callable[[str], Awaitable[object]], size: tuple[int, int]) -> None:
        self.write, self.size = write, size
        self.position = -1  # in the output: what it has
        self.stalled = False
        self.news = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.pieces: dict[asyncio.Future[object], Piece] = {}  # on their way
        self.timer: asyncio.TimerHandle | None = None
        self._sent = -1
        self._live = -1  # where what was there before it ends
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def replayed(self) -> bool:
        """Whether what was sent last was there before the window was."""
        return self._sent <= self._live

    @property
    def catching_up(self) -> bool:
        """Whether it does not have yet all that was there before it."""
        return self.position < self._live

    @property
    def on_way(self) -> int:
        """Bytes that were sent and have not come."""
        return sum(piece.length for piece in self.pieces.values())

    def send_next(self, output: Scrollback) -> asyncio.Future[object] | None:
        """Send the next piece; None where it was sent all, or enough is on its way."""
        on_way = self.on_way
        if on_way >= WINDOW:
            return None
        if self._sent < output.start:  # it is new, or what it lacks went while it was stalled
            return self._begin(output)
        until = self._live if self._sent < self._live else output.end
        left = until - self._sent
        # A large piece goes along with what is on its way, so that the window never waits for us.
        if not left or (on_way and left < PIECE):
            return None
        return self._send("", output, until)

    def landed(self, future: asyncio.Future[object]) -> None:
        """Take note that a piece has come."""
        self.position = max(self.position, self.pieces.pop(future).end)
        self.stalled = False
        self.news.set()

    def _begin(self, output: Scrollback) -> asyncio.Future[object]:
        """Send the scrollback from its beginning."""
        self._decoder.reset()
        self._sent, self._live = output.start, output.end
        self.position = max(self.position, self._sent)
        return self._send(RESET, output, output.end)

    def _send(self, before: str, output: Scrollback, until: int) -> asyncio.Future[object]:
        data = output.read(self._sent, min(self._sent + PIECE, until))
        self._sent += len(data)
        future = asyncio.ensure_future(self.write(before + self._decoder.decode(data)))
        self.pieces[future] = Piece(len(data), self._sent)
        return future
