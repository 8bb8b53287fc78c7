"""`setup_hermes.py --report`: asks a workspace what is believed of Databricks.

Each rule of the table is asked for by two small requests, one that breaks it and one that keeps it.
So are each place a model may be, the lists, and the prompt cache. What that costs is said first,
what is found is printed as it comes, and written to a file for an issue where that is wanted.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from hermes import provider
from hermes.answers import Answer, choices
from hermes.choice import Proof, prove
from hermes.client import LIST, Client, Reply
from hermes.findings import (
    Finding,
    Result,
    Said,
    Survey,
    compare,
    read_caching,
    read_reply,
    surface_of,
    unknown,
)
from hermes.learnt import read_learnt
from hermes.models import MODEL_SERVICES, Catalog, names_of
from hermes.proof import ANSWER, Prover, describe_limits
from hermes.report import NOT_LOGGED_IN, table, verdict
from hermes.report_file import NAME, as_issue, check_free, write_report
from hermes.routes import Place, default_route, direct_route, places
from hermes.rules import LISTS, RULES, Rule
from hermes.settings import HermesSettings
from hermes.trust import Trust
from hermes.urls import SettingError, as_dict, as_json, cloud_of

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
    request = {"model": model, "messages": [_QUESTION], "stream": True, "max_tokens": SMALL}
    request |= fields
    request[provider.cap_field(model)] = request.pop("max_tokens")
    return request


def cost_of(settings: HermesSettings) -> Cost:
    """What a survey costs at most. Nothing is asked."""
    model = settings.model
    surface = surface_of(Place(default_route(settings.host, settings.gateway), model))
    rules = [rule for rule in asked_rules(model, surface) if not rule.is_list]
    pairs = [request_of(model, fields) for rule in rules for fields in (rule.breaks, rule.keeps)]
    requests = {json.dumps(request): request for request in pairs}
    caps = [request[provider.cap_field(model)] for request in requests.values()]
    return Cost(
        len(requests) + PROOF + 2,
        (sum(map(len, requests)) + 2 * len(LONG)) // CHARACTERS + PROOF * ROUND,
        sum(cap for cap in caps if cap < 10_000) + PROOF * SMALL,
    )


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
            believed = rule.holds(self.place.model, LISTS if rule.is_list else surface)
            if rule.unless in refused:
                why = Said(None, words=f"not asked, as {rule.unless} is refused")
                yield unknown(rule, believed, why)
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
        if rule.is_list:
            url = f"{self.settings.host}{MODEL_SERVICES}?{urlencode(fields)}"
            return self._read(rule, self._client.ask(url))
        request = request_of(self.place.model, fields)
        key = json.dumps(request, sort_keys=True)
        known = self._said.get(key)
        if known is None or known.taken is None:
            known = self._said[key] = self._read(rule, self._post(request, ANSWER))
        return known

    def _whole(self, request: Mapping[str, Any]) -> tuple[Said, dict[str, Any]]:
        """The answer to a request that is not streamed, and what it says of its tokens."""
        reply = self._post(request, LIST)
        answer = as_json(reply.body)
        if reply.status == 200 and answer.get("choices"):
            return Said(True, reply.status), as_dict(answer.get("usage"))
        return self._read(RULES["cache-marks"], reply), {}

    def _read(self, rule: Rule, reply: Reply) -> Said:
        return read_reply(rule, self.place, reply, self.settings.token)

    def _post(self, request: Mapping[str, Any], most: int) -> Reply:
        url = f"{self.place.base_url}/chat/completions"
        return self._client.ask(url, dict(request), most, lambda body: choices(body) is not None)


# --- The command, for a person ---


def report_workspace(settings: HermesSettings, yes: bool) -> int:
    """Survey a workspace for a person.

    Arguments:
        settings: checked settings.
        yes: whether both questions are answered with yes: the cost, and the file.

    Returns:
        The exit code: 0 done, 1 no place for the model or no token, 130 ended by Ctrl-C.

    Raises:
        SettingError: where nobody can be asked, or the file cannot be written.
    """
    if not settings.token:
        print(NOT_LOGGED_IN)
        return 1
    path = Path(NAME).absolute()
    if yes:
        check_free(path)  # before it costs anything
    cost = cost_of(settings)
    print(
        f"This asks {settings.model}: about {_up(cost.requests, 10)} requests, at most"
        f" {_up(cost.prompts + cost.answers, 1000):,} tokens."
    )
    try:
        if not (yes or _agreed("Ask?")):
            return 0
        survey = _survey(settings)
        if survey and (yes or _agreed(f"Write {NAME}, for an issue?")):
            write_report(path, as_issue(survey, settings))
            print(f"Written:   {path}, for an issue")
        return 0 if survey else 1
    except KeyboardInterrupt:
        print("\nEnded; nothing was written.", file=sys.stderr)
        return 130


def _up(number: int, step: int) -> int:
    """A number rounded up to a step."""
    return -(-number // step) * step


def _agreed(question: str) -> bool:
    """Ask a person."""
    if not sys.stdin.isatty():
        raise SettingError(
            "setup_hermes.py --report: there is no terminal to ask on; expected make report YES=1,"
            " or --yes after --report"
        )
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _survey(settings: HermesSettings) -> Survey | None:
    """Ask, and print each answer as it comes; None where no place has the model."""
    proof = prove(settings, read_learnt(settings.home))
    if not proof.answers_at_all:
        print(table(settings, proof.answers), verdict(proof), sep="\n")
        return None
    surveyor = Surveyor(proof)
    places = tuple(surveyor.places())
    print(table(settings, places))
    lists = surveyor.lists()
    print(f"Lists:     {', '.join(f'{number} {name}' for name, number in lists.items())}")
    print(f"Asked:     {surveyor.place.model} on {surveyor.place.base_url}")
    print(_row("RULE", "RESULT", "ANSWER", "WHAT, AND THE WORKSPACE'S WORDS WHERE THEY DIFFER"))
    findings = list[Finding]()
    for finding in surveyor.findings():
        print(_row(finding.name, finding.result.value, finding.said.answer, finding.text))
        findings.append(finding)
    survey = Survey(surveyor.cloud, surveyor.place, places, lists, tuple(findings))
    print(f"World:     {survey.world or 'unknown'}")
    counted = Counter(finding.result for finding in findings)
    numbers = (f"{counted[result]} {result.value}" for result in Result if counted[result])
    print(f"Result:    {', '.join(numbers)}{describe_limits(survey.limits)}")
    return survey


def _row(name: str, result: str, answer: str, text: str) -> str:
    return f"{name:22} {result:14} {answer:11} {text}"
