"""Between a client and the stand-in: a CONNECT proxy that is itself the far end of every tunnel."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, quote

from tests.standin.models import events

if TYPE_CHECKING:
    from tests.standin.workspace import StandIn

Answer = tuple[int, dict[str, Any] | bytes]


class Page(bytes):
    """A page of HTML."""


class Cut(bytes):
    """A body that ends in the middle: as much again is promised, and the connection ends."""


@dataclass
class Call:
    """One request as it came through the tunnel. Header names are in lower case."""

    method: str
    host: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object; {} where it is none."""
        try:
            body = json.loads(self.body or b"{}")
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}


Room = Callable[
    [Call], Answer
]  # may raise ConnectionError: then the connection ends without an answer


@dataclass
class Request:
    """One request that reached the stand-in, tunnels included (method CONNECT, no path).

    `input`, `read` and `write` are its prompt's tokens: at the plain price, read from the cache,
    written to it.
    """

    method: str
    host: str
    path: str
    status: int
    token: str = ""
    model: str = ""
    input: int = 0
    read: int = 0
    write: int = 0


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    standin: StandIn

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-answer is no news; anything else is a bug of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection: a CONNECT, TLS on the same socket, then the requests through the tunnel."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    host = ""

    @property
    def standin(self) -> StandIn:
        return cast(Server, self.server).standin

    def do_CONNECT(self) -> None:
        standin = self.standin
        host, _, port = self.path.lower().rpartition(":")
        fault = standin.gateway if host == standin.gateway_host else "ok"
        status = 200
        if self.host or port != "443" or host not in (standin.workspace_host, standin.gateway_host):
            status = 403
        elif fault == "refused":
            status = 502
        standin.requests.append(Request("CONNECT", host, "", status))
        time.sleep(standin.latency)
        if fault == "black-holed":
            standin.stopping.wait(60)
            self.close_connection = True
            return
        if status != 200:
            self._send(status, b"", "text/plain")
            self.close_connection = True
            return
        self.send_response(status)
        self.end_headers()
        self.close_connection = False
        context = standin.bad_context if fault == "bad-certificate" else standin.context
        self.connection = context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = cast(Any, self.connection.makefile("wb", 0))
        self.host = host

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def _handle(self) -> None:
        standin = self.standin
        if hasattr(socket, "TCP_QUICKACK"):
            # Through a proxy urllib3 waits for this before it sends the body: 40 ms a request.
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if "Transfer-Encoding" in self.headers:
            raw = self._chunks()
        else:
            raw = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if not self.host:
            standin.requests.append(Request(self.command, self.path, "", 403))
            self._send(403, b"", "text/plain")
            return
        path, _, query = self.path.partition("?")
        asked = dict(parse_qsl(query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self.command, self.host, path, asked, headers, raw)
        time.sleep(standin.latency)
        status, answer = standin.answer(call)
        standin.requests.append(_recorded(call, status, answer))
        if isinstance(answer, bytes):
            page = isinstance(answer, Page)
            self._send(status, answer, "text/html" if page else "application/octet-stream")
        elif status == 200 and call.json.get("stream"):
            self._send(200, events(answer), "text/event-stream")
        else:
            self._send(status, json.dumps(answer).encode(), "application/json")

    def _chunks(self) -> bytes:
        raw = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            raw += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return raw

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = _handle  # noqa: N815

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if status == 303:
            self.send_header("Location", "/login?next_url=" + quote(self.path, safe=""))
        self.close_connection |= isinstance(body, Cut)
        self.send_header("Content-Length", str(len(body) * (2 if isinstance(body, Cut) else 1)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr: what was asked is in `StandIn.requests`."""


def _recorded(call: Call, status: int, answer: dict[str, Any] | bytes) -> Request:
    usage = answer.get("usage", {}) if isinstance(answer, dict) else {}
    read, write = (usage.get(f"cache_{name}_input_tokens", 0) for name in ("read", "creation"))
    plain = usage.get("prompt_tokens", 0) - read - write
    token = call.headers.get("authorization", "").removeprefix("Bearer ")
    model = str(call.json.get("model", ""))
    return Request(call.method, call.host, call.path, status, token, model, plain, read, write)
