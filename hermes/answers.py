"""What an answer to a chat completion says about the model, and what can be done about a refusal.

A new refusal is one more member of `Outcome`, and one more row of `SIGNS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto, unique
from typing import Any

from hermes.routes import Place
from hermes.urls import as_dict, as_json

KEPT, SHOWN = 1000, 200  # characters of the workspace's own sentence


class Reach(Enum):
    """What else an answer is about, besides the place that gave it: that need not be asked any
    more.
    """

    PLACE = auto()
    OLD_NAMES = auto()  # Databricks' own endpoints, on gateways or on direct serving
    SURFACE = auto()  # direct serving of this host, or its gateway
    HOST = auto()


@dataclass(frozen=True)
class Reading:
    """What an outcome means for a person.

    `serves` is None where nothing was learnt. The workspace's own sentence follows `meaning` where
    `quoted`. `cure` is what to do where no route serves the model; "{model}" in it is the model.
    """

    meaning: str
    serves: bool | None
    reach: Reach = Reach.PLACE
    quoted: bool = True
    cure: str = ""


@unique
class Outcome(Enum):
    """What an answer means. The first that was seen, in this order, is what a verdict is about."""

    TOKEN = Reading(
        "token rejected",
        None,
        Reach.HOST,
        cure="The token was rejected: check DATABRICKS_TOKEN, or log in again.",
    )
    OTHER_WORKSPACE = Reading(
        "the token is of another workspace",
        None,
        Reach.HOST,
        cure="The token is of another workspace: check DATABRICKS_TOKEN and DATABRICKS_HOST.",
    )
    SEVERAL_WORKSPACES = Reading(
        "a login page: this host serves several workspaces, or none",
        None,
        Reach.HOST,
        quoted=False,
        cure="This host does not tell which workspace is meant, or is none: set DATABRICKS_HOST"
        " to the workspace's own URL, or DATABRICKS_WORKSPACE_ID to its id.",
    )
    NO_SCOPE = Reading(
        "the token lacks a scope",
        False,
        Reach.SURFACE,
        cure="The token lacks a scope that {model} needs: use one with the scope all-apis.",
    )
    NOT_PERMITTED = Reading(
        "not permitted",
        False,
        cure="{model} may not be used with this login: ask for CAN QUERY on the endpoint, or"
        " EXECUTE on the model service.",
    )
    NOT_ENTITLED = Reading(
        "this workspace is not entitled to the model",
        False,
        cure="This workspace is not entitled to {model}: set HERMES_MODEL to another model.",
    )
    UNCLEAR = Reading(
        "",
        None,
        cure="No route gave {model} a clear yes: the answers above say why.",
    )
    UNFIT = Reading(
        "refuses what Hermes needs (stream_options): use another model",
        False,
        quoted=False,
        cure="{model} is of no use to Hermes on any of these routes: set HERMES_MODEL to a"
        " Claude, GPT or Gemini model.",
    )
    RETIRED_NAME = Reading(
        "this name is retired",
        False,
        Reach.OLD_NAMES,
        cure="{model} is a model service in this workspace, and is not there or may not be used:"
        " ask for EXECUTE on it.",
    )
    NOT_SERVED = Reading(
        "not served here",
        False,
        quoted=False,
        cure="{model} is served on none of these routes: set HERMES_MODEL to a model that is.",
    )
    FEATURE_DISABLED = Reading(
        "AI Gateway is not enabled for this workspace",
        False,
        Reach.SURFACE,
        quoted=False,
        cure="{model} is served on none of these routes: set HERMES_MODEL to a model that is.",
    )
    NO_CONNECTION = Reading(
        "",
        None,
        Reach.HOST,
        cure="Nothing answered ({said}): check DATABRICKS_HOST and the network, then run this"
        " again.",
    )
    BUSY = Reading("serves the model (busy now: rate limited)", True, quoted=False)
    SERVES = Reading("serves the model", True, quoted=False)


@dataclass(frozen=True)
class Sign:
    """Which answers have an outcome: those with one of these statuses, and these words in their
    code or message.
    """

    outcome: Outcome
    statuses: Iterable[int] = range(1000)
    words: str = ""

    def matches(self, status: int, text: str) -> bool:
        """Whether an answer is one of these."""
        return status in self.statuses and re.search(self.words, text) is not None


# The first that matches holds.
SIGNS = (
    Sign(Outcome.NO_CONNECTION, [0]),
    Sign(Outcome.BUSY, [429]),
    Sign(Outcome.FEATURE_DISABLED, words=r"^FEATURE_DISABLED\n"),
    # databricks-agent-skills; litellm PR 40492, omnigent
    Sign(Outcome.RETIRED_NAME, [403, 501], "Please use Unity Gateway|Use Unity Catalog model serv"),
    Sign(Outcome.NO_SCOPE, [403], "required scopes"),  # ucode
    Sign(Outcome.NOT_ENTITLED, [403], r"rate limit of 0\b"),  # Free Edition
    Sign(Outcome.OTHER_WORKSPACE, [400, 401, 403], r"\bInvalid Token\b"),  # ucode issue 84
    Sign(Outcome.TOKEN, [401]),
    Sign(Outcome.TOKEN, [403], r"(?i)\binvalid access token\b"),
    Sign(Outcome.NOT_PERMITTED, [403]),
    Sign(Outcome.NOT_SERVED, [404]),
    Sign(Outcome.UNFIT, [400], "stream_options"),  # opencode 31156, continue 12936, lingua PR 133
    Sign(Outcome.SEVERAL_WORKSPACES, range(300, 400)),
    Sign(Outcome.SEVERAL_WORKSPACES, [200], r"(?i)\n\s*(<!doctype html|<html)"),
)


@dataclass(frozen=True)
class Answer:
    """What one place said. `status` is 0 where no answer came; `note` is what else is known of a
    place that serves.
    """

    place: Place
    status: int
    outcome: Outcome
    said: str = ""
    note: str = ""

    @property
    def answer(self) -> str:
        """The HTTP status for a person."""
        return f"HTTP {self.status}" if self.status else "-"

    @property
    def serves(self) -> bool | None:
        """Whether the place serves the model; None where nothing was learnt."""
        return self.outcome.value.serves

    @property
    def meaning(self) -> str:
        """What it means, for a person."""
        reading = self.outcome.value
        parts = [reading.meaning]
        if self.outcome is Outcome.NOT_SERVED and not self.place.is_direct:
            parts = ["not served here, or not permitted"]  # a gateway does not tell which
        if reading.quoted and self.said:
            parts.append(self.said[:SHOWN])
        return ": ".join(filter(None, parts)) + self.note

    def rules_out(self, place: Place) -> bool:
        """Whether this answers a question for another place too."""
        reach = self.outcome.value.reach
        if reach is Reach.OLD_NAMES:
            both = self.place.is_old_name and place.is_old_name
            return both and self.place.is_direct == place.is_direct
        if reach is Reach.SURFACE:
            return self.place.surface == place.surface
        return reach is Reach.HOST and self.place.host == place.host


def read_answer(place: Place, status: int, body: bytes, token: str) -> Answer:
    """Read what an answer to a chat completion says.

    Arguments:
        place: who was asked.
        status: the HTTP status.
        body: the beginning of the answer.
        token: is hidden where the answer repeats it.
    """
    if 200 <= status < 300 and choices(body) is not None:
        return Answer(place, status, Outcome.SERVES)
    message = message_of(body)
    text = f"{as_json(body).get('error_code', '')}\n{message}"
    outcome = next((r.outcome for r in SIGNS if r.matches(status, text)), Outcome.UNCLEAR)
    hidden = message.replace(token, "***") if token else message
    printable = "".join(c if c.isprintable() else " " for c in hidden)
    return Answer(place, status, outcome, " ".join(printable.split())[:KEPT] or "no message")


def choices(body: bytes) -> object:
    """The choices of a stream's first whole event that has any; None before that."""
    for line in body.split(b"\n")[:-1]:
        if line.startswith(b"data:"):
            event = as_json(line.removeprefix(b"data:"))
            if event.get("choices"):
                return event["choices"]
    return None


def message_of(body: bytes) -> str:
    """What an answer says in words, in whichever form it comes."""
    said = as_json(body.removeprefix(b"data:"))
    nested = said.get("error")
    words = said.get("message") or as_dict(nested).get("message")
    if not words and isinstance(nested, str):
        words = nested
    return str(words or body.decode("utf-8", "replace"))


def limits_in(said: str, marks: object) -> dict[str, Any]:
    """What a refusal says of a place's limits, as `learnt.json` has it; {} where it says nothing.

    Arguments:
        said: the words of the refusal.
        marks: where cache marks went in the request: "all", "no-tools" or "none".
    """
    if cap := re.search(r"cannot exceed (\d{1,7})\b", said):
        return {"max_tokens": int(cap[1])}
    if "cache_control" in said and marks != "none":
        return {"cache": "no-tools" if "tool_result" in said and marks == "all" else "none"}
    return {}
