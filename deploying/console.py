"""What a run prints, and how it waits: a line a step."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

POLL, LONGEST = 2.0, 1200.0  # seconds between two looks, and until waiting is over


class DeployError(RuntimeError):
    """Why it cannot go on; its text is one line that says what to do."""


class State(NamedTuple):
    """How something is that takes a while, in the workspace's words."""

    name: str
    message: str


def state_of(status: Any) -> State:
    """The state in a status of an app's, of its compute's, of an update's or a deployment's."""
    name = status.state.value if status and status.state else "UNKNOWN"
    return State(name, (status and status.message) or "no reason given")


def say(label: str, text: str) -> None:
    """Print one step's line."""
    print(f"{label + ':':10} {text}", flush=True)


def few(names: list[str]) -> str:
    """The first four of them, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def wait(label: str, look: Callable[[], State], ends: Collection[str]) -> State:
    """Look until a state is reached: one line that changes on a terminal, a line a state elsewhere.

    Arguments:
        label: what is waited for.
        look: gives the state now.
        ends: the states at which the waiting ends.

    Returns:
        The last state.

    Raises:
        DeployError: after LONGEST.
    """
    begun, last, live = time.monotonic(), "", sys.stdout.isatty()
    try:
        while True:
            state = look()
            seconds = time.monotonic() - begun
            if live:
                print(f"\r{label + ':':10} {state.name}, {seconds:.0f} s\x1b[K", end="", flush=True)
            elif state.name != last:
                say(label, f"{state.name}, {seconds:.0f} s")
            if state.name in ends:
                return state
            if seconds > LONGEST:
                raise DeployError(
                    f"Still {state.name} after {seconds / 60:.0f} minutes: run this again, it goes"
                    " on from there."
                )
            last = state.name
            time.sleep(POLL)
    finally:
        if live:
            print(flush=True)
