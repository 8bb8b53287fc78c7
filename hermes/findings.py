"""What a workspace's answers say of the table of refusals. Pure: `survey.py` asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from hermes.answers import SHOWN, Answer, Outcome, limits_in, read_answer
from hermes.client import Reply
from hermes.routes import Place
from hermes.rules import DIRECT, GATEWAY, LEGACY, RULES, Rule
from hermes.urls import as_dict, as_json

REFUSES = (Outcome.UNCLEAR, Outcome.UNFIT, Outcome.NOT_SERVED)  # what is about the request itself
LIMITS = ("cap", "cache-marks", "cache-tool")  # rules that Hermes's requests are shaped by
# The answer of a model that thinks past its few tokens: goclaw 245, spiceai 7126.
CUT_SHORT = "output limit was reached"


class Result(Enum):
    """How what was answered compares with what is believed."""

    AS_BELIEVED = "as believed"
    KINDER = "kinder"
    STRICTER = "stricter"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Said:
    """What was answered to one request.

    `taken` is None where the answer is not about the request: a rate limit, a rejected token, no
    answer. `words` are the workspace's own, never a model's.
    """

    taken: bool | None
    status: int = 0
    code: str = ""
    words: str = ""

    @property
    def answer(self) -> str:
        """The HTTP status for a person, and whether it was a refusal."""
        meant = {True: " taken", False: " refused", None: ""}[self.taken]
        return f"{self.status}{meant}" if self.status else "-"


@dataclass(frozen=True)
class Finding:
    """What was found of one rule.

    `believed` is whether a refusal was expected. `worded` is whether the words of a refusal are
    those of the table.
    """

    name: str
    what: str
    believed: bool
    result: Result
    said: Said
    worded: bool = True

    @property
    def refused(self) -> bool:
        """Whether the workspace refuses it."""
        return self.result is (Result.AS_BELIEVED if self.believed else Result.STRICTER)

    @property
    def text(self) -> str:
        """What it is about; and the workspace's words, where they are not what was expected."""
        words = self.said.words[:SHOWN]
        if self.result is Result.AS_BELIEVED:
            return self.what if self.worded else f"{self.what}: in other words: {words}"
        if self.result is Result.STRICTER and self.name in RULES:
            return f"{self.what}; it holds for this model too: {words}"
        return f"{self.what}: {words or 'taken'}"


def read_reply(rule: Rule, place: Place, reply: Reply, token: str) -> Said:
    """What a place answered to a request that is about a rule; the token is hidden in the words.

    A chat completion is taken where an answer begins, a list where a JSON object comes.
    """
    answer, words = read_answer(place, reply.status, reply.body, token), as_json(reply.body)
    if rule.is_list:
        taken = reply.status == 200 and bool(words or reply.body.strip() == b"{}")
    else:
        cut_short = reply.status == 400 and CUT_SHORT in answer.said
        taken = answer.outcome is Outcome.SERVES or cut_short
    if taken:
        return Said(True, reply.status)
    if 200 <= reply.status < 300:  # may be the words of a model
        return Said(None, reply.status, words="an answer that cannot be read")
    about_it = answer.outcome in REFUSES and reply.status in (400, 422, rule.status)
    code = str(words.get("error_code") or "")
    return Said(False if about_it else None, reply.status, code, answer.said)


def compare(rule: Rule, believed: bool, kept: Said, broken: Said) -> Finding:
    """Compare two answers with what is believed.

    Arguments:
        rule: the rule.
        believed: whether it holds, as far as the table knows.
        kept: the answer to the request that keeps it.
        broken: the answer to the one that breaks it.
    """
    if not kept.taken:
        words = f"what keeps it is not taken either: {kept.words}"
        return unknown(rule, believed, replace(kept, taken=None, words=words))
    if broken.taken is None:
        return unknown(rule, believed, broken)
    refused = not broken.taken
    other = Result.STRICTER if refused else Result.KINDER
    result = Result.AS_BELIEVED if refused is believed else other
    worded = not refused or rule.is_worded(broken.words)
    return Finding(rule.name, rule.what, believed, result, broken, worded)


def unknown(rule: Rule, believed: bool, why: Said) -> Finding:
    """What is found of a rule where nothing is learnt."""
    return Finding(rule.name, rule.what, believed, Result.UNKNOWN, why)


def read_caching(believed: bool, first: Said, second: Said, usage: Mapping[str, Any]) -> Finding:
    """What is found of the prompt cache: how much of a prompt was read from it the second time.

    Arguments:
        believed: whether prompts are cached, as far as is known.
        first: the answer to a long prompt.
        second: the answer to the same again.
        usage: what the second one says of its tokens.
    """
    name, what = "caching", "a prompt that is sent again is read from the cache"
    said = second if first.taken else first
    if said.taken and "prompt_tokens" not in usage:
        said = Said(None, said.status, words="no usage is told")
    if not said.taken:
        return Finding(name, what, believed, Result.UNKNOWN, said)
    read = _cached_tokens(usage) > 0
    other = Result.KINDER if read else Result.STRICTER
    said = replace(said, words="" if read else "nothing was read from it")
    return Finding(name, what, believed, Result.AS_BELIEVED if read is believed else other, said)


def _cached_tokens(usage: Mapping[str, Any]) -> int:
    """As Databricks tells it of Claude (databricks-ai-bridge 446), or as OpenAI does."""
    details = as_dict(usage.get("prompt_tokens_details"))
    cached = usage.get("cache_read_input_tokens") or details.get("cached_tokens")
    return cached if isinstance(cached, int) else 0


def surface_of(place: Place) -> str:
    """Where a place is, as the table calls it."""
    if place.is_direct:
        return DIRECT
    return GATEWAY if "/ai-gateway/" in place.base_url else LEGACY


def rule_of(answer: Answer) -> str:
    """The rule by whose words a place refused a model; "" where there is none."""
    surface = surface_of(answer.place)
    words = (rule for rule in RULES.values() if rule.words and surface in rule.where)
    same = (rule for rule in words if rule.status == answer.status)
    return next((rule.name for rule in same if rule.is_worded(answer.said)), "")


def world_of(answers: Iterable[Answer]) -> str:
    """Which of Databricks' worlds a workspace is, from what each place says of one model: classic,
    both, enforced; "" where that cannot be told.
    """
    answers = list(answers)
    old = {a.serves for a in answers if a.place.is_old_name}
    new = {a.serves for a in answers if a.place.is_service and not a.place.is_direct}
    if True not in old:
        return "enforced" if Outcome.RETIRED_NAME in {a.outcome for a in answers} else ""
    if True in new:
        return "both"
    return "classic" if False in new else ""


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
        """What Hermes does without on this place, as `learnt.json` has it: a cap on the output
        tokens, and where no cache marks go.
        """
        limits: dict[str, Any] = {}
        for finding in self.findings:
            if finding.name in LIMITS and finding.refused:
                limits |= limits_in(finding.said.words, limits.get("cache", "all"))
        return limits
