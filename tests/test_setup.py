"""setup_hermes.py: its command line and its exit codes."""

from __future__ import annotations

import re
import stat
import sys
from pathlib import Path

import pytest
import responses

from setup_hermes import main
from tests.hosts import AZURE_GATEWAY, ID
from tests.mocked import MLFLOW, OPUS_4_7, serve


@pytest.mark.parametrize(
    ("served", "env_more", "code", "last"),
    [
        ([(MLFLOW, OPUS_4_7)], {}, 0, "yes: direct serving does not answer for "),
        ([], {}, 1, "no: nothing that setup can write would answer. "),
        ([], {"DATABRICKS_TOKEN": " "}, 1, "No Databricks token"),
    ],
)
@responses.activate
def test_check_writes_nothing(
    served: list[tuple[str, str]],
    env_more: dict[str, str],
    code: int,
    last: str,
    env: dict[str, str],
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "databricks.sdk.core", None)
    serve(*served)
    before = sorted(home.rglob("*"))
    assert main(["--check"], env | env_more) == code
    output = capsys.readouterr().out
    assert output.splitlines()[-1].startswith(last)
    assert sorted(home.rglob("*")) == before
    if not env_more:
        rows = [line for line in output.splitlines() if line.startswith("databricks-")]
        assert len({re.search(" (gateway|workspace) /", row).start() for row in rows}) == 1  # type: ignore[union-attr]
        assert len({row.index("HTTP ") for row in rows}) == 1


@pytest.mark.parametrize("argv", [["--chekc"], ["--check", "more"], ["x\ny"]])
def test_an_unknown_argument(
    argv: list[str], env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv, env) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (home / ".hermes").exists()


def test_help(env: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"], env) == 0
    assert "--check" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["false", "0", "no", "No", " FALSE "])
def test_turned_off(
    word: str, env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(home.rglob("*"))
    assert main([], env | {"ENABLE_HERMES": word, "DATABRICKS_HOST": "bad host"}) == 0
    assert "turned off" in capsys.readouterr().out
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize("word", ["true", "1", "yes", ""])
@responses.activate
def test_turned_on(word: str, env: dict[str, str], home: Path) -> None:
    assert main([], env | {"ENABLE_HERMES": word, "HERMES_PROVE": "no"}) == 0
    assert (home / ".hermes" / "config.yaml").exists()
    assert stat.S_IMODE((home / ".hermes").stat().st_mode) == 0o700


def test_no_token_yet(
    env: dict[str, str],
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "databricks.sdk.core", None)
    del env["DATABRICKS_TOKEN"]
    assert main([], env) == 0
    assert "No Databricks token yet" in capsys.readouterr().out
    assert not (home / ".hermes" / "config.yaml").exists()
    assert (home / "projects").is_dir()


@pytest.mark.fault("file")
def test_a_loop_of_symlinks_is_one_line(
    env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / ".hermes").mkdir()
    (home / ".hermes" / "config.yaml").symlink_to("config.yaml")
    assert main([], env | {"HERMES_PROVE": "false"}) == 1
    assert capsys.readouterr().err.startswith("Hermes setup failed: ")


@pytest.mark.fault("file")
def test_a_config_that_cannot_be_written_is_one_line(
    env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / ".hermes" / "config.yaml").mkdir(parents=True)
    assert main([], env | {"HERMES_PROVE": "false"}) == 1
    assert capsys.readouterr().err.startswith("Hermes setup failed: ")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "found by a parent process"),
        (
            {"_GATEWAY_RESOLVED": None, "DATABRICKS_GATEWAY_HOST": AZURE_GATEWAY},
            "from DATABRICKS_GATEWAY_HOST, not probed",
        ),
        ({"_GATEWAY_RESOLVED": None}, "derived from DATABRICKS_HOST; it answered"),
        (
            {"_GATEWAY_RESOLVED": None, "DATABRICKS_WORKSPACE_ID": ID},
            "derived from DATABRICKS_WORKSPACE_ID; it answered",
        ),
    ],
)
@responses.activate
def test_the_gateways_line_says_where_it_is_from(
    more: dict[str, str | None], said: str, env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    responses.get(AZURE_GATEWAY, status=404)
    given = {k: v for k, v in {**env, "HERMES_PROVE": "false", **more}.items() if v is not None}
    assert main([], given) == 0
    assert f"Gateway:   {AZURE_GATEWAY} ({said})\n" in capsys.readouterr().out
