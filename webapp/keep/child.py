"""The process that saves, as the app sees it: started, asked, and ended when it does not answer."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from webapp.settings import AppSettings

SILENCE = 180.0  # seconds without a sign of life; a request to the volume is given up in less
LONGEST_LINE = 2**25  # characters of an answer
CLOUDS = ("DATABRICKS_", "ARM_", "AZURE_", "GOOGLE_")  # what begins so may be a credential


class Child:
    """`webapp.keep.worker` in a process of its own."""

    def __init__(self, settings: AppSettings) -> None:
        env = {k: v for k, v in settings.shell_env.items() if not k.startswith(CLOUDS)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "webapp.keep.worker", str(settings.home), settings.volume],
            env=env,
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C is not for it
        )
        self._ready = False
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Wait until no terminal can read what comes through its pipe."""
        if not self._ready:
            self._line()
            self._ready = True

    def send(self, request: dict[str, Any]) -> None:
        """Ask for something; `receive` has the answer."""
        print(json.dumps(request), file=cast(IO[str], self._process.stdin), flush=True)

    def receive(self) -> dict[str, Any]:
        """The answer, for as long as there are signs of life.

        Raises:
            RuntimeError: where there are none, or it has ended.
        """
        while (answer := dict(json.loads(self._line()))) == {"working": True}:
            pass
        return answer

    def end(self) -> None:
        """Let it end by itself."""
        with suppress(OSError):  # it has ended already
            cast(IO[str], self._process.stdin).close()
        self._process.wait()

    def kill(self) -> None:
        """End it now; after this it changes nothing any more."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        try:
            line = self._lines.get(timeout=SILENCE)
        except queue.Empty:
            self.kill()
            said = f"the process that saves did not answer for {SILENCE:.0f} s, and is started anew"
            raise RuntimeError(said) from None
        if not line.endswith("\n"):
            self.kill()
            raise RuntimeError("the process that saves has ended, and is started anew")
        return line

    def _read(self) -> None:
        output = cast(IO[str], self._process.stdout)
        while line := output.readline(LONGEST_LINE):
            self._lines.put(line)
        self._lines.put("")
