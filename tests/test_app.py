"""app.py: the process, and the served app over raw HTTP and websocket handshakes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("nicegui", reason="the app needs nicegui, which is not installed")
pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")

import nicegui

import app
from tests.conftest import ROOT
from tests.served import OWNER, PATIENCE, Served, until
from tests.standin import StandIn


def test_importing_the_app_starts_nothing_and_reads_no_setting(tmp_path: Path) -> None:
    code = "import app, threading, os; print(threading.active_count(), os.listdir('.'))"
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DATABRICKS_APP_PORT": "nonsense",
        "HOME": "/nowhere",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1 []\n", "", 0)


def test_a_port_in_use_is_said_and_ends_the_app(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "ENABLE_HERMES": "no",
            "DATABRICKS_APP_PORT": str(taken.getsockname()[1]),
        }
        done = subprocess.run(
            [sys.executable, str(ROOT / "app.py")],
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert (done.returncode, done.stdout) == (2, "")
    port = env["DATABRICKS_APP_PORT"]
    why = f"DATABRICKS_APP_PORT: {port} is not valid (address already in use)"
    assert (
        done.stderr == f"{why}; expected a free port, as in `DATABRICKS_APP_PORT=8001 make app`\n"
    )


@pytest.mark.skipif(
    sys.platform != "linux", reason="asks Linux's prctl, and this is another system"
)
@pytest.mark.parametrize(
    ("begins", "said"),
    [
        ("app.main(['--port=1'])", "app.py: '--port=1' is not valid; expected no argument\n"),
        ("worker.main()", ""),
    ],
)
def test_what_holds_a_token_opens_its_memory_and_environment_to_no_shell(
    begins: str, said: str
) -> None:
    asked = f"{begins}; sys.exit(ctypes.CDLL(None).prctl(3))"  # PR_GET_DUMPABLE
    program = f"import app, ctypes, sys; from webapp.keep import worker; {asked}"
    command = [sys.executable, "-c", program, "/nowhere", "/Volumes/main/hermes/state"]
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr == said or not said


@pytest.fixture(scope="module")
def workspace() -> Iterator[StandIn]:
    with StandIn() as standin:
        yield standin


@pytest.fixture(scope="module")
def laptop(workspace: StandIn) -> Iterator[Served]:
    # A setting of uvicorn's own, which would make it look for another way to start.
    with Served(workspace.env, WEB_CONCURRENCY="2") as served:
        yield served


@pytest.fixture(scope="module")
def deployed(workspace: StandIn) -> Iterator[Served]:
    with Served(workspace.env, DATABRICKS_APP_NAME="hermes", APP_OWNER=OWNER) as served:
        yield served


@pytest.fixture(scope="module")
def unowned() -> Iterator[Served]:
    with (
        StandIn(creator="") as standin,
        Served(standin.env, DATABRICKS_APP_NAME="hermes") as served,
    ):
        yield served


def paths() -> list[str]:
    """A path for every route that NiceGUI and FastAPI have, known ones that are off, and ways to write them oddly."""
    routed = [
        re.sub(r"\{[^}]*\}", "x", getattr(route, "path", "")) or "/" for route in nicegui.app.routes
    ]
    static = f"/_nicegui/{nicegui.__version__}/static/nicegui.js"
    socket_io = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"
    off = [
        "/",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/favicon.ico",
        "/nothing",
        static,
        socket_io,
        "/_nicegui_ws/socket.io/",
    ]
    odd = [
        "//",
        "///_nicegui_ws/socket.io/",
        "/%2e%2e/",
        "/health/",
        "/health/../",
        "/%68ealth/",
        "/./",
        "*",
        "http://localhost/",
        "/?x=/health",
    ]
    return list(dict.fromkeys([*routed, *off, *odd]))


STRANGERS = {
    "nobody": {},
    "somebody else": {"X-Forwarded-Email": "other@example.com"},
    "a foreign origin": {"X-Forwarded-Email": OWNER, "Origin": "https://evil.example"},
    "another scheme": {"X-Forwarded-Email": OWNER, "Origin": "http://app.example.com"},
}


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"


INSIDE = re.compile(r"xterm|nicegui|socket\.io|\"sid\"|Swagger|terminal", re.IGNORECASE)


def refuses(served: Served, request: str, headers: dict[str, str], status: int = 403) -> None:
    """Assert that a request gets this status and none of what is inside."""
    given, answer = served.ask(request, headers)
    assert given == status
    assert not INSIDE.search(answer)


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("path", paths())
def test_a_stranger_reaches_nothing(deployed: Served, stranger: str, path: str) -> None:
    headers = {"Host": "app.example.com", **STRANGERS[stranger]}
    for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE", "PROPFIND"):
        refuses(deployed, f"{method} {path}", headers | {"Connection": "close"})
    refuses(deployed, f"GET {path}", headers | UPGRADE)


@pytest.mark.parametrize("path", paths())
def test_nobody_reaches_anything_while_the_owner_is_unknown(unowned: Served, path: str) -> None:
    for headers in ({"X-Forwarded-Email": OWNER}, {"X-Forwarded-Email": ""}, {}):
        own = {"Host": "app.example.com", "Origin": "https://app.example.com", **headers}
        refuses(unowned, f"GET {path}", own | {"Connection": "close"}, 503)
        refuses(unowned, f"GET {path}", own | UPGRADE)


@pytest.mark.parametrize("path", paths())
def test_a_laptop_answers_no_other_host_or_origin(laptop: Served, path: str) -> None:
    own = f"localhost:{laptop.port}"
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"evil.example:{laptop.port}"},
        {"Host": own, "Origin": "http://evil.example"},
    ):
        refuses(laptop, f"GET {path}", headers | {"Connection": "close"})
        refuses(laptop, f"GET {path}", headers | UPGRADE)
    assert laptop.ask(f"GET {path}", {"Host": own, **UPGRADE})[0] == 403


def test_a_stranger_reads_why_and_not_whose_it_is(deployed: Served, unowned: Served) -> None:
    headers = {"Host": "app.example.com", "Connection": "close"}
    status, answer = deployed.ask("GET /", headers | {"X-Forwarded-Email": "other@example.com"})
    assert (status, "This app is for its owner alone" in answer) == (403, True)
    assert "@" not in answer
    status, answer = unowned.ask("GET /", headers | {"X-Forwarded-Email": OWNER})
    assert (status, "still finding out who its owner is" in answer) == (503, True)


def test_the_owner_reaches_the_page_and_the_socket(deployed: Served) -> None:
    owner = {
        "Host": "10.0.0.1:8000",
        "X-Forwarded-Host": "app.example.com",
        "X-Forwarded-Email": "Owner@Example.com",
    }
    status, answer = deployed.ask("GET /", owner | {"Connection": "close"})
    assert status == 200
    assert "xterm" in answer
    assert "content-security-policy: frame-ancestors 'none'" in answer
    status, answer = deployed.ask(
        f"GET {SOCKET}", owner | {"Origin": "https://app.example.com"} | UPGRADE
    )
    assert status == 101
    assert '"sid"' in answer


def test_a_laptops_own_browser_reaches_the_page_and_the_socket(laptop: Served) -> None:
    for host in (f"localhost:{laptop.port}", f"127.0.0.1:{laptop.port}"):
        status, answer = laptop.ask("GET /", {"Host": host, "Connection": "close"})
        assert status == 200
        assert "xterm" in answer
        assert (
            laptop.ask(f"GET {SOCKET}", {"Host": host, "Origin": f"http://{host}"} | UPGRADE)[0]
            == 101
        )


def test_there_is_no_api_documentation_even_for_the_owner(laptop: Served) -> None:
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert laptop.ask(f"GET {path}", {"Host": "localhost", "Connection": "close"})[0] == 404


def test_health_answers_anyone(laptop: Served, deployed: Served, unowned: Served) -> None:
    for served in (laptop, deployed, unowned):
        status, answer = served.ask("GET /health", {"Host": "probe", "Connection": "close"})
        assert status == 200
        assert answer.endswith("\r\n\r\nok")


def test_a_laptop_listens_on_loopback_alone(laptop: Served) -> None:
    listening = Path("/proc/net/tcp")
    if not listening.exists():
        pytest.skip("reads /proc/net/tcp, which is not here")
    lines = [line.split() for line in listening.read_text().splitlines()[1:]]
    assert {
        line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{laptop.port:04X}")
    } == {f"0100007F:{laptop.port:04X}"}


def test_a_deployed_app_listens_where_the_proxy_comes_from(deployed: Served) -> None:
    listening = Path("/proc/net/tcp")
    if not listening.exists():
        pytest.skip("reads /proc/net/tcp, which is not here")
    lines = [line.split() for line in listening.read_text().splitlines()[1:]]
    assert {
        line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{deployed.port:04X}")
    } == {f"00000000:{deployed.port:04X}"}


def test_the_owner_is_learnt_from_the_apps_api_by_the_apps_own_principal() -> None:
    """Also where a token is bound, which is somebody's."""
    with (
        StandIn(oauth=3600, creator="") as standin,
        Served(standin.env, DATABRICKS_APP_NAME="hermes", DATABRICKS_TOKEN="dapi-bound") as served,
    ):
        headers = {"Host": "app.example.com", "X-Forwarded-Email": OWNER, "Connection": "close"}
        until(
            lambda: any(r.path == "/api/2.0/apps/hermes" for r in standin.requests),
            served.log.read_text,
        )
        assert served.ask("GET /", headers)[0] == 503
        standin.creator = "Owner@example.com"
        until(lambda: served.ask("GET /", headers)[0] == 200, served.log.read_text)
        assert served.ask("GET /", headers | {"X-Forwarded-Email": "other@example.com"})[0] == 403
        assert {r.token for r in standin.requests if r.path == "/api/2.0/apps/hermes"} <= set(
            standin._expiring
        )
        assert "no creator" in served.log.read_text()


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes in /proc, which is not here"
)
def test_sigterm_in_the_middle_of_the_setup_leaves_no_process(tmp_path: Path) -> None:
    # Setup has a Hermes to find, and then waits for routes that do not answer.
    (tmp_path / ".local" / "bin").mkdir(parents=True)
    (tmp_path / ".local" / "share").mkdir()
    (tmp_path / ".local" / "bin" / "hermes").write_text("#!/bin/sh\n")
    with StandIn(latency=30) as standin, Served(standin.env, hermes=tmp_path) as served:
        until(lambda: any("setup_hermes" in p for p in served.processes()), served.log.read_text)
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(PATIENCE)
        until(lambda: not served.processes(), lambda: str(served.processes()))
        assert "Traceback" not in served.log.read_text()


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes in /proc, which is not here"
)
def test_no_process_that_a_shell_can_look_at_holds_the_client_secret(tmp_path: Path) -> None:
    (tmp_path / ".local" / "bin").mkdir(parents=True)
    (tmp_path / ".local" / "bin" / "hermes").write_text("#!/bin/sh\nsleep 600\n")
    (tmp_path / ".local" / "bin" / "hermes").chmod(0o755)
    with (
        StandIn(oauth=3600, latency=0.2) as standin,
        Served(standin.env, hermes=tmp_path) as served,
    ):
        secret = standin.env["DATABRICKS_CLIENT_SECRET"].encode()
        seen = set[str]()

        def looked() -> bool:
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    # The command first: before its exec, a child looks like the app itself, and is as closed to a shell.
                    command = (folder / "cmdline").read_text().replace("\0", " ")
                    environ = (folder / "environ").read_bytes()
                    if f"HOME={served.home}\0".encode() in environ and "app.py" not in command:
                        assert secret not in environ, command
                        seen.add("setup" if "setup_hermes" in command else command)
            return "setup" in seen and (served.home / ".hermes" / "config.yaml").exists()

        until(looked, lambda: f"{seen} {served.log.read_text()}")
        assert any(
            r.path.endswith("/chat/completions") and r.status == 200 for r in standin.requests
        )


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes in /proc, which is not here"
)
def test_the_end_of_make_demo_is_the_end_of_all_of_it(installed_hermes: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mark = f"MADE_BY={os.urandom(8).hex()}"
    name, _, value = mark.partition("=")
    env = os.environ | {name: value, "DATABRICKS_APP_PORT": str(port)}

    def running() -> list[str]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark.encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_text().replace("\0", " ")[:80])
        return [command for command in found if command]

    make = subprocess.Popen(
        ["make", "--no-print-directory", "-o", ".venv/ready", "demo"],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
    )
    try:
        until(
            lambda: any("setup_hermes" in command for command in running()), lambda: str(running())
        )
        make.terminate()
        until(lambda: not running(), lambda: str(running()))
    finally:
        make.kill()
        make.wait(PATIENCE)


@pytest.mark.parametrize("argument", ["-h", "--help"])
def test_help_starts_nothing(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([argument]) == 0
    assert capsys.readouterr().out.startswith("The app:")
