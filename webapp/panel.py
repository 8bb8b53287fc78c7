"""What every panel of the page is made of."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

ICON = "flat dense color=grey-4"
# After the last panel the terminal has the keyboard.
BACK = (
    "() => document.querySelector('.panel') || document.querySelector('.screen textarea').focus()"
)
# A key opens what names it as its own.
SHORTCUTS = """addEventListener("keydown", event => {
  const held = ["Control", "Alt", "Shift", "Meta"].filter(key => event.getModifierState(key));
  const keys = CSS.escape([...held, event.key.toUpperCase()].join("+"));
  const button = held.length && document.querySelector(`[aria-keyshortcuts="${keys}"]`);
  if (button) { event.preventDefault(); event.stopPropagation(); button.click(); }
}, true);"""


class Panel:
    """A dialog at the right, and the button that opens and closes it.

    Arguments:
        panels: the page's; one is open at a time.
        title: its name.
        key: a letter that is the button, with Control and Shift.
        read: shows what is so now.
    """

    def __init__(
        self, panels: list[Panel], title: str, key: str, read: Callable[[], Awaitable[None]]
    ) -> None:
        self.panels, self.read = panels, read
        panels.append(self)
        self.button = ui.button(title, on_click=self.toggle).props(
            f"{ICON} no-caps no-wrap aria-haspopup=dialog"
        )
        # No tooltip of Quasar's: on a phone it stays, over the panel.
        self.button.props(f'aria-keyshortcuts=Control+Shift+{key} title="Ctrl+Shift+{key}"')
        with ui.dialog().props(
            f"position=right no-refocus transition-duration=100 aria-label={title}"
        ) as self.dialog:
            self.body = ui.element("section").classes("panel")
        self.dialog.on("hide", js_handler=BACK)
        with self.body, ui.element("header"):
            element("h2", title)
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


def element(tag: str, text: str) -> TextElement:
    """An HTML element with a text in it."""
    return TextElement(tag=tag, text=text)


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
