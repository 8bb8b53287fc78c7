"""What each route says about a model: it is proved with a request as Hermes itself sends it."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from hermes import provider
from hermes.urls import as_dict, in_time, why_unreachable

CONNECT_TIMEOUT, QUESTION = 2.0, 20.0  # seconds for a connection, and for all of one question
ANSWER = 64 * 1024  # bytes of an answer that are read at most
LIST = 4 * 1024 * 1024  # and of the list of endpoints
MOST = 6  # questions about one model on one route


@dataclass(frozen=True)
class Answer:
    """What one route said about one model. `serves` is None where nothing was learnt (no answer, an odd status)."""

    model: str
    base_url: str
    answer: str
    meaning: str
    serves: bool | None


class Prover:
    """Asks routes for models with the user's own token, each question once, and keeps what they said.

    Arguments:
        token: sent to these routes only.
        learnt: what an earlier run learnt, by model and base URL, as the plugin reads it; it is asked for first.
    """

    def __init__(self, token: str, learnt: dict[str, Any] | None = None) -> None:
        self.answers: list[Answer] = []
        self.learnt = copy.deepcopy(learnt or {})
        self._models: list[str] | None = None
        self._dead: dict[str, str] = {}
        self._session = requests.Session()
        self._token = token

    def serves(self, base_url: str, model: str) -> bool | None:
        """Ask one route for an answer of a model, as Hermes will.

        Arguments:
            base_url: the route.
            model: the model.

        Returns:
            True or False; None where nothing was learnt.
        """
        known = next((a for a in self.answers if (a.base_url, a.model) == (base_url, model)), None)
        if known is None:
            known = Answer(model, base_url, *self._ask(base_url, model))
            self.answers.append(known)
        return known.serves

    def first(self, base_urls: list[str], model: str) -> str:
        """The first of these routes that serves the model, or ""."""
        return next((url for url in base_urls if self.serves(url, model)), "")

    def chat_models(self, host: str) -> list[str]:
        """The chat models on the workspace's direct serving endpoints; [] where the list cannot be read."""
        if self._models is not None:
            return self._models
        self._models = []
        try:
            status, body = self._send("GET", f"{host}/api/2.0/serving-endpoints", None, LIST)
            listed = _json(body)["endpoints"] if status < 300 else []
            chat = [
                e
                for e in listed
                if e.get("task") == "llm/v1/chat" and e["state"]["ready"] == "READY"
            ]
            self._models = sorted(e["name"] for e in chat if isinstance(e["name"], str))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return self._models

    def _ask(self, base_url: str, model: str) -> tuple[str, str, bool | None]:
        server = urlsplit(base_url).netloc
        if server in self._dead:
            return "-", f"not asked again: {self._dead[server]}", None
        facts = self._guess(base_url, model)
        for _ in range(MOST):
            try:
                question = _question(base_url, model, facts)
                status, body = self._send("POST", f"{base_url}/chat/completions", question, ANSWER)
            except (OSError, ValueError) as error:  # requests' own errors are OSErrors
                self._dead[server] = why_unreachable(error)
                return "-", self._dead[server], None
            if not (status == 400 and _learn(facts, _message(body))):
                break
        meaning, serves = _explain(
            status, body, self._token, base_url.endswith("/serving-endpoints")
        )
        if serves:
            self.learnt.setdefault(model, {})[base_url] = facts
            meaning += _limits(facts)
        return f"HTTP {status}", meaning, serves

    def _guess(self, base_url: str, model: str) -> dict[str, Any]:
        """What may hold here: what was learnt of this model here, or else elsewhere, or of another model's cache."""
        if provider.family(model) != "claude":
            first: dict[str, Any] = {}
        else:
            caches = [
                facts.get("cache") for routes in self.learnt.values() for facts in routes.values()
            ]
            first = {
                "cache": caches[-1] if caches and caches[-1] in ("no-tools", "none") else "all"
            }
        routes = self.learnt.get(model, {})
        return {**first, **routes.get(base_url, next(iter(routes.values()), {}))}

    def _send(
        self, method: str, url: str, body: dict[str, Any] | None, most: int
    ) -> tuple[int, bytes]:
        """Send one request; its status, and its answer up to the first event that says something, or up to so many bytes."""

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            # As an auth of ours, or ~/.netrc would replace the header.
            request.headers["Authorization"] = f"Bearer {self._token}"
            return request

        def ask() -> tuple[int, bytes]:
            with self._session.request(
                method,
                url,
                json=body,
                auth=authorize,
                headers={
                    "Accept-Encoding": "identity"
                },  # what was sent is read, never what it would unpack to
                timeout=(CONNECT_TIMEOUT, QUESTION),
                allow_redirects=False,
                stream=True,
                proxies={
                    "http": ""
                },  # plain http is for this machine alone, and a proxy may be elsewhere
            ) as response:
                received = b""
                while len(received) < most and not (body and _choices(received) is not None):
                    try:
                        piece = response.raw.read1(most, decode_content=False)
                    except HTTPError as error:  # urllib3's own: the answer was cut off
                        raise requests.ConnectionError(error) from None
                    if not piece:
                        break
                    received += piece
                return response.status_code, received[:most]

        return in_time(ask, QUESTION)


# A turn with a finished tool round, as Hermes has it after its first tool call.
_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "terminal", "arguments": '{"command": "true"}'},
}
_ROUND: list[dict[str, Any]] = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "ping"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "name": "terminal", "tool_call_id": "call_1", "content": "done"},
]
_PARAMETERS = {
    "type": "object",
    "properties": {"command": {"type": "string"}},
    "required": ["command"],
}
_TOOL = {
    "type": "function",
    "function": {"name": "terminal", "description": "Runs a command.", "parameters": _PARAMETERS},
}


def _question(base_url: str, model: str, facts: dict[str, Any]) -> dict[str, Any]:
    """One request in Hermes's own shape, after the plugin has seen it: a finished tool round, one tool, a stream."""
    question = {
        "model": model,
        "tools": [_TOOL],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    cap = {provider.cap_field(model): 65536}  # as Hermes sends for a custom endpoint
    return (
        question
        | cap
        | provider.adapt(_ROUND, model, base_url, {"models": {model: {base_url: facts}}})
    )


def _learn(facts: dict[str, Any], message: str) -> bool:
    """Take in what a refusal says of an endpoint; whether that is news, so that it can be asked again."""
    cap = re.search(r"cannot exceed (\d{1,7})\b", message)
    if cap and facts.get("max_tokens") != int(cap[1]):
        facts["max_tokens"] = int(cap[1])
        return True
    if "cache_control" in message and facts.get("cache", "none") != "none":
        facts["cache"] = (
            "no-tools" if "tool_result" in message and facts["cache"] == "all" else "none"
        )
        return True
    return False


def _limits(facts: dict[str, Any]) -> str:
    """What a person may want to know of an endpoint that serves."""
    cap = [f"{facts['max_tokens']} output tokens at most"] if facts.get("max_tokens") else []
    return f" ({', '.join([*cap, *(['prompts are not cached'] if facts.get('cache') == 'none' else [])])})".replace(
        " ()", ""
    )


def _json(body: bytes) -> dict[str, Any]:
    """A body as a JSON object; {} where it is none."""
    try:
        return as_dict(json.loads(body.decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        return {}


def _choices(body: bytes) -> object:
    """The choices of a stream's first whole event that has any; None before that."""
    for line in body.split(b"\n")[:-1]:
        if line.startswith(b"data:"):
            event = _json(line.removeprefix(b"data:"))
            if event.get("choices"):
                return event["choices"]
    return None


def _message(body: bytes) -> str:
    """What an answer says in words, in whichever form it comes."""
    text = body.decode("utf-8", "replace")
    said = _json(body.removeprefix(b"data:"))
    nested = said.get("error")
    return str(
        said.get("message")
        or (nested.get("message") if isinstance(nested, dict) else nested)
        or text
    )


def _explain(status: int, body: bytes, token: str, direct: bool) -> tuple[str, bool | None]:
    """Read what an answer to a chat completion says about the model."""
    message = _message(body)
    if status < 300 and _choices(body) is not None:
        return "serves the model", True
    if status == 429:
        return "serves the model (busy now: rate limited)", True
    if _json(body).get("error_code") == "FEATURE_DISABLED":
        return "AI Gateway is not enabled for this workspace", False
    if status == 404:
        return "not served here" if direct else "not served here, or not permitted", False
    if status in (401, 403):
        return "token rejected or not permitted", None
    if status == 400 and "stream_options" in message:
        return "refuses what Hermes needs (stream_options): use another model", False
    printable = "".join(c if c.isprintable() else " " for c in message.replace(token, "***"))
    return " ".join(printable.split())[:120] or "no message", None
