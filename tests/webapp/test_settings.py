"""webapp/settings.py: what the app is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nicegui", reason="the app needs nicegui, which is not installed")
pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")


from hermes.urls import SettingError
from tests.conftest import ROOT
from tests.served import OWNER, PATIENCE
from webapp.settings import read_settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            ("DATABRICKS_APP_PORT", value)
            for value in ("http", "0", "-1", "65536", "8000.5", "8000 8001", "٣", "9" * 5000)
        ],
        *[("MAX_CONCURRENT_SESSIONS", value) for value in ("0", "many", "-5", "101", "1e2", "²")],
        ("ENABLE_HERMES", "perhaps"),
        ("APP_OWNER", "me"),
        ("APP_OWNER", "a@example.com, b@example.com"),
        ("HOME", "/nowhere/at/all"),
    ],
)
def test_a_bad_setting_is_named_in_one_line(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError) as raised:
        read_settings({"HOME": str(tmp_path), name: value})
    shown = "cannot be written" if name == "HOME" else re.escape(value[:50])
    assert re.fullmatch(f"{name}: .*{shown}.*; expected .*", str(raised.value))


def test_a_bad_setting_is_one_clear_line_and_exit_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "app.py")],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "APP_OWNER": "me"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    said = "APP_OWNER: 'me' is not valid; expected one e-mail address\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_what_is_not_set_has_a_default(tmp_path: Path) -> None:
    settings = read_settings({"HOME": str(tmp_path)})
    assert (settings.name, settings.owner, settings.port, settings.limit, settings.hermes) == (
        "",
        "",
        8000,
        5,
        True,
    )
    settings = read_settings(
        {
            "HOME": str(tmp_path),
            "DATABRICKS_APP_PORT": " 9000\n",
            "MAX_CONCURRENT_SESSIONS": "",
            "APP_OWNER": f" {OWNER} ",
        }
    )
    assert (settings.owner, settings.port, settings.limit) == (OWNER, 9000, 5)


def test_settings_do_not_show_the_environment(tmp_path: Path) -> None:
    assert "dapi" not in repr(read_settings({"HOME": str(tmp_path), "DATABRICKS_TOKEN": "dapi1"}))


def test_the_terminal_gets_no_service_principal(tmp_path: Path) -> None:
    env = {
        "HOME": str(tmp_path),
        "PATH": "/bin",
        "DATABRICKS_CLIENT_ID": "id",
        "DATABRICKS_CLIENT_SECRET": "secret",
        "DATABRICKS_HOST": "h",
    }
    shell = read_settings(env | {"LANG": "de_DE.UTF-8", "COLUMNS": "80", "LINES": "24"}).shell_env
    assert not shell.keys() & {"COLUMNS", "LINES"}
    assert "DATABRICKS_CLIENT_SECRET" not in shell
    assert "DATABRICKS_CLIENT_ID" not in shell
    assert (shell["DATABRICKS_HOST"], shell["LANG"]) == ("h", "de_DE.UTF-8")
    assert shell["PATH"] == f"{tmp_path}/.local/bin:/bin"
    assert read_settings(env).shell_env["LANG"] == "C.UTF-8"
    assert read_settings(env).env["DATABRICKS_CLIENT_SECRET"] == "secret"
