"""All that was started in one terminal, whatever it did to get away from it."""

from __future__ import annotations

import os
import resource
import secrets
import sys
from contextlib import suppress
from pathlib import Path

# Microseconds that a real-time process may run without a pause: 36,000 years and more. Nothing uses
# this limit; children inherit it, and no program gives it up as it may give up its environment.
NEVER = 2**60


class Processes:
    """The processes of one terminal, on Linux found by a resource limit of their own.

    A mark in their environment finds them where the system does not let that limit be set.
    """

    def __init__(self) -> None:
        number = secrets.randbits(40)
        self._limit, self._mark = NEVER + number, f"TERMINAL_SESSION={number:x}"

    @property
    def env(self) -> dict[str, str]:
        """What goes into the environment of a program that is started."""
        name, _, value = self._mark.partition("=")
        return {name: value}

    def mark(self) -> None:
        """In a new process: mark it, and with it all that it starts."""
        if sys.platform == "linux":
            with suppress(OSError, ValueError):  # a lower limit is set, or none may be
                resource.setrlimit(resource.RLIMIT_RTTIME, (self._limit, self._limit))

    def find(self) -> list[int]:
        """The ids of those that run."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self._is_marked(process) and not _is_over(process):
                    found.append(int(process.name))
        return found

    def signal(self, number: int) -> bool:
        """Send all of them a signal; 0 sends none.

        Returns:
            Whether any was running.
        """
        found = self.find()
        for process in found:
            with suppress(OSError):  # it has ended, or belongs to somebody else
                os.kill(process, number)
        return bool(found)

    def _is_marked(self, process: Path) -> bool:
        if sys.platform == "linux":
            limits = resource.prlimit(int(process.name), resource.RLIMIT_RTTIME)
            if limits == (self._limit, self._limit):
                return True
        return self._mark.encode() in (process / "environ").read_bytes()


def _is_over(process: Path) -> bool:
    """Whether a process has ended, and only waits for its parent to ask how."""
    return (process / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
