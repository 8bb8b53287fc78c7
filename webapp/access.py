"""Who may come in: one pure ASGI middleware over HTTP and websockets."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from webapp.owner import Owner

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL_HOST = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")
PAGES = {
    403: (
        "Not yours",
        "This app is for its owner alone. If it should be you, set APP_OWNER in its app.yaml.",
    ),
    503: (
        "One moment",
        "This app is still finding out who its owner is. This page tries again by itself.",
    ),
}
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="color-scheme" content="dark light"><meta name="viewport" content="width=device-width">
<title>{title}</title>{head}
<body style="font:16px/1.5 system-ui,sans-serif;max-width:32em;margin:20vh auto;padding:0 1em">
<h1 style="font-size:1.4em">{title}</h1><p>{text}</p></html>"""


class Access:
    """Lets the owner in, and nobody else; on a laptop, who asks for localhost.

    `/health` answers "ok" to anyone. An Origin must be the app's own; a websocket, and whatever is
    not GET or HEAD, must have one. Another site's page may link to the app, but not embed anything
    of it, such as a frame or a script.

    Arguments:
        app: the ASGI application behind it.
        owner: who comes in; None on a laptop, without a proxy in front that says who asks.
    """

    def __init__(self, app: App, owner: Owner | None) -> None:
        self.app, self.owner = app, owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/health":
            await _answer(send, 200, "text/plain", "ok")
        elif scope["type"] == "lifespan" or not (status := self._refusal(scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            title, text = PAGES[status]
            head = '<meta http-equiv="refresh" content="5">' if status == 503 else ""
            await _answer(
                send,
                status,
                "text/html; charset=utf-8",
                PAGE.format(title=title, text=text, head=head),
            )

    def _refusal(self, scope: Scope) -> int:
        """The status to refuse with, 0 to let in."""
        host = _header(scope, b"host") or b""
        if self.owner is None:
            welcome = LOCAL_HOST.fullmatch(host) is not None
            own = b"http://" + host
        else:
            email = self.owner.email.strip().encode()
            if not email:
                return 503
            # bytes.lower() folds ASCII alone: no other letter may pass for the owner's.
            welcome = (_header(scope, b"x-forwarded-email") or b"").lower() == email.lower()
            forwarded = _header(scope, b"x-forwarded-host")
            host = host if forwarded is None else forwarded
            own = b"https://" + host.removesuffix(b":443")
        allowed = welcome and _from_own_page(scope, host, own) and not _embedded(scope)
        return 0 if allowed else 403


def _from_own_page(scope: Scope, host: bytes, own: bytes) -> bool:
    """Whether the Origin is the app's own; it may be missing where a person follows a link."""
    origin = _header(scope, b"origin")
    if origin is None:
        return scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
    return host != b"" and origin.lower() == own.lower()


def _embedded(scope: Scope) -> bool:
    """Whether another site's page asks for something to put into itself."""
    site, use = _header(scope, b"sec-fetch-site"), _header(scope, b"sec-fetch-dest")
    return site not in (None, b"same-origin", b"none") and use != b"document"


def _header(scope: Scope, name: bytes) -> bytes | None:
    """A header's value; None where it is missing, b"" where it is given twice: which one counts?"""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    if not values:
        return None
    return values[0].strip() if len(values) == 1 else b""


async def _answer(send: Send, status: int, kind: str, text: str) -> None:
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", b"%d" % len(text)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
