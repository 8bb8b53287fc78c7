"""The Makefile: what `make demo`, `make app` and `make help` do and say."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE, ROOT, until

STANDIN = "This is the stand-in, not your workspace"
MAKE = ["make", "--no-print-directory", "-o", ".venv/ready"]


@pytest.fixture
def demo(installed_hermes: Path, tmp_path: Path) -> Path:
    """A folder for demos that no other test uses, with the real Hermes."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / ".local").symlink_to(installed_hermes / ".local")
    return tmp_path / "demo"


def spawn(demo: Path, target: str) -> Any:
    """Start a target in a terminal, as a newcomer does, and wait until the app is there."""
    pexpect = pytest.importorskip("pexpect")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"DATABRICKS_APP_PORT": str(port), "HOME": str(demo)}
    options = [*MAKE[1:], target, f"DEMO={demo}"]
    make = pexpect.spawn(MAKE[0], options, cwd=ROOT, env=env, encoding="utf-8", timeout=PATIENCE)
    make.expect("Hermes is at http://localhost:[0-9]+\r\n")
    return make


def test_ctrl_c_is_one_line(demo: Path, installed_hermes: Path) -> None:
    pexpect = pytest.importorskip("pexpect")
    make = spawn(demo, "app")
    assert STANDIN in make.before
    [home] = demo.glob("run.*")
    assert (home / ".local" / "bin" / "hermes").samefile(installed_hermes / ".local/bin/hermes")
    make.sendintr()
    make.expect(pexpect.EOF)
    assert make.before.strip("^C\r\n") == "Hermes has ended."
    make.close()
    until(lambda: not home.exists(), lambda: f"{home} is still there")


def test_two_demos_share_nothing_but_hermes(demo: Path) -> None:
    pexpect = pytest.importorskip("pexpect")
    first, second = spawn(demo, "demo"), spawn(demo, "demo")
    assert STANDIN not in first.before
    homes = [*demo.glob("run.*")]
    assert len(homes) == 2
    configs = [home / ".hermes" / "config.yaml" for home in homes]
    until(lambda: all(c.exists() for c in configs), lambda: str(configs))
    keys = [{line for line in c.read_text().splitlines() if "api_key" in line} for c in configs]
    assert keys[0]
    assert not keys[0] & keys[1]
    first.sendintr()
    first.expect(pexpect.EOF)
    assert first.before.strip("^C\r\n") == "Hermes has ended."
    os.killpg(second.pid, signal.SIGHUP)  # as from the shell of a window that is closed
    until(lambda: not [*demo.glob("run.*")], lambda: str(homes))


def test_check_without_a_workspace_says_what_it_is(tmp_path: Path) -> None:
    def check(*more: str) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        command = [*MAKE, "check", f"DEMO={tmp_path}", *more]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True).stdout

    assert check().startswith(STANDIN)
    said = check("STANDIN_OPTIONS=--feature-disabled")
    assert STANDIN not in said
    assert "AI Gateway is not enabled for this workspace" in said


@pytest.mark.parametrize(
    ("target", "given", "said"),
    [
        (
            "check",
            "PROFILE=work",
            "PROFILE: it is for make deploy alone; expected DATABRICKS_CONFIG",
        ),
        (
            "report",
            "HOST=https://x",
            "HOST: it is for make deploy alone; expected DATABRICKS_CONFIG",
        ),
        ("report", "YES=yes", "YES: 'yes' is not valid; expected 1"),
        ("coda", "UNDO=0", "UNDO: '0' is not valid; expected 1"),
    ],
)
def test_what_a_target_does_not_take_is_refused(target: str, given: str, said: str) -> None:
    done = subprocess.run([*MAKE, target, given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)


def test_uv_trusts_what_the_machine_trusts() -> None:
    """A company's network may answer with a certificate of its own."""
    show = [*MAKE, "--eval", "show:; @echo $$UV_SYSTEM_CERTS", "show"]
    for given, said in ({}, "1\n"), ({"UV_SYSTEM_CERTS": "0"}, "0\n"):
        env = {"PATH": os.environ["PATH"], **given}
        assert subprocess.check_output(show, cwd=ROOT, env=env, text=True) == said


def test_help_names_every_target() -> None:
    said = subprocess.check_output([*MAKE, "help"], cwd=ROOT, text=True)
    text = (ROOT / "Makefile").read_text()
    targets = text.partition(".PHONY: help ")[2].partition("\n")[0].split()
    assert len(targets) > 10
    assert [name for name in targets if name not in said] == []


OLD = "sys.version_info = (3, 10, 13, 'final', 0)"


@pytest.mark.parametrize(
    ("program", "lacks", "said"),
    [
        ("app.py", OLD, "The app needs Python 3.11 or later; this is "),
        ("deploy.py status", OLD, "The app needs Python 3.11 or later; this is "),
        ("deploy.py status", "sys.modules['requests'] = None", "deploy.py needs what requ"),
        ("deploy.py status", "sys.modules['databricks'] = None", "deploy.py needs what requ"),
        ("deploy.py status", "sys.modules['databricks.sdk'] = None", "deploy.py needs what requ"),
    ],
)
def test_what_python_lacks_is_one_line(program: str, lacks: str, said: str) -> None:
    code = (
        f"import runpy, sys; {lacks}; sys.argv = {program.split()}; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_make_coda_needs_a_folder() -> None:
    def coda(*more: str) -> tuple[int, str]:
        done = subprocess.run([*MAKE, "coda", *more], cwd=ROOT, capture_output=True, text=True)
        return done.returncode, done.stderr.splitlines()[0]

    assert coda() == (2, "CODA: it is not set; expected the folder of a CODA checkout")
    said = "CODA: 'no $HOME' is not valid (no such folder); expected the folder of a CODA checkout"
    assert coda("CODA=no $HOME", "UNDO=1") == (2, said)
