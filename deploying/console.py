"""What a run prints, and how it waits: a line a step."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection

POLL, LONGEST = 2.0, 1200.0  # seconds between two looks, and until waiting is over


class DeployError(RuntimeError):
    """Why it cannot go on; its text is one line that says what to do."""


def say(label: str, text: str) -> None:
    """Print one step's line."""
    print(f"{label + ':':10} {text}", flush=True)


def few(names: list[str]) -> str:
    """The first four of them, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def wait(label: str, look: Callable[[], tuple[str, str]], ends: Collection[str]) -> tuple[str, str]:
    """Look until a state is reached: one line that changes on a terminal, a line a state elsewhere.

    Arguments:
        label: what is waited for.
        look: gives the state now, and a message.
        ends: the states at which the waiting ends.

    Returns:
        The last state and message.

    Raises:
        DeployError: after LONGEST.
    """
    begun, last, live = time.monotonic(), "", sys.stdout.isatty()
    try:
        while True:
            state, message = look()
            seconds = time.monotonic() - begun
            if live:
                print(f"\r{label + ':':10} {state}, {seconds:.0f} s\x1b[K", end="", flush=True)
            elif state != last:
                say(label, f"{state}, {seconds:.0f} s")
            if state in ends:
                return state, message
            if seconds > LONGEST:
                raise DeployError(
                    f"Still {state} after {seconds / 60:.0f} minutes: run this again, it goes on"
                    " from there."
                )
            last = state
            time.sleep(POLL)
    finally:
        if live:
            print(flush=True)
