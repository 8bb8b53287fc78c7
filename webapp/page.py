"""The page: one terminal at a time, and a thin line below it."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from nicegui import ui
from nicegui.events import GenericEventArguments

from hermes.config import was_proved
from webapp.keep import DISK
from webapp.panel import add_panels
from webapp.sessions import Sessions
from webapp.terminal import RESET, Terminal, Viewer
from webapp.tokens import TokenNews

POLL = 2.0  # seconds between two looks at Hermes's config
DAY = 86400.0
XTERM = {
    "fontFamily": "ui-monospace, 'SF Mono', 'Cascadia Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace",
    "fontSize": 14,
    "lineHeight": 1.2,  # else a row hides underscores and what hangs below the line
    "cursorBlink": False,  # its animation keeps the browser drawing, which makes an echo three times as slow
    "scrollback": 10000,
    "theme": {"background": "#101216", "foreground": "#d7dae0", "cursor": "#d7dae0", "selectionBackground": "#3b4252"},
}
CSS = """
body { background: #101216; overflow: hidden; }
.nicegui-content { height: 100dvh; padding: 0; gap: 0; }
.screen { flex: 1; min-height: 0; width: 100%; padding: 6px 0 0 8px; }
.screen > div { width: 100%; height: 100%; }
.line { display: flex; align-items: center; gap: 16px; width: 100%; height: 30px; padding: 0 10px; flex: none;
        background: #191c22; color: #a9b0bc; font: 13px system-ui, sans-serif; white-space: nowrap; overflow: hidden; }
.link::before { content: "●"; color: #7fb069; margin-right: 6px; }
.link::after { content: "connected"; }
body:has(#popup[aria-hidden="false"]) .link::before { color: #e0a458; }
body:has(#popup[aria-hidden="false"]) .link::after { content: "reconnecting …"; }
#popup { display: none; }
.kept { overflow: hidden; text-overflow: ellipsis; }
.once { gap: 4px; flex-wrap: nowrap; align-items: center; }
.tabs { display: flex; gap: 2px; margin-left: auto; }
.line .q-btn { min-height: 24px; padding: 0 8px; font-size: 13px; }
.line .shown { color: #fff; background: #2c313a; }
"""
# Fits the terminal to its place, now and from now on, and sends what is typed in pieces, as NiceGUI drops a message of 1 MB
# (a large paste); says the terminal's size.
FIT = """(page => {
  page.typed ??= page.terminal.onData(data => {
    for (let start = 0, end; start < data.length; start = end) {
      end = Math.min(start + 100000, data.length);
      if (end < data.length && (data.charCodeAt(end) & 0xfc00) === 0xdc00) end--;  // no half of a character
      page.$emit("typed", data.slice(start, end));
    }
  });
  page.fit();
  page.watch ??= new ResizeObserver(() => page.fit());
  page.watch.observe(page.$el);
  return [page.terminal.rows, page.terminal.cols];
})(getElement(%d))"""


class Window:
    """One page in a browser: it shows one terminal at a time, and a thin line below it.

    Arguments:
        sessions: the terminals.
        number: the one to show; another where it is not open.
        news: what is known of the token.
    """

    def __init__(self, sessions: Sessions, number: int, news: TokenNews) -> None:
        self.sessions, self.number = sessions, number
        self.terminal: Terminal | None = None
        self.size = (24, 80)
        self.viewer = Viewer(self._write, self.size)  # in no terminal yet
        self.client = ui.context.client
        ui.add_css(CSS)
        with ui.element("main").classes("screen"):
            self.screen = ui.xterm(XTERM)
        self.screen.on("typed", self._type)
        self.screen.on("resize", self._resize, throttle=0.1)
        with ui.element("footer").classes("line"):
            ui.element("span").classes("link")
            self.label = add_panels(sessions, news, self.show)
            self.kept = ui.label().classes("kept")
            with ui.row().classes("once") as self.once:
                ui.label(DISK)
                ui.button("Got it", on_click=self._read).props("flat dense no-caps color=grey-4")
            self.once.set_visibility(False)
            self.tabs = ui.element("nav").classes("tabs")
            ui.button("New terminal", icon="add", on_click=self._new).props("flat dense no-caps color=grey-4")
        self.client.on_connect(self._connect)
        self.client.on_disconnect(self._disconnect)
        sessions.changed.subscribe(self._refresh)
        ui.timer(POLL, self._describe)

    def show(self, number: int) -> None:
        """Show a terminal: this one, else any that is open, else a new one."""
        self._leave()
        terminals = self.sessions.open
        self.number = number if number in terminals else min(terminals, default=0) or self.sessions.new()
        self.terminal = terminals[self.number]
        self.viewer = self.terminal.join(self._write, *self.size)
        with self.client:
            ui.navigate.history.replace(f"/?terminal={self.number}")
        self.screen.run_terminal_method("focus")
        self._refresh()

    async def _connect(self) -> None:
        size = None
        while size is None and self.client.has_socket_connection:
            with suppress(TimeoutError):  # a slow page is asked again, one that is gone is not
                size = await self.client.run_javascript(FIT % self.screen.id, timeout=10)
        if size is None or not self.client.has_socket_connection:  # nothing would make this window leave again
            return
        self.size = (size[0], size[1])
        self.show(self.number)
        if self.sessions.settings.name and not self.sessions.settings.volume:
            with suppress(TimeoutError):
                self.once.set_visibility(not await self.client.run_javascript("localStorage.getItem('disk')", timeout=10))

    def _read(self) -> None:
        self.once.set_visibility(False)
        self.client.run_javascript("localStorage.setItem('disk', 'read')")  # the browser's memory outlives our disk

    def _disconnect(self) -> None:
        if not self.client.has_socket_connection:
            self._leave()

    def _leave(self) -> None:
        if self.terminal:
            self.terminal.leave(self.viewer)
        self.terminal = None

    async def _write(self, text: str) -> None:
        # Answered when xterm.js has parsed it: nothing piles up in the browser either.
        code = f"new Promise(done => getElement({self.screen.id}).terminal.write({json.dumps(text)}, done))"
        await self.client.run_javascript(code, timeout=DAY)

    def _type(self, event: GenericEventArguments) -> None:
        if self.terminal:
            self.terminal.type(self.viewer, str(event.args))

    def _resize(self, event: GenericEventArguments) -> None:
        self.size = int(event.args["rows"]), int(event.args["cols"])
        if self.terminal:
            self.terminal.resize(self.viewer, *self.size)

    def _refresh(self) -> None:
        terminals = self.sessions.open
        if self.terminal and terminals.get(self.number) is not self.terminal:  # its shell has ended
            if terminals:
                self.show(min(terminals))
                return
            self._leave()
            self.screen.write(f"{RESET}This terminal has ended. The button below opens a new one.\r\n")
        self.tabs.clear()
        with self.tabs:
            for number in sorted(terminals) if len(terminals) > 1 else []:
                tab = ui.button(str(number), on_click=partial(self.show, number)).props("flat dense color=grey-4")
                tab.props(f'aria-label="Terminal {number}"').classes("shown" if number == self.number else "")

    def _new(self) -> None:
        if number := self.sessions.new():
            self.show(number)
        else:
            limit = self.sessions.settings.limit
            ui.notify(f"All {limit} terminals are in use; `exit` in one of them frees its place.", position="top")
            self.screen.run_terminal_method("focus")

    def _describe(self) -> None:
        config = self.sessions.settings.config
        self.label.set_text(self.sessions.note or describe(config) or "Routes")
        note = self.sessions.keeper.note if self.sessions.keeper else ""
        self.kept.set_text(note)
        self.kept.props["title"] = note  # all of it, where the line is too short


def describe(config: Path) -> str:
    """The model and the route that Hermes uses, in a few words; "" where its config does not say."""
    try:
        model = yaml.safe_load(config.read_text())["model"]
        url, name = model["base_url"].rstrip("/"), model["default"]
        elsewhere = urlsplit(url).hostname or "no route"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        return ""
    proved = "" if was_proved(config) is not False else " · NOT PROVED"
    gateway = "ai-gateway" in url or url.endswith(("/openai", "/mlflow/v1"))
    route = "direct" if url.endswith("/serving-endpoints") else "AI Gateway" if gateway else elsewhere
    return f"{name} · {route}{proved}"
