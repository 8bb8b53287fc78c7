"""Asks a workspace what is believed of Databricks: each rule of the table by two small requests,
one that breaks it and one that keeps it; each place a model may be; the lists; the prompt cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlencode

from hermes import provider
from hermes.answers import Answer, choices
from hermes.choice import Proof
from hermes.client import LIST, Client, Reply
from hermes.findings import (
    Finding,
    Said,
    compare,
    limits_of,
    read_caching,
    read_chat,
    read_list,
    surface_of,
    unasked,
    world_of,
)
from hermes.models import MODEL_SERVICES, Catalog, names_of
from hermes.proof import ANSWER, Prover
from hermes.routes import Place, default_route, direct_route, places
from hermes.rules import LISTS, RULES, Rule
from hermes.settings import HermesSettings
from hermes.trust import Trust
from hermes.urls import as_dict, as_json, cloud_of

SMALL = 16  # output tokens of a request, where its rule does not say otherwise
LONG = "word " * 4500  # Anthropic's "Prompt caching": no shorter prompt than 4,096 tokens is cached
_QUESTION = {"role": "user", "content": "hello"}
CHARACTERS = 4  # a token, about
# What the proof and the places cost at most, with a finished tool round as Hermes has it each.
PROOF, ROUND = 20, 200  # requests, tokens


class Cost(NamedTuple):
    """What a survey costs at most: requests, and tokens about."""

    requests: int
    prompts: int
    answers: int


@dataclass(frozen=True)
class Survey:
    """What a workspace said.

    `place` was proved for the model; `places` is what each place said of it. `lists` are how many
    models each list has.
    """

    cloud: str
    place: Place
    places: tuple[Answer, ...]
    lists: Mapping[str, int]
    findings: tuple[Finding, ...]

    @property
    def world(self) -> str:
        """Which of Databricks' worlds it is; "" where that cannot be told."""
        return world_of(self.places)

    @property
    def limits(self) -> dict[str, Any]:
        """What Hermes does without on this place."""
        return limits_of(self.findings)


def asked_rules(model: str, surface: str) -> list[Rule]:
    """The rules that a request can ask for. Of those with one and the same request it is the one
    that holds; the cap is last, as too large a request may use up a minute's tokens.
    """
    found: dict[str, Rule] = {}
    for rule in RULES.values():
        named = "model" in rule.breaks  # which holds for any model, and on its own surfaces alone
        if not rule.breaks or (named and surface not in rule.where):
            continue
        known = found.get(key := json.dumps(rule.breaks, sort_keys=True))
        if known is None or (rule.holds(model, surface) and not known.holds(model, surface)):
            found[key] = rule
    return sorted(found.values(), key=lambda rule: rule.name == "cap")


def request_of(model: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A plain question with these fields instead of its own, and a cap on its answer."""
    request: dict[str, Any] = {"model": model, "messages": [_QUESTION], "stream": True}
    request |= {"max_tokens": SMALL, **fields}
    cap = request.pop("max_tokens")
    return {**request, provider.cap_field(model): cap}


def cost_of(settings: HermesSettings) -> Cost:
    """What a survey costs at most. Nothing is asked."""
    model = settings.model
    surface = surface_of(Place(default_route(settings.host, settings.gateway), model))
    rules = [rule for rule in asked_rules(model, surface) if not is_list(rule)]
    pairs = [request_of(model, fields) for rule in rules for fields in (rule.breaks, rule.keeps)]
    requests = {json.dumps(request): request for request in pairs}
    caps = [request[provider.cap_field(model)] for request in requests.values()]
    return Cost(
        len(requests) + PROOF + 2,
        (sum(map(len, requests)) + 2 * len(LONG)) // CHARACTERS + PROOF * ROUND,
        sum(cap for cap in caps if cap < 10_000) + PROOF * SMALL,
    )


def is_list(rule: Rule) -> bool:
    """Whether a rule is about a list, rather than a chat completion."""
    return rule.where == (LISTS,)


class Surveyor:
    """Asks one workspace, with the user's own token.

    Arguments:
        proof: a proof that found a place for the model.
    """

    def __init__(self, proof: Proof) -> None:
        self.settings, self.place = proof.settings, proof.routes.primary
        self.proof = proof
        self._client = Client(self.settings.token, Trust(self.settings.host, self.settings.gateway))
        facts = proof.learnt.facts(self.place)
        self._client.workspace_id = facts.get("workspace_id", "")
        self._said: dict[str, Said] = {}

    @property
    def cloud(self) -> str:
        """The vendor of the workspace's cloud; "" where it is not known."""
        domain = cloud_of(self.settings.host)
        return next((name for name in ("azure", "gcp") if name in domain), domain and "aws")

    def places(self) -> Iterator[Answer]:
        """What each place says of the model, under each of its names."""
        settings = self.settings
        found = places(settings.host, settings.gateway, self.place.model)
        if service := names_of(self.place.model).service:
            found.append(Place(direct_route(settings.host), service))
        told = {answer.place: answer for answer in self.proof.answers}
        for place in found:
            # A prover of its own: what another place said must not stand for this one's answer.
            own = Prover(self._client, settings.workspace_id, self.proof.learnt)
            yield told.get(place) or own.ask(place)

    def lists(self) -> dict[str, int]:
        """How many models each list has."""
        catalog = Catalog(self.settings.host, self._client.ask)
        return {
            "chat endpoints": len(catalog.endpoints),
            "model services": len(catalog.services.types),
            "models of Databricks' own": len(catalog.windows),
        }

    def findings(self) -> Iterator[Finding]:
        """What each rule is like in this workspace, one by one."""
        refused = set[str]()
        surface = surface_of(self.place)
        for rule in asked_rules(self.place.model, surface):
            believed = rule.holds(self.place.model, LISTS if is_list(rule) else surface)
            if rule.unless in refused:
                yield unasked(rule, believed)
                continue
            kept = self._ask(rule, rule.keeps)
            broken = self._ask(rule, rule.breaks)
            finding = compare(rule, believed, kept, broken)
            refused |= {rule.name} if finding.refused else set()
            yield finding
        yield self.caching()

    def caching(self) -> Finding:
        """Whether a prompt that is sent again is read from the cache, as Hermes would send it."""
        model, learnt = self.place.model, {"models": self.proof.learnt.models}
        messages = [{"role": "system", "content": LONG}, _QUESTION]
        shaped = provider.adapt(messages, model, self.place.base_url, learnt)["messages"]
        request = request_of(model, {"messages": shaped, "stream": False})
        (first, _), (second, usage) = self._whole(request), self._whole(request)
        return read_caching(provider.family(model) == "claude", first, second, usage)

    def _ask(self, rule: Rule, fields: Mapping[str, Any]) -> Said:
        """What is answered to these fields; what was told clearly once is not asked again."""
        if is_list(rule):
            return self._list(rule, fields)
        request = request_of(self.place.model, fields)
        key = json.dumps(request, sort_keys=True)
        known = self._said.get(key)
        if known is None or known.taken is None:
            known = self._said[key] = self._chat(rule, request)
        return known

    def _list(self, rule: Rule, query: Mapping[str, Any]) -> Said:
        url = f"{self.settings.host}{MODEL_SERVICES}?{urlencode(query)}"
        return read_list(rule, self.place, self._client.ask(url), self.settings.token)

    def _chat(self, rule: Rule, request: Mapping[str, Any]) -> Said:
        return read_chat(rule, self.place, self._post(request, ANSWER), self.settings.token)

    def _whole(self, request: Mapping[str, Any]) -> tuple[Said, dict[str, Any]]:
        """The answer to a request that is not streamed, and what it says of its tokens."""
        reply = self._post(request, LIST)
        answer = as_json(reply.body)
        if reply.status == 200 and answer.get("choices"):
            return Said(True, reply.status), as_dict(answer.get("usage"))
        return read_chat(RULES["cache-marks"], self.place, reply, self.settings.token), {}

    def _post(self, request: Mapping[str, Any], most: int) -> Reply:
        url = f"{self.place.base_url}/chat/completions"
        return self._client.ask(url, dict(request), most, lambda body: choices(body) is not None)
