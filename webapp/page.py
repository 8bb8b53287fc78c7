"""The page: one terminal at a time, and a thin line below it."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path

from nicegui import ui
from nicegui.events import GenericEventArguments

from webapp.description import Description
from webapp.keep.keeper import DISK
from webapp.keep.panel import StartNotice
from webapp.panel import BACK, ICON
from webapp.panels import add_panels
from webapp.sessions import Sessions
from webapp.tabs import Tabs
from webapp.terminal.pty import Terminal
from webapp.terminal.screen import Screen
from webapp.terminal.viewer import RESET, Viewer
from webapp.tokens import POLL, TokenNews

DAY = 86400.0
XTERM = {
    "fontFamily": "ui-monospace, 'SF Mono', 'Cascadia Mono', Menlo, Consolas, 'DejaVu Sans Mono', "
    "monospace",
    "fontSize": 14,
    # Its animation keeps the browser drawing, which makes an echo three times as slow.
    "cursorBlink": False,
    "scrollback": 10000,
    "theme": {
        "background": "#101216",
        "foreground": "#d7dae0",
        "cursor": "#d7dae0",
        "selectionBackground": "#3b4252",
        # What was found, while the focus is in the find bar.
        "selectionInactiveBackground": "#7a5c1e",
    },
}
BUTTONS = [
    ("Smaller font", "text_decrease", "zoom(-1)"),
    ("Larger font", "text_increase", "zoom(1)"),
    ("Find (Ctrl+Shift+F)", "search", "search()"),
]


class Window:
    """One page in a browser: it shows one terminal at a time, and a thin line below it.

    Arguments:
        sessions: the terminals.
        number: the one to show; another where it is not open.
        news: what is known of the token.
        description: of the model and the route.
    """

    def __init__(
        self, sessions: Sessions, number: int, news: TokenNews, description: Description
    ) -> None:
        self.sessions, self.number, self.description = sessions, number, description
        self.terminal: Terminal | None = None
        self.serial = 0  # of what is shown
        self.size: tuple[int, int] | None = None  # until the browser has said it
        self.viewer = Viewer(self._write, (24, 80))  # in no terminal yet
        self.client = ui.context.client
        ui.add_css(Path(__file__).with_name("page.css"))
        with ui.element("main").classes("screen"):
            self.screen = Screen(XTERM)
        self.screen.on("data", self._type)
        self.screen.on("size", self._resize, throttle=0.1)
        with ui.element("aside").classes("once") as self.once:
            ui.label(DISK)
            ui.button("Got it", on_click=self._read).props(f"{ICON} no-caps no-wrap")
        self.once.set_visibility(False)
        self.start = StartNotice(sessions.keeper) if sessions.keeper else None
        with ui.element("footer").classes("line"):
            ui.element("span").classes("link")
            self.label, self.kept = add_panels(sessions, news, self.show)
            self.dashboard = ui.button("Dashboard", icon="dashboard").classes("dashboard")
            self.dashboard.props(f"{ICON} no-caps no-wrap aria-label=Dashboard title=Ctrl+Shift+D")
            self.dashboard.props("href=/hermes/ target=_blank aria-keyshortcuts=Control+Shift+D")
            self.dashboard.set_visibility(False)
            self.tabs = Tabs(sessions, self.show)
            for label, icon, call in BUTTONS:
                button = ui.button(icon=icon)
                button.props(f'{ICON} aria-label="{label}" title="{label}"')
                button.on("click", js_handler=f"() => getElement({self.screen.id}).{call}")
            new = ui.button("New terminal", icon="add", on_click=self._new).classes("new")
            new.props(f'{ICON} no-caps no-wrap aria-label="New terminal"')
        self.client.on_connect(self._connect)
        self.client.on_disconnect(self._disconnect)
        sessions.changed.subscribe(self._refresh)
        ui.timer(POLL, self._describe)

    def show(self, number: int) -> None:
        """Show a terminal: this one, else any that is open, else a new one."""
        self._leave()
        terminals = self.sessions.open
        self.number = (
            number if number in terminals else min(terminals, default=0) or self.sessions.new()
        )
        self.terminal = terminals[self.number]
        self.serial += 1
        self.screen.run_method("start", self.serial)
        self.viewer = self.terminal.join(self._write, *(self.size or self.viewer.size))
        with self.client:
            ui.navigate.history.replace(f"/?terminal={self.number}")
        self._refresh()

    async def _connect(self) -> None:
        if self.size:  # it was here before
            self.show(self.number)
        elif self.sessions.settings.name and not self.sessions.settings.volume:
            with suppress(TimeoutError):
                self.once.set_visibility(
                    not await self.client.run_javascript("localStorage.getItem('disk')", timeout=10)
                )

    def _read(self) -> None:
        self.once.set_visibility(False)
        # The browser's memory outlives our disk.
        self.client.run_javascript("localStorage.setItem('disk', 'read')")
        self.screen.run_method("focus")

    def _disconnect(self) -> None:
        if not self.client.has_socket_connection:
            self._leave()

    def _leave(self) -> None:
        if self.terminal:
            self.terminal.leave(self.viewer)
        self.terminal = None

    def _write(self, text: str) -> Awaitable[None]:
        # Not async: whether it is replayed is so now, not when its turn comes.
        given = f"{json.dumps(text)}, {json.dumps(self.viewer.replayed)}"
        return self._run(f"getElement({self.screen.id}).show({given})")

    async def _run(self, code: str) -> None:
        await self.client.run_javascript(code, timeout=DAY)  # answered when xterm.js has parsed it

    async def _type(self, event: GenericEventArguments) -> None:
        text, begun, more = event.args
        serial = self.serial
        # The rest of a paste is not for another terminal.
        if self.terminal and begun in (0, serial):
            self.terminal.type(self.viewer, str(text))
            if more:
                await self.terminal.taken()
                self.screen.run_method("taken", serial)

    def _resize(self, event: GenericEventArguments) -> None:
        known, self.size = self.size, (int(event.args[0]), int(event.args[1]))
        if not known:
            self.show(self.number)
        elif self.terminal:
            self.terminal.resize(self.viewer, *self.size)

    def _refresh(self) -> None:
        terminals = self.sessions.open
        if self.terminal and terminals.get(self.number) is not self.terminal:  # its shell has ended
            if terminals:
                self.show(min(terminals))
                return
            self._leave()
            text = f"{RESET}This terminal has ended. The button below opens a new one.\r\n"
            self.screen.run_method("show", text, False)
        self.tabs.draw(self.number)
        if self.terminal and (hint := self.sessions.hint):
            self.sessions.hint = ""
            with self.client:
                told = ui.notification(hint, position="top", timeout=None, close_button="Got it")
            told.on("dismiss", js_handler=BACK)

    def _new(self) -> None:
        if number := self.sessions.new():
            self.show(number)
        else:
            ui.notify(self.sessions.full, position="top")
            self.screen.run_method("focus")

    async def _describe(self) -> None:
        await self.description.refresh()
        if self.label.is_deleted:  # the window has gone
            return
        self.dashboard.set_visibility(not self.sessions.note)
        text = self.sessions.note or self.description.text or "Routes"
        self.label.set_text(text)
        if self.kept and self.start:
            self.kept.describe()
            self.start.describe()
