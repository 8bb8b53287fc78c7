"""Where a model may be, which place is chosen, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hermes.proof import Prover
from hermes.settings import HermesSettings


@dataclass(frozen=True)
class Place:
    """Where a model is asked for: a base URL, and the name that the model has there."""

    base_url: str
    model: str


@dataclass(frozen=True)
class Routes:
    """Where Hermes finds its models.

    `direct` is a last try on direct serving endpoints, None where it serves nothing. `models` are the chat models that
    `/model` offers, by base URL and name, each with its context window in tokens, 0 where it is not known.
    """

    primary: Place
    fallback: Place
    direct: Place | None = None
    models: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


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


def choose_routes(settings: HermesSettings, prover: Prover | None) -> Routes:
    """Decide where Hermes will find its two models.

    Arguments:
        settings: checked settings with a host.
        prover: asks the routes; None writes the defaults unasked.

    Returns:
        The first route that serves each model; the default where none was proved.
    """
    urls = candidate_routes(settings.host, settings.gateway)
    default = urls[0] if settings.gateway else urls[-1]
    last = Place(direct_route(settings.host), settings.fallback_model)
    if prover is None:
        fallback = Place(default, settings.fallback_model)
        return Routes(Place(default, settings.model), fallback, last)
    primary = prover.first(urls, settings.model) or default
    # The primary's own route goes first: then one provider does for both models.
    second = prover.first([primary, *urls], settings.fallback_model) or primary
    direct = prover.serves(last.base_url, last.model) is not False
    return Routes(
        Place(primary, settings.model),
        Place(second, settings.fallback_model),
        last if direct else None,
    )
