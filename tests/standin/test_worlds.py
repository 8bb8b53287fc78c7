"""The stand-in's three worlds: names, refusals, lists; the vendor's clients are the witness."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

pytest.importorskip("trustme", reason="trustme is missing: the stand-in workspace needs it")

from hermes.rules import RULES
from tests.standin import (
    GATEWAY_ROUTES,
    GPT,
    LLAMA,
    NEW_OPUS_4_7,
    OPUS_4_6,
    OPUS_4_7,
    SONNET,
    WORKSPACE_ID,
    WORLDS,
    Answer,
    Call,
    StandIn,
)
from tests.standin.worlds import FAULTS, MODELS, NATIVE, UNITY, WORKSPACE_ROUTES

ROUTES = (*GATEWAY_ROUTES, *WORKSPACE_ROUTES)
NEW_GPT, CODEX = "system.ai.gpt-6", "system.ai.gpt-5-3-codex"
MODEL_SERVICES = "/api/2.1/unity-catalog/model-services"


@pytest.fixture(params=WORLDS)
def workspace(request: pytest.FixtureRequest) -> Iterator[StandIn]:
    with StandIn(world=request.param) as standin:
        yield standin


@pytest.fixture
def enforced() -> Iterator[StandIn]:
    with StandIn(world="enforced") as standin:
        yield standin


def chat(workspace: StandIn, route: str, model: str, **more: Any) -> Answer:
    host = workspace.gateway_host if route in GATEWAY_ROUTES else workspace.workspace_host
    messages = [{"role": "user", "content": "hello"}]
    body = json.dumps({"model": model, "messages": messages, **more}).encode()
    headers = {"authorization": f"Bearer {workspace.token}"}
    return workspace.answer(Call("POST", host, f"/{route}/chat/completions", {}, headers, body))


def get(workspace: StandIn, path: str, **query: str) -> tuple[int, dict[str, Any]]:
    headers = {"authorization": f"Bearer {workspace.token}"}
    status, body = workspace.answer(
        Call("GET", workspace.workspace_host, path, query, headers, b"")
    )
    assert isinstance(body, dict)
    return status, body


def serving(workspace: StandIn, model: str) -> set[str]:
    return {route for route in ROUTES if chat(workspace, route, model)[0] == 200}


@pytest.mark.parametrize(
    ("world", "model", "routes"),
    [
        ("classic", OPUS_4_7, {"openai", "mlflow/v1", UNITY}),
        ("classic", GPT, {"openai", "mlflow/v1", UNITY, "serving-endpoints"}),
        ("classic", NEW_OPUS_4_7, set()),
        ("both", OPUS_4_7, {"openai", "mlflow/v1", UNITY, "serving-endpoints"}),
        ("both", NEW_OPUS_4_7, {UNITY}),
        ("both", NEW_GPT, {UNITY, NATIVE}),
        ("enforced", OPUS_4_7, set()),
        ("enforced", NEW_OPUS_4_7, {UNITY}),
        ("enforced", NEW_GPT, {UNITY, NATIVE}),
        ("enforced", CODEX, set()),
    ],
)
def test_each_world_knows_a_model_by_its_names(world: str, model: str, routes: set[str]) -> None:
    with StandIn(world=world) as workspace:
        assert serving(workspace, model) == routes


PAY = (
    "Querying pay-per-token foundation model endpoint '{}' is disabled for this workspace. "
    "Please use Unity Gateway."
)
PROVISIONED = (
    "Querying provisioned throughput foundation model endpoint '{}' directly is disabled for this "
    "workspace. Please use Unity Gateway."
)
SERVICES = "'{}' is no longer available. Use Unity Catalog model services (v3)."
NO_ENDPOINT = (
    "The given endpoint does not exist, please retry after checking the specified model and "
    "version deployment exists."
)
LIMIT_0 = "The endpoint is temporarily disabled due to a Databricks-set rate limit of 0."
SCOPES = "Provided OAuth token does not have required scopes: "


@pytest.mark.parametrize(
    ("faults", "route", "model", "status", "code", "said"),
    [
        ("", "serving-endpoints", OPUS_4_7, 403, "PERMISSION_DENIED", PAY),
        ("", "serving-endpoints", "my-throughput", 403, "PERMISSION_DENIED", PROVISIONED),
        (
            "retired-endpoint",
            "serving-endpoints",
            OPUS_4_7,
            403,
            "PERMISSION_DENIED",
            "Endpoint '{}' is no longer available. Please use Unity Gateway.",
        ),
        ("", "openai", OPUS_4_7, 501, "NOT_IMPLEMENTED", SERVICES),
        ("", UNITY, OPUS_4_7, 501, "NOT_IMPLEMENTED", SERVICES),
        ("retired-gateway-403", UNITY, OPUS_4_7, 403, "PERMISSION_DENIED", SERVICES),
        ("", "serving-endpoints", NEW_OPUS_4_7, 404, "ENDPOINT_NOT_FOUND", NO_ENDPOINT),
        ("", "serving-endpoints", "nonsense", 404, "ENDPOINT_NOT_FOUND", NO_ENDPOINT),
        ("", UNITY, "main.ai.team-model", 404, "NOT_FOUND", "'{}' does not exist"),
        ("", NATIVE, NEW_OPUS_4_7, 404, "NOT_FOUND", "'{}' does not exist"),
        ("", "openai", NEW_OPUS_4_7, 404, "NOT_FOUND", "'{}' does not exist"),
        ("", UNITY, "system.ai.not-for-us", 403, "PERMISSION_DENIED", LIMIT_0),
        ("narrow-scope", "openai", OPUS_4_7, 403, "403", SCOPES + "all-apis"),
        ("foreign-token", UNITY, NEW_OPUS_4_7, 400, "BAD_REQUEST", "Invalid Token"),
    ],
)
def test_an_enforced_workspace_refuses_in_databricks_words(
    enforced: StandIn, faults: str, route: str, model: str, status: int, code: str, said: str
) -> None:
    enforced.faults = set(faults.split())
    enforced.provisioned = {"my-throughput"}
    enforced.serves[UNITY].add("system.ai.not-for-us")
    enforced.no_entitlement = {"databricks-not-for-us"}
    answer = {"error_code": code, "message": said.format(model)}
    assert chat(enforced, route, model) == (status, answer)


def test_a_narrow_scope_is_enough_for_the_workspaces_own_gateway(enforced: StandIn) -> None:
    enforced.faults = {"narrow-scope"}
    assert serving(enforced, NEW_OPUS_4_7) == {UNITY}
    assert get(enforced, MODEL_SERVICES)[1]["message"] == SCOPES + "unity-catalog"


def test_a_service_principal_may_execute_what_it_was_given(enforced: StandIn) -> None:
    rights: set[str] = set()
    enforced.rights = lambda: rights
    _, login = enforced._oidc("/oidc/v1/token", basic(enforced))
    assert isinstance(login, dict)
    enforced.oauth, enforced.token = 3600, login["access_token"]
    missing = (404, {"error_code": "NOT_FOUND", "message": f"'{NEW_OPUS_4_7}' does not exist"})
    assert chat(enforced, UNITY, NEW_OPUS_4_7) == missing
    rights.add(NEW_OPUS_4_7)
    assert chat(enforced, UNITY, NEW_OPUS_4_7)[0] == 200


def basic(workspace: StandIn) -> str:
    """The service principal's own login."""
    names = ("DATABRICKS_CLIENT_ID", "DATABRICKS_CLIENT_SECRET")
    both = ":".join(workspace.app_env[name] for name in names)
    return "Basic " + base64.b64encode(both.encode()).decode()


def test_output_tokens_count_before_admission(enforced: StandIn) -> None:
    enforced.tier = 20000
    status, answer = chat(enforced, UNITY, NEW_OPUS_4_7, max_tokens=65536)
    assert isinstance(answer, dict)
    assert (status, answer["error_code"]) == (429, "REQUEST_LIMIT_EXCEEDED")
    assert chat(enforced, UNITY, NEW_OPUS_4_7, max_tokens=8192)[0] == 200


@pytest.mark.parametrize(
    ("fault", "reason"), [("guardrail", "content_filter"), ("no-finish-reason", None)]
)
def test_how_an_answer_may_end(enforced: StandIn, fault: str, reason: str | None) -> None:
    enforced.faults = {fault}
    status, answer = chat(enforced, UNITY, NEW_OPUS_4_7)
    assert isinstance(answer, dict)
    assert (status, answer["choices"][0]["finish_reason"]) == (200, reason)


@pytest.mark.parametrize(
    ("fault", "status", "page"), [("several-workspaces", 303, b""), ("login-page", 200, b"<!doc")]
)
def test_a_host_of_several_workspaces_wants_the_id(
    enforced: StandIn, fault: str, status: int, page: bytes
) -> None:
    enforced.faults = {fault}
    said, body = chat(enforced, UNITY, NEW_OPUS_4_7)
    assert (said, isinstance(body, bytes) and body[:5]) == (status, page)
    headers = {
        "authorization": f"Bearer {enforced.token}",
        "x-databricks-workspace-id": WORKSPACE_ID,
    }
    path = "/api/2.0/serving-endpoints"
    assert enforced.answer(Call("GET", enforced.workspace_host, path, {}, headers, b""))[0] == 200
    assert get(enforced, path, o=WORKSPACE_ID)[0] == 200


# --- Lists ----------------------------------------------------------------------------------------


def listed(workspace: StandIn, schema: str, size: int) -> tuple[list[int], dict[str, list[str]]]:
    """The size of each page of the list, and the types of each service in it."""
    found: list[list[dict[str, Any]]] = []
    query = {"parent": f"schemas/{schema}", "page_size": str(size)}
    while True:
        status, page = get(workspace, MODEL_SERVICES, **query)
        assert status == 200
        found.append(page["model_services"])
        if not page.get("next_page_token"):
            break
        query["page_token"] = page["next_page_token"]
    services = {s["name"]: s["supported_api_types"] for page in found for s in page}
    return list(map(len, found)), services


def test_model_services_come_in_pages(enforced: StandIn) -> None:
    pages, services = listed(enforced, "system.ai", 100)
    assert pages == [len(MODELS)] == [len(services)]
    opus = services[f"model-services/{NEW_OPUS_4_7}"]
    assert opus == [
        "anthropic/v1/messages",
        "cursor/v1/chat/completions",
        "mlflow/v1/chat/completions",
    ]
    assert services[f"model-services/{CODEX}"] == ["openai/v1/responses"]
    assert listed(enforced, "system.ai", 5) == ([5, 5, 5, len(MODELS) - 15], services)
    enforced.faults = {"empty-page"}
    assert listed(enforced, "system.ai", 10) == ([0, 10, len(MODELS) - 10], services)


def test_only_what_may_be_executed_is_listed_with_the_companys_own_elsewhere(
    enforced: StandIn,
) -> None:
    enforced.serves[UNITY] = {NEW_OPUS_4_7, "main.ai.team-model"}
    enforced.serves[NATIVE] = set()
    names = listed(enforced, "system.ai", 100)[1]
    assert [name for name in names if "claude" in name] == [f"model-services/{NEW_OPUS_4_7}"]
    own = {"model-services/main.ai.team-model": ["mlflow/v1/chat/completions"]}
    assert listed(enforced, "main.ai", 100)[1] == own
    assert serving(enforced, "main.ai.team-model") == {UNITY}


def test_what_a_list_is_refused_with(enforced: StandIn) -> None:
    parent = {"parent": "schemas/system.ai"}
    assert get(enforced, MODEL_SERVICES, **parent)[0] == 499
    enforced.page_size = 25
    assert get(enforced, MODEL_SERVICES, **parent, page_size="26")[0] == 499
    enforced.busy_lists = 1
    assert [get(enforced, MODEL_SERVICES, **parent, page_size="25")[0] for _ in "12"] == [504, 200]
    no_schema = get(enforced, MODEL_SERVICES, parent="schemas/main.none", page_size="25")
    assert no_schema == (404, RULES["no-schema"].answer(schema="main.none")[1])
    enforced.faults = {"no-system-ai"}
    assert get(enforced, MODEL_SERVICES, **parent, page_size="25")[0] == 404


def test_foundation_models_tell_types_and_windows(workspace: StandIn) -> None:
    _, body = get(workspace, "/api/2.0/serving-endpoints:foundation-models")
    models = {
        e["name"]: e["config"]["served_entities"][0]["foundation_model"] for e in body["endpoints"]
    }
    opus = models[OPUS_4_7]
    assert "context window of 1M tokens" in opus["description"]
    assert "mlflow/v1/chat/completions" in opus["api_types"]
    assert opus["ai_gateway_v2_supported"] == (workspace.world != "classic")


def test_direct_endpoints_are_listed_where_they_answer(workspace: StandIn) -> None:
    workspace.serves["serving-endpoints"].add("my-endpoint")
    _, body = get(workspace, "/api/2.0/serving-endpoints")
    names = {endpoint["name"] for endpoint in body["endpoints"]}
    assert names == {n for n in [*names, OPUS_4_7] if "serving-endpoints" in serving(workspace, n)}
    assert "my-endpoint" in names


# --- The vendor's own clients ---------------------------------------------------------------------

# One process for all of it: to import them takes seconds.
CLIENTS = """
import json, os, sys
from databricks.sdk import WorkspaceClient
from databricks_openai import DatabricksOpenAI
from openai import APIStatusError, OpenAI

def theirs(**options):
    return DatabricksOpenAI(workspace_client=WorkspaceClient(), max_retries=0, **options)

def bare():
    url = os.environ["DATABRICKS_HOST"] + "/serving-endpoints"
    return OpenAI(base_url=url, api_key=os.environ["DATABRICKS_TOKEN"], max_retries=0)

clients = {
    "bare": bare,
    "direct": theirs,
    "mlflow": lambda: theirs(use_ai_gateway=True),
    "openai": lambda: theirs(use_ai_gateway_native_api=True),
}
for env, names, requests in json.load(sys.stdin):
    os.environ.update(env)
    for client in [clients[name]() for name in names]:
        said = []
        for request in requests:
            try:
                answer = client.chat.completions.create(**json.loads(json.dumps(request)))
                said.append((200, answer.choices[0].finish_reason))
            except APIStatusError as error:
                said.append((error.status_code, error.body["message"]))
        print(json.dumps(said))
"""
CLIENT_SAYS = {  # to the old name, the new one and the new one of a GPT model
    "classic": [[404, 404, 404], [200, 404, 404], [404, 404, 404]],
    "both": [[200, 404, 404], [200, 200, 200], [404, 404, 200]],
    "enforced": [[403, 404, 404], [501, 200, 200], [501, 404, 200]],
}


@pytest.mark.slow
def test_the_vendors_openai_client_confirms_the_worlds_and_the_rules() -> None:
    """Where a bare client is refused, the vendor's own, which leaves things out, is taken."""
    pytest.importorskip("databricks_openai", reason="databricks-openai is missing")
    question = {"role": "user", "content": "hello"}
    call = {"id": "a", "type": "function", "function": {"name": "terminal", "arguments": "{}"}}
    asked = {"role": "assistant", "tool_calls": [call]}
    done = {"role": "tool", "tool_call_id": "a", "content": "done"}
    empty, none = ([question, asked | {"content": content}, done] for content in ("", None))
    strict, loose = (
        [{"type": "function", "function": {"name": "terminal", "parameters": {}, "strict": on}}]
        for on in (True, False)
    )
    rules = [
        {"model": OPUS_4_6, "messages": empty},
        {"model": SONNET, "messages": none},
        {"model": OPUS_4_6, "messages": [question], "tools": strict},
        {"model": LLAMA, "messages": empty, "tools": loose},
        {"model": GPT, "messages": empty, "tools": strict},
    ]
    names = [{"model": m, "messages": [question]} for m in (OPUS_4_7, NEW_OPUS_4_7, NEW_GPT)]
    with ExitStack() as stack:
        workspaces = [stack.enter_context(StandIn(world=world)) for world in CLIENT_SAYS]
        given: list[Any] = [(w.env, ("direct", "mlflow", "openai"), names) for w in workspaces]
        given.append((workspaces[0].env, ("bare", "direct"), rules))
        ran = subprocess.run(
            [sys.executable, "-c", CLIENTS],
            input=json.dumps(given),
            env=workspaces[0].env,
            capture_output=True,
            text=True,
            check=False,
        )
    *worlds, bare, theirs = map(json.loads, ran.stdout.splitlines())
    expected = [statuses for world in CLIENT_SAYS.values() for statuses in world]
    assert [[status for status, _ in said] for said in worlds] == expected, ran.stderr
    words = [RULES[rule].words.format(i=0) for rule in ("empty-content", "strict")]
    assert [said for _, said in bare] == [words[0], words[0], words[1], words[1], "stop"]
    assert [said for _, said in theirs] == ["stop"] * 5


def test_the_sdk_reads_the_lists(enforced: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("databricks.sdk", reason="databricks-sdk is missing")
    from databricks.sdk import WorkspaceClient

    for name, value in enforced.env.items():
        monkeypatch.setenv(name, value)
    client = WorkspaceClient()
    enforced.faults = {"empty-page"}
    found = {
        service.name: service.supported_api_types or []
        for service in client.ai_gateway.list_model_services(
            parent="schemas/system.ai", page_size=5
        )
    }
    assert len(found) == len(MODELS)
    assert "mlflow/v1/chat/completions" in found[f"model-services/{NEW_OPUS_4_7}"]


# --- The table ------------------------------------------------------------------------------------


def test_every_rule_has_a_source_and_knows_its_own_words() -> None:
    for name, rule in RULES.items():
        said = rule.words.format_map(defaultdict(lambda: "this"))
        assert (rule.name, bool(rule.source), bool(rule.what)) == (name, True, True)
        assert rule.is_worded(said)
    assert len(set(FAULTS) & RULES.keys()) == 5
