"""The app: Hermes in a terminal in its owner's browser. `python app.py` serves it."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from functools import partial

from hermes.urls import SettingError
from webapp.access import Access
from webapp.keep.keeper import Keeper
from webapp.owner import Owner
from webapp.settings import AppSettings, read_settings
from webapp.tokens import TokenNews, find_creator, keep_token_fresh, log_in

PR_SET_DUMPABLE = 4


def main(argv: list[str]) -> int:
    """Run the app.

    Arguments:
        argv: the arguments: none; everything else is a setting.

    Returns:
        The exit code: 2 for a setting that cannot be used.
    """
    if argv in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    with suppress(AttributeError, OSError):  # not on Linux
        # No terminal may read the client secret from our /proc/<pid>/environ.
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)
    try:
        if argv:
            raise SettingError(
                f"app.py: {' '.join(argv)[:100]!r} is not valid; expected no argument"
            )
        settings = read_settings(os.environ)
        listening = listen(settings)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    logging.basicConfig(format="%(levelname)s: %(message)s")
    signal.signal(signal.SIGINT, end_at_once)
    serve(settings, listening)
    return 0


def end_at_once(*_: object) -> None:
    """End at Ctrl-C: uvicorn takes it while it serves, and raises it again when all has ended."""
    os.write(1, b"Hermes has ended.\n")
    os._exit(0)


def listen(settings: AppSettings) -> socket.socket:
    """Take the app's port: on loopback on a laptop, on every address on Databricks Apps.

    Arguments:
        settings: the app's.

    Returns:
        The socket: who connects from now on waits until the app serves.

    Raises:
        SettingError: where the port is taken, or not ours to take.
    """
    host = "0.0.0.0" if settings.name else "127.0.0.1"  # noqa: S104 (the proxy is outside)
    try:
        listening = socket.create_server((host, settings.port), backlog=2048)
        # asyncio turns Nagle's algorithm off only for sockets that name their protocol, which
        # this one's connections do not: each answer would wait 40 ms for an acknowledgement.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise SettingError(
            f"DATABRICKS_APP_PORT: {settings.port} is not valid ({reason}); expected a free port, "
            "as in `DATABRICKS_APP_PORT=8001 make app`"
        ) from None


def serve(settings: AppSettings, listening: socket.socket) -> None:
    """Serve the app until a signal ends it.

    Arguments:
        settings: the app's.
        listening: the socket, from `listen`.
    """
    owner = Owner(settings.owner)
    keeper = Keeper(settings, owner, partial(log_in, settings))
    keeper.start()  # before the imports: the first terminal waits for what it brings back
    import uvicorn
    from fastapi import FastAPI
    from fastapi.middleware.gzip import GZipMiddleware
    from nicegui import app, ui

    from webapp.dashboard.proxy import Dashboard
    from webapp.description import Description
    from webapp.files.transfer import Files
    from webapp.imports import finish_imports
    from webapp.page import Window
    from webapp.sessions import Sessions

    sessions = Sessions(settings, keeper, partial(finish_imports, settings))
    news, description = TokenNews(), Description(settings.config)

    async def end() -> None:
        await asyncio.gather(sessions.close(), dashboard.close())
        await asyncio.to_thread(keeper.stop)  # the platform gives 15 s for both

    app.on_startup(sessions.new)
    app.on_shutdown(end)

    @ui.page("/")
    def page() -> None:
        number = ui.context.client.request.query_params.get("terminal", "")
        known = int(number) if number.isdecimal() and len(number) < 4 else 0
        Window(sessions, known, news, description)

    whole = FastAPI(openapi_url=None)
    ui.run_with(
        whole,
        title="Hermes",
        favicon="☿",
        dark=True,
        tailwind=False,
        # A third of the time that the default level takes, for 5 % more bytes.
        gzip_middleware_factory=partial(GZipMiddleware, compresslevel=4),
        message_history_length=20,
        show_welcome_message=False,
    )
    if settings.name and not owner.email:
        find = partial(owner.find, partial(find_creator, settings))
        threading.Thread(target=find, daemon=True).start()
    if settings.hermes and not settings.token:
        fresh = partial(keep_token_fresh, settings.config, partial(log_in, settings), news=news)
        threading.Thread(target=fresh, daemon=True).start()
    # Around everything, NiceGUI's own middleware and websocket included.
    dashboard = Dashboard(Files(whole, settings.home / "projects"), settings, lambda: sessions.note)
    guarded = Access(dashboard, owner if settings.name else None)
    where = f"on port {settings.port}." if settings.name else f"at http://localhost:{settings.port}"
    print(f"Hermes is {where}", flush=True)
    config = uvicorn.Config(
        guarded,
        log_level="warning",
        http="httptools",
        loop="asyncio",  # uvloop lets the programs inherit each other's terminals
        ws="wsproto",
        workers=1,  # whatever WEB_CONCURRENCY says
        headers=[("content-security-policy", "frame-ancestors 'none'")],
        timeout_graceful_shutdown=1,
    )
    logging.getLogger("uvicorn.error").addFilter(_matters)
    uvicorn.Server(config).run(sockets=[listening])


def _matters(record: logging.LogRecord) -> bool:
    """Whether a log record says more than that a browser went before it had its answer."""
    return not record.exc_info or str(record.exc_info[1]) != "No response returned."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
