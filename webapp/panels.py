"""The two panels: the files in the projects folder, and what the routes say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from hermes.install import read_learnt
from hermes.proof import Answer, Prover
from hermes.report import route_bases, short, verdict
from hermes.routes import choose_routes
from hermes.settings import read_settings
from hermes.urls import SettingError
from webapp.files.folder import Entry, address, list_folder, shown
from webapp.sessions import Sessions
from webapp.settings import AppSettings
from webapp.tokens import TokenNews, bearer, log_in, one_line

MOST = 200  # entries shown of one folder
ICON = "flat dense color=grey-4"
MARKS = {
    True: ("✓", "serves the model", "yes"),
    False: ("✗", "does not serve the model", "no"),
    None: ("?", "not known", "unknown"),
}
# After the last panel the terminal has the keyboard.
BACK = (
    "() => document.querySelector('.panel') || document.querySelector('.screen textarea').focus()"
)
# A key opens what names it as its own.
SHORTCUTS = """addEventListener("keydown", event => {
  const keys = ["Control", "Alt", "Shift", "Meta"].filter(key => event.getModifierState(key)).concat(event.key.toUpperCase());
  const button = keys.length > 1 && document.querySelector(`[aria-keyshortcuts="${CSS.escape(keys.join("+"))}"]`);
  if (button) { event.preventDefault(); event.stopPropagation(); button.click(); }
}, true);"""


def add_panels(sessions: Sessions, news: TokenNews, show: Callable[[int], None]) -> ui.button:
    """Put the two panels into the page, and their buttons here.

    Arguments:
        sessions: the terminals.
        news: what is known of the token.
        show: shows a terminal.

    Returns:
        The button of the routes, whose text tells the model and the route.
    """
    here = Path(__file__).parent
    ui.add_css(here / "panels.css")
    script = (here / "files" / "drop.js").read_text()
    ui.add_body_html(f"<script>{script}\n{SHORTCUTS}</script>")
    panels = list[_Panel]()
    routes = _RoutesPanel(panels, sessions, news, show)
    _FilesPanel(panels, sessions.settings.home / "projects")
    return routes.panel.button


class _Panel:
    """A dialog at the right, and the button that opens and closes it.

    Arguments:
        panels: the page's; one is open at a time.
        title: its name.
        key: a letter that is the button, with Control and Shift.
        read: shows what is so now.
    """

    def __init__(
        self, panels: list[_Panel], title: str, key: str, read: Callable[[], Awaitable[None]]
    ) -> None:
        self.panels, self.read = panels, read
        panels.append(self)
        self.button = ui.button(title, on_click=self.toggle).props(
            f"{ICON} no-caps no-wrap aria-haspopup=dialog"
        )
        self.button.props(f"aria-keyshortcuts=Control+Shift+{key}").tooltip(
            f"{title} (Ctrl+Shift+{key})"
        )
        with ui.dialog().props(
            f"position=right no-refocus transition-duration=100 aria-label={title}"
        ) as self.dialog:
            self.body = ui.element("section").classes("panel")
        self.dialog.on("hide", js_handler=BACK)
        with self.body, ui.element("header"):
            _text("h2", title)
            self.tools = ui.element("span")
            ui.button(icon="close", on_click=self.dialog.close).props(f"{ICON} aria-label=Close")

    async def toggle(self) -> None:
        """Close it; or open it alone, and show what is so now."""
        was_open = self.dialog.value
        for panel in self.panels:
            panel.dialog.close()
        if not was_open:
            self.dialog.open()
            await self.read()


class _FilesPanel:
    """The projects folder: a folder opens, a file is downloaded, and so is a folder, as a zip."""

    def __init__(self, panels: list[_Panel], root: Path) -> None:
        self.root, self.parts, self.reading = root, list[str](), 0
        self.panel = _Panel(panels, "Files", "E", self.read)
        self.panel.button.props("icon=folder_open aria-label=Files").classes("files")
        with self.panel.tools:
            ui.button("Upload", icon="upload").props(f"{ICON} no-caps").on(
                "click", js_handler="() => giveFiles()"
            )
            ui.button(icon="refresh", on_click=self.read).props(f'{ICON} aria-label="Read again"')
        with self.panel.body:
            self.way = ui.element("nav").props("aria-label=Folder")
            self.word = ui.input("Filter", on_change=self.read).props(
                "dense outlined debounce=200 clearable dark"
            )
            self.list = ui.element("ul").props('aria-label="Files and folders, newest first"')
            self.note = _text("p", "").props("role=status")
        ui.on("given", self.read)

    async def read(self) -> None:
        """List the folder."""
        self.reading += 1
        mine, trouble = self.reading, ""
        entries, count = list[Entry](), 0
        try:
            entries, count = await asyncio.to_thread(
                list_folder, self.root, self.parts, self.word.value or "", MOST
            )
        except OSError as error:
            trouble = f"{error.strerror or 'It cannot be read'}."
        if (
            mine != self.reading or self.list.is_deleted
        ):  # a later one knows better, or the window has gone
            return
        self.way.clear()
        with self.way:
            for depth in range(len(self.parts) + 1):
                name = shown(self.parts[depth - 1]) if depth else "projects"
                step = ui.button(f"{name} /", on_click=partial(self.go, self.parts[:depth])).props(
                    f"{ICON} no-caps"
                )
                step.props("aria-current=page" if depth == len(self.parts) else "")
        self.list.clear()
        with self.list:
            for entry in entries:
                with ui.element("li"):
                    self._row(entry)
        some = (
            f"The newest {len(entries)} of {count}; the filter finds the others."
            if count > len(entries)
            else ""
        )
        self.note.text = trouble or some or ("" if count else "Nothing here.")

    def _row(self, entry: Entry) -> None:
        name, path = shown(entry.name), [*self.parts, entry.name]
        if entry.link:
            _text("span", name).classes("plain")
            _text("span", "link, not followed").classes("more")
        elif entry.folder:
            _text("button", f"{name}/").classes("name").props("type=button").on(
                "click", partial(self.go, path)
            )
            link = ui.link("zip", address(path)).props("download").classes("name")
            link.props["aria-label"] = f"{name} as a zip"
        else:
            ui.link(name, address(path)).props("download").classes("name")
            _text("span", size(entry.size)).classes("more")
        _text("span", age(entry.time)).classes("more").props["title"] = time.strftime(
            "%F %T UTC", time.gmtime(entry.time)
        )

    async def go(self, parts: list[str]) -> None:
        """Show another folder."""
        self.parts = parts
        self.word.set_value("")
        await self.read()


@dataclass(frozen=True)
class _Report:
    """What the routes said."""

    line: str  # the sum of it
    bases: dict[str, str] = field(default_factory=dict)  # URLs by name: where routes begin
    answers: list[Answer] = field(default_factory=list)
    time: float = field(default_factory=time.time)


class _RoutesPanel:
    """What each route says about each model, and what can be done. It needs neither Hermes nor a setup that went well."""

    def __init__(
        self, panels: list[_Panel], sessions: Sessions, news: TokenNews, show: Callable[[int], None]
    ) -> None:
        self.sessions, self.news, self.show = sessions, news, show
        self.report: _Report | None = None
        self.asking = False
        self.panel = _Panel(panels, "Routes", "G", self.read)
        self.panel.button.classes("route")
        with self.panel.tools:
            ui.button("Ask again", icon="refresh", on_click=self.ask).props(f"{ICON} no-caps")
            if sessions.settings.hermes:
                ui.button("Set up again", icon="build", on_click=self.set_up).props(
                    f"{ICON} no-caps"
                )
        with self.panel.body:
            self.lines = ui.element("div").props("role=status")
            self.answers = (
                ui.element("div")
                .props("role=region aria-label=Answers tabindex=0")
                .classes("answers")
            )

    async def read(self) -> None:
        """Show what is known; ask where nothing is."""
        self._draw()
        if not self.report:
            await self.ask()

    async def ask(self) -> None:
        """Ask the routes, as `setup_hermes.py --check` does; once at a time."""
        if not self.asking:
            self.asking, self.report = True, None
            self._draw()
            self.report = await asyncio.to_thread(ask_routes, self.sessions.settings)
            self.asking = False
            self._draw()

    def set_up(self) -> None:
        """Run the setup in a new terminal."""
        if number := self.sessions.set_up_again():
            self.panel.dialog.close()
            self.show(number)
        else:
            ui.notify(
                "All terminals are in use; `exit` in one of them frees its place.", position="top"
            )

    def _draw(self) -> None:
        if self.lines.is_deleted:  # the window has gone
            return
        report = self.report or _Report("Asking the routes …")
        self.lines.clear()
        self.answers.clear()
        with self.lines:
            _text("p", report.line).classes("sum")
            _text("p", self.sessions.note)
            _text("p", token_line(self.sessions.settings, self.news))
            for name, url in report.bases.items():
                _text("p", f"{name}: {url}")
            if self.report:
                _text("p", f"Asked {age(report.time)} ago.")
        with self.answers:
            for model in dict.fromkeys(answer.model for answer in report.answers):
                _text("h3", model)
                with ui.element("ul") as answers:
                    answers.props["aria-label"] = model
                    for answer in report.answers:
                        if answer.model == model:
                            with ui.element("li"):
                                self._row(answer, report.bases)

    def _row(self, answer: Answer, bases: dict[str, str]) -> None:
        mark, word, kind = MARKS[answer.serves]
        _text("span", mark).classes(kind).props("role=img").props["aria-label"] = word
        _text("span", short(answer.base_url, bases))
        _text("span", answer.answer).classes("more")
        _text("p", answer.meaning)


def ask_routes(settings: AppSettings) -> _Report:
    """Ask each route for each model, with the app's own login. It takes seconds, a minute where nothing answers.

    Arguments:
        settings: the app's.

    Returns:
        What they said, or one line that says why nobody was asked.
    """
    try:
        env = settings.env
        if not env.get("DATABRICKS_TOKEN", "").strip():
            # The SDK's own words for a missing login are better than the setup's silence.
            env = settings.shell_env | {"DATABRICKS_TOKEN": bearer(log_in(settings))}
        wanted = read_settings(env)
        prover = Prover(wanted.token, read_learnt(wanted.home))
        routes = choose_routes(wanted, prover)
        served = prover.serves(routes.primary.base_url, routes.primary.model)
        line = f"{wanted.model} answers." if served else verdict(wanted, prover)
        return _Report(line, route_bases(wanted), prover.answers)
    except SettingError as error:
        return _Report(str(error))
    except Exception as error:  # no login, no network: whatever it is, the panel says it
        return _Report(one_line(error))


def token_line(settings: AppSettings, news: TokenNews) -> str:
    """What is known of the token, in a line, without the token."""
    if settings.env.get("DATABRICKS_TOKEN", "").strip():
        return "Token: DATABRICKS_TOKEN, as it was when the app started."
    since = (
        f"Token: the last new one came {age(news.since)} ago."
        if news.since
        else "Token: Hermes has none yet."
    )
    return f"{since} {news.trouble}".strip()


def age(moment: float) -> str:
    """How long ago a moment was, in its largest unit; in words that need no time zone.

    Arguments:
        moment: seconds since 1970.
    """
    seconds = max(time.time() - moment, 0)
    units = (("y", 31_557_600), ("d", 86_400), ("h", 3600), ("min", 60))
    return next(
        (f"{seconds // length:.0f} {unit}" for unit, length in units if seconds >= length),
        f"{seconds:.0f} s",
    )


def size(count: int) -> str:
    """A number of bytes in its largest unit."""
    units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    return next(
        (f"{count / length:.1f} {unit}" for unit, length in units if count >= length), f"{count} B"
    )


def _text(tag: str, text: str) -> TextElement:
    return TextElement(tag=tag, text=text)
