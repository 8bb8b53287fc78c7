"""webapp/files/*.js: no request is long, in a real Chromium behind a proxy that cuts."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("nicegui", reason="the app needs nicegui, which is not installed")
pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")
pytest.importorskip("playwright", reason="playwright, which drives the browser, is not installed")

from playwright.sync_api import Page, expect

from tests.served import Served, until
from tests.webapp.browsing import Open, dialog, drop, holds, ready, shot, typed
from tests.webapp.front import Front


@pytest.fixture
def projects(shells: Served) -> Path:
    """The folder that is served, empty."""
    root = shells.home / "projects"
    root.mkdir(exist_ok=True)
    return root


LONG = 300_000  # milliseconds, for 500 MB at 20 MB/s on a busy machine


def downloaded(page: Page, name: str) -> Path:
    """Click a name in the panel, and wait for its file."""
    with page.expect_download(timeout=LONG) as caught:
        dialog(page, "Files").get_by_label(name, exact=True).or_(
            dialog(page, "Files").get_by_role("link", name=name, exact=True)
        ).click()
    return Path(caught.value.path())


@pytest.mark.fault("network")
@pytest.mark.parametrize(
    "size", [30_000_000, pytest.param(500_000_000, marks=pytest.mark.slow)], ids=["30", "500"]
)
def test_files_go_in_and_out_though_each_request_is_cut(
    window: Open, shells: Served, projects: Path, tmp_path: Path, size: int
) -> None:
    """3 MB a request: less than a whole piece. Chromium by itself goes on five times."""
    bodies = {name: os.urandom(part) for name, part in (("a", size // 2), ("b", size // 4))}
    bodies["c"] = bodies["b"]
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body)
    large = os.urandom(max(size, 45_000_000))
    (projects / "large").write_bytes(large)
    with Front(shells.port, 20_000_000) as front:
        page = window(front.url)
        page.set_default_timeout(LONG)
        ready(page)
        front.most = 3_000_000
        drop(page, *(tmp_path / name for name in bodies))
        typed(page, f"{projects}/uploads/c")
        for name, body in bodies.items():
            assert (projects / "uploads" / name).read_bytes() == body
        before = front.cuts
        assert before > 0
        page.keyboard.press("Control+Shift+E")
        assert downloaded(page, "large").read_bytes() == large
        assert front.cuts - before > 5
        with zipfile.ZipFile(downloaded(page, "uploads as a zip")) as archive:
            assert {n: archive.read(f"uploads/{n}") for n in bodies} == bodies
    expect(page.locator(".giving")).to_have_count(2)
    expect(page.locator(".giving:visible")).to_have_count(0)
    until(lambda: list(projects.rglob(".*")) == [], lambda: str(list(projects.rglob(".*"))))


@pytest.mark.fault("file")
def test_a_file_that_changes_while_its_download_is_cut_is_no_mixture(
    window: Open, shells: Served, projects: Path
) -> None:
    large = projects / "large"
    large.write_bytes(bytes(40_000_000))
    with Front(shells.port, 3_000_000) as front:
        page = window(front.url)
        ready(page)
        page.keyboard.press("Control+Shift+E")
        dialog(page, "Files").get_by_role("link", name="large").click()
        holds(page, "document.querySelector('.giving progress')?.value > 0.05")
        shot(page, "19-download")
        large.write_bytes(b"1" * 40_000_000)
        front.lose()
        expect(page.locator(".giving")).to_contain_text("the connection was lost, trying again")
        front.up = True
        expect(page.locator(".giving li")).to_have_text(
            "large: it changed meanwhile; download it again."
        )
        page.get_by_role("button", name="Close").last.click()
        expect(page.locator(".giving")).to_be_hidden()


def test_packing_and_a_download_can_be_stopped(
    window: Open, shells: Served, projects: Path
) -> None:
    folder = projects / "folder"
    folder.mkdir()
    for n in range(5):
        (folder / str(n)).write_bytes(os.urandom(50_000_000))
    page = window(shells.url)
    ready(page)
    page.keyboard.press("Control+Shift+E")
    for _ in range(2):
        dialog(page, "Files").get_by_label("folder as a zip").click()
        expect(page.locator(".giving")).to_contain_text("Packing folder.zip:")
        shot(page, "20-packing")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".giving li")).to_have_text("folder.zip: stopped.")
