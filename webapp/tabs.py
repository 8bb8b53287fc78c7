"""The tabs of the open terminals, each with a ✕ that ends it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nicegui import ui

from webapp.panel import BACK, ICON, element
from webapp.sessions import Sessions
from webapp.terminal.pty import Terminal


class Tabs:
    """One tab for each terminal, where there may be more than the one that shows.

    Arguments:
        sessions: the terminals.
        show: shows one.
    """

    def __init__(self, sessions: Sessions, show: Callable[[int], None]) -> None:
        self.sessions, self.show = sessions, show
        self.asked: Terminal | None = None  # which one the question is about
        self.nav = ui.element("nav").classes("tabs").props("aria-label=Terminals")
        with ui.dialog() as self.question, ui.element("section").classes("question"):
            self.question.props('role=alertdialog aria-label="End the terminal?"')
            self.text = element("p", "")
            keep = ui.button("Keep it", on_click=self.question.close)
            keep.props("flat no-caps color=white autofocus")
            ui.button("End it", on_click=self._end).props("flat no-caps color=white")
        self.question.on("hide", js_handler=BACK)

    def draw(self, shown: int) -> None:
        """Draw them anew.

        Arguments:
            shown: the number of the terminal that shows.
        """
        numbers = sorted(self.sessions.open)
        self.nav.clear()
        if len(numbers) < min(2, self.sessions.settings.limit):
            return
        with self.nav:
            for number in numbers:
                self._draw_tab(number, number == shown)

    def _draw_tab(self, number: int, shown: bool) -> None:
        with ui.element("span").classes("tab shown" if shown else "tab"):
            tab = ui.button(str(number), on_click=partial(self.show, number)).classes("number")
            tab.props(f'{ICON} aria-label="Terminal {number}"')
            tab.props("aria-current=true" if shown else "")
            end = ui.button("✕", on_click=partial(self._ask, number)).classes("end")
            end.props(f'{ICON} aria-label="End terminal {number}" title="End terminal {number}"')

    def _ask(self, number: int) -> None:
        """End a terminal; ask before that where a program runs in it."""
        self.asked = self.sessions.open.get(number)
        if self.asked and self.asked.busy:
            self.text.text = f"A program runs in terminal {number}, and ends with it."
            self.question.open()
        else:
            self._end()

    def _end(self) -> None:
        self.question.close()
        if self.asked:
            self.sessions.end(self.asked)
