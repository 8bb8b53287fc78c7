"""The app's owner: given, or asked for until it is known."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from webapp.tokens import one_line

log = logging.getLogger(__name__)


class Owner:
    """The one person who may open the app.

    Arguments:
        email: as `APP_OWNER` says; "" where it has to be found.
    """

    def __init__(self, email: str = "") -> None:
        self.email = email  # "" while it is not known

    def find(
        self, ask: Callable[[], str | None], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Ask who the owner is until it is known, with pauses that grow from a second to a minute.

        Arguments:
            ask: asks once; may raise anything, or answer nothing.
            sleep: waits that many seconds.
        """
        pause = 1.0
        while not (email := _ask_once(ask, pause)):
            sleep(pause)
            pause = min(2 * pause, 60.0)
        if "@" not in email:
            log.warning(
                "APP_OWNER: it is not set, and this app's creator, %s, has no e-mail address; "
                "expected yours, in app.yaml",
                email[:100],
            )
        self.email = email


def _ask_once(ask: Callable[[], str | None], pause: float) -> str:
    """The owner's e-mail address; "" where there is no answer, which is logged."""
    try:
        if email := (ask() or "").strip():
            return email
        problem = "the Apps API names no creator for this app"
    except Exception as error:  # no network, no permission, no credentials: each may pass
        problem = one_line(error)
    log.warning("The app's owner is not known yet (%s). Asking again in %.0f s.", problem, pause)
    return ""
