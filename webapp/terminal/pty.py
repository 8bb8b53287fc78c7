"""One shell session: a pseudo-terminal, its scrollback and the windows that look at it."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import termios
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from webapp.terminal.processes import Processes
from webapp.terminal.scrollback import Scrollback
from webapp.terminal.viewer import WINDOW, Viewer

TYPEAHEAD = 1_000_000  # bytes of input that no program has read yet
STALL = 5.0  # seconds after which a window that takes nothing no longer holds up the others
GRACE = 3.0  # seconds between SIGHUP and SIGKILL

# What a terminal emulator answers to a program's question: where the cursor is, what it can do, its
# colours. Shift+F3 looks like a cursor in row 1 and is taken for it: a key that one window loses
# harms less than a stray answer.
REPORT = re.compile(r"(\x1b\[[?>]?[\d;]*\$?[cnRty]|\x1b[P\]].+)+", re.DOTALL)


class Terminal:
    """Commands run one after the other on pseudo-terminals that share one scrollback and viewers.

    The viewer that typed or changed its size last leads: its size is the terminal's, and only its
    answers to a program's questions count. It is the window someone looks at, and two answers to
    one question are noise.
    """

    def __init__(self) -> None:
        self.viewers: list[Viewer] = []  # the last one leads
        self.seen = asyncio.Event()  # a first viewer has joined, and the size is known with it
        self.output = Scrollback()
        self._typed, self._room = bytearray(), asyncio.Event()
        self._master: int | None = None
        self._name = ""  # of the terminal's other end
        self._process: asyncio.subprocess.Process | None = None
        self._is_shell = False  # whether that process is a shell
        self._processes = Processes()
        self._reading = False
        self._size = (24, 80)

    @property
    def busy(self) -> bool:
        """Whether ending it would end more than a shell that waits for a command."""
        if not self._process or self._process.returncode is not None:
            return False
        return not self._is_shell or self._processes.find() != [self._process.pid]

    async def run(
        self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], is_shell: bool = False
    ) -> int:
        """Run a command on a new pseudo-terminal, as the leader of a session, until it ends.

        Arguments:
            argv: the program and its arguments.
            cwd: the folder it starts in.
            env: its whole environment.
            is_shell: whether it is a shell, which by itself is not `busy`.

        Returns:
            Its exit code, negative for a signal; 127 if it could not be started, which is then
            said in the terminal.
        """
        self._master, slave = os.openpty()
        self._name = os.ttyname(slave)
        self._ended = asyncio.Event()
        try:
            os.set_blocking(self._master, False)
            termios.tcsetwinsize(slave, self._size)
            try:
                self._process = await self._start(slave, argv, cwd, env)
                self._is_shell = is_shell
            except OSError as error:
                self.say(f"{argv[0]}: {error.strerror}")
                return 127
            finally:
                os.close(slave)
            self._flow()
            code = await self._process.wait()
            await self._read_rest(self._master)
            return code
        finally:
            self._listen(False)
            asyncio.get_running_loop().remove_writer(self._master)
            os.close(self._master)
            self._master = None
            self._typed.clear()  # it was not meant for the next command
            self._room.set()

    async def _start(
        self, slave: int, argv: Sequence[str], cwd: Path, env: Mapping[str, str]
    ) -> asyncio.subprocess.Process:
        def begin() -> None:  # in the new process
            _receive_signals()
            self._processes.mark()
            os.login_tty(os.dup(slave))  # it closes what it is given

        return await asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            env={**env, **self._processes.env},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=begin,
        )

    async def _read_rest(self, master: int) -> None:
        """Read what a command that has ended printed last, which a slow viewer may hold up.

        What it left running may hold the terminal, in silence.
        """
        for _ in range(int(2 * STALL / 0.05)):
            # Not wait_for, which in Python 3.11 may lose a cancellation.
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._ended.wait()
            silent = self._reading and not select.select([master], [], [], 0)[0]
            if self._ended.is_set() or silent:
                break

    def say(self, text: str) -> None:
        """Add a line of our own to the output."""
        self.print(f"{text}\r\n".encode())

    def print(self, data: bytes) -> None:
        """Add to the output."""
        self.output.add(data)
        for viewer in self.viewers:
            viewer.news.set()
        self._flow()

    def join(self, write: Callable[[str], Awaitable[object]], rows: int, columns: int) -> Viewer:
        """Let a window in: it gets a reset, the scrollback, and then what comes.

        Arguments:
            write: shows text; when awaited, returns once the window has it. It is called in order,
                and again before that where there is much to show: `WINDOW` bytes at most are on
                their way. Its errors end the viewing.
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
        """Pass on what was typed or pasted, or what the emulator answered to a program.

        From a viewer that has left, nothing is passed on.
        """
        if viewer not in self.viewers:
            return
        if not REPORT.fullmatch(text):
            self._lead(viewer)
        elif viewer is not self.viewers[-1] or viewer.catching_up:
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
        """End all that was started here: SIGHUP, and SIGKILL after GRACE seconds."""
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
        """Send a signal to all that was started here; whether anything was running."""
        if self._process and self._process.returncode is None:
            with suppress(ProcessLookupError):  # where nothing else finds it
                os.killpg(self._process.pid, number)
                return self._processes.signal(number) or True
        return self._processes.signal(number)

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
        """Read as long as nobody is far behind.

        The program that prints then waits for its slowest viewer.
        """
        behind = max(
            (self.output.end - v.position for v in self.viewers if not v.stalled), default=0
        )
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
            self.print(data)
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

    async def _show(self, viewer: Viewer) -> None:
        """Send a viewer what it lacks, for as long as it is here."""
        while True:
            if piece := viewer.send_next(self.output):
                piece.add_done_callback(partial(self._landed, viewer))
                if not viewer.timer:
                    self._watch(viewer)
            else:
                viewer.news.clear()
                await viewer.news.wait()

    def _landed(self, viewer: Viewer, piece: asyncio.Future[object]) -> None:
        if piece.cancelled() or piece.exception():  # whatever ails the window, the terminal goes on
            del viewer.pieces[piece]
            self.leave(viewer)
            return
        viewer.landed(piece)
        self._watch(viewer)
        self._flow()

    def _watch(self, viewer: Viewer) -> None:
        """Give a window its time, from now, to take a piece that is on its way."""
        if viewer.timer:
            viewer.timer.cancel()
            viewer.timer = None
        if viewer in self.viewers and viewer.pieces:
            loop = asyncio.get_running_loop()
            viewer.timer = loop.call_later(STALL, self._let_go, viewer)

    def _let_go(self, viewer: Viewer) -> None:
        viewer.stalled = True
        self._flow()


def _receive_signals() -> None:
    """Receive each signal that the app was told to ignore (`nohup python app.py &`)."""
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
