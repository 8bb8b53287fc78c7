"""What the parts of `make bench` share: a row of the table, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from playwright.sync_api import Browser, Page, sync_playwright

from tests.served import Served
from tests.webapp.browsing import FLAGS


class Row(NamedTuple):
    """What was measured."""

    name: str
    value: str
    target: str = ""
    note: str = ""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser."""
    path = shutil.which("chromium")
    if not path:
        raise SystemExit("The figures need chromium, which is not installed.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, served: Served) -> Iterator[Page]:
    """A window on the app."""
    context = browser.new_context(viewport={"width": 1200, "height": 700})
    page = context.new_page()
    page.goto(served.url)
    page.wait_for_selector(".xterm-rows")
    yield page
    context.close()
