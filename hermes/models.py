"""What a model is called, how it compares with others, and which chat models a workspace has.

Databricks' own models have two names: the serving endpoint `databricks-<model>` and the model
service in Unity Catalog `system.ai.<model>`. Which of them a route takes depends on the route and
on the workspace.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import urlencode

from hermes.provider import family
from hermes.urls import as_dict, as_json

ENDPOINT, SERVICE = "databricks-", "system.ai."  # what Databricks' own names begin with
CLAUDES, OTHERS = ("opus", "sonnet", "haiku"), ("gpt", "gemini")  # tiers, best first
# By the end of a route's base URL, the API type that a model must have there.
# Source: databricks-sdk 0.156 catalog.ModelService.supported_api_types, unity-gateway 53
TYPES = {"/mlflow/v1": "mlflow/v1/chat/completions", "/openai/v1": "openai/v1/chat/completions"}
CHATS = frozenset(TYPES.values())
MODEL_SERVICES = "/api/2.1/unity-catalog/model-services"
PAGE_SIZES = (100, 25, 5)  # some workspaces take no larger page: unity-gateway 345
PAGES = 40  # of the list of model services, at most
NEAR = 3  # listed names that are shown at most for one that is not known

Get = Callable[[str], "tuple[int, bytes]"]  # asks for a URL: HTTP status, or 0; and body


class Names(NamedTuple):
    """A model's two names; "" where it has only the other one."""

    endpoint: str
    service: str


def names_of(model: str) -> Names:
    """Both names of a model of Databricks' own; any other name stands for itself alone.

    A serving endpoint's name holds no dot, a model service's has two (mlflow PR 24177).
    """
    if bare := bare_name(model):
        return Names(ENDPOINT + bare, SERVICE + bare)
    return Names("", model) if model.count(".") == 2 else Names(model, "")


def bare_name(model: str) -> str:
    """What both names of one of Databricks' own models end in; "" for any other model."""
    prefix = next((p for p in (ENDPOINT, SERVICE) if model.startswith(p)), "")
    return model.removeprefix(prefix) if prefix else ""


def is_same(one: str, other: str) -> bool:
    """Whether two names stand for one model."""
    return names_of(one) == names_of(other)


def is_usable(model: str) -> bool:
    """Whether Hermes can use a model at all, as far as its name tells.

    Open weights refuse what Hermes always sends; GPT codex and pro models have no chat completions.
    A company's own name tells nothing.
    """
    if not (bare := bare_name(model)):
        return True
    kind = family(bare)
    return kind != "open" and not (kind == "gpt" and re.search(r"codex|-pro\b", bare))


def tier_of(model: str) -> str:
    """The tier of one of Databricks' own models, from `CLAUDES` or `OTHERS`; "" for any other."""
    bare = bare_name(model)
    if not bare or not is_usable(model):
        return ""
    kind = family(bare)
    return next((t for t in CLAUDES if t in bare), "") if kind == "claude" else kind


def version_of(model: str) -> tuple[int, ...]:
    """The numbers in a model's name, such as (4, 7)."""
    return tuple(int(number) for number in re.findall(r"(?<!\d)\d{1,2}(?!\d)", bare_name(model)))


def ranked(models: Iterable[str], wanted: str) -> list[str]:
    """Models that can stand in for another one, best first.

    The newest of the same tier come first; then the next tier of Claude, a cheaper one before a
    dearer one; then GPT, then Gemini. Of a model with two names, the first one given stays.
    """
    own = tier_of(wanted)
    at = CLAUDES.index(own) if own in CLAUDES else 0
    order = [*CLAUDES[at:], *reversed(CLAUDES[:at]), *OTHERS]
    if own in OTHERS:
        order.insert(0, own)
    once = {bare_name(model): model for model in reversed([*models]) if tier_of(model)}

    def key(model: str) -> tuple[int, list[int], int]:
        # Of equal versions, the plain model goes before `-mini` and the like.
        version = [*(-number for number in version_of(model)), 0]
        return order.index(tier_of(model)), version, len(model)

    return sorted((m for m in once.values() if not is_same(m, wanted)), key=key)


# --- The lists of a workspace ---------------------------------------------------------------------


def read_endpoints(body: bytes) -> list[str]:
    """The chat models that are ready, from the answer of `/api/2.0/serving-endpoints`."""
    found = []
    for entry in _entries(as_json(body), "endpoints"):
        ready = as_dict(entry.get("state")).get("ready") == "READY"
        if ready and entry.get("task") == "llm/v1/chat" and isinstance(entry.get("name"), str):
            found.append(entry["name"])
    return sorted(found)


def read_services(page: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """A page of model services: the API types of each, by full name."""
    found = {}
    for entry in _entries(page, "model_services"):
        if isinstance(entry.get("name"), str):
            listed = entry.get("supported_api_types")
            types = listed if isinstance(listed, list) else []
            name = entry["name"].removeprefix("model-services/")
            found[name] = frozenset(kind for kind in types if isinstance(kind, str))
    return found


def read_windows(body: bytes) -> dict[str, int]:
    """The windows of context of Databricks' own models by bare name, in tokens; 0 where one is not
    told. From the answer of `/api/2.0/serving-endpoints:foundation-models`, which has what the
    workspace does not serve, too.
    """
    found = {}
    for entry in _entries(as_json(body), "endpoints"):
        if bare := bare_name(str(entry.get("name"))):
            for entity in _entries(as_dict(entry.get("config")), "served_entities"):
                model = as_dict(entity.get("foundation_model"))
                found[bare] = read_window(str(model.get("description")))
    return found


def read_window(description: str) -> int:
    """The window of context that a description names, in tokens; 0 where it names none."""
    number = r"(?<![\d,.])(\d[\d,]*(?:\.\d+)?)\s*(k|m|million)?\b"
    after = rf"context (?:window|length) of (?:up to )?{number}"
    before = rf"{number}[ -]*(?:tokens?)?[ -]*context (?:window|length)"
    for pattern in (after, before):
        if match := re.search(pattern, description, re.IGNORECASE):
            unit = {"": 1, "k": 1_000, "m": 1_000_000}[(match[2] or "")[:1].lower()]
            size = int(float(match[1].replace(",", "")) * unit)
            return size if 1_000 <= size <= 100_000_000 else 0
    return 0


class Services(NamedTuple):
    """The model services that the token may execute, with their API types.

    `complete` is False where they could not be listed to the end: what is not in it may be there
    all the same.
    """

    types: Mapping[str, frozenset[str]]
    complete: bool


def list_services(get: Get, host: str) -> Services:
    """Ask for Databricks' own model services, in pages as large as the workspace takes.

    A page is refused where it is too large, and under load; a first page may be empty and have a
    next one (unity-gateway 345, PR 464). A token without the scope `unity-catalog` may ask models,
    but not list them.
    """
    found: dict[str, frozenset[str]] = {}
    sizes, token = list(PAGE_SIZES), ""
    for _ in range(PAGES):
        query = {"parent": "schemas/system.ai", "page_size": sizes[0]}
        query |= {"page_token": token} if token else {}
        status, body = get(f"{host}{MODEL_SERVICES}?{urlencode(query)}")
        if status == 404:  # no such API, or no such schema, as on sovereign clouds
            return Services(found, complete=True)
        if status in (400, 499, 504) and len(sizes) > 1:
            del sizes[0]
            continue
        if status != 200:
            break
        page = as_json(body)
        found |= read_services(page)
        token = str(page.get("next_page_token") or "")
        if not token:
            return Services(found, complete="model_services" in page or body.strip() == b"{}")
    return Services(found, complete=False)


@dataclass
class Catalog:
    """What a workspace lists; each list is asked for when it is needed first. What cannot be listed
    is no error.
    """

    host: str
    get: Get

    @cached_property
    def endpoints(self) -> list[str]:
        """The chat models that are serving endpoints, and ready."""
        return read_endpoints(self._body("/api/2.0/serving-endpoints"))

    @cached_property
    def windows(self) -> dict[str, int]:
        """The windows of Databricks' own models by bare name, served or not."""
        return read_windows(self._body("/api/2.0/serving-endpoints:foundation-models"))

    @cached_property
    def services(self) -> Services:
        """Databricks' own model services."""
        return list_services(self.get, self.host)

    def may_serve(self, base_url: str, service: str, unlisted_too: bool = False) -> bool:
        """Whether it is worth asking a route of the workspace's own gateway for a model service.

        Arguments:
            base_url: a route whose end is in `TYPES`.
            service: the full name; only those of Databricks' own are listed.
            unlisted_too: ask for it where it is not listed: then the answer says why.
        """
        kind = _type_at(base_url)
        bare = bare_name(service)
        if types := self.services.types.get(service):
            return kind in types
        if bare and self.services.complete and not unlisted_too:
            return service in self.services.types
        return kind != TYPES["/openai/v1"] or family(service) != "claude"

    def window(self, model: str) -> int:
        """A model's window of context in tokens; 0 where the workspace does not tell."""
        return self.windows.get(bare_name(model), 0)

    def offered(self, base_url: str, services: bool, old_names: bool) -> dict[str, int]:
        """The models that a route serves as far as lists tell, with their windows; none that Hermes
        cannot use.

        Arguments:
            base_url: the route.
            services: whether it takes names of model services; then these are offered alone.
            old_names: whether it takes names of Databricks' own endpoints.
        """
        if services:
            kind = _type_at(base_url)
            listed = sorted(m for m, types in self.services.types.items() if kind in types)
        else:
            listed = [m for m in self.endpoints if old_names or not bare_name(m)]
        return {model: self.window(model) for model in listed if is_usable(model)}

    def substitutes(self, wanted: str) -> list[str]:
        """Models that may stand in for one that does not answer, best first."""
        services = [m for m, types in self.services.types.items() if types & CHATS]
        return ranked([*services, *self.endpoints], wanted)

    def alike(self, wanted: str) -> tuple[str, ...]:
        """Listed models with a name like this one, the nearest first; the name itself, if listed.

        Databricks' own are compared without what their two names begin with.
        """
        names: dict[str, str] = {}
        for model in filter(is_usable, (*self.endpoints, *self.services.types)):
            names.setdefault(bare_name(model) or model, model)
        near = get_close_matches(bare_name(wanted) or wanted, names, NEAR)
        return tuple(names[name] for name in near)

    def _body(self, path: str) -> bytes:
        status, body = self.get(f"{self.host}{path}")
        return body if status == 200 else b""


def _entries(of: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The mappings in a list of a JSON object; what is none is passed over."""
    listed = of.get(key)
    entries = listed if isinstance(listed, list) else []
    return [entry for entry in entries if isinstance(entry, dict)]


def _type_at(base_url: str) -> str:
    """The API type that a model must have on a route; "" where none is known."""
    return next((kind for end, kind in TYPES.items() if base_url.endswith(end)), "")
