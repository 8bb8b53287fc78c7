"""What the tests of hermes/ share: setup, run in this process against the stand-in workspace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from setup_hermes import main

if TYPE_CHECKING:
    from tests.standin import StandIn


@dataclass
class Run:
    """One run of setup: its exit code, what it printed, and what the workspace saw."""

    code: int
    out: str
    err: str
    asked: list[tuple[str, str, int]]  # each question: path, model, status

    @property
    def last(self) -> str:
        """The last line."""
        return self.out.splitlines()[-1]


Runner = Callable[..., Run]
Enter = Callable[["StandIn"], dict[str, str]]


@pytest.fixture
def enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Enter:
    """Gives a workspace's settings, and this process what requests and databricks-sdk read by themselves."""

    def go(workspace: StandIn) -> dict[str, str]:
        for name, value in workspace.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("SSL_CERT_DIR", raising=False)
        none = {"DEEPWIKI_MCP_URL": "", "EXA_MCP_URL": ""}
        return workspace.env | {"HOME": str(tmp_path / "home")} | none

    return go


@pytest.fixture
def run(
    enter: Enter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Runner:
    """Runs setup against a workspace, in the home that `home` or `hermes_home` made."""

    def go(workspace: StandIn, *arguments: str, **settings: str) -> Run:
        env = enter(workspace) | settings
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        workspace.requests.clear()
        code = main([*arguments], env)
        asked = [
            (r.path.removesuffix("/chat/completions"), r.model, r.status) for r in workspace.chats()
        ]
        return Run(code, *capsys.readouterr(), asked)

    return go
