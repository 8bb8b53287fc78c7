"""hermes/settings.py: what is taken and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import responses

from hermes import settings as settings_module
from hermes.config import refresh_token
from hermes.settings import read_home, read_settings
from setup_hermes import main
from tests.mocked import (
    HOST,
    TOKEN,
    config_of,
)
from tests.test_utils import AZURE, AZURE_GATEWAY, BAD_URLS

BAD_SETTINGS = [
    *({"DATABRICKS_HOST": url} for url in BAD_URLS),
    *({"DATABRICKS_GATEWAY_HOST": url} for url in BAD_URLS[:12]),
    {"_GATEWAY_RESOLVED": "http://gateway.example"},
    {"DATABRICKS_WORKSPACE_ID": "12a"},
    {"DATABRICKS_WORKSPACE_ID": "1.evil.example/"},
    {"DATABRICKS_WORKSPACE_ID": "1" * 21},
    {"DATABRICKS_WORKSPACE_ID": "١٢"},
    {"DATABRICKS_HOST": ""},
    {"DATABRICKS_TOKEN": "two words"},
    {"DATABRICKS_TOKEN": "new\nline"},
    {"DATABRICKS_TOKEN": "tökén"},
    {"ENABLE_HERMES": "flase"},
    {"HERMES_PROVE": "maybe"},
    {"HERMES_PIP_URL": "--index-url=https://evil.example"},
    {"HERMES_PIP_URL": "https://user:secret@mirror.example/hermes.whl"},
    {"TEAM_MEMORY_MCP_URL": "not a url"},
    {"EXA_MCP_URL": "http://exa.example"},
    {"HOME": "/no/such/folder"},
    {"HOME": "relative"},
]


@pytest.mark.fault("hostile settings")
@pytest.mark.parametrize("bad", BAD_SETTINGS, ids=str)
@responses.activate
def test_bad_input_is_one_line_and_exit_2(
    bad: dict[str, str], env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "DATABRICKS_GATEWAY_HOST" in bad:
        del env["_GATEWAY_RESOLVED"]
    before = sorted(home.rglob("*"))
    assert main([], env | bad) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith(next(iter(bad)))
    assert "expected" in output.err
    assert not [word for word in ("secret", TOKEN, "dapi0", "two words", "tökén") if word in output.err]
    assert sorted(home.rglob("*")) == before
    assert len(responses.calls) == 0


@pytest.mark.fault("read-only HOME")
@pytest.mark.parametrize("folder", ["/proc", "/sys", "/dev/null"])
def test_a_home_that_cannot_be_written(folder: str, env: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], env | {"HOME": folder}) == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert output.err.startswith(f"HOME: '{folder}' cannot be written (")


@pytest.mark.fault("oversized values")
@pytest.mark.parametrize(
    "name", ["DATABRICKS_HOST", "DATABRICKS_GATEWAY_HOST", "DATABRICKS_WORKSPACE_ID", "HOME", "ENABLE_HERMES"]
)
def test_an_oversized_setting_is_one_short_line(
    name: str, env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([], env | {name: "9" * 100_000}) == 2
    assert len(capsys.readouterr().err) < 300
    assert not (home / ".hermes").exists()


@pytest.mark.fault("oversized values")
@pytest.mark.parametrize("name", ["DATABRICKS_TOKEN", "HERMES_MODEL", "HERMES_FALLBACK_MODEL"])
def test_an_oversized_value_arrives_whole(name: str, env: dict[str, str], home: Path) -> None:
    assert main([], env | {name: "x" * 100_000, "HERMES_PROVE": "false"}) == 0
    assert "x" * 100_000 in str(config_of(home))
    assert refresh_token(home / ".hermes" / "config.yaml", "y" * 100_000)
    assert config_of(home)["model"]["api_key"] == "y" * 100_000


def test_there_are_enough_bad_settings() -> None:
    assert len(BAD_SETTINGS) >= 40


@pytest.mark.parametrize("name", ["HOME unset", "/", ""])
def test_a_home_that_is_not_set_is_the_apps(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda self: False)
    monkeypatch.setattr(settings_module, "_account_home", lambda: tmp_path)
    assert read_home({} if name == "HOME unset" else {"HOME": name}) == tmp_path


@pytest.mark.parametrize("resolved", [f"{AZURE_GATEWAY}/openai\n", f" {AZURE_GATEWAY.removeprefix('https://')}/"])
def test_a_parents_gateway_is_cut_back_to_its_base(resolved: str, env: dict[str, str]) -> None:
    assert read_settings(env | {"_GATEWAY_RESOLVED": resolved}).gateway == AZURE_GATEWAY


def test_settings_are_trimmed(env: dict[str, str]) -> None:
    more = {"DATABRICKS_TOKEN": f" {TOKEN}\n", "DATABRICKS_HOST": f" {AZURE.upper()}/?o=1 ", "HERMES_MODEL": " m\n"}
    settings = read_settings(env | more)
    assert (settings.token, settings.host, settings.model) == (TOKEN, HOST, "m")
    assert TOKEN not in repr(settings)


@pytest.mark.fault("hostile YAML")
@pytest.mark.parametrize(
    "name",
    [
        "a: b # c",
        "- x",
        "null",
        "1e5",
        "'",
        '"',
        "it's",
        "{}",
        "[x]",
        "*a",
        "&a",
        "!x",
        "%",
        "@",
        "`",
        "true",
        "é\u2028x",
        "x" * 5000,
    ],
)
@responses.activate
def test_any_model_name_survives_yaml(name: str, env: dict[str, str], home: Path) -> None:
    assert main([], env | {"HERMES_MODEL": name, "HERMES_PROVE": "false"}) == 0
    assert config_of(home)["model"]["default"] == name
    assert config_of(home)["fallback_providers"][0]["model"] == name
