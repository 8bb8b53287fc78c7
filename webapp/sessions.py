"""The terminals that are open, and what runs in them."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

from nicegui import Event

from webapp.keep.keeper import Keeper
from webapp.settings import AppSettings
from webapp.terminal.pty import Terminal
from webapp.tokens import bearer, log_in, one_line

SETUP = [sys.executable, str(Path(__file__).resolve().parent.parent / "setup_hermes.py")]


class Sessions:
    """The terminals that are open, by number. Each is Hermes first, then a shell; before that, the setup until it is done.

    Arguments:
        settings: the app's.
        keeper: brings back what was saved, before anything runs; None for nothing to bring back.
    """

    def __init__(self, settings: AppSettings, keeper: Keeper | None = None) -> None:
        self.settings, self.keeper = settings, keeper
        self.open: dict[int, Terminal] = {}
        self.changed: Event[[]] = Event()
        # Why there is no Hermes; "" once it is set up.
        self.note = (
            "Hermes is not set up yet."
            if settings.hermes
            else "Hermes is turned off (ENABLE_HERMES)."
        )
        self._setup = asyncio.Lock()
        self._tasks: dict[Terminal, asyncio.Task[None]] = {}

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
        if number := self.new():
            self.note = self.note or "Hermes is to be set up again."  # before its task begins
        return number

    async def close(self) -> None:
        """End every terminal, with all that runs in it."""
        for (
            terminal
        ) in self.open.values():  # the others are ending already, and must not be hindered
            self._tasks[terminal].cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _live(self, number: int, terminal: Terminal) -> None:
        settings, env = self.settings, self.settings.shell_env
        folder = settings.home / "projects"
        try:
            if self._setup.locked():
                terminal.say(self.note)
            async with self._setup:
                if self.keeper and (told := await self.keeper.restored()):
                    terminal.say(told)
                if settings.hermes and (self.note or not settings.config.exists()):
                    await self._set_up(number, terminal)
            # A program started now draws itself for the window that looks at it.
            await terminal.seen.wait()
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                terminal.say(f"{folder}: {error.strerror}. This is your home directory instead.")
                folder = settings.home
            if self.note:
                terminal.say(f"{self.note} This is a shell.")
            else:
                await terminal.run(
                    [str(settings.home / ".local" / "bin" / "hermes"), "chat"], cwd=folder, env=env
                )
            await terminal.run([shutil.which("bash") or "sh"], cwd=folder, env=env)
        finally:
            del self.open[number]
            self.changed.emit()
            await terminal.close()

    async def _setup_env(self, terminal: Terminal) -> dict[str, str]:
        """The setup's environment: where we hold a client secret, with a token of ours in its place."""
        settings, env = self.settings, self.settings.setup_env
        if (
            settings.env.get("DATABRICKS_CLIENT_SECRET")
            and not env.get("DATABRICKS_TOKEN", "").strip()
        ):
            try:
                env["DATABRICKS_TOKEN"] = await asyncio.to_thread(lambda: bearer(log_in(settings)))
            except Exception as error:  # no network, a wrong secret: the setup goes on without a token, and says so
                terminal.say(f"databricks-sdk found no token: {one_line(error)}")
        return env

    async def _set_up(self, number: int, terminal: Terminal) -> None:
        self.note = f"Hermes is being set up in terminal {number}."
        if await terminal.run(SETUP, cwd=self.settings.home, env=await self._setup_env(terminal)):
            self.note = "Hermes could not be set up; a new terminal says why, and tries again."
        elif not self.settings.config.exists():
            self.note = "Hermes waits for a Databricks token; a new terminal looks for one."
        else:
            self.note = ""
