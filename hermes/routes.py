"""Where a model may be, and what each place says about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import requests

from hermes.settings import Settings
from utils import why_unreachable

CONNECT_TIMEOUT, READ_TIMEOUT = 2.0, 20.0  # seconds


@dataclass(frozen=True)
class Answer:
    """What one route said about one model. `serves` is None where nothing was learnt (no answer, an odd status)."""

    model: str
    base_url: str
    answer: str
    meaning: str
    serves: bool | None


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


class Prover:
    """Asks routes for models with the user's own token, each question once, and keeps what they said.

    Arguments:
        token: sent to these routes only.
    """

    def __init__(self, token: str) -> None:
        self.answers: list[Answer] = []
        self._dead: dict[str, str] = {}
        self._session = requests.Session()
        self._token = token

    def serves(self, base_url: str, model: str) -> bool | None:
        """Ask one route for a chat completion of one token.

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
        try:
            response = self._send("GET", f"{host}/api/2.0/serving-endpoints")
            listed = response.json()["endpoints"] if response.ok else []
            return sorted(e["name"] for e in listed if e.get("task") == "llm/v1/chat" and e["state"]["ready"] == "READY")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return []

    def _send(self, method: str, url: str, body: dict[str, object] | None = None) -> requests.Response:
        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            # As an auth of ours, or ~/.netrc would replace the header.
            request.headers["Authorization"] = f"Bearer {self._token}"
            return request

        return self._session.request(
            method,
            url,
            json=body,
            auth=authorize,
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            allow_redirects=False,
            proxies={"http": cast(str, None)},  # plain http is for this machine alone, and a proxy may be elsewhere
        )

    def _ask(self, base_url: str, model: str) -> tuple[str, str, bool | None]:
        server = urlsplit(base_url).netloc
        if server in self._dead:
            return "-", f"not asked again: {self._dead[server]}", None
        question = {"model": model, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
        try:
            response = self._send("POST", f"{base_url}/chat/completions", question)
        except (OSError, ValueError) as error:  # requests' own errors are OSErrors
            self._dead[server] = why_unreachable(error)
            return "-", self._dead[server], None
        return f"HTTP {response.status_code}", *_explain(response, self._token)


def _explain(response: requests.Response, token: str) -> tuple[str, bool | None]:
    """Read what an answer to a chat completion says about the model."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    nested = body.get("error")
    message = body.get("message") or (nested.get("message") if isinstance(nested, dict) else nested) or response.text or ""
    if response.status_code < 300 and body.get("choices") is not None:
        return "serves the model", True
    if response.status_code == 429:
        return "serves the model (busy now: rate limited)", True
    if body.get("error_code") == "FEATURE_DISABLED":
        return "AI Gateway is not enabled for this workspace", False
    if response.status_code == 404:
        return "not served here", False
    if response.status_code in (401, 403):
        return "token rejected or not permitted", None
    printable = "".join(c if c.isprintable() else " " for c in str(message).replace(token, "***"))
    return " ".join(printable.split())[:120] or "no message", None


@dataclass(frozen=True)
class Routes:
    """Base URLs of the primary and the fallback model, and whether direct serving is worth a last try."""

    primary: str
    fallback: str
    direct: bool = True


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
    return Routes(primary, fallback, prover.serves(direct_route(settings.host), settings.fallback_model) is not False)


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
    models = [model for model in prover.chat_models(settings.host) if model != settings.model]
    found = f"This workspace serves {', '.join(models)}: set HERMES_MODEL to one of them." if models else ""
    return f"{settings.model} is served on none of these routes. {found or 'Set HERMES_MODEL to a model that is.'}"


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
