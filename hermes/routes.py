"""Where a model may be, and what each place says about it: a route is proved with a request as Hermes itself sends it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import requests

from hermes.settings import Settings
from utils import why_unreachable

CONNECT_TIMEOUT, QUESTION = 2.0, 20.0  # seconds for a connection, and for all of one question
ANSWER = 64 * 1024  # bytes of an answer that are read at most
LIST = 4 * 1024 * 1024  # and of the list of endpoints
MOST = 6  # questions about one model on one route

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """What one route said about one model. `serves` is None where nothing was learnt (no answer, an odd status)."""

    model: str
    base_url: str
    answer: str
    meaning: str
    serves: bool | None


@dataclass(frozen=True)
class Routes:
    """Base URLs of the primary and the fallback model, whether direct serving is worth a last try, and the chat models."""

    primary: str
    fallback: str
    direct: bool = True
    models: tuple[str, ...] = ()


def candidate_routes(host: str, gateway: str) -> list[str]:
    """The base URLs that may serve a model, best first. This is the one place that knows their order.

    Arguments:
        host: the workspace's URL.
        gateway: the AI Gateway's, or "".

    Returns:
        Base URLs to which an OpenAI client appends `/chat/completions`.
    """
    on_gateway = [f"{gateway}/openai", f"{gateway}/mlflow/v1"] if gateway else []
    return [*on_gateway, f"{host}/ai-gateway/mlflow/v1", direct_route(host)]


def direct_route(host: str) -> str:
    """The base URL of a workspace's direct serving endpoints."""
    return f"{host}/serving-endpoints"


def choose_routes(settings: Settings, prover: Prover | None) -> Routes:
    """Decide where Hermes will find its two models.

    Arguments:
        settings: checked settings with a host.
        prover: asks the routes; None writes the defaults unasked.

    Returns:
        The first route that serves each model; the default where none was proved.
    """
    urls = candidate_routes(settings.host, settings.gateway)
    default = urls[0] if settings.gateway else urls[-1]
    if prover is None:
        return Routes(default, default)
    primary = prover.first(urls, settings.model) or default
    # The primary's own route goes first: then one provider does for both models.
    fallback = prover.first([primary, *urls], settings.fallback_model) or primary
    direct = prover.serves(direct_route(settings.host), settings.fallback_model) is not False
    return Routes(primary, fallback, direct)


class Prover:
    """Asks routes for models with the user's own token, each question once, and keeps what they said.

    Arguments:
        token: sent to these routes only.
        learnt: what an earlier run learnt, by model: `max_tokens`, the endpoint's cap; `cache`, which marks it takes.
    """

    def __init__(self, token: str, learnt: dict[str, dict[str, Any]] | None = None) -> None:
        self.answers: list[Answer] = []
        self.learnt = learnt or {}
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
            chat = [e for e in listed if e.get("task") == "llm/v1/chat" and e["state"]["ready"] == "READY"]
            self._models = sorted(e["name"] for e in chat if isinstance(e["name"], str))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return self._models

    def _ask(self, base_url: str, model: str) -> tuple[str, str, bool | None]:
        server = urlsplit(base_url).netloc
        if server in self._dead:
            return "-", f"not asked again: {self._dead[server]}", None
        for _ in range(MOST):
            try:
                status, body = self._send(
                    "POST", f"{base_url}/chat/completions", _question(base_url, model, self.learnt), ANSWER
                )
            except (OSError, ValueError) as error:  # requests' own errors are OSErrors
                self._dead[server] = why_unreachable(error)
                return "-", self._dead[server], None
            if not (status == 400 and self._learn(base_url, model, _message(body))):
                break
        return f"HTTP {status}", *_explain(status, body, self._token)

    def _learn(self, base_url: str, model: str, message: str) -> bool:
        """Take in what a refusal says of this model; whether to ask again."""
        known = self.learnt.setdefault(model, {})
        cap = re.search(r"cannot exceed (\d{1,7})\b", message)
        if cap and known.get("max_tokens") != int(cap[1]):
            known["max_tokens"] = int(cap[1])
            return True
        if "cache_control" in message and known.get("cache") != "none":
            in_tool = "tool_result" in message and known.get("cache") != "no-tools"
            known["cache"] = "no-tools" if in_tool else "none"
            return True
        return False

    def _send(self, method: str, url: str, body: dict[str, Any] | None, most: int) -> tuple[int, bytes]:
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
                headers={"Accept-Encoding": "identity"},  # what was sent is read, never what it would unpack to
                timeout=(CONNECT_TIMEOUT, QUESTION),
                allow_redirects=False,
                stream=True,
                proxies={"http": cast(str, None)},  # plain http is for this machine alone, and a proxy may be elsewhere
            ) as response:
                received = b""
                while len(received) < most and not (body and _choices(received) is not None):
                    piece = response.raw.read1(most, decode_content=False)
                    if not piece:
                        break
                    received += piece
                return response.status_code, received[:most]

        return _in_time(ask, QUESTION)


def _in_time(work: Callable[[], T], seconds: float) -> T:
    """Do something that may drip for ever; after so many seconds it has timed out."""
    done: list[T | Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:  # to be raised where somebody waits for it
            done.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    result = done[0] if done else requests.ReadTimeout(f"no answer within {seconds:g} s")
    if isinstance(result, Exception):
        raise result
    return result


# A turn with a finished tool round, as Hermes has it after its first tool call.
_CALL = {"id": "call_1", "type": "function", "function": {"name": "terminal", "arguments": '{"command": "true"}'}}
_ROUND = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "ping"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "name": "terminal", "tool_call_id": "call_1", "content": "done"},
]
_PARAMETERS = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
_TOOL = {"type": "function", "function": {"name": "terminal", "description": "Runs a command.", "parameters": _PARAMETERS}}


def _question(base_url: str, model: str, learnt: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One request in Hermes's own shape, after the plugin has seen it: a finished tool round, one tool, a stream."""
    question = {"model": model, "messages": _ROUND, "tools": [_TOOL], "max_tokens": 65536}
    return {**question, "stream": True, "stream_options": {"include_usage": True}}


def _json(body: bytes) -> Any:
    """A body as JSON; {} where it is none."""
    try:
        return json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}


def _choices(body: bytes) -> object:
    """The choices of a stream's first whole event that has any; None before that."""
    for line in body.split(b"\n")[:-1]:
        if line.startswith(b"data:"):
            event = _json(line.removeprefix(b"data:"))
            if isinstance(event, dict) and event.get("choices"):
                return event["choices"]
    return None


def _message(body: bytes) -> str:
    """What an answer says in words, in whichever form it comes."""
    text = body.decode("utf-8", "replace")
    parsed = _json(body.removeprefix(b"data:"))
    said = parsed if isinstance(parsed, dict) else {}
    nested = said.get("error")
    return str(said.get("message") or (nested.get("message") if isinstance(nested, dict) else nested) or text)


def _explain(status: int, body: bytes, token: str) -> tuple[str, bool | None]:
    """Read what an answer to a chat completion says about the model."""
    said = _json(body)
    message = _message(body)
    if status < 300 and _choices(body) is not None:
        return "serves the model", True
    if status == 429:
        return "serves the model (busy now: rate limited)", True
    if isinstance(said, dict) and said.get("error_code") == "FEATURE_DISABLED":
        return "AI Gateway is not enabled for this workspace", False
    if status == 404:
        return "not served here", False
    if status in (401, 403):
        return "token rejected or not permitted", None
    if status == 400 and "stream_options" in message:
        return "refuses what Hermes needs (stream_options): use another model", False
    printable = "".join(c if c.isprintable() else " " for c in message.replace(token, "***"))
    return " ".join(printable.split())[:120] or "no message", None


def verdict(settings: Settings, prover: Prover) -> str:
    """Say why the primary model was proved nowhere, and what to do.

    Arguments:
        settings: checked settings.
        prover: has asked.

    Returns:
        One line.
    """
    answers = [a for a in prover.answers if a.model == settings.model]
    if any(a.answer in ("HTTP 401", "HTTP 403") for a in answers):
        return "The token was rejected, or may not use this model: check DATABRICKS_TOKEN, or ask for CAN QUERY on it."
    if all(a.answer == "-" for a in answers):
        return f"Nothing answered ({answers[0].meaning}): check DATABRICKS_HOST and the network, then run this again."
    if any(a.serves is None for a in answers):
        return f"No route gave {settings.model} a clear yes: the answers above say why."
    permission = ""
    if settings.model.startswith("system.ai."):
        permission = (
            " Or a permission is missing, which looks the same: USE CATALOG on system, USE SCHEMA on system.ai, EXECUTE on it."
        )
    unusable = any("stream_options" in a.meaning for a in answers)
    others = [m for m in prover.chat_models(settings.host) if m != settings.model and not (unusable and _open_weight(m))]
    do = f"set HERMES_MODEL={others[0]}" if len(others) == 1 else "set HERMES_MODEL to one of them"
    found = f"This workspace serves {', '.join(others)}: {do}." if others else "Set HERMES_MODEL to a model that is."
    return f"{settings.model} is {'of no use to Hermes' if unusable else 'served'} on none of these routes. {found}{permission}"


def _open_weight(model: str) -> bool:
    """Whether a model is of none of the vendors whose endpoints take `stream_options`."""
    return "gpt-oss" in model or not re.search("claude|gpt|gemini", model)


def table(settings: Settings, answers: list[Answer]) -> str:
    """The answers as aligned columns: model, route, answer, what it means; two lines above say where the routes begin.

    Arguments:
        settings: checked settings.
        answers: a prover's.

    Returns:
        Lines.
    """
    bases = {name: url for name, url in (("gateway", settings.gateway), ("workspace", settings.host)) if url}

    def short(url: str) -> str:
        return next(f"{name} {url.removeprefix(base)}" for name, base in bases.items() if url.startswith(f"{base}/"))

    rows = [("MODEL", "ROUTE", "ANSWER", "MEANING"), *((a.model, short(a.base_url), a.answer, a.meaning) for a in answers)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]) for row in rows]
    return "\n".join([*(f"{name + ':':10} {url}" for name, url in bases.items()), *lines])
