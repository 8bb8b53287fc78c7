"""The app: Hermes in a terminal in its owner's browser. `python app.py` serves it."""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
import yaml
from fastapi import FastAPI, Request
from nicegui import Event, app, ui
from nicegui.events import GenericEventArguments, XtermDataEventArguments

from access import Access, find_owner
from setup_hermes import SettingError, read_flag, read_home, refresh_token, sdk_config
from terminal import RESET, Terminal, Viewer

log = logging.getLogger(__name__)

SETUP = [sys.executable, str(Path(__file__).with_name("setup_hermes.py"))]
POLL = 2.0  # seconds between two looks at the token, and at Hermes's config
DAY = 86400.0
XTERM = {
    "fontFamily": "ui-monospace, 'SF Mono', 'Cascadia Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace",
    "fontSize": 14,
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
.tabs { display: flex; gap: 2px; margin-left: auto; }
.line .q-btn { min-height: 24px; padding: 0 8px; font-size: 13px; }
.line .shown { color: #fff; background: #2c313a; }
"""
# Fits the terminal to its place, now and from now on; says its size.
FIT = """(page => {
  page.fit();
  page.watch ??= new ResizeObserver(() => page.fit());
  page.watch.observe(page.$el);
  return [page.terminal.rows, page.terminal.cols];
})(getElement(%d))"""


@dataclass(frozen=True)
class Settings:
    """What the environment asks for, checked."""

    home: Path  # where Hermes and its config live
    name: str  # the app's on Databricks Apps, "" on a laptop
    owner: str  # `APP_OWNER`, or ""
    port: int
    limit: int  # terminals at most
    hermes: bool  # whether it is wanted
    env: dict[str, str] = field(repr=False)  # for the setup, with all its credentials

    @property
    def config(self) -> Path:
        """Hermes's config."""
        return self.home / ".hermes" / "config.yaml"

    @property
    def shell_env(self) -> dict[str, str]:
        """The terminal's environment: without the service principal, whose id alone would only mislead databricks-sdk."""
        env = {k: v for k, v in self.env.items() if k not in ("DATABRICKS_CLIENT_ID", "DATABRICKS_CLIENT_SECRET")}
        # A question for the cursor's position takes a way over the network that prompt_toolkit does not wait for.
        env |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "PROMPT_TOOLKIT_NO_CPR": "1"}
        env["PATH"] = os.pathsep.join([str(self.home / ".local" / "bin"), env.get("PATH", os.defpath)])
        return {"LANG": "C.UTF-8"} | env


def read_settings(env: Mapping[str, str]) -> Settings:
    """Read and check the app's settings.

    Arguments:
        env: the environment.

    Returns:
        The settings.

    Raises:
        SettingError: for the first one that cannot be used.
    """

    def number(name: str, default: int, most: int) -> int:
        text = env.get(name, "").strip() or str(default)
        if not (text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= most):
            raise SettingError(f"{name}: {text[:100]!r} will not do; expected a whole number from 1 to {most}")
        return int(text)

    home = read_home(env)
    return Settings(
        home=home,
        name=env.get("DATABRICKS_APP_NAME", "").strip(),
        owner=env.get("APP_OWNER", "").strip(),
        port=number("DATABRICKS_APP_PORT", 8000, 65535),
        limit=number("MAX_CONCURRENT_SESSIONS", 5, 100),
        hermes=read_flag(env, "ENABLE_HERMES"),
        env={**env, "HOME": str(home)},
    )


class Sessions:
    """The terminals that are open, by number. Each is Hermes first, then a shell; before that, the setup until it is done.

    Arguments:
        settings: the app's.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.open: dict[int, Terminal] = {}
        self.changed: Event[[]] = Event()
        # Why there is no Hermes; "" once it is set up.
        self.note = "Hermes is not set up yet." if settings.hermes else "Hermes is turned off (ENABLE_HERMES)."
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

    async def close(self) -> None:
        """End every terminal, with all that runs in it."""
        for terminal in self.open.values():  # the others are ending already, and must not be hindered
            self._tasks[terminal].cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _live(self, number: int, terminal: Terminal) -> None:
        settings, env = self.settings, self.settings.shell_env
        folder = settings.home / "projects"
        try:
            if self._setup.locked():
                terminal.say(self.note)
            async with self._setup:
                if settings.hermes and (self.note or not settings.config.exists()):
                    await self._set_up(number, terminal)
            # A program started now draws itself for the window that looks at it.
            await terminal.seen()
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                terminal.say(f"{folder}: {error.strerror}. This is your home directory instead.")
                folder = settings.home
            if self.note:
                terminal.say(f"{self.note} This is a shell.")
            else:
                await terminal.run([str(settings.home / ".local" / "bin" / "hermes"), "chat"], cwd=folder, env=env)
            await terminal.run([shutil.which("bash") or "sh"], cwd=folder, env=env)
        finally:
            del self.open[number]
            self.changed.emit()
            await terminal.close()

    async def _set_up(self, number: int, terminal: Terminal) -> None:
        self.note = f"Hermes is being set up in terminal {number}."
        if await terminal.run(SETUP, cwd=self.settings.home, env=self.settings.env):
            self.note = "Hermes could not be set up; a new terminal says why, and tries again."
        elif not self.settings.config.exists():
            self.note = "Hermes waits for a Databricks token; a new terminal looks for one."
        else:
            self.note = ""


def connect(settings: Settings) -> Callable[[], str]:
    """Log in; what comes back gives the current token, which databricks-sdk renews 20 minutes before its end."""
    config = sdk_config(settings.env, settings.home, timeout=20)
    return lambda: str(config.authenticate()["Authorization"]).removeprefix("Bearer ")


def find_creator(settings: Settings) -> str | None:
    """Ask the Apps API who created this app."""
    from databricks.sdk import WorkspaceClient

    return WorkspaceClient(config=sdk_config(settings.env, settings.home, timeout=20)).apps.get(settings.name).creator


def keep_token_fresh(config: Path, login: Callable[[], Callable[[], str]], sleep: Callable[[float], None] = time.sleep) -> None:
    """Bring each new token into Hermes's config, for ever. What fails is logged and tried again, at most a minute later.

    Arguments:
        config: Hermes's config; nothing is asked for while there is none.
        login: gives what gives the current token; called again after an error.
        sleep: waits that many seconds.
    """
    ask, done, pause = None, None, POLL
    while True:
        try:
            if config.exists():
                ask = ask or login()
                # The file's time too, taken before we write: whoever writes it may put an old token back.
                now = ask(), config.stat().st_mtime_ns
                if now != done:
                    refresh_token(config, now[0])
                    done = now
            pause = POLL
        except Exception as error:  # no network, no credentials, a full disk: each may pass, and the session goes on
            ask, pause = None, min(2 * pause, 60.0)
            reason = (str(error).splitlines() or [""])[0].split(". Config:")[0][:200]
            log.warning("No fresh token (%s: %s). Trying again in %.0f s.", type(error).__name__, reason, pause)
        sleep(pause)


def describe(config: Path) -> str:
    """The model and the route that Hermes uses, in a few words; "" where its config does not say."""
    try:
        model = yaml.safe_load(config.read_text())["model"]
        url, name = model["base_url"].rstrip("/"), model["default"]
        elsewhere = urlsplit(url).hostname or "no route"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        return ""
    gateway = "ai-gateway" in url or url.endswith(("/openai", "/mlflow/v1"))
    return f"{name} · {'direct' if url.endswith('/serving-endpoints') else 'AI Gateway' if gateway else elsewhere}"


class Window:
    """One page in a browser: it shows one terminal at a time, and a thin line below it.

    Arguments:
        sessions: the terminals.
        number: the one to show; another where it is not open.
    """

    def __init__(self, sessions: Sessions, number: int) -> None:
        self.sessions, self.number = sessions, number
        self.terminal: Terminal | None = None
        self.size = (24, 80)
        self.viewer = Viewer(self._write, self.size)  # in no terminal yet
        self.client = ui.context.client
        ui.add_css(CSS)
        with ui.element("main").classes("screen"):
            self.screen = ui.xterm(XTERM, on_data=self._type)
        self.screen.on("resize", self._resize, throttle=0.1)
        with ui.element("footer").classes("line"):
            ui.element("span").classes("link")
            self.label = ui.label()
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
        size = await self.client.run_javascript(FIT % self.screen.id, timeout=10)
        if self.client.has_socket_connection:  # else nothing would make this window leave again
            self.size = (size[0], size[1])
            self.show(self.number)

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

    def _type(self, event: XtermDataEventArguments) -> None:
        if self.terminal:
            self.terminal.type(self.viewer, event.data)

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

    def _describe(self) -> None:
        self.label.set_text(describe(self.sessions.settings.config) or self.sessions.note)


def serve(settings: Settings) -> None:
    """Serve the app until a signal ends it.

    Arguments:
        settings: the app's.
    """
    sessions, owner, creator = Sessions(settings), [settings.owner], partial(find_creator, settings)
    app.on_startup(sessions.new)
    app.on_shutdown(sessions.close)

    @ui.page("/")
    def page(request: Request) -> None:
        number = request.query_params.get("terminal", "")
        Window(sessions, int(number) if number.isdecimal() and len(number) < 4 else 0)

    whole = FastAPI(openapi_url=None)
    ui.run_with(
        whole, title="Hermes", favicon="☿", dark=True, tailwind=False, message_history_length=20, show_welcome_message=False
    )
    if settings.name and not settings.owner:
        threading.Thread(target=lambda: owner.append(find_owner(creator)), daemon=True).start()
    if settings.hermes and not settings.env.get("DATABRICKS_TOKEN", "").strip():
        threading.Thread(target=keep_token_fresh, args=(settings.config, partial(connect, settings)), daemon=True).start()
    # Around everything, NiceGUI's own middleware and websocket included.
    guarded = Access(whole, (lambda: owner[-1]) if settings.name else None)
    print(
        f"Hermes is on port {settings.port}." if settings.name else f"Hermes is at http://localhost:{settings.port}", flush=True
    )
    host = "0.0.0.0" if settings.name else "127.0.0.1"  # noqa: S104 (Databricks' proxy comes from outside)
    uvicorn.run(
        guarded,
        host=host,
        port=settings.port,
        log_level="warning",
        loop="asyncio",  # uvloop lets the programs inherit each other's terminals
        ws="wsproto",
        workers=1,  # whatever WEB_CONCURRENCY says
        headers=[("content-security-policy", "frame-ancestors 'none'")],
        timeout_graceful_shutdown=1,
    )


def main() -> int:
    """Run the app.

    Returns:
        The exit code: 2 for a setting that cannot be used.
    """
    with suppress(AttributeError, OSError):  # not on Linux
        ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE: no terminal may read the client secret from our /proc/<pid>/environ
    try:
        settings = read_settings(os.environ)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    logging.basicConfig(format="%(levelname)s: %(message)s")
    serve(settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
