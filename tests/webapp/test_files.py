"""webapp/files/: hostile names, full disks, cut connections, links; over HTTP and by themselves."""

from __future__ import annotations

import asyncio
import io
import json
import os
import resource
import shlex
import shutil
import socket
import struct
import subprocess
import threading
import uuid
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPMessage, IncompleteRead
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote, unquote_to_bytes, urlsplit

import pytest

pytest.importorskip("nicegui", reason="the app needs nicegui, which is not installed")
pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")

from starlette.exceptions import HTTPException

from tests.served import OWNER, PATIENCE, Served, until
from tests.standin import StandIn
from tests.webapp.front import Front
from webapp.files import folder, uploads, zips
from webapp.files.folder import PART, address, list_folder, shown
from webapp.files.transfer import Files, byte_range

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
    f"{PART}notes.txt",
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
    PART.encode() + b"0" * 32,
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


def query(size: int, at: int = 0, word: str = "") -> str:
    return f"?upload={word or uuid.uuid4()}&size={size}&at={at}"


def put(served: Served, path: str | bytes, body: str | bytes = b"", **headers: str) -> Answer:
    """A file in one piece."""
    return call(served, "PUT", f"/files/{quote(path)}{query(len(body))}", body, **headers)


def begin(served: Served, path: str, size: int, word: str = "") -> socket.socket:
    """A request whose body does not come yet."""
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)
    head = f"PUT /files/{path}{query(size, 0, word)} HTTP/1.1\r\nHost: localhost:{served.port}\r\n"
    length = f"Origin: {served.url}\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall((head + length).encode())
    return connection


def zipped(served: Served, path: str) -> Answer:
    """Pack a folder, and get it; or the refusal."""
    url = f"/files/{path}?zip={uuid.uuid4()}"
    answers = [call(served, "POST", url)]
    while answers[-1][0] == 200 and not json.loads(answers[-1][2])["ready"]:
        answers.append(call(served, "POST", url))
    return call(served, "GET", url) if answers[-1][0] == 200 else answers[-1]


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
    status, headers, answer = put(served, name, body)
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
    refused(put(served, name, b"body"), 400)
    assert names(projects) == set()
    assert not (served.home / "escape").exists()


def test_a_taken_name_gets_a_number_and_nothing_is_replaced(served: Served, projects: Path) -> None:
    for n, name in enumerate(
        ["a.txt", "a.txt", "a.txt", ".rc", ".rc", "x" * 255, "x" * 255, "ü" * 127, "ü" * 127]
    ):
        assert put(served, name, str(n))[0] == 200
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
        top = json.loads(put(served, "pictures/")[2])
        assert shlex.split(top["typed"]) == [str(projects / "uploads" / top["path"])]
        for path in ("a.txt", "deep/er/b.txt"):
            assert (
                json.loads(put(served, f"{top['path']}/{path}", str(n))[2])["path"]
                == f"{top['path']}/{path}"
            )
        assert put(served, f"{top['path']}/empty/")[0] == 200
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


def test_more_at_once_than_may_be_are_asked_to_come_again(
    served: Served, projects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent ones hold nobody up; what comes again with the same word takes their place."""
    with ExitStack() as stack:
        for n in range(uploads.AT_ONCE):
            stack.enter_context(begin(served, str(n), 10, f"{n:032x}")).sendall(b"12345")
            until(lambda n=n: len(names(projects)) == n + 2, lambda: "it waits")  # type: ignore[misc]
        line = refused(put(served, "one more", b"body"), 503)
        assert line == f"one more: {uploads.AT_ONCE} others are being sent; try again.\n"
    until(lambda: put(served, "one more", b"body")[0] == 200, lambda: "a place was not given back")


def test_a_piece_may_come_again_and_the_answer_stays_the_same(
    served: Served, projects: Path
) -> None:
    """As a browser does it that never knows what of a request arrived."""
    body, word = os.urandom(300_000), str(uuid.uuid4())

    def piece(start: int, end: int) -> dict[str, Any]:
        url = f"/files/folder/big.bin{query(len(body), start, word)}"
        status, _, answer = call(served, "PUT", url, body[start:end])
        assert status == 200, answer
        found: dict[str, Any] = json.loads(answer)
        return found

    nothing = {"have": 0, "path": "", "typed": ""}
    assert piece(100_000, 200_000) == nothing  # of an upload that is not known
    assert piece(0, 100_000) == nothing | {"have": 100_000}
    assert piece(250_000, 300_000) == nothing | {"have": 100_000}  # no holes
    assert piece(50_000, 200_000) == nothing | {"have": 200_000}
    assert piece(0, 100_000) == nothing | {"have": 200_000}
    assert {n for n in names(projects) if PART not in n} == {"uploads", "uploads/folder"}
    whole = piece(200_000, 300_000)
    assert whole["path"] == "folder/big.bin"
    assert piece(200_000, 300_000) == piece(0, 100_000) == whole
    assert (projects / "uploads/folder/big.bin").read_bytes() == body
    assert names(projects) == {"uploads", "uploads/folder", "uploads/folder/big.bin"}
    # A folder that is made, too.
    made = {call(served, "PUT", f"/files/new/{query(0, 0, word)}")[2] for _ in range(2)}
    assert len(made) == 1
    assert not (projects / "uploads" / "new-2").exists()


def test_the_latest_request_of_an_upload_is_the_one_that_writes(
    served: Served, projects: Path
) -> None:
    word = str(uuid.uuid4())
    with begin(served, "file", 10, word) as first:
        first.sendall(b"12345")
        until(lambda: any(PART in n for n in names(projects)), lambda: "it does not begin")
        answer = call(served, "PUT", f"/files/file{query(10, 0, word)}", b"abcdefghij")
        assert json.loads(answer[2])["path"] == "file"
        first.sendall(b"67890")
        assert first.recv(12) == b"HTTP/1.1 200"
    assert (projects / "uploads" / "file").read_bytes() == b"abcdefghij"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("x?upload=short&size=1", b"x"),
        (f"x?upload={'0' * 32}&size=-1", b"x"),
        (f"x?upload={'0' * 32}&size=1&at=%0a", b"x"),
        (f"x?upload={'0' * 32}&size=1", b"two"),
        (f"x?upload={'0' * 32}&size=20000000", bytes(uploads.PIECE + 1)),
        ("x", b"x"),
    ],
)
def test_a_piece_that_is_not_valid_is_one_line(
    served: Served, projects: Path, path: str, body: bytes
) -> None:
    refused(call(served, "PUT", f"/files/{path}", body), 400)
    until(lambda: names(projects) <= {"uploads"}, lambda: str(names(projects)))


def test_nothing_stays_open(served: Served, projects: Path) -> None:
    held = Path(f"/proc/{served.process.pid}/fd")
    if not held.exists():
        pytest.skip("counts what is open in /proc, which is not here")

    def round_trip() -> None:
        assert put(served, "folder/file", b"whole")[0] == 200
        for path in ("/files/uploads/folder/file", "/files/uploads/folder", "/files/nothing"):
            call(served, "GET", path, Range="bytes=1-2")
            call(served, "HEAD", path)
            call(served, "GET", path, Range="bytes=9-")
        assert zipped(served, "uploads")[0] == 200
        assert put(served, "..", b"refused")[0] != 200

    round_trip()
    before = len(list(held.iterdir()))
    for _ in range(10):
        round_trip()
    until(
        lambda: len(list(held.iterdir())) < before + 5,
        lambda: f"{before}, then {len(list(held.iterdir()))}",
    )


@pytest.mark.fault("network")
def test_an_upload_that_is_cut_goes_on_and_one_that_is_stopped_leaves_nothing(
    served: Served, projects: Path
) -> None:
    body, word = os.urandom(900_000), str(uuid.uuid4())

    def begun() -> list[Path]:
        return [p for p in (projects / "uploads").glob(f"{PART}*") if p.stat().st_size == 400_000]

    with begin(served, "half", len(body), word) as connection:
        connection.sendall(body[:400_000])
        until(begun, lambda: "the upload does not begin")
    url = f"/files/half{query(len(body), 400_000, word)}"
    assert json.loads(call(served, "PUT", url, body[400_000:])[2])["path"] == "half"
    assert (projects / "uploads" / "half").read_bytes() == body
    with begin(served, "other", len(body), word) as connection:
        connection.sendall(body[:400_000])
        until(begun, lambda: "the upload does not begin")
        assert call(served, "DELETE", f"/files/other{query(len(body), 0, word)}")[0] == 200
    until(lambda: names(projects) == {"uploads", "uploads/half"}, lambda: str(names(projects)))
    assert "Traceback" not in served.log.read_text()


@pytest.mark.fault("disk full")
def test_a_full_disk_is_one_line_and_leaves_nothing(served: Served, projects: Path) -> None:
    before = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        line = refused(put(served, "big.bin", bytes(3_000_000)), 507)
    finally:
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, before)
    assert line == "big.bin: the disk takes no file of this size.\n"
    until(lambda: names(projects) == {"uploads"}, lambda: str(names(projects)))


@pytest.mark.fault("oversized values")
def test_more_than_the_limit_is_refused_before_it_is_sent(served: Served, projects: Path) -> None:
    with begin(served, "big.bin", 500_000_001) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")
    assert names(projects) == set()


@pytest.mark.fault("killed")
def test_what_a_killed_server_left_half_there_goes_at_the_next_start(
    served: Served, projects: Path, tmp_path: Path
) -> None:
    root, left = tmp_path / "projects", projects / "uploads"
    with begin(served, "half", 900_000) as connection:
        connection.sendall(bytes(400_000))
        until(lambda: left.exists() and list(left.iterdir()), lambda: "it does not begin")
        shutil.copytree(projects, root)  # as the disk is when a server is killed
    assert [name.startswith(f"uploads/{PART}") for name in names(root) - {"uploads"}] == [True]

    notes = f"{PART}notes.txt"  # a user's
    (root / "uploads" / notes).touch()
    # What cannot be removed keeps nothing else.
    folders = {f"uploads/{PART}{n:032}" for n in range(9)}
    for name in folders:
        (root / name).mkdir()

    async def start(*_: object) -> None:
        assert names(root) == {"uploads", f"uploads/{notes}", *folders}

    asyncio.run(Files(start, root)({"type": "lifespan"}, Mock(), Mock()))


# --- By itself: what would take minutes or half a gigabyte over HTTP --------------------------------------------------------


async def nobody(*_: object) -> None:
    raise AssertionError("this path is ours")


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def silence() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


@pytest.mark.fault("network")
def test_what_sends_nothing_is_ended_and_what_nobody_finishes_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "IDLE", 0.01)
    monkeypatch.setattr(uploads, "AGE", 0.1)
    root = tmp_path / "projects"

    async def upload() -> None:
        app = uploads.Uploads(root)
        key = uploads.Key("word", ("file",), False, 10)
        assert await app.put(key, 0, pieces(b"12345")) == (5, "")
        with pytest.raises(HTTPException, match="nothing came"):
            await app.put(key, 5, silence())
        assert len(names(root)) == 2
        while names(root) != {"uploads"}:
            await asyncio.sleep(0.01)
        assert await app.put(key, 5, pieces(b"67890")) == (0, "")

    asyncio.run(asyncio.wait_for(upload(), PATIENCE))


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_request_that_comes_again_while_its_file_is_put_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_folder: bool
) -> None:
    """As where a proxy asks again because the disk is slow."""
    begun, go, real = threading.Event(), threading.Event(), uploads.first_free

    def slow(name: str, make: Callable[[str], None]) -> str:
        begun.set()
        assert go.wait(PATIENCE)
        return real(name, make)

    monkeypatch.setattr(uploads, "first_free", slow)

    async def upload() -> None:
        app, body = uploads.Uploads(tmp_path), b"" if is_folder else b"hello"
        key = uploads.Key("word", ("a",), is_folder, len(body))
        first = asyncio.create_task(app.put(key, 0, pieces(body)))
        await asyncio.to_thread(begun.wait, PATIENCE)
        second = asyncio.create_task(app.put(key, 0, pieces(body)))
        await asyncio.sleep(0)  # until it waits for the first
        go.set()
        assert {await first, await second} == {(len(body), "a")}
        assert names(tmp_path) == {"uploads", "uploads/a"}

    asyncio.run(asyncio.wait_for(upload(), PATIENCE))


class Packed:
    """A zip that is packed to its end, and the file that it is."""

    def __init__(self, root: Path, *parts: str) -> None:
        self.file = io.BytesIO()
        zips.pack(root, parts, self.file, self.report)
        self.zip = zipfile.ZipFile(self.file)

    def report(self, count: int) -> None:
        """Nothing happens while it is packed."""


def test_a_folder_that_becomes_a_link_while_it_is_packed_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "projects", tmp_path / "outside"
    (root / "top" / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "top" / "first").write_bytes(b"first")
    (root / "top" / "sub" / "own").write_text("own")

    class Replaced(Packed):
        def report(self, count: int) -> None:
            if not (root / "top" / "moved").exists():
                (root / "top" / "sub").rename(root / "top" / "moved")
                (root / "top" / "sub").symlink_to(outside)

    archive = Replaced(root, "top").zip
    assert not [name for name in archive.namelist() if "secret" in name]
    assert "top/sub" in archive.read("top/LEFT OUT.txt").decode()


def test_what_lies_too_deep_for_a_zip_is_left_out_with_a_line(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    place = os.open(tmp_path / "deep", os.O_RDONLY)
    for _ in range(270):  # in all more than the 65,535 bytes that a name in a zip may have
        os.mkdir("d" * 250, dir_fd=place)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    archive = Packed(tmp_path, "deep").zip
    subprocess.run(["rm", "-r", str(tmp_path / "deep")], check=True)  # no test's end meets it
    (left_out,) = archive.read("deep/LEFT OUT.txt").decode().splitlines()[1:]
    assert len(archive.namelist()) == folder.LONGEST // 251 + 1
    assert len(left_out) == len("deep") + 251 * len(archive.namelist())


async def finished(known: zips.Zips, key: zips.Key) -> zips.Zip:
    while not known.pack(key).ready:
        await asyncio.sleep(0.001)
    return known.pack(key)


@pytest.mark.parametrize(
    ("limit", "words"), [("ENTRIES", "more than 3 files"), ("LIMIT", "more than 0 MB")]
)
def test_a_folder_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, words: str
) -> None:
    (tmp_path / "many" / "deep").mkdir(parents=True)
    for n in range(2):
        (tmp_path / "many" / "deep" / str(n)).write_bytes(os.urandom(10))
    key = zips.Key("word", ("many",))

    async def pack() -> None:
        known = zips.Zips(tmp_path)
        assert (await finished(known, key)).size == 20
        known.forget(key)
        monkeypatch.setattr(zips, limit, 3)
        (tmp_path / "many" / "one more").touch()
        for _ in range(2):  # it may be tried again
            with pytest.raises(HTTPException, match=words):
                await finished(known, key)

    asyncio.run(pack())


def test_whatever_goes_wrong_ends_the_packing_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zips, "pack", Mock(side_effect=struct.error("not a number")))
    (tmp_path / "top").mkdir()

    async def pack() -> None:
        with pytest.raises(HTTPException, match=r"top: it cannot be packed \(error\)"):
            await asyncio.wait_for(finished(zips.Zips(tmp_path), zips.Key("word", ("top",))), 10)

    asyncio.run(pack())


def test_zips_are_few_and_do_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x")
    keys = [zips.Key("word", (name,)) for name in "abc"]
    go_on = threading.Event()

    async def pack() -> None:
        known = zips.Zips(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(zips, "pack", lambda *_: go_on.wait(PATIENCE))
            both = [known.pack(key) for key in keys[:2]]
            with pytest.raises(HTTPException, match="2 folders are being packed"):
                known.pack(keys[2])
            known.forget(keys[0])
            go_on.set()
            await finished(known, keys[1])
        monkeypatch.setattr(zips, "AGE", 0.05)
        third, fourth = await finished(known, keys[2]), await finished(known, keys[0])
        with pytest.raises(HTTPException, match="not there any more"):
            known.get(keys[1])
        while not all(found.file.closed for found in [*both, third, fourth]):
            await asyncio.sleep(0.01)
        assert names(tmp_path) == {"a", "b", "c", "a/file", "b/file", "c/file"}

    asyncio.run(asyncio.wait_for(pack(), PATIENCE))


@pytest.mark.slow
def test_a_zip_takes_a_file_of_more_than_two_gigabytes(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    with (tmp_path / "top" / "large").open("wb") as file:
        file.truncate(2**31 + 1)
    assert Packed(tmp_path, "top").zip.getinfo("top/large").file_size == 2**31 + 1


def test_a_file_that_grows_meanwhile_sends_no_more_than_was_promised(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 1000)
    with io.FileIO(tmp_path / "log") as log:
        assert b"".join(folder.read(log, 0, 600)) == b"x" * 600


def test_what_the_disk_takes_in_part_is_written_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: write(file, bytes(data[:7]), at))
    with (tmp_path / "file").open("wb") as file:
        uploads.write_all(file.fileno(), b"0123456789" * 10, 3)
    assert (tmp_path / "file").read_bytes() == b"\0\0\0" + b"0123456789" * 10


def test_a_list_is_bounded_filtered_and_newest_first(tmp_path: Path) -> None:
    for n in range(30):
        (tmp_path / f"File {n}").touch()
        os.utime(tmp_path / f"File {n}", (n, n))
    (tmp_path / f"{PART}{'0' * 32}").touch()
    (tmp_path / f"{PART}notes.txt").touch()
    os.utime(tmp_path / f"{PART}notes.txt", (-1, -1))
    entries, count = list_folder(tmp_path, [], "", 3)
    assert ([e.name for e in entries], count) == (["File 29", "File 28", "File 27"], 31)
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
    if name == "folder":
        status, headers, _ = zipped(served, name)
    else:
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
        f"{PART}notes.txt": b"a user's",
    }
    for name, body in own.items():
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_bytes(body)
    (top / "run.sh").chmod(0o755)
    os.utime(top / "a.txt", (0, 0))
    os.utime(top / "run.sh", (1e11, 1e11))
    (top / os.fsdecode(b"\xff")).write_bytes(b"odd")
    (top / f"{PART}{'0' * 32}").touch()
    (top / "file link").symlink_to(secret)
    (top / "folder link").symlink_to(served.home)
    os.mkfifo(top / "pipe")
    status, headers, answer = zipped(served, "top/")
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
    (served.folder / "whole.zip").write_bytes(zipped(served, "")[2])
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
        refused(zipped(served, path), 403)
    refused(put(served, "new", b"body"), 403)
    assert not (served.home / "new").exists()
    (projects / "uploads").unlink()
    (projects / "uploads").mkdir()
    (projects / "uploads" / "way").symlink_to(served.home)
    refused(put(served, "way/new", b"body"), 403)
    # A taken name that is a link is not written through.
    (projects / "uploads" / "taken").symlink_to(served.home / "secret")
    assert json.loads(put(served, "taken", b"body")[2])["path"] == "taken-2"
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
    if path != "pipe":
        refused(zipped(served, path), status)


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("", None),
        ("bytes=0-", (0, 10)),
        ("bytes=3-5", (3, 6)),
        ("bytes=3-99", (3, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        *((odd, None) for odd in ("bytes=-", "bytes=5-3", "bytes=1-2,4-5", "lines=1-2", "3-5")),
        *((beyond, ValueError) for beyond in ("bytes=10-", "bytes=-0", "bytes=99-100")),
    ],
)
def test_a_range_is_read_as_http_says(wanted: str, part: Any) -> None:
    if part is ValueError:
        with pytest.raises(ValueError, match="there are 10 bytes"):
            byte_range(wanted, 10)
    else:
        assert byte_range(wanted, 10) == part


def test_a_download_goes_on_where_it_was_and_begins_anew_where_the_file_changed(
    served: Served, projects: Path
) -> None:
    file, body = projects / "file", os.urandom(1000)
    file.write_bytes(body)
    status, headers, answer = call(served, "GET", "/files/file")
    assert (status, answer, headers["Accept-Ranges"]) == (200, body, "bytes")
    tag = headers["ETag"]
    assert tag.startswith('"')  # W/ would be weak

    def rest(since: str, method: str = "GET") -> Answer:
        return call(served, method, "/files/file", Range="bytes=400-", **{"If-Range": since})

    status, headers, answer = rest(tag)
    assert (status, answer, headers["ETag"]) == (206, body[400:], tag)
    assert headers["Content-Range"] == "bytes 400-999/1000"
    status, headers, answer = rest(tag, "HEAD")
    assert (status, answer, headers["Content-Length"]) == (206, b"", "600")
    status, headers, answer = call(served, "HEAD", "/files/file")
    assert (status, answer, headers["Content-Length"], headers["ETag"]) == (200, b"", "1000", tag)
    beyond = call(served, "GET", "/files/file", Range="bytes=1000-")
    refused(beyond, 416)
    assert beyond[1]["Content-Range"] == "bytes */1000"
    # As long, with the old time: still another file.
    time_before = file.stat().st_mtime_ns
    file.write_bytes(body[::-1])
    os.utime(file, ns=(time_before, time_before))
    for since in (tag, f"W/{tag}", "Thu, 01 Jan 2099 00:00:00 GMT"):
        status, headers, answer = rest(since)
        assert (status, answer, headers["ETag"] == tag) == (200, body[::-1], False)


def through(front: Front, path: str, size: int) -> bytes:
    """A file, in as many requests as it takes."""
    got, tag = bytearray(), ""
    while len(got) < size:
        connection = HTTPConnection(urlsplit(front.url).netloc, timeout=PATIENCE)
        headers = {"Range": f"bytes={len(got)}-", "If-Range": tag} if got else {}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        assert answer.status == (206 if got else 200)
        tag = answer.headers["ETag"]
        with suppress(IncompleteRead, ConnectionError):
            while data := answer.read1(65536):
                got += data
    return bytes(got)


@pytest.mark.fault("network")
@pytest.mark.parametrize(
    "size", [20_000_000, pytest.param(500_000_000, marks=pytest.mark.slow)], ids=["20", "500"]
)
def test_no_request_is_long(served: Served, projects: Path, size: int) -> None:
    """Through a proxy that cuts: 15 MB a request, as in 120 s at 1 Mbit/s."""
    body, word, have = os.urandom(size), str(uuid.uuid4()), 0
    with Front(served.port, 20_000_000) as front:
        front.most = 15_000_000
        while have < size:
            connection = HTTPConnection(urlsplit(front.url).netloc, timeout=PATIENCE)
            url = f"/files/big{query(size, have, word)}"
            piece = body[have : have + uploads.PIECE]
            with suppress(ConnectionError):  # RemoteDisconnected: it was cut, so the same again
                connection.request("PUT", url, piece, {"Origin": front.url})
                have = json.loads(connection.getresponse().read())["have"]
        assert (projects / "uploads" / "big").read_bytes() == body
        before = front.cuts
        assert through(front, "/files/uploads/big", size) == body
        assert front.cuts > before
        path = f"/files/uploads?zip={uuid.uuid4()}"
        until(lambda: json.loads(call(served, "POST", path)[2])["ready"], lambda: "not packed")
        length = int(call(served, "HEAD", path)[1]["Content-Length"])
        with zipfile.ZipFile(io.BytesIO(through(front, path, length))) as archive:
            assert archive.read("uploads/big") == body


def test_a_download_whose_reader_goes_ends_and_closes_its_file(
    served: Served, projects: Path
) -> None:
    with (projects / "big").open("wb") as big:
        big.truncate(1_000_000_000)

    def is_open() -> bool:
        found = list[str]()
        for link in Path(f"/proc/{served.process.pid}/fd").iterdir():
            with suppress(OSError):
                found.append(os.readlink(link))
        return str(projects / "big") in found

    for _ in range(2):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(
                f"GET /files/big HTTP/1.1\r\nHost: localhost:{served.port}\r\n\r\n".encode()
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
        assert put(served, "x", b"x", Origin=origin)[0] == 403
    assert served.ask(f"PUT /files/x{query(0)}", {"Host": f"localhost:{served.port}"})[0] == 403
    cross = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}
    assert call(served, "GET", "/files/file", **cross)[0] == 403
    assert call(served, "PATCH", "/files/file")[0] == 405
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
        assert put(app, "x", b"x", **stranger)[0] == 403
        owner = {**stranger, "X-Forwarded-Email": OWNER}
        assert call(app, "GET", "/files/file", **owner)[2] == b"mine"
        assert put(app, "x", b"x", **owner)[0] == 200
        assert names(app.home / "projects") == {"file", "uploads", "uploads/x"}
