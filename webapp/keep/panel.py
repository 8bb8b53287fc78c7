"""What is saved, what is not and why; and the choice at a start that cannot go on by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby

from nicegui import ui

from webapp.keep.keeper import Keeper, Phase, Status, describe_history
from webapp.keep.selection import LeftOut
from webapp.panel import BACK, ICON, Panel, element

SHOWN = 200  # entries for each reason


class KeepPanel:
    """The panel "Saved", whose button is the thin line's text about it.

    Arguments:
        panels: the page's.
        keeper: what saves.
    """

    def __init__(self, panels: list[Panel], keeper: Keeper) -> None:
        self.keeper = keeper
        self.panel = Panel(panels, "Saved", "L", self.read)
        self.panel.button.classes("kept")
        with self.panel.tools:
            ui.button(icon="refresh", on_click=self.read).props(f'{ICON} aria-label="Read again"')
        with self.panel.body:
            self.lines = ui.element("div").props("role=status")
            self.entries = ui.element("div").classes("answers")
            self.entries.props('role=region aria-label="Not saved" tabindex=0')

    async def read(self) -> None:
        """Show what is so now."""
        status = self.keeper.status
        self.lines.clear()
        self.entries.clear()
        with self.lines:
            for line in summary(status):
                element("p", line)
        with self.entries:
            if status.missing:
                element("h3", "Not brought back; it stays saved")
                _list(status.missing, status.missing_count)
            reasons = groupby(sorted(status.left_out, key=_reason), _reason)
            for (by_rule, reason), entries in reasons:
                element("h3", f"Not saved{' by rule' if by_rule else ''}: {reason}")
                _list(tuple(one._replace(reason="") for one in entries))

    def describe(self) -> None:
        """Bring the button's text up to date."""
        note = self.keeper.status.note
        self.panel.button.set_text(note)
        self.panel.button.set_visibility(bool(note))


class StartNotice:
    """What a start waits for that cannot go on by itself, with a button for each way out."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self._shown: tuple[object, ...] = ()
        with ui.element("aside").classes("once").props("role=status") as self.notice:
            self.content = ui.element("div").classes("choices")
        self.notice.set_visibility(False)

    def describe(self) -> None:
        """Bring it up to date."""
        status = self.keeper.status
        shown = (status.notice, status.histories)
        if shown == self._shown:
            return
        self._shown = shown
        self.notice.set_visibility(bool(status.notice))
        self.content.clear()
        with self.content:
            ui.label(status.notice)
            for one in status.histories:
                self._button(describe_history(one), partial(self.keeper.choose, one.name))
            if status.may_start_without:
                text = "Start without any" if status.histories else "Start without it"
                self._button(text, self.keeper.start_without)

    def _button(self, text: str, action: Callable[[], None]) -> None:
        button = ui.button(text, on_click=action)
        button.props("outline dense no-caps no-wrap color=grey-4").on("click", js_handler=BACK)


def summary(status: Status) -> list[str]:
    """How it stands, a line for each thing."""
    lines = [status.note]
    if status.phase is Phase.SAVING:
        lines.append(f"{status.files} files, {status.size / 1e6:.1f} MB, in {status.folder}")
    if status.readers and not status.exposed:
        lines.append(f"{status.readers[0].upper()}{status.readers[1:]}.")
    if (more := status.left_out_count - len(status.left_out)) > 0:
        lines.append(f"{more} more that are not saved are not named here.")
    return lines


def _reason(one: LeftOut) -> tuple[bool, str]:
    return one.by_rule, one.reason


def _list(entries: tuple[LeftOut, ...], count: int = 0) -> None:
    with ui.element("ul"):
        for one in entries[:SHOWN]:
            path = one.path if one.path.isprintable() else ascii(one.path)
            with ui.element("li"):
                element("span", "")
                element("span", f"{path} ({one.reason})" if one.reason else path)
        if (more := max(count, len(entries)) - SHOWN) > 0:
            element("li", f"and {more} more")
