"""How fast the app is, in headless Chromium on this machine; part of `make bench`."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.bench.rows import Row, chromium, opened
from tests.conftest import INSTALLED
from tests.served import Served
from tests.standin import StandIn
from tests.webapp.browsing import PROMPT, run, sees

KEYS = 200
FLOOD = 60_000_000  # bytes
# From the key to the frame that shows it.
WATCH = """() => {
  const rows = document.querySelector(".xterm-rows");
  window.echoes = [];
  let pressed = 0, before = "";
  addEventListener("keydown", () => { before = rows.textContent; pressed = performance.now(); }, true);
  new MutationObserver(() => {
    if (pressed && rows.textContent !== before) { echoes.push(performance.now() - pressed); pressed = 0; }
  }).observe(rows, {subtree: true, childList: true, characterData: true});
}"""
# From the Enter key to the frame after the one that has the text; by the browser's clock, where both happen.
UNTIL = """text => {
  const rows = document.querySelector(".xterm-rows");
  window.flooded = null;
  addEventListener("keydown", () => {
    const pressed = performance.now();
    const look = () => requestAnimationFrame(() => {
      if (!rows.textContent.includes(text)) look();
      else requestAnimationFrame(() => { flooded = performance.now() - pressed; });
    });
    look();
  }, {capture: true, once: true});
}"""


def memory(served: Served) -> float:
    """The server's resident memory in MB, without the programs in its terminals."""
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


def echo(page: Page) -> tuple[float, float]:
    """Milliseconds from a key to its character on the screen: the median, and what 95 of 100 stay below."""
    page.evaluate(WATCH)
    for n in range(KEYS):
        page.keyboard.press("x")
        page.wait_for_function("n => echoes.length > n", arg=n)
        page.wait_for_timeout(10 + 7 * n % 23)
    page.keyboard.press("Control+u")
    times = page.evaluate("echoes")[:KEYS]
    return statistics.median(times), statistics.quantiles(times, n=20)[-1]


def flood(page: Page, command: str) -> float:
    """Seconds from the Enter key until the last line of a command's output is on the screen."""
    page.keyboard.type(f"{command}; echo the $((1)) end")
    page.evaluate(UNTIL, "the 1 end")
    page.keyboard.press("Enter")
    page.wait_for_function("flooded !== null", timeout=300_000)
    seconds = float(page.evaluate("flooded")) / 1000
    run(page, "clear")
    page.wait_for_function(
        "!document.querySelector('.xterm-rows').textContent.includes('the 1 end')"
    )
    return seconds


def boot(browser: Browser, env: dict[str, str], hermes: Path | None) -> tuple[float, float]:
    """Seconds from the start of the process to the first page, and to Hermes's prompt in it."""
    start = time.monotonic()
    with Served(env, hermes) as served, opened(browser, served) as page:
        shown = time.monotonic() - start
        sees(page, PROMPT)
        return shown, time.monotonic() - start


def opening(browser: Browser, served: Served) -> float:
    """Seconds from the opening of a window to what its terminal shows."""
    start = time.monotonic()
    with opened(browser, served) as page:
        sees(page, "This is a shell")
        return time.monotonic() - start


def terminal_rows() -> Iterator[Row]:
    """The app with shells alone, then with Hermes, and its boot."""
    with chromium() as browser, StandIn() as standin:
        with Served(standin.env) as served, opened(browser, served) as page:
            sees(page, "This is a shell")
            seconds = statistics.median(opening(browser, served) for _ in range(5))
            yield Row("from the page's opening to its terminal", f"{seconds:.2f} s")
            page.locator(".xterm-helper-textarea").focus()
            median, most = echo(page)
            yield Row("keystroke echo, p50", f"{median:.1f} ms", "< 12 ms", f"{KEYS} keys")
            yield Row("keystroke echo, p95", f"{most:.1f} ms")
            lines = statistics.median(flood(page, "seq 1 300000") for _ in range(3))
            yield Row("300,000 lines of output", f"{lines:.2f} s", "< 1.0 s")
            yield Row("server's memory, scrollback full", f"{memory(served):.0f} MB", "< 150 MB")
            text = "some hundred bytes of output, again and again"
            seconds = flood(page, f"yes '{text}' | head -c {FLOOD}")
            yield Row("60 MB of output", f"{seconds:.1f} s", "< 10.5 s")
            yield Row("server's memory after it", f"{memory(served):.0f} MB", "no growth")
        with (
            StandIn(oauth=3600) as principal,
            Served(principal.env, INSTALLED) as served,
            opened(browser, served) as page,
        ):
            sees(page, PROMPT)
            page.wait_for_timeout(3000)  # databricks-sdk is loaded beside Hermes's start
            yield Row("server's memory with OAuth tokens", f"{memory(served):.0f} MB", "< 150 MB")
        boots = [boot(browser, standin.env, INSTALLED) for _ in range(3)]
        shown, ready = map(statistics.median, zip(*boots, strict=True))
        yield Row("boot to first page", f"{shown:.2f} s", "< 1.8 s")
        yield Row("boot to Hermes ready, installed", f"{ready:.1f} s")
        # No package index is there: what `make` once downloaded stands for it.
        env = standin.env | {"UV_CACHE_DIR": str(INSTALLED / ".cache" / "uv"), "UV_OFFLINE": "1"}
        with tempfile.TemporaryDirectory() as empty:
            _, ready = boot(browser, env, Path(empty))
        note = "packages from a cache"
        yield Row("boot to Hermes ready, not installed", f"{ready:.1f} s", note=note)
