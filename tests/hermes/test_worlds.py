"""Setup and `--check` in each of Databricks' worlds: what is asked, what is written, and what a person reads."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trustme", reason="trustme is missing: the stand-in workspace needs it")

from hermes.choice import SUBSTITUTES
from setup_hermes import refresh_token
from tests.hermes.conftest import Run, Runner
from tests.mocked import config_of
from tests.standin import OPUS_4_6, OPUS_4_7, SONNET, StandIn
from tests.standin.worlds import WORLDS

NEW_4_7, NEW_4_6 = "system.ai.claude-opus-4-7", "system.ai.claude-opus-4-6"


def expected(world: str, workspace: StandIn) -> tuple[str, str, str]:
    """The base URL and the two models' names in a world, with the default settings."""
    if world == "enforced":
        return f"https://{workspace.workspace_host}/ai-gateway/mlflow/v1", NEW_4_7, NEW_4_6
    return f"https://{workspace.gateway_host}/openai", OPUS_4_7, OPUS_4_6


@pytest.mark.parametrize("cloud", ["azure", "aws", "gcp"])
@pytest.mark.parametrize("world", WORLDS)
def test_the_default_settings_find_both_models(
    world: str, cloud: str, run: Runner, home: Path
) -> None:
    with StandIn(cloud=cloud, world=world) as workspace:
        url, model, fallback = expected(world, workspace)
        check = run(workspace, "--check")
        assert check.code == 0
        assert check.last.endswith(f"; setup writes {model} on {url}, which answered.")
        assert not (home / ".hermes").exists()
        first = run(workspace)
        assert (first.code, first.err) == (0, "")
        assert len(first.asked) <= 8
        config = config_of(home)
        assert (config["model"]["base_url"], config["model"]["default"]) == (url, model)
        dead = [(path, name) for path, name, status in first.asked if status not in (200, 400)]
        urls = {p["name"]: p["base_url"] for p in config["custom_providers"]}
        for entry in config["fallback_providers"]:
            path = urls[entry["provider"].removeprefix("custom:")].partition("/")[2].partition("/")
            assert (f"/{path[2].partition('/')[2]}", entry["model"]) not in dead
        assert {e["model"] for e in config["fallback_providers"]} <= {model, fallback, OPUS_4_6}
        again = run(workspace)
        assert len(again.asked) <= 3
        assert again.asked[0][1:] == (model, 200)
        assert "config.yaml unchanged" in again.out


@pytest.mark.parametrize("world", WORLDS)
def test_each_world_has_its_providers_models_and_windows(
    world: str, run: Runner, home: Path
) -> None:
    with StandIn(world=world) as workspace:
        assert run(workspace).code == 0
    providers = {p["name"]: p for p in config_of(home)["custom_providers"]}
    gateway = providers["databricks-gateway"]["models"]
    if world == "enforced":
        assert providers.keys() == {"databricks-gateway"}
        assert gateway[NEW_4_7] == {"context_length": 1_000_000}
        assert {"system.ai.claude-opus-5", "system.ai.gpt-6"} <= gateway.keys()
    else:
        assert providers.keys() == {"databricks-gateway", "databricks-direct"}
        assert gateway[OPUS_4_7] == {"context_length": 1_000_000}
        assert OPUS_4_6 in providers["databricks-direct"]["models"]
    every = {model for p in providers.values() for model in p["models"]}
    assert not [m for m in every if any(w in m for w in ("llama", "kimi", "glm", "codex", "gte"))]
    assert all(m.startswith("system.ai.") for m in every) is (world == "enforced")


YES, NO = "yes: direct serving does not answer for ", "no: "


@pytest.mark.parametrize(
    ("options", "settings", "code", "last", "row"),
    [
        ({}, {}, 0, f"{YES}{OPUS_4_7} (HTTP 404, not served here); setup writes {OPUS_4_7}", "HTTP 404  not served here"),
        ({"world": "both"}, {}, 0, f"{NO}direct serving has {OPUS_4_7} too; setup writes {OPUS_4_7}", "HTTP 200"),
        ({"world": "enforced"}, {}, 0, f"{YES}{OPUS_4_7} (HTTP 403, this name is retired); setup writes {NEW_4_7}",
         f"HTTP 403  this name is retired: Querying pay-per-token foundation model endpoint '{OPUS_4_7}' is disabled"),
        ({"world": "enforced"}, {}, 0, YES, f"HTTP 501  this name is retired: '{OPUS_4_7}' is no longer available."),
        ({"world": "enforced", "faults": {"retired-endpoint", "retired-gateway-403"}}, {}, 0, YES,
         f"HTTP 403  this name is retired: Endpoint '{OPUS_4_7}' is no longer available. Please use Unity Gateway."),
        ({"world": "enforced", "faults": {"narrow-scope"}}, {}, 0, YES,
         "HTTP 403  the token lacks a scope: Provided OAuth token does not have required scopes: all-apis"),
        ({"world": "enforced", "faults": {"no-listing"}}, {}, 0, YES, "HTTP 200  serves the model"),
        ({"world": "enforced", "faults": {"empty-page"}, "page_size": 5}, {}, 0, YES, "HTTP 200  serves the model"),
        ({"world": "enforced", "busy_lists": 9}, {}, 0, YES, "HTTP 200  serves the model"),
        ({"world": "enforced", "gateway": "refused"}, {}, 0, YES, "HTTP 200  serves the model"),
        ({"world": "enforced", "no_entitlement": {OPUS_4_7}}, {}, 0, f"{YES}{OPUS_4_7} (HTTP 403, this name is retired); setup writes {NEW_4_6}",
         "this workspace is not entitled to the model: The endpoint is temporarily disabled due to a Databricks-set rate limit of 0."),
        ({"faults": {"foreign-token"}}, {}, 1, f"{NO}nothing that setup can write would answer. The token is of another workspace",
         "HTTP 400  the token is of another workspace: Invalid Token"),
        ({"reject_token": True}, {}, 1, f"{NO}nothing that setup can write would answer. The token was rejected", "HTTP 403  token rejected: Invalid access token."),
        ({"world": "enforced", "faults": {"several-workspaces"}, "cloud": "aws"},
            {"DATABRICKS_WORKSPACE_ID": ""}, 1,
         f"{NO}nothing that setup can write would answer. This host does not tell which workspace is meant", "HTTP 303  a login page"),
        ({"world": "enforced", "faults": {"login-page"}}, {"DATABRICKS_WORKSPACE_ID": "1234567890123456"}, 0, YES, "HTTP 200  serves the model"),
        ({"world": "enforced"}, {"HERMES_MODEL": "main.ai.nobody", "HERMES_FALLBACK_MODEL": "nobody"}, 0,
         f"{NO}no place serves main.ai.nobody: is HERMES_MODEL spelt right? Setup would write system.ai.claude-opus-5.", "HTTP 404  not served here, or not permitted"),
        ({"world": "both"}, {"HERMES_MODEL": "databricks-claude-opus-47"}, 0,
         f"{NO}no place serves databricks-claude-opus-47: is HERMES_MODEL spelt right? (this workspace has {OPUS_4_7}, ", "HTTP 404  not served here"),
        ({"world": "enforced", "faults": {"no-system-ai"}}, {}, 0, YES, "HTTP 200  serves the model"),
        ({"world": "enforced", "serves": {"ai-gateway/mlflow/v1": {"main.ai.x"}}}, {}, 1,
         f"{NO}nothing that setup can write would answer. {OPUS_4_7} is a model service in this workspace",
         "system.ai.claude-opus-4-7   workspace /ai-gateway/mlflow/v1  HTTP 404  not served here, or not permitted"),
        ({"feature_disabled": True}, {}, 0, f"{YES}{OPUS_4_7} (HTTP 404, not served here); setup writes {OPUS_4_6}", "AI Gateway is not enabled"),
        ({"serves": {"openai": {"x"}}}, {}, 1, f"{NO}nothing that setup can write would answer. {OPUS_4_7} is served on none of these routes", "HTTP 404"),
    ],
)  # fmt: skip
def test_check_says_what_each_workspace_answered_and_what_to_do(
    options: dict[str, Any],
    settings: dict[str, str],
    code: int,
    last: str,
    row: str,
    run: Runner,
    home: Path,
) -> None:
    """The token is blamed only where the answer is about it; each other refusal has its own cure."""
    with StandIn(**options) as workspace:
        done = run(workspace, "--check", **settings)
    assert done.last.startswith(last), done.out
    assert row in done.out, done.out
    assert done.code == code
    assert ("DATABRICKS_TOKEN" in done.out) is ("token" in str(options))
    assert "Is this your problem?" in done.out
    assert (
        f"{OPUS_4_7}  workspace /serving-endpoints" in done.out
        or "HERMES_MODEL" in settings
        or code
    )


@pytest.mark.parametrize("model", ["my-endpoint", "main.ai.team-model"])
def test_a_name_of_the_companys_own_is_asked_for_under_that_name_alone(
    model: str, run: Runner, home: Path
) -> None:
    with StandIn(world="both") as workspace:
        for served in workspace.serves.values():
            served.add(model)
        done = run(workspace, HERMES_MODEL=model)
        assert {name for _, name, _ in done.asked if "claude" not in name} == {model}
        assert config_of(home)["model"]["default"] == model
        for served in workspace.serves.values():
            served.discard(model)
        again = run(workspace, HERMES_MODEL=model)
        asked = [path for path, name, _ in again.asked if name == model]
        routes = {"/openai", "/mlflow/v1", "/ai-gateway/mlflow/v1"}
        own = {"/serving-endpoints"} if model == "my-endpoint" else {"/ai-gateway/openai/v1"}
        assert {*asked} == routes | own


def test_the_wanted_model_comes_back_once_it_is_there(run: Runner, home: Path) -> None:
    with StandIn(world="enforced", no_entitlement={OPUS_4_7}) as workspace:
        first = run(workspace)
        assert (first.code, first.err) == (0, "")
        line = (
            f"{OPUS_4_7} does not answer: until it does, Hermes uses {NEW_4_6}, the fallback."
            " To choose another model, set HERMES_MODEL."
        )
        assert line in first.out.splitlines()
        assert config_of(home)["model"]["default"] == NEW_4_6
        assert NEW_4_7 not in {e["model"] for e in config_of(home)["fallback_providers"]}
        workspace.no_entitlement.clear()
        assert "does not answer" not in run(workspace).out
        assert config_of(home)["model"]["default"] == NEW_4_7


@pytest.mark.parametrize(
    ("missing", "instead"),
    [
        ({"claude-opus-4-7", "claude-opus-4-6"}, "system.ai.claude-opus-5"),
        ({"opus"}, "system.ai.claude-sonnet-5"),
        ({"claude"}, "system.ai.gpt-6"),
        ({"claude", "gpt"}, "system.ai.gemini-3-1-pro"),
        ({"claude", "gpt", "gemini"}, ""),
    ],
)
def test_where_neither_is_there_the_best_that_answers_is_written(
    missing: set[str], instead: str, run: Runner, home: Path
) -> None:
    with StandIn(world="enforced") as workspace:
        for route, served in workspace.serves.items():
            workspace.serves[route] = {m for m in served if not any(w in m for w in missing)}
        done = run(workspace)
        config = config_of(home)
        if not instead:
            assert "NOT PROVED" in done.out
            assert (config["model"]["default"], done.code) == (OPUS_4_7, 0)
            return
        said = f"until one does, Hermes uses {instead}, the best that does."
        assert f"Neither {OPUS_4_7} nor {OPUS_4_6} answers: {said}" in done.out
        assert config["model"]["default"] == instead
        assert {e["model"] for e in config["fallback_providers"]} == {instead}


def test_the_last_try_on_direct_serving_is_for_the_model_that_stands_in(
    run: Runner, home: Path
) -> None:
    with StandIn(serves={"openai": {SONNET}, "serving-endpoints": {SONNET}}) as workspace:
        assert run(workspace).code == 0
    chain = config_of(home)["fallback_providers"]
    assert chain[-1] == {"provider": "custom:databricks-direct", "model": SONNET}


def test_a_stand_in_that_is_listed_but_refused_is_passed_over(run: Runner, home: Path) -> None:
    with StandIn(world="enforced") as workspace:
        workspace.no_entitlement = {OPUS_4_7, OPUS_4_6, "system.ai.claude-opus-5"}
        assert run(workspace).code == 0
        assert config_of(home)["model"]["default"] == "system.ai.claude-opus-4-8"
        workspace.no_entitlement = set().union(*workspace.serves.values())
        asked = {name.rpartition("claude-")[2] for _, name, _ in run(workspace).asked}
        assert len(asked) == 1 + SUBSTITUTES  # the wanted one; the fallback is one of the others


@pytest.mark.parametrize(("tier", "cap"), [(20_000, 8192), (8000, None)])
def test_a_small_tier_is_not_taken_for_a_busy_minute(
    tier: int, cap: int | None, run: Runner, home: Path
) -> None:
    """`max_tokens` counts before a request is let in: Hermes's 65,536 may never be."""
    with StandIn(tier=tier) as workspace:
        out = run(workspace, "--check").out
    row = f"({cap} output tokens at most)" if cap else "(busy now: rate limited)"
    assert f"HTTP {200 if cap else 429}  serves the model {row}\n" in out


def test_a_name_that_was_retired_is_asked_for_again_where_nothing_else_answers(
    run: Runner, home: Path
) -> None:
    with StandIn(world="enforced") as workspace:
        assert run(workspace).code == 0
        with StandIn(world="classic") as classic:
            workspace.world, workspace.serves = "classic", classic.serves
        assert run(workspace).code == 0
        assert config_of(home)["model"]["default"] == OPUS_4_7


# --- What is in the way ---------------------------------------------------------------------------


@pytest.mark.fault("gateway")
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("refused", "proxy: "),
        ("black-holed", "timed out"),
        ("bad-certificate", "TLS: certificate verify failed"),
    ],
)
def test_a_blocked_gateway_leaves_direct_serving(
    fault: str, said: str, run: Runner, home: Path
) -> None:
    with StandIn(gateway=fault, serves={"serving-endpoints": {OPUS_4_6}}) as workspace:
        done = run(workspace)
        reason = f"AI Gateway https://{workspace.gateway_host} cannot be reached ({said}"
        assert reason in done.err
        direct = f"https://{workspace.workspace_host}/serving-endpoints"
        assert (done.code, config_of(home)["model"]["base_url"]) == (0, direct)
        assert f"{OPUS_4_7} does not answer: until it does, Hermes uses {OPUS_4_6}" in done.out
        assert sum(r.host == workspace.gateway_host for r in workspace.requests) == 1


def test_a_token_does_not_leave_the_machine_in_the_clear(run: Runner, home: Path) -> None:
    """Plain http is for a workspace on this machine: not by way of a proxy, which sees all."""
    with StandIn() as workspace:
        host = "http://127.0.0.1:9"
        done = run(workspace, "--check", DATABRICKS_HOST=host, NO_PROXY="", no_proxy="")
        assert (done.code, workspace.requests) == (1, [])
        assert "Connection refused" in done.out


# --- Logging in -----------------------------------------------------------------------------------

PROFILES = """\
[DEFAULT]
host = https://other.example
token = dapiother
[work]
host = {}/
token = {}
"""


@pytest.fixture
def sdk() -> None:
    pytest.importorskip("databricks.sdk", reason="databricks-sdk is missing: it logs in")


@pytest.fixture
def profiles(tmp_path: Path, run: Runner, sdk: None) -> Runner:
    """Runs setup with a token from a `.databrickscfg` alone."""

    def go(workspace: StandIn, host: str, profile: str) -> Run:
        file = tmp_path / "databrickscfg"
        file.write_text(PROFILES.format(f"https://{workspace.workspace_host}", workspace.token))
        return run(
            workspace,
            DATABRICKS_HOST=host,
            DATABRICKS_TOKEN="",
            DATABRICKS_CONFIG_FILE=str(file),
            DATABRICKS_CONFIG_PROFILE=profile,
        )

    return go


def test_a_profile_gives_host_and_token(home: Path, profiles: Runner) -> None:
    with StandIn() as workspace:
        assert profiles(workspace, host="", profile="work").code == 0
        model = config_of(home)["model"]
        assert model["base_url"] == f"https://{workspace.gateway_host}/openai"
        assert model["api_key"] == workspace.token


def test_a_token_of_another_workspace_is_not_sent(profiles: Runner, home: Path) -> None:
    with StandIn() as workspace:
        host = f"https://{workspace.workspace_host}"
        done = profiles(workspace, host=host, profile="DEFAULT")
        assert done.code == 2
        said = "'DEFAULT' is of https://other.example; expected one of https://adb-"
        assert done.err.startswith(f"DATABRICKS_CONFIG_PROFILE: {said}")
        assert workspace.requests == []


@pytest.mark.usefixtures("sdk")
def test_a_service_principal_gives_the_token(run: Runner, home: Path) -> None:
    with StandIn(oauth=600) as workspace:
        done = run(workspace)
        assert (done.code, done.err) == (0, "")
        model = config_of(home)["model"]
        assert model["api_key"] in workspace._expiring
        assert model["base_url"] == f"https://{workspace.gateway_host}/openai"


@pytest.mark.fault("token")
@pytest.mark.usefixtures("sdk")
def test_a_service_principal_with_a_wrong_secret(run: Runner, home: Path) -> None:
    with StandIn(oauth=600) as workspace:
        done = run(workspace, DATABRICKS_CLIENT_SECRET="wrong-secret")
        assert done.code == 0
        assert done.err.startswith("databricks-sdk found no token: ")
        assert done.err.count("\n") == 1
        assert "wrong-secret" not in done.err
        assert "No Databricks token yet" in done.out


# --- With the real Hermes ---------------------------------------------------------------------------------------------


def ask(workspace: StandIn, home: Path, question: str, option: str = "-Q") -> str:
    """What `hermes chat -q` prints."""
    command = [str(home / ".local" / "bin" / "hermes"), "chat", option, "-q", question]
    env = workspace.env | {"HOME": str(home)}
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    return done.stdout


# What is written in each world and cloud is asked above, without Hermes: here each of both once.
PAIRS = [
    ("classic", "gcp"),
    *(
        pytest.param(*pair, marks=pytest.mark.slow)
        for pair in (("both", "aws"), ("enforced", "azure"))
    ),
]


@pytest.mark.fault("gateway")
@pytest.mark.parametrize(("world", "cloud"), PAIRS)
def test_hermes_answers_through_tools_after_a_rotation_and_without_the_gateway(
    world: str, cloud: str, run: Runner, hermes_home: Path
) -> None:
    with StandIn(cloud=cloud, world=world) as workspace:
        url, model, _ = expected(world, workspace)
        config = hermes_home / ".hermes" / "config.yaml"
        config.parent.mkdir()
        config.write_text("agent: {api_max_retries: 1}\n")  # between them it waits for 20 s
        assert run(workspace).code == 0
        assert refresh_token(config, workspace.rotate())
        workspace.requests.clear()
        workspace.tool_calls = 3
        assert f"{model} through {url}: first" in ask(workspace, hermes_home, "first")
        assert {r.status for r in workspace.chats()} == {200}
        # Its command scanner would come from there, in the background of every start.
        assert "github.com" not in {r.host for r in workspace.requests}
        workspace.gateway = "refused"
        lost = OPUS_4_6 if world != "enforced" else NEW_4_7
        direct = f"{lost} through https://{workspace.workspace_host}/"
        assert direct in ask(workspace, hermes_home, "second")


@pytest.mark.slow
def test_hermes_takes_the_windows_that_the_workspace_tells(run: Runner, hermes_home: Path) -> None:
    """By itself Hermes 0.19.0 takes a newer name for a model of 200,000 tokens, or of 128,000."""
    with StandIn(world="enforced") as workspace:
        assert run(workspace, HERMES_MODEL="system.ai.claude-opus-5").code == 0
        said = ask(workspace, hermes_home, "hello", "-v")
    assert "Context limit: 1,000,000 tokens" in said


@pytest.mark.slow
def test_a_host_of_several_workspaces_is_told_which_by_hermes_too(
    run: Runner, hermes_home: Path
) -> None:
    with StandIn(world="enforced", faults={"several-workspaces"}) as workspace:
        assert run(workspace).code == 0
        url, model, _ = expected("enforced", workspace)
        workspace.requests.clear()
        assert f"{model} through {url}: hello" in ask(workspace, hermes_home, "hello")
        assert {r.status for r in workspace.chats()} == {200}
