"""Hermes's own plugin: what it sends to a Databricks host, as Databricks takes it; to any other
host, as ever.

Setup copies this folder to `~/.hermes/plugins/model-providers/databricks/`; Hermes imports it there
at first use, in its own Python. It stands in for Hermes's bundled profile "custom", and keeps what
that does. What setup learnt of this workspace is in `learnt.json` beside it, read anew for each
request:

    {"hosts": ["gateway.example"],
     "max_tokens": 4096,
     "models": {"<model>": {"<base url>":
         {"max_tokens": 25000, "cache": "all" | "no-tools" | "none", "workspace_id": "123"}}}}

`hosts` are Databricks' too, though their names do not tell. `max_tokens` at the top is the user's
own cap, that of a place the most that its endpoint takes; `cache` is where it takes cache marks, in
all messages or in all but tools'; `workspace_id` is named where a host serves
several workspaces. A model is called what it is called on that route: `databricks-<model>` or
`system.ai.<model>`. Nothing here raises into a chat: what cannot be adapted is sent as it was.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import sys
import threading
from importlib.util import module_from_spec, spec_from_file_location
from itertools import takewhile
from pathlib import Path
from typing import Any

from .keys import current_headers

Message = dict[str, Any]

# Host names that end so are Databricks': workspaces, and gateways whichever their form.
DOMAINS = "azuredatabricks.net azuredatabricks.us databricks.azure.us databricks.azure.cn"
DOMAINS += " cloud.databricks.com gcp.databricks.com databricks.us cloud.databricks.mil"
NAMES = tuple(
    f"custom:databricks-{name}{n}"
    for name in ("gateway", "direct", "fallback")
    for n in ("", "-2", "-3")
)  # what the fallback chain asks for
MARK = {"cache_control": {"type": "ephemeral"}}


def adapt(messages: list[Message], model: str, base_url: str, learnt: Any = None) -> dict[str, Any]:
    """Shape a conversation as Databricks takes it; what is given stays as it is.

    Arguments:
        messages: the conversation, in the shape of OpenAI's chat completions.
        model: the model's name.
        base_url: where it is asked.
        learnt: what `learnt.json` holds.

    Returns:
        The fields of the request to set: `messages`, and the cap on output tokens where the
            endpoint has one.
    """
    facts = _facts(learnt, model, base_url)
    shaped, cap = [_plain(message) for message in messages], facts.get("max_tokens")
    claude = "claude" in model.lower()  # the others' models refuse cache marks
    request: dict[str, Any] = {
        "messages": _cached(shaped, facts.get("cache")) if claude else _one_call_each(shaped)
    }
    own = learnt.get("max_tokens") if isinstance(learnt, dict) else None
    if type(cap) is int and cap > 0:
        request[cap_field(model)] = min(cap, own) if type(own) is int and own > 0 else cap
    return request


def cap_field(model: str) -> str:
    """The field in which Hermes itself caps the output tokens of a model."""
    newer = re.match(r"(.*/)?(gpt-4o|gpt-4\.1|gpt-5|o[134])", model.strip().lower())
    return "max_completion_tokens" if newer else "max_tokens"


def family(model: str) -> str:
    """Whose model a name stands for: "claude", "gpt", "gemini", or "open" for all others."""
    name = model.lower()
    if "gpt-oss" in name:
        return "open"
    return next((f for f in ("claude", "gpt", "gemini") if f in name), "open")


def is_databricks(base_url: str, learnt: Any = None) -> bool:
    """Tell whether a URL is a workspace's or an AI Gateway's, by its host."""
    found = re.match(r"https?://([\w.-]+?)\.?(:\d+)?([/?#]|$)", base_url, re.IGNORECASE)
    host = found[1].lower() if found else ""
    hosts = learnt.get("hosts") if isinstance(learnt, dict) else None
    own = isinstance(hosts, list) and host in hosts
    return host != "" and (own or host.endswith(tuple(f".{domain}" for domain in DOMAINS.split())))


def _facts(learnt: Any, model: str, base_url: str) -> dict[str, Any]:
    for key in ("models", model, base_url.rstrip("/")):
        learnt = learnt.get(key) if isinstance(learnt, dict) else None
    return learnt if isinstance(learnt, dict) else {}


def _plain(message: Message) -> Message:
    """A message without a `name`, which only a user's may have, and with no empty text beside tool
    calls.
    """
    role = message.get("role")
    kept = {key: value for key, value in message.items() if key != "name" or role == "user"}
    if role == "assistant" and message.get("tool_calls"):
        # One space, as the vendor's own client has it: databricks-openai 0.18.0.
        kept["content"] = _not_empty(message.get("content")) or " "
    return kept


def _not_empty(content: Any) -> Any:
    """Content without the parts that are empty text."""
    if not isinstance(content, list):
        return content
    return [part for part in content if part and not _is_empty_text(part)]


def _is_empty_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and not part.get("text")


def _one_call_each(messages: list[Message]) -> list[Message]:
    """Several calls of one message as one message each, before its answer; a list that does not
    pair up stays.
    """
    shaped, i = list[Message](), 0
    while i < len(messages):
        message, i = messages[i], i + 1
        answers = list(takewhile(lambda m: m.get("role") == "tool", messages[i:]))
        calls = {call.get("id"): call for call in message.get("tool_calls") or []}
        ids = [answer.get("tool_call_id") for answer in answers]
        if len(calls) > 1 and set(ids) == set(calls) and len(ids) == len(calls):
            i += len(answers)
            for n, answer in enumerate(answers):
                content = " " if n else message.get("content")
                shaped += [message | {"content": content, "tool_calls": [calls[ids[n]]]}, answer]
        else:
            shaped.append(message)
    return shaped


def _cached(messages: list[Message], where: Any) -> list[Message]:
    """The messages with cache marks, four at most: the system's, the user's last two, and the
    last tool's where the endpoint takes it.
    """
    left = {} if where == "none" else {"system": 1, "user": 2, "tool": int(where == "all")}
    shaped = list(messages)
    for i, message in reversed(list(enumerate(messages))):
        role, content = message.get("role"), message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not left.get(str(role)) or not parts or not isinstance(parts, list):
            continue
        last = parts[-1]
        text = last.get("text", "no text, so nothing empty") if isinstance(last, dict) else None
        if isinstance(text, str) and text.strip():
            shaped[i] = message | {"content": [*parts[:-1], last | MARK]}
            left[str(role)] -= 1
    return shaped


def _learnt() -> Any:
    """What `learnt.json` holds now; None where there is none, or it is no JSON."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        return json.loads(Path(__file__).with_name("learnt.json").read_bytes())
    return None


def _profile(bundled: Any) -> Any:
    """Hermes's profile "custom" with its requests to Databricks hosts adapted."""
    seen = threading.local()

    class Databricks(type(bundled)):  # type: ignore[misc]
        def prepare_messages(self, messages: list[Message]) -> Any:
            """Keep the messages for the next hook, which learns where they go."""
            seen.messages = super().prepare_messages(messages)
            return seen.messages

        def build_api_kwargs_extras(self, **context: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            """What is merged over the request."""
            messages = seen.__dict__.pop("messages", None)
            body, fields = super().build_api_kwargs_extras(**context)
            # No argument tells what is asked so far, such as the lower cap of a second attempt.
            asked = sys._getframe(1).f_locals.get("api_kwargs")  # 0.19.0 and 0.22.2 call it so
            with contextlib.suppress(Exception):  # whatever it is, the chat goes on
                body, fields = _adapted(body, fields, messages, context, asked)
            return body, fields

    profile = copy.copy(bundled)
    profile.__class__ = Databricks
    profile.aliases += NAMES
    return profile


def _adapted(
    body: dict[str, Any], fields: dict[str, Any], messages: Any, context: dict[str, Any], asked: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the bundled profile adds to a request, as a Databricks host takes it; for any other host
    as it is.

    Arguments:
        body: what goes into the request's `extra_body`.
        fields: what is merged over the request.
        messages: the conversation; None for a title or a summary, which comes without a session
            too.
        context: the model, the base URL and the session.
        asked: the request that they are merged over, where it is known; its cap is only lowered.
    """
    model, base_url = str(context.get("model")), str(context.get("base_url"))
    learnt = _learnt()
    if not is_databricks(base_url, learnt):
        return body, fields
    # Claude refuses an effort; asked to think, it answers with lists, over which Hermes 0.19.0
    # stumbles.
    left_out = "reasoning_effort" if "claude" in model.lower() else ""
    fields = {key: value for key, value in fields.items() if key != left_out}
    if messages and "session_id" in context:
        with contextlib.suppress(Exception):  # what it cannot read goes as it is
            shaped = adapt(messages, model, base_url, learnt)
            fields |= _lowered(shaped, cap_field(model), asked)
    headers = _workspace_header(_facts(learnt, model, base_url))
    with contextlib.suppress(Exception):  # Hermes's own key stays then
        keyed = current_headers(base_url).get("extra_headers", headers)
        keyed.update(headers)
        headers = keyed
    fields |= {"extra_headers": headers} if headers else {}
    ollamas = ("think", "options")
    return {key: value for key, value in body.items() if key not in ollamas}, fields


def _lowered(shaped: dict[str, Any], field: str, asked: Any) -> dict[str, Any]:
    """A request's fields, with a cap no higher than the one that is asked so far."""
    cap = asked.get(field) if isinstance(asked, dict) else None
    if field in shaped and type(cap) is int and cap > 0:
        return shaped | {field: min(cap, shaped[field])}
    return shaped


def _workspace_header(facts: dict[str, Any]) -> dict[str, str]:
    """The header that tells which workspace of a host is meant, as databricks-sdk sends it."""
    known = facts.get("workspace_id")
    named = isinstance(known, str) and known.isdecimal()
    return {"X-Databricks-Workspace-Id": str(known)} if named else {}


def _bundled(providers: Any) -> Any:
    """Hermes's profile "custom", which 0.22 may not have read before it reads this plugin."""
    if not providers.get_provider_profile("custom"):
        folder = Path(providers.__file__).parents[1] / "plugins" / "model-providers" / "custom"
        spec: Any = spec_from_file_location("databricks_bundled_custom", folder / "__init__.py")
        spec.loader.exec_module(module_from_spec(spec))  # it registers itself
    return providers.get_provider_profile("custom")


with contextlib.suppress(ImportError):  # setup's Python has no Hermes
    import providers  # type: ignore[import-not-found]

    providers.register_provider(_profile(_bundled(providers)))
