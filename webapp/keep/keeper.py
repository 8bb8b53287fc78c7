"""What outlives a restart: when it is brought back and saved, and by whom.

A process of its own does the work, at low priority. It gets the token of the moment with each request, through a pipe, and the
app's client secret never.
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from webapp.settings import AppSettings
from webapp.tokens import bearer, one_line

log = logging.getLogger(__name__)

EVERY, LONGEST = 60.0, 900.0  # seconds between two saves; at most, while they fail
LAST = 8.5  # seconds for the save at the end
PATIENCE, TRIES = 60.0, 3  # seconds and attempts that the first terminal waits for what was saved
DISK = "A restart empties the disk; to keep ~/projects and Hermes's memory, set HERMES_VOLUME."


class Keeper:
    """Brings back what was saved, then saves what changes, until it is stopped.

    Arguments:
        settings: the app's; without a volume, nothing is done.
        login: gives databricks-sdk's `Config`.
        every: seconds between two saves.
    """

    def __init__(
        self, settings: AppSettings, login: Callable[[], Any], every: float = EVERY
    ) -> None:
        self.settings, self._login, self._every = settings, login, every
        self._config: Any = None
        self._tokens: set[str] = {settings.env.get("DATABRICKS_TOKEN", "").strip()} - {""}
        self._worker: subprocess.Popen[str] | None = None
        self._ready = False
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._restored, self._stopping, self._opened = threading.Event(), threading.Event(), False
        self._failures = 0  # in a row
        self._saved = 0.0  # when all was saved last, by time.monotonic()
        self._problem = self._left_out = self._went_back = self._told = ""

    def start(self) -> None:
        """Begin, in the background."""
        if self.settings.volume:
            self._thread.start()

    async def restored(self) -> str:
        """Wait until what was saved is back, for as long as is reasonable.

        Returns:
            What to tell the user, in one line; "" for nothing.
        """
        if not self.settings.volume or self._opened:
            return ""
        until = time.monotonic() + PATIENCE
        while not self._restored.is_set() and self._failures < TRIES and time.monotonic() < until:
            await asyncio.sleep(0.02)
        self._opened = True
        return (
            self._told
            if self._restored.is_set()
            else f"Not brought back yet: {self._problem or 'still at it'}."
        )

    def stop(self) -> None:
        """Save once more, and end. A save that takes too long is given up, and the last state stays."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(LAST)
        if self._worker:
            self._worker.kill()
            self._worker.wait()

    @property
    def note(self) -> str:
        """How it stands, in a few words; "" without a volume."""
        if not self.settings.volume:
            return ""
        age = _age(time.monotonic() - self._saved) if self._saved else ""
        how = f"saved {age}" if age else "not saved yet"
        said = [
            f"{how}; {self._problem}" if self._problem else how,
            self._left_out,
            self._went_back,
        ]
        return " · ".join(part for part in said if part)

    def _live(self) -> None:
        pause, last = 0.0, False
        while not last:
            last = self._stopping.wait(pause)
            back, alive = (
                self._restored.is_set(),
                bool(self._worker and self._worker.poll() is None),
            )
            if last and not (back and alive):  # nothing is known of what a save would replace
                break
            do = ("save" if alive else "look") if back else ("late" if self._opened else "restore")
            try:
                answer = self._ask(do)
            except Exception as error:  # no network, no credentials: each may pass
                self._config, answer = None, {"problem": one_line(error)}
            self._learn(do, answer)
            if answer.get("end"):
                break
            self._failures = self._failures + 1 if self._problem else 0
            growing = min(self._every / 12 * 2 ** min(self._failures, 20), LONGEST)
            pause = growing if self._failures else 0.0 if do == "look" else self._every
        if self._worker and self._worker.stdin:
            with suppress(OSError):  # it has ended already
                self._worker.stdin.close()
            self._worker.wait()

    def _learn(self, do: str, answer: dict[str, Any]) -> None:
        """Take in what was answered, for the line below the page and the app's log."""
        before, self._problem = self._problem, str(answer.get("problem", ""))
        if self._problem:
            if self._problem != before:
                log.warning(
                    "Not %s: %s.",
                    "saved" if self._restored.is_set() else "brought back",
                    self._problem,
                )
            return
        left = dict(answer["left_out"])
        first = next(iter(left), "")
        shown = first if first.isprintable() else ascii(first)
        said = (
            f"{shown} ({left[first]}){f' and {len(left) - 1} more' if len(left) > 1 else ''}"
            if left
            else ""
        )
        if said and said not in self._left_out:
            log.warning("Left out: %s", said)
        self._left_out = said and f"not saved: {said}"
        if do in ("restore", "late"):
            when = f"{str(answer['saved']).replace('T', ' ')[:16]} UTC" if answer["saved"] else ""
            if answer["older"]:
                self._went_back = (
                    f"went back to {when}, the last whole state"
                    if when
                    else "no saved state is whole"
                )
            self._told = (
                f"Brought back {answer['files']} files, as saved on {when}." if when else ""
            )
            self._told += f" Not brought back: {said}." if said else ""
            self._restored.set()
        elif do == "save":
            self._saved = time.monotonic()

    def _ask(self, do: str) -> dict[str, Any]:
        if not self._worker or self._worker.poll() is not None:
            self._worker = self._hire()  # it gets ready while we log in
        self._config = self._config or self._login()
        token = bearer(self._config)
        self._tokens.add(token)
        given, answers = cast(IO[str], self._worker.stdin), cast(IO[str], self._worker.stdout)
        if not self._ready:
            self._ready = (
                answers.readline() != ""
            )  # only now no terminal can read what comes through the pipe
        request = {
            "do": do,
            "host": self._config.host,
            "token": token,
            "hidden": sorted(self._tokens),
        }
        print(json.dumps(request), file=given, flush=True)
        if not (line := answers.readline()):
            raise RuntimeError("the process that saves has ended")
        return dict(json.loads(line))

    def _hire(self) -> subprocess.Popen[str]:
        theirs = {
            k: v
            for k, v in self.settings.shell_env.items()
            if not k.startswith(("DATABRICKS_", "ARM_", "AZURE_"))
        }
        self._ready = False
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "webapp.keep.worker",
                str(self.settings.home),
                self.settings.volume,
            ],
            env=theirs,
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C is not for it
        )


def _age(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes < 2:
        return "just now" if minutes < 1 else "a minute ago"
    return f"{minutes} minutes ago" if minutes < 120 else f"{minutes // 60} hours ago"
