"""The documents that are made by running the program: `make docs` writes them anew.

docs/check.md holds commands; below each stands what it prints on the stand-in. The pictures are of
the app of today on the stand-in, in Chromium.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from setup_hermes import main
from tests.conftest import ROOT
from tests.standin import StandIn
from tests.standin.command import parse

DOCS = ROOT / "docs"
CHECK = DOCS / "check.md"
BLOCK = re.compile(r'^```\n\$ make check STANDIN_OPTIONS="(.*)"\n[\s\S]*?^```$', re.MULTILINE)
MOST = 150_000  # bytes of a picture


def checked(block: re.Match[str]) -> str:
    """A block of docs/check.md with what its command prints today."""
    fields = parse([*shlex.split(block[1]), "--", "make"]).fields
    with TemporaryDirectory() as home, StandIn(**fields) as standin, StringIO() as said:
        env = standin.env | {"HOME": home}  # nothing was learnt before
        with patch.dict(os.environ, env, clear=True), redirect_stdout(said), redirect_stderr(said):
            main(["--check"], env)
        return f'```\n$ make check STANDIN_OPTIONS="{block[1]}"\n{said.getvalue()}```'


def take_pictures() -> None:
    """Take the pictures of the README."""
    from playwright.sync_api import sync_playwright

    from tests.served import Served
    from tests.webapp.browsing import FLAGS, PATIENCE, prompt, sees

    chromium = shutil.which("chromium") or sys.exit("chromium, the browser, is not installed")
    with (
        StandIn(world="enforced") as standin,  # as Databricks creates a workspace now
        Served(standin.env, ROOT / ".demo") as served,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 700})
        page.set_default_timeout(PATIENCE)

        def shot(name: str, where: str = "body") -> None:
            path = DOCS / f"{name}.png"
            page.locator(where).screenshot(path=path, animations="disabled")
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")
            assert path.stat().st_size < MOST

        page.goto(served.url)
        prompt(page)
        page.keyboard.type("good morning")
        sees(page, "good morning")
        page.keyboard.press("Enter")
        sees(page, "✓ ")
        page.get_by_role("link", name="Dashboard", exact=True).wait_for()
        shot("terminal")

        fill(served.home / "projects")
        page.set_viewport_size({"width": 600, "height": 300})
        page.keyboard.press("Control+Shift+E")
        page.get_by_role("dialog", name="Files").get_by_text("report.md").wait_for()
        shot("files")
        page.keyboard.press("Escape")
        page.set_viewport_size({"width": 600, "height": 480})
        page.keyboard.press("Control+Shift+G")
        page.get_by_role("dialog", name="Routes").get_by_text("Asked").wait_for()
        shot("routes")

        page = browser.new_page(viewport={"width": 1200, "height": 700})
        page.goto(f"{served.url}/hermes/chat")
        sees(page, "ready")
        page.locator(".xterm-helper-textarea").focus()
        page.keyboard.type("good morning", delay=100)
        page.keyboard.press("Enter")
        sees(page, "through")
        shot("dashboard")
        browser.close()


def fill(folder: Path) -> None:
    """Put into a folder what a person may have there, each older than the one before."""
    files = ("uploads/sales.csv", 1_800_000), ("report.md", 4200), ("pipeline/etl.py", 900)
    for hours, (name, size) in enumerate(files, 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b" " * size)
        for path in (folder / name, (folder / name).parent):
            if path != folder:
                os.utime(path, (time.time() - 3600 * hours,) * 2)


if __name__ == "__main__":
    CHECK.write_text(BLOCK.sub(checked, CHECK.read_text()))
    take_pictures()
