"""The real Hermes, asked once or in a session, as its user has it: without pytest's own variables."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.standin import StandIn


def hermes_env(workspace: StandIn, home: Path) -> dict[str, str]:
    """The environment for Hermes: newer versions do less where they find themselves in a test."""
    own = {name: value for name, value in workspace.env.items() if not name.startswith("PYTEST_")}
    return own | {"HOME": str(home)}


def run_hermes(workspace: StandIn, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of its commands, with nobody at the keyboard."""
    command = [str(home / ".local" / "bin" / "hermes"), *arguments]
    return subprocess.run(
        command,
        env=hermes_env(workspace, home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def ask(workspace: StandIn, home: Path, question: str, *options: str) -> str:
    """What `hermes chat -q` prints; what it asked the workspace is in `workspace.requests`."""
    workspace.requests.clear()
    return run_hermes(workspace, home, "chat", "-q", question, *options).stdout


@contextlib.contextmanager
def chat_session(workspace: StandIn, home: Path) -> Iterator[Any]:
    """`hermes chat` in a terminal, at its prompt: pexpect's session, which is closed at the end."""
    pexpect = pytest.importorskip(
        "pexpect", reason="pexpect is missing: it types into an interactive session"
    )
    session = pexpect.spawn(
        str(home / ".local" / "bin" / "hermes"),
        ["chat"],
        env=hermes_env(workspace, home),
        dimensions=(50, 160),
        encoding="utf-8",
        timeout=60,
    )
    session.delayafterterminate = 10  # seconds: it may be slow to end
    try:
        # 0.22 first asks whether it may collect metrics; then comes the prompt's arrow.
        while session.expect(["\u276f", "No thanks"]) == 1:
            session.send("\r")
        yield session
    finally:
        session.close(force=True)
