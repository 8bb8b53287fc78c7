"""Who may come in: one pure ASGI middleware over HTTP and websockets."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL_HOST = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")
PAGES = {
    403: (
        "Not yours",
        "This app is for its owner alone. If it should be you, APP_OWNER in its app.yaml says so.",
    ),
    503: (
        "One moment",
        "This app is still finding out who its owner is. This page tries again by itself.",
    ),
}
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="dark light">
<meta name="viewport" content="width=device-width">
<title>{title}</title>{head}<body style="font:16px/1.5 system-ui,sans-serif;max-width:32em;margin:20vh auto;padding:0 1em">
<h1 style="font-size:1.4em">{title}</h1><p>{text}</p></html>"""


class Access:
    """Lets the owner in, and nobody else; on a laptop, only this machine's own browser.

    `/health` answers "ok" to anyone. An Origin must be the app's own; a websocket, and whatever is not GET or HEAD,
    must have one. Another site's page may link here, but not embed anything of ours, such as a frame or a script.

    Arguments:
        app: the ASGI application behind it.
        owner: gives the owner's e-mail address, "" while it is not known; None on a laptop, without a proxy in front
            that says who is there.
    """

    def __init__(self, app: App, owner: Callable[[], str] | None) -> None:
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
        host, origin = _header(scope, b"host") or b"", _header(scope, b"origin")
        if self.owner is None:
            own = b"http://" + host
            welcome = LOCAL_HOST.fullmatch(host) is not None
        else:
            owner = self.owner().strip().encode()
            if not owner:
                return 503
            forwarded = _header(scope, b"x-forwarded-host")
            host = host if forwarded is None else forwarded
            own = b"https://" + host.removesuffix(b":443")
            # bytes.lower() folds ASCII alone: no other letter may pass for the owner's.
            welcome = (_header(scope, b"x-forwarded-email") or b"").lower() == owner.lower()
        if origin is None:
            at_home = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        else:
            at_home = host != b"" and origin.lower() == own.lower()
        site, use = _header(scope, b"sec-fetch-site"), _header(scope, b"sec-fetch-dest")
        embedded = site not in (None, b"same-origin", b"none") and use != b"document"
        return 0 if welcome and at_home and not embedded else 403


def _header(scope: Scope, name: bytes) -> bytes | None:
    """A header's value, None where it is missing, b"" where it is given twice: then no value can be trusted."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    return None if not values else values[0].strip() if len(values) == 1 else b""


async def _answer(send: Send, status: int, kind: str, text: str) -> None:
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", b"%d" % len(text)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
