"""What Databricks is known to refuse, as one table: what, of which models, where, in which words,
and who reported it.

Data only, and it imports nothing of ours. The stand-in of the tests refuses by it, `survey.py` asks
a workspace by it, and the table in docs/report.md is made of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Answer = tuple[int, dict[str, Any]]
# Where a rule holds. LEGACY is the gateway's own host, GATEWAY the workspace's `/ai-gateway/`,
# DIRECT its serving endpoints, LISTS its list of model services.
LEGACY, GATEWAY, DIRECT, LISTS = "legacy", "gateway", "direct", "lists"
CHAT = (LEGACY, GATEWAY, DIRECT)
# Whose models, by name.
CLAUDE, GEMINI = "claude", "gemini"
OPEN = "llama|qwen|gemma|gpt-oss|mixtral|mistral|dbrx|deepseek|kimi|glm"
Version = tuple[int, int]


@dataclass(frozen=True)
class Rule:
    """One refusal.

    Arguments:
        name: what options and tests call it.
        what: what is refused.
        words: the `message` of the answer; names in braces stand for what differs.
        source: who reported it.
        status: the HTTP status.
        code: the `error_code` of the answer.
        only: a regular expression for the names of the models that it holds for.
        but: one for the names of those that it does not hold for.
        since: the first version of a Claude that it holds for.
        before: the first version of a Claude that it does not hold for any more.
        where: on which surfaces.
        breaks: fields that break it, over a plain question; for a list, the fields of its query.
            Empty where no field does.
        keeps: fields that come as near as can be and keep it.
        unless: a rule that refuses `breaks` as well, where it holds.
    """

    name: str
    what: str
    words: str
    source: str
    status: int = 400
    code: str = "BAD_REQUEST"
    only: str = ""
    but: str = ""
    since: Version = (0, 0)
    before: Version = (99, 0)
    where: tuple[str, ...] = CHAT
    breaks: Mapping[str, Any] = field(default_factory=dict)
    keeps: Mapping[str, Any] = field(default_factory=dict)
    unless: str = ""

    def holds(self, model: str, surface: str) -> bool:
        """Whether it is about this model on this surface."""
        named = re.search(self.only, model) and not (self.but and re.search(self.but, model))
        return bool(named) and surface in self.where and self.since <= version(model) < self.before

    @property
    def is_list(self) -> bool:
        """Whether it is about a list, rather than a chat completion."""
        return self.where == (LISTS,)

    def answer(self, **differs: object) -> Answer:
        """The refusal as the workspace words it."""
        return self.status, {"error_code": self.code, "message": self.words.format(**differs)}

    def is_worded(self, message: str) -> bool:
        """Whether a message is in the words of this rule; any is, where these are not known."""
        pattern = ".+".join(map(re.escape, re.split(r"\{\w+\}", self.words)))
        return not self.words or re.fullmatch(pattern, message) is not None


def version(model: str) -> Version:
    """A Claude's version, whichever way round its name has it; (0, 0) where it has none."""
    found = re.search(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d)\b)?", model)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


# What breaks a rule: parts of a chat completion.
_USER = {"role": "user", "content": "hello"}
_MARK = {"cache_control": {"type": "ephemeral"}}
_DRAFT = "http://json-schema.org/draft-07/schema#"
_PARAMETERS = {"type": "object", "properties": {}}
_FUNCTION = {"name": "terminal", "description": "Runs a command.", "parameters": _PARAMETERS}


def _tool(**more: Any) -> dict[str, Any]:
    return {"type": "function", "function": _FUNCTION | more}


def _text(words: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": words}]


def _marked(words: str) -> list[dict[str, Any]]:
    return [block | _MARK for block in _text(words)]


def _called(content: Any, *ids: str) -> dict[str, Any]:
    function = {"name": "terminal", "arguments": "{}"}
    calls = [{"id": i, "type": "function", "function": function} for i in ids]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _done(call: str, content: Any = "done", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call, "content": content, **more}


def _round(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A question with tool calls after it, and the tool that they call."""
    return {"messages": [_USER, *messages], "tools": [_tool()], **more}


def _users(content: Any, times: int = 1) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}] * times}


def _thinks(budget: int, **more: Any) -> dict[str, Any]:
    return {"thinking": {"type": "enabled", "budget_tokens": budget}, "max_tokens": 1100, **more}


_ROUND = _round(_called(" ", "a"), _done("a"))


_SYSTEM_AI = {"parent": "schemas/system.ai"}
# How a login or a right that is missing is refused.
_DENIED: dict[str, Any] = {"status": 403, "code": "PERMISSION_DENIED"}
_FORBIDDEN: dict[str, Any] = {"status": 403, "code": "403"}
_REQUEST = [
    Rule(
        "empty-content",
        "an assistant message with tool_calls and empty content",
        "messages: text content blocks must be non-empty",
        "databricks-openai 0.18.0 sends one space instead; its PR 333 tells why",
        only=CLAUDE,
        breaks=_round(_called("", "a"), _done("a")),
        keeps=_ROUND,
    ),
    Rule(
        "strict",
        "strict in a tool's function, whatever its value",
        "tools.{i}.custom.strict: Extra inputs are not permitted",
        "databricks-openai takes it out; omnigent PR 730",
        but="gpt",
        breaks={"tools": [_tool(strict=False)]},
        keeps={"tools": [_tool()]},
    ),
    Rule(
        "name",
        "name in a message that is not a user's",
        "messages.{i}.name: not supported",
        "litellm llms/databricks/chat/transformation.py; databricks-langchain",
        breaks=_round(_called(" ", "a"), _done("a", name="terminal")),
        keeps=_ROUND,
    ),
    Rule(
        "tool-order",
        "a second tool message after one assistant message with two calls",
        "the message before a tool message must carry tool_calls",
        "litellm, the same file: it repeats the assistant message, one call each",
        but=CLAUDE,
        breaks=_round(_called(" ", "a", "b"), _done("a"), _done("b")),
        keeps=_round(_called(" ", "a"), _done("a"), _called(" ", "b"), _done("b")),
    ),
    Rule(
        "stream-options",
        "stream_options for a model of open weights",
        'Bad request: json: unknown field "stream_options"',
        "opencode 31156, continue 12936, lingua PR 133",
        only=OPEN,
        breaks={"stream": True, "stream_options": {"include_usage": True}},
        keeps={"stream": True},
    ),
    Rule(
        "gemini-stream-options",
        "stream_options for Gemini on direct serving",
        'Bad request: json: unknown field "stream_options"',
        "unity-gateway 491",
        only=GEMINI,
        where=(DIRECT,),
        breaks={"stream": True, "stream_options": {"include_usage": True}},
        keeps={"stream": True},
    ),
    Rule(
        "gemini-schema",
        "$schema or exclusiveMinimum in the schema of a tool, for Gemini on direct serving",
        'Invalid JSON payload received. Unknown name "{field}": Cannot find field.',
        "unity-gateway 491",
        only=GEMINI,
        where=(DIRECT,),
        breaks={"tools": [_tool(parameters=_PARAMETERS | {"$schema": _DRAFT})]},
        keeps={"tools": [_tool()]},
    ),
    Rule(
        "cap",
        "more max_tokens than the endpoint's own cap",
        "{field} ({asked}) cannot exceed {cap}",
        "ucode databricks.py, omnigent PR 6209, databricks-sdk-go 1183, mlflow PR 25360",
        breaks={"max_tokens": 10_000_000},
    ),
    Rule(
        "sampling",
        "temperature, top_p or top_k for Claude 4.7 and later",
        "Model us.anthropic.{name} does not support the {field} parameter.",
        "litellm PR 28115",
        only=CLAUDE,
        since=(4, 7),
        breaks={"temperature": 1},
    ),
    Rule(
        "reasoning-effort",
        "reasoning_effort for Claude",
        'json: unknown field "reasoning_effort"',
        "bifrost PR 6958, models.dev PR 2340",
        only=CLAUDE,
        breaks={"reasoning_effort": "high"},
    ),
    Rule(
        "thinking",
        "thinking for a model that is no Claude",
        'json: unknown field "thinking"',
        'Anthropic\'s "Extended thinking"',
        but=CLAUDE,
        breaks={"thinking": {"type": "adaptive"}},
    ),
    Rule(
        "thinking-adaptive",
        "adaptive thinking for a Claude before 4.6",
        "adaptive thinking is not supported on this model",
        'Anthropic\'s "Adaptive thinking"',
        only=CLAUDE,
        before=(4, 6),
        breaks={"thinking": {"type": "adaptive"}},
    ),
    Rule(
        "thinking-budget",
        "a budget for thinking below 1,024 or not below max_tokens",
        "thinking.enabled.budget_tokens: must be at least 1024 and less than max_tokens",
        'Anthropic\'s "Extended thinking"',
        only=CLAUDE,
        breaks=_thinks(1000),
        keeps=_thinks(1024),
        unless="thinking",
    ),
    Rule(
        "thinking-round",
        "thinking turned on while a tool round is open",
        "Expected `thinking` or `redacted_thinking`, but found `tool_use`.",
        'Anthropic\'s "Extended thinking"',
        only=CLAUDE,
        breaks=_round(_called(" ", "a"), _done("a"), **_thinks(1024)),
        keeps=_thinks(1024),
        unless="thinking",
    ),
    Rule(
        "cache-marks",
        "a cache mark for a model that is no Claude",
        'json: unknown field "cache_control"',
        "g3 PR 24",
        but=CLAUDE,
        breaks=_users(_marked("hello")),
        keeps=_users(_text("hello")),
    ),
    Rule(
        "cache-tool",
        "a cache mark inside a tool message's content",
        "messages.{i}.content.0.tool_result.content.{j}.cache_control: cache_control may not be "
        "specified within `tool_result.content`. Instead, place it directly on `tool_result`",
        "copilot-api 241; goose marks only system, user messages and the last tool",
        only=CLAUDE,
        breaks=_round(_called(" ", "a"), _done("a", _marked("done"))),
        keeps=_round(_called(" ", "a"), _done("a", _text("done"))),
        unless="cache-marks",
    ),
    Rule(
        "cache-empty",
        "a cache mark on an empty text",
        "cache_control cannot be set for empty text blocks",
        'Anthropic\'s "Prompt caching"',
        only=CLAUDE,
        breaks=_users(_marked("")),
        keeps=_users(_marked("hello")),
        unless="cache-marks",
    ),
    Rule(
        "cache-many",
        "more than four cache marks",
        "A maximum of 4 blocks with cache_control may be provided. Found {found}.",
        'Anthropic\'s "Prompt caching"',
        only=CLAUDE,
        breaks=_users(_marked("hello"), 5),
        keeps=_users(_marked("hello"), 4),
        unless="cache-marks",
    ),
    Rule(
        "unknown-field",
        "store, service_tier and other fields that the API does not document",
        'json: unknown field "{field}"',
        "openclaw PR 62230",
        breaks={"store": True},
    ),
]
_WORLD = [
    Rule(
        "retired",
        "the old name of a pay-per-token model on direct serving, where Unity Gateway is enforced",
        "Querying pay-per-token foundation model endpoint '{model}' is disabled for this "
        "workspace. Please use Unity Gateway.",
        "databricks-agent-skills, foundation models",
        where=(DIRECT,),
        **_DENIED,
    ),
    Rule(
        "retired-provisioned",
        "a provisioned-throughput foundation model on direct serving, where Unity Gateway is "
        "enforced",
        "Querying provisioned throughput foundation model endpoint '{model}' directly is disabled "
        "for this workspace. Please use Unity Gateway.",
        "databricks-agent-skills, apps",
        where=(DIRECT,),
        **_DENIED,
    ),
    Rule(
        "retired-endpoint",
        "the old name of a model on direct serving, in the words of some workspaces",
        "Endpoint '{model}' is no longer available. Please use Unity Gateway.",
        "databricks-agent-skills",
        where=(DIRECT,),
        **_DENIED,
    ),
    Rule(
        "retired-gateway",
        "the old name of a model on a gateway route, where Unity Gateway is enforced",
        "'{model}' is no longer available. Use Unity Catalog model services (v3).",
        "litellm PR 40492; omnigent",
        status=501,
        code="NOT_IMPLEMENTED",
        where=(LEGACY, GATEWAY),
    ),
    Rule(
        "retired-gateway-403",
        "the same as retired-gateway, as some workspaces answer it",
        "'{model}' is no longer available. Use Unity Catalog model services (v3).",
        "a guide that was confirmed against a live workspace",
        where=(LEGACY, GATEWAY),
        **_DENIED,
    ),
    Rule(
        "missing-model",
        "a model service that is not there, or on which EXECUTE is missing",
        "'{model}' does not exist",
        "CODA PR 140",
        status=404,
        code="NOT_FOUND",
        where=(LEGACY, GATEWAY),
        breaks={"model": "system.ai.no-such-model"},
    ),
    Rule(
        "missing-endpoint",
        "an endpoint that is not there; also every new name on direct serving",
        "The given endpoint does not exist, please retry after checking the specified model and "
        "version deployment exists.",
        "the trace that started this project",
        status=404,
        code="ENDPOINT_NOT_FOUND",
        breaks={"model": "no-such-model"},
    ),
    Rule(
        "no-entitlement",
        "a model to which this workspace is not entitled (Free Edition, some new ones)",
        "The endpoint is temporarily disabled due to a Databricks-set rate limit of 0.",
        "reports of Free Edition workspaces",
        **_DENIED,
    ),
    Rule(
        "busy",
        "more output tokens a minute than the workspace's tier has; max_tokens counts before "
        "admission",
        "REQUEST_LIMIT_EXCEEDED: Exceeded workspace output tokens per minute rate limit for "
        "{model}.",
        "Microsoft Learn, Foundation Model APIs rate limits and quotas",
        status=429,
        code="REQUEST_LIMIT_EXCEEDED",
    ),
    Rule(
        "disabled",
        "every gateway route of a workspace whose AI Gateway is off",
        "AI Gateway is not available for this workspace.",
        "a workspace of the classic world",
        status=404,
        code="FEATURE_DISABLED",
        where=(LEGACY, GATEWAY),
    ),
    Rule(
        "stale-token",
        "a token that has expired, was revoked or never was",
        "Invalid access token.",
        "the trace that started this project",
        where=(*CHAT, LISTS),
        **_FORBIDDEN,
    ),
    Rule(
        "foreign-token",
        "a token of another workspace",
        "Invalid Token",
        "ucode issue 84",
        where=(*CHAT, LISTS),
    ),
    Rule(
        "narrow-scope",
        "a token with the scope ai-gateway alone, on anything but the workspace's own gateway",
        "Provided OAuth token does not have required scopes: all-apis",
        "reports of ucode's users",
        where=(LEGACY, DIRECT),
        **_FORBIDDEN,
    ),
    Rule(
        "no-listing",
        "the lists of Unity Catalog with a token that may ask models but not list them",
        "Provided OAuth token does not have required scopes: unity-catalog",
        "reports of ucode's users",
        where=(LISTS,),
        **_FORBIDDEN,
    ),
    Rule(
        "page-size",
        "a list of model services with no page_size, or with one above what the workspace takes",
        "",
        "unity-gateway 345",
        status=499,
        code="CANCELLED",
        where=(LISTS,),
        breaks=_SYSTEM_AI,
        keeps=_SYSTEM_AI | {"page_size": 5},
    ),
    Rule(
        "list-timeout",
        "a list of model services while the workspace is busy",
        "The request timed out.",
        "unity-gateway 345",
        status=504,
        code="DEADLINE_EXCEEDED",
        where=(LISTS,),
    ),
    Rule(
        "no-schema",
        "model services of a schema that is not there; on sovereign clouds system.ai is none",
        "Schema '{schema}' does not exist.",
        "Unity Catalog's answer for other securables",
        status=404,
        code="SCHEMA_DOES_NOT_EXIST",
        where=(LISTS,),
        breaks={"parent": "schemas/system.no_such_schema", "page_size": 5},
        keeps=_SYSTEM_AI | {"page_size": 5},
    ),
]
RULES = {rule.name: rule for rule in (*_REQUEST, *_WORLD)}
REQUEST_RULES = tuple(rule.name for rule in _REQUEST)
