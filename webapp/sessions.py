"""The terminals that are open, and what runs in them."""

from __future__ import annotations

import asyncio
import enum
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from nicegui import Event

from webapp.keep.keeper import Keeper
from webapp.settings import AppSettings
from webapp.terminal.pty import Terminal
from webapp.tokens import bearer, log_in, one_line

SETUP = [sys.executable, str(Path(__file__).resolve().parent.parent / "setup_hermes.py")]
CONTINUE = "To go on with your last conversation: /exit, then `hermes chat --continue`."
# What `hermes chat --continue` looks for, and only where something was said.
CONVERSATION = "SELECT 1 FROM sessions WHERE source = 'cli' AND message_count > 0 LIMIT 1"


class Phase(enum.Enum):
    """How far Hermes is set up; the value is what a person is told, "" once it is."""

    OFF = "Hermes is turned off (ENABLE_HERMES)."
    NOT_YET = "Hermes is not set up yet."
    RUNNING = "Hermes is being set up in terminal {number}."
    AGAIN = "Hermes is to be set up again."
    FAILED = "Hermes could not be set up; a new terminal says why, and tries again."
    NO_TOKEN = "Hermes waits for a Databricks token; a new terminal looks for one."  # noqa: S105
    READY = ""


class Sessions:
    """The terminals that are open, by number.

    In each runs Hermes, then a shell; before that, the setup, until it is done.

    Arguments:
        settings: the app's.
        keeper: brings back what was saved, before anything runs; None for nothing to bring back.
        prepare: called once, in a thread, before anything runs in the first terminal.
    """

    def __init__(
        self,
        settings: AppSettings,
        keeper: Keeper | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.settings, self.keeper = settings, keeper
        self.open: dict[int, Terminal] = {}
        self.changed: Event[[]] = Event()
        self.phase = Phase.NOT_YET if settings.hermes else Phase.OFF
        self.hint = ""  # for the first window: Hermes's banner scrolls it away in the terminal
        self._prepare = prepare
        self._setup = asyncio.Lock()
        self._setup_number = 0  # of the terminal in which the setup runs
        self._first = True  # nothing has run yet
        self._tasks: dict[Terminal, asyncio.Task[None]] = {}

    @property
    def note(self) -> str:
        """Why there is no Hermes; "" once it is set up."""
        return self.phase.value.format(number=self._setup_number)

    def new(self) -> int:
        """Open a terminal.

        Returns:
            Its number; 0 when there are as many as there may be.
        """
        if len(self.open) >= self.settings.limit:
            return 0
        number = next(n for n in range(1, self.settings.limit + 1) if n not in self.open)
        terminal = self.open[number] = Terminal()
        task = self._tasks[terminal] = asyncio.create_task(self._live(number, terminal))
        task.add_done_callback(lambda _: self._tasks.pop(terminal))
        self.changed.emit()
        return number

    def set_up_again(self) -> int:
        """Open a terminal that begins with the setup, however the last one ended.

        Returns:
            As `new`.
        """
        number = self.new()
        if number and self.phase is Phase.READY:
            self.phase = Phase.AGAIN  # before the terminal's task begins
        return number

    @property
    def full(self) -> str:
        """What to do when `new` gives no number."""
        limit = f"MAX_CONCURRENT_SESSIONS: {self.settings.limit}"
        return f"All terminals are in use ({limit}); close one with the ✕ on its tab."

    def end(self, terminal: Terminal) -> None:
        """End a terminal, with all that runs in it; one that is ending already is left alone."""
        if terminal in self.open.values():
            self._tasks[terminal].cancel()

    async def close(self) -> None:
        """End every terminal, with all that runs in it."""
        for terminal in self.open.values():
            self.end(terminal)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _live(self, number: int, terminal: Terminal) -> None:
        try:
            if self._setup.locked():
                terminal.say(self.note)
            async with self._setup:
                await self._get_ready(number, terminal)
            # A program started now draws itself for the window that looks at it.
            await terminal.seen.wait()
            await self._run(terminal)
        # Whatever it is, the terminal says it, and stays until it is ended.
        except Exception as error:
            terminal.say(
                f"This terminal cannot be used ({one_line(error)}); a new one tries again."
            )
            await asyncio.Event().wait()
        finally:
            del self.open[number]
            self.changed.emit()
            await terminal.close()

    async def _get_ready(self, number: int, terminal: Terminal) -> None:
        """Do what comes before a program: what was saved is back, and Hermes is set up."""
        first = self._first
        if first and self._prepare:
            await asyncio.to_thread(self._prepare)
        self._first = False
        if self.keeper:
            await self.keeper.restored(terminal.say)
        hermes = self.settings.hermes
        if hermes and (self.phase is not Phase.READY or not self.settings.config.exists()):
            await self._set_up(number, terminal)
        if first and self.phase is Phase.READY:
            await self._offer_to_continue(terminal)

    async def _offer_to_continue(self, terminal: Terminal) -> None:
        """After a restart, say how the last conversation goes on, where there is one."""
        database = self.settings.home / ".hermes" / "state.db"
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                if await asyncio.to_thread(has_conversation, database):
                    self.hint = CONTINUE
                    terminal.say(CONTINUE)
                    self.changed.emit()

    async def _run(self, terminal: Terminal) -> None:
        """Run Hermes where it is set up, then a shell."""
        settings, env = self.settings, self.settings.shell_env
        folder = settings.home / "projects"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            terminal.say(f"{folder}: {error.strerror}. This is your home directory instead.")
            folder = settings.home
        if self.note:
            terminal.say(f"{self.note} This is a shell.")
        else:
            hermes = str(settings.home / ".local" / "bin" / "hermes")
            await terminal.run([hermes, "chat"], cwd=folder, env=env)
        await terminal.run([shutil.which("bash") or "sh"], cwd=folder, env=env, is_shell=True)

    async def _setup_env(self, terminal: Terminal) -> dict[str, str]:
        """The setup's environment: for a client secret, it has a token instead."""
        settings, env = self.settings, self.settings.setup_env
        if settings.env.get("DATABRICKS_CLIENT_SECRET") and not settings.token:
            try:
                env["DATABRICKS_TOKEN"] = await asyncio.to_thread(lambda: bearer(log_in(settings)))
            # No network, a wrong secret: the setup goes on without a token, and says so.
            except Exception as error:
                terminal.say(f"databricks-sdk found no token: {one_line(error)}")
        return env

    async def _set_up(self, number: int, terminal: Terminal) -> None:
        self.phase, self._setup_number = Phase.RUNNING, number
        if await terminal.run(SETUP, cwd=self.settings.home, env=await self._setup_env(terminal)):
            self.phase = Phase.FAILED
        else:
            self.phase = Phase.READY if self.settings.config.exists() else Phase.NO_TOKEN


def has_conversation(database: Path) -> bool:
    """Whether Hermes's `state.db` holds a conversation that `hermes chat --continue` goes on with.

    No lock is waited for, and a database in which finding one takes many steps has none.
    """
    with suppress(OSError, sqlite3.Error, RuntimeError):
        if database.is_file():
            uri = f"{database.resolve().as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, timeout=0)) as connection:
                connection.set_progress_handler(lambda: 1, 1_000_000)  # ends what takes more steps
                return connection.execute(CONVERSATION).fetchone() is not None
    return False
