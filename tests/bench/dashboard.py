"""What Hermes's dashboard takes and costs, in headless Chromium; part of `make bench`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.bench.rows import Row, chromium, opened
from tests.bench.terminal import echo
from tests.conftest import INSTALLED
from tests.served import Served
from tests.standin import StandIn
from tests.webapp.browsing import PROMPT, say, sees


def dashboard_rows() -> Iterator[Row]:
    """From the click on the button to an answered chat, an echo in that chat, and the memory."""
    with (
        StandIn() as standin,
        Served(standin.env, INSTALLED) as served,
        chromium() as browser,
        opened(browser, served) as page,
    ):
        sees(page, PROMPT)
        page.locator(".xterm-helper-textarea").focus()
        beside, before, start = echo(page)[0], memory(served), time.monotonic()
        with page.expect_popup() as popup:
            page.get_by_role("link", name="Dashboard").click()
        tab = popup.value
        tab.get_by_role("link", name="Chat", exact=True).first.click(timeout=60_000)
        yield Row("click to Hermes's dashboard", f"{time.monotonic() - start:.1f} s")
        say(tab, "good morning")
        yield Row("click to an answered chat there", f"{time.monotonic() - start:.1f} s")
        note = f"beside {beside:.1f} ms in the terminal's chat"
        yield Row("keystroke echo there, p50", f"{echo(tab)[0]:.1f} ms", note=note)
        note = f"all processes; {before:.0f} MB with a chat in the terminal alone"
        yield Row("memory with a chat there", f"{memory(served):.0f} MB", note=note)


def memory(served: Served) -> float:
    """What the app and all that it started take, in MB; what they share is counted once."""
    size = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"HOME={served.home}\0".encode() in (folder / "environ").read_bytes():
                rollup = (folder / "smaps_rollup").read_text()
                size += int(rollup.partition("\nPss:")[2].split()[0])
    return size * 1024 / 1e6
