"""What the tests share: the real Hermes, a home for it, and no skip that hides."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
OTHER_HERMES = os.environ.get("OTHER_HERMES")  # as `make test HERMES=` sets it
INSTALLED = Path(OTHER_HERMES or ROOT / ".demo")
PATIENCE = 60.0  # seconds, for what takes one or two
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
    "volume": "one line says why; the last whole state stays, and the next save goes on",
    "torn or hostile state": "the one before is restored, and nothing else is touched",
    "restart": "all that is older than the last save is back, byte for byte",
}


# Importing any of its files needs it; elsewhere a test says by itself what is missing.
collect_ignore_glob = [] if find_spec("trustme") else ["standin/*"]


def until(condition: Callable[[], object], failure: Callable[[], str]) -> None:
    """Wait for a condition, for as long as PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, failure()
        time.sleep(0.05)


def submit(session: Any, text: str, answer: str) -> None:
    """Type a line into Hermes and wait for its answer. An Enter that comes too soon after a text is taken for part of it."""
    from pexpect import TIMEOUT

    session.send(text)
    session.expect(text)
    for _ in range(6):
        session.send("\r")
        if session.expect([answer, TIMEOUT], timeout=20) == 0:
            return
    raise AssertionError(f"no answer to {text!r}")


@pytest.fixture(autouse=True)
def own_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No setting of the developer's own reaches a test, and no file of their home but caches."""
    monkeypatch.setenv(
        "XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    )
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp()))
    own = re.compile(
        r"(DATABRICKS_|HERMES_|ENABLE_HERMES|APP_OWNER|MAX_CONCURRENT|_GATEWAY|ARM_|AZURE_).*|.*_MCP_URL"
    )
    for name in filter(own.fullmatch, list(os.environ)):
        monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home in which a program called hermes is there, so that nothing is installed."""
    binary = tmp_path / "home" / ".local" / "bin" / "hermes"
    binary.parent.mkdir(parents=True)
    binary.touch(mode=0o755)
    return tmp_path / "home"


@pytest.fixture
def env(home: Path) -> dict[str, str]:
    """Settings for a workspace on Azure whose gateway answers, without MCP servers."""
    from tests.hosts import AZURE_GATEWAY
    from tests.mocked import HOST, TOKEN

    given = {
        "HOME": str(home),
        "DATABRICKS_HOST": HOST,
        "DATABRICKS_TOKEN": TOKEN,
        "DEEPWIKI_MCP_URL": "",
        "EXA_MCP_URL": "",
    }
    return {**given, "_GATEWAY_RESOLVED": AZURE_GATEWAY, "PATH": os.environ["PATH"]}


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
    parser.addoption(
        "--faults",
        action="store_true",
        help="print how many cases of each fault were tried",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "fault(kind, cases=1): a fault that is tried, and how many cases one test makes of it",
    )


def faults(marks: Iterable[tuple[str, int, bool]]) -> list[str]:
    """The table of faults, from each test's kind, number of cases, and whether it passed."""
    cases, failed = dict.fromkeys(FAULTS, 0), set()
    for kind, count, passed in marks:
        cases[kind] += count
        failed |= set() if passed else {kind}
    rows = [
        f"| {k} | {cases[k]} | {'SEE THE FAILURES' if k in failed else 'nothing'} | {seen} |"
        for k, seen in FAULTS.items()
    ]
    return ["| fault | cases | lost | what happens |", "| --- | --- | --- | --- |", *rows]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if OTHER_HERMES:  # only what uses it
        real = [item for item in items if "installed_hermes" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=[item for item in items if item not in real])
        items[:] = real
    for item in items:
        item.user_properties += [
            ("fault", (*mark.args, 1)[:2]) for mark in item.iter_markers("fault")
        ]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.getoption("--faults"):
        done = [
            (report, outcome == "passed")
            for outcome in ("passed", "failed")
            for report in terminalreporter.getreports(outcome)
        ]
        marks = [
            (*m, ok)
            for report, ok in done
            for name, m in report.user_properties
            if name == "fault" and report.when == "call"
        ]
        terminalreporter.write_line("\n".join(faults(marks)))


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Iterator[None]:
    """With NO_SKIPS=1, as `make test` sets it, a skipped test fails the run."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("NO_SKIPS") and reporter and reporter.stats.get("skipped"):
        reporter.write_line("NO_SKIPS is set and a test was skipped: that is a failure.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
