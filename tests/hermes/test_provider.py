"""Hermes's own plugin by itself: what it makes of a conversation, and that nothing upsets it."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import shutil
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hermes import urls
from hermes.provider import DOMAINS, adapt, cap_field, family, is_databricks
from tests.conftest import ROOT

Body = dict[str, Any]
CLAUDE, GPT, LLAMA = (
    "databricks-claude-opus-4-7",
    "databricks-gpt-5",
    "databricks-meta-llama-3-3-70b-instruct",
)
URL = "https://adb-1.2.azuredatabricks.net/serving-endpoints"
MARK = {"cache_control": {"type": "ephemeral"}}


def call(name: str) -> Body:
    return {"id": name, "type": "function", "function": {"name": "terminal", "arguments": "{}"}}


def called(*names: str, content: Any = "") -> Body:
    return {"role": "assistant", "content": content, "tool_calls": [call(name) for name in names]}


def tool(call: str, /, **more: Any) -> Body:
    return {"role": "tool", "tool_call_id": call, "content": "done", **more}


def user(content: Any = "hello") -> Body:
    return {"role": "user", "content": content}


def marked(words: str) -> list[Body]:
    return [{"type": "text", "text": words, **MARK}]


def messages(*given: Body, model: str = LLAMA, learnt: Any = None) -> list[Body]:
    shaped = adapt(list(given), model, URL, learnt)["messages"]
    assert isinstance(shaped, list)
    return shaped


# --- What it makes of a conversation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", None, [], [{"type": "text", "text": ""}], ...])
@pytest.mark.parametrize("model", [CLAUDE, GPT, LLAMA])
def test_empty_content_beside_tool_calls_is_one_space(content: Any, model: str) -> None:
    message = called("a", content=content)
    if content is ...:
        del message["content"]
    assert messages(message, tool("a"), model=model)[0]["content"] == " "


def test_other_content_stays() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    kept = [called("a", content="words"), called("a", content=" "), called("a", content=[image])]
    kept += [
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": None},
        tool("a", content=""),
    ]
    assert [messages(message)[0] for message in kept] == kept
    parts = [{"type": "text", "text": ""}, image, {"type": "text", "text": "words"}]
    assert messages(called("a", content=parts))[0]["content"] == parts[1:]


def test_a_name_is_a_users_alone() -> None:
    assert messages(user() | {"name": "Ann"}, tool("a", name="terminal")) == [
        user() | {"name": "Ann"},
        tool("a"),
    ]


def test_each_call_stands_before_its_answer() -> None:
    given = [
        user(),
        called("a", "b", "c", content="I look"),
        tool("b"),
        tool("a"),
        tool("c"),
        user("next"),
    ]
    assert messages(*given) == [
        user(),
        *(called("b", content="I look"), tool("b")),
        *(called("a", content=" "), tool("a")),
        *(called("c", content=" "), tool("c")),
        user("next"),
    ]
    assert [m["role"] for m in messages(*given, model=CLAUDE)] == [m["role"] for m in given]


@pytest.mark.parametrize(
    "given",
    [
        [called("a", "b", content="x"), tool("a")],
        [called("a", "b", content="x"), tool("a"), tool("z")],
        [called("a", "b", content="x"), tool("a"), user(), tool("b")],
        [called("a", "a", content="x"), tool("a"), tool("a")],
        [called("a", "b", content="x"), tool("a"), tool("b"), tool("b")],
        [called("a", content="x"), tool("a")],
        [tool("a"), tool("b")],
    ],
)
def test_what_does_not_pair_up_stays(given: list[Body]) -> None:
    assert messages(*given) == given


def test_where_the_cache_marks_stand() -> None:
    given = [
        {"role": "system", "content": "rules"},
        user("1"),
        user("2"),
        called("a"),
        tool("a"),
        user("3"),
        called("b"),
        tool("b"),
    ]
    where = {}
    for cache in ("all", "no-tools", "none", "nonsense", None):
        learnt = {"models": {CLAUDE: {URL: {"cache": cache}}}}
        shaped = messages(*given, model=CLAUDE, learnt=learnt)
        where[cache] = [
            i for i, message in enumerate(shaped) if "cache_control" in json.dumps(message)
        ]
        assert all(shaped[i]["content"] == marked(given[i]["content"]) for i in where[cache])
    assert where == {
        "all": [0, 2, 5, 7],
        "no-tools": [0, 2, 5],
        "none": [],
        "nonsense": [0, 2, 5],
        None: [0, 2, 5],
    }
    assert not any(
        "cache_control" in json.dumps(messages(*given, model=model)) for model in (GPT, LLAMA)
    )


def test_a_mark_stands_on_the_last_part_that_says_something() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    assert (
        messages(user([{"type": "text", "text": "see"}, image]), model=CLAUDE)[0]["content"][1]
        == image | MARK
    )
    for empty in ("", "  ", None, [], [{"type": "text", "text": ""}]):
        assert messages(user("1"), user("2"), user(empty), model=CLAUDE) == [
            user(marked("1")),
            user(marked("2")),
            user(empty),
        ]


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (CLAUDE, "max_tokens"),
        (GPT, "max_tokens"),
        ("gpt-4o-mini", "max_completion_tokens"),
        ("x/gpt-5", "max_completion_tokens"),
    ],
)
def test_a_learnt_cap_is_kept_to(model: str, field: str) -> None:
    learnt = {
        "models": {model: {URL: {"max_tokens": 25000}, "https://other.example": {"max_tokens": 7}}}
    }
    assert {k: v for k, v in adapt([], model, f"{URL}/", learnt).items() if k != "messages"} == {
        field: 25000
    }
    odds: list[Any] = [True, 0, -1, "25000", 2.5, None, [], {}]
    for odd in odds:
        assert adapt([], model, URL, {"models": {model: {URL: {"max_tokens": odd}}}}) == {
            "messages": []
        }
    assert (
        adapt([], model, "https://elsewhere.example", learnt)
        == adapt([], "another", URL, learnt)
        == {"messages": []}
    )


@pytest.mark.parametrize(
    ("url", "yes"),
    [
        *((f"https://x.{domain}/y", True) for domain in DOMAINS.split()),
        ("https://1.0.ai-gateway.azuredatabricks.net:443/openai", True),
        ("https://ADB-1.2.AzureDatabricks.NET./x", True),
        ("https://gateway.example/openai", True),
        ("https://azuredatabricks.net", False),
        ("https://notazuredatabricks.net", False),
        ("https://x.azuredatabricks.net.example.com", False),
        ("https://example.com/x.azuredatabricks.net", False),
        ("https://x.azuredatabricks.net@example.com/", False),
        ("https://docs.databricks.com", False),
        ("https://evil.example\\@x.azuredatabricks.net/", False),
        ("https://evil.example\\.azuredatabricks.net/", False),
        ("https://user:word@x.azuredatabricks.net/", False),
        ("https://other.gateway.example", False),
        ("", False),
    ],
)
def test_whose_host_it_is(url: str, yes: bool) -> None:
    assert is_databricks(url, {"hosts": ["gateway.example"]}) is yes
    odds: list[Any] = [
        None,
        [],
        {"hosts": [""]},
        {"hosts": None},
        {"hosts": {"a": 1}},
        {"hosts": [None, 7]},
        "hosts",
    ]
    for odd in odds:
        assert is_databricks(url, odd) is (yes and "gateway.example" not in url)


def test_each_cloud_that_the_setup_knows_is_databricks() -> None:
    assert all(
        any(own == cloud or own.endswith(f".{cloud}") for own in DOMAINS.split())
        for cloud in urls.CLOUDS
    )


# --- Inside a Hermes --------------------------------------------------------------------------------------------------


class Bundled:
    """Hermes's own profile, as far as the plugin knows it; the real one is in test_hermes_chat.py."""

    aliases: tuple[str, ...] = ("ollama",)

    def prepare_messages(self, messages: Any) -> Any:
        return messages

    def build_api_kwargs_extras(self, *, effort: Any = None, **context: Any) -> tuple[Any, Any]:
        return {"think": False, "kept": 1}, {"reasoning_effort": effort, "kept": 2}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    """The profile that a copy of the plugin registers, and where its learnt.json goes."""
    return plugged(tmp_path, monkeypatch, [Bundled()])


def plugged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registered: list[Any]
) -> tuple[Any, Path]:
    """The same, where Hermes has registered these profiles before."""
    providers = ModuleType("providers")
    vars(providers).update(
        __file__=str(tmp_path / "providers" / "__init__.py"),
        get_provider_profile=lambda name: registered[-1] if registered else None,
        register_provider=registered.append,
    )
    monkeypatch.setitem(sys.modules, "providers", providers)
    for source in (ROOT / "hermes" / "provider").glob("*.py"):
        shutil.copy(source, tmp_path)
    spec = importlib.util.spec_from_file_location(  # as Hermes does it
        "copied", tmp_path / "__init__.py", submodule_search_locations=[str(tmp_path)]
    )
    assert spec
    assert spec.loader
    monkeypatch.delitem(sys.modules, "copied.keys", raising=False)
    monkeypatch.setitem(sys.modules, "copied", module := importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return registered[-1], tmp_path / "learnt.json"


def request(
    profile: Any, given: Any, model: str = CLAUDE, base_url: Any = URL, **context: Any
) -> tuple[Any, Any]:
    profile.prepare_messages(given)
    answer = profile.build_api_kwargs_extras(
        model=model, base_url=base_url, session_id="s", **context
    )
    assert isinstance(answer, tuple)
    return answer


def test_hermes_may_read_the_plugin_before_its_own_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does 0.22 where `providers` is imported before the rest."""
    own = tmp_path / "plugins" / "model-providers" / "custom" / "__init__.py"
    own.parent.mkdir(parents=True)
    own.write_text(
        "from providers import register_provider\n"
        "from tests.hermes.test_provider import Bundled\nregister_provider(Bundled())\n"
    )
    profile, _ = plugged(tmp_path, monkeypatch, [])
    assert isinstance(profile, Bundled)
    assert request(profile, [user("hello")])[1]["messages"] == [user(marked("hello"))]


def test_two_chats_at_once_keep_their_own_conversations(plugin: tuple[Any, Path]) -> None:
    """Hermes's subagents run in threads of one process."""
    profile, _ = plugin
    profile.prepare_messages([user("mine")])
    other = threading.Thread(target=profile.prepare_messages, args=([user("theirs")],))
    other.start()
    other.join()
    _, fields = profile.build_api_kwargs_extras(model=CLAUDE, base_url=URL, session_id="s")
    assert fields["messages"] == [user(marked("mine"))]


def test_a_request_is_adapted_and_what_else_the_profile_does_stays(
    plugin: tuple[Any, Path],
) -> None:
    profile, _ = plugin
    assert (isinstance(profile, Bundled), profile.aliases[:2]) == (
        True,
        ("ollama", "custom:databricks-gateway"),
    )
    fields = {"kept": 2, "messages": [user(marked("hello"))]}
    assert request(profile, [user()], effort="high") == ({"kept": 1}, fields)
    assert request(profile, [user()], model=GPT, effort="high")[1] == {
        **fields,
        "reasoning_effort": "high",
        "messages": [user()],
    }
    given = [user(), called("a"), tool("a", name="x")]
    for elsewhere in ("https://example.com", "", None, "http://[", 7):
        theirs = Bundled().build_api_kwargs_extras(effort="high")
        assert request(profile, given, base_url=elsewhere, effort="high") == theirs


@pytest.mark.parametrize(
    ("asked", "sent"), [(2000, 2000), (65536, 25000), (None, 25000), ("many", 25000), (0, 25000)]
)
@pytest.mark.parametrize("model", [CLAUDE, "gpt-5"])
def test_a_learnt_cap_only_lowers_what_hermes_asks(
    plugin: tuple[Any, Path], model: str, asked: Any, sent: int
) -> None:
    """What it asks is a local variable of its transport; test_chat.py sees that it still is."""
    profile, learnt = plugin
    learnt.write_text(json.dumps({"models": {model: {URL: {"max_tokens": 25000}}}}))
    profile.prepare_messages([user()])
    api_kwargs = {cap_field(model): asked, "messages": []}
    _, fields = profile.build_api_kwargs_extras(model=model, base_url=URL, session_id="s")
    assert (api_kwargs | fields)[cap_field(model)] == sent
    assert "max_tokens" not in request(profile, [user()], model=LLAMA)[1]


def test_a_small_request_keeps_its_own_messages(plugin: tuple[Any, Path]) -> None:
    """Hermes asks for titles and summaries without `prepare_messages`; a conversation left over must not slip in."""
    profile, learnt = plugin
    learnt.write_text(json.dumps({"models": {CLAUDE: {URL: {"max_tokens": 100}}}}))
    profile.prepare_messages([user("a secret")])
    assert profile.build_api_kwargs_extras(model=CLAUDE, base_url=URL, effort="low") == (
        {"kept": 1},
        {"kept": 2},
    )
    assert profile.build_api_kwargs_extras(model=CLAUDE, base_url=URL, session_id="s") == (
        {"kept": 1},
        {"kept": 2},
    )


def test_a_host_of_several_workspaces_is_told_which(plugin: tuple[Any, Path]) -> None:
    """In each request, titles and summaries included; what is no id is left out."""
    profile, learnt = plugin
    for known, expected in (
        ("123", {"X-Databricks-Workspace-Id": "123"}),
        ("1\r\nX: y", None),
        (7, None),
    ):
        learnt.write_text(json.dumps({"models": {CLAUDE: {URL: {"workspace_id": known}}}}))
        _, title = profile.build_api_kwargs_extras(model=CLAUDE, base_url=URL)
        for fields in (request(profile, [user()])[1], title):
            assert fields.get("extra_headers") == expected
        assert "extra_headers" not in request(profile, [user()], model=GPT)[1]


def test_a_model_services_name_is_of_the_same_family(plugin: tuple[Any, Path]) -> None:
    profile, learnt = plugin
    url, service = (
        "https://adb-1.2.azuredatabricks.net/ai-gateway/mlflow/v1",
        "system.ai.claude-opus-4-7",
    )
    learnt.write_text(json.dumps({"models": {service: {url: {"max_tokens": 9, "cache": "all"}}}}))
    fields = request(profile, [user()], model=service, base_url=url)[1]
    assert (fields["messages"], fields["max_tokens"]) == ([user(marked("hello"))], 9)
    families = {
        "claude-opus-5": "claude",
        "gpt-6": "gpt",
        "gpt-oss-120b": "open",
        "kimi-k3": "open",
        "gemini-3-1-pro": "gemini",
    }
    assert {name: family(f"system.ai.{name}") for name in families} == families


def test_what_is_learnt_counts_from_the_next_request_on(plugin: tuple[Any, Path]) -> None:
    profile, learnt = plugin
    caps = []
    for text in (
        None,
        "",
        "{",
        "[]",
        '"x"',
        '{"models": 7}',
        json.dumps({"models": {CLAUDE: {URL: {"max_tokens": 9}}}}),
        "\udcff",
    ):
        if text is not None:
            learnt.write_text(text, errors="surrogateescape")
        caps.append(request(profile, [user()])[1].get("max_tokens"))
    assert caps == [None] * 6 + [9, None]
    learnt.write_text("[" * 100_000)
    assert request(profile, [user()])[1]["messages"] == [user(marked("hello"))]
    learnt.write_text('{"hosts": ["gateway.example"]}')
    assert "messages" in request(profile, [user()], base_url="https://gateway.example/openai")[1]


CONTENTS: list[Any] = [
    None,
    7,
    [None],
    [7],
    [{}],
    [{"text": None}],
    [{"text": 7}],
    {"a": 1},
    "\ud800",
    "x" * 10**6,
]
CALLS: list[Any] = [None, 7, "ab", [None], [{}], [{"id": []}] * 2]
IDS: list[Any] = [None, 7, [], {}]
ROLES: list[Any] = [*IDS, "", "developer"]
ODD: list[Any] = [None, 7, "x", [], {}, [None], [[]], SimpleNamespace()]
ODD += [[user(content)] for content in CONTENTS]
ODD += [[{**called("a", "b"), "tool_calls": calls}, tool("a"), tool("b")] for calls in CALLS]
ODD += [[called("a", "b"), {**tool("a"), "tool_call_id": odd}, tool("b")] for odd in IDS]
ODD += [[{"role": role, "content": "x"}] for role in ROLES]


@pytest.mark.parametrize("model", [CLAUDE, GPT])
@pytest.mark.parametrize("given", ODD, ids=range(len(ODD)))
def test_nothing_odd_raises_into_a_chat_or_changes_its_history(
    given: Any, model: str, plugin: tuple[Any, Path]
) -> None:
    before = copy.deepcopy(given)
    request(plugin[0], given, model=model)
    assert given == before


@pytest.mark.parametrize(
    "content", [["hi"], [None], [7], 7, {"a": 1}, [{"type": "text", "text": None}], [{"text": 7}]]
)
@pytest.mark.parametrize("model", [CLAUDE, GPT])
def test_an_odd_message_goes_as_it_is_and_the_others_are_adapted(
    content: Any, model: str, plugin: tuple[Any, Path]
) -> None:
    profile, learnt = plugin
    learnt.write_text(json.dumps({"models": {model: {URL: {"max_tokens": 9}}}}))
    given = [user(), user(content), called("a", content=["hi"]), tool("a", name="x")]
    fields = request(profile, given, model=model)[1]
    hello = user(marked("hello")) if model == CLAUDE else user()
    assert fields["messages"] == [hello, given[1], given[2], tool("a")]
    assert fields["max_tokens"] == 9


def test_what_cannot_be_read_at_all_still_carries_the_headers(plugin: tuple[Any, Path]) -> None:
    profile, learnt = plugin
    learnt.write_text(json.dumps({"models": {GPT: {URL: {"workspace_id": "123"}}}}))
    fields = request(profile, [{**called("a"), "tool_calls": 7}], model=GPT)[1]
    assert "messages" not in fields
    assert fields["extra_headers"] == {"X-Databricks-Workspace-Id": "123"}


def test_any_conversation_comes_through(plugin: tuple[Any, Path]) -> None:
    pytest.importorskip("hypothesis", reason="hypothesis is missing: it makes the conversations up")
    from hypothesis import given, settings
    from hypothesis import strategies as s

    leaf = s.none() | s.booleans() | s.integers() | s.text()
    part = s.fixed_dictionaries(
        {}, optional={"type": s.sampled_from(["text", "image_url"]) | leaf, "text": s.text() | leaf}
    )
    calls = (
        s.lists(
            s.fixed_dictionaries({}, optional={"id": s.sampled_from("abc") | leaf}) | leaf,
            max_size=3,
        )
        | leaf
    )
    fields = {
        "role": s.sampled_from(["system", "user", "assistant", "tool"]) | leaf,
        "content": s.text() | s.lists(part | leaf) | leaf,
        "tool_calls": calls,
        "tool_call_id": s.sampled_from("abc") | leaf,
        "name": leaf,
    }
    conversations = s.lists(s.fixed_dictionaries({}, optional=fields) | leaf, max_size=6)
    plugin[1].write_text(json.dumps({"models": {CLAUDE: {URL: {"cache": "all"}}}}))

    @settings(max_examples=200, deadline=None, database=None)
    @given(conversations, s.sampled_from([CLAUDE, GPT]))
    def holds(conversation: Any, model: str) -> None:
        before = copy.deepcopy(conversation)
        shaped = request(plugin[0], conversation, model=model)[1].get("messages", [])
        assert conversation == before
        assert json.dumps(shaped).count("cache_control") <= (4 if model == CLAUDE else 0)
        assert all(
            m["content"] for m in shaped if m.get("role") == "assistant" and m.get("tool_calls")
        )

    holds()


def test_it_stands_without_hermes_and_imports_nothing_else() -> None:
    names = [
        line.split()[1].split(".")[0]
        for source in (ROOT / "hermes" / "provider").glob("*.py")
        for line in source.read_text().splitlines()
        if re.match(r" *(import|from) [^.]", line)
    ]
    assert set(names) - set(sys.stdlib_module_names) == {"providers", "hermes_cli"}


def test_the_users_own_cap_stays_below_the_endpoints() -> None:
    url = "https://adb-1.2.azuredatabricks.net/serving-endpoints"
    learnt: dict[str, object] = {
        "models": {"databricks-claude-opus-4-6": {url: {"max_tokens": 25000}}}
    }
    for own, sent in ((0, 25000), (1000, 1000), (60000, 25000), ("many", 25000), (None, 25000)):
        asked = adapt([], "databricks-claude-opus-4-6", url, learnt | {"max_tokens": own})
        assert asked["max_tokens"] == sent
