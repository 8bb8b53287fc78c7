"""What the tests share: the real Hermes, a home for it, and no skip that hides."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = ROOT / ".demo"
FAULTS = {  # what the tests marked with it assert
    "network": "one line says why; a dead host is not asked again",
    "gateway": "the next route that answers is written, or the default with a warning",
    "token": "the same session goes on with the fresh one; a rejected one is named",
    "file": "links are followed; what is not ours is not touched",
    "disk full": "the old file stays",
    "read-only HOME": "one line, exit 2, nothing written",
    "killed": "the old file or the new one, whole, 0600",
    "concurrent": "one whole file, one key, one backup",
    "hostile host names": "one line, or an id and a gateway below Databricks' own domains",
    "hostile settings": "one line, exit 2, nothing written",
    "hostile YAML": "what is not ours stays; what is no config is kept beside",
    "oversized values": "taken whole, or one short line",
}


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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="print how many cases of each fault are tried, as the README does")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(kind, cases=1): a fault that is tried, and how many cases one test makes of it")


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """The README's table of faults, from the tests' marks."""
    if not config.getoption("--faults"):
        return []
    counts = dict.fromkeys(FAULTS, 0)
    for mark in (mark for item in items for mark in item.iter_markers("fault")):
        kind, cases = (*mark.args, 1)[:2]
        counts[kind] += cases
    rows = [f"| {kind} | {counts[kind]} | nothing | {seen} |" for kind, seen in FAULTS.items()]
    return ["| fault | cases | lost | what happens |", "| --- | --- | --- | --- |", *rows]


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Iterator[None]:
    """With NO_SKIPS=1, as `make test` sets it, a skipped test fails the run."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("NO_SKIPS") and reporter and reporter.stats.get("skipped"):
        reporter.write_line("NO_SKIPS is set and a test was skipped: that is a failure.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
