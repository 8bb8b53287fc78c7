"""What the tests share: the real Hermes, a home for it, and no skip that hides."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = ROOT / ".demo"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's own reaches a test."""
    for name in os.environ:
        if name.startswith(("DATABRICKS_", "HERMES_", "ENABLE_HERMES", "_GATEWAY_RESOLVED", "APP_OWNER", "MAX_CONCURRENT")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def installed_hermes() -> Path:
    """The home in which `make` installed the real Hermes."""
    if not (INSTALLED / ".local" / "bin" / "hermes").exists():
        pytest.skip("the real Hermes is missing: `make test` installs it")
    return INSTALLED


@pytest.fixture
def hermes_home(installed_hermes: Path, tmp_path: Path) -> Path:
    """A fresh home directory with the real Hermes in it."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".local").symlink_to(installed_hermes / ".local")
    return home


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Iterator[None]:
    """With NO_SKIPS=1, as `make test` sets it, a skipped test fails the run."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("NO_SKIPS") and reporter and reporter.stats.get("skipped"):
        reporter.write_line("NO_SKIPS is set and a test was skipped: that is a failure.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
