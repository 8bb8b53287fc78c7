"""Login, who created the app, and the token kept fresh."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes.config import refresh_token
from hermes.login import sdk_config
from hermes.urls import clean_url
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
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0].split('. Config:')[0][:200]}"


def keep_token_fresh(
    config: Path,
    log_in: Callable[[], Any],
    sleep: Callable[[float], None] = time.sleep,
    news: TokenNews | None = None,
) -> None:
    """Bring each new token into Hermes's config, for ever. What fails is logged and tried again, at most a minute later.

    Arguments:
        config: Hermes's config; nothing is asked for while there is none.
        log_in: gives databricks-sdk's `Config`; called again after an error. A config of Hermes's for another workspace than
            this login's waits for its setup.
        sleep: waits that many seconds.
        news: is told of each new token, and of trouble.
    """
    news = news or TokenNews()
    login, done, pause = None, None, POLL
    while True:
        try:
            if config.exists():
                login = login or log_in()
                # The file's time too, taken before we write: whoever writes it may put an old token back.
                now = bearer(login), config.stat().st_mtime_ns
                if now != done:
                    refresh_token(config, now[0], clean_url("DATABRICKS_HOST", login.host or ""))
                    if done is None or now[0] != done[0]:
                        news.since = time.time()
                    done = now
                news.trouble = ""
            pause = POLL
        except Exception as error:  # no network, no credentials, a full disk: each may pass, and the session goes on
            login, pause = None, min(2 * pause, 60.0)
            news.trouble = f"No fresh token ({one_line(error)})."
            log.warning("%s Trying again in %.0f s.", news.trouble, pause)
        sleep(pause)
