"""hermes/settings.py: what is taken and what is refused."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

import pytest
import responses

from hermes import login
from hermes.config import refresh_token
from hermes.login import load_settings, sdk_config
from hermes.settings import read_flag, read_home
from hermes.urls import SettingError
from setup_hermes import main
from tests.hosts import AWS, AWS_GATEWAY, AZURE, AZURE_GATEWAY, BAD_URLS, ID
from tests.mocked import HOST, TOKEN, config_of

BAD_SETTINGS = [
    # What no URL is: tests/test_utils.py.
    *({"DATABRICKS_HOST": url} for url in BAD_URLS[:7]),
    {"DATABRICKS_GATEWAY_HOST": "https://user:secret@host.example"},
    {"DATABRICKS_GATEWAY_HOST": "http://host.example"},
    {"_GATEWAY_RESOLVED": "http://gateway.example"},
    {"DATABRICKS_WORKSPACE_ID": "12a"},
    {"DATABRICKS_WORKSPACE_ID": "1.evil.example/"},
    {"DATABRICKS_WORKSPACE_ID": "1" * 21},
    {"DATABRICKS_WORKSPACE_ID": "١٢"},
    {"DATABRICKS_HOST": ""},
    {"DATABRICKS_TOKEN": "dapi0 two words"},
    {"DATABRICKS_TOKEN": "new\nline"},
    {"DATABRICKS_TOKEN": "tökén"},
    *(
        {"HERMES_MODEL": name}
        for name in ("two words", "one\nline", "a\u2028b", "tab\tbed", "é\x00")
    ),
    {"HERMES_FALLBACK_MODEL": "two words"},
    {"DATABRICKS_TOKEN": '"dapi0123456789abcdef"'},
    {"DATABRICKS_TOKEN": "'dapi0123456789abcdef'"},
    {"_GATEWAY_RESOLVED": AWS_GATEWAY},
    {"_GATEWAY_RESOLVED": "https://gateway.example"},
    {
        "_GATEWAY_RESOLVED": "https://gateway.example",
        "DATABRICKS_HOST": "https://workspace.corp.example",
    },
    {"ENABLE_HERMES": "flase"},
    {"HERMES_PROVE": "maybe"},
    {"HERMES_PIP_URL": "--index-url=https://evil.example"},
    {"HERMES_PIP_URL": "https://user:secret@mirror.example/hermes.whl"},
    {"TEAM_MEMORY_MCP_URL": "not a url"},
    {"EXA_MCP_URL": "http://exa.example"},
    {"EXA_MCP_URL": "htps://exa.example/mcp?exaApiKey=secret"},
    {"EXA_MCP_URL": "https://exa.example:port/mcp?exaApiKey=secret"},
    {"DATABRICKS_TOKEN": "https://dapi0.example"},
    {"HERMES_MODEL": "dapi0123456789abcdef"},
    {"HERMES_FALLBACK_MODEL": "dapi0123456789abcdef"},
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
    assert not [word for word in ("secret", TOKEN, "dapi0", "tökén") if word in output.err]
    assert sorted(home.rglob("*")) == before
    assert len(responses.calls) == 0


@pytest.mark.fault("read-only HOME")
@pytest.mark.parametrize("folder", ["/proc", "/sys", "/dev/null"])
def test_a_home_that_cannot_be_written(
    folder: str, env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([], env | {"HOME": folder}) == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert output.err.startswith(f"HOME: '{folder}' cannot be written (")


@pytest.mark.fault("oversized values")
@pytest.mark.parametrize(
    "name",
    [
        "DATABRICKS_HOST",
        "DATABRICKS_GATEWAY_HOST",
        "DATABRICKS_WORKSPACE_ID",
        "HOME",
        "ENABLE_HERMES",
    ],
)
def test_an_oversized_setting_is_one_short_line(
    name: str, env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([], env | {name: "9" * 100_000}) == 2
    assert len(capsys.readouterr().err) < 300
    assert not (home / ".hermes").exists()


@pytest.mark.fault("oversized values", 3)
def test_oversized_values_arrive_whole(env: dict[str, str], home: Path) -> None:
    token, model, fallback = (letter * 10_000 for letter in "tmf")
    more = {"DATABRICKS_TOKEN": token, "HERMES_MODEL": model, "HERMES_FALLBACK_MODEL": fallback}
    assert main([], env | more | {"HERMES_PROVE": "false"}) == 0
    config = config_of(home)
    assert (config["model"]["api_key"], config["model"]["default"]) == (token, model)
    assert fallback in [entry["model"] for entry in config["fallback_providers"]]
    assert refresh_token(home / ".hermes" / "config.yaml", "y" * 10_000)
    assert config_of(home)["model"]["api_key"] == "y" * 10_000


@pytest.mark.parametrize(
    "word", ["false", "0", "no", "off", " OFF ", "", "true", "1", "yes", "on", " On "]
)
def test_a_switch_takes_the_words_that_people_use(word: str) -> None:
    assert read_flag({"ENABLE_HERMES": word}, "ENABLE_HERMES") == (
        word.strip().lower() not in ("false", "0", "no", "off")
    )


@pytest.mark.parametrize("name", ["HOME unset", "/", ""])
def test_a_home_that_is_not_set_is_the_apps(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda self: False)
    account = pwd.struct_passwd(("me", "x", 1, 1, "", str(tmp_path), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: account)
    assert read_home({} if name == "HOME unset" else {"HOME": name}) == tmp_path


def test_an_account_that_nobody_knows_has_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with a number for its user."""
    monkeypatch.setattr(Path, "is_dir", lambda self: False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(SettingError, match=r"HOME: '\.' cannot be written"):
        read_home({})


@pytest.mark.parametrize(
    "resolved", [f"{AZURE_GATEWAY}/openai\n", f" {AZURE_GATEWAY.removeprefix('https://')}/"]
)
def test_a_parents_gateway_is_cut_back_to_its_base(resolved: str, env: dict[str, str]) -> None:
    assert load_settings(env | {"_GATEWAY_RESOLVED": resolved}).gateway == AZURE_GATEWAY


def test_settings_are_trimmed(env: dict[str, str]) -> None:
    more = {
        "DATABRICKS_TOKEN": f" {TOKEN}\n",
        "DATABRICKS_HOST": f" {AZURE.upper()}/?o=1 ",
        "HERMES_MODEL": " m\n",
    }
    settings = load_settings(env | more)
    assert (settings.token, settings.host, settings.model) == (TOKEN, HOST, "m")
    assert TOKEN not in repr(settings)


def test_a_model_name_arrives_as_it_is(env: dict[str, str], home: Path) -> None:
    """For each name that YAML would take for something else: test_config.py."""
    name = "it's:a#\"{null}"
    assert main([], env | {"HERMES_MODEL": name, "HERMES_PROVE": "false"}) == 0
    assert config_of(home)["model"]["default"] == name
    assert config_of(home)["fallback_providers"][0]["model"] == name


def test_a_gateway_of_the_same_cloud_or_a_given_one_is_taken(env: dict[str, str]) -> None:
    elsewhere = "https://gateway.example"
    for more, gateway in (
        (
            {"_GATEWAY_RESOLVED": "https://9.3.ai-gateway.azuredatabricks.net"},
            "https://9.3.ai-gateway.azuredatabricks.net",
        ),
        ({"_GATEWAY_RESOLVED": f"{HOST}/ai-gateway"}, f"{HOST}/ai-gateway"),
        (
            {"_GATEWAY_RESOLVED": elsewhere, "DATABRICKS_GATEWAY_HOST": f"{elsewhere}/openai"},
            elsewhere,
        ),
        ({"_GATEWAY_RESOLVED": "", "DATABRICKS_GATEWAY_HOST": elsewhere}, ""),
    ):
        assert load_settings(env | more).gateway == gateway


@pytest.mark.parametrize(
    "url", ["https://memory.example", "https://memory.example/", "https://memory.example/mcp/"]
)
def test_team_memory_ends_in_mcp_once(url: str, env: dict[str, str]) -> None:
    assert (
        load_settings(env | {"TEAM_MEMORY_MCP_URL": url}).mcp_servers["team-memory"]
        == "https://memory.example/mcp"
    )


# --- Profiles ---------------------------------------------------------------------------------------------------------


PROFILES = f"""\
[work]
host = {HOST}/
token = dapi-work
[other]
host = https://other.example
token = dapi-other
[odd]
host = not a host
"""


@pytest.fixture
def with_profiles(
    env: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """No host and no token, but profiles."""
    pytest.importorskip("databricks.sdk", reason="databricks-sdk is missing: it reads the profile")
    (home / ".databrickscfg").write_text(PROFILES)
    monkeypatch.setenv("HOME", str(home))
    return {k: v for k, v in env.items() if k not in ("DATABRICKS_HOST", "DATABRICKS_TOKEN")}


@responses.activate
def test_a_chosen_profile_says_where_the_host_is_from(
    with_profiles: dict[str, str], home: Path
) -> None:
    responses.get(f"{HOST}/.well-known/databricks-config", status=404)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABRICKS_CONFIG_PROFILE", "work")
        settings = load_settings(with_profiles | {"DATABRICKS_CONFIG_PROFILE": "work"})
    assert (settings.host, settings.token) == (HOST, "dapi-work")
    assert settings.origin == f"{HOST} is from profile work in {home}/.databrickscfg"


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({}, "DATABRICKS_CONFIG_PROFILE: it is not set; expected"),
        ({"DATABRICKS_CONFIG_PROFILE": "wrok"}, "DATABRICKS_CONFIG_PROFILE: 'wrok' is not in"),
        (
            {"DATABRICKS_CONFIG_PROFILE": "other", "DATABRICKS_HOST": HOST},
            "DATABRICKS_CONFIG_PROFILE: 'other' is of",
        ),
    ],
)
def test_a_profile_that_will_not_do_is_one_line_and_exit_2(
    chosen: dict[str, str],
    said: str,
    with_profiles: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--check"], with_profiles | chosen) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(said)
    assert output.err.count("\n") == 1
    assert "dapi-" not in output.err
    if "HOST" not in str(chosen):
        assert "work, other, odd" in output.err


@responses.activate
def test_the_given_host_wins_over_a_profiles(with_profiles: dict[str, str]) -> None:
    responses.get(f"{HOST}/.well-known/databricks-config", status=404)
    env = with_profiles | {"DATABRICKS_HOST": HOST}
    settings = load_settings(env)
    assert (settings.host, settings.token, settings.origin) == (HOST, "dapi-work", "")


@responses.activate
def test_a_profile_without_a_host_is_of_any_workspace(
    with_profiles: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    responses.get(f"{HOST}/.well-known/databricks-config", status=404)
    (home / ".databrickscfg").write_text("[bare]\ntoken = dapi-bare\n")
    chosen = {"DATABRICKS_CONFIG_PROFILE": "bare", "DATABRICKS_HOST": HOST}
    assert load_settings(with_profiles | chosen).token == "dapi-bare"


@pytest.mark.parametrize(
    "text", ["token = dapi-work", "[DEFAULT]\nhost = https://x.example\ndapi-work"]
)
@responses.activate
def test_profiles_that_cannot_be_read_are_one_line_and_nobody_elses_matter(
    text: str, with_profiles: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parser's own errors quote the line, with the token in it."""
    responses.get(f"{HOST}/.well-known/databricks-config", status=404)
    (home / ".databrickscfg").write_text(text)
    assert main([], with_profiles) == 2
    expected = f"DATABRICKS_CONFIG_FILE: {home}/.databrickscfg cannot be read; expected [profile] sections with host and token"
    assert capsys.readouterr() == ("", f"{expected}\n")
    with pytest.MonkeyPatch.context() as patch:
        given = {"DATABRICKS_HOST": HOST, "DATABRICKS_TOKEN": TOKEN}
        for name, value in given.items():
            patch.setenv(name, value)
        assert sdk_config(with_profiles | given, home, timeout=5).authenticate() == {
            "Authorization": f"Bearer {TOKEN}"
        }


def test_a_pipe_in_place_of_the_profiles_is_not_waited_for(
    with_profiles: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / ".databrickscfg").unlink()
    os.mkfifo(home / ".databrickscfg")
    assert main([], with_profiles) == 2
    assert ".databrickscfg cannot be read; expected" in capsys.readouterr().err
    given = with_profiles | {"DATABRICKS_HOST": HOST, "DATABRICKS_TOKEN": TOKEN}
    assert load_settings(given).token == TOKEN


def test_the_apps_own_login_takes_nothing_from_a_profile(
    with_profiles: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal may write one, with settings for the SDK beside the host."""
    given = dict[str, object]()
    monkeypatch.setattr("databricks.sdk.core.Config", lambda **options: given.update(options))
    sdk_config(
        with_profiles | {"DATABRICKS_HOST": HOST, "DATABRICKS_CLIENT_SECRET": "s"}, home, timeout=5
    )
    assert (given["profile"], given["auth_type"]) == (None, "oauth-m2m")


def test_a_credential_that_is_no_bearer_is_no_token(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Basic:
        host, profile = HOST, None

        def authenticate(self) -> dict[str, str]:
            return {"Authorization": "Basic dXNlcjpwYXNz"}

    monkeypatch.setattr(login, "sdk_config", lambda *_, **__: Basic())
    del env["DATABRICKS_TOKEN"]
    assert load_settings(env).token == ""


@responses.activate
def test_the_id_that_was_copied_with_the_host_finds_the_gateway(env: dict[str, str]) -> None:
    del env["_GATEWAY_RESOLVED"]
    responses.get(AWS_GATEWAY, status=404)
    settings = load_settings(env | {"DATABRICKS_HOST": f"https://{AWS}/?o={ID}"})
    assert (settings.host, settings.gateway) == (f"https://{AWS}", AWS_GATEWAY)
    assert len(responses.calls) == 1


@responses.activate
def test_without_a_token_no_gateway_is_asked(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "databricks.sdk.core", None)
    given = {k: v for k, v in env.items() if k not in ("_GATEWAY_RESOLVED", "DATABRICKS_TOKEN")}
    assert load_settings(given).gateway == ""
    assert len(responses.calls) == 0
