"""What each place says about a model: it is proved with a request as Hermes itself sends it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from hermes import provider
from hermes.answers import Answer, Outcome, choices, limits_in, read_answer
from hermes.client import Client
from hermes.learnt import Facts, Learnt
from hermes.routes import Place

ANSWER = 64 * 1024  # bytes of an answer that are read
MOST = 6  # questions for one place
# As Hermes asks for; and what is tried where that is refused as over the limit: a request's
# `max_tokens` counts against the output tokens a minute before it is let in (Microsoft Learn,
# Foundation Model APIs limits).
CAP, SMALL_CAP = 65536, 8192


class Prover:
    """Asks places for models with the user's own token, each question once, and keeps what they
    said.

    Arguments:
        client: sends the questions.
        workspace_id: is named where a host asks for it; "" where it is not known.
        learnt: what an earlier run learnt; it is asked for first.
    """

    def __init__(self, client: Client, workspace_id: str, learnt: Learnt) -> None:
        self.answers: list[Answer] = []
        self.client = client
        self._workspace_id = workspace_id
        self._models = {m: dict(r) for m, r in copy.deepcopy(learnt.models).items()}
        self._before = learnt

    @property
    def learnt(self) -> Learnt:
        """What is known now: what was learnt before, and from the answers."""
        retired = {a.place.base_url for a in self.answers if a.outcome is Outcome.RETIRED_NAME}
        serving = {a.place.base_url for a in self.answers if a.serves and a.place.is_old_name}
        return Learnt(self._models, ({*self._before.retired} | retired) - serving)

    def ask(self, place: Place) -> Answer:
        """Ask one place for an answer of its model, as Hermes will; not again, where it is answered
        already.
        """
        if known := self.known(place):
            return known
        answer = self._ask(place)
        self.answers.append(answer)
        return answer

    def known(self, place: Place) -> Answer | None:
        """The answer that there is already: this place's own, or another's that is about this one
        too.
        """
        own = (a for a in self.answers if a.place == place)
        wider = (a for a in self.answers if a.rules_out(place))
        return next(own, None) or next(wider, None)

    def serves(self, place: Place) -> bool | None:
        """Whether a place serves its model; None where nothing was learnt."""
        return self.ask(place).serves

    def _ask(self, place: Place) -> Answer:
        facts = self._guess(place)
        answer = self._insist(place, facts)
        if answer.outcome is Outcome.BUSY and facts.get("max_tokens", CAP) > SMALL_CAP:
            answer, facts = self._ask_for_less(place, facts, answer)
        if answer.serves:
            self._models.setdefault(place.model, {})[place.base_url] = facts
            return replace(answer, note=describe_limits(facts))
        return answer

    def _insist(self, place: Place, facts: Facts) -> Answer:
        """Ask until nothing more is learnt from what is refused; that is put into the facts."""
        answer = self._send(place, facts)
        for _ in range(MOST - 1):
            if not self._learn(facts, answer):
                break
            answer = self._send(place, facts)
        return answer

    def _ask_for_less(self, place: Place, facts: Facts, busy: Answer) -> tuple[Answer, Facts]:
        """Tell a busy minute from a tier that never lets in what Hermes asks for.

        That is so where a small answer comes, and the large one still does not.
        """
        small = facts | {"max_tokens": SMALL_CAP}
        answer = self._insist(place, small)
        if answer.outcome is not Outcome.SERVES:
            return busy, facts
        large = {key: value for key, value in small.items() if key != "max_tokens"}
        large |= {"max_tokens": facts["max_tokens"]} if "max_tokens" in facts else {}
        again = self._send(place, large)
        return answer, small if again.outcome is Outcome.BUSY else large

    def _guess(self, place: Place) -> Facts:
        """What may hold here: what was learnt of this model here, or else elsewhere, or of another
        model's cache.
        """
        first: Facts = {}
        if provider.family(place.model) == "claude":
            known = [f.get("cache") for routes in self._models.values() for f in routes.values()]
            refused = known and known[-1] in ("no-tools", "none")
            first = {"cache": known[-1] if refused else "all"}
        return first | Learnt(self._models).facts(place)

    def _send(self, place: Place, facts: Facts) -> Answer:
        """Send one question; no answer is one too."""
        if facts.get("workspace_id"):
            self.client.workspace_id = facts["workspace_id"]
        reply = self.client.ask(
            f"{place.base_url}/chat/completions",
            _question(place, facts),
            ANSWER,
            lambda received: choices(received) is not None,
        )
        return read_answer(place, reply.status, reply.body, self.client.token)

    def _learn(self, facts: Facts, answer: Answer) -> bool:
        """Take in what a refusal says of a place; whether that is news, so that it can be asked
        again.
        """
        if answer.outcome is Outcome.SEVERAL_WORKSPACES:
            if not self._workspace_id or facts.get("workspace_id"):
                return False
            facts["workspace_id"] = self._workspace_id
            return True
        if answer.status != 400:
            return False
        limits = limits_in(answer.said, facts.get("cache", "none"))
        news = {key: value for key, value in limits.items() if facts.get(key) != value}
        facts |= news
        return bool(news)


# A turn with a finished tool round, as Hermes has it after its first tool call.
_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "terminal", "arguments": '{"command": "true"}'},
}
_ROUND: list[dict[str, Any]] = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "ping"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "name": "terminal", "tool_call_id": "call_1", "content": "done"},
]
_PARAMETERS = {
    "type": "object",
    "properties": {"command": {"type": "string"}},
    "required": ["command"],
}
_TOOL = {
    "type": "function",
    "function": {"name": "terminal", "description": "Runs a command.", "parameters": _PARAMETERS},
}


def _question(place: Place, facts: Facts) -> dict[str, Any]:
    """One request in Hermes's own shape, after the plugin has seen it: a finished tool round, one
    tool, a stream.
    """
    model = place.model
    question = {
        "model": model,
        "tools": [_TOOL],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    learnt = {"models": {model: {place.base_url: facts}}}
    adapted = provider.adapt(_ROUND, model, place.base_url, learnt)
    return question | {provider.cap_field(model): CAP} | adapted


def describe_limits(facts: Facts) -> str:
    """What a person may want to know of a place that serves."""
    cap = facts.get("max_tokens")
    notes = [f"{cap} output tokens at most"] if cap else []
    notes += ["prompts are not cached"] if facts.get("cache") == "none" else []
    return f" ({', '.join(notes)})" if notes else ""
