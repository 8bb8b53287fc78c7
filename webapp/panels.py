"""The panels of the page, and what the routes say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nicegui import ui

from hermes.answers import Answer
from hermes.choice import prove
from hermes.learnt import LEARNT, PLUGIN, Learnt, read_learnt
from hermes.login import load_settings
from hermes.report import both_names, route_bases, short, substitution, verdict
from hermes.small_file import is_small_file
from hermes.urls import SettingError
from webapp.files.panel import FilesPanel
from webapp.keep.panel import KeepPanel
from webapp.panel import ICON, SHORTCUTS, Panel, age, element
from webapp.sessions import Sessions
from webapp.settings import AppSettings
from webapp.tokens import TokenNews, bearer, log_in, one_line

MARKS = {
    True: ("✓", "serves the model", "yes"),
    False: ("✗", "does not serve the model", "no"),
    None: ("?", "not known", "unknown"),
}


class Panels(NamedTuple):
    """What the thin line keeps up to date."""

    routes: ui.button  # its text is the model and the route
    kept: KeepPanel | None  # None where nothing is saved


def add_panels(sessions: Sessions, news: TokenNews, show: Callable[[int], None]) -> Panels:
    """Put the panels into the page, and their buttons here.

    Arguments:
        sessions: the terminals.
        news: what is known of the token.
        show: shows a terminal.

    Returns:
        What has a text that changes.
    """
    ui.add_css(Path(__file__).parent / "panels.css")
    ui.add_body_html(f"<script>{SHORTCUTS}</script>")
    panels = list[Panel]()
    routes = _RoutesPanel(panels, sessions, news, show)
    FilesPanel(panels, sessions.settings.home / "projects")
    kept = KeepPanel(panels, sessions.keeper) if sessions.keeper else None
    return Panels(routes.panel.button, kept)


@dataclass(frozen=True)
class _Report:
    """What the routes said."""

    line: str  # the sum of it
    bases: dict[str, str] = field(default_factory=dict)  # URLs by name: where routes begin
    answers: list[Answer] = field(default_factory=list)
    time: float = field(default_factory=time.time)


class _RoutesPanel:
    """What each route says about each model, and what can be done.

    It needs neither Hermes nor a setup that went well.
    """

    def __init__(
        self, panels: list[Panel], sessions: Sessions, news: TokenNews, show: Callable[[int], None]
    ) -> None:
        self.sessions, self.news, self.show = sessions, news, show
        self.report: _Report | None = None
        self.asking = False
        self.panel = Panel(panels, "Routes", "G", self.read)
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
            ui.notify(self.sessions.full, position="top")

    def _draw(self) -> None:
        if self.lines.is_deleted:  # the window has gone
            return
        report = self.report or _Report("Asking the routes …")
        self.lines.clear()
        self.answers.clear()
        with self.lines:
            element("p", report.line).classes("sum")
            element("p", self.sessions.note)
            element("p", token_line(self.sessions.settings, self.news))
            for name, url in report.bases.items():
                element("p", f"{name}: {url}")
            if self.report:
                element("p", f"Asked {age(report.time)} ago.")
        with self.answers:
            for model in dict.fromkeys(answer.place.model for answer in report.answers):
                element("h3", model)
                with ui.element("ul") as answers:
                    answers.props["aria-label"] = model
                    for answer in (one for one in report.answers if one.place.model == model):
                        with ui.element("li"):
                            self._row(answer, report.bases)

    def _row(self, answer: Answer, bases: dict[str, str]) -> None:
        mark, word, kind = MARKS[answer.serves]
        element("span", mark).classes(kind).props("role=img").props["aria-label"] = word
        element("span", short(answer.place.base_url, bases))
        element("span", answer.answer).classes("more")
        element("p", answer.meaning)


def ask_routes(settings: AppSettings) -> _Report:
    """Ask each route for each model, with the app's own login.

    It takes seconds, or a minute where nothing answers.

    Returns:
        What they said, or one line that says why nobody was asked.
    """
    try:
        env = settings.env
        if not settings.token:
            # The SDK's own words for a missing login are better than the setup's silence.
            env = settings.shell_env | {"DATABRICKS_TOKEN": bearer(log_in(settings))}
        wanted = load_settings(env)
        # A FIFO in its place would hold up the panel for good.
        is_there = is_small_file(wanted.home / PLUGIN / LEARNT)
        proof = prove(wanted, read_learnt(wanted.home) if is_there else Learnt())
        answers = f"{both_names(wanted.model, proof.routes.primary.model)} answers."
        line = f"{substitution(proof)} {answers}" if proof.answers_at_all else verdict(proof)
        return _Report(line.strip(), route_bases(wanted), list(proof.answers))
    except SettingError as error:
        return _Report(str(error))
    except Exception as error:  # no login, no network: whatever it is, the panel says it
        return _Report(one_line(error))


def token_line(settings: AppSettings, news: TokenNews) -> str:
    """What is known of the token, in a line, without the token."""
    if settings.token:
        return "Token: DATABRICKS_TOKEN, as it was when the app started."
    since = (
        f"Token: the last new one came {age(news.since)} ago."
        if news.since
        else "Token: Hermes gets its first from the setup."
    )
    return f"{since} {news.trouble}".strip()
