"""The app, a workspace for it, and a browser on it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.served import Served
    from tests.standin import StandIn
    from tests.webapp.browsing import Open


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for the tests of a module: an event loop runs in this thread while it is there."""
    from playwright.sync_api import sync_playwright

    from tests.webapp.browsing import FLAGS, SCREENSHOTS

    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("chromium, the browser, is not installed")
    SCREENSHOTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def window(browser: Browser) -> Iterator[Open]:
    """Opens windows of 1200 by 700 pixels; fails if one of them reports an error of its own."""
    from tests.webapp.browsing import PATIENCE

    contexts, errors = [], []

    def open_window(url: str, **options: object) -> Page:
        whole: dict[str, Any] = {"viewport": {"width": 1200, "height": 700}, **options}
        contexts.append(browser.new_context(**whole))
        contexts[-1].set_default_timeout(PATIENCE)
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        return page

    yield open_window
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="module")
def workspace() -> Iterator[StandIn]:
    """A workspace that serves all that a module's tests ask."""
    from tests.standin import StandIn

    with StandIn() as standin:
        yield standin


@pytest.fixture(scope="session")
def stub_hermes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which a program called hermes greets, for what asks nothing else of Hermes."""
    folder = tmp_path_factory.mktemp("stub")
    program = folder / ".local" / "bin" / "hermes"
    program.parent.mkdir(parents=True)
    program.write_text(
        '#!/bin/sh\n[ "$1" = chat ] && echo "Welcome to Hermes \u276f" && exec cat\n'
    )
    program.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def shells_of_module(workspace: StandIn) -> Iterator[Served]:
    """The app without Hermes."""
    from tests.served import Served

    with Served(workspace.env) as served:
        yield served


@pytest.fixture
def shells(shells_of_module: Served) -> Served:
    """The app without Hermes, one for a module, with no terminal open and nothing in its home."""
    empty(shells_of_module)
    return shells_of_module


@pytest.fixture
def page(window: Open, shells: Served) -> Page:
    """A window on that app's first terminal, at its shell's prompt."""
    from tests.webapp.browsing import ready

    page = window(shells.url)
    ready(page)
    return page


def empty(served: Served) -> None:
    """End all that runs in an app's terminals, and delete what is in its home."""

    def terminals() -> list[str]:
        found = []
        for descriptor in Path(f"/proc/{served.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.append(os.readlink(descriptor))
        return [name for name in found if "ptmx" in name]

    def ended() -> bool:
        for number in served.numbers():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        return not terminals()

    until(ended, lambda: f"{terminals()} and {served.processes()} stay")
    for name in ("projects", ".hermes"):
        shutil.rmtree(served.home / name, ignore_errors=True)
