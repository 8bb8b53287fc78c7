"""What outlives a restart, as its user meets it: the real app, the real Hermes, a real browser, on the stand-in's volume."""

# ruff: noqa: F811 (fixtures of another file)

from __future__ import annotations

import json
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
from playwright.sync_api import expect

from tests.conftest import ROOT
from tests.served import OWNER, Served, until
from tests.standin import Answer, Call, StandIn
from tests.standin.files import Volume
from tests.webapp.test_keep import savers
from tests.webapp.test_page import Open, browser, line, sees, window  # noqa: F401
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


def test_the_files_are_there_before_the_first_terminal(
    workspace: StandIn, volume: Volume, window: Open
) -> None:
    with Served(workspace.env, HERMES_VOLUME=PATH) as served:
        page = window(served.url)
        sees(page, "projects")
        page.keyboard.type("echo kept-$((6*7)) > mine.txt; touch done\n")
        until((served.home / "projects" / "done").exists, lambda: "the shell does not write")
        line(page, "not saved yet")
    assert len(volume.names("state-")) == 1  # at the end, by SIGTERM
    with Served(workspace.env, HERMES_VOLUME=PATH) as served:
        page = window(served.url)
        sees(page, "Brought back 2 files")
        page.keyboard.type("cat mine.txt\n")
        sees(page, "kept-42")
        line(page, "not saved yet")


def test_no_shell_can_read_what_logs_in(workspace: StandIn, volume: Volume) -> None:
    with Served(workspace.env, HERMES_VOLUME=PATH) as served:
        until(lambda: volume.names("instance-"), lambda: "nothing restores")
        (number,) = savers(served.home)
        saver = Path(f"/proc/{number}")
        secret = workspace.env["DATABRICKS_CLIENT_SECRET"].encode()
        assert b"DATABRICKS_" not in (saver / "environ").read_bytes()
        assert secret not in (saver / "environ").read_bytes() + (saver / "cmdline").read_bytes()
        until(
            lambda: (saver / "stat").read_text().rpartition(")")[2].split()[16] == "19",
            lambda: "it is not nice when it has restored",
        )
        assert not any(secret in call.body for call in volume.calls)
    until(lambda: not saver.exists(), lambda: "the process that saves stays")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="asks Linux, which is not here")
@pytest.mark.parametrize("begins", ["app.main(['x'])", "saver.main()"])
def test_what_holds_a_token_opens_its_memory_and_environment_to_no_shell(begins: str) -> None:
    program = f"import app, ctypes, sys; from webapp.keep import worker as saver; {begins}; sys.exit(ctypes.CDLL(None).prctl(3))"
    command = [sys.executable, "-c", program, "/nowhere", PATH]
    assert (
        subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL).returncode == 0
    )  # PR_GET_DUMPABLE


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
                assert 24 <= box["height"] <= 36
        page.reload()
        expect(page.get_by_text(DISK)).to_be_visible()
        page.get_by_role("button", name="Got it").click()
        expect(page.get_by_text(DISK)).not_to_be_visible()
        page.wait_for_function("localStorage.getItem('disk') === 'read'")
        page.reload()
        sees(page, "projects")
        line(page, "turned off")
        expect(page.get_by_text(DISK)).not_to_be_visible()


def test_a_conversation_goes_on_after_a_restart(
    workspace: StandIn,
    volume: Volume,
    hermes_home: Path,
    window: Open,
    tmp_path: Path,
) -> None:
    asked: list[dict[str, Any]] = []
    answer = workspace.answer

    def listen(call: Call) -> Answer:
        asked.append(call.json)
        return answer(call)

    workspace.answer = listen  # type: ignore[method-assign]
    settings = {"HERMES_VOLUME": PATH}
    with Served(workspace.env, hermes_home, **settings) as served:
        page = window(served.url)
        sees(page, "\u276f")
        subprocess.run(
            [served.home / ".local" / "bin" / "hermes", "chat", "-Q", "-q", "my word is xylophone"],
            env=workspace.env | {"HOME": str(served.home)},
            cwd=served.home / "projects",
            check=True,
            stdin=subprocess.DEVNULL,
        )
        config = (served.home / ".hermes" / "config.yaml").read_text()
        (served.home / ".hermes" / "config.yaml").write_text(
            config + "# mine\ndisplay:\n  theme: mono\n"
        )
        (served.home / ".hermes" / "memories" / "MEMORY.md").write_text("remember")
    asked.clear()
    with Served(workspace.env, hermes_home, **settings) as served:
        page = window(served.url)
        sees(page, "\u276f")
        assert (served.home / ".hermes" / "memories" / "MEMORY.md").read_text() == "remember"
        config = (served.home / ".hermes" / "config.yaml").read_text()
        assert "# mine\ndisplay:\n  theme: mono\n" in config
        assert "api_key: ''" not in config
        assert not list((served.home / ".hermes").glob("*.bak"))
        done = subprocess.run(
            [
                served.home / ".local" / "bin" / "hermes",
                "chat",
                "-Q",
                "--continue",
                "-q",
                "which word?",
            ],
            env=workspace.env | {"HOME": str(served.home)},
            cwd=served.home / "projects",
            check=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert "which word?" in done.stdout
    turns = [
        json.dumps(body.get("messages")) for body in asked if "which word?" in json.dumps(body)
    ]
    assert any("my word is xylophone" in turn for turn in turns)


def test_an_unreachable_volume_is_one_line_and_the_terminal_opens(
    workspace: StandIn, volume: Volume, tmp_path: Path
) -> None:
    """A home of its own, and a volume that answers after a while."""
    volume.forbidden = True
    driver = """
import asyncio, os, sys, time
from functools import partial
from hermes.login import sdk_config
from webapp.keep import keeper as keep
from webapp.settings import read_settings
settings = read_settings(os.environ)
keeper = keep.Keeper(settings, partial(sdk_config, settings.env, settings.home, timeout=20), every=0.5)
keeper.start()
print(asyncio.run(keeper.restored()), flush=True)
print(keeper.note, flush=True)
sys.stdin.readline()
while "just now" not in keeper.note: time.sleep(0.1)
print(keeper.note, flush=True)
keeper.stop()
"""
    env = workspace.env | {"HOME": str(tmp_path), "HERMES_VOLUME": PATH}
    with subprocess.Popen(
        [sys.executable, "-c", driver],
        env=env,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline().startswith(
            f"Not brought back yet: no permission on {PATH}: the app needs WRITE VOLUME"
        )
        assert process.stdout.readline().startswith(f"not saved yet; no permission on {PATH}")
        assert volume.names() == []
        volume.forbidden = False
        (tmp_path / "projects").mkdir()
        (tmp_path / "projects" / "a").write_text("a")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "saved just now\n"
    assert len(volume.names("state-")) >= 1
