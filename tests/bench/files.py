"""What files cost the server; part of `make bench`."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

from tests.bench.rows import Row
from tests.served import Served
from tests.standin import StandIn

UPLOADS, EACH = 500, 2_000_000  # at once, bytes
LARGE = 2_000_000_000  # bytes


class Peak:
    """The most resident memory of a server while this is entered, in MB; a context manager."""

    def __init__(self, served: Served) -> None:
        self.folder, self.most = Path(f"/proc/{served.process.pid}"), 0.0

    def __enter__(self) -> Peak:
        (self.folder / "clear_refs").write_text("5")  # VmHWM begins anew
        return self

    def __exit__(self, *_: object) -> None:
        status = (self.folder / "status").read_text()
        self.most = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def upload(served: Served, start: threading.Barrier) -> None:
    """One of many uploads that begin together; it is sent again where the server is busy."""
    start.wait()
    url = f"/files/same.bin?upload={uuid.uuid4()}&size={EACH}"
    head = f"PUT {url} HTTP/1.1\r\nHost: localhost:{served.port}\r\nOrigin: {served.url}\r\n"
    status = b""
    while status != b"HTTP/1.1 200":
        with (
            suppress(ConnectionError),
            socket.create_connection(("127.0.0.1", served.port)) as connection,
        ):
            connection.sendall(f"{head}Content-Length: {EACH}\r\n\r\n".encode() + bytes(EACH))
            status = connection.recv(12)
            assert status in (b"HTTP/1.1 200", b"HTTP/1.1 503"), status
        time.sleep(0.2)  # as a browser does, which waits for longer


def ask(served: Served, method: str, path: str) -> HTTPResponse:
    """One request."""
    connection = HTTPConnection("localhost", served.port)
    connection.request(method, f"/files/{path}", headers={"Origin": served.url})
    return connection.getresponse()


def download(served: Served, path: str) -> tuple[float, int]:
    """Seconds and bytes of one download."""
    began, count = time.perf_counter(), 0
    answer = ask(served, "GET", path)
    while data := answer.read(1 << 20):
        count += len(data)
    return time.perf_counter() - began, count


def pack(served: Served, path: str) -> float:
    """Pack a folder. Returns the longest answer to anything else meanwhile, in seconds."""
    longest, ready = 0.0, False
    while not ready:
        ready = json.load(ask(served, "POST", path))["ready"]
        began = time.perf_counter()
        served.ask("GET /health", {"Host": "probe", "Connection": "close"})
        longest = max(longest, time.perf_counter() - began)
    return longest


def file_rows() -> Iterator[Row]:
    """Many uploads at once, a large download, a large zip."""
    with StandIn() as standin, Served(standin.env) as served:
        projects = served.home / "projects"
        start = threading.Barrier(UPLOADS)
        with Peak(served) as peak:
            began = time.perf_counter()
            threads = [
                threading.Thread(target=upload, args=(served, start)) for _ in range(UPLOADS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds = time.perf_counter() - began
        found = [path.stat().st_size for path in (projects / "uploads").iterdir()]
        assert found == [EACH] * UPLOADS
        name = f"server's memory, {UPLOADS} uploads at once"
        yield Row(name, f"{peak.most:.0f} MB", "< 150 MB", f"1 GB in {seconds:.1f} s")
        with (projects / "large").open("wb") as large:
            for _ in range(20):
                large.write(os.urandom(LARGE // 20))
        with Peak(served) as peak:
            seconds, count = download(served, "large")
        assert count == LARGE
        name = "server's memory, a download of 2 GB"
        yield Row(name, f"{peak.most:.0f} MB", "< 150 MB", f"{seconds:.1f} s")
        path = f"uploads?zip={uuid.uuid4()}"
        with Peak(served) as peak:
            began = time.perf_counter()
            longest = pack(served, path)
            download(served, path)
            seconds = time.perf_counter() - began
        note = f"{seconds:.1f} s; anything else waits {longest * 1000:.0f} ms at most"
        yield Row("server's memory, a zip of 1 GB", f"{peak.most:.0f} MB", "< 150 MB", note)
