"""Finds in a chat completion what breaks a rule of `hermes/rules.py`, so that it can be refused.

Every rule of a request is on unless `lenient` names it, everywhere ("strict") or on one route
("strict@serving-endpoints").
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

from hermes.rules import REQUEST_RULES, Answer, Rule
from tests.standin.models import Body, messages_of

MARKS = 4  # Anthropic's "Prompt caching"
# What the chat completions API documents: docs.databricks.com, Foundation model REST API reference.
_FIELDS = """
databricks_options logprobs max_completion_tokens max_tokens messages model n parallel_tool_calls
reasoning_effort response_format stop stream stream_options strict temperature thinking
tool_choice tools top_k top_logprobs top_p user
"""
FIELDS = frozenset(_FIELDS.split())
NAMES = (*REQUEST_RULES, "missing-model")  # the rules that can be turned off
Differs = dict[str, Any]  # what stands for the names in braces of a rule's words


def is_off(name: str, route: str, lenient: Container[str]) -> bool:
    """Whether a rule is turned off on a route."""
    return name in lenient or f"{name}@{route}" in lenient


def refusal(
    body: Body,
    route: str,
    surface: str,
    lenient: Container[str],
    caps: Mapping[str, int],
    rules: Mapping[str, Rule],
) -> Answer | None:
    """Refuse a request as Databricks does.

    Arguments:
        body: the request's JSON.
        route: where it was sent, without the host.
        surface: what that is, as `hermes/rules.py` calls it.
        lenient: the rules that are off.
        caps: the most `max_tokens` by model.
        rules: all of them by name.

    Returns:
        The HTTP status and the error; None where nothing is wrong with it.
    """
    finds = FINDS | {"cap": lambda body: _cap(body, caps)}
    for name in REQUEST_RULES:
        rule = rules[name]
        if rule.holds(body["model"], surface) and not is_off(name, route, lenient):
            differs = finds[name](body)
            if differs is not None:
                return rule.answer(**differs)
    return None


def _empty_content(body: Body) -> Differs | None:
    silent = (m for m in messages_of(body) if m.get("role") == "assistant" and m.get("tool_calls"))
    return {} if any(_is_empty(message.get("content", " ")) for message in silent) else None


def _is_empty(content: Any) -> bool:
    if not isinstance(content, list):
        return not content
    texts = [block.get("text") for block in content if block.get("type") == "text"]
    return not texts or not all(texts)


def _strict(body: Body) -> Differs | None:
    tools = enumerate(body.get("tools") or [])
    return next(({"i": i} for i, tool in tools if "strict" in tool.get("function", {})), None)


def _name(body: Body) -> Differs | None:
    named = (i for i, m in enumerate(messages_of(body)) if "name" in m and m.get("role") != "user")
    return next(({"i": i} for i in named), None)


def _tool_order(body: Body) -> Differs | None:
    before: Body = {}
    for message in messages_of(body):
        if message.get("role") == "tool" and not before.get("tool_calls"):
            return {}
        before = message
    return None


def _field(*names: str) -> Callable[[Body], Differs | None]:
    """Finds the first of these fields."""

    def find(body: Body) -> Differs | None:
        bare = body["model"].removeprefix("databricks-").removeprefix("system.ai.")
        return next(({"field": name, "name": bare} for name in names if name in body), None)

    return find


def _schema(body: Body) -> Differs | None:
    for tool in body.get("tools") or []:
        held = _keys(tool.get("function", {}).get("parameters"))
        for key in ("$schema", "exclusiveMinimum"):
            if key in held:
                return {"field": key}
    return None


def _keys(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(_keys, schema))
    return set(schema).union(*map(_keys, schema.values())) if isinstance(schema, dict) else set()


def _cap(body: Body, caps: Mapping[str, int]) -> Differs | None:
    cap = caps.get(body["model"])
    for name in ("max_tokens", "max_completion_tokens"):
        asked = body.get(name) or 0
        if cap is not None and asked > cap:
            return {"field": name, "asked": asked, "cap": cap}
    return None


def _thinking(body: Body) -> Body:
    return body.get("thinking") or {}


def _adaptive(body: Body) -> Differs | None:
    return {} if _thinking(body).get("type") == "adaptive" else None


def _budget(body: Body) -> Differs | None:
    most = body.get("max_tokens") or body.get("max_completion_tokens") or 4096
    wrong = not 1024 <= _thinking(body).get("budget_tokens", 0) < most
    return {} if _thinking(body).get("type") == "enabled" and wrong else None


def _open_round(body: Body) -> Differs | None:
    last = [m.get("role") for m in messages_of(body)][-1:]
    return {} if _thinking(body).get("type") == "enabled" and last == ["tool"] else None


def _marked(content: Any) -> list[int]:
    blocks = enumerate(content) if isinstance(content, list) else ()
    return [i for i, block in blocks if "cache_control" in block]


def _cache_tool(body: Body) -> Differs | None:
    for i, message in enumerate(messages_of(body)):
        for j in _marked(message.get("content")) if message.get("role") == "tool" else []:
            return {"i": i, "j": j}
    return None


def _marks(body: Body) -> int:
    tools = sum("cache_control" in tool for tool in body.get("tools") or [])
    return tools + sum(len(_marked(m.get("content"))) for m in messages_of(body))


def _cache_empty(body: Body) -> Differs | None:
    marked = (m["content"][i] for m in messages_of(body) for i in _marked(m.get("content")))
    return {} if any(not block.get("text") for block in marked) else None


def _unknown_field(body: Body) -> Differs | None:
    return next(({"field": name} for name in body if name not in FIELDS), None)


FINDS: dict[str, Callable[[Body], Differs | None]] = {
    "empty-content": _empty_content,
    "strict": _strict,
    "name": _name,
    "tool-order": _tool_order,
    "stream-options": _field("stream_options"),
    "gemini-stream-options": _field("stream_options"),
    "gemini-schema": _schema,
    "sampling": _field("temperature", "top_p", "top_k"),
    "reasoning-effort": _field("reasoning_effort"),
    "thinking": _field("thinking"),
    "thinking-adaptive": _adaptive,
    "thinking-budget": _budget,
    "thinking-round": _open_round,
    "cache-tool": _cache_tool,
    "cache-marks": lambda body: {} if _marks(body) else None,
    "cache-empty": _cache_empty,
    "cache-many": lambda body: {"found": _marks(body)} if _marks(body) > MARKS else None,
    "unknown-field": _unknown_field,
}
