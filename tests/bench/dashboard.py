"""What Hermes's dashboard takes and costs, in headless Chromium; part of `make bench`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.bench.terminal import Row, echo, opened
from tests.conftest import INSTALLED
from tests.served import Served
from tests.standin import StandIn
from tests.webapp.browsing import FLAGS, PROMPT, say, sees


def dashboard_rows() -> Iterator[Row]:
    """From the click on the button to an answered chat, an echo in that chat, and the memory."""
    with (
        StandIn() as standin,
        Served(standin.env, INSTALLED) as served,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        with opened(browser, served) as page:
            sees(page, PROMPT)
            page.locator(".xterm-helper-textarea").focus()
            yield "echo in a terminal's chat, p50", f"{echo(page)[0]:.1f} ms", "", ""
            before, start = memory(served), time.monotonic()
            with page.expect_popup() as popup:
                page.get_by_role("link", name="Dashboard").click()
            tab = popup.value
            tab.get_by_role("link", name="Chat", exact=True).first.click(timeout=60_000)
            yield "click to dashboard", f"{time.monotonic() - start:.1f} s", "", ""
            say(tab, "good morning")
            yield "click to an answered chat", f"{time.monotonic() - start:.1f} s", "", ""
            yield "echo in the dashboard's chat, p50", f"{echo(tab)[0]:.1f} ms", "", ""
            yield "memory without the dashboard", f"{before:.0f} MB", "", "app, one Hermes chat"
            yield "memory with a chat in it", f"{memory(served):.0f} MB", "", "all processes"
        browser.close()


def memory(served: Served) -> float:
    """What the app and all that it started take, in MB; what they share is counted once."""
    size = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"HOME={served.home}\0".encode() in (folder / "environ").read_bytes():
                rollup = (folder / "smaps_rollup").read_text()
                size += int(rollup.partition("\nPss:")[2].split()[0])
    return size * 1024 / 1e6
