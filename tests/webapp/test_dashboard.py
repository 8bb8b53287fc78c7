"""webapp/dashboard: who reaches it, what reaches it, what comes back, and its process."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nicegui", reason="the app needs nicegui, which is not installed")
pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")
pytest.importorskip("playwright", reason="playwright, which drives the browser, is not installed")

from aiohttp import ClientError
from playwright.sync_api import Browser, Page, expect, sync_playwright
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import webapp.dashboard.process as process
from tests.served import OWNER, PATIENCE, Served, until
from tests.standin import OPUS_4_7, SONNET, StandIn
from tests.standin.runner import Runner
from tests.webapp.browsing import FLAGS, PROMPTS, line, prompt, run, say, sees, shot, submit
from tests.webapp.browsing import PATIENCE as BROWSERS_PATIENCE
from webapp.dashboard.process import DashboardProcess
from webapp.dashboard.proxy import ANSWERED, ASKED, chosen, redirected, target
from webapp.keep.selection import walk
from webapp.settings import AppSettings, read_settings

SITE = "https://app.example.com"
# As Databricks' proxy asks for the owner; a token among it, and the cookie of its own login.
OWNED = {
    "Host": "10.0.0.7:8000",
    "X-Forwarded-Host": "app.example.com",
    "X-Forwarded-Email": OWNER,
    "X-Forwarded-Access-Token": "dapi-the-persons-own",
    "X-Forwarded-Prefix": "/elsewhere",
    "Forwarded": "for=1.2.3.4",
    "Origin": SITE,
    "Cookie": "databricks-session=secret; hermes_session_at=forged",
    "Authorization": "Bearer secret",
}
LOCAL = {"Host": "localhost"}

# A Hermes whose dashboard notes what reaches it. As the real one does, it prints its port, and asks
# for the login of its environment.
HERMES = f"""#!{sys.executable}
import asyncio, base64, hashlib, json, os, pathlib, signal, sys
from aiohttp import WSMsgType, web

home = pathlib.Path(os.environ["HOME"])
if "chat" in sys.argv:
    signal.pause()
if "dashboard" not in sys.argv:
    sys.exit(0)
if (home / "none").exists():
    sys.exit("hermes: error: argument command: invalid choice: 'dashboard'")

login = os.urandom(8).hex()

@web.middleware
async def gate(request, handler):
    headers = [list(pair) for pair in request.headers.items()]
    with open(home / "asked", "a") as log:
        print(json.dumps([request.method, request.raw_path, headers]), file=log)
    known = f"hermes_session_at={{login}}" in request.headers.get("Cookie", "")
    if known or request.path == "/auth/password-login" or (home / "open").exists():
        return await handler(request)
    return web.json_response({{"detail": "Unauthorized"}}, status=401)

async def log_in(request):
    given = await request.json()
    _, n, r, p, *rest = os.environ["HERMES_DASHBOARD_BASIC_AUTH_PASSWORD_HASH"].split("$")
    salt, key = map(base64.b64decode, rest)
    password = given["password"].encode()
    assert hashlib.scrypt(password, salt=salt, n=int(n), r=int(r), p=int(p), dklen=32) == key
    answer = web.json_response({{"ok": True}})
    answer.set_cookie("hermes_session_at", login, path=request.headers["X-Forwarded-Prefix"])
    return answer

async def echo(request):
    headers = {{"Set-Cookie": "a=b; Path=/", "Connection": "X-Secret", "X-Secret": "1"}}
    headers |= {{"Service-Worker-Allowed": "/", "Access-Control-Allow-Origin": "*"}}
    answer = web.StreamResponse(headers=headers | {{"X-Hermes-Own": "2"}})
    await answer.prepare(request)
    async for piece in request.content.iter_any():
        await answer.write(piece)
    return answer

async def endless(request):
    answer = web.StreamResponse()
    await answer.prepare(request)
    try:
        while True:
            await answer.write(b"x" * 65536)
    finally:
        (home / "left").touch()

async def patient(request):
    while not (home / "go").exists():
        await asyncio.sleep(0.05)
    size = 0
    async for piece in request.content.iter_any():
        size += len(piece)
    return web.Response(text=str(size))

async def redirect(request):
    raise web.HTTPFound(request.query["to"].replace("OWN", f"http://{{request.host}}"))

async def die(request):
    print("it is\\x1b[31m tired\\x1b[0m of it", flush=True)
    os._exit(3)

async def talk(request):
    socket = web.WebSocketResponse(protocols=["two"], max_msg_size=0)
    await socket.prepare(request)
    async for message in socket:
        if message.data == "flood":
            try:
                while True:
                    await socket.send_bytes(b"x" * 65536)
            finally:
                (home / "left").touch()
        elif message.data == "deaf":
            while not (home / "go").exists():
                await asyncio.sleep(0.05)
            break
        elif message.data == "cut":
            request.transport.abort()
        elif message.data == "close":
            await socket.close(code=4410, message=b"done")
        elif message.type == WSMsgType.TEXT:
            await socket.send_str(message.data)
        else:
            await socket.send_bytes(message.data)
    (home / "left").touch()
    return socket

async def status(request):
    return web.json_response({{"gateway_running": (home / "gateway").exists()}})

async def plain(request):
    return web.Response(text="<p>the dashboard</p>" * 99, content_type="text/html")

app = web.Application(middlewares=[gate], client_max_size=10**9)
app.router.add_route("*", "/auth/password-login", log_in)
app.router.add_route("*", "/api/status", status)
for handler in (echo, endless, patient, redirect, die, talk):
    app.router.add_route("*", f"/{{handler.__name__}}", handler)
app.router.add_route("*", "/{{rest:.*}}", plain)

async def serve():
    runner = web.AppRunner(app)
    await runner.setup()
    given = dict(zip(sys.argv[2:], sys.argv[3:]))
    await web.TCPSite(runner, given["--host"], int(given["--port"])).start()
    print(f"HERMES_DASHBOARD_READY port={{runner.addresses[0][1]}}", flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""


@pytest.fixture(scope="module")
def hermes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with that Hermes in it."""
    folder = tmp_path_factory.mktemp("hermes")
    program = folder / ".local" / "bin" / "hermes"
    program.parent.mkdir(parents=True)
    program.write_text(HERMES)
    program.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def app(hermes: Path, workspace: StandIn) -> Iterator[Served]:
    """The app on Databricks Apps, set up, its dashboard running."""
    with Served(workspace.env, hermes, DATABRICKS_APP_NAME="hermes", APP_OWNER=OWNER) as served:
        until(lambda: served.ask("GET /hermes/echo", OWNED)[0] == 200, served.log.read_text)
        yield served


def asked(served: Served) -> list[list[Any]]:
    """What has reached the dashboard so far: method, path, headers."""
    log = served.home / "asked"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def dashboards(served: Served) -> list[str]:
    return [line for line in served.processes() if "hermes dashboard" in line]


def talk(served: Served, path: str = "/hermes/talk", **changed: str | None) -> ClientConnection:
    """A websocket, as the owner's browser opens it through Databricks' proxy."""
    headers = {
        k: v for k, v in (OWNED | changed).items() if v is not None and k not in ("Host", "Origin")
    }
    return connect(
        f"ws://127.0.0.1:{served.port}{path}",
        origin=changed.get("Origin", SITE),  # type: ignore[arg-type]
        additional_headers=headers,
        subprotocols=["one", "two"],  # type: ignore[list-item]
        max_size=None,
        proxy=None,
    )


# --- Paths and headers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        *[
            (path, path)
            for path in ("/", "/chat", "/api/sessions/", "/a%2Fb", "/a%20b", "/...", "/.x")
        ],
        *[
            (path, None)
            for path in ("/..", "/../", "/a/../b", "/%2e%2e/", "/.%2E/x", "/./", "/%2e")
        ],
        *[(path, None) for path in ("//", "//evil.example/", "/a//b", "/%2Fx", "/a%2f..%2fb")],
        *[
            (path, None)
            for path in ("/\\evil.example", "/%5cx", "/a%0d%0aHost:%20x", "/%00", "/%7f")
        ],
    ],
)
def test_a_path_that_could_lead_elsewhere_is_none(path: str, expected: str | None) -> None:
    assert target(f"/hermes{path}".encode()) == expected


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/login?next=%2F", "/hermes/login?next=%2F"),
        ("/hermes/login", "/hermes/login"),
        ("/hermes", "/hermes"),
        ("/hermesx", "/hermes/hermesx"),
        ("x?y", "/hermes/api/x?y"),
        ("../../../x", "/hermes/x"),
        ("http://127.0.0.2:9/x", "/hermes/x"),
        ("/\\evil.example", "/hermes/\\evil.example"),
        *[
            (elsewhere, None)
            for elsewhere in (
                "http://127.0.0.2:98/x",
                "https://127.0.0.2:9/x",
                "//evil.example",
                "javascript:x",
            )
        ],
    ],
)
def test_a_redirect_stays_below_the_prefix(location: str, expected: str | None) -> None:
    headers = [(b"location", location.encode()), (b"etag", b"x")]
    found = dict(redirected(headers, "http://127.0.0.2:9/api/y"))
    assert found.pop(b"location", b"none") == (expected or "none").encode()
    assert found == {b"etag": b"x"}


HOP_BY_HOP = b"connection keep-alive proxy-authorization te trailer transfer-encoding upgrade"
THEIRS = b"host origin cookie authorization x-forwarded-email x-real-ip forwarded set-cookie server"


def test_of_the_headers_only_what_is_named_is_passed_on() -> None:
    names = [*HOP_BY_HOP.split(), *THEIRS.split(), b"ETag", b"Range", b"X-Hermes-Own"]
    headers = [(name, b"x") for name in names]
    assert chosen(headers, ASKED) == [(b"range", b"x"), (b"x-hermes-own", b"x")]
    assert chosen(headers, ANSWERED) == [(b"etag", b"x"), (b"x-hermes-own", b"x")]


# --- Who reaches it -------------------------------------------------------------------------------

WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.mark.parametrize(
    ("request_line", "changed"),
    [
        ("GET /hermes/", {"X-Forwarded-Email": "somebody@example.com"}),
        ("GET /hermes/", {"X-Forwarded-Email": ""}),
        ("GET /hermes/", {"X-Forwarded-Email": f"{OWNER}, somebody@example.com"}),
        ("GET /hermes/", {"Origin": "https://evil.example"}),
        ("GET /hermes/", {"X-Forwarded-Host": "evil.example"}),
        ("GET /hermes/", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}),
        ("GET /hermes/api/x", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}),
        ("GET /hermes/api/x", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "document"}),
        ("GET /hermes/%61pi/x", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}),
        ("GET /hermes/api%2fx", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}),
        ("POST /hermes/echo", {"Origin": "https://evil.example"}),
        ("POST /hermes/echo", {"Origin": "null"}),
        ("GET /hermes/talk", {**WEBSOCKET, "Origin": "https://evil.example"}),
        ("GET /hermes/talk", {**WEBSOCKET, "X-Forwarded-Email": "somebody@example.com"}),
    ],
)
def test_whoever_is_not_the_owner_is_refused(
    app: Served, request_line: str, changed: dict[str, str]
) -> None:
    before = asked(app)
    assert app.ask(request_line, OWNED | changed)[0] == 403
    assert asked(app) == before


def test_a_form_and_a_websocket_name_their_origin(app: Served) -> None:
    before, nameless = asked(app), {k: v for k, v in OWNED.items() if k != "Origin"}
    assert app.ask("POST /hermes/echo", nameless)[0] == 403
    assert app.ask("GET /hermes/talk", nameless | WEBSOCKET)[0] == 403
    assert (
        app.ask("GET /hermes/", [*OWNED.items(), ("X-Forwarded-Email", "x@example.com")])[0] == 403
    )
    assert asked(app) == before


def test_a_refused_request_starts_nothing_and_the_owners_does(
    hermes: Path, workspace: StandIn
) -> None:
    with Served(workspace.env, hermes) as served:
        until(lambda: (served.home / ".hermes" / "config.yaml").exists(), served.log.read_text)
        for headers in (
            {"Host": "evil.example"},  # a DNS name that leads here
            LOCAL | {"Origin": "http://evil.example"},
            LOCAL | WEBSOCKET,
            LOCAL | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "script"},
        ):
            assert served.ask("GET /hermes/", headers)[0] == 403
        assert served.ask("POST /hermes/", LOCAL)[0] == 403
        assert served.ask("GET /hermes/..%2f", LOCAL)[0] == 400
        assert dashboards(served) == []

        status, page = served.ask("GET /hermes/", LOCAL | {"Accept": "text/html"})
        assert (status, 'http-equiv="refresh"' in page) == (503, True)
        # What is no page waits for the answer.
        until(lambda: served.ask("GET /hermes/", LOCAL)[0] == 200, served.log.read_text)
        assert len(dashboards(served)) == 1
        assert [(method, path) for method, path, _ in asked(served)][:2] == [
            ("GET", "/api/sessions"),
            ("POST", "/auth/password-login"),
        ]
        hidden = served.home / "asked"
        login = hidden.read_text().split("hermes_session_at=")[1][:16]
        assert login not in served.log.read_text()
        served.process.kill()
        served.process.wait()
        until(lambda: served.processes() == [], lambda: f"{served.processes()} are left")


@pytest.mark.parametrize(
    ("line", "status", "reached"),
    [
        ("GET /hermes/../", 400, None),
        ("GET /hermes/%2e%2e/files/x", 400, None),
        ("GET /hermes//evil.example/", 400, None),
        ("GET //hermes/x", 404, None),
        ("GET /x/../hermes/x", 404, None),
        ("GET /%68ermes/x", 404, None),
        ("GET /hermes-x", 404, None),
        ("GET /hermes", 307, None),
        ("GET /login", 307, None),
        ("GET http://evil.example/hermes/x", 200, "/x"),
        ("GET /hermes/a%2Fb?c=%2e%2e//", 200, "/a%2Fb?c=%2e%2e//"),
    ],
)
def test_a_path_reaches_the_dashboard_as_it_was_written_or_nothing(
    app: Served, line: str, status: int, reached: str | None
) -> None:
    before = len(asked(app))
    assert app.ask(line, OWNED)[0] == status
    assert [path for _, path, _ in asked(app)[before:]] == [reached] * (reached is not None)
    for _, _, headers in asked(app)[before:]:
        assert dict(headers)["Host"].startswith("127.0.0.2:")


# --- What reaches it, and what comes back ---------------------------------------------------------


def test_it_is_told_nothing_of_the_browsers_connection_and_tells_nothing_of_its_own(
    app: Served,
) -> None:
    status, answer = app.ask("POST /hermes/echo", OWNED | {"X-Hermes-Mine": "1"}, "a body")
    head, _, body = answer.partition("\r\n\r\n")
    assert (status, "a body" in body) == (200, True)
    names = {line.partition(":")[0].lower() for line in head.splitlines()}
    assert {"x-hermes-own", "content-type"} < names
    assert not names & {"set-cookie", "x-secret", "service-worker-allowed", "content-encoding"}
    assert "content-security-policy: frame-ancestors 'none'" in head
    sent = {name.lower(): value for name, value in asked(app)[-1][2]}
    assert re.fullmatch("hermes_session_at=[0-9a-f]{16}", sent.pop("cookie"))
    assert re.fullmatch(r"127\.0\.0\.2:\d+", sent.pop("host"))
    assert sent.pop("connection") == "close"  # of the connection to it
    assert sent == {"x-forwarded-prefix": "/hermes", "x-hermes-mine": "1", "content-length": "6"}


def test_a_page_is_not_packed_and_a_redirect_leads_back(app: Served) -> None:
    _, answer = app.ask("GET /hermes/", OWNED | {"Accept-Encoding": "gzip"})
    assert "content-encoding" not in answer.lower()
    assert "<p>the dashboard</p>" in answer
    status, answer = app.ask("GET /hermes/redirect?to=OWN/x", OWNED)
    assert (status, "\r\nlocation: /hermes/x\r\n" in answer) == (302, True)


def memory(served: Served) -> int:
    """The app's, in MB."""
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def left(served: Served) -> bool:
    with suppress(FileNotFoundError):
        (served.home / "left").unlink()
        return True
    return False


def full(connection: socket.socket, send: Callable[[], object]) -> int:
    """Send until the other side takes no more. Returns how often that was."""
    connection.settimeout(1)
    count = 0
    with suppress(TimeoutError):
        while count < 10_000:
            send()
            count += 1
    return count


def test_an_answer_waits_for_its_reader_and_ends_with_it(app: Served) -> None:
    before = memory(app)
    left(app)
    head = "".join(f"{name}: {value}\r\n" for name, value in OWNED.items())
    with socket.create_connection(("127.0.0.1", app.port)) as reader:
        reader.sendall(f"GET /hermes/endless HTTP/1.1\r\n{head}\r\n".encode())
        assert reader.recv(1000).startswith(b"HTTP/1.1 200")
        app.ask("GET /hermes/echo", OWNED)
        for _ in range(200):
            reader.recv(65536)
        assert memory(app) < before + 15
        assert not left(app)
    until(lambda: left(app), lambda: "it goes on for nobody")


@pytest.fixture
def go(app: Served) -> Iterator[Path]:
    """A file that lets the dashboard take what it is sent."""
    path = app.home / "go"
    yield path
    path.unlink(missing_ok=True)


def test_a_body_waits_for_who_takes_it(app: Served, go: Path) -> None:
    before, size = memory(app), 60 * 2**20
    lines = [f"{k}: {v}" for k, v in (OWNED | {"Content-Length": str(size)}).items()]
    head = "\r\n".join(["POST /hermes/patient HTTP/1.1", *lines, "", ""])
    with socket.create_connection(("127.0.0.1", app.port)) as sender:
        sender.sendall(head.encode())
        piece = memoryview(bytes(2**20))
        assert full(sender, lambda: sender.sendall(piece)) < 50
        assert memory(app) < before + 15
    with socket.create_connection(("127.0.0.1", app.port)) as sender:
        go.touch()
        sender.sendall(head.encode() + bytes(size))
        answer = b""
        while str(size).encode() not in answer:
            answer += sender.recv(65536) or pytest.fail(f"{answer!r} is all")
    assert memory(app) < before + 15


def test_a_websocket_passes_both_kinds_of_message_and_the_code_it_ends_with(app: Served) -> None:
    with talk(app) as near:
        assert near.subprotocol == "two"
        for message in ("täxt", b"\x00\xff", "", "x" * 100_000):
            near.send(message)
            assert near.recv() == message
        near.send("close")
        with pytest.raises(ConnectionClosed) as ended:
            near.recv()
        assert ended.value.rcvd
        assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (4410, "")
    with talk(app) as near:
        near.send("cut")
        with pytest.raises(ConnectionClosed) as ended:
            near.recv()
        assert ended.value.rcvd
        assert ended.value.rcvd.code == 1012  # it may come back
    sent = {name.lower(): value for name, value in asked(app)[-1][2]}
    assert not sent.keys() & {"origin", "authorization", "forwarded", "x-forwarded-email"}
    assert sent["host"].startswith("127.0.0.2:")
    with pytest.raises(InvalidStatus) as refused:
        talk(app, "/hermes/../talk")
    assert refused.value.response.status_code == 400


def test_a_flood_waits_for_its_reader_and_ends_with_it(app: Served) -> None:
    before = memory(app)
    left(app)
    with talk(app) as near:
        near.send("flood")
        assert near.recv()
        for _ in range(5):
            assert app.ask("GET /hermes/echo", OWNED)[0] == 200  # nobody else waits for it
        assert memory(app) < before + 15
        near.socket.shutdown(socket.SHUT_RDWR)
    until(lambda: left(app), lambda: "it goes on for nobody")


def test_what_nobody_takes_stays_with_the_browser(app: Served, go: Path) -> None:
    before = memory(app)
    left(app)
    with talk(app) as near:
        near.send("deaf")
        size = 2**20
        frame = b"\x82\xff" + size.to_bytes(8, "big") + bytes(4) + bytes(size)  # masked with zeros
        assert full(near.socket, lambda: near.socket.sendall(frame)) < 50
        assert memory(app) < before + 15
        near.socket.shutdown(socket.SHUT_RDWR)
        go.touch()
    until(lambda: left(app), lambda: "its socket goes on")


def test_without_node_the_chat_says_so(hermes: Path, workspace: StandIn, tmp_path: Path) -> None:
    (tmp_path / "bash").symlink_to(shutil.which("bash") or "")
    env = workspace.env | {"PATH": str(tmp_path)}
    with Served(env, hermes, DATABRICKS_APP_NAME="hermes", APP_OWNER=OWNER) as served:
        until(lambda: served.ask("GET /hermes/echo", OWNED)[0] == 200, served.log.read_text)
        with talk(served, "/hermes/api/pty") as near:
            assert "Its chat needs Node.js" in str(near.recv())
        with talk(served) as near:
            near.send("x")
            assert near.recv() == "x"


@pytest.mark.parametrize(
    "count", [10, pytest.param(100, marks=pytest.mark.slow)], ids=["10", "100"]
)
def test_openings_leave_no_process_no_socket_and_no_growth(app: Served, count: int) -> None:
    def open_it() -> None:
        assert app.ask("GET /hermes/", OWNED)[0] == 200
        with talk(app) as near:
            near.send("x")
            assert near.recv() == "x"
            near.socket.shutdown(socket.SHUT_RDWR)  # as a tab that is closed

    def state() -> tuple[int, int]:
        return len(app.processes()), len(os.listdir(f"/proc/{app.process.pid}/fd"))

    for _ in range(3):
        open_it()
    settled = app.processes()
    until(lambda: left(app), lambda: "its socket goes on")
    before, used = state(), memory(app)
    for _ in range(count):
        open_it()
    until(lambda: state() <= before, lambda: f"{state()} after {before}: {settled}")
    assert memory(app) <= used + 3


# --- Its pages, in a browser, with the real Hermes ------------------------------------------------

FRONT = "hermes-1234567890123456.7.azure.databricksapps.com"


@pytest.fixture
def served(installed_hermes: Path, workspace: StandIn) -> Iterator[Served]:
    """The app on Databricks Apps, with the real Hermes."""
    settings = {"DATABRICKS_APP_NAME": "hermes", "APP_OWNER": OWNER}
    with Served(workspace.env, installed_hermes, **settings) as served:
        yield served


@pytest.fixture
def front(installed_hermes: Path, workspace: StandIn, served: Served) -> Iterator[Runner]:
    """Databricks' proxy with TLS, in front of that app."""
    with Runner(workspace.env, installed_hermes, OWNER) as runner:
        runner.host, runner.app_port = FRONT, served.port
        yield runner


def open_page(browser: Browser, errors: list[str], url: str, status: int = 200) -> Page:
    context = browser.new_context(ignore_https_errors=True, viewport={"width": 1200, "height": 700})
    context.set_default_timeout(BROWSERS_PATIENCE)
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    answer = page.goto(url)
    assert answer
    assert answer.status == status
    return page


def ask(tab: Page, method: str, path: str, **body: object) -> Any:
    """Ask the dashboard's API from its page, as its own scripts do."""
    given = {"method": method} | ({"body": json.dumps(body)} if body else {})
    given["headers"] = {"Content-Type": "application/json"}  # type: ignore[assignment]
    return tab.evaluate(f"fetch('/hermes{path}', {json.dumps(given)}).then(r => r.json())")


@pytest.mark.slow
def test_a_chat_in_the_dashboard_is_answered_listed_and_resumed_in_a_terminal(
    front: Runner, served: Served, workspace: StandIn, installed_hermes: Path
) -> None:
    packages = installed_hermes.glob(".local/share/uv/tools/*/lib/*/site-packages/hermes_cli")
    rules, errors = f"--host-resolver-rules=MAP {FRONT}:443 127.0.0.1:{front.port}", list[str]()
    chromium = shutil.which("chromium") or pytest.skip("chromium, the browser, is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, rules])
        page = open_page(browser, errors, f"https://{FRONT}/")
        button = page.get_by_role("link", name="Dashboard", exact=True)
        expect(button).to_be_visible()  # once Hermes is set up
        page.set_viewport_size({"width": 390, "height": 700})
        expect(button).to_be_in_viewport(ratio=1)
        page.set_viewport_size({"width": 1200, "height": 700})
        with page.expect_popup() as opened:
            page.keyboard.press("Control+Shift+D")
        tab = opened.value
        if not any((package / "web_dist").exists() for package in packages):  # built without pages
            expect(tab.get_by_text("It has ended")).to_be_visible()
            return
        tab.get_by_role("link", name="Chat", exact=True).first.click()
        say(tab, "good morning")
        asked = next(r for r in workspace.chats() if r.status == 200)
        assert (asked.status, asked.host, asked.model) == (200, workspace.gateway_host, OPUS_4_7)
        shot(tab, "30-dashboard-chat")

        def counts() -> list[int]:
            return [one["message_count"] for one in ask(tab, "GET", "/api/sessions")["sessions"]]

        until(lambda: counts() == [2], lambda: str(counts()))
        tab.get_by_role("link", name="Sessions", exact=True).first.click()
        expect(tab.get_by_text("2 msgs")).to_be_visible()
        shot(tab, "31-dashboard-sessions")
        (session,) = ask(tab, "GET", "/api/sessions")["sessions"]

        # What it writes is saved as all else of Hermes is, but for keys.
        ask(tab, "POST", "/api/cron/jobs", prompt="say hello", schedule="0 8 * * *", name="daily")
        ask(tab, "PUT", "/api/env", key="EXA_API_KEY", value="a-key-of-mine")
        assert "a-key-of-mine" in (served.home / ".hermes" / ".env").read_text()
        kept = {entry.path for entry in walk(served.home, lambda _: None)}
        assert {".hermes/state.db", ".hermes/cron/jobs.json", ".hermes/config.yaml"} <= kept
        assert ".hermes/.env" not in kept

        # Another model, chosen there, is what a terminal's chat then asks, with the same providers.
        model = {"scope": "main", "provider": "custom:databricks-gateway", "model": SONNET}
        assert ask(tab, "POST", "/api/model/set", confirm_expensive_model=True, **model)["ok"]
        line(page, f"{SONNET} · databricks-gateway")
        prompt(page)
        submit(page, "/exit", PROMPTS)
        run(page, f"hermes chat --resume {session['id']}")
        sees(page, "good morning")
        prompt(page)

        front.visitor = "somebody@example.com"
        open_page(browser, errors, f"https://{FRONT}/hermes/", status=403)
        browser.close()
    assert errors == []
    assert "ticket" not in served.log.read_text()


# --- Its process ----------------------------------------------------------------------------------


@pytest.fixture
def settings(hermes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppSettings:
    monkeypatch.setattr(process, "PAUSE", 0.05)
    (tmp_path / ".local").symlink_to(hermes / ".local")
    return read_settings(
        {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "DATABRICKS_CLIENT_SECRET": "hush"}
    )


def running(settings: AppSettings) -> list[Path]:
    mark = f"HOME={settings.home}\0".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (folder / "environ").read_bytes():
                found.append(folder)
    return found


async def soon(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


def test_it_ends_when_nobody_is_there_and_starts_again(settings: AppSettings) -> None:
    asked = settings.home / "asked"

    async def live() -> None:
        dashboard = DashboardProcess(settings, idle=0.1)
        for _ in range(2):
            with dashboard.visit():
                assert await dashboard.answers()
            with dashboard.visit():  # the next one, in time
                (found,) = running(settings)
                environment = (found / "environ").read_bytes()
                assert b"PASSWORD_HASH=scrypt$" in environment
                assert b"hush" not in environment
                await asyncio.sleep(0.2)  # this is the test's input: a visit longer than `idle`
                assert dashboard.running
                assert "/api/status" not in asked.read_text()
            await soon(lambda: not running(settings) and not dashboard.active)
            asked.unlink()
        (settings.home / "gateway").touch()  # which runs the scheduled jobs
        with dashboard.visit():
            assert await dashboard.answers()
        await soon(lambda: asked.read_text().count("/api/status") > 2)
        assert dashboard.running
        (settings.home / "gateway").unlink()
        await soon(lambda: not dashboard.active)
        await dashboard.close()

    asyncio.run(live())


def test_it_is_started_anew_with_a_pause_that_grows(
    settings: AppSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PAUSE", 1000.0)
    monkeypatch.setattr(process, "LONGEST", 4000.0)

    async def live() -> None:
        loop = asyncio.get_running_loop()
        clock, passed = loop.time, 0.0
        monkeypatch.setattr(loop, "time", lambda: clock() + passed)
        dashboard = DashboardProcess(settings)
        with dashboard.visit():
            for pause in (1000.0, 2000.0, 4000.0):
                serving = await dashboard.answers()
                assert serving
                with suppress(ClientError):
                    await serving.client.get(serving.url("/die"))
                await soon(lambda: not dashboard.active)
                assert dashboard.note.startswith("It has ended: it is tired of it.")
                assert dashboard.pause == min(2 * pause, 4000)
                dashboard.start()
                assert not dashboard.active  # the pause is not over
                passed += pause
            assert await dashboard.answers()
        await dashboard.close()
        assert running(settings) == []

    asyncio.run(live())


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("none", "hermes: error: argument command: invalid choice: 'dashboard'."),
        ("open", "it answers 200 to a request without a login; expected 401."),
    ],
)
def test_a_dashboard_that_cannot_be_used_is_named(
    settings: AppSettings, file: str, why: str
) -> None:
    async def live() -> None:
        (settings.home / file).touch()
        dashboard = DashboardProcess(settings)
        with dashboard.visit():
            assert await dashboard.answers() is None
        assert dashboard.note.startswith(f"It has ended: {why}")
        assert running(settings) == []
        await dashboard.close()

    asyncio.run(live())


def test_it_ends_with_the_app(app: Served) -> None:
    """The last of this app's tests."""
    assert len(dashboards(app)) == 1
    app.process.send_signal(signal.SIGTERM)
    assert app.process.wait(PATIENCE) in (0, -signal.SIGTERM)
    until(lambda: not app.processes(), lambda: str(app.processes()))
