"""The real Hermes with its plugin, on a workspace that refuses all that Databricks refuses."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("trustme", reason="trustme is missing: the stand-in workspace needs it")

from tests import real
from tests.conftest import OTHER_HERMES, ROOT, submit
from tests.standin import (
    GATEWAY_ROUTES,
    GPT,
    LLAMA,
    OPUS_4_6,
    OPUS_4_7,
    SONNET,
    Answer,
    Call,
    StandIn,
)
from tests.standin.models import completion, events
from tests.standin.refusals import NAMES

Body = dict[str, Any]
# What test_provider.py says of each rule without Hermes, and test_worlds.py of Hermes in each world.
slow = pytest.mark.slow


@pytest.fixture
def workspace() -> Iterator[StandIn]:
    with StandIn() as standin:
        yield standin


def url(workspace: StandIn, route: str) -> str:
    return f"https://{workspace.gateway_host if route in GATEWAY_ROUTES else workspace.workspace_host}/{route}"


def configure(home: Path, base_url: str, key: str, model: str, **more: Any) -> None:
    """Write Hermes's config by hand, as setup does: the primary, its provider, and what else there is."""
    config = {
        "model": {"default": model, "provider": "custom", "base_url": base_url, "api_key": key},
        "custom_providers": [{"name": "databricks-gateway", "base_url": base_url, "api_key": key}],
        "security": {"allow_lazy_installs": False, "tirith_enabled": False},
        "skills": {"creation_nudge_interval": 0},  # else it reviews a turn of ten tools by itself
    }
    (home / ".hermes").mkdir(exist_ok=True)
    (home / ".hermes" / "config.yaml").write_text(yaml.safe_dump(config | more, sort_keys=False))


def plug_in(home: Path, learnt: Any = None) -> None:
    """Put the plugin where setup does, with what setup learnt beside it."""
    folder = home / ".hermes" / "plugins" / "model-providers" / "databricks"
    shutil.copytree(
        ROOT / "hermes" / "provider", folder, ignore=shutil.ignore_patterns("__pycache__")
    )
    (folder / "learnt.json").write_text(json.dumps(learnt))


def ask(workspace: StandIn, home: Path, question: str, *options: str) -> str:
    """The answer of `hermes chat -q` alone."""
    return real.ask(workspace, home, question, "-Q", *options)


def copes(said: str) -> bool:
    """Whether a newer Hermes gets on with a rule by itself, and answers."""
    return OTHER_HERMES is not None and "through https://" in said


def recorded(workspace: StandIn) -> list[Body]:
    """The bodies of all chat completions from now on."""
    bodies, decide = list[Body](), workspace.answer

    def answer(call: Call) -> Answer:
        if call.path.endswith("/chat/completions"):
            bodies.append(call.json)
        return decide(call)

    workspace.answer = answer  # type: ignore[method-assign]
    return bodies


# --- Each rule --------------------------------------------------------------------------------------------------------

RULES: list[tuple[str, str, Body, Body, str]] = [
    (
        "empty-content",
        OPUS_4_6,
        {"tool_calls": 1},
        {},
        "HTTP 400: messages: text content blocks must be non-empty",
    ),
    ("name", OPUS_4_6, {"tool_calls": 1}, {}, "HTTP 400: messages.3.name: not supported"),
    (
        "tool-order",
        GPT,
        {"tool_calls": 3, "at_once": True},
        {},
        "HTTP 400: the message before a tool message must carry tool_calls",
    ),
    ("cap", SONNET, {"caps": {SONNET: 25000}}, {}, "Context length exceeded"),
    (
        "reasoning-effort",
        OPUS_4_6,
        {},
        {"agent": {"reasoning_effort": "high"}},
        'HTTP 400: json: unknown field "reasoning_effort"',
    ),
]


@slow  # it is about Hermes and these rules: no line of ours runs
@pytest.mark.parametrize(
    ("rule", "model", "workspace_is", "config", "said"), RULES, ids=[case[0] for case in RULES]
)
def test_hermes_fails_without_the_plugin(
    rule: str,
    model: str,
    workspace_is: Body,
    config: Body,
    said: str,
    workspace: StandIn,
    hermes_home: Path,
) -> None:
    """With it, it answers: see the sessions below, in which all rules are on."""
    for name, value in workspace_is.items():
        setattr(workspace, name, value)
    base_url = url(workspace, "serving-endpoints")
    configure(hermes_home, base_url, workspace.token, model, **config)
    workspace.lenient = set(NAMES) - {rule}
    without = ask(workspace, hermes_home, "hello")
    assert said in without or copes(without)


@slow
def test_stream_options_cannot_be_left_out(workspace: StandIn, hermes_home: Path) -> None:
    """No plugin can: setup tells people to use another model."""
    configure(hermes_home, url(workspace, "serving-endpoints"), workspace.token, LLAMA)
    plug_in(hermes_home)
    said = ask(workspace, hermes_home, "hello")
    assert 'Bad request: json: unknown field "stream_options"' in said or copes(said)
    workspace.lenient, workspace.tool_calls, workspace.at_once = {"stream-options"}, 2, True
    assert f"{LLAMA} through" in ask(workspace, hermes_home, "hello")
    assert {r.status for r in workspace.chats()} == {200}


# --- Sessions, all rules on -------------------------------------------------------------------------------------------


def test_hermes_lowers_its_own_cap_where_the_context_has_no_room(
    workspace: StandIn, hermes_home: Path
) -> None:
    """What is left of the context is less than the endpoint's cap: its second attempt asks for that."""
    base_url, decide, caps = url(workspace, "serving-endpoints"), workspace.answer, list[int]()
    full = (
        "max_tokens: {} > 9000. context_window: 200000 - input_tokens: 191000"
        " = available_tokens: 9000"
    )

    def answer(call: Call) -> Answer:
        if call.path.endswith("/chat/completions") and "tools" in call.json:
            caps.append(call.json["max_tokens"])
            if caps[-1] > 9000:
                return 400, {"error_code": "BAD_REQUEST", "message": full.format(caps[-1])}
        return decide(call)

    workspace.answer = answer  # type: ignore[method-assign]
    configure(hermes_home, base_url, workspace.token, OPUS_4_6)
    plug_in(hermes_home, {"models": {OPUS_4_6: {base_url: {"max_tokens": 25000}}}})
    assert f"{OPUS_4_6} through {base_url}: hello" in ask(workspace, hermes_home, "hello")
    assert caps[0] == 25000
    assert caps[-1] <= 9000


SESSIONS = [  # each cloud, route and kind of model once
    ("azure", "serving-endpoints", OPUS_4_6),
    ("aws", "mlflow/v1", OPUS_4_7),
    ("gcp", "ai-gateway/mlflow/v1", SONNET),
    ("azure", "openai", GPT),
]


@slow
@pytest.mark.parametrize(("cloud", "route", "model"), SESSIONS)
def test_a_session_of_silent_tools(cloud: str, route: str, model: str, hermes_home: Path) -> None:
    """Ten one after the other in one turn, several at once in another."""
    with StandIn(cloud=cloud, tool_calls=10, caps={SONNET: 25000}) as workspace:
        base_url, bodies = url(workspace, route), recorded(workspace)
        thinking = {} if model == GPT else {"agent": {"reasoning_effort": "high"}}
        configure(hermes_home, base_url, workspace.token, model, **thinking)
        plug_in(hermes_home, {"models": {SONNET: {base_url: {"max_tokens": 25000}}}})
        assert f"{model} through {base_url}: first" in ask(workspace, hermes_home, "first")
        assert max(len(body["messages"]) for body in bodies) >= 2 + 2 * 10
        assert {r.status for r in workspace.chats()} == {200}
        workspace.tool_calls, workspace.at_once = 4, True
        assert f"{model} through {base_url}: second" in ask(workspace, hermes_home, "second", "-c")
        assert {r.status for r in workspace.chats()} == {200}
        assert [m["role"] for m in bodies[-1]["messages"]].count("tool") == 14
        assert sum(r.read for r in workspace.chats()) > 0 or model == GPT


@slow
def test_a_session_on_the_fallback(workspace: StandIn, hermes_home: Path) -> None:
    workspace.tool_calls = 10
    direct = url(workspace, "serving-endpoints")
    providers = [{"name": "databricks-direct", "base_url": direct, "api_key": workspace.token}]
    fallback = [{"provider": "custom:databricks-direct", "model": OPUS_4_6}]
    more = {"custom_providers": providers, "fallback_providers": fallback}
    configure(hermes_home, url(workspace, "openai"), workspace.token, OPUS_4_7, **more)
    learnt = {"models": {OPUS_4_6: {direct: {"max_tokens": 25000, "cache": "all"}}}}
    plug_in(hermes_home, learnt)
    workspace.caps, workspace.lenient = {OPUS_4_6: 25000}, {"cache-tool@serving-endpoints"}
    workspace.on_tool_call = lambda: setattr(workspace, "gateway", "refused")
    workspace.serves["openai"].discard(OPUS_4_7)
    assert f"{OPUS_4_6} through {direct}: first" in ask(workspace, hermes_home, "first")
    workspace.tool_calls, workspace.at_once = 4, True
    assert f"{OPUS_4_6} through {direct}: second" in ask(workspace, hermes_home, "second", "-c")
    assert {r.status for r in workspace.chats() if r.host == workspace.workspace_host} == {200}
    assert workspace.chats()[-1].read > 10000


@pytest.mark.fault("token", 2)
def test_a_session_through_rotations_and_what_hermes_asks_beside_it(
    workspace: StandIn, hermes_home: Path
) -> None:
    """A rotation in mid-turn and one between turns; the title is asked for by the way, with a conversation of its own."""
    config, base_url, bodies = (
        hermes_home / ".hermes" / "config.yaml",
        url(workspace, "openai"),
        recorded(workspace),
    )

    def rotate() -> None:
        config.write_text(
            re.sub(
                r"^  api_key: .*$",
                f"  api_key: {workspace.rotate()}",
                config.read_text(),
                flags=re.MULTILINE,
            )
        )

    fallback = [{"provider": "custom:databricks-gateway", "model": OPUS_4_7}]
    configure(hermes_home, base_url, workspace.token, OPUS_4_7, fallback_providers=fallback)
    plug_in(hermes_home)
    workspace.tool_calls = 10
    with real.chat_session(workspace, hermes_home) as session:
        for word, at_once in (("first", False), ("second", True)):
            workspace.at_once = at_once
            workspace.on_tool_call = lambda: rotate() if len(bodies) in (3, 16) else None
            submit(session, word, rf"{OPUS_4_7} through {base_url}: {word}")
            rotate()
    titles = [body["messages"] for body in bodies if "tools" not in body]
    assert titles
    # A title's request may have the key with which its turn began; no other is refused.
    assert sum(r.status != 200 for r in workspace.chats()) <= len(titles)
    assert all("title" in messages[0]["content"] and len(messages) == 2 for messages in titles)


# --- The price --------------------------------------------------------------------------------------------------------


@slow
def test_ten_requests_cost_a_quarter_or_a_third(workspace: StandIn, hermes_home: Path) -> None:
    """Nine tool answers of 2 kB; the vendor's prices: 0.1 of a plain token to read, 1.25 to write."""
    base_url = url(workspace, "openai")
    workspace.tool_calls, workspace.command = 9, "printf '%02000d' {}"
    configure(hermes_home, base_url, workspace.token, OPUS_4_7)

    def price(*lenient: str) -> float:
        workspace.lenient = set(lenient)
        workspace.cache.forget()
        assert f"{OPUS_4_7} through {base_url}: hello" in ask(workspace, hermes_home, "hello")
        asked = workspace.chats()
        assert {r.status for r in asked} == {200}
        assert len(asked) in (10, 11)  # newer versions ask for a title too
        return sum(r.input + 0.1 * r.read + 1.25 * r.write for r in asked)

    today = price("empty-content", "name", "reasoning-effort")
    plug_in(hermes_home)
    assert price() <= (0.37 if OTHER_HERMES else 0.36) * today  # 0.22 sends shorter prompts
    (
        hermes_home / ".hermes" / "plugins" / "model-providers" / "databricks" / "learnt.json"
    ).write_text(json.dumps({"models": {OPUS_4_7: {base_url: {"cache": "all"}}}}))
    assert price("cache-tool") <= 0.26 * today


# --- Other hosts ------------------------------------------------------------------------------------------------------


class _Other(BaseHTTPRequestHandler):
    """Somebody else's endpoint: two tool calls at once, then an answer; what it was sent stays in `bodies`."""

    bodies: list[bytes]

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.path.endswith("/chat/completions"):  # Hermes asks whether this is Ollama
            return self.send_error(404)
        self.bodies.append(raw)
        body = json.loads(raw)
        calls = (
            [] if any(m["role"] == "tool" for m in body["messages"]) else ["echo one", "echo two"]
        )
        answer = completion("elsewhere", body, (1, 0, 0), calls)
        for number, call in enumerate(answer["choices"][0]["message"].get("tool_calls", [])):
            call["id"] = f"call_{number}"
        sent = events(answer) if body.get("stream") else json.dumps(answer).encode()
        self.send_response(200)
        self.send_header(
            "Content-Type", "text/event-stream" if body.get("stream") else "application/json"
        )
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@slow
def test_what_goes_to_another_host_is_the_same_to_the_byte(
    workspace: StandIn, hermes_home: Path
) -> None:
    bodies = list[bytes]()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Other", (_Other,), {"bodies": bodies}))
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    ).start()
    base_url = f"http://127.0.0.1:{server.server_port}/v1"
    learnt = {
        "hosts": ["gateway.example"],
        "models": {
            OPUS_4_7: {
                base_url: {"max_tokens": 100, "cache": "all"},
                "https://gateway.example": {"max_tokens": 100},
            }
        },
    }
    try:
        sent = []
        for plugged in (False, True):
            configure(hermes_home, base_url, "key", OPUS_4_7, agent={"reasoning_effort": "high"})
            if plugged:
                plug_in(hermes_home, learnt)
            assert "through elsewhere: hello" in ask(workspace, hermes_home, "hello")
            turn = [body for body in bodies if b'"tools"' in body]  # and not a title's request
            sent.append([re.sub(rb"Conversation started: [^\\]*", b"", body) for body in turn])
            bodies.clear()
    finally:
        server.shutdown()
        server.server_close()
    assert len(sent[0]) == 2
    assert b'"content":""' in sent[0][1].replace(b": ", b":")
    assert b'"reasoning_effort"' in sent[0][1]
    assert sent[0] == sent[1]
