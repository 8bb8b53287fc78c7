"""One shell session: a pseudo-terminal, its scrollback and the windows that look at it. It knows no web."""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import select
import signal
import termios
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

SCROLLBACK = 1_000_000  # bytes of output kept for windows that come later
PIECE = 64 * 1024  # bytes at most in one write to a window
WINDOW = (
    8 * PIECE
)  # bytes on their way to a window, and bytes it may be behind before reading pauses
TYPEAHEAD = 1_000_000  # bytes of input that no program has read yet
STALL = 5.0  # seconds after which a window that takes nothing no longer holds up the others
GRACE = 3.0  # seconds between SIGHUP and SIGKILL

RESET = "\x1bc"
# What a terminal emulator answers to a program's question: where the cursor is, what it can do, its colours.
# Shift+F3 looks like a cursor in row 1 and is taken for it: a key that one window loses harms less than a stray answer.
REPORT = re.compile(r"(\x1b\[[?>]?[\d;]*\$?[cnRty]|\x1b[P\]].+)+", re.DOTALL)


class Viewer:
    """One window on a terminal; `Terminal.join` makes it."""

    def __init__(self, write: Callable[[str], Awaitable[object]], size: tuple[int, int]) -> None:
        self.write, self.size = write, size
        self.position = self.sent = (
            self.live
        ) = -1  # offsets in the output: what it has, was sent, and where the replay ends
        self.stalled = False
        self.news = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.pieces: dict[asyncio.Future[object], int] = {}  # on their way, and how long each is
        self.timer: asyncio.TimerHandle | None = None

    @property
    def replayed(self) -> bool:
        """Whether what is being written was there before the window was."""
        return self.sent <= self.live


class Terminal:
    """Commands run one after the other on pseudo-terminals that share one scrollback and its viewers.

    The viewer that typed or changed its size last leads: its size is the terminal's, and only its answers to a
    program's questions count. It is the window someone looks at, and two answers to one question are noise.
    """

    def __init__(self) -> None:
        self.viewers: list[Viewer] = []  # the last one leads
        self.seen = asyncio.Event()  # a first viewer has joined, and the size is known with it
        self._output, self._start = (
            bytearray(),
            0,
        )  # the scrollback, and the offset of its first byte
        self._typed, self._room = bytearray(), asyncio.Event()
        self._master: int | None = None
        self._name = ""  # of the terminal's other end
        self._process: asyncio.subprocess.Process | None = None
        self._reading = False
        self._size = (24, 80)
        self._mark = uuid.uuid4().hex

    @property
    def _end(self) -> int:
        return self._start + len(self._output)

    async def run(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> int:
        """Run a command on a new pseudo-terminal, as the leader of a session of its own, until it ends.

        Arguments:
            argv: the program and its arguments.
            cwd: the folder it starts in.
            env: its whole environment.

        Returns:
            Its exit code, negative for a signal; 127 if it could not be started, which is then said in the terminal.
        """
        self._master, slave = os.openpty()
        self._name = os.ttyname(slave)
        self._ended = asyncio.Event()
        try:
            termios.tcsetwinsize(slave, self._size)
            os.set_blocking(self._master, False)
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *argv,
                    cwd=cwd,
                    env={**env, "TERMINAL_SESSION": self._mark},
                    stdin=slave,
                    stdout=slave,
                    stderr=slave,
                    preexec_fn=lambda: _begin(os.dup(slave)),  # it closes what it is given
                )
            except OSError as error:
                self.say(f"{argv[0]}: {error.strerror}")
                return 127
            finally:
                os.close(slave)
            self._flow()
            code = await self._process.wait()
            # What it printed last may still wait for a slow viewer; what it left running may hold the terminal, in silence.
            for _ in range(int(2 * STALL / 0.05)):
                # Not wait_for, which in Python 3.11 may lose a cancellation.
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self._ended.wait()
                if self._ended.is_set() or (
                    self._reading and not select.select([self._master], [], [], 0)[0]
                ):
                    break
            return code
        finally:
            self._listen(False)
            asyncio.get_running_loop().remove_writer(self._master)
            os.close(self._master)
            self._master = None
            self._typed.clear()  # it was not meant for the next command
            self._room.set()

    def say(self, text: str) -> None:
        """Add a line of our own to the output."""
        self._add(f"{text}\r\n".encode())

    def join(self, write: Callable[[str], Awaitable[object]], rows: int, columns: int) -> Viewer:
        """Let a window in: it gets a reset, the scrollback, and then what comes.

        Arguments:
            write: shows text; when awaited, returns once the window has it. It is called in order, and again before
                that where there is much to show: `WINDOW` bytes at most are on their way. Its errors end the viewing.
            rows, columns: the window's size in characters.

        Returns:
            The viewer, for `type`, `resize` and `leave`.
        """
        viewer = Viewer(write, (rows, columns))
        self.viewers.append(viewer)
        self.resize(viewer, rows, columns)
        viewer.task = asyncio.ensure_future(self._show(viewer))
        self.seen.set()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Let a window go; the terminal goes on without it. Leaving twice is no error."""
        if viewer in self.viewers:
            self.viewers.remove(viewer)
            for task in (viewer.task, *viewer.pieces):
                if task:
                    task.cancel()
            self._watch(viewer)
            if self.viewers:
                self.resize(self.viewers[-1], *self.viewers[-1].size)
            self._flow()

    def resize(self, viewer: Viewer, rows: int, columns: int) -> None:
        """Take over a viewer's new size, in characters; one that has left changes nothing."""
        viewer.size = (min(max(rows, 2), 1000), min(max(columns, 2), 1000))
        self._lead(viewer)

    def type(self, viewer: Viewer, text: str) -> None:
        """Pass on what was typed or pasted, or what the emulator answered to a program; nothing from one that has left."""
        if viewer not in self.viewers:
            return
        if not REPORT.fullmatch(text):
            self._lead(viewer)
        elif viewer is not self.viewers[-1] or viewer.position < viewer.live:
            return  # a second answer, or the answer to a question that is only being replayed
        if text == "\x03" and self._typed:  # it would wait behind a paste that nobody reads
            self._typed.clear()
            with suppress(OSError, termios.error):
                slave = os.open(self._name, os.O_RDWR | os.O_NOCTTY)
                termios.tcflush(slave, termios.TCIFLUSH)
                os.close(slave)
        if self._master is not None and len(self._typed) < TYPEAHEAD:
            self._typed += text.encode()
            self._write(self._master)

    async def taken(self) -> None:
        """Wait until a program has been given all that was typed, or none is there to take it."""
        while self._typed:
            self._room.clear()
            await self._room.wait()

    async def close(self) -> None:
        """End all that was started here: SIGHUP, then SIGKILL for what is left after GRACE seconds."""
        for viewer in list(self.viewers):
            self.leave(viewer)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GRACE
        self._signal(signal.SIGHUP)
        while (
            self._signal(signal.SIGKILL if loop.time() > deadline else 0)
            and loop.time() < deadline + 1
        ):
            await asyncio.sleep(0.05)

    def _signal(self, number: int) -> bool:
        found = False
        if self._process and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
                found = True
        # On Linux, a mark in the environment finds what has left the group too: jobs, daemons, an agent's servers.
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self._mark.encode() in (process / "environ").read_bytes():
                    os.kill(int(process.name), number)
                    found = True
        return found

    def _lead(self, viewer: Viewer) -> None:
        if viewer not in self.viewers:
            return
        self.viewers.remove(viewer)
        self.viewers.append(viewer)
        if viewer.size != self._size:
            self._size = viewer.size
            if self._master is not None:
                termios.tcsetwinsize(self._master, self._size)

    def _listen(self, on: bool) -> None:
        if on != self._reading and self._master is not None:
            self._reading = on
            loop = asyncio.get_running_loop()
            if on:
                loop.add_reader(self._master, self._read, self._master)
            else:
                loop.remove_reader(self._master)

    def _flow(self) -> None:
        """Read as long as nobody is far behind; the program that prints then waits for its slowest viewer."""
        behind = max((self._end - v.position for v in self.viewers if not v.stalled), default=0)
        if behind > WINDOW:
            self._listen(False)
        elif behind <= WINDOW // 2 and self._master is not None and not self._ended.is_set():
            self._listen(True)

    def _read(self, master: int) -> None:
        try:
            data = os.read(master, 65536)
        except BlockingIOError:
            return
        except OSError:  # Linux's way to say that nobody has the other end any more
            data = b""
        if data:
            self._add(data)
        else:
            self._ended.set()
            self._listen(False)

    def _write(self, master: int) -> None:
        try:
            del self._typed[: os.write(master, self._typed)]
        except BlockingIOError:
            pass
        except OSError:
            self._typed.clear()
        loop = asyncio.get_running_loop()
        if self._typed:
            loop.add_writer(master, self._write, master)
        else:
            loop.remove_writer(master)
            self._room.set()

    def _add(self, data: bytes) -> None:
        self._output += data
        excess = len(self._output) - SCROLLBACK
        if excess > 0:
            # Cut between lines, or before an escape sequence; failing both, between characters.
            boundary = re.compile(rb"\n|(?=\x1b)").search(self._output, excess, excess + 4096)
            cut = boundary.end() if boundary else excess
            while cut < len(self._output) and self._output[cut] & 0xC0 == 0x80:
                cut += 1
            del self._output[:cut]
            self._start += cut
        for viewer in self.viewers:
            viewer.news.set()
        self._flow()

    async def _show(self, viewer: Viewer) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            on_way, missed = sum(viewer.pieces.values()), viewer.sent < self._start
            until = viewer.live if viewer.sent < viewer.live and not missed else self._end
            # What is small waits for what is on its way; what is large goes along, so that a window never waits for us.
            small = bool(on_way) and until - viewer.sent < PIECE
            if (not missed and (small or viewer.sent == self._end)) or on_way >= WINDOW:
                viewer.news.clear()
                await viewer.news.wait()
                continue
            text = ""
            if missed:  # it is new, or what it lacks went while it was stalled
                decoder.reset()
                text, viewer.sent, viewer.live = RESET, self._start, self._end
                viewer.position, until = max(viewer.position, viewer.sent), self._end
            start = viewer.sent - self._start
            piece = self._output[start : min(start + PIECE, until - self._start)]
            viewer.sent += len(piece)
            task = asyncio.ensure_future(viewer.write(text + decoder.decode(piece)))
            viewer.pieces[task] = len(piece)
            task.add_done_callback(partial(self._landed, viewer, viewer.sent))
            if not viewer.timer:
                self._watch(viewer)

    def _landed(self, viewer: Viewer, position: int, piece: asyncio.Future[object]) -> None:
        del viewer.pieces[piece]
        if piece.cancelled() or piece.exception():  # whatever ails the window, the terminal goes on
            self.leave(viewer)
            return
        viewer.position = max(viewer.position, position)
        viewer.stalled = False
        viewer.news.set()
        self._watch(viewer)
        self._flow()

    def _watch(self, viewer: Viewer) -> None:
        """Give a window its time, from now, to take a piece that is on its way."""
        if viewer.timer:
            viewer.timer.cancel()
        waits = viewer in self.viewers and viewer.pieces
        viewer.timer = (
            asyncio.get_running_loop().call_later(STALL, self._let_go, viewer) if waits else None
        )

    def _let_go(self, viewer: Viewer) -> None:
        viewer.stalled = True
        self._flow()


def _begin(slave: int) -> None:
    """In the new process: take the terminal, and each signal that the app was told to ignore (`nohup python app.py &`)."""
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    os.login_tty(slave)
