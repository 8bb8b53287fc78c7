"""How a workspace's models answer a chat completion: what is cached, and what comes back."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from hermes.rules import CLAUDE

Body = dict[str, Any]
MINIMUM, LIFE, LOOK_BACK = 1024, 300.0, 20  # tokens, seconds, blocks; Anthropic's "Prompt caching"
CHARACTERS = 4  # a token, about


def messages_of(body: Body) -> list[Body]:
    """The messages of a request."""
    return [m for m in body.get("messages") or [] if isinstance(m, dict)]


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
            if marked and re.search(CLAUDE, body["model"]) and keys[-1][1] >= MINIMUM:
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
    """The prompt in the cache's order: tools, system, the rest; a text is one block."""
    yield from (dict(tool) for tool in body.get("tools") or [])
    for message in sorted(
        messages_of(body), key=lambda m: m.get("role") not in ("system", "developer")
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
    message: Body = {"role": "assistant", "content": f"{body['model']} through {base_url}: "}
    message["content"] += _question(body)
    if calls:
        message |= {"content": None, "tool_calls": [_call(i, c) for i, c in enumerate(calls)]}
    elif body.get("thinking"):  # so mlflow 3 reads it (types/responses.py): content is a list
        summary = [{"type": "summary_text", "text": "a thought", "signature": "s"}]
        thought = {"type": "reasoning", "summary": summary}
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


def _question(body: Body) -> str:
    """What the user said last."""
    said = [m for m in messages_of(body) if m.get("role") == "user"] or [{}]
    text = said[-1].get("content") or ""
    return " ".join(p.get("text", "") for p in text) if isinstance(text, list) else text


def _call(index: int, command: str) -> Body:
    """A tool call that runs a shell command."""
    function = {"name": "terminal", "arguments": json.dumps({"command": command})}
    id = f"call_{secrets.token_hex(4)}"
    return {"index": index, "id": id, "type": "function", "function": function}


def events(answer: Body) -> bytes:
    """A completion as server-sent events: a word a chunk, then the reason, then the usage."""
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
