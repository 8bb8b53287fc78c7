"""hermes/install.py: Hermes, its folders and its MCP servers."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
import responses

import setup_hermes
from hermes import provider
from hermes.learnt import PLUGIN
from setup_hermes import main
from tests.conftest import until
from tests.hosts import AZURE_GATEWAY
from tests.mocked import HOST, TOKEN, config_of


def test_instructions_and_skills_of_coda(
    env: dict[str, str], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "coda"
    checkout.mkdir()
    (checkout / "CLAUDE.md").write_text("# Claude\nrules\n")
    (home / ".claude" / "skills").mkdir(parents=True)
    monkeypatch.setattr(setup_hermes, "__file__", str(checkout / "setup_hermes.py"))
    env["HERMES_PROVE"] = "false"
    assert main([], env | {"TEAM_MEMORY_MCP_URL": "https://memory.example/"}) == 0
    instructions = home / ".hermes" / "HERMES.md"
    assert instructions.read_text() == "# Hermes Agent on Databricks\nrules\n"
    assert config_of(home)["mcp_servers"] == {"team-memory": {"url": "https://memory.example/mcp"}}
    instructions.write_text("# mine")
    assert main([], env) == 0
    assert instructions.read_text() == "# mine"
    config = config_of(home)
    assert config["skills"] == {"external_dirs": [str(home / ".claude" / "skills")]}
    assert config["mcp_servers"] == {}


@responses.activate
def test_a_default_mcp_server_is_there_while_it_answers(env: dict[str, str], home: Path) -> None:
    for name in ("DEEPWIKI_MCP_URL", "EXA_MCP_URL"):
        del env[name]
    env["HERMES_PROVE"] = "false"
    responses.get("https://mcp.deepwiki.com/mcp", status=405)
    responses.get("https://mcp.exa.ai/mcp", body=requests.ConnectTimeout("..."))
    assert main([], env) == 0
    assert config_of(home)["mcp_servers"] == {"deepwiki": {"url": "https://mcp.deepwiki.com/mcp"}}
    responses.replace("GET", "https://mcp.deepwiki.com/mcp", body=requests.ConnectTimeout("..."))
    responses.replace("GET", "https://mcp.exa.ai/mcp", status=200)
    assert main([], env) == 0
    assert config_of(home)["mcp_servers"] == {"exa": {"url": "https://mcp.exa.ai/mcp"}}
    assert main([], env | {"EXA_MCP_URL": "https://my.exa.example/?exaApiKey=k"}) == 0
    assert config_of(home)["mcp_servers"] == {"exa": {"url": "https://my.exa.example/?exaApiKey=k"}}


WHEEL = "hermes-agent @ https://mirror.example/hermes.whl"
INSTALLS = 'echo "$@" > "$HOME/asked"; mkdir -p "$UV_TOOL_BIN_DIR"; touch "$UV_TOOL_BIN_DIR/hermes"'


def fake_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "uv").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


@pytest.mark.parametrize(
    ("package", "asked"),
    [
        ("", "hermes-agent[mcp]==0.19.0"),
        ("hermes-agent[cli, mcp]==0.22.0", "hermes-agent[cli, mcp]==0.22.0"),
        (WHEEL, f"{WHEEL} --with mcp==1.26.0"),
        ("hermes-agent[web]", "hermes-agent[web] --with mcp==1.26.0"),
    ],
)
def test_install(package: str, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_uv(tmp_path, monkeypatch, INSTALLS)
    monkeypatch.setitem(sys.modules, "databricks.sdk.core", None)
    assert main([], {"HOME": str(tmp_path), "HERMES_PIP_URL": package}) == 0
    assert (tmp_path / "asked").read_text().strip() == f"tool install --quiet --force {asked}"
    (tmp_path / "asked").unlink()
    assert main([], {"HOME": str(tmp_path)}) == 0
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("script", ["exit 3", "exit 0"])
def test_an_install_that_fails_is_exit_1(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_uv(tmp_path, monkeypatch, script)
    given = {"HOME": str(tmp_path), "DATABRICKS_HOST": HOST, "DATABRICKS_TOKEN": TOKEN}
    given["_GATEWAY_RESOLVED"] = ""
    assert main([], given) == 1
    assert "could not be installed" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert main([], given) == 1
    assert "uv is missing" in capsys.readouterr().err


@pytest.mark.fault("file")
def test_what_hermes_can_do_without_stops_nothing(
    env: dict[str, str],
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (home / "projects").touch()
    assert main([], env | {"HERMES_PROVE": "false"}) == 0
    assert capsys.readouterr().err.startswith("Left out: ")
    (home / "projects").unlink()
    (tmp_path / "CLAUDE.md").write_bytes(b"# Claude\n\xff\n")
    monkeypatch.setattr(setup_hermes, "__file__", str(tmp_path / "setup_hermes.py"))
    assert main([], env | {"HERMES_PROVE": "false"}) == 0
    assert (home / ".hermes" / "HERMES.md").exists()


def test_a_package_that_comes_too_late_is_said(
    env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([], env | {"HERMES_PIP_URL": "hermes-agent==0.18.0", "HERMES_PROVE": "false"}) == 0
    assert (
        f"HERMES_PIP_URL is passed over, as Hermes is there; to install that: rm {home}/"
        in capsys.readouterr().out
    )
    assert main([], env | {"HERMES_PROVE": "false"}) == 0
    assert "HERMES_PIP_URL" not in capsys.readouterr().out


def test_hermes_is_compiled_once_beside_everything_else(
    env: dict[str, str], home: Path, tmp_path: Path
) -> None:
    """Also where Python is told to write no bytecode, as Databricks Apps may do."""
    tool = tmp_path / "tool"
    packages = tool / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "cli.py").write_text("x = 1\n")
    (tool / "bin").mkdir()
    (tool / "bin" / "python").write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        f"asked = open({str(tool / 'asked')!r}, 'a') if 'compileall' in sys.argv else sys.stdout\n"
        f"print(os.nice(0), os.getsid(0) == os.getpid(), file=asked, flush=True)\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])\n"
    )
    (tool / "bin" / "python").chmod(0o755)
    (home / ".local" / "bin" / "hermes").unlink()
    (tool / "bin" / "hermes").touch()
    (home / ".local" / "bin" / "hermes").symlink_to(tool / "bin" / "hermes")
    assert main([], env | {"HERMES_PROVE": "false", "PYTHONDONTWRITEBYTECODE": "1"}) == 0
    until(lambda: list(packages.glob("__pycache__/cli.*.pyc")), lambda: "it is not compiled")
    assert main([], env | {"HERMES_PROVE": "false"}) == 0
    assert (tool / "asked").read_text() == f"{min(os.nice(0) + 10, 19)} True\n"


def test_uv_shows_its_progress_to_a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_uv(tmp_path, monkeypatch, INSTALLS)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "databricks.sdk.core", None)
    assert main([], {"HOME": str(tmp_path)}) == 0
    assert "--quiet" not in (tmp_path / "asked").read_text()


# --- Hermes's own plugin ------------------------------------------------------------------------------------------------


def test_the_plugin_is_brought_whole_and_kept_up_to_date(env: dict[str, str], home: Path) -> None:
    folder = home / PLUGIN
    env["HERMES_PROVE"] = "false"
    assert main([], env) == 0
    ours = {f.name: f.read_bytes() for f in Path(provider.__file__).parent.glob("*.*")}
    assert {f.name: f.read_bytes() for f in folder.iterdir() if f.name != "learnt.json"} == ours
    assert json.loads((folder / "learnt.json").read_text())["hosts"] == [
        urlsplit(url).hostname for url in (AZURE_GATEWAY, HOST)
    ]
    stamps = {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}
    assert main([], env) == 0
    assert {f.name: f.stat().st_mtime_ns for f in folder.iterdir()} == stamps
    # As an older version of ours would be there:
    state = json.loads((folder / "learnt.json").read_text())
    state["files"]["__init__.py"] = hashlib.sha256(b"old").hexdigest()
    (folder / "__init__.py").write_bytes(b"old")
    (folder / "learnt.json").write_text(json.dumps(state))
    assert main([], env) == 0
    assert (folder / "__init__.py").read_bytes() == ours["__init__.py"]


@pytest.mark.fault("file")
def test_a_plugin_of_somebody_else_stays_and_is_said(
    env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This is also how to leave ours out: an empty file in its place."""
    theirs = home / PLUGIN / "__init__.py"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("")
    for _ in range(2):
        assert main([], env | {"HERMES_PROVE": "false"}) == 0
        assert f"{theirs} is not ours and stays" in capsys.readouterr().out
        assert theirs.read_text() == ""


@pytest.mark.fault("file")
@pytest.mark.parametrize(
    "odd",
    [
        "[]",
        "{",
        '{"files": 3, "models": []}',
        "[" * 10000,
        '{"models": {"m": 3, "n": {"u": 3}}}',
        '{"retired": [3, null]}',
        '{"retired": 3}',
    ],
)
def test_an_odd_memory_of_what_was_learnt_stops_nothing(
    odd: str, env: dict[str, str], home: Path
) -> None:
    state = home / PLUGIN / "learnt.json"
    state.parent.mkdir(parents=True)
    state.write_text(odd)
    assert main([], env | {"HERMES_PROVE": "false"}) == 0
    expected = {"hosts", "max_tokens", "models", "retired", "files"}
    assert json.loads(state.read_text()).keys() == expected


@pytest.mark.parametrize(
    ("given", "cap"), [("1000", 1000), ("-5", 0), ("0", 0), ("true", 0), ("'9'", 0), ("[]", 0)]
)
def test_the_users_own_cap_reaches_the_plugin(
    env: dict[str, str], home: Path, given: str, cap: int
) -> None:
    (home / ".hermes").mkdir()
    (home / ".hermes" / "config.yaml").write_text(f"model: {{default: m, max_tokens: {given}}}\n")
    assert main([], env | {"HERMES_PROVE": "false"}) == 0
    assert json.loads((home / PLUGIN / "learnt.json").read_text())["max_tokens"] == cap
