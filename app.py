"""The app: Hermes in a terminal in its owner's browser. `python app.py` serves it."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import socket
import sys
import threading
from contextlib import suppress
from functools import partial

from hermes.urls import SettingError
from webapp.access import Access
from webapp.keep.keeper import Keeper
from webapp.owner import find_owner
from webapp.settings import AppSettings, read_settings
from webapp.tokens import TokenNews, find_creator, keep_token_fresh, log_in


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
        ctypes.CDLL(None).prctl(
            4, 0
        )  # PR_SET_DUMPABLE: no terminal may read the client secret from our /proc/<pid>/environ
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
    serve(settings, listening)
    return 0


def listen(settings: AppSettings) -> socket.socket:
    """Take the app's port; on a laptop on loopback alone, and on Databricks Apps where its proxy comes from.

    Arguments:
        settings: the app's.

    Returns:
        The socket: who connects from now on waits until the app serves.

    Raises:
        SettingError: where the port is taken, or not ours to take.
    """
    host = "0.0.0.0" if settings.name else "127.0.0.1"  # noqa: S104 (Databricks' proxy comes from outside)
    try:
        return socket.create_server((host, settings.port), backlog=2048)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise SettingError(
            f"DATABRICKS_APP_PORT: {settings.port} is not valid ({reason}); expected a free port"
        ) from None


def serve(settings: AppSettings, listening: socket.socket) -> None:
    """Serve the app until a signal ends it.

    Arguments:
        settings: the app's.
        listening: the socket, from `listen`.
    """
    keeper = Keeper(settings, partial(log_in, settings))
    keeper.start()  # before half a second of imports: the first terminal waits for what is brought back
    import uvicorn
    from fastapi import FastAPI
    from fastapi.middleware.gzip import GZipMiddleware
    from nicegui import app, ui

    from webapp.files.transfer import Files, OnDemand
    from webapp.page import Window
    from webapp.sessions import Sessions

    sessions, owner, creator = (
        Sessions(settings, keeper),
        [settings.owner],
        partial(find_creator, settings),
    )
    news = TokenNews()

    async def end() -> None:
        await sessions.close()
        await asyncio.to_thread(keeper.stop)  # the platform gives 15 s for both

    app.on_startup(sessions.new)
    app.on_shutdown(end)

    @ui.page("/")
    def page() -> None:
        number = ui.context.client.request.query_params.get("terminal", "")
        Window(sessions, int(number) if number.isdecimal() and len(number) < 4 else 0, news)

    whole = FastAPI(openapi_url=None)
    ui.run_with(
        whole,
        title="Hermes",
        favicon="☿",
        dark=True,
        tailwind=False,
        gzip_middleware_factory=partial(
            GZipMiddleware, compresslevel=4
        ),  # a third of the time for 5 % more bytes
        message_history_length=20,
        show_welcome_message=False,
    )
    if settings.name and not settings.owner:
        threading.Thread(target=lambda: owner.append(find_owner(creator)), daemon=True).start()
    if settings.hermes and not settings.env.get("DATABRICKS_TOKEN", "").strip():
        fresh = partial(keep_token_fresh, settings.config, partial(log_in, settings), news=news)
        threading.Thread(target=fresh, daemon=True).start()
    # Around everything, NiceGUI's own middleware and websocket included.
    guarded = Access(
        Files(whole, settings.home / "projects"), (lambda: owner[-1]) if settings.name else None
    )
    print(
        f"Hermes is on port {settings.port}."
        if settings.name
        else f"Hermes is at http://localhost:{settings.port}",
        flush=True,
    )
    config = uvicorn.Config(
        guarded,
        log_level="warning",
        http=OnDemand,
        loop="asyncio",  # uvloop lets the programs inherit each other's terminals
        ws="wsproto",
        workers=1,  # whatever WEB_CONCURRENCY says
        headers=[("content-security-policy", "frame-ancestors 'none'")],
        timeout_graceful_shutdown=1,
    )
    logging.getLogger("uvicorn.error").addFilter(_matters)
    uvicorn.Server(config).run(sockets=[listening])


def _matters(record: logging.LogRecord) -> bool:
    """Whether a line of the log is more than Starlette's words for a browser that went before it had its answer."""
    return not record.exc_info or str(record.exc_info[1]) != "No response returned."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
