"""The proxy in front of the dashboard: HTTP and websockets below `/hermes/`, streamed."""

from __future__ import annotations

import asyncio
import html
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from urllib.parse import unquote, unquote_to_bytes, urljoin

from aiohttp import ClientError, ClientWebSocketResponse, WSMsgType
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)

from webapp.access import PAGE, App, Receive, Scope, Send
from webapp.dashboard.process import PREFIX, DashboardProcess, Running
from webapp.settings import AppSettings

Headers = Iterable[tuple[bytes, bytes]]

# The headers of a request that are passed on. Left out is what says who somebody is or how a
# connection is made: cookies (the app's and Databricks'), X-Forwarded-* (one holds a token), Host,
# Origin, Authorization. Then those of an answer. Left out is what acts beyond it, such as
# Set-Cookie: the dashboard's login is kept on this side.
ASKED = b"""
accept accept-encoding accept-language cache-control content-encoding content-length content-type
if-match if-modified-since if-none-match if-range if-unmodified-since last-event-id pragma range
user-agent
""".split()
ANSWERED = b"""
accept-ranges allow cache-control content-disposition content-encoding content-language
content-length content-range content-security-policy content-type etag expires last-modified
location retry-after vary x-accel-buffering
""".split()
OWN = b"x-hermes-"  # the dashboard's own headers, both ways
# Without a session of ours to end, its logout leads to /login, without the prefix in 0.19.0.
ENTRIES = (PREFIX.encode(), f"{PREFIX}/login".encode(), b"/login")
MESSAGE = 16 * 2**20  # bytes of one websocket message, as uvicorn takes them
GOODBYE = 2.0  # seconds for the dashboard to take a websocket's end
CHAT = "/api/pty"
NO_NODE = (
    "Its chat needs Node.js, which is not installed on this machine."
    " The rest of the dashboard works without it, and so does `hermes chat` in a terminal."
)


class Dashboard:
    """Passes `/hermes/...` on to Hermes's own dashboard, and everything else to the app.

    It belongs behind `Access`: whoever gets this far is the owner.

    Arguments:
        app: the ASGI application for every other path.
        settings: the app's.
        reason: says why there is no Hermes; "" where it is set up.
    """

    def __init__(self, app: App, settings: AppSettings, reason: Callable[[], str]) -> None:
        self.app, self.settings, self.reason = app, settings, reason
        self.process = DashboardProcess(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not _is_below(scope["raw_path"]):
            await self.app(scope, receive, send)
        elif (path := target(scope["raw_path"])) is None:
            await _line(400, "This path is not valid")(scope, receive, send)
        elif refusal := self._refusal(scope, path):
            await refusal(scope, receive, send)
        else:
            with self.process.visit():
                await self._pass_on(path, scope, receive, send)

    async def close(self) -> None:
        """End the dashboard."""
        await self.process.close()

    def _refusal(self, scope: Scope, path: str) -> Response | None:
        if scope["raw_path"] in ENTRIES:
            return RedirectResponse(f"{PREFIX}/")
        site = _header(scope, b"sec-fetch-site")
        if unquote(path).startswith("/api/") and site not in (b"", b"same-origin", b"none"):
            return _line(
                403, "Another site's page may link to the dashboard's pages, not to its API"
            )
        return _waiting(reason, scope) if (reason := self.reason()) else None

    async def _pass_on(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_page(scope):
            self.process.start()  # the page waits, and says for what
            running = self.process.running
        else:
            running = await self.process.answers()
        if not running:
            await _waiting(self.process.note, scope)(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(running, path, scope, receive, send)
        else:
            await _http(running, path, scope, receive, send)

    async def _websocket(
        self, running: Running, path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        await receive()  # "websocket.connect"
        if unquote(path) == CHAT and not shutil.which("node", path=self.settings.shell_env["PATH"]):
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": f"{NO_NODE}\r\n"})
            await send({"type": "websocket.close", "code": 1011, "reason": "no Node.js"})
            return
        url, protocols = running.url(path, scope["query_string"]), scope["subprotocols"]
        try:
            far = await running.client.ws_connect(url, protocols=protocols, max_msg_size=MESSAGE)
        except ClientError:
            await send({"type": "websocket.close", "code": 1011})
            return
        try:
            await send({"type": "websocket.accept", "subprotocol": far.protocol})
            await _relay(far, receive, send)
        finally:
            # Alone it waits for as long as messages come.
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE):
                    await far.close()


async def _http(running: Running, path: str, scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    body = (
        "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"
    )
    url = running.url(path, scope["query_string"])
    headers = [
        (k.decode("latin-1"), v.decode("latin-1")) for k, v in chosen(scope["headers"], ASKED)
    ]
    try:
        async with running.client.request(
            scope["method"],
            url,
            headers=headers,
            data=_pieces(request) if body else None,
            skip_auto_headers=("Content-Type",),
            allow_redirects=False,
        ) as answer:
            response = StreamingResponse(answer.content.iter_any(), answer.status)
            response.raw_headers = redirected(chosen(answer.raw_headers, ANSWERED), str(url))
            await response(scope, receive, send)
    except ClientError:
        with suppress(RuntimeError):  # an answer that has begun can only be cut
            await _line(502, "Hermes's dashboard has cut the connection")(scope, receive, send)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    async for piece in request.stream():
        if piece:
            yield piece


async def _relay(far: ClientWebSocketResponse, receive: Receive, send: Send) -> None:
    """Pass messages on both ways until one side ends; the next is read when the last is taken."""
    ways = [asyncio.create_task(way) for way in (_to(far, receive), _from(far, send))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _to(far: ClientWebSocketResponse, receive: Receive) -> None:
    while (message := await receive())["type"] == "websocket.receive":
        with suppress(ClientError):  # it has ended: the other way says with which code
            if message.get("text") is not None:
                await far.send_str(message["text"])
            else:
                await far.send_bytes(message["bytes"])


async def _from(far: ClientWebSocketResponse, send: Send) -> None:
    async for message in far:
        kind = "text" if message.type == WSMsgType.TEXT else "bytes"
        await send({"type": "websocket.send", kind: message.data})
    await send({"type": "websocket.close", "code": _code(far.close_code)})


def _code(code: int | None) -> int:
    """A code that may be sent: 1005 and 1006 say that none was, and 1012 that it may come back."""
    return 1012 if code in (None, 1005, 1006) else code


# --- Pure -----------------------------------------------------------------------------------------


def _is_below(raw_path: bytes) -> bool:
    return raw_path in ENTRIES or raw_path.startswith(f"{PREFIX}/".encode())


def target(raw_path: bytes) -> str | None:
    """The dashboard's own path for one of ours, as the browser wrote it.

    Returns:
        The path; None for one that could be read as leading elsewhere.
    """
    path = raw_path.removeprefix(PREFIX.encode())
    plain = unquote_to_bytes(path)
    _, *parts = plain.split(b"/")
    if any(part in (b".", b"..") for part in parts) or b"" in parts[:-1]:
        return None
    if b"\\" in plain or not path.isascii() or any(byte < 32 or byte == 127 for byte in plain):
        return None
    return path.decode()


def chosen(headers: Headers, names: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Those of the headers that are named, and Hermes's own."""
    named = ((name.lower(), value) for name, value in headers)
    return [(name, value) for name, value in named if name in names or name.startswith(OWN)]


def redirected(headers: Headers, url: str) -> list[tuple[bytes, bytes]]:
    """An answer's headers, with a redirect below our prefix; one that leads elsewhere is left out.

    Arguments:
        headers: the dashboard's.
        url: its own, which was asked for.
    """
    kept = []
    for name, value in headers:
        if name == b"location":
            base = urljoin(url, "/")
            whole = urljoin(url, value.decode("latin-1"))
            path = f"/{whole.removeprefix(base)}"
            if not whole.startswith(base):
                continue
            inside = path == PREFIX or path.startswith(f"{PREFIX}/")
            value = (path if inside else PREFIX + path).encode("latin-1")
        kept.append((name, value))
    return kept


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


def _is_page(scope: Scope) -> bool:
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and b"text/html" in _header(scope, b"accept")
    )


def _line(status: int, text: str) -> Response:
    return PlainTextResponse(f"{text}.\n", status, {"cache-control": "no-store"})


def _waiting(note: str, scope: Scope) -> Response:
    """The answer while there is no dashboard; a page tries again by itself."""
    if not _is_page(scope):
        return _line(503, f"Hermes's dashboard does not answer: {note.rstrip('.')}")
    text = PAGE.format(
        title="Hermes's dashboard",
        head='<meta http-equiv="refresh" content="1">',
        text=f"{html.escape(note)} This page tries again by itself.",
    )
    return HTMLResponse(text, 503, {"cache-control": "no-store"})
