"""The panel of the projects folder."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

from nicegui import ui

from webapp.files.folder import Entry, address, list_folder, shown, text
from webapp.panel import ICON, Panel, age, element

MOST = 200  # entries shown of one folder
SCRIPTS = ("wire.js", "drop.js", "fetch.js")
LATEST = 253_402_300_799  # seconds since 1970: the end of the year 9999


class FilesPanel:
    """The projects folder: a folder opens, a file is downloaded, and so is a folder, as a zip."""

    def __init__(self, panels: list[Panel], root: Path) -> None:
        here = Path(__file__).parent
        script = "\n".join((here / name).read_text() for name in SCRIPTS)
        ui.add_body_html(f"<script>{script}</script>")
        self.root, self.parts, self.reading = root, list[str](), 0
        self.panel = Panel(panels, "Files", "E", self.read)
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
            self.note = element("p", "").props("role=status")
        ui.on("given", self.read)

    async def read(self) -> None:
        """List the folder."""
        self.reading += 1
        mine, word = self.reading, self.word.value or ""
        entries, count = list[Entry](), 0
        try:
            found = await asyncio.to_thread(list_folder, self.root, self.parts, word, MOST)
            entries, count = found
            note = "" if count else "Nothing here."
        except OSError as error:
            note = f"{error.strerror or 'It cannot be read'}."
        if count > len(entries):
            note = f"The newest {len(entries)} of {count}; the filter finds the others."
        # A later one knows better, or the window has gone.
        if mine == self.reading and not self.list.is_deleted:
            self.note.text = note
            self._draw(entries)

    def _draw(self, entries: list[Entry]) -> None:
        self.way.clear()
        with self.way:
            for depth in range(len(self.parts) + 1):
                name = shown(self.parts[depth - 1]) if depth else "projects"
                step = ui.button(f"{name} /", on_click=partial(self.go, self.parts[:depth]))
                step.props(f"{ICON} no-caps")
                step.props("aria-current=page" if depth == len(self.parts) else "")
        self.list.clear()
        with self.list:
            for entry in entries:
                with ui.element("li"):
                    self._row(entry)

    def _row(self, entry: Entry) -> None:
        name, path = shown(entry.name), [*self.parts, entry.name]
        if entry.link:
            element("span", name).classes("plain")
            element("span", "link, not followed").classes("more")
        elif entry.folder:
            opens = element("button", f"{name}/").classes("name").props("type=button")
            opens.on("click", partial(self.go, path))
            packs = element("button", "zip").classes("name").props("type=button")
            packs.props["aria-label"] = f"{name} as a zip"
            # Read by fetch.js, as are the next ones.
            packs.props["data-folder"] = address(path)
            packs.props["data-name"] = f"{text(entry.name)}.zip"
        else:
            link = ui.link(name, address(path)).props("download").classes("name")
            link.props["data-size"] = entry.size
            link.props["data-name"] = text(entry.name)
            element("span", size(entry.size)).classes("more")
        element("span", age(entry.time)).classes("more").props["title"] = date(entry.time)

    async def go(self, parts: list[str]) -> None:
        """Show another folder."""
        self.parts = parts
        self.word.set_value("")
        await self.read()


def date(moment: float) -> str:
    """A file's time in UTC, from 1970 to 9999: file systems know years that no calendar has."""
    return time.strftime("%F %T UTC", time.gmtime(min(max(moment, 0), LATEST)))


def size(count: int) -> str:
    """A number of bytes in its largest unit."""
    units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    return next(
        (f"{count / length:.1f} {unit}" for unit, length in units if count >= length), f"{count} B"
    )
