"""What the browser's tests and the benchmark share: the page as a person meets it, driven by Playwright."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright, which drives the browser, is not installed")

from playwright.sync_api import Locator, Page, expect

from tests.served import until

SCREENSHOTS = Path(__file__).parents[1] / "screenshots"
PATIENCE = 60_000  # milliseconds
expect.set_options(timeout=PATIENCE)
PROMPT = "\u276f"  # Hermes's
PROMPTS = "projects#" if os.getuid() == 0 else "projects$"  # the shell's
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
SCREEN = "Object.values(mounted_app.$refs).find(r => r?.terminal)"
BUFFER = """() => {
  const page = Object.values(mounted_app?.$refs ?? {}).find(r => r?.terminal);
  if (!page) return "";
  const buffer = page.terminal.buffer.active;
  return Array.from({length: buffer.length}, (_, y) => buffer.getLine(y).translateToString(true)).join("\\n");
}"""

Open = Callable[..., Page]
PHONE = {"width": 390, "height": 844}


def shot(page: Page, name: str) -> None:
    """Keep a picture of what the person sees."""
    drawn(page)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def drawn(page: Page) -> None:
    """Wait until nothing moves any more, and the last frame is drawn."""
    moving = "document.getAnimations().filter(a => a.effect.getComputedTiming().endTime < Infinity)"  # a cursor blinks for ever
    page.evaluate(f"Promise.allSettled({moving}.map(animation => animation.finished))")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def sees(page: Page, text: str) -> None:
    """Wait until a text is on the terminal's screen."""
    expect(page.locator(".xterm-rows")).to_contain_text(text)


def line(page: Page, text: str) -> None:
    """Wait until the thin line says something."""
    expect(page.locator(".line")).to_contain_text(text)


def link(page: Page, text: str) -> None:
    """Wait until the dot's word is this one."""
    word = "() => getComputedStyle(document.querySelector('.link'), '::after').content"
    holds(page, f"({word})().includes({text!r})")


CLIPBOARD = "navigator.clipboard.readText()"


def copied(page: Page, text: str) -> None:
    """Wait until a text is in the clipboard."""
    until(
        lambda: page.evaluate(CLIPBOARD) == text,
        lambda: f"{page.evaluate(CLIPBOARD)!r} is in the clipboard",
    )


def run(page: Page, command: str) -> None:
    page.locator(".xterm-helper-textarea").focus()
    page.keyboard.type(f"{command}\n")


def prompt(page: Page) -> None:
    """Wait for Hermes's prompt; 0.22 first asks whether it may collect metrics."""
    screen = page.locator(".xterm-rows")
    expect(screen).to_contain_text(re.compile(f"{PROMPT}|No thanks"))
    if PROMPT not in screen.inner_text():
        run(page, "")
    sees(page, PROMPT)


def submit(page: Page, text: str, answer: str) -> None:
    """Type a line into Hermes and wait for its answer. An Enter that comes too soon after a text is taken for part of it."""
    page.locator(".xterm-helper-textarea").focus()  # a click elsewhere took it
    page.keyboard.type(text)
    sees(page, text)
    screen = page.locator(".xterm-rows")
    for _ in range(3):
        page.keyboard.press("Enter")
        with suppress(AssertionError):
            return expect(screen).to_contain_text(answer, timeout=PATIENCE / 3)
    raise AssertionError(f"no answer to {text!r}: {screen.inner_text()}")


def tabs(page: Page) -> list[str]:
    return page.locator(".tabs .number").all_inner_texts()


class Relay:
    """A wire between the browser and the app that can be cut; a context manager."""

    def __init__(self, port: int) -> None:
        self.target, self.up, self.pairs = port, True, list[socket.socket]()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://localhost:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self.listener.close()

    def cut(self) -> None:
        """Lose every connection, and each new one."""
        self.up = False
        for connection in self.pairs:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                if not self.up:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self.target))
                self.pairs += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError), closing(sink):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)


def drop(page: Page, *paths: Path) -> None:
    """Drop files and folders of this machine on the page, as its window manager would."""
    devtools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data})


@contextmanager
def slow(page: Page) -> Iterator[None]:
    """A line that sends 2 MB a second, for as long as the context."""
    devtools = page.context.new_cdp_session(page)
    for speed in (2_000_000, -1):
        limits = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": speed}
        devtools.send("Network.emulateNetworkConditions", {"offline": False, **limits})
        if speed > 0:
            yield


def dialog(page: Page, name: str) -> Locator:
    return page.get_by_role("dialog", name=name)


def named(panel: Locator) -> None:
    """Whatever a person can act on has a name for a screen reader."""
    acts = re.findall(
        r"- (?:button|link|textbox|region|img|list)\b.*", snapshot := panel.aria_snapshot()
    )
    assert len(acts) > 4, snapshot
    assert [act for act in acts if not re.match(r'- \w+ "\S', act)] == [], snapshot


def typed(page: Page, text: str) -> None:
    """Wait until a text stands at the prompt, however it is broken into rows."""
    holds(page, f"text => (({BUFFER})()).replaceAll('\\n', '').includes(text)", arg=text)


def holds(page: Page, condition: str, arg: object = None) -> None:
    """Wait until JavaScript gives what counts as true; asked at each frame, it would be most of the browser's work."""
    page.wait_for_function(condition, arg=arg, polling=100)


def ready(page: Page) -> None:
    """Wait for the shell's prompt."""
    sees(page, PROMPTS)


def focused(page: Page) -> None:
    """Wait until the terminal has the keyboard."""
    expect(page.locator(".xterm-helper-textarea")).to_be_focused()


def say(tab: Page, text: str) -> None:
    """Ask in the dashboard's chat, and wait for the answer.

    The text is put in at once. Of single keys, Hermes 0.19.0's own chat loses some on a busy machine:
    its `TextInput` takes an earlier value back when it draws two of them after another.
    """
    sees(tab, "ready")
    tab.locator(".xterm-helper-textarea").focus()
    tab.keyboard.insert_text(text)
    sees(tab, text)
    tab.keyboard.press("Enter")
    words = f"/: {text}/.test(document.querySelector('.xterm-rows').textContent)"
    holds(tab, words)
