"""The panels, their script and its style: drops, pastes, downloads and routes, in a real Chromium."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import resource
import sqlite3
import sys
import time
import zipfile
from contextlib import closing, suppress
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

pytest.importorskip("nicegui", reason="the app needs nicegui, which is not installed")
pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")
pytest.importorskip("playwright", reason="playwright, which drives the browser, is not installed")

from playwright.sync_api import Page, expect

from hermes.config import was_proved
from hermes.learnt import LEARNT, PLUGIN, Learnt
from tests.served import Served, ServedFromHome, until
from tests.standin import OPUS_4_7, StandIn
from tests.webapp.browsing import (
    BUFFER,
    PHONE,
    Open,
    Relay,
    dialog,
    drop,
    focused,
    holds,
    line,
    named,
    prompt,
    ready,
    run,
    sees,
    shot,
    slow,
    tabs,
    typed,
)
from tests.webapp.logins import Login, write_config
from webapp import panels as panel
from webapp.files.panel import date, size
from webapp.panel import age
from webapp.panels import ask_routes, token_line
from webapp.settings import read_settings
from webapp.tokens import TokenNews, keep_token_fresh

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

# --- In -------------------------------------------------------------------------------------------------------------------


def test_a_dropped_file_lands_whole_and_its_path_is_typed(
    window: Open, shells: Served, tmp_path: Path
) -> None:
    files = {
        name: os.urandom(200_000)
        for name in ("two words.bin", "it's größer.bin", "<img src=x onerror=alert(1)>.bin")
    }
    for name, body in files.items():
        (tmp_path / name).write_bytes(body)
    page = window(shells.url)
    ready(page)
    page.keyboard.type("sha256sum ")
    drop(page, *(tmp_path / name for name in files))
    uploads = shells.home / "projects" / "uploads"
    typed(
        page,
        f"'{uploads}/two words.bin' '{uploads}/it'\"'\"'s größer.bin' '{uploads}/<img src=x onerror=alert(1)>.bin'",
    )
    assert {p.name: p.read_bytes() for p in uploads.iterdir()} == files
    # It waits at the cursor, with the keyboard on it: the person presses Enter.
    page.keyboard.type("| wc -l")
    page.keyboard.press("Enter")
    holds(page, f"/^3$/m.test(({BUFFER})())")
    expect(page.locator(".giving")).to_be_hidden()


def test_a_dropped_folder_keeps_its_structure(window: Open, shells: Served, tmp_path: Path) -> None:
    for n in range(120):  # a browser gives a folder's entries in hundreds
        (tmp_path / "my project" / "src").mkdir(parents=True, exist_ok=True)
        (tmp_path / "my project" / "src" / f"{n}.txt").write_text(str(n))
    (tmp_path / "my project" / "empty").mkdir()
    (tmp_path / "my project" / "top.txt").write_text("top")
    page = window(shells.url)
    ready(page)
    for name in ("my project", "my project-2"):
        drop(page, tmp_path / "my project")
        typed(page, f"'{shells.home}/projects/uploads/{name}'")
        root = shells.home / "projects" / "uploads" / name
        assert {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()} == {
            "top.txt",
            *(f"src/{n}.txt" for n in range(120)),
        }
        assert (root / "src" / "77.txt").read_text() == "77"
        assert (root / "empty").is_dir()


def test_a_program_that_asks_for_bracketed_paste_gets_one(
    window: Open, shells: Served, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a")
    page = window(shells.url)
    ready(page)
    reads = "IFS= read -rsd '~' begin; IFS= read -rsd '~' end"
    run(page, f"printf '\\e[?2004hready %d\\n' 1; {reads}; printf '%q\\n' \"$begin~$end~\"")
    sees(page, "ready 1")
    drop(page, tmp_path / "a.txt")
    typed(page, "$'\\E[200~" + f"{shells.home}/projects/uploads/a.txt " + "\\E[201~'")


def test_a_pasted_image_lands_and_pasted_text_is_typed(window: Open, shells: Served) -> None:
    page = window(shells.url, permissions=["clipboard-read", "clipboard-write"])
    ready(page)
    copy = """async ([kind, data]) => {
      const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
      await navigator.clipboard.write([new ClipboardItem({[kind]: new Blob([bytes], {type: kind})})]);
    }"""
    page.evaluate(copy, ["image/png", PIXEL])
    page.locator(".xterm-helper-textarea").focus()
    uploads = shells.home / "projects" / "uploads"
    for count, keys in enumerate(["Shift+Insert", "Control+Shift+V"], 1):
        page.keyboard.press(keys)
        holds(page, f"n => (({BUFFER})()).split('/pasted-').length === n + 1", arg=count)
    images = list(uploads.iterdir())
    assert len(images) == 2
    for image in images:
        assert re.fullmatch(r"pasted-\d{14}(-2)?\.png", image.name)
        assert image.read_bytes().startswith(b"\x89PNG\r\n")
    page.evaluate(copy, ["text/plain", base64.b64encode(b"echo plain text").decode()])
    page.keyboard.press("Shift+Insert")
    typed(page, "echo plain text")
    assert len(list(uploads.iterdir())) == 2


@pytest.mark.fault("disk full")
def test_what_goes_wrong_with_an_upload_is_one_line_each(
    window: Open, shells: Served, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "small.txt").write_text("small")
    (tmp_path / "big.bin").write_bytes(bytes(30_000_000))
    (tmp_path / "line\nbreak.txt").write_text("odd")
    with (tmp_path / "huge.bin").open("wb") as huge:
        huge.truncate(500_000_001)
    page = window(shells.url)
    ready(page)
    before = resource.prlimit(shells.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(shells.process.pid, resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    request.addfinalizer(
        lambda: resource.prlimit(shells.process.pid, resource.RLIMIT_FSIZE, before)
    )
    drop(
        page, *(tmp_path / name for name in ("small.txt", "big.bin", "line\nbreak.txt", "huge.bin"))
    )
    uploads = shells.home / "projects" / "uploads"
    typed(page, f"{uploads}/small.txt")
    alerts = page.locator(".giving li")
    expect(alerts).to_have_count(3)
    lines = sorted(alerts.all_inner_texts())
    assert lines[0] == "big.bin: the disk takes no file of this size."
    assert lines[1] == "huge.bin: it has more than 500 MB."
    assert "control character" in lines[2]
    until(
        lambda: [p.name for p in uploads.iterdir()] == ["small.txt"],
        lambda: str(list(uploads.iterdir())),
    )
    shot(page, "16-upload-refused")
    page.get_by_role("button", name="Close").click()
    expect(page.locator(".giving")).to_be_hidden()


@pytest.mark.fault("network")
def test_an_upload_goes_on_after_the_wire_was_cut_and_ends_in_one_line_where_it_stays_so(
    window: Open, shells: Served, tmp_path: Path
) -> None:
    big = os.urandom(20_000_000)
    (tmp_path / "big.bin").write_bytes(big)
    uploads = shells.home / "projects" / "uploads"
    with Relay(shells.port) as relay:
        page = window(relay.url)
        ready(page)
        for cut in ("for a while", "for good"):
            with slow(page):
                drop(page, tmp_path / "big.bin")
                holds(page, "document.querySelector('.giving progress')?.value > 0.05")
                shot(page, "17-upload")
                relay.cut()
            expect(page.locator(".giving")).to_contain_text("the connection was lost, trying again")
            if cut == "for a while":
                relay.up = True
                typed(page, f"{uploads}/big.bin")
                assert (uploads / "big.bin").read_bytes() == big
                expect(page.locator(".giving")).to_be_hidden()
        page.evaluate("PAUSE.all = 0")
        expect(page.locator(".giving li")).to_have_text("big.bin: the connection was lost.")
    assert [p.name for p in uploads.glob("[!.]*")] == ["big.bin"]


def test_an_upload_can_be_stopped(window: Open, shells: Served, tmp_path: Path) -> None:
    for n in range(6):
        (tmp_path / f"{n}.bin").write_bytes(os.urandom(20_000_000))
    uploads = shells.home / "projects" / "uploads"
    page = window(shells.url)
    ready(page)
    with slow(page):
        drop(page, *tmp_path.iterdir())
        holds(page, "document.querySelector('.giving progress')?.value > 0.01")
        page.get_by_role("button", name="Stop").click()
    expect(page.locator(".giving li")).to_have_count(6)
    until(lambda: list(uploads.iterdir()) == [], lambda: str(list(uploads.iterdir())))


# --- Out ------------------------------------------------------------------------------------------------------------------


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the keyboard is on something of this name, and marked so."""
    on = "(e => e.matches('a, button') ? e.ariaLabel || e.innerText : '')(document.activeElement)"
    style = "(s => s.outlineStyle + s.outlineWidth)(getComputedStyle(document.activeElement))"
    for _ in range(30):
        if name in page.evaluate(on):
            assert page.evaluate(style) == "solid2px", name
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no way to {name}")


def walk_by_keys(page: Page) -> None:
    """Go through the folders of the open panel, and take a file and a folder, without a mouse."""
    files = dialog(page, "Files")
    rows = files.get_by_role("listitem")
    tab_to(page, "reports/")
    page.keyboard.press("Enter")
    expect(rows).to_have_count(2)
    expect(files).to_contain_text("odd \\xff\\nname")
    tab_to(page, "2026/")
    page.keyboard.press("Enter")
    expect(rows).to_have_count(1)
    expect(files.get_by_role("navigation", name="Folder")).to_have_text(
        re.compile(r"projects /\s*reports /\s*2026 /")
    )
    tab_to(page, "sum <b>.csv")
    with page.expect_download() as caught:
        page.keyboard.press("Enter")
    assert Path(caught.value.path()).read_text() == "1;2\n"
    assert re.fullmatch(
        r"sum .b.\.csv", caught.value.suggested_filename
    )  # the browser's own care for its file system
    files.get_by_role("button", name="projects /").focus()
    page.keyboard.press("Enter")
    expect(rows).to_have_count(4)
    tab_to(page, "reports as a zip")
    with page.expect_download() as caught:
        page.keyboard.press("Enter")
    assert caught.value.suggested_filename == "reports.zip"
    with zipfile.ZipFile(io.BytesIO(Path(caught.value.path()).read_bytes())) as archive:
        assert sorted(archive.namelist()) == [
            "reports/2026/",
            "reports/2026/sum <b>.csv",
            "reports/odd \\xff\nname",
        ]


def test_the_files_panel_without_a_mouse(window: Open, shells: Served) -> None:
    root = shells.home / "projects"
    (root / "reports" / "2026").mkdir(parents=True)
    (root / "reports" / "2026" / "sum <b>.csv").write_text("1;2\n")
    (root / "reports" / os.fsdecode(b"odd \xff\nname")).write_bytes(b"odd")
    (root / "notes.md").write_bytes(b"n" * 4200)
    (
        root
        / "a very long name that does not fit into one line of a phone, whatever one does about it.txt"
    ).touch()
    (root / "current").symlink_to("/etc")
    now = time.time()
    for n, name in enumerate(["notes.md", "reports"]):
        os.utime(root / name, (now - 3600 * (n + 1), now - 3600 * (n + 1)))
    page = window(shells.url)
    ready(page)
    page.keyboard.press("Control+Shift+E")
    files = dialog(page, "Files")
    rows = files.get_by_role("listitem")
    expect(rows).to_have_count(4)
    texts = [re.sub(r"\s+", " ", text) for text in rows.all_inner_texts()]
    assert texts[-2:] == ["notes.md 4.2 kB 1 h", "reports/ zip 2 h"]
    assert "link, not followed" in "".join(texts[:2])
    named(files)
    for viewport in (PHONE, {"width": 1200, "height": 700}):
        page.set_viewport_size(viewport)  # type: ignore[arg-type]
        holds(page, "width => innerWidth === width", arg=viewport["width"])
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        shot(page, f"18-files-{viewport['width']}")
        walk_by_keys(page)
    files.get_by_label("Filter").focus()
    page.keyboard.type("NOTES")
    expect(rows).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("Escape")
    expect(files).to_be_hidden()
    # One at a time, and the key that opened it closes it.
    page.keyboard.press("Control+Shift+E")
    expect(files).to_be_visible()
    page.keyboard.press("Control+Shift+G")
    expect(dialog(page, "Routes")).to_be_visible()
    expect(files).to_be_hidden()
    page.keyboard.press("Control+Shift+G")
    expect(dialog(page, "Routes")).to_be_hidden()
    # Back to work: the terminal has the keyboard again.
    focused(page)
    page.keyboard.type("echo back $((40 + 2))\n")
    sees(page, "back 42")


def test_what_a_panel_shows_is_text_and_what_it_gives_is_no_page(
    window: Open, shells: Served
) -> None:
    root = shells.home / "projects"
    root.mkdir(exist_ok=True)
    (root / "<img src=x onerror='document.title=`pwned`'>").touch()
    (root / "page.html").write_text("<script>document.title = 'pwned'</script>")
    page = window(shells.url)
    ready(page)
    page.get_by_role("button", name="Files").click()
    files = dialog(page, "Files")
    expect(files.get_by_role("link", name="<img src=x")).to_be_visible()
    with page.expect_download() as caught:
        page.evaluate("location.href = '/files/page.html'")
    assert caught.value.suggested_filename == "page.html"
    assert page.title() == "Hermes"
    assert files.locator("img").count() == 0


def test_a_folder_of_thousands_shows_the_newest_and_filters_all(
    window: Open, shells: Served
) -> None:
    root = shells.home / "projects"
    root.mkdir(exist_ok=True)
    for n in range(1000):
        (root / f"file-{n}").touch()
        os.utime(root / f"file-{n}", (n, n))
    page = window(shells.url)
    ready(page)
    page.get_by_role("button", name="Files").click()
    files = dialog(page, "Files")
    expect(files.get_by_role("listitem")).to_have_count(200)
    expect(files.get_by_role("listitem").first).to_contain_text("file-999")
    expect(files).to_contain_text("The newest 200 of 1000; the filter finds the others.")
    files.get_by_label("Filter").fill("file-77")
    expect(files.get_by_role("listitem")).to_have_count(11)


def test_files_can_be_chosen_where_nothing_can_be_dropped(
    window: Open, shells: Served, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"photo")
    page = window(shells.url)
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    ready(page)
    page.get_by_role("button", name="Files").click()
    with page.expect_file_chooser() as chooser:
        dialog(page, "Files").get_by_role("button", name="Upload").click()
    chooser.value.set_files(tmp_path / "photo.jpg")
    # The open panel shows what came, too.
    expect(dialog(page, "Files").get_by_role("button", name="uploads/")).to_be_visible()
    typed(page, f"{shells.home}/projects/uploads/photo.jpg")


# --- Routes ---------------------------------------------------------------------------------------------------------------


def test_the_routes_panel_tells_why_hermes_does_not_answer(
    window: Open, stub_hermes: Path, tmp_path: Path
) -> None:
    (tmp_path / ".local").symlink_to(stub_hermes / ".local")
    (tmp_path / "saved").mkdir()
    with closing(sqlite3.connect(tmp_path / "saved" / "state.db")) as database:
        database.execute("CREATE TABLE sessions AS SELECT 'cli' AS source, 1 AS message_count")
        database.commit()
    with (
        StandIn(feature_disabled=True) as standin,
        Served(standin.env, tmp_path, MAX_CONCURRENT_SESSIONS="2") as served,
    ):
        page = window(served.url)
        prompt(page)
        # A conversation that can go on is told, and the terminal then has the keyboard again.
        told = page.locator(".q-notification")
        expect(told).to_contain_text("/exit, then `hermes chat --continue`")
        told.get_by_role("button", name="Got it").click()
        focused(page)
        line(page, "databricks-claude-opus-4-6 · direct")
        page.keyboard.press("Control+Shift+G")
        routes = dialog(page, "Routes")
        expect(routes).to_contain_text(f"{OPUS_4_7} does not answer: until it does, Hermes uses")
        expect(routes).to_contain_text("AI Gateway is not enabled for this workspace")
        expect(routes.get_by_label("does not serve the model", exact=True)).not_to_have_count(0)
        expect(routes.get_by_label("serves the model", exact=True)).to_have_count(1)
        expect(routes).to_contain_text(f"workspace: https://{standin.workspace_host}")
        expect(routes).to_contain_text("Token: DATABRICKS_TOKEN")
        assert standin.token not in page.content()
        named(routes)
        for size in ({"width": 1200, "height": 700}, PHONE):
            page.set_viewport_size(size)  # type: ignore[arg-type]
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            shot(page, f"19-routes-{size['width']}")

        # The workspace's admin has turned it on: a person sees it, and sets up again, by keys alone.
        standin.feature_disabled = False
        routes.get_by_role("button", name="Ask again").focus()
        page.keyboard.press("Enter")
        expect(routes).to_contain_text(f"{OPUS_4_7} answers.")
        asked = [r for r in standin.chats() if r.status == 200]
        routes.get_by_role("button", name="Set up again").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/?terminal=2")
        until(
            lambda: len([r for r in standin.chats() if r.status == 200]) > len(asked),
            lambda: str(standin.chats()),
        )
        line(page, OPUS_4_7)
        prompt(page)
        assert was_proved(served.home / ".hermes" / "config.yaml")
        assert tabs(page) == ["1", "2"]

        # There is no place for a third terminal.
        page.keyboard.press("Control+Shift+G")
        routes.get_by_role("button", name="Set up again").click()
        expect(page.locator(".q-notification")).to_contain_text("All terminals are in use")
        line(page, OPUS_4_7)

        standin.reject_token = True
        routes.get_by_role("button", name="Ask again").click()
        expect(routes).to_contain_text("token rejected: Invalid access token.")
        expect(routes.get_by_label("not known")).not_to_have_count(0)


def test_the_apps_own_login_asks_and_its_age_is_told(window: Open, stub_hermes: Path) -> None:
    with StandIn(oauth=3600) as standin, Served(standin.env, stub_hermes) as served:
        page = window(served.url)
        prompt(page)
        line(page, OPUS_4_7)
        page.keyboard.press("Control+Shift+G")
        routes = dialog(page, "Routes")
        expect(routes).to_contain_text(f"{OPUS_4_7} answers.")
        came = re.compile(r"Token: the last new one came \d+ (s|min) ago\.")
        for _ in range(10):  # the panel may be asked before the app has brought the first one
            with suppress(AssertionError):
                expect(routes).to_contain_text(came, timeout=5000)
                break
            routes.get_by_role("button", name="Ask again").click()
        expect(routes).to_contain_text(came)
        assert not any(token in page.content() for token in standin._expiring)
        assert standin.env["DATABRICKS_CLIENT_SECRET"] not in page.content()


def test_nothing_is_imported_from_a_folder_that_a_terminal_writes(window: Open) -> None:
    """The app's source is in HOME, as on Databricks Apps, and it has the client secret."""
    with StandIn(oauth=3600) as standin, ServedFromHome(standin.env) as served:
        page = window(served.url)
        ready(page)
        caught = served.home / "caught"
        code = f"open({str(caught)!r}, 'a').write(__name__ + ' ')\nraise ImportError"
        own = {"app", "hermes", "setup_hermes", "utils", "webapp"}
        for name in {*sys.stdlib_module_names, *packages_distributions()} - own:
            if name.isidentifier():
                (served.home / f"{name}.py").write_text(code)
        page.keyboard.press("Control+Shift+G")
        expect(dialog(page, "Routes")).to_contain_text(f"{OPUS_4_7} answers.")
        page.keyboard.press("Control+Shift+E")
        files = dialog(page, "Files")
        expect(files).to_contain_text("Nothing here.")
        shown = files.get_by_text("Nothing here."), files.get_by_label("Filter")
        note, word = (found.bounding_box() for found in shown)
        assert note
        assert word
        assert note["y"] < word["y"] + 100  # below the filter, not at the end
        ready(window(served.url))
        assert not caught.exists(), caught.read_text()


# --- By themselves ----------------------------------------------------------------------------------------------------------


def test_the_routes_are_asked_with_a_token_and_never_with_the_secret(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []

    def read(environment: dict[str, str]) -> None:
        seen.append(environment)
        raise ValueError("enough")

    del env["DATABRICKS_TOKEN"]
    monkeypatch.setattr(panel, "load_settings", read)
    monkeypatch.setattr(panel, "log_in", lambda settings: Login(lambda: "fresh"))
    report = ask_routes(
        read_settings(env | {"DATABRICKS_CLIENT_ID": "id", "DATABRICKS_CLIENT_SECRET": "hidden"})
    )
    assert report.line == "ValueError: enough"
    assert seen[0]["DATABRICKS_TOKEN"] == "fresh"
    assert "hidden" not in json.dumps(seen)


def test_a_pipe_where_the_plugins_facts_are_does_not_hold_up_the_panel(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def prove(settings: object, learnt: object) -> None:
        raise ValueError(f"asked with {learnt}")

    facts = Path(env["HOME"]) / PLUGIN / LEARNT
    facts.parent.mkdir(parents=True)
    os.mkfifo(facts)
    monkeypatch.setattr(panel, "prove", prove)
    assert ask_routes(read_settings(env)).line == f"ValueError: asked with {Learnt()}"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (200_000, "2 d"), (1e8, "3 y")],
)
def test_an_age_has_one_unit(seconds: float, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert age(2e9 - seconds) == told


@pytest.mark.parametrize(
    ("moment", "told"),
    [
        (0, "1970-01-01 00:00:00 UTC"),
        (3e11, "9999-12-31 23:59:59 UTC"),
        (2.0**62, "9999-12-31 23:59:59 UTC"),
        (-(2.0**62), "1970-01-01 00:00:00 UTC"),
    ],
)
def test_a_date_is_one_of_a_calendar(moment: float, told: str) -> None:
    assert date(moment) == told


def test_a_size_has_one_unit() -> None:
    assert [size(n) for n in (0, 999, 1000, 4200, 5_000_000, 2_000_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "4.2 kB",
        "5.0 MB",
        "2.0 GB",
    ]


def test_the_tokens_line_tells_trouble_and_never_the_token(env: dict[str, str]) -> None:
    assert env["DATABRICKS_TOKEN"] not in token_line(read_settings(env), TokenNews())
    del env["DATABRICKS_TOKEN"]
    told = token_line(read_settings(env), TokenNews())
    assert told == "Token: Hermes gets its first from the setup."
    news = TokenNews(since=time.time(), trouble="No fresh token (ValueError: why).")
    assert token_line(read_settings(env), news).endswith("ago. No fresh token (ValueError: why).")


def test_the_news_of_the_token_are_kept(tmp_path: Path) -> None:
    config, news = tmp_path / "config.yaml", TokenNews()
    asked = iter(["one", "one", "", "two"])
    write_config(config, "https://h/serving-endpoints")
    told = []

    def ask() -> str:
        token = next(asked)
        if not token:
            raise OSError("no network")
        return token

    def sleep(_: float) -> None:
        told.append((news.since, news.trouble))
        if len(told) == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        keep_token_fresh(config, lambda: Login(ask), sleep, news)
    (first, _), (second, _), (third, trouble), (last, none) = told
    assert first == second == third > 0
    assert last > third
    assert (trouble, none) == ("No fresh token (OSError: no network).", "")
