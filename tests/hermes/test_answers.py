"""hermes/answers.py: what each answer means, and what else it is about."""

from __future__ import annotations

import json
from string import Formatter

import pytest

from hermes.answers import Answer, Outcome, Reach, read_answer
from hermes.routes import Place
from hermes.rules import RULES
from tests.mocked import DIRECT, EVENT, HOST, MLFLOW, OPENAI, OPUS_4_6, OPUS_4_7, OWN, TOKEN

NEW = "system.ai.claude-opus-4-7"
ON_GATEWAY, ON_OWN, ON_DIRECT = Place(OPENAI, OPUS_4_7), Place(OWN, NEW), Place(DIRECT, OPUS_4_7)


def read(status: int, body: str, place: Place = ON_GATEWAY) -> Answer:
    return read_answer(place, status, body.encode(), TOKEN)


@pytest.mark.fault("gateway")
@pytest.mark.parametrize(
    ("status", "body", "meaning", "outcome"),
    [
        (200, EVENT, "serves the model", Outcome.SERVES),
        (200, EVENT.replace('"index"', '"finish_reason": "content_filter", "index"'), "serves the model", Outcome.SERVES),
        (200, '{"choices": []}', '{"choices": []}', Outcome.UNCLEAR),
        (200, '{"error_code": "NOPE", "message": "no"}', "no", Outcome.UNCLEAR),
        (200, "<html>log in", "a login page: this host serves several workspaces, or none", Outcome.SEVERAL_WORKSPACES),
        (303, "", "a login page: this host serves several workspaces, or none", Outcome.SEVERAL_WORKSPACES),
        (400, f"you sent Bearer {TOKEN} \x1b[31m", "you sent Bearer *** [31m", Outcome.UNCLEAR),
        (400, "x" * 190 + TOKEN, "x" * 190 + "***", Outcome.UNCLEAR),
        (400, '{"error": {"message": "Invalid Token"}}', "the token is of another workspace: Invalid Token", Outcome.OTHER_WORKSPACE),
        (400, '{"message": "max_tokens is\\nnot supported"}', "max_tokens is not supported", Outcome.UNCLEAR),
        (400, '{"error": {"message": "nested"}}', "nested", Outcome.UNCLEAR),
        (400, '{"message": "unknown field \\"stream_options\\""}', "refuses what Hermes needs (stream_options): use another model", Outcome.UNFIT),
        (401, "{}", "token rejected: {}", Outcome.TOKEN),
        (403, '{"message": "You need CAN QUERY"}', "not permitted: You need CAN QUERY", Outcome.NOT_PERMITTED),
        (404, "<html>", "not served here, or not permitted", Outcome.NOT_SERVED),
        (400, '{"error_code": "FEATURE_DISABLED", "message": "no"}', "AI Gateway is not enabled for this workspace", Outcome.FEATURE_DISABLED),
        (429, '{"error_code": "REQUEST_LIMIT_EXCEEDED"}', "serves the model (busy now: rate limited)", Outcome.BUSY),
        (500, '{"error": "text"}', "text", Outcome.UNCLEAR),
        (501, '{"error_code": "NOT_IMPLEMENTED", "message": "soon"}', "soon", Outcome.UNCLEAR),
        (503, "", "no message", Outcome.UNCLEAR),
        (500, "x" * 5000, "x" * 200, Outcome.UNCLEAR),
        (404, EVENT, "not served here, or not permitted", Outcome.NOT_SERVED),
    ],
)  # fmt: skip
def test_what_an_answer_means(status: int, body: str, meaning: str, outcome: Outcome) -> None:
    answer = read(status, body)
    assert (answer.meaning, answer.outcome) == (meaning, outcome)
    assert answer.answer == f"HTTP {status}"


@pytest.mark.fault("gateway")
@pytest.mark.parametrize(
    ("rule", "place", "outcome", "serves"),
    [
        ("retired", ON_DIRECT, Outcome.RETIRED_NAME, False),
        ("retired-provisioned", ON_DIRECT, Outcome.RETIRED_NAME, False),
        ("retired-endpoint", ON_DIRECT, Outcome.RETIRED_NAME, False),
        ("retired-gateway", ON_GATEWAY, Outcome.RETIRED_NAME, False),
        ("retired-gateway-403", ON_GATEWAY, Outcome.RETIRED_NAME, False),
        ("missing-model", ON_OWN, Outcome.NOT_SERVED, False),
        ("missing-endpoint", ON_DIRECT, Outcome.NOT_SERVED, False),
        ("no-entitlement", ON_OWN, Outcome.NOT_ENTITLED, False),
        ("busy", ON_OWN, Outcome.BUSY, True),
        ("disabled", ON_GATEWAY, Outcome.FEATURE_DISABLED, False),
        ("stale-token", ON_GATEWAY, Outcome.TOKEN, None),
        ("foreign-token", ON_GATEWAY, Outcome.OTHER_WORKSPACE, None),
        ("narrow-scope", ON_GATEWAY, Outcome.NO_SCOPE, False),
    ],
)
def test_what_databricks_is_known_to_answer(
    rule: str, place: Place, outcome: Outcome, serves: bool | None
) -> None:
    status, body = RULES[rule].answer(model=place.model)
    answer = read(status, json.dumps(body), place)
    assert (answer.outcome, answer.serves) == (outcome, serves)
    if status in (403, 501):
        assert answer.meaning.endswith(body["message"])


@pytest.mark.parametrize(
    ("outcome", "asked", "others", "ruled_out"),
    [
        (Outcome.NOT_SERVED, ON_GATEWAY, [Place(MLFLOW, OPUS_4_7), ON_DIRECT], 0),
        (Outcome.RETIRED_NAME, ON_GATEWAY, [Place(MLFLOW, OPUS_4_6), Place(OWN, OPUS_4_7)], 2),
        (Outcome.RETIRED_NAME, ON_GATEWAY, [ON_OWN, ON_DIRECT, Place(MLFLOW, "my-model")], 0),
        (Outcome.RETIRED_NAME, ON_DIRECT, [Place(DIRECT, OPUS_4_6)], 1),
        (Outcome.RETIRED_NAME, Place(DIRECT, "my-own"), [ON_DIRECT, Place(DIRECT, "another")], 0),
        (Outcome.FEATURE_DISABLED, ON_GATEWAY, [Place(MLFLOW, OPUS_4_6), ON_OWN, ON_DIRECT], 1),
        (Outcome.NO_SCOPE, ON_DIRECT, [Place(DIRECT, "my-model"), ON_OWN], 1),
        (Outcome.TOKEN, ON_DIRECT, [ON_OWN, ON_GATEWAY], 1),
        (Outcome.NO_CONNECTION, ON_GATEWAY, [Place(MLFLOW, OPUS_4_6), ON_OWN], 1),
        (Outcome.SEVERAL_WORKSPACES, ON_DIRECT, [ON_OWN, Place(f"{HOST}:1/x", "m")], 1),
    ],
)
def test_what_else_an_answer_is_about(
    outcome: Outcome, asked: Place, others: list[Place], ruled_out: int
) -> None:
    answer = Answer(asked, 403, outcome)
    assert [answer.rules_out(place) for place in others] == [
        i < ruled_out for i in range(len(others))
    ]


def test_each_refusal_has_its_cure() -> None:
    for outcome in Outcome:
        reading = outcome.value
        assert bool(reading.cure) is (reading.serves is not True), outcome
        names = {name for _, name, *_ in Formatter().parse(reading.cure) if name}
        assert names <= {"model", "said"}
        about_token = outcome in (Outcome.TOKEN, Outcome.OTHER_WORKSPACE, Outcome.NO_SCOPE)
        assert ("token" in reading.cure.lower()) is about_token
    assert {outcome.value.reach for outcome in Outcome} == set(Reach)
