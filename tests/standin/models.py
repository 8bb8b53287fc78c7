"""How the models of a Databricks workspace answer a chat completion: what is refused, what is cached, what comes back.

A refusal is HTTP 400 in Databricks' own words. Each rule below is on unless `lenient` names it, everywhere ("strict") or
on one route ("strict@serving-endpoints").
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

Body = dict[str, Any]
MINIMUM, LIFE, LOOK_BACK, MARKS = (
    1024,
    300.0,
    20,
    4,
)  # tokens, seconds, blocks, marks; Anthropic's "Prompt caching"
CHARACTERS = 4  # a token, about
FIELDS = {  # what the chat completions API documents (docs.databricks.com, "Foundation model REST API reference")
    *(
        "model",
        "messages",
        "max_tokens",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "n",
        "tools",
    ),
    *(
        "tool_choice",
        "logprobs",
        "top_logprobs",
        "response_format",
        "reasoning_effort",
        "thinking",
        "max_completion_tokens",
    ),
    *("parallel_tool_calls", "strict", "user", "databricks_options"),
}


def family(model: str) -> str:
    """Whose model a name stands for: "claude", "gpt", "gemini", "open" (weights), or "" where the name does not tell."""
    names = {
        "claude": "claude",
        "gemini": "gemini",
        "open": "llama|qwen|gemma|gpt-oss|mixtral|mistral|dbrx|deepseek|kimi|glm",
        "gpt": "gpt-",
    }
    return next((name for name, words in names.items() if re.search(words, model)), "")


def version(model: str) -> tuple[int, int]:
    """A Claude's version, whichever way round its name has it; (0, 0) where it has none."""
    found = re.search(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d)\b)?", model)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


def refusal(
    body: Body, route: str, lenient: Container[str], caps: Mapping[str, int]
) -> tuple[int, dict[str, str]] | None:
    """Say no to a request as Databricks does.

    Arguments:
        body: the request's JSON.
        route: where it was sent, without the host.
        lenient: the rules that are off.
        caps: the most `max_tokens` by model.

    Returns:
        The HTTP status and the error; None where nothing is wrong with it.
    """
    who = family(body["model"])
    checks = {name: rule(body, who) for name, rule in RULES.items()} | {"cap": _cap(body, caps)}
    said = [words for name, words in checks.items() if words and not is_off(name, route, lenient)]
    return (400, {"error_code": "BAD_REQUEST", "message": said[0]}) if said else None


def is_off(name: str, route: str, lenient: Container[str]) -> bool:
    """Whether a rule is turned off on a route."""
    return name in lenient or f"{name}@{route}" in lenient


def _messages(body: Body) -> list[Body]:
    return [m for m in body.get("messages") or [] if isinstance(m, dict)]


def _empty_content(body: Body, who: str) -> str:
    for message in _messages(body) if who == "claude" else []:
        content = message.get("content", " ")
        texts = (
            [b.get("text") for b in content if b.get("type") == "text"]
            if isinstance(content, list)
            else [content]
        )
        if (
            message.get("role") == "assistant"
            and message.get("tool_calls")
            and not (texts and all(texts))
        ):
            return "messages: text content blocks must be non-empty"
    return ""


def _strict(body: Body, who: str) -> str:
    tools = enumerate(body.get("tools") or [])
    wrong = (
        i
        for i, tool in tools
        if "strict" in tool.get("function", {}) and "gpt" not in body["model"]
    )
    return next((f"tools.{i}.custom.strict: Extra inputs are not permitted" for i in wrong), "")


def _name(body: Body, who: str) -> str:
    wrong = (i for i, m in enumerate(_messages(body)) if "name" in m and m.get("role") != "user")
    return next((f"messages.{i}.name: not supported" for i in wrong), "")


def _tool_order(body: Body, who: str) -> str:
    before: Body = {}
    for message in _messages(body) if who != "claude" else []:
        if message.get("role") == "tool" and not before.get("tool_calls"):
            return "the message before a tool message must carry tool_calls"
        before = message
    return ""


def _stream_options(body: Body, who: str) -> str:
    return (
        'Bad request: json: unknown field "stream_options"'
        if who == "open" and "stream_options" in body
        else ""
    )


def _cap(body: Body, caps: Mapping[str, int]) -> str:
    for name in ("max_tokens", "max_completion_tokens"):
        asked, cap = body.get(name) or 0, caps.get(body["model"])
        if cap is not None and asked > cap:
            return f"{name} ({asked}) cannot exceed {cap}"
    return ""


def _sampling(body: Body, who: str) -> str:
    if who == "claude" and version(body["model"]) >= (4, 7):
        name = body["model"].removeprefix("databricks-")
        wrong = (field for field in ("temperature", "top_p", "top_k") if field in body)
        return next(
            (
                f"Model us.anthropic.{name} does not support the {field} parameter."
                for field in wrong
            ),
            "",
        )
    return ""


def _reasoning_effort(body: Body, who: str) -> str:
    return (
        'json: unknown field "reasoning_effort"'
        if who == "claude" and "reasoning_effort" in body
        else ""
    )


def _thinking(body: Body, who: str) -> str:
    asked = body.get("thinking")
    if asked is None:
        return ""
    if who != "claude":
        return 'json: unknown field "thinking"'
    budget, most = (
        asked.get("budget_tokens", 0),
        body.get("max_tokens") or body.get("max_completion_tokens") or 4096,
    )
    if asked.get("type") == "adaptive" and version(body["model"]) < (4, 6):
        return "adaptive thinking is not supported on this model"
    if asked.get("type") == "enabled" and not 1024 <= budget < most:
        return "thinking.enabled.budget_tokens: must be at least 1024 and less than max_tokens"
    open_round = _messages(body)[-1:] and _messages(body)[-1].get("role") == "tool"
    if asked.get("type") == "enabled" and open_round:
        return "Expected `thinking` or `redacted_thinking`, but found `tool_use`."
    return ""


def _marked(content: Any) -> list[int]:
    return (
        [i for i, block in enumerate(content) if "cache_control" in block]
        if isinstance(content, list)
        else []
    )


def _cache_tool(body: Body, who: str) -> str:
    for i, message in enumerate(_messages(body)):
        for j in _marked(message.get("content")) if message.get("role") == "tool" else []:
            inside = "`tool_result.content`. Instead, place it directly on `tool_result`"
            where = f"messages.{i}.content.0.tool_result.content.{j}.cache_control"
            return f"{where}: cache_control may not be specified within {inside}"
    return ""


def _cache_marks(body: Body, who: str) -> str:
    marks = sum("cache_control" in tool for tool in body.get("tools") or [])
    marks += sum(len(_marked(m.get("content"))) for m in _messages(body))
    if marks and who != "claude":
        return 'json: unknown field "cache_control"'
    empty = any(
        not m["content"][i].get("text") for m in _messages(body) for i in _marked(m.get("content"))
    )
    if empty:
        return "cache_control cannot be set for empty text blocks"
    return (
        f"A maximum of {MARKS} blocks with cache_control may be provided. Found {marks}."
        if marks > MARKS
        else ""
    )


def _unknown_field(body: Body, who: str) -> str:
    return next(
        (f"json: unknown field {json.dumps(name)}" for name in body if name not in FIELDS), ""
    )


RULES: dict[str, Callable[[Body, str], str]] = {
    "empty-content": _empty_content,  # databricks-openai 0.18.0 sends one space instead; its PR 333 tells why
    "strict": _strict,  # databricks-openai takes it out; omnigent PR 730
    "name": _name,  # litellm llms/databricks/chat/transformation.py; databricks-langchain
    "tool-order": _tool_order,  # litellm, the same file: it repeats the assistant message, one call each
    "stream-options": _stream_options,  # opencode 31156, continue 12936, lingua PR 133
    "sampling": _sampling,  # litellm PR 28115
    "reasoning-effort": _reasoning_effort,  # bifrost PR 6958, models.dev PR 2340
    "thinking": _thinking,  # Anthropic's "Extended thinking" and "Adaptive thinking"
    "cache-tool": _cache_tool,  # copilot-api 241; goose marks only system, user messages and the last tool
    "cache-marks": _cache_marks,  # Anthropic's "Prompt caching"; g3 PR 24 for the others' models
    "unknown-field": _unknown_field,  # openclaw PR 62230
}
NAMES = (
    *RULES,
    "cap",  # ucode databricks.py, omnigent PR 6209, databricks-sdk-go 1183
    "missing-model",  # CODA PR 140
)


class PromptCache:
    """What has been written to the prompt cache, by model, and when it was last used."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self._used: dict[str, float] = {}

    def forget(self) -> None:
        """Empty it."""
        self._used.clear()

    def count(self, body: Body) -> tuple[int, int, int]:
        """Take one request.

        Arguments:
            body: the request's JSON.

        Returns:
            Its tokens: at the plain price, read from the cache, written to it.
        """
        now, total, keys, marks = self.clock(), 0, list[tuple[str, int]](), list[int]()
        digest = hashlib.sha256(str(body["model"]).encode())
        for block in _blocks(body):
            marked = block.pop("cache_control", None)
            text = json.dumps(block, sort_keys=True)
            digest.update(text.encode())
            total += len(text)
            keys.append((digest.hexdigest(), total // CHARACTERS))
            if marked and family(body["model"]) == "claude" and keys[-1][1] >= MINIMUM:
                marks.append(len(keys))
        read = written = 0
        for mark in marks:
            for key, tokens in reversed(keys[max(0, mark - LOOK_BACK) : mark]):
                if now - self._used.get(key, -LIFE) < LIFE:
                    self._used[key] = now
                    read = max(read, tokens)
                    break
            written = max(written, keys[mark - 1][1])
        self._used |= {keys[mark - 1][0]: now for mark in marks}
        written = max(written, read) - read
        return total // CHARACTERS - read - written, read, written


def _blocks(body: Body) -> Iterator[Body]:
    """The prompt in the cache's order, tools first, then system, then the rest; a text is one block, however it is sent."""
    yield from (dict(tool) for tool in body.get("tools") or [])
    for message in sorted(
        _messages(body), key=lambda m: m.get("role") not in ("system", "developer")
    ):
        content = message.get("content")
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
        for block in blocks:
            yield {
                **block,
                "role": message.get("role"),
                "tool_call_id": message.get("tool_call_id"),
            }
        yield from (dict(call) for call in message.get("tool_calls") or [])


def completion(base_url: str, body: Body, counted: tuple[int, int, int], calls: list[str]) -> Body:
    """Answer a request.

    Arguments:
        base_url: where it was sent; the answer says so.
        body: the request's JSON.
        counted: its tokens, from `PromptCache.count`.
        calls: shell commands to ask for; none: an answer in words.

    Returns:
        The completion.
    """
    said = [m for m in _messages(body) if m.get("role") == "user"] or [{}]
    text = said[-1].get("content") or ""
    if isinstance(text, list):
        text = " ".join(part.get("text", "") for part in text)
    message: Body = {"role": "assistant", "content": f"{body['model']} through {base_url}: {text}"}
    if calls:
        functions = [
            {"name": "terminal", "arguments": json.dumps({"command": command})} for command in calls
        ]
        asked = [
            {
                "index": i,
                "id": f"call_{secrets.token_hex(4)}",
                "type": "function",
                "function": function,
            }
            for i, function in enumerate(functions)
        ]
        message = {"role": "assistant", "content": None, "tool_calls": asked}
    elif body.get("thinking"):  # so mlflow 3 reads it (types/responses.py): content is a list
        thought = {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "a thought", "signature": "s"}],
        }
        message["content"] = [thought, {"type": "text", "text": message["content"]}]
    usage = {
        "prompt_tokens": sum(counted),
        "completion_tokens": 1,
        "total_tokens": sum(counted) + 1,
    }
    if counted[1] or counted[2]:  # databricks-ai-bridge 446
        usage |= {"cache_creation_input_tokens": counted[2], "cache_read_input_tokens": counted[1]}
    return {
        "id": f"chatcmpl-{secrets.token_hex(8)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "choices": [
            {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
        ],
        "usage": usage,
    }


def events(answer: Body) -> bytes:
    """A completion as the server-sent events of the streaming API: a word a chunk, then the reason, then the usage."""
    shared = {k: answer[k] for k in ("id", "created", "model")} | {
        "object": "chat.completion.chunk"
    }
    message = answer["choices"][0]["message"]
    content = message["content"]
    deltas: list[Body] = [{"role": "assistant", "content": ""}]
    if isinstance(content, list):
        deltas += [{"content": [block]} for block in content[:-1]]
        content = content[-1]["text"]
    if message.get("tool_calls"):
        deltas += [{"tool_calls": [call]} for call in message["tool_calls"]]
    else:
        deltas += [{"content": word + " "} for word in content.split(" ")]
        deltas[-1]["content"] = deltas[-1]["content"][:-1]
    choices: list[list[Body]] = [[{"index": 0, "delta": d, "finish_reason": None}] for d in deltas]
    choices += [
        [{"index": 0, "delta": {}, "finish_reason": answer["choices"][0]["finish_reason"]}],
        [],
    ]
    lines = [json.dumps(shared | {"choices": choice}) for choice in choices]
    lines[-1] = json.dumps(shared | {"choices": [], "usage": answer["usage"]})
    return b"".join(f"data: {line}\n\n".encode() for line in [*lines, "[DONE]"])
