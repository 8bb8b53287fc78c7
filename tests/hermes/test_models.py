"""hermes/models.py: names, which model stands in for which, and the lists of a workspace."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from hermes.models import (
    Catalog,
    Services,
    is_same,
    is_usable,
    list_services,
    names_of,
    ranked,
    read_endpoints,
    read_services,
    read_window,
    read_windows,
    tier_of,
)

HOST = "https://adb-1.2.azuredatabricks.net"
MLFLOW, NATIVE = "mlflow/v1/chat/completions", "openai/v1/chat/completions"
OWN = f"{HOST}/ai-gateway/mlflow/v1"


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("databricks-claude-opus-4-7", ("databricks-claude-opus-4-7", "system.ai.claude-opus-4-7")),
        ("system.ai.claude-opus-4-7", ("databricks-claude-opus-4-7", "system.ai.claude-opus-4-7")),
        ("my-endpoint", ("my-endpoint", "")),
        ("main.ai.team-model", ("", "main.ai.team-model")),
        ("main.ai", ("main.ai", "")),
        ("databricks-", ("databricks-", "")),
        ("a.b.c.d", ("a.b.c.d", "")),
    ],
)
def test_what_a_model_is_called(model: str, names: tuple[str, str]) -> None:
    assert names_of(model) == names
    assert all(is_same(model, name) for name in names if name)


@pytest.mark.parametrize(
    ("model", "tier", "usable"),
    [
        ("databricks-claude-opus-4-7", "opus", True),
        ("system.ai.claude-haiku-4-5", "haiku", True),
        ("databricks-claude-3-7-sonnet", "sonnet", True),
        ("system.ai.gpt-6", "gpt", True),
        ("system.ai.gpt-5-3-codex", "", False),
        ("databricks-gpt-5-pro", "", False),
        ("databricks-gpt-5-prose", "gpt", True),
        ("system.ai.gemini-3-1-pro", "gemini", True),
        ("databricks-gpt-oss-120b", "", False),
        ("system.ai.kimi-k3", "", False),
        ("my-opus", "", True),
    ],
)
def test_which_models_may_stand_in(model: str, tier: str, usable: bool) -> None:
    assert (tier_of(model), is_usable(model)) == (tier, usable)


GIVEN = re.findall(
    r"\S+",
    """claude-haiku-4-5 claude-opus-4-7 claude-opus-4-8 claude-opus-5 claude-sonnet-4-6 claude-sonnet-5 gemini-2-5-flash
gemini-3-1-pro gpt-5 gpt-5-1 gpt-5-mini gpt-6 gpt-oss-120b kimi-k3""",
)


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ("claude-opus-4-7", "opus-5 opus-4-8 sonnet-5 sonnet-4-6 haiku-4-5 gpt-6 gpt-5-1 gpt-5 gpt-5-mini gemini-3"),
        ("claude-sonnet-4-5", "sonnet-5 sonnet-4-6 haiku-4-5 opus-5"),
        ("claude-haiku-3-5", "haiku-4-5 sonnet-5 sonnet-4-6 opus-5"),
        ("gpt-4", "gpt-6 gpt-5-1 gpt-5 gpt-5-mini opus-5"),
        ("gemini-2", "gemini-3-1-pro gemini-2-5-flash opus-5"),
        ("kimi-k3", "opus-5 opus-4-8 opus-4-7 sonnet-5"),
    ],
)  # fmt: skip
def test_the_newest_of_the_same_tier_first(wanted: str, first: str) -> None:
    found = ranked([f"system.ai.{name}" for name in GIVEN], f"databricks-{wanted}")
    assert [w in name for w, name in zip(first.split(), found, strict=False)].count(False) == 0
    assert not [name for name in found if "oss" in name or "kimi" in name]


def test_of_two_names_of_one_model_the_first_stays() -> None:
    given = ["system.ai.gpt-6", "databricks-gpt-6", "main.ai.gpt-9", "team-opus"]
    assert ranked(given, "my-endpoint") == ["system.ai.gpt-6"]


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("Claude has a context window of 1M tokens.", 1_000_000),
        ("... a context length of up to 131,072.", 131_072),
        ("with a 200K context window", 200_000),
        ("a 1 million token context window", 1_000_000),
        ("A 128K-token context length", 128_000),
        ("context window of 0.4M", 400_000),
        ("a context window of 1.2.3K", 0),
        ("a 1.2.3K context window", 0),
        ("a context window of 3 tokens", 0),
        ("a context window of 9000000M tokens", 0),
        ("a large context window", 0),
        ("None", 0),
    ],
)
def test_the_window_in_a_description(text: str, window: int) -> None:
    assert read_window(text) == window


def test_only_chat_endpoints_that_are_ready() -> None:
    ready, task = {"ready": "READY"}, "llm/v1/chat"
    listed: list[Any] = [
        {"name": "b", "task": task, "state": ready},
        {"name": "starting", "task": task, "state": {"ready": "NOT_READY"}},
        {"name": "embeds", "task": "llm/v1/embeddings", "state": ready},
        {"name": "a", "task": task, "state": ready},
        {"name": 7, "task": task, "state": ready},
        {"name": "odd", "task": task, "state": 7},
        None,
    ]
    assert read_endpoints(json.dumps({"endpoints": listed}).encode()) == ["a", "b"]


@pytest.mark.parametrize(
    "odd",
    ["[]", "{}", '{"endpoints": [1]}', '{"endpoints": 3}', "<html>", "[" * 100_000, "\xff",
     '{"endpoints": [{"name": "databricks-x", "config": {"served_entities": [7, {"foundation_model": 7}]}}]}'],
)  # fmt: skip
def test_a_list_that_cannot_be_read_is_empty(odd: str) -> None:
    body = odd.encode("latin-1")
    assert read_endpoints(body) == []
    assert not any(read_windows(body).values())
    assert read_services(json.loads('{"model_services": [7, {"name": 7}, {}]}')) == {}


# --- The list of model services ---------------------------------------------------------------------------------------

Page = tuple[int, Any]


def pages(*answers: Page) -> tuple[Callable[[str], tuple[int, bytes]], list[str]]:
    """A workspace that answers its list so, and what it was asked."""
    asked, left = list[str](), list(answers)

    def get(url: str) -> tuple[int, bytes]:
        asked.append(url.partition("?")[2])
        status, body = left.pop(0) if len(left) > 1 else left[0]
        return status, body if isinstance(body, bytes) else json.dumps(body).encode()

    return get, asked


def page(*names: str, more: str = "") -> Page:
    found = [{"name": f"model-services/{n}", "supported_api_types": [MLFLOW]} for n in names]
    return 200, {"model_services": found, **({"next_page_token": more} if more else {})}


@pytest.mark.parametrize(
    ("answers", "found", "complete", "sizes"),
    [
        ([page("a", "b")], "ab", True, "100"),
        ([page(more="x"), page("a")], "a", True, "100 100"),
        ([(499, {}), page("a", more="x"), (504, {}), page("b")], "ab", True, "100 25 25 5"),
        ([(400, {}), (499, {}), (504, {})], "", False, "100 25 5"),
        ([(403, {"message": "required scopes: unity-catalog"})], "", False, "100"),
        ([(404, {})], "", True, "100"),
        ([(200, {})], "", True, "100"),
        ([(200, b"<html>")], "", False, "100"),
        ([page("a", more="x"), (0, b"timed out")], "a", False, "100 100"),
        ([page("a", more="x")], "a", False, " ".join(["100"] * 40)),
    ],
)
def test_services_are_listed_in_pages_as_large_as_are_taken(
    answers: list[Page], found: str, complete: bool, sizes: str
) -> None:
    get, asked = pages(*answers)
    assert list_services(get, HOST) == Services(
        {name: frozenset([MLFLOW]) for name in found}, complete
    )
    assert [query.split("page_size=")[1].split("&")[0] for query in asked] == sizes.split()
    assert all(query.startswith("parent=schemas%2Fsystem.ai&") for query in asked)


# --- A workspace's catalog --------------------------------------------------------------------------------------------


def catalog(**lists: Page) -> Catalog:
    """A workspace with these lists; the others are refused."""
    by_end = {"serving-endpoints": "endpoints", "foundation-models": "foundations"}

    def get(url: str) -> tuple[int, bytes]:
        kind = next((k for end, k in by_end.items() if url.endswith(end)), "services")
        status, body = lists.get(kind, (403, {}))
        return status, json.dumps(body).encode()

    return Catalog(HOST, get)


def service(name: str, *types: str) -> dict[str, Any]:
    return {"name": f"model-services/{name}", "supported_api_types": [*types]}


SERVICES = (200, {"model_services": [service("system.ai.gpt-6", MLFLOW, NATIVE), service("system.ai.claude-opus-5", MLFLOW),
            service("system.ai.gpt-5-3-codex", "openai/v1/responses"), service("system.ai.kimi-k3", MLFLOW)]})  # fmt: skip


@pytest.mark.parametrize(
    ("lists", "model", "on_mlflow", "on_native"),
    [
        ({"services": SERVICES}, "system.ai.gpt-6", True, True),
        ({"services": SERVICES}, "system.ai.claude-opus-5", True, False),
        ({"services": SERVICES}, "system.ai.claude-opus-4-7", False, False),
        ({"services": SERVICES}, "main.ai.team-model", True, True),
        ({"services": (404, {})}, "system.ai.claude-opus-4-7", False, False),
        ({}, "system.ai.claude-opus-4-7", True, False),
        ({}, "system.ai.gpt-6", True, True),
    ],
)
def test_a_route_is_asked_for_what_lists_say_it_has_or_where_they_say_nothing(
    lists: dict[str, Page], model: str, on_mlflow: bool, on_native: bool
) -> None:
    found = catalog(**lists)
    assert found.may_serve(OWN, model) is on_mlflow
    assert found.may_serve(f"{HOST}/ai-gateway/openai/v1", model) is on_native


def test_what_is_offered_and_how_long_its_window_is() -> None:
    names = ["databricks-claude-opus-4-6", "databricks-meta-llama-3-3-70b-instruct", "my-endpoint"]
    endpoints = [
        {"name": n, "task": "llm/v1/chat", "state": {"ready": "READY"}} for n in names
    ]  # fmt: skip
    described = {"foundation_model": {"description": "a context window of 1M tokens"}}
    foundations = [
        {"name": n, "config": {"served_entities": [described]}}
        for n in ("databricks-claude-opus-4-6", "databricks-gpt-6")
    ]
    found = catalog(
        services=SERVICES,
        endpoints=(200, {"endpoints": endpoints}),
        foundations=(200, {"endpoints": foundations}),
    )
    direct = f"{HOST}/serving-endpoints"
    old = {"databricks-claude-opus-4-6": 1_000_000, "my-endpoint": 0}
    assert found.offered(direct, services=False, old_names=True) == old
    assert found.offered(direct, services=False, old_names=False) == {"my-endpoint": 0}
    new = {"system.ai.claude-opus-5": 0, "system.ai.gpt-6": 1_000_000}
    assert found.offered(OWN, services=True, old_names=False) == new
    opus, gpt = new
    best = [opus, "databricks-claude-opus-4-6", gpt]
    assert found.substitutes("databricks-claude-opus-4-7") == best
