"""webapp/files/: hostile names, full disks, cut connections, links; over HTTP and by themselves."""

from __future__ import annotations

import asyncio
import io
import json
import os
import resource
import shlex
import socket
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote, unquote_to_bytes

import pytest

pytest.importorskip("nicegui", reason="the app needs nicegui, which is not installed")
pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")

import uvicorn
from uvicorn.server import ServerState

from tests.served import OWNER, PATIENCE, Served, until
from tests.standin import StandIn
from webapp.access import Receive, Scope, Send
from webapp.files import folder
from webapp.files import transfer as files
from webapp.files.folder import PART, address, list_folder, pack, shown
from webapp.files.transfer import Files, OnDemand

Answer = tuple[int, HTTPMessage, bytes]

TAKEN = [
    "plain.txt",
    "two words.txt",
    "it's.txt",
    'a "quoted" one.txt',
    "<script>alert(1)</script>.txt".replace("/", "\u2215"),
    "$(touch pwned) `touch pwned`; touch pwned &",
    "-rf",
    "~",
    "*",
    "back\\slash",
    "größer 你好 🐛",
    "\u202egnp.exe",
    "%2e%2e%2f",
    " ",
    "...",
    "?q=1#fragment",
    "x" * 255,
    "ü" * 127,
]
REFUSED = [
    b"..",
    b".",
    b"a/../b",
    b"../../escape",
    b"line\nbreak",
    b"return\r",
    b"escape\x1b[201~",
    b"interrupt\x03",
    b"nul\0byte",
    b"next\xc2\x85line",
    b"not utf-8 \xff",
    b"x" * 256,
    b"folder/" + b"\xc3\xbc" * 128,
    PART.encode() + b"x",
    b"",
]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with StandIn() as standin, Served(standin.env) as served:
        (served.home / "projects").mkdir(exist_ok=True)
        yield served


@pytest.fixture
def projects(served: Served) -> Path:
    """The folder that is served, empty."""
    root = served.home / "projects"
    subprocess.run(["find", str(root), "-mindepth", "1", "-delete"], check=True)
    return root


def call(served: Served, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """One request, as the page's own script sends it; the path is already quoted."""
    connection = HTTPConnection("localhost", served.port, timeout=PATIENCE)
    connection.request(method, path, body, {"Origin": served.url, **headers})
    answer = connection.getresponse()
    result = answer.status, answer.headers, answer.read()
    connection.close()
    return result


def post(served: Served, path: str | bytes, body: Any = b"", **headers: str) -> Answer:
    return call(served, "POST", f"/files/{quote(path)}", body, **headers)


def refused(answer: Answer, status: int) -> str:
    """A refusal is one line of plain text that no browser takes for anything else."""
    assert (answer[0], answer[1].get_content_type()) == (status, "text/plain")
    assert answer[1]["X-Content-Type-Options"] == "nosniff"
    line = answer[2].decode()
    assert line.endswith(".\n")
    assert line.rstrip("\n").isprintable()
    return line


def names(root: Path) -> set[str]:
    """All that is below a folder, hidden files included."""
    return {str(p.relative_to(root)) for p in root.rglob("*")}


# --- In -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TAKEN)
def test_a_name_goes_in_and_out_unharmed(served: Served, projects: Path, name: str) -> None:
    body = os.urandom(300_000)
    status, headers, answer = post(served, name, body)
    assert (status, headers.get_content_type()) == (200, "application/json"), answer
    given = json.loads(answer)
    assert given["path"] == name
    assert names(projects / "uploads") == {name}
    # What is typed names this file to a shell, and does nothing else.
    script = f"cat {given['typed']}"
    assert "\n" not in script
    done = subprocess.run(["bash", "-c", script], cwd=projects, capture_output=True, check=True)
    assert done.stdout == body
    assert names(projects) == {"uploads", f"uploads/{name}"}
    status, headers, answer = call(served, "GET", address(["uploads", name]))
    assert (status, answer) == (200, body)
    filename = headers["Content-Disposition"].removeprefix("attachment; filename*=UTF-8''")
    assert unquote_to_bytes(filename).decode() == name


@pytest.mark.parametrize("name", REFUSED, ids=repr)
def test_a_name_that_could_do_harm_is_refused_in_one_line(
    served: Served, projects: Path, name: bytes
) -> None:
    refused(post(served, name, b"body"), 400)
    assert names(projects) == set()
    assert not (served.home / "escape").exists()


def test_a_taken_name_gets_a_number_and_nothing_is_replaced(served: Served, projects: Path) -> None:
    for n, name in enumerate(
        ["a.txt", "a.txt", "a.txt", ".rc", ".rc", "x" * 255, "x" * 255, "ü" * 127, "ü" * 127]
    ):
        assert post(served, name, str(n))[0] == 200
    found = {p.name: p.read_text() for p in (projects / "uploads").iterdir()}
    wanted = [
        "a.txt",
        "a-2.txt",
        "a-3.txt",
        ".rc",
        ".rc-2",
        "x" * 255,
        "x" * 253 + "-2",
        "ü" * 127,
        "ü" * 126 + "-2",
    ]
    assert found == {name: str(n) for n, name in enumerate(wanted)}


def test_a_folder_keeps_its_structure_and_gets_a_number_as_a_whole(
    served: Served, projects: Path
) -> None:
    for n in (1, 2):
        top = json.loads(post(served, "pictures/")[2])
        assert shlex.split(top["typed"]) == [str(projects / "uploads" / top["path"])]
        for path in ("a.txt", "deep/er/b.txt"):
            assert (
                json.loads(post(served, f"{top['path']}/{path}", str(n))[2])["path"]
                == f"{top['path']}/{path}"
            )
        assert post(served, f"{top['path']}/empty/")[0] == 200
    assert sorted(p.name for p in (projects / "uploads").iterdir()) == ["pictures", "pictures-2"]
    for n, name in ((1, "pictures"), (2, "pictures-2")):
        assert names(projects / "uploads" / name) == {
            "a.txt",
            "deep",
            "deep/er",
            "deep/er/b.txt",
            "empty",
        }
        assert (projects / "uploads" / name / "deep/er/b.txt").read_text() == str(n)


def test_five_hundred_at_once_all_arrive(served: Served, projects: Path) -> None:
    """All of them are open together, with one name; more than the files a process may usually open."""
    ready = [
        socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) for _ in range(500)
    ]
    for n, connection in enumerate(ready):
        body = b"%010d" % n * 10_000
        head = f"POST /files/same HTTP/1.1\r\nHost: localhost:{served.port}\r\nOrigin: {served.url}\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:50_000])
    for n, connection in enumerate(ready):
        connection.sendall((b"%010d" % n * 10_000)[50_000:])
    for connection in ready:
        assert connection.recv(12) == b"HTTP/1.1 200"
        connection.close()
    found = sorted(p.read_bytes() for p in (projects / "uploads").iterdir())
    assert found == [b"%010d" % n * 10_000 for n in range(500)]


def test_an_upload_that_waits_is_not_read(served: Served, projects: Path) -> None:
    """It stays with its sender until there is a place for it."""
    head = f"Host: localhost:{served.port}\r\nOrigin: {served.url}\r\nContent-Length: 50000000\r\n\r\n".encode()
    with ExitStack() as stack:
        crowd = [
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            for _ in range(files.AT_ONCE + 1)
        ]
        for n, connection in enumerate(crowd):
            connection.sendall(f"POST /files/{n} HTTP/1.1\r\n".encode() + head + b"x")
            most = min(n + 1, files.AT_ONCE)
            until(
                lambda most=most: sum(PART in p for p in names(projects)) == most,  # type: ignore[misc]
                lambda: "it waits",
            )
        assert call(served, "GET", "/health")[0] == 200  # it has seen the last one, too
        assert sum(PART in p for p in names(projects)) == files.AT_ONCE
        last = crowd[-1]
        last.setblocking(False)
        sent = 0
        with suppress(BlockingIOError):
            while sent < 50_000_000 - 1:
                sent += last.send(bytes(100_000))
        assert sent < 20_000_000  # the system's own buffers
        last.setblocking(True)
        for connection in crowd[:-1]:
            connection.close()
        last.sendall(bytes(50_000_000 - 1 - sent))
        assert last.recv(12) == b"HTTP/1.1 200"
    assert (projects / "uploads" / str(files.AT_ONCE)).stat().st_size == 50_000_000


def test_nothing_stays_open(served: Served, projects: Path) -> None:
    held = Path(f"/proc/{served.process.pid}/fd")
    if not held.exists():
        pytest.skip("counts what is open in /proc, which is not here")

    def round_trip() -> None:
        assert post(served, "folder/file", b"whole")[0] == 200
        for path in ("/files/uploads/folder/file", "/files/uploads/folder", "/files/nothing"):
            call(served, "GET", path)
        assert post(served, "..", b"refused")[0] != 200

    round_trip()
    before = len(list(held.iterdir()))
    for _ in range(10):
        round_trip()
    until(
        lambda: len(list(held.iterdir())) < before + 5,
        lambda: f"{before}, then {len(list(held.iterdir()))}",
    )


@pytest.mark.fault("network")
def test_an_upload_that_is_cut_leaves_nothing(served: Served, projects: Path) -> None:
    for head in ("Content-Length: 900000", "Transfer-Encoding: chunked"):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            ask = f"POST /files/half HTTP/1.1\r\nHost: localhost:{served.port}\r\nOrigin: {served.url}\r\n{head}\r\n\r\n"
            connection.sendall(ask.encode() + b"61A80\r\n" + b"x" * 400_000)
            until(
                lambda: any(PART in n for n in names(projects)), lambda: "the upload does not begin"
            )
        until(lambda: names(projects) == {"uploads"}, lambda: str(names(projects)))
    assert post(served, "half", b"whole")[0] == 200
    assert "Traceback" not in served.log.read_text()


@pytest.mark.fault("disk full")
def test_a_full_disk_is_one_line_and_leaves_nothing(served: Served, projects: Path) -> None:
    before = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        line = refused(post(served, "big.bin", b"x" * 3_000_000), 507)
    finally:
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, before)
    assert line == "big.bin: the disk takes no file of this size.\n"
    assert names(projects) == {"uploads"}


@pytest.mark.fault("oversized values")
def test_more_than_the_limit_is_refused_before_it_is_sent(served: Served, projects: Path) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as connection:
        head = f"POST /files/big.bin HTTP/1.1\r\nHost: localhost:{served.port}\r\nOrigin: {served.url}\r\n"
        connection.sendall(f"{head}Content-Length: 500000001\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")
    assert names(projects) == set()


@pytest.mark.fault("killed")
def test_what_a_killed_server_left_half_there_goes(tmp_path: Path) -> None:
    with StandIn() as standin:
        with Served(standin.env) as first:
            uploads = first.home / "projects" / "uploads"
            with socket.create_connection(("127.0.0.1", first.port)) as connection:
                ask = f"POST /files/half HTTP/1.1\r\nHost: localhost:{first.port}\r\nOrigin: {first.url}\r\n"
                connection.sendall(f"{ask}Content-Length: 900000\r\n\r\n".encode() + b"x" * 400_000)
                until(
                    lambda: uploads.exists() and list(uploads.iterdir()),
                    lambda: "the upload does not begin",
                )
                first.process.kill()
                first.process.wait()
            left = [p.name for p in uploads.iterdir()]
        assert [name.startswith(PART) for name in left] == [True]
    root = tmp_path / "projects"
    (root / "uploads").mkdir(parents=True)
    (root / "uploads" / left[0]).touch()
    assert asyncio.run(inside(Files(nobody, root), "POST", "/files/new", [b"whole"])) == (
        200,
        names_of(root, "new"),
    )
    assert names(root) == {"uploads", "uploads/new"}


# --- By itself: what would take minutes or half a gigabyte over HTTP --------------------------------------------------------


async def nobody(*_: object) -> None:
    raise AssertionError("this path is ours")


def names_of(root: Path, name: str) -> bytes:
    return json.dumps(
        {"path": name, "typed": shlex.quote(str(root / "uploads" / name))}, separators=(",", ":")
    ).encode()


async def inside(app: Files, method: str, path: str, body: list[bytes] | None) -> tuple[int, bytes]:
    """One request without a server; a body of None never comes."""
    sent: list[Any] = []
    pieces = [{"type": "http.request", "body": piece, "more_body": True} for piece in body or []]

    async def receive() -> Any:
        if body is None:
            await asyncio.Event().wait()
        return (
            pieces.pop(0) if pieces else {"type": "http.request", "body": b"", "more_body": False}
        )

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "headers": [],
        "asgi": {},
    }
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent)


def test_a_body_is_read_only_when_it_is_asked_for() -> None:
    async def serve_one() -> list[str]:
        begun, ask = asyncio.Event(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            begun.set()
            await ask.wait()
            for _ in range(2):
                await receive()

        transport = Mock(**{"get_extra_info.return_value": None, "is_closing.return_value": False})
        protocol = OnDemand(
            uvicorn.Config(app, lifespan="off"), ServerState(), {}, asyncio.get_running_loop()
        )
        protocol.connection_made(transport)
        protocol.data_received(b"POST /files/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        await begun.wait()
        protocol.data_received(b"123")
        calls = [name for name, _, _ in transport.method_calls if name.endswith("_reading")]
        ask.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert calls == ["pause_reading"]
        return [name for name, _, _ in transport.method_calls if name.endswith("_reading")]

    assert asyncio.run(serve_one()) == ["pause_reading", "resume_reading"]


@pytest.mark.fault("oversized values")
def test_an_upload_of_no_stated_length_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LIMIT", 1_000_000)
    app = Files(nobody, tmp_path / "projects")
    assert asyncio.run(inside(app, "POST", "/files/fits", [b"x" * 100_000] * 10))[0] == 200
    status, line = asyncio.run(inside(app, "POST", "/files/more", [b"x" * 100_000] * 10 + [b"x"]))
    assert (status, line) == (413, b"more: it has more than 1 MB.\n")
    assert names(tmp_path / "projects" / "uploads") == {"fits"}


@pytest.mark.fault("network")
def test_an_upload_that_sends_nothing_loses_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "IDLE", 0.01)
    monkeypatch.setattr(files, "AT_ONCE", 1)
    app = Files(nobody, tmp_path / "projects")

    async def both() -> tuple[int, int]:
        first = asyncio.create_task(inside(app, "POST", "/files/silent", None))
        second = asyncio.create_task(inside(app, "POST", "/files/next", [b"whole"]))
        return (await first)[0], (await second)[0]

    assert asyncio.run(both()) == (408, 200)
    assert names(tmp_path / "projects" / "uploads") == {"next"}


def test_a_folder_that_becomes_a_link_while_it_is_packed_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "projects", tmp_path / "outside"
    (root / "top" / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "top" / "first").write_bytes(os.urandom(1_000_000))
    (root / "top" / "sub" / "own").write_text("own")
    pieces = pack(root, ["top"])
    data = next(pieces)
    (root / "top" / "sub").rename(root / "top" / "moved")
    (root / "top" / "sub").symlink_to(outside)
    data += b"".join(pieces)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert not [name for name in archive.namelist() if "secret" in name]
        assert "top/sub" in archive.read("top/LEFT OUT.txt").decode()


def test_a_folder_of_too_many_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "ENTRIES", 3)
    root = tmp_path / "projects"
    (root / "many" / "deep").mkdir(parents=True)
    for n in range(2):
        (root / "many" / "deep" / str(n)).touch()
    app = Files(nobody, root)
    with zipfile.ZipFile(io.BytesIO(b"".join(pack(root, ["many"])))) as archive:
        assert sorted(archive.namelist()) == ["many/deep/", "many/deep/0", "many/deep/1"]
    assert asyncio.run(inside(app, "GET", "/files/many", None))[0] == 200
    (root / "many" / "one more").touch()
    status, line = asyncio.run(inside(app, "GET", "/files/many", None))
    assert (status, line.count(b"\n")) == (413, 1)


@pytest.mark.slow
def test_a_zip_takes_a_file_of_more_than_two_gigabytes(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    with (tmp_path / "top" / "large").open("wb") as file:
        file.truncate(2**31 + 1)
    with zipfile.ZipFile(io.BytesIO(b"".join(pack(tmp_path, ["top"])))) as archive:
        assert archive.getinfo("top/large").file_size == 2**31 + 1


def test_a_file_that_grows_meanwhile_sends_no_more_than_was_promised(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 1000)
    assert b"".join(folder.read(io.FileIO(tmp_path / "log"), 600)) == b"x" * 600


def test_what_the_disk_takes_in_part_is_written_to_its_end(tmp_path: Path) -> None:
    class Grudging(io.FileIO):
        def write(self, data: Any, /) -> int:
            return super().write(bytes(data[:7]))

    with Grudging(tmp_path / "file", "w") as file:
        files._write_all(file, bytearray(b"0123456789" * 10))
    assert (tmp_path / "file").read_bytes() == b"0123456789" * 10


def test_a_list_is_bounded_filtered_and_newest_first(tmp_path: Path) -> None:
    for n in range(30):
        (tmp_path / f"File {n}").touch()
        os.utime(tmp_path / f"File {n}", (n, n))
    (tmp_path / f"{PART}half").touch()
    entries, count = list_folder(tmp_path, [], "", 3)
    assert ([e.name for e in entries], count) == (["File 29", "File 28", "File 27"], 30)
    entries, count = list_folder(tmp_path, [], "fILE 2", 20)
    assert ([e.name for e in entries][:2], count) == (["File 29", "File 28"], 11)


# --- Out ------------------------------------------------------------------------------------------------------------------


HOSTILE = [
    b"line\nbreak",
    b"return\r\nX-Evil: 1",
    b"not utf-8 \xff",
    b"\xed\xa0\x80",
    b"x" * 255,
    b"<script>.html",
    b'"; x="',
    b"\x1b",
]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_a_file_goes_out_whatever_its_name(served: Served, projects: Path, name: bytes) -> None:
    body = os.urandom(100_000)
    Path(os.fsdecode(os.fsencode(projects) + b"/" + name)).write_bytes(body)
    (entry,) = list_folder(projects, [], "", 10)[0]
    assert shown(entry.name).isprintable()
    status, headers, answer = call(served, "GET", address([entry.name]))
    assert (status, answer) == (200, body)
    kept = headers["Content-Disposition"].removeprefix("attachment; filename*=UTF-8''")
    assert kept.isascii()
    assert unquote_to_bytes(kept) == name.decode("utf-8", "backslashreplace").encode()
    assert "X-Evil" not in headers


@pytest.mark.parametrize(
    "name", ["page.html", "picture.svg", "script.js", "style.css", "paper.pdf", "folder"]
)
def test_what_goes_out_can_never_be_a_page_of_ours(
    served: Served, projects: Path, name: str
) -> None:
    if name == "folder":
        (projects / name).mkdir()
    else:
        (projects / name).write_text(
            "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
        )
    status, headers, _ = call(served, "GET", f"/files/{name}")
    assert status == 200
    assert headers.get_content_type() == (
        "application/zip" if name == "folder" else "application/octet-stream"
    )
    assert headers["Content-Disposition"].startswith("attachment;")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox; default-src 'none'" in headers.get_all("Content-Security-Policy", [])
    assert headers["Cache-Control"] == "no-store"


def test_a_folder_goes_out_as_a_zip_with_all_that_is_its_own(
    served: Served, projects: Path
) -> None:
    top, secret = projects / "top", served.home / "secret"
    (top / "empty").mkdir(parents=True)
    secret.write_text("secret")
    own = {
        "a.txt": b"a" * 3_000_000,
        "deep/b.bin": os.urandom(1_000_000),
        "größer 你好": b"",
        "line\nbreak": b"1",
        "run.sh": b"#!",
    }
    for name, body in own.items():
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_bytes(body)
    (top / "run.sh").chmod(0o755)
    os.utime(top / "a.txt", (0, 0))
    os.utime(top / "run.sh", (1e11, 1e11))
    (top / os.fsdecode(b"\xff")).write_bytes(b"odd")
    (top / f"{PART}x").touch()
    (top / "file link").symlink_to(secret)
    (top / "folder link").symlink_to(served.home)
    os.mkfifo(top / "pipe")
    status, headers, answer = call(served, "GET", "/files/top/")
    assert status == 200
    assert headers["Content-Disposition"].endswith("''top.zip")
    with zipfile.ZipFile(io.BytesIO(answer)) as archive:
        assert archive.testzip() is None
        found = {i.filename: archive.read(i) for i in archive.infolist() if not i.is_dir()}
        left_out = found.pop("top/LEFT OUT.txt").decode().splitlines()
        assert found == {f"top/{name}": body for name, body in own.items()} | {"top/\\xff": b"odd"}
        assert {i.filename for i in archive.infolist() if i.is_dir()} == {"top/empty/", "top/deep/"}
        assert archive.getinfo("top/run.sh").external_attr >> 16 & 0o777 == 0o755
    assert sorted(left_out[1:]) == ["top/file link", "top/folder link", "top/pipe"]
    assert b"secret" not in answer
    # All of it, as another program reads it.
    (served.folder / "whole.zip").write_bytes(call(served, "GET", "/files/")[2])
    subprocess.run(
        ["python3", "-m", "zipfile", "-t", str(served.folder / "whole.zip")],
        check=True,
        capture_output=True,
    )


def test_links_are_followed_nowhere(served: Served, projects: Path) -> None:
    (served.home / "secret").write_text("secret")
    (projects / "file").symlink_to(served.home / "secret")
    (projects / "folder").symlink_to(served.home)
    (projects / "uploads").symlink_to(served.home)
    for path in ("file", "folder", "folder/secret", "uploads/secret"):
        line = refused(call(served, "GET", f"/files/{path}"), 403)
        assert "secret\n" not in line
    refused(post(served, "new", b"body"), 403)
    assert not (served.home / "new").exists()
    (projects / "uploads").unlink()
    (projects / "uploads").mkdir()
    (projects / "uploads" / "way").symlink_to(served.home)
    refused(post(served, "way/new", b"body"), 403)
    # A taken name that is a link is not written through.
    (projects / "uploads" / "taken").symlink_to(served.home / "secret")
    assert json.loads(post(served, "taken", b"body")[2])["path"] == "taken-2"
    assert (served.home / "secret").read_text() == "secret"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("missing", 404),
        ("file/below", 404),
        ("../secret", 400),
        ("%2e%2e/secret", 400),
        ("..%2fsecret", 400),
        ("x/%00", 400),
        ("x" * 256, 400),
        ("pipe", 403),
        ("%2fetc/passwd", 404),
    ],
)
def test_what_is_not_there_is_one_line(
    served: Served, projects: Path, path: str, status: int
) -> None:
    (projects / "file").touch()
    os.mkfifo(projects / "pipe")
    refused(call(served, "GET", f"/files/{path}"), status)


def test_a_download_whose_reader_goes_ends_and_closes_its_file(
    served: Served, projects: Path
) -> None:
    with (projects / "big").open("wb") as big:
        big.truncate(1_000_000_000)

    def is_open() -> bool:
        found = []
        for link in Path(f"/proc/{served.process.pid}/fd").iterdir():
            with suppress(OSError):
                found.append(os.readlink(link))
        return str(projects / "big") in found

    for path in ("big", ""):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(
                f"GET /files/{path} HTTP/1.1\r\nHost: localhost:{served.port}\r\n\r\n".encode()
            )
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            until(is_open, lambda: "the file is not open")
        until(lambda: not is_open(), lambda: "the file stays open")


@pytest.mark.fault("file")
def test_a_file_that_shrinks_meanwhile_is_no_whole_download(served: Served, projects: Path) -> None:
    with (projects / "big").open("wb") as big:
        big.truncate(200_000_000)
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(
            f"GET /files/big HTTP/1.1\r\nHost: localhost:{served.port}\r\n\r\n".encode()
        )
        got = len(connection.recv(65536))
        (projects / "big").write_bytes(b"")
        with suppress(ConnectionError):
            while data := connection.recv(1 << 20):
                got += len(data)
    assert got < 200_000_000


# --- Only the owner -------------------------------------------------------------------------------------------------------


def test_only_the_owner_takes_and_gives(served: Served, projects: Path) -> None:
    (projects / "file").write_text("mine")
    assert call(served, "GET", "/files/file")[2] == b"mine"
    for origin in ("https://evil.example", "null", f"http://localhost:{served.port + 1}"):
        assert post(served, "x", b"x", Origin=origin)[0] == 403
    assert served.ask("POST /files/x", {"Host": f"localhost:{served.port}"})[0] == 403
    cross = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}
    assert call(served, "GET", "/files/file", **cross)[0] == 403
    assert call(served, "DELETE", "/files/file")[0] == 405
    assert names(projects) == {"file"}
    with (
        StandIn() as standin,
        Served(standin.env, DATABRICKS_APP_NAME="hermes", APP_OWNER=OWNER) as app,
    ):
        (app.home / "projects").mkdir(exist_ok=True)
        (app.home / "projects" / "file").write_text("mine")
        stranger = {
            "X-Forwarded-Email": "other@example.com",
            "X-Forwarded-Host": "app.example",
            "Origin": "https://app.example",
        }
        navigation = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
        assert call(app, "GET", "/files/file", **stranger, **navigation)[0] == 403
        assert post(app, "x", b"x", **stranger)[0] == 403
        owner = {**stranger, "X-Forwarded-Email": OWNER}
        assert call(app, "GET", "/files/file", **owner)[2] == b"mine"
        assert post(app, "x", b"x", **owner)[0] == 200
        assert names(app.home / "projects") == {"file", "uploads", "uploads/x"}
