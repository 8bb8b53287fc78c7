"""The app in a process of its own, as the tests and the benchmark serve it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pytest

pytest.importorskip("nicegui", reason="the app needs nicegui, which is not installed")
pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")


from tests.conftest import PATIENCE as PATIENCE
from tests.conftest import ROOT
from tests.conftest import until as until

OWNER = "owner@example.com"


class Served:
    """The app in a process of its own, on a free port; a context manager.

    Arguments:
        env: its whole environment; HOME, the port and Hermes's switch are set here.
        hermes: a home directory with Hermes in it, or one where it is missing, and with what
            `saved` holds for its own folder; None serves shells only.
        settings: more variables, by name.
    """

    copied = False  # whether the app's source is in its home

    def __init__(self, env: dict[str, str], hermes: Path | None = None, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="served-"))
        self.home = self.folder / "home"
        (self.home / ".local").mkdir(parents=True)
        for folder in (hermes / ".local").glob("*") if hermes else ():
            (self.home / ".local" / folder.name).symlink_to(folder)
        for saved in hermes.glob("saved") if hermes else ():
            shutil.copytree(saved, self.home / ".hermes")
        # Held until the app has it, so that nobody else is given the port meanwhile.
        self._free = socket.socket()
        self._free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._free.bind(("127.0.0.1", 0))
        self.port = self._free.getsockname()[1]
        self.url = f"http://localhost:{self.port}"
        env = {k: v for k, v in env.items() if not k.startswith(("PYTEST_", "NICEGUI_"))}
        own = {
            "HOME": str(self.home),
            "DATABRICKS_APP_PORT": str(self.port),
            "ENABLE_HERMES": "true" if hermes else "false",
        }
        source = self.home if self.copied else ROOT
        for name in ("app.py", "utils.py", "setup_hermes.py") if self.copied else ():
            shutil.copy(ROOT / name, source)
        for name in ("hermes", "webapp") if self.copied else ():
            shutil.copytree(ROOT / name, source / name)
        self.log = self.folder / "log"
        with self.log.open("w") as log:
            command = [sys.executable, str(source / "app.py")]
            # Another folder than the checkout, so that the app must find its files by itself.
            self.process = subprocess.Popen(
                command,
                env=env | own | settings,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
            )

    def __enter__(self) -> Served:
        until(self.answers, lambda: f"the app does not answer: {self.log.read_text()}")
        self._free.close()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            if kind:
                print(self.log.read_text())
            shutil.rmtree(self.folder, ignore_errors=True)

    def answers(self) -> bool:
        """Whether it answers by now."""
        assert self.process.poll() is None, self.log.read_text()
        with suppress(OSError):
            return self.ask("GET /health", {"Host": "probe"})[0] == 200
        return False

    def ask(
        self, request: str, headers: dict[str, str] | list[tuple[str, str]], body: str = ""
    ) -> tuple[int, str]:
        """Send one request as it stands: the last of its connection, unless it says otherwise.

        Returns:
            The status and the rest of the answer; a websocket's greeting included.
        """
        given = list(headers.items() if isinstance(headers, dict) else headers)
        if "Connection" not in dict(given):
            given.append(("Connection", "close"))
        pairs = [*given, ("Content-Length", str(len(body)))]
        head = "".join(f"{name}: {value}\r\n" for name, value in pairs)
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(f"{request} HTTP/1.1\r\n{head}\r\n{body}".encode())
            answer = b""
            # A websocket stays open after its greeting.
            while b'"sid"' not in answer and (chunk := connection.recv(65536)):
                answer += chunk
        status, _, rest = answer.decode("utf-8", "replace").partition("\r\n")
        return int(status.split()[1]), rest

    def processes(self) -> list[str]:
        """The command lines of all that still runs with this app's home."""
        found = []
        for folder in self._folders():
            with suppress(OSError):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        return found

    def numbers(self) -> list[int]:
        """The processes that the app has started, and theirs."""
        return [n for n in (int(f.name) for f in self._folders()) if n != self.process.pid]

    def _folders(self) -> Iterator[Path]:
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"HOME={self.home}\0".encode() in (folder / "environ").read_bytes():
                    yield folder


class ServedFromHome(Served):
    """As `Served`, with the app's source in its home, as it is on Databricks Apps."""

    copied = True
