"""Where a model may answer: the places to ask for it, and their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from hermes.models import ENDPOINT, names_of


@dataclass(frozen=True)
class Place:
    """Where a model is asked for: a base URL, and the name that the model has there."""

    base_url: str
    model: str

    @property
    def host(self) -> str:
        """The host, with its port."""
        return urlsplit(self.base_url).netloc

    @property
    def surface(self) -> tuple[str, bool]:
        """What the place shares with others: its host, and whether it is direct serving there."""
        return self.host, self.is_direct

    @property
    def is_direct(self) -> bool:
        """Whether it is direct serving, rather than a gateway's route."""
        return self.base_url.endswith("/serving-endpoints")

    @property
    def is_service(self) -> bool:
        """Whether the name is that of a model service."""
        return names_of(self.model).service == self.model

    @property
    def is_old_name(self) -> bool:
        """Whether the name is that of an endpoint of Databricks' own."""
        return self.model.startswith(ENDPOINT)


@dataclass(frozen=True)
class Routes:
    """Where Hermes finds its models.

    `direct` is a last try on direct serving endpoints, None where it serves nothing. `models` are
    the chat models that `/model` offers, by base URL and name, each with its context window in
    tokens, 0 where it is not known.
    """

    primary: Place
    fallback: Place
    direct: Place | None = None
    models: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def own_routes(host: str) -> list[str]:
    """The routes of the gateway on the workspace's own host, which know model services."""
    return [f"{host}/ai-gateway/mlflow/v1", f"{host}/ai-gateway/openai/v1"]


def direct_route(host: str) -> str:
    """The base URL of a workspace's direct serving endpoints."""
    return f"{host}/serving-endpoints"


def direct_place(host: str, model: str) -> Place | None:
    """A model on direct serving; None where it has no endpoint's name."""
    name = names_of(model).endpoint
    return Place(direct_route(host), name) if name else None


def default_route(host: str, gateway: str) -> str:
    """The base URL that is written where none was proved."""
    return f"{gateway}/openai" if gateway else direct_route(host)


def places(host: str, gateway: str, model: str) -> list[Place]:
    """Where a model may answer and under which name, best first.

    A serving endpoint may be on any route; a model service is on gateway routes alone, and first on
    the workspace's own. The workspace's own OpenAI route is asked for a service only: it came with
    them.

    Arguments:
        host: the workspace's URL.
        gateway: the AI Gateway's, or "".
        model: any of its names.
    """
    old, new = names_of(model)
    mlflow, native = own_routes(host)
    legacy = (f"{gateway}/openai", f"{gateway}/mlflow/v1") if gateway else ()
    on_legacy = [Place(url, old or new) for url in legacy]
    own = [Place(mlflow, new), Place(mlflow, old), Place(native, new)]
    found = [*on_legacy, *own] if old else [*own, *on_legacy]
    return [p for p in dict.fromkeys([*found, Place(direct_route(host), old)]) if p.model]
