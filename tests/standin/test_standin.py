"""The stand-in refuses, caches and asks as Databricks does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

pytest.importorskip("trustme", reason="trustme is missing: the stand-in workspace needs it")

from hermes.rules import GATEWAY, REQUEST_RULES, RULES
from tests.conftest import ROOT
from tests.standin import (
    GATEWAY_ROUTES,
    GPT,
    LLAMA,
    OPUS_4_6,
    OPUS_4_7,
    SONNET,
    Call,
    StandIn,
    default_serves,
)
from tests.standin.command import parse
from tests.standin.refusals import NAMES
from tests.standin.worlds import UNITY, surface

Body = dict[str, Any]
MARK = {"cache_control": {"type": "ephemeral"}}


@pytest.fixture
def workspace() -> Iterator[StandIn]:
    with StandIn() as standin:
        yield standin


def text(words: str, **more: Any) -> list[Body]:
    return [{"type": "text", "text": words, **more}]


def user(content: Any = "hello") -> Body:
    return {"role": "user", "content": content}


def called(content: Any, *ids: str) -> Body:
    calls = [
        {"id": i, "type": "function", "function": {"name": "terminal", "arguments": "{}"}}
        for i in ids
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def tool(call: str, content: Any = "done", **more: Any) -> Body:
    return {"role": "tool", "tool_call_id": call, "content": content, **more}


def function(**more: Any) -> Body:
    return {
        "type": "function",
        "function": {"name": "terminal", "description": "runs", "parameters": {}, **more},
    }


def post(
    workspace: StandIn, model: str, *messages: Body, route: str = "mlflow/v1", **more: Any
) -> tuple[int, Body]:
    """What one chat completion is answered, without the wire."""
    host = workspace.gateway_host if route in GATEWAY_ROUTES else workspace.workspace_host
    body = json.dumps({"model": model, "messages": list(messages) or [user()], **more}).encode()
    headers = {"authorization": f"Bearer {workspace.token}"}
    status, answer = workspace.answer(
        Call("POST", host, f"/{route}/chat/completions", {}, headers, body)
    )
    assert isinstance(answer, dict)
    return status, answer


def silent(content: Any = "") -> list[Body]:
    return [user(), called(content, "a"), tool("a")]


GEMINI = "databricks-gemini-3-1-pro"


@pytest.mark.parametrize("name", REQUEST_RULES)
def test_a_rule_refuses_what_breaks_it_unless_it_is_off(name: str, workspace: StandIn) -> None:
    workspace.caps = dict.fromkeys((OPUS_4_7, SONNET, GPT, LLAMA, GEMINI), 25000)
    for route in (UNITY, "serving-endpoints"):
        workspace.serves[route] |= set(workspace.caps)
    rule, route = RULES[name], UNITY if GATEWAY in RULES[name].where else "serving-endpoints"
    held = {model for model in workspace.caps if rule.holds(model, surface(route))}
    assert held

    def asked(model: str, fields: Mapping[str, Any], *lenient: str) -> tuple[int, Body]:
        workspace.lenient = set(lenient)
        return post(workspace, model, route=route, **{"messages": [user()], **fields})

    others = set(NAMES) - {name}
    for model in workspace.caps:
        assert asked(model, {})[0] == 200
        status, answer = asked(model, rule.breaks, *others)
        assert (status == 400) == (model in held)
        assert status == 200 or rule.is_worded(answer["message"])
        assert asked(model, rule.breaks, *others, f"{name}@{route}")[0] == 200
    assert {asked(model, rule.keeps)[0] for model in held} == {200}


@pytest.mark.parametrize(
    ("model", "messages", "more", "said"),
    [
        (SONNET, silent(None), {}, "messages: text content blocks must be non-empty"),
        (OPUS_4_6, silent(text("")), {}, "messages: text content blocks must be non-empty"),
        (
            LLAMA,
            [user()],
            {"tools": [function(), function(strict=True)]},
            "tools.1.custom.strict: Extra inputs are not permitted",
        ),
        (
            GPT,
            [user(), called(" ", "a"), tool("a", name="terminal")],
            {},
            "messages.2.name: not supported",
        ),
        (SONNET, [user()], {"max_tokens": 65536}, "max_tokens (65536) cannot exceed 25000"),
        (
            SONNET,
            [user()],
            {"max_completion_tokens": 25001},
            "max_completion_tokens (25001) cannot exceed 25000",
        ),
        (
            OPUS_4_7,
            [user()],
            {"top_p": 1},
            "Model us.anthropic.claude-opus-4-7 does not support the top_p parameter.",
        ),
        (
            OPUS_4_7,
            [user(), called(" ", "a"), tool("a", text("done", **MARK))],
            {},
            "messages.2.content.0.tool_result.content.0.cache_control: cache_control may not be "
            "specified within `tool_result.content`. Instead, place it directly on `tool_result`",
        ),
        (
            OPUS_4_7,
            [user(text("hello", **MARK))] * 4,
            {"tools": [function() | MARK]},
            "A maximum of 4 blocks with cache_control may be provided. Found 5.",
        ),
        (GPT, [user()], {"service_tier": "fast"}, 'json: unknown field "service_tier"'),
    ],
)
def test_it_says_what_is_wrong(
    model: str, messages: list[Body], more: Body, said: str, workspace: StandIn
) -> None:
    workspace.caps = {SONNET: 25000}
    refused = 400, {"error_code": "BAD_REQUEST", "message": said}
    routes = [route for route, models in default_serves().items() if model in models]
    assert [post(workspace, model, *messages, route=r, **more) for r in routes] == [
        refused for _ in routes
    ]


def test_a_schema_is_looked_through(workspace: StandIn) -> None:
    workspace.serves["serving-endpoints"].add(GEMINI)
    schema = {"anyOf": [{"properties": {"n": {"exclusiveMinimum": 0}}}]}
    tools = [function(parameters=schema)]
    refused = post(workspace, GEMINI, user(), route="serving-endpoints", tools=tools)
    assert 'Unknown name "exclusiveMinimum"' in refused[1]["message"]


@pytest.mark.parametrize(
    ("model", "messages", "more"),
    [
        (
            OPUS_4_7,
            silent(" "),
            {"tools": [function()], "max_tokens": 65536, "stream_options": {"include_usage": True}},
        ),
        (
            OPUS_4_7,
            [user(), {k: v for k, v in called("", "a").items() if k != "content"}, tool("a")],
            {},
        ),
        (
            OPUS_4_7,
            [user(), called(" ", "a", "b"), tool("a"), tool("b")],
            {"thinking": {"type": "adaptive"}},
        ),
        (OPUS_4_7, [user(text("hello", **MARK))] * 4, {}),
        (OPUS_4_6, [user() | {"name": "Ann"}], {"temperature": 0}),
        (
            SONNET,
            [user()],
            {"max_tokens": 25000, "thinking": {"type": "enabled", "budget_tokens": 1024}},
        ),
        (GPT, silent(), {"reasoning_effort": "high", "tools": [function(strict=True)]}),
        (
            GPT,
            [user(), called("", "a"), tool("a"), called("", "b"), tool("b")],
            {"stream_options": {}},
        ),
        (LLAMA, silent(None), {"temperature": 0.5}),
        ("an-endpoint-of-their-own", [user()], {"stream_options": {}, "reasoning_effort": "low"}),
    ],
)
def test_what_is_right_is_taken(
    model: str, messages: list[Body], more: Body, workspace: StandIn
) -> None:
    workspace.caps = {SONNET: 25000}
    workspace.serves["mlflow/v1"].add("an-endpoint-of-their-own")
    assert post(workspace, model, *messages, **more)[0] == 200


def test_a_missing_permission_looks_like_a_missing_model(workspace: StandIn) -> None:
    name = "system.ai.claude-opus-4-7"
    assert post(workspace, name) == (
        404,
        {"error_code": "NOT_FOUND", "message": f"'{name}' does not exist"},
    )
    assert post(workspace, name, route="serving-endpoints")[1]["error_code"] == "ENDPOINT_NOT_FOUND"
    workspace.lenient = {"missing-model"}
    assert post(workspace, name)[1]["error_code"] == "ENDPOINT_NOT_FOUND"


# --- The prompt cache -----------------------------------------------------------------------------

LONG = "word " * 2000  # 2,500 tokens


def counted(
    workspace: StandIn, *messages: Body, model: str = OPUS_4_7, **more: Any
) -> tuple[int, int, int]:
    """Tokens at the plain price, read, written; in hundreds, as the JSON around a text counts."""
    status, answer = post(workspace, model, *messages, **more)
    usage = answer["usage"]
    read, write = (usage.get(f"cache_{name}_input_tokens", 0) for name in ("read", "creation"))
    assert status == 200
    return tuple(n // 100 * 100 for n in (usage["prompt_tokens"] - read - write, read, write))


def test_a_mark_writes_what_stands_before_it_and_the_next_request_reads_it(
    workspace: StandIn,
) -> None:
    system = {"role": "system", "content": text(LONG, **MARK)}
    assert counted(workspace, system, user(LONG)) == (2500, 0, 2500)
    assert counted(workspace, system, user(LONG)) == (2500, 2500, 0)
    assert counted(workspace, system, user(text(LONG, **MARK))) == (0, 2500, 2500)
    assert counted(workspace, system, user(text(LONG)), user(text("x", **MARK))) == (0, 5000, 0)


def test_the_prefix_is_tools_then_system_then_messages(workspace: StandIn) -> None:
    system, question = {"role": "system", "content": LONG}, user(text(LONG, **MARK))
    assert counted(workspace, question, system, tools=[function(description=LONG) | MARK]) == (
        0,
        0,
        7500,
    )
    assert (
        counted(workspace, system, user("other"), tools=[function(description=LONG) | MARK])[1]
        == 2500
    )
    assert counted(workspace, system, question, tools=[function(description=LONG)])[1] == 7500
    assert (
        counted(
            workspace,
            {"role": "system", "content": "x"},
            question,
            tools=[function(description=LONG)],
        )[1]
        == 2500
    )


def test_what_is_not_cached(workspace: StandIn) -> None:
    marked = user(text(LONG, **MARK))
    short = user(text("word " * 500, **MARK))
    assert counted(workspace, short) == counted(workspace, short) == (600, 0, 0)
    assert counted(workspace, marked) == (0, 0, 2500)
    assert counted(workspace, marked, model=OPUS_4_6) == (0, 0, 2500)
    workspace.lenient = {"cache-marks"}
    assert (
        counted(workspace, marked, model=GPT)
        == counted(workspace, marked, model=GPT)
        == (2500, 0, 0)
    )


@pytest.mark.parametrize(("between", "read"), [(18, 2500), (19, 0)])
def test_it_looks_twenty_blocks_back(between: int, read: int, workspace: StandIn) -> None:
    counted(workspace, user(text(LONG, **MARK)))
    assert (
        counted(workspace, user(LONG), *[user("x")] * between, user(text("x", **MARK)))[1] == read
    )


def test_it_lives_five_minutes_from_its_last_use(workspace: StandIn) -> None:
    now = 0.0
    workspace.cache.clock = lambda: now
    question = user(text(LONG, **MARK))
    reads = []
    for now in (0.0, 299.0, 598.0, 898.0):  # noqa: B007
        reads.append(counted(workspace, question)[1])
    assert reads == [0, 2500, 2500, 0]


# --- Tool calls -----------------------------------------------------------------------------------


def conversation(workspace: StandIn, question: str, messages: list[Body]) -> list[list[str]]:
    """Ask, run what is asked for, until there is an answer in words; the commands by request."""
    commands = []
    messages.append(user(question))
    while True:
        answer = post(workspace, OPUS_4_6, *messages, tools=[function()])[1]["choices"][0]
        message = answer["message"]
        calls = message.get("tool_calls") or []
        commands.append([json.loads(call["function"]["arguments"])["command"] for call in calls])
        if not calls:
            assert (answer["finish_reason"], question in message["content"]) == ("stop", True)
            messages.append({"role": "assistant", "content": message["content"]})
            return commands
        assert (answer["finish_reason"], message["content"]) == ("tool_calls", None)
        messages += [
            called(" ", *(call["id"] for call in calls)),
            *(tool(call["id"]) for call in calls),
        ]


def test_it_asks_for_tools_one_after_the_other_or_at_once(workspace: StandIn) -> None:
    workspace.tool_calls, workspace.command, messages = 3, "run {}", list[Body]()
    assert conversation(workspace, "first", messages) == [["run 1"], ["run 2"], ["run 3"], []]
    workspace.at_once = True
    assert conversation(workspace, "second", messages) == [["run 1", "run 2", "run 3"], []]
    workspace.tool_calls, workspace.tool_call = 0, True
    assert conversation(workspace, "third", messages) == [["run 1"], []]


# --- Its command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "more", "said"),
    [
        ([], {"store": True}, 'unknown field "store"'),
        (["--lenient", "unknown-field"], {"store": True}, "hello"),
        (["--lenient", "unknown-field@openai"], {"store": True}, 'unknown field "store"'),
        (["--cap", f"{OPUS_4_6}=100"], {"max_tokens": 101}, "max_tokens (101) cannot exceed 100"),
        (["--world", "enforced"], {}, "Please use Unity Gateway."),
        (["--tool-calls", "2", "--at-once"], {"tools": [function()]}, "the tool ran 2"),
    ],
)
def test_options_turn_rules_off_and_set_caps(options: list[str], more: Body, said: str) -> None:
    with StandIn(**parse([*options, "--", "true"]).fields) as workspace:
        answer = post(workspace, OPUS_4_6, user(), route="serving-endpoints", **more)[1]
    said_by_it = answer.get("message") or str(answer["choices"][0]["message"])
    assert said in said_by_it


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--lenient", "nonsense"],
            "'nonsense': expected RULE or RULE@ROUTE with a rule of empty-content, ",
        ),
        (["--lenient", "strict@nowhere"], "'strict@nowhere': expected RULE or RULE@ROUTE"),
        (["--cap", "model"], "'model': expected MODEL=TOKENS"),
        (["--cap", "model=many"], "'model=many': expected MODEL=TOKENS"),
        (["--serve", "nowhere=x"], "'nowhere=x': expected ROUTE=MODEL,MODEL with a route of "),
        (["--as", "/no/such/report"], "No such file or directory"),
        (["--as", str(ROOT / "app.yaml")], "expected a hermes-report.json"),
    ],
)
def test_an_option_that_is_not_valid_is_named(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse([*options, "--", "true"])
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_the_log_keeps_the_counts_and_a_stream_says_them(workspace: StandIn) -> None:
    requests = pytest.importorskip("requests", reason="requests is missing: it asks over the wire")
    url = f"https://{workspace.workspace_host}/serving-endpoints/chat/completions"
    body = {"model": OPUS_4_6, "messages": [user(text(LONG, **MARK))], "stream": True}
    with requests.Session() as session:
        session.trust_env = False
        session.proxies, session.verify = (
            {"https": workspace.env["HTTPS_PROXY"]},
            workspace.env["SSL_CERT_FILE"],
        )
        headers = {"Authorization": f"Bearer {workspace.token}"}
        said = [session.post(url, json=body, headers=headers, timeout=9).text for _ in range(2)]
    first, second = workspace.chats()
    assert (first.input, first.read, second.input, second.write) == (0, 0, 0, 0)
    assert first.write == second.read > 2500
    assert f'"cache_creation_input_tokens": 0, "cache_read_input_tokens": {second.read}' in said[1]
    assert said[0].endswith("data: [DONE]\n\n")


def test_nothing_leaves_the_machine(workspace: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = pytest.importorskip("requests", reason="requests is missing: it asks over the wire")
    for name, value in workspace.env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(requests.exceptions.ProxyError, match="Tunnel connection failed: 403"):
        requests.get("https://example.com", timeout=9)
    assert requests.get("http://example.com", timeout=9).status_code == 403
