"""The three worlds of a workspace: what models are called, which route knows which name, the lists.

Classic is what was there in May 2026. In "both" the workspace's own gateway takes Unity Catalog's
names as well. In an enforced workspace, as they are made since the summer of 2026, these names are
the only ones, and that gateway is the only place. Sources: the rules of `hermes/rules.py`;
databricks-sdk 0.156 `catalog.ModelService`; ucode.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hermes.rules import DIRECT, GATEWAY, LEGACY, RULES, Answer

WORLDS = ("classic", "both", "enforced")
GATEWAY_ROUTES = ("openai", "mlflow/v1")
UNITY, NATIVE = "ai-gateway/mlflow/v1", "ai-gateway/openai/v1"
WORKSPACE_ROUTES = (UNITY, NATIVE, "serving-endpoints")
FAULTS = (  # rules that hold only where they are asked for
    "retired-endpoint",
    "retired-gateway-403",
    "foreign-token",
    "narrow-scope",
    "no-listing",
    "several-workspaces",  # 303 to /login without the workspace's id: a host that serves several
    "login-page",  # the same as 200 with a page of HTML
    "guardrail",  # a service policy blocks each answer: 200 with finish_reason content_filter
    "no-finish-reason",  # an answer ends without one: unity-gateway 215
    "no-caching",  # cache marks are taken and dropped: bifrost PR 6770
    "no-system-ai",  # as on sovereign clouds
    "empty-page",  # the first page of a list is empty and has a next one: unity-gateway PR 464
)
OLD, NEW = "databricks-", "system.ai."
_MLFLOW, _OPENAI = "mlflow/v1/chat/completions", "openai/v1/chat/completions"
_RESPONSES, _EMBEDDINGS = "openai/v1/responses", "mlflow/v1/embeddings"
_CLAUDE = (_MLFLOW, "anthropic/v1/messages", "cursor/v1/chat/completions")  # unity-gateway 53
_GPT = (_MLFLOW, _OPENAI, _RESPONSES)
_GEMINI = (_MLFLOW, "gemini/v1/generateContent")


@dataclass(frozen=True)
class Model:
    """A model of Databricks' own: its API types, its context window, whether it has an old name."""

    types: tuple[str, ...]
    window: str = ""
    old: bool = False


MODELS = {
    "claude-opus-4-7": Model(_CLAUDE, "1M", old=True),
    "claude-opus-4-6": Model(_CLAUDE, "200K", old=True),
    "claude-sonnet-4-5": Model(_CLAUDE, "200K", old=True),
    "gpt-5": Model(_GPT, "400K", old=True),
    "meta-llama-3-3-70b-instruct": Model((_MLFLOW,), "128K", old=True),
    "claude-opus-5": Model(_CLAUDE, "1M"),
    "claude-opus-4-8": Model(_CLAUDE, "1M"),
    "claude-sonnet-5": Model(_CLAUDE, "1M"),
    "claude-sonnet-4-6": Model(_CLAUDE, "1M"),
    "claude-haiku-4-5": Model(_CLAUDE, "200K"),
    "gpt-6": Model(_GPT, "400K"),
    "gpt-5-6-sol": Model(_GPT, "400K"),
    "gpt-5-3-codex": Model((_RESPONSES,), "400K"),  # Responses only, as -pro models
    "gemini-3-1-pro": Model(_GEMINI, "1M"),
    "kimi-k3": Model((_MLFLOW,), "256K"),
    "glm-5-3": Model((_MLFLOW,)),
    "gte-large-en": Model((_EMBEDDINGS,)),
}
_ROUTE_TYPES = {UNITY: _MLFLOW, NATIVE: _OPENAI}


_RETIRED_ON_GATEWAY = ("retired-gateway", "retired-gateway-403")


def default_serves(world: str = "classic") -> dict[str, set[str]]:
    """Which route serves which models.

    Classic: opus-4-7 is on the gateway alone, as in the workspace that started this.
    """
    old = {OLD + name for name, model in MODELS.items() if model.old}
    opus, llama = OLD + "claude-opus-4-7", OLD + "meta-llama-3-3-70b-instruct"
    classic = {
        "openai": old - {llama},
        "mlflow/v1": set(old),
        UNITY: set(old),
        "serving-endpoints": old - {opus},
    }
    if world == "classic":
        return classic
    new = {
        route: {NEW + name for name, model in MODELS.items() if kind in model.types}
        for route, kind in _ROUTE_TYPES.items()
    }
    if world == "both":
        return classic | new | {UNITY: new[UNITY] | old, "serving-endpoints": set(old)}
    return {"openai": set(), "mlflow/v1": set(), **new, "serving-endpoints": set()}


def surface(route: str) -> str:
    """Where a route is, in the words of `hermes/rules.py`."""
    if route in GATEWAY_ROUTES:
        return LEGACY
    return DIRECT if route == "serving-endpoints" else GATEWAY


def not_served(
    world: str, faults: Collection[str], provisioned: Collection[str], route: str, model: str
) -> Answer:
    """What a route answers to a model that it does not serve."""
    direct = surface(route) == DIRECT
    if world == "enforced" and direct and model in provisioned:
        return RULES["retired-provisioned"].answer(model=model)
    if world == "enforced" and model.startswith(OLD) and bare(model) in MODELS:
        usual, other = ("retired", "retired-endpoint") if direct else _RETIRED_ON_GATEWAY
        return RULES[other if other in faults else usual].answer(model=model)
    if is_service(model) and not direct:
        return RULES["missing-model"].answer(model=model)
    return RULES["missing-endpoint"].answer()


def is_service(model: str) -> bool:
    """Whether a name is a model service's; an endpoint's holds no dot (mlflow PR 24177)."""
    return model.count(".") == 2


def bare(model: str) -> str:
    """A model's name without what its world puts before it."""
    return model.removeprefix(OLD).removeprefix(NEW)


def services(serves: Mapping[str, Collection[str]], schema: str) -> list[dict[str, Any]]:
    """The model services of a schema that may be executed.

    That is what the workspace's own gateway serves, and Databricks' models that have no chat.

    Arguments:
        serves: models by route.
        schema: `catalog.schema`.
    """
    served = {name for route in _ROUTE_TYPES for name in serves.get(route, ())}
    silent = {NEW + name for name, model in MODELS.items() if not _chats(model)}
    return [
        {"name": f"model-services/{name}", "supported_api_types": sorted(_types(serves, name))}
        for name in sorted(served | silent)
        if is_service(name) and name.rpartition(".")[0] == schema
    ]


def _types(serves: Mapping[str, Collection[str]], name: str) -> set[str]:
    """A service's API types: for chat, what serves it now; for the rest, what the model has."""
    model = MODELS.get(bare(name), Model(()))
    rest = {kind for kind in model.types if kind not in _ROUTE_TYPES.values()}
    return rest | {kind for route, kind in _ROUTE_TYPES.items() if name in serves.get(route, ())}


def _chats(model: Model) -> bool:
    return any(kind in model.types for kind in _ROUTE_TYPES.values())


def foundation_models(world: str) -> list[dict[str, Any]]:
    """Databricks' own models as `serving-endpoints:foundation-models` lists them, served or not."""
    return [
        {
            "name": OLD + name,
            "config": {"served_entities": [{"foundation_model": _described(world, name, model)}]},
        }
        for name, model in MODELS.items()
        if model.old or world != "classic"
    ]


def _described(world: str, name: str, model: Model) -> dict[str, Any]:
    window = f" It has a context window of {model.window} tokens." if model.window else ""
    return {
        "name": name,
        "api_types": list(model.types),
        "ai_gateway_v2_supported": world != "classic",
        "description": f"{name} is a model that Databricks hosts.{window}",
    }


def page_of_services(
    found: list[dict[str, Any]], query: Mapping[str, str], most: int, empty_first: bool
) -> Answer:
    """One page of the list of model services.

    Arguments:
        found: all of them.
        query: the request's `page_size` and `page_token`.
        most: the largest page size that the workspace takes.
        empty_first: answer an empty page first, which has a next one.
    """
    size, token = query.get("page_size", ""), query.get("page_token", "")
    if not size.isdecimal() or not 0 < int(size) <= most:
        return RULES["page-size"].answer()
    if empty_first and not token:
        return 200, {"model_services": [], "next_page_token": "from-0"}
    if not found:
        return 200, {"model_services": None}  # unity-gateway PR 153
    begin = int(token.removeprefix("from-") or 0)
    end = begin + int(size)
    page: dict[str, Any] = {"model_services": found[begin:end]}
    return 200, page | ({"next_page_token": f"from-{end}"} if end < len(found) else {})
