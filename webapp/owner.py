"""The search for the app's owner."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


def find_owner(ask: Callable[[], str | None], sleep: Callable[[float], None] = time.sleep) -> str:
    """Ask who the owner is until it is known, with pauses that grow from a second to a minute.

    Arguments:
        ask: asks once; may raise anything, or answer nothing.
        sleep: waits that many seconds.

    Returns:
        The owner's e-mail address.
    """
    pause = 1.0
    while True:
        try:
            if owner := (ask() or "").strip():
                break
            log.warning(
                "The Apps API names no creator for this app. Asking again in %.0f s.", pause
            )
        except Exception as error:  # no network, no permission, no credentials: each may pass
            log.warning(
                "The app's owner is not known yet (%s). Asking again in %.0f s.", error, pause
            )
        sleep(pause)
        pause = min(2 * pause, 60.0)
    if "@" not in owner:
        log.warning(
            "This app's creator is no person with an e-mail address: set APP_OWNER to yours in app.yaml."
        )
    return owner
