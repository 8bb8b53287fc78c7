"""The terminal in the browser, a component of NiceGUI."""

from __future__ import annotations

from nicegui import ui


class Screen(ui.xterm, component="screen.js"):
    """The terminal in the browser: `screen.js`, next to this file."""
