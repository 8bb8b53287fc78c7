"""What outlives a restart, as its user meets it: the real app, the real Hermes, a real browser, on the stand-in's volume."""

from __future__ import annotations

import json
import resource
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nicegui", reason="the app needs nicegui, which is not installed")
pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")
pytest.importorskip("playwright", reason="playwright, which drives the browser, is not installed")

import trustme
from playwright.sync_api import Page, expect

from tests.conftest import ROOT
from tests.real import run_hermes
from tests.served import OWNER, Served, until
from tests.standin import Answer, Call, StandIn
from tests.standin.files import Volume
from tests.webapp.browsing import Open, holds, line, prompt, sees
from tests.webapp.saving import everything, files_api, save_home, savers
from webapp.keep.archive import Archive
from webapp.keep.format import folder_of, new_name
from webapp.keep.keeper import DISK

PATH = "/Volumes/main/hermes/state"


@pytest.fixture
def volume() -> Volume:
    return Volume(PATH)


@pytest.fixture
def workspace(volume: Volume) -> Iterator[StandIn]:
    """A workspace in which the app logs in as its service principal."""
    with StandIn(rooms=volume.rooms(), oauth=3600) as standin:
        yield standin


def test_no_shell_can_read_what_logs_in_and_the_end_saves(
    workspace: StandIn, volume: Volume
) -> None:
    with Served(workspace.env, HERMES_VOLUME=PATH) as served:
        until(lambda: volume.names("instance-"), lambda: "nothing restores")
        (number,) = savers(served.home)
        saver = Path(f"/proc/{number}")
        secret = workspace.env["DATABRICKS_CLIENT_SECRET"].encode()
        assert b"DATABRICKS_" not in (saver / "environ").read_bytes()
        assert secret not in (saver / "environ").read_bytes() + (saver / "cmdline").read_bytes()
        until(
            lambda: (saver / "stat").read_text().rpartition(")")[2].split()[16] == "10",
            lambda: "it is not nice when it has restored",
        )
        assert not any(secret in call.body for call in volume.calls)
        assert volume.names("state-") == []
        (served.home / "projects").mkdir(exist_ok=True)
        (served.home / "projects" / "mine.txt").write_text("mine")
    until(lambda: not saver.exists(), lambda: "the process that saves stays")
    assert len(volume.names("state-")) == 1  # by SIGTERM


@contextmanager
def platform(served: Served) -> Iterator[str]:
    """Databricks' proxy in front of the app, as far as a browser sees it: TLS, which it ends; gives the address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    pairs: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def join(near: socket.socket) -> None:
        with suppress(OSError):
            near = context.wrap_socket(near, server_side=True)
            far = socket.create_connection(("127.0.0.1", served.port))
            pairs.extend((near, far))
            threading.Thread(target=pump, args=(far, near), daemon=True).start()
            pump(near, far)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=join, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"https://localhost:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    for end in pairs:
        end.close()


def test_that_a_restart_empties_the_disk_is_said_once_until_it_is_read(
    workspace: StandIn, window: Open
) -> None:
    with (
        Served(workspace.env, DATABRICKS_APP_NAME="hermes", APP_OWNER=OWNER) as served,
        platform(served) as url,
    ):
        page = window(
            url, extra_http_headers={"X-Forwarded-Email": OWNER}, ignore_https_errors=True
        )
        for width in (1440, 1024, 390):
            page.set_viewport_size({"width": width, "height": 700})
            expect(page.get_by_text(DISK)).to_be_in_viewport(ratio=1)
            for name in ("Got it", "turned off", "Files", "Find (Ctrl+Shift+F)", "New terminal"):
                button = page.get_by_role("button", name=name)
                expect(button).to_be_in_viewport(ratio=1)
                assert (box := button.bounding_box())
                assert 24 <= box["height"] <= 44
        page.reload()
        expect(page.get_by_text(DISK)).to_be_visible()
        page.get_by_role("button", name="Got it").click()
        expect(page.get_by_text(DISK)).not_to_be_visible()
        holds(page, "localStorage.getItem('disk') === 'read'")
        page.reload()
        sees(page, "projects")
        line(page, "turned off")
        expect(page.get_by_text(DISK)).not_to_be_visible()


def test_a_conversation_goes_on_after_a_restart(
    workspace: StandIn, volume: Volume, hermes_home: Path, window: Open
) -> None:
    def chat(home: Path, *words: str) -> str:
        done = run_hermes(workspace, home, "chat", "-Q", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    asked: list[dict[str, Any]] = []
    answer = workspace.answer

    def listen(call: Call) -> Answer:
        asked.append(call.json)
        return answer(call)

    workspace.answer = listen  # type: ignore[method-assign]
    subprocess.run(
        [sys.executable, "setup_hermes.py"],
        cwd=ROOT,
        env=workspace.env | {"HOME": str(hermes_home), "ENABLE_HERMES": "true"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    config = hermes_home / ".hermes" / "config.yaml"
    keys = {line.split()[1] for line in config.read_text().splitlines() if "api_key: " in line}
    chat(hermes_home, "-q", f"my word is xylophone {min(keys)}")
    config.write_text(config.read_text() + "# mine\ndisplay:\n  theme: mono\n")
    (hermes_home / ".hermes" / "memories" / "MEMORY.md").write_text("remember")
    save_home(workspace, hermes_home)
    asked.clear()
    with Served(workspace.env, hermes_home, HERMES_VOLUME=PATH) as served:
        page = window(served.url)
        prompt(page)
        assert (served.home / ".hermes" / "memories" / "MEMORY.md").read_text() == "remember"
        config = served.home / ".hermes" / "config.yaml"
        assert "# mine\ndisplay:\n  theme: mono\n" in config.read_text()
        assert "api_key: ''" not in config.read_text()
        assert not list((served.home / ".hermes").glob("*.bak"))
        assert "which word?" in chat(served.home, "--continue", "-q", "which word?")
    turns = [
        json.dumps(body.get("messages")) for body in asked if "which word?" in json.dumps(body)
    ]
    # A token that is printed is part of the conversation, which is whole; in the config it was emptied.
    assert any(f"my word is xylophone {min(keys)}" in turn for turn in turns)
    assert b"# mine\ndisplay:\n  theme: mono\n" in (sent := everything(volume))
    assert keys
    assert not any(f"api_key: {key}".encode() in sent for key in keys)


def press(page: Page, name: str) -> None:
    """Click one of the page's buttons."""
    page.get_by_role("button", name=name).click()


def in_projects(home: Path) -> dict[str, str]:
    """The files below ~/projects that are there, small ones with what is in them."""
    return {
        str(path.relative_to(home / "projects")): path.read_text()
        for path in (home / "projects").rglob("*")
        if path.is_file() and path.stat().st_size < 1000
    }


@pytest.mark.fault("volume")
def test_a_volume_that_fails_at_the_start_loses_nothing(
    workspace: StandIn, volume: Volume, window: Open, tmp_path: Path
) -> None:
    """No terminal opens on top of what is not known; a start without it is a history of its own."""
    (tmp_path / "projects").mkdir()
    (tmp_path / "projects" / "mine.txt").write_text("old\n")
    save_home(workspace, tmp_path)
    before = dict(volume.files)
    volume.forbidden = True
    with Served(workspace.env, HERMES_VOLUME=PATH) as served:
        page = window(served.url)
        sees(page, f"Not brought back yet: no permission on {PATH}")
        assert "This is a shell" not in page.locator(".xterm-rows").inner_text()
        press(page, "Start without it")
        sees(page, "Started without what was saved, which stays.")
        sees(page, "This is a shell")
        page.keyboard.type("echo new > mine.txt; touch done\n")
        until((served.home / "projects" / "done").exists, lambda: "the shell does not write")
        volume.forbidden = False
    assert before.items() <= volume.files.items()
    (name,) = {path.split("/")[-2] for path in volume.files if "/line-" in path}
    back = tmp_path / "back"
    (back / "projects").mkdir(parents=True)
    with files_api(workspace) as files:
        Archive(back, folder_of(PATH, name)).restore(files)
    assert in_projects(back) == {"mine.txt": "new\n", "done": ""}


def test_which_saved_state_to_bring_back_is_asked_before_the_first_terminal(
    workspace: StandIn, volume: Volume, window: Open, tmp_path: Path
) -> None:
    for text, folder in (("old\n", PATH), ("new\n", folder_of(PATH, new_name()))):
        home = tmp_path / text.strip()
        (home / "projects").mkdir(parents=True)
        (home / "projects" / "mine.txt").write_text(text)
        save_home(workspace, home, folder)
    with Served(workspace.env, HERMES_VOLUME=PATH) as served:
        page = window(served.url)
        sees(page, "There are several saved states.")
        expect(page.get_by_role("button", name="the original")).to_be_visible()
        press(page, "a run that was started without it")
        sees(page, "Brought back 1 files")
        sees(page, "This is a shell")
        assert in_projects(served.home) == {"mine.txt": "new\n"}
        line(page, "not saved yet")


@pytest.mark.fault("volume")
def test_a_disk_that_is_full_at_the_start_loses_nothing(
    workspace: StandIn, volume: Volume, window: Open, tmp_path: Path
) -> None:
    (tmp_path / "projects").mkdir()
    (tmp_path / "projects" / "big").write_bytes(bytes(9_000_000))
    save_home(workspace, tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, hard))  # the one file finds no room
    try:
        served = Served(workspace.env, HERMES_VOLUME=PATH)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with served:
        page = window(served.url)
        sees(page, "Not brought back: projects/big (File too large).")
        sees(page, "This is a shell")
        assert not (served.home / "projects" / "big").exists()
        line(page, "not brought back: projects/big")
        page.keyboard.press("Control+Shift+L")
        panel = page.get_by_role("dialog")
        expect(panel).to_contain_text("Not brought back; it stays saved")
        page.keyboard.press("Escape")
        expect(panel).to_be_hidden()
        page.keyboard.type("touch more\n")
        until((served.home / "projects" / "more").exists, lambda: "the shell does not write")
    back = tmp_path / "back"
    back.mkdir()
    with files_api(workspace) as files:
        Archive(back, PATH).restore(files)
    assert (back / "projects" / "big").stat().st_size == 9_000_000
    assert (back / "projects" / "more").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_is_not_saved_can_be_seen_with_the_reason(
    workspace: StandIn, volume: Volume, window: Open
) -> None:
    with Served(workspace.env, HERMES_VOLUME=PATH) as served:
        page = window(served.url)
        sees(page, "This is a shell")
        page.keyboard.type("mkfifo odd; echo K=1 > .env; mkdir node_modules; touch mine done\n")
        until((served.home / "projects" / "done").exists, lambda: "the shell does not write")
        note = "saved just now \u00b7 not saved: projects/odd (neither a file nor a folder)"
        expect(page.locator(".kept")).to_contain_text(note, timeout=120_000)  # the next save
        page.locator(".kept").click()
        panel = page.get_by_role("dialog")
        for text in (
            f"2 files, 0.0 MB, in {PATH}",
            "Not saved: neither a file nor a folder",
            "Not saved by rule: a credential by its name",
            "projects/.env",
            "projects/node_modules",
        ):
            expect(panel).to_contain_text(text)
