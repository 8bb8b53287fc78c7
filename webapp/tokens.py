"""Login, who created the app, and the token kept fresh."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hermes.config import refresh_token
from hermes.login import sdk_config
from hermes.small_file import MOST, is_small_file, most_pairs, read_small_file
from hermes.urls import brief_error, clean_url
from webapp.settings import AppSettings

log = logging.getLogger(__name__)

POLL = 2.0  # seconds between two looks at the token, and at Hermes's config


@dataclass
class TokenNews:
    """What a person may know of the token."""

    since: float = 0.0  # when the last new one came, in seconds since 1970; 0 before the first
    trouble: str = ""  # what stood in the way of a fresh one the last time


def log_in(settings: AppSettings) -> Any:
    """Log in: databricks-sdk's `Config`, with the workspace's `host`."""
    return sdk_config(settings.env, settings.home, timeout=20)


def bearer(login: Any) -> str:
    """The current token of a login, which databricks-sdk renews 20 minutes before its end."""
    return str(login.authenticate()["Authorization"]).removeprefix("Bearer ")


def find_creator(settings: AppSettings) -> str | None:
    """Ask the Apps API who created this app."""
    from databricks.sdk import WorkspaceClient

    return WorkspaceClient(config=log_in(settings)).apps.get(settings.name).creator


def one_line(error: Exception) -> str:
    """What went wrong, without the settings that databricks-sdk adds to it."""
    return f"{type(error).__name__}: {brief_error(error)}"


def keep_token_fresh(
    config: Path,
    log_in: Callable[[], Any],
    sleep: Callable[[float], None] = time.sleep,
    news: TokenNews | None = None,
) -> None:
    """Bring each new token into Hermes's config, for ever.

    What fails is logged and tried again, at most a minute later.

    Arguments:
        config: Hermes's config; nothing is asked for while there is none. One of another
            workspace than the login's waits for its setup.
        log_in: gives databricks-sdk's `Config`; called again after an error.
        sleep: waits that many seconds.
        news: is given the time of each new token, and what went wrong.
    """
    news = news or TokenNews()
    login, known, pause = None, _Known(), POLL
    while True:
        try:
            if is_small_file(config):
                login = login or log_in()
                known = _bring(config, login, known, news)
                news.trouble = ""
            elif config.exists():
                raise OSError(f"{config.name} is not a regular file of at most {MOST >> 10} kB")
            pause = POLL
        # No network, no credentials, a full disk: each may pass, and the session goes on.
        except Exception as error:
            login, pause = None, min(2 * pause, 60.0)
            news.trouble = f"No fresh token ({one_line(error)})."
            log.warning("%s Trying again in %.0f s.", news.trouble, pause)
        sleep(pause)


class _Known(NamedTuple):
    """What was brought into the config last."""

    token: str = ""
    written: int = 0  # the file's time, in nanoseconds, before we wrote


def _bring(config: Path, login: Any, known: _Known, news: TokenNews) -> _Known:
    """Bring the login's token into the config, unless it is what is known."""
    # The file's time is part of it: whoever writes the file may put an old token back.
    now = _Known(bearer(login), config.stat().st_mtime_ns)
    if now != known:
        if most_pairs(read_small_file(config)) > MOST:
            raise ValueError(
                f"{config.name} holds merges of merges (<<) that are too many to follow"
            )
        refresh_token(config, now.token, clean_url("DATABRICKS_HOST", login.host or ""))
        if now.token != known.token:
            news.since = time.time()
    return now
