"""Where a model may be, which place is chosen, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass

from hermes.proof import Prover
from hermes.settings import HermesSettings


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
    if prover is None:
        return Routes(default, default)
    primary = prover.first(urls, settings.model) or default
    # The primary's own route goes first: then one provider does for both models.
    fallback = prover.first([primary, *urls], settings.fallback_model) or primary
    direct = prover.serves(direct_route(settings.host), settings.fallback_model) is not False
    return Routes(primary, fallback, direct)
