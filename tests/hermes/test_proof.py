"""hermes/proof.py against a workspace as strict as Databricks: what is asked, what is learnt, and what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trustme", reason="trustme is missing: the stand-in workspace needs it")

from hermes.answers import Answer, Outcome
from hermes.client import Client
from hermes.learnt import Learnt
from hermes.proof import Prover
from hermes.routes import Place
from hermes.trust import Trust
from tests.hermes.conftest import Runner
from tests.standin import GPT, LLAMA, OPUS_4_6, OPUS_4_7, SONNET, StandIn


def learnt(home: Path) -> dict[str, Any]:
    state = json.loads(
        (home / ".hermes/plugins/model-providers/databricks/learnt.json").read_text()
    )
    models: dict[str, Any] = state["models"]
    return models


@pytest.mark.parametrize(
    ("fault", "first", "facts"),
    [
        ({"lenient": {"cache-tool"}}, 3, {"cache": "all"}),
        ({}, 4, {"cache": "no-tools"}),
        ({"caps": {OPUS_4_7: 25000}}, 5, {"cache": "no-tools", "max_tokens": 25000}),
        (
            {"caps": {OPUS_4_7: 25000, OPUS_4_6: 8192}},
            6,
            {"cache": "no-tools", "max_tokens": 25000},
        ),
    ],
)
def test_what_is_refused_is_learnt_once(
    fault: dict[str, Any], first: int, facts: dict[str, Any], run: Runner, home: Path
) -> None:
    with StandIn(**fault) as workspace:
        done = run(workspace)
        assert (done.code, done.err) == (0, "")
        assert "(it answered)" in done.out
        assert len(workspace.chats()) == first
        assert learnt(home)[OPUS_4_7] == {f"https://{workspace.gateway_host}/openai": facts}
        before = learnt(home)
        assert run(workspace).code == 0
        assert [r.status for r in workspace.chats()] == [200] * 3
        assert learnt(home) == before
        assert workspace.token not in json.dumps(before)


def test_a_cap_that_shrinks_is_learnt_again(run: Runner, home: Path) -> None:
    with StandIn(caps={OPUS_4_7: 25000}) as workspace:
        assert run(workspace).code == 0
        workspace.caps[OPUS_4_7] = 8192
        assert run(workspace).code == 0
        assert (
            learnt(home)[OPUS_4_7][f"https://{workspace.gateway_host}/openai"]["max_tokens"] == 8192
        )


def test_what_was_learnt_of_a_route_goes_before_what_was_learnt_of_another() -> None:
    there, here = {"cache": "none", "max_tokens": 1}, {"cache": "all"}
    learnt = Learnt({OPUS_4_7: {"https://there.example": there, "https://here.example": here}})
    assert learnt.facts(Place("https://here.example", OPUS_4_7)) == here
    assert learnt.facts(Place("https://new.example", OPUS_4_7)) == there


def test_what_a_place_said_itself_goes_before_what_another_says_of_it() -> None:
    here, there = Place("https://here.example/a", "m"), Place("https://here.example/b", "m")
    prover = Prover(Client("dapi-token", Trust("https://here.example")), "", Learnt())
    prover.answers = [
        Answer(there, 0, Outcome.NO_CONNECTION),
        Answer(here, 200, Outcome.SERVES),
    ]
    assert prover.serves(here) is True
    assert prover.serves(Place("https://here.example/c", "m")) is None


def test_marks_that_are_refused_everywhere_are_left_out(run: Runner, home: Path) -> None:
    """The vendor's rule for other models, on this one."""
    with StandIn(serves={"openai": {"claude-by-another-name", OPUS_4_7}}) as workspace:
        answer = workspace.answer

        def refuse(call: Any) -> Any:
            if "cache_control" in call.body.decode():
                return 400, {
                    "error_code": "BAD_REQUEST",
                    "message": 'json: unknown field "cache_control"',
                }
            return answer(call)

        workspace.answer = refuse  # type: ignore[method-assign]
        done = run(workspace, "--check")
        assert "serves the model (prompts are not cached)" in done.out


@pytest.mark.parametrize("model", [OPUS_4_7, OPUS_4_6, SONNET, GPT])
def test_each_family_is_asked_as_it_takes_it(model: str, run: Runner, home: Path) -> None:
    with StandIn() as workspace:
        done = run(workspace, "--check", HERMES_MODEL=model)
        writes = f"setup writes {model} on https://{workspace.gateway_host}/openai, which answered."
        assert done.last.endswith(writes)


def test_a_model_that_is_of_no_use_to_hermes_gives_way_to_the_fallback(
    run: Runner, home: Path
) -> None:
    with StandIn() as workspace:
        done = run(workspace, "--check", HERMES_MODEL=LLAMA)
        assert done.code == 0
        refused = "HTTP 400  refuses what Hermes needs (stream_options): use another model"
        assert done.out.count(refused) == 3
        assert f"{LLAMA} does not answer: until it does, Hermes uses {OPUS_4_6}" in done.out
        assert len(workspace.chats()) <= 8


def test_a_cap_is_shown(run: Runner, home: Path) -> None:
    with StandIn(caps={OPUS_4_7: 25000}) as workspace:
        assert "serves the model (25000 output tokens at most)" in run(workspace, "--check").out
        assert not (home / ".hermes").exists()
