"""Runs what was deployed as Databricks Apps does: in a Python of its own, behind a proxy."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import trustme
import yaml

from tests.standin.workspace import WORKSPACE_ID

ME = "owner@example.com"


class Runner:
    """Starts uploaded files, and is the proxy in front of them; a context manager.

    Arguments:
        env: the workspace around the app, with its service principal's credentials.
        hermes: a home with Hermes in it, so that it is not installed again.
        visitor: who the browser says it is; may change while it runs.
    """

    def __init__(self, env: dict[str, str], hermes: Path, visitor: str = ME) -> None:
        self.env, self.hermes, self.visitor = env, hermes, visitor
        self.done, self.fails = True, ""
        self.host, self.app_port = "", 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Runner:
        self._folder = Path(tempfile.mkdtemp(prefix="standin-app-"))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("*.7.azure.databricksapps.com").configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind:
            print(self.log)
        self._listener.close()
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def log(self) -> str:
        """What its installation and the app itself printed."""
        path = self._folder / "log"
        return path.read_text() if path.exists() else ""

    def start(self, app: dict[str, Any], files: dict[str, bytes]) -> None:
        """Stop what runs, start these files; `done` once they answer, or `fails` says why not."""
        self._stop()
        self.done, self.fails, self.host = False, "", app["url"].removeprefix("https://")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.app_port = free.getsockname()[1]
        threading.Thread(target=self._run, args=(app["name"], files), daemon=True).start()

    def _run(self, name: str, files: dict[str, bytes]) -> None:
        try:
            self._start(name, files)
        except Exception as failure:  # to be told by the deployment
            self.fails = f"{type(failure).__name__}: {failure}"
        finally:
            self.done = True

    def _start(self, name: str, files: dict[str, bytes]) -> None:
        home, python = self._folder / "source_code", self._folder / "python"
        shutil.rmtree(home, ignore_errors=True)
        for file, content in files.items():
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            (home / file).write_bytes(content)
        (home / ".local").mkdir()
        for folder in (self.hermes / ".local").iterdir():
            (home / ".local" / folder.name).symlink_to(folder)
        uv, interpreter = [sys.executable, "-m", "uv"], str(python / "bin" / "python")
        install = [*uv, "pip", "install", "--python", interpreter]
        install += ["-r", "requirements.txt", "-c", "constraints.txt"]
        with (self._folder / "log").open("w") as log:
            venv = [*uv, "venv", "--clear", "--python", sys.executable, str(python)]
            subprocess.run(venv, check=True, stdout=log, stderr=log)
            # What was installed for the tests is in uv's cache: the index is asked where it is not.
            offline = [*install, "--offline"]
            if subprocess.run(offline, cwd=home, stdout=log, stderr=log).returncode != 0:
                subprocess.run(install, cwd=home, check=True, stdout=log, stderr=log)
        config = yaml.safe_load((home / "app.yaml").read_text())
        # The one thing that differs: /app is not ours to write here.
        given = {
            e["name"]: e["value"].replace("/app/python/source_code", str(home))
            for e in config["env"]
        }
        path = f"{python / 'bin'}{os.pathsep}{self.env['PATH']}"
        theirs = {
            "DATABRICKS_APP_NAME": name,
            "DATABRICKS_APP_PORT": str(self.app_port),
            "PATH": path,
        }
        env = (
            {
                k: v
                for k, v in self.env.items()
                if not k.startswith(("PYTEST_", "NICEGUI_", "PYTHON"))
            }
            | theirs
            | given
        )
        program = shutil.which(config["command"][0], path=path)
        assert program
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [program, *config["command"][1:]],
                cwd=home,
                env=env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"app crashed: {self.log[-200:]}")
            with (
                suppress(OSError),
                closing(HTTPConnection("127.0.0.1", self.app_port, timeout=5)) as connection,
            ):
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)

    def _stop(self) -> None:
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(60)
            finally:
                self._process.kill()
            self._process = None

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        """One connection: a request, its head written anew, then bytes both ways until an end."""
        with suppress(OSError), self._context.wrap_socket(near, server_side=True) as browser:
            data = b""
            while b"\r\n\r\n" not in data:
                if not (more := browser.recv(65536)):
                    return
                data += more
            head, _, rest = data.partition(b"\r\n\r\n")
            with socket.create_connection(("127.0.0.1", self.app_port)) as app:
                app.sendall(self._head(head.decode("latin-1")).encode("latin-1") + rest)
                _relay(browser, app)

    def _head(self, head: str) -> str:
        first, *lines = head.split("\r\n")
        kept = [line for line in lines if not line.lower().startswith("x-forwarded-")]
        if not any(line.lower().startswith("upgrade:") for line in lines):
            # One request a connection, as its head is all that is looked at.
            kept = [line for line in kept if not line.lower().startswith("connection:")] + [
                "Connection: close"
            ]
        name = self.visitor.partition("@")[0]
        said = {
            "Email": self.visitor,
            "User": f"1@{WORKSPACE_ID}",
            "Preferred-Username": name,
            "Host": self.host,
        }
        kept += [f"X-Forwarded-{key}: {value}" for key, value in said.items()]
        return "\r\n".join([first, *kept, f"X-Request-Id: {secrets.token_hex(16)}", "", ""])


def _relay(browser: ssl.SSLSocket, app: socket.socket) -> None:
    """Bytes both ways until one side ends; in one thread, as a TLS connection is not for two."""
    while True:
        ready = [browser] if browser.pending() else select.select([browser, app], [], [])[0]
        for source in ready:
            source.setblocking(False)
            try:
                data = source.recv(65536)
            except ssl.SSLWantReadError:  # a part of a record
                continue
            finally:
                source.setblocking(True)
            if not data:
                return
            (app if source is browser else browser).sendall(data)
