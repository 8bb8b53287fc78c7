"""setup_hermes.py: its decisions, with HTTP mocked."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
import yaml

import setup_hermes
from setup_hermes import (
    Routes,
    Settings,
    _parse_config,
    _render,
    main,
    merge_config,
    read_settings,
    refresh_token,
    write_config,
)
from tests.test_utils import AZURE, AZURE_GATEWAY, BAD_URLS, ID

HOST, TOKEN = f"https://{AZURE}", "dapi0123456789abcdef"
OPENAI, MLFLOW = f"{AZURE_GATEWAY}/openai", f"{AZURE_GATEWAY}/mlflow/v1"
OWN, DIRECT = f"{HOST}/ai-gateway/mlflow/v1", f"{HOST}/serving-endpoints"
ROUTES = [OPENAI, MLFLOW, OWN, DIRECT]
OPUS_4_7, OPUS_4_6 = "databricks-claude-opus-4-7", "databricks-claude-opus-4-6"
NOT_FOUND = (404, {"error_code": "ENDPOINT_NOT_FOUND", "message": "The given endpoint does not exist."})
FORBIDDEN = (403, {"error_code": "403", "message": "Invalid access token."})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home in which a program called hermes is there, so that nothing is installed."""
    binary = tmp_path / "home" / ".local" / "bin" / "hermes"
    binary.parent.mkdir(parents=True)
    binary.touch(mode=0o755)
    return tmp_path / "home"


@pytest.fixture
def env(home: Path) -> dict[str, str]:
    given = {"HOME": str(home), "DATABRICKS_HOST": HOST, "DATABRICKS_TOKEN": TOKEN, "DEEPWIKI_MCP_URL": "", "EXA_MCP_URL": ""}
    return {**given, "_GATEWAY_RESOLVED": AZURE_GATEWAY, "PATH": os.environ["PATH"]}


def config_of(home: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((home / ".hermes" / "config.yaml").read_text())
    return loaded


def serve(*served: tuple[str, str], otherwise: tuple[int, object] = NOT_FOUND) -> None:
    """Mock all four routes: these (base URL, model) pairs are served."""

    def answer(request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        body = yaml.safe_load(request.body or "")
        assert body["max_tokens"] == 1
        base_url = str(request.url).removesuffix("/chat/completions")
        status, text = (200, {"choices": []}) if (base_url, body["model"]) in served else otherwise
        return status, {}, json.dumps(text)

    for url in ROUTES:
        responses.add_callback("POST", f"{url}/chat/completions", callback=answer)
    listed = [
        {"name": OPUS_4_6, "task": "llm/v1/chat", "state": {"ready": "READY"}},
        {"name": "not-chat", "task": "llm/v1/embeddings"},
    ]
    responses.get(f"{HOST}/api/2.0/serving-endpoints", json={"endpoints": listed})


# --- Routes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("served", "primary", "fallback", "direct", "asked"),
    [
        ([(OPENAI, OPUS_4_7), (OPENAI, OPUS_4_6), (DIRECT, OPUS_4_6)], OPENAI, OPENAI, True, 3),
        ([(OPENAI, OPUS_4_7), (OPENAI, OPUS_4_6)], OPENAI, OPENAI, False, 3),
        ([(OPENAI, OPUS_4_7), (DIRECT, OPUS_4_6)], OPENAI, DIRECT, True, 5),
        ([(MLFLOW, OPUS_4_7), (MLFLOW, OPUS_4_6), (DIRECT, OPUS_4_6)], MLFLOW, MLFLOW, True, 4),
        ([(OWN, OPUS_4_7), (OWN, OPUS_4_6)], OWN, OWN, False, 5),
        ([(DIRECT, OPUS_4_7), (DIRECT, OPUS_4_6)], DIRECT, DIRECT, True, 5),
        ([(OPENAI, OPUS_4_7), (MLFLOW, OPUS_4_6)], OPENAI, MLFLOW, False, 4),
        ([(OPENAI, OPUS_4_6), (DIRECT, OPUS_4_6)], OPENAI, OPENAI, True, 7),
        ([], OPENAI, OPENAI, False, 9),
    ],
)
@responses.activate
def test_the_first_route_that_answers_is_written(
    served: list[tuple[str, str]], primary: str, fallback: str, direct: bool, asked: int, env: dict[str, str], home: Path
) -> None:
    serve(*served)
    assert main([], env) == 0
    config = config_of(home)
    assert config["model"] == {"default": OPUS_4_7, "provider": "custom", "base_url": primary, "api_key": TOKEN}
    urls = {f"custom:{p['name']}": p["base_url"] for p in config["custom_providers"]}
    chain = [(urls[e["provider"]], e["model"]) for e in config["fallback_providers"]]
    assert chain == list(dict.fromkeys([(primary, OPUS_4_7), (fallback, OPUS_4_6), *([(DIRECT, OPUS_4_6)] if direct else [])]))
    assert all(p["api_key"] == TOKEN for p in config["custom_providers"])
    assert all(e.keys() == {"provider", "model"} for e in config["fallback_providers"])
    assert len(responses.calls) == asked


@responses.activate
def test_without_a_gateway_everything_is_direct(env: dict[str, str], home: Path) -> None:
    serve((DIRECT, OPUS_4_6))
    assert main([], env | {"_GATEWAY_RESOLVED": "", "HERMES_MODEL": OPUS_4_6}) == 0
    config = config_of(home)
    assert config["model"]["base_url"] == DIRECT
    assert [p["name"] for p in config["custom_providers"]] == ["databricks-direct"]
    assert config["fallback_providers"] == [{"provider": "custom:databricks-direct", "model": OPUS_4_6}]


@pytest.mark.parametrize(("gateway", "expected"), [(AZURE_GATEWAY, OPENAI), ("", DIRECT)])
@responses.activate
def test_unasked_the_default_is_written(gateway: str, expected: str, env: dict[str, str], home: Path) -> None:
    assert main([], env | {"HERMES_PROVE": "false", "_GATEWAY_RESOLVED": gateway}) == 0
    assert config_of(home)["model"]["base_url"] == expected
    assert len(responses.calls) == 0


@pytest.mark.fault("gateway")
@pytest.mark.parametrize(
    ("status", "body", "meaning", "serves"),
    [
        (200, '{"choices": []}', "serves the model", True),
        (200, "<html>log in", "<html>log in", None),
        (200, '{"error_code": "NOPE", "message": "no"}', "no", None),
        (400, f"you sent Bearer {TOKEN} \x1b[31m", "you sent Bearer *** [31m", None),
        (400, "x" * 110 + TOKEN, "x" * 110 + "***", None),
        (429, '{"error_code": "REQUEST_LIMIT_EXCEEDED"}', "serves the model (busy now: rate limited)", True),
        (404, '{"error_code": "ENDPOINT_NOT_FOUND"}', "not served here", False),
        (404, "<html>", "not served here", False),
        (404, '{"error_code": "FEATURE_DISABLED", "message": "no"}', "AI Gateway is not enabled for this workspace", False),
        (400, '{"error_code": "FEATURE_DISABLED", "message": "no"}', "AI Gateway is not enabled for this workspace", False),
        (401, "", "token rejected or not permitted", None),
        (403, "{}", "token rejected or not permitted", None),
        (400, '{"message": "max_tokens is\\nnot supported"}', "max_tokens is not supported", None),
        (400, '{"error": {"message": "nested"}}', "nested", None),
        (500, '{"error": "text"}', "text", None),
        (500, "[1, 2]", "[1, 2]", None),
        (503, "", "no message", None),
        (302, "", "no message", None),
        (500, "x" * 5000, "x" * 120, None),
    ],
)
@responses.activate
def test_what_an_answer_means(status: int, body: str, meaning: str, serves: bool | None) -> None:
    responses.post(f"{OPENAI}/chat/completions", body=body, status=status, headers={"Location": "https://login.example"})
    prover = setup_hermes.Prover(TOKEN)
    assert prover.serves(OPENAI, OPUS_4_7) is serves
    assert prover.answers == [setup_hermes.Answer(OPUS_4_7, OPENAI, f"HTTP {status}", meaning, serves)]
    assert len(responses.calls) == 1


@pytest.mark.fault("network")
@responses.activate
def test_a_dead_host_is_not_asked_twice(env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serve((OWN, OPUS_4_7), (OWN, OPUS_4_6))
    responses.replace("POST", f"{OPENAI}/chat/completions", body=requests.ConnectTimeout("..."))
    assert main([], env) == 0
    asked = [str(call.request.url) for call in responses.calls]
    assert sum(AZURE_GATEWAY in url for url in asked) == 1
    assert config_of(home)["model"]["base_url"] == OWN


@pytest.mark.fault("token")
@pytest.mark.parametrize(
    ("otherwise", "said"),
    [
        (NOT_FOUND, f"This workspace serves {OPUS_4_6}: set HERMES_MODEL to one of them."),
        (FORBIDDEN, "check DATABRICKS_TOKEN"),
    ],
)
@responses.activate
def test_nothing_proved_is_said_and_the_default_stays(
    otherwise: tuple[int, object], said: str, env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(otherwise=otherwise)
    assert main([], env) == 0
    output = capsys.readouterr()
    assert said in output.err
    assert all(f"{name}: " in output.err for name in ("gateway", "workspace"))
    for route in ("gateway /openai", "gateway /mlflow/v1", "workspace /ai-gateway/mlflow/v1", "workspace /serving-endpoints"):
        assert f"{OPUS_4_7}  {route} " in output.err
    assert "NOT PROVED" in output.out
    assert config_of(home)["model"]["base_url"] == OPENAI
    assert TOKEN not in output.out + output.err


ODD = (400, {"message": "max_tokens is not supported"})


@pytest.mark.parametrize(
    ("otherwise", "said"),
    [
        (ODD, f"No route gave {OPUS_4_7} a clear yes"),
        (requests.ConnectTimeout("..."), "Nothing answered (timed out): check DATABRICKS_HOST"),
        (
            OSError("Could not find a suitable TLS CA certificate bundle"),
            "Nothing answered (connection: Could not find a suitable TLS",
        ),
    ],
)
@responses.activate
def test_check_says_what_to_do(
    otherwise: tuple[int, object] | Exception, said: str, env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    if isinstance(otherwise, tuple):
        serve(otherwise=otherwise)
    else:
        for url in ROUTES:
            responses.post(f"{url}/chat/completions", body=otherwise)
    assert main(["--check"], env) == 1
    assert said in capsys.readouterr().out.splitlines()[-1]


@responses.activate
def test_only_chat_models_that_are_ready_are_named() -> None:
    ready, model = {"ready": "READY"}, "llm/v1/chat"
    listed = [
        {"name": "b", "task": model, "state": ready},
        {"name": "starting", "task": model, "state": {"ready": "NOT_READY"}},
        {"name": "embeds", "task": "llm/v1/embeddings", "state": ready},
        {"name": "a", "task": model, "state": ready},
    ]
    responses.get(f"{HOST}/api/2.0/serving-endpoints", json={"endpoints": listed})
    assert setup_hermes.Prover(TOKEN).chat_models(HOST) == ["a", "b"]
    sent = responses.calls[0].request
    assert sent.headers["Authorization"] == f"Bearer {TOKEN}"
    assert sent.req_kwargs["timeout"] == (2.0, 20.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("odd", ["[]", "{}", '{"endpoints": [1]}', '{"endpoints": [{"task": "llm/v1/chat"}]}', "<html>"])
@responses.activate
def test_a_list_of_models_that_cannot_be_read_is_empty(odd: str) -> None:
    responses.get(f"{HOST}/api/2.0/serving-endpoints", body=odd)
    assert setup_hermes.Prover(TOKEN).chat_models(HOST) == []


@pytest.mark.fault("token")
@responses.activate
def test_netrc_does_not_replace_the_token(env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text(f"machine {AZURE} login token password other\nmachine {ID} login a password b")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    serve((DIRECT, OPUS_4_7))
    assert main([], env) == 0
    assert all(call.request.headers["Authorization"] == f"Bearer {TOKEN}" for call in responses.calls)


@pytest.mark.parametrize(
    ("served", "env_more", "code", "last"),
    [
        ([(MLFLOW, OPUS_4_7)], {}, 0, f"OK: {OPUS_4_7} answers on {MLFLOW}."),
        ([], {}, 1, "Not served: "),
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


# --- Config -----------------------------------------------------------------------------------------------------------


def settings_for(home: Path, **more: Any) -> Settings:
    base = Settings(
        home=home,
        host=HOST,
        token=TOKEN,
        gateway=AZURE_GATEWAY,
        model=OPUS_4_7,
        fallback_model=OPUS_4_6,
        prove=True,
        package="hermes-agent",
        mcp_servers={},
    )
    return replace(base, **more)


DESIGN = f"""\
model:
  default: {OPUS_4_7}
  provider: custom
  base_url: {OPENAI}
  api_key: {TOKEN}
custom_providers:
- name: databricks-gateway
  base_url: {OPENAI}
  api_key: {TOKEN}
- name: databricks-direct
  base_url: {DIRECT}
  api_key: {TOKEN}
fallback_providers:
- provider: custom:databricks-gateway
  model: {OPUS_4_7}
- provider: custom:databricks-gateway
  model: {OPUS_4_6}
- provider: custom:databricks-direct
  model: {OPUS_4_6}
security:
  allow_lazy_installs: false
  tirith_path: ~/.local/bin/tirith
"""


def test_the_config_is_the_designs(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    assert write_config(path, settings_for(tmp_path), Routes(OPENAI, OPENAI)) == "written"
    assert path.read_text() == DESIGN
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    stamp = path.stat().st_mtime_ns
    assert write_config(path, settings_for(tmp_path), Routes(OPENAI, OPENAI)) == "unchanged"
    assert path.stat().st_mtime_ns == stamp
    assert sorted(p.name for p in path.parent.iterdir()) == [".config.yaml.setup", "config.yaml"]
    assert {stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()} == {0o600}


USERS = f"""\
# my Hermes
memory: {{enabled: true}}  # keep

# mine
custom_providers:
- name: mine   # inside what changes
  base_url: https://mine.example
  api_key: my-key
fallback_providers:
- provider: custom:mine
  model: my-model
- provider: custom
  model: {OPUS_4_6}
  base_url: {DIRECT}
  api_key: stale
- provider: custom
  model: my-finetune
  base_url: {DIRECT}
  api_key: mine-too
model:
  default: gpt
  provider: openai
  api_mode: codex_responses
  temperature: 0.5
security:
  allow_lazy_installs: true
  other: 1
skills:
  external_dirs: [/my/skills]
mcp_servers:
  exa:
    url: https://my.exa.example
  deepwiki:
    url: https://mcp.deepwiki.com/mcp
# the end
"""


def test_the_users_own_stays(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(USERS)
    (tmp_path / ".claude" / "skills").mkdir(parents=True)
    servers = {"deepwiki": "", "exa": "https://mcp.exa.ai/mcp", "team-memory": "https://memory.example/mcp"}
    said = write_config(path, settings_for(tmp_path, mcp_servers=servers), Routes(OPENAI, OPENAI))
    text, config, old = path.read_text(), yaml.safe_load(path.read_text()), yaml.safe_load(USERS)
    assert text.startswith("# my Hermes\nmemory: {enabled: true}  # keep\n\n# mine\n")
    assert text.endswith("# the end\n")
    assert list(config) == list(old)
    assert [p["name"] for p in config["custom_providers"]] == ["mine", "databricks-gateway", "databricks-direct"]
    assert config["custom_providers"][0] == old["custom_providers"][0]
    assert config["fallback_providers"][3:] == [old["fallback_providers"][0], old["fallback_providers"][2]]
    assert config["model"]["temperature"] == 0.5
    assert "api_mode" not in config["model"]
    assert config["security"] == {"allow_lazy_installs": True, "other": 1, "tirith_path": "~/.local/bin/tirith"}
    assert config["skills"] == {"external_dirs": ["/my/skills"]}
    assert config["mcp_servers"] == {
        "exa": {"url": "https://my.exa.example"},
        "team-memory": {"url": "https://memory.example/mcp"},
    }
    (backup,) = tmp_path.glob("*.bak")
    assert backup.read_text() == USERS
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert backup.name in said
    write_config(path, settings_for(tmp_path, model="other", mcp_servers=servers), Routes(MLFLOW, MLFLOW))
    assert len(list(tmp_path.glob("*.bak"))) == 1
    assert config_without_ours(yaml.safe_load(path.read_text())) == config_without_ours(config)


def config_without_ours(config: dict[str, Any]) -> dict[str, Any]:
    rest = {k: v for k, v in config.items() if k != "model"}
    rest["custom_providers"] = [p for p in config["custom_providers"] if p["name"] not in setup_hermes.OURS]
    ours = {f"custom:{name}" for name in setup_hermes.OURS}
    rest["fallback_providers"] = [e for e in config["fallback_providers"] if e["provider"] not in ours]
    return rest


def chain_of(path: Path) -> list[tuple[str, str]]:
    return [(e["provider"], e["model"]) for e in yaml.safe_load(path.read_text())["fallback_providers"]]


def test_a_users_entry_on_our_provider_stays_and_ours_does_not_pile_up(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    one = settings_for(tmp_path, fallback_model=OPUS_4_7)
    write_config(path, one, Routes(OPENAI, OPENAI, direct=False))
    assert chain_of(path) == [("custom:databricks-gateway", OPUS_4_7)]
    mine = [("custom:databricks-gateway", "haiku"), ("custom:databricks-direct", "my-finetune"), ("custom", OPUS_4_6)]
    config = yaml.safe_load(path.read_text())
    config["fallback_providers"] += [{"provider": provider, "model": model} for provider, model in mine]
    config["fallback_providers"][-1] |= {"base_url": DIRECT, "key_env": "MY_KEY"}
    config["custom_providers"].append({"name": "databricks-direct", "base_url": DIRECT, "api_key": "old"})
    path.write_text(setup_hermes.dump(config))
    for settings, routes in [
        (one, Routes(OPENAI, OPENAI, direct=False)),
        (settings_for(tmp_path), Routes(OPENAI, MLFLOW)),
        (settings_for(tmp_path, model="m", fallback_model="f", token="new", gateway=""), Routes(DIRECT, DIRECT, direct=False)),
    ]:
        write_config(path, settings, routes)
        ours = chain_of(path)[:-3]
        assert chain_of(path)[-3:] == mine
        assert ours == [(e["provider"], e["model"]) for e in setup_hermes._ours(settings, routes)[1]]
        named = {e["name"]: e["api_key"] for e in yaml.safe_load(path.read_text())["custom_providers"]}
        assert named.keys() >= {"databricks-gateway", "databricks-direct"}
        assert set(named.values()) == {settings.token}
    assert list(tmp_path.glob("*.bak")) == []


def test_a_users_provider_of_our_name_is_backed_up(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("custom_providers:\n- name: databricks-gateway\n  base_url: https://mine.example\n  api_key: my-key\n")
    write_config(path, settings_for(tmp_path), Routes(OPENAI, OPENAI))
    (backup,) = tmp_path.glob("*.bak")
    assert "my-key" in backup.read_text()


def test_a_users_own_endpoint_on_this_machine_stays(tmp_path: Path) -> None:
    mine = {"provider": "custom", "model": OPUS_4_6, "base_url": "http://127.0.0.1:11434/v1", "api_key": "ollama"}
    settings = settings_for(tmp_path, host="http://127.0.0.1:8080", gateway="")
    config = merge_config({"fallback_providers": [mine]}, settings, Routes("http://127.0.0.1:8080/serving-endpoints", "x"))
    assert config["fallback_providers"][-1] == mine


def test_a_rotation_keeps_comments_within_our_blocks(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_config(path, settings_for(tmp_path), Routes(OPENAI, OPENAI))
    path.write_text(path.read_text().replace("custom_providers:\n", "custom_providers:\n# mine, within\n"))
    write_config(path, settings_for(tmp_path, token="new"), Routes(OPENAI, OPENAI))
    assert path.read_text() == DESIGN.replace("custom_providers:\n", "custom_providers:\n# mine, within\n").replace(
        TOKEN, "new"
    )


def test_comments_stay_beside_aliases(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("# head\na: &x [1, 2]  # one\nb: *x  # two\n")
    write_config(path, settings_for(tmp_path), Routes(OPENAI, OPENAI))
    assert path.read_text() == "# head\na: &x [1, 2]  # one\nb: *x  # two\n" + DESIGN


@pytest.mark.fault("file")
def test_two_links_to_one_file_share_its_lock(tmp_path: Path) -> None:
    real = tmp_path / "config.yaml"
    write_config(real, settings_for(tmp_path), Routes(OPENAI, OPENAI))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").symlink_to(real)
        assert refresh_token(tmp_path / name / "config.yaml", name)
    assert list(tmp_path.rglob("*.setup")) == [tmp_path / ".config.yaml.setup"]


def test_what_hermes_migrated_is_ours_again(tmp_path: Path) -> None:
    moved = {"providers": {"databricks-gateway": {"api": OPENAI, "api_key": "old"}, "mine": {"api": "https://mine.example"}}}
    config = merge_config(moved, settings_for(tmp_path), Routes(OPENAI, OPENAI))
    assert config["providers"] == {"mine": {"api": "https://mine.example"}}
    assert [p["name"] for p in config["custom_providers"]] == ["databricks-gateway", "databricks-direct"]


@pytest.mark.fault("hostile YAML")
@pytest.mark.parametrize(
    "raw",
    [
        b"model: [unclosed", b"- a\n- list\n", b"just text", b"42", b"\xff\xfe\x00", b"a: b: c", b"\ta: 1", b"a: *nowhere",
        b"model: [1, 2]\n", b"custom_providers: {a: 1}\n", b"fallback_providers: text\n", b"when: 2020-13-45\n",
        b"x: !!python/object:os.system {}\n",
        b"{? [a]: 1, ? {b: c}: 2}", b"a: 1\n---\nb: 2\n", b"[" * 5000, b"x: " + b"9" * 5000,
    ],
)  # fmt: skip
def test_a_file_that_is_no_config_is_kept_aside(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(raw)
    said = write_config(path, settings_for(tmp_path), Routes(OPENAI, OPENAI))
    (kept,) = tmp_path.glob("config.yaml.*.bak")
    assert kept.read_bytes() == raw
    assert kept.name in said
    assert "\n" not in said
    assert yaml.safe_load(path.read_text())["model"]["base_url"] == OPENAI
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


@pytest.mark.fault("file")
@pytest.mark.parametrize("raw", [b"", b"\n", b"# only a comment\n", b"--- {}\n", b"null\n"])
def test_an_empty_config_is_filled(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(raw)
    assert write_config(path, settings_for(tmp_path), Routes(OPENAI, OPENAI)) == "written"
    assert yaml.safe_load(path.read_text())["model"]["base_url"] == OPENAI
    assert path.read_text().startswith("#") == raw.startswith(b"#")


@pytest.mark.fault("hostile YAML")
@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x\nmodel: {default: m}\n",
        "{a: 1, model: {default: m}}\n",
        "---\na: 1\n...\n",
        "a: 1\na: 2\n",
        "a: |\n  text\n  # no comment\nmodel: x",
        "a: .nan\n",
        "? [complex]\n: 1\n",
        "a: 1\r\n# c\r\nmodel: x\r\n# d\r\nb: 2\r\n",
        "\ufeffa: 1\n",
        "'quoted key': 1\n12: x\n",
    ],
)
def test_rendering_means_what_was_merged(text: str, tmp_path: Path) -> None:
    old, problem = _parse_config(text.encode())
    if problem:
        pytest.fail(problem) if "complex" not in text else None
        return
    new = merge_config(old, settings_for(tmp_path), Routes(OPENAI, OPENAI))
    result = _render(text, old, new)
    assert repr(yaml.safe_load(result)) == repr(new)
    for comment in ("# c", "# d"):
        assert (comment in result) == (comment in text)


@pytest.mark.fault("hostile YAML")
@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]\n",
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20)),
        "model: {default: [1], base_url: {}}\nfallback_providers: [{model: [1]}, 3, [], {provider: {}, model: {}}]\n",
        "custom_providers: [{name: [1]}, 3, null]\nmcp_servers: [1]\nsecurity: 5\nproviders: [databricks-gateway]\n",
    ],
    ids=["recursive", "a billion laughs", "odd entries", "odd sections"],
)
def test_a_hostile_config_is_merged_in_time_and_settles(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert "written" in write_config(path, settings_for(tmp_path), Routes(OPENAI, OPENAI))
    assert yaml.safe_load(path.read_text())["model"]["base_url"] == OPENAI
    assert write_config(path, settings_for(tmp_path), Routes(OPENAI, OPENAI)) == "unchanged"
    assert refresh_token(path, "new")
    assert path.read_text().count("new") == 3


@pytest.mark.fault("file")
def test_a_symlink_is_followed(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles" / "hermes.yaml", tmp_path / "config.yaml"
    real.parent.mkdir()
    real.write_text("memory: {}\n")
    link.symlink_to(real)
    write_config(link, settings_for(tmp_path), Routes(OPENAI, OPENAI))
    assert link.is_symlink()
    assert yaml.safe_load(real.read_text())["model"]["base_url"] == OPENAI
    assert refresh_token(link, "new")
    assert link.is_symlink()
    assert real.read_text().count("new") == 3


# --- Rotation ---------------------------------------------------------------------------------------------------------


def test_a_refresh_changes_our_keys_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    mine = "# mine\n- name: mine\n  base_url: https://mine.example\n  api_key: " + TOKEN + "\n"
    path.write_text(DESIGN.replace("custom_providers:\n", f"custom_providers:\n{mine}"))
    before = path.read_text()
    assert refresh_token(path, "new: 'token' #1")
    expected = before.replace(f"api_key: {TOKEN}", "api_key: 'new: ''token'' #1'").replace(
        mine.replace(TOKEN, "'new: ''token'' #1'"), mine
    )
    assert path.read_text() == expected
    assert not refresh_token(path, "new: 'token' #1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_model_that_the_user_took_elsewhere_keeps_its_key(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        DESIGN.replace(
            f"base_url: {OPENAI}\n  api_key: {TOKEN}\ncustom", "base_url: https://mine.example\n  api_key: my-key\ncustom"
        )
    )
    assert refresh_token(path, "new")
    config = yaml.safe_load(path.read_text())
    assert config["model"]["api_key"] == "my-key"
    assert [p["api_key"] for p in config["custom_providers"]] == ["new", "new"]


def test_a_migrated_config_is_refreshed(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    model = {"base_url": OPENAI, "api_key": "old"}
    path.write_text(setup_hermes.dump({"model": model, "providers": {"databricks-gateway": {"api": OPENAI, "api_key": "old"}}}))
    assert refresh_token(path, "new")
    assert path.read_text().count("api_key: new") == 2


@pytest.mark.fault("file")
@pytest.mark.parametrize("text", [None, "", "model: [unclosed", "model: {api_key: mine}\n"])
def test_a_config_that_is_not_ours_is_not_refreshed(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    assert not refresh_token(path, "new")
    assert (path.read_text() if path.exists() else None) == text


class Deep(yaml.SafeDumper):
    """Writes lists as Hermes does."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


INDENTED = yaml.dump(yaml.safe_load(DESIGN), Dumper=Deep, sort_keys=False)


@pytest.mark.parametrize("text", ["", INDENTED, "# mine\n" + INDENTED])
def test_codas_rotator_reaches_every_key_after_a_setup(text: str, tmp_path: Path) -> None:
    """Also where Hermes has written the file since, with its deeper lists."""
    path = tmp_path / "config.yaml"
    write_config(path, settings_for(tmp_path), Routes(OPENAI, OPENAI))
    if text:
        assert "\n    api_key: " in text
        path.write_text(text)
        assert write_config(path, settings_for(tmp_path), Routes(OPENAI, OPENAI)) == "written"
        assert write_config(path, settings_for(tmp_path), Routes(OPENAI, OPENAI)) == "unchanged"
    rotated = re.sub(r"^  api_key: .*$", "  api_key: rotated", path.read_text(), flags=re.MULTILINE)
    assert TOKEN not in rotated
    assert rotated.count("rotated") == 3


@pytest.mark.parametrize(
    "odd",
    [
        f"api_key: &tok {TOKEN}",
        f"api_key: >-\n    {TOKEN}",
        f"api_key: |-\n    {TOKEN}",
        "api_key:",
        f"api_key: !!str {TOKEN}",
        f'"api_key": "{TOKEN}"',
    ],
)
def test_a_refresh_survives_odd_yaml(odd: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    tail = "mine: *tok\n" if "&tok" in odd else "mine: 1\n"
    path.write_text(DESIGN.replace(f"api_key: {TOKEN}", odd, 1) + tail)
    assert refresh_token(path, "new")
    config = yaml.safe_load(path.read_text())
    assert [config["model"]["api_key"], *(e["api_key"] for e in config["custom_providers"])] == ["new"] * 3
    assert {k: v for k, v in config.items() if k != "mine"} == yaml.safe_load(DESIGN.replace(TOKEN, "new"))
    assert not refresh_token(path, "new")


# --- Settings and steps -----------------------------------------------------------------------------------------------

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


@pytest.mark.fault("oversized values")
def test_an_oversized_config_is_merged(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    text = "".join(f"key{n}: {{a: [1, 2, 3], b: text}}  # {n}\n" for n in range(3000))
    path.write_text(text)
    write_config(path, settings_for(tmp_path), Routes(OPENAI, OPENAI))
    assert path.read_text().startswith(text)


def test_there_are_enough_bad_settings() -> None:
    assert len(BAD_SETTINGS) >= 40


@pytest.mark.parametrize("argv", [["--chekc"], ["--check", "more"], ["x\ny"]])
def test_an_unknown_argument(argv: list[str], env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv, env) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (home / ".hermes").exists()


def test_help(env: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"], env) == 0
    assert "--check" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["false", "0", "no", "No", " FALSE "])
def test_turned_off(word: str, env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "databricks.sdk.core", None)
    del env["DATABRICKS_TOKEN"]
    assert main([], env) == 0
    assert "No Databricks token yet" in capsys.readouterr().out
    assert not (home / ".hermes" / "config.yaml").exists()
    assert (home / "projects").is_dir()


@pytest.mark.parametrize("name", ["HOME unset", "/", ""])
def test_a_home_that_is_not_set_is_the_apps(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda self: False)
    monkeypatch.setattr(setup_hermes, "_account_home", lambda: tmp_path)
    assert setup_hermes.read_home({} if name == "HOME unset" else {"HOME": name}) == tmp_path


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


def test_instructions_and_skills_of_coda(
    env: dict[str, str], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "coda"
    checkout.mkdir()
    (checkout / "CLAUDE.md").write_text("# Claude\nrules\n")
    (home / ".claude" / "skills").mkdir(parents=True)
    monkeypatch.setattr(setup_hermes, "__file__", str(checkout / "setup_hermes.py"))
    assert main([], env | {"HERMES_PROVE": "false", "TEAM_MEMORY_MCP_URL": "https://memory.example/"}) == 0
    instructions = home / ".hermes" / "HERMES.md"
    assert instructions.read_text() == "# Hermes Agent on Databricks\nrules\n"
    assert config_of(home)["mcp_servers"] == {"team-memory": {"url": "https://memory.example/mcp"}}
    instructions.write_text("# mine")
    assert main([], env | {"HERMES_PROVE": "false"}) == 0
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


def fake_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "uv").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


@pytest.mark.parametrize("package", ["", "hermes-agent @ https://mirror.example/hermes.whl"])
def test_install(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'echo "$@" > "$HOME/asked"; mkdir -p "$UV_TOOL_BIN_DIR"; touch "$UV_TOOL_BIN_DIR/hermes"'
    fake_uv(tmp_path, monkeypatch, script)
    monkeypatch.setitem(sys.modules, "databricks.sdk.core", None)
    assert main([], {"HOME": str(tmp_path), "HERMES_PIP_URL": package}) == 0
    expected = f"tool install --quiet --force {package or 'hermes-agent[mcp]==0.19.0'} --with mcp==1.26.0"
    assert (tmp_path / "asked").read_text().strip() == expected
    (tmp_path / "asked").unlink()
    assert main([], {"HOME": str(tmp_path)}) == 0
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("script", ["exit 3", "exit 0"])
def test_an_install_that_fails_is_exit_1(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_uv(tmp_path, monkeypatch, script)
    assert main([], {"HOME": str(tmp_path), "DATABRICKS_HOST": HOST, "DATABRICKS_TOKEN": TOKEN, "_GATEWAY_RESOLVED": ""}) == 1
    assert "could not be installed" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert main([], {"HOME": str(tmp_path), "DATABRICKS_HOST": HOST, "DATABRICKS_TOKEN": TOKEN, "_GATEWAY_RESOLVED": ""}) == 1
    assert "uv is missing" in capsys.readouterr().err


@pytest.mark.fault("file")
def test_what_hermes_can_do_without_stops_nothing(
    env: dict[str, str], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "projects").touch()
    assert main([], env | {"HERMES_PROVE": "false"}) == 0
    assert capsys.readouterr().err.startswith("Left out: ")
    (home / "projects").unlink()
    (tmp_path / "CLAUDE.md").write_bytes(b"# Claude\n\xff\n")
    monkeypatch.setattr(setup_hermes, "__file__", str(tmp_path / "setup_hermes.py"))
    assert main([], env | {"HERMES_PROVE": "false"}) == 0
    assert (home / ".hermes" / "HERMES.md").exists()


@pytest.mark.fault("file")
def test_a_loop_of_symlinks_is_one_line(env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.fault("disk full")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """RLIMIT_FSIZE of 200 bytes stands for the disk that fills up in mid-write."""
    path = tmp_path / "config.yaml"
    path.write_text(DESIGN)
    code = f"""if True:
        import resource, signal, sys
        from pathlib import Path
        from setup_hermes import refresh_token
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
        try:
            refresh_token(Path({str(path)!r}), "new")
        except OSError as error:
            sys.exit(error.strerror)
    """
    root = Path(setup_hermes.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.stderr == "File too large\n"
    assert path.read_text() == DESIGN
    assert list(tmp_path.glob("*.tmp")) == []
