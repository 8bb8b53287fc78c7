"""hermes/survey.py on the stand-in: what is found in each world, and of each rule that is off."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trustme", reason="trustme is missing: the stand-in workspace needs it")

from hermes.choice import prove
from hermes.findings import Finding, Result, Survey
from hermes.learnt import Learnt
from hermes.login import load_settings
from hermes.report_file import as_issue
from hermes.rules import RULES
from hermes.survey import Surveyor, cost_of
from tests.conftest import ROOT
from tests.hermes.conftest import Enter, Runner
from tests.standin import GPT, NEW_OPUS_4_7, OPUS_4_7, WORLDS, Call, StandIn
from tests.standin.reported import options_of, read_report
from tests.standin.wire import Answer

REPORTS = Path(__file__).parent.parent / "standin" / "reports"
LISTS = {"page-size", "no-schema"}  # a classic workspace has no list of model services
CAPS = dict.fromkeys((OPUS_4_7, NEW_OPUS_4_7, GPT), 25000)
Begin = Callable[..., Surveyor]


@pytest.fixture
def begin(home: Path, enter: Enter) -> Begin:
    """Proves a model in this process, so that a workspace can be surveyed."""

    def go(workspace: StandIn, model: str = OPUS_4_7) -> Surveyor:
        env = enter(workspace) | {"HERMES_MODEL": model}
        return Surveyor(prove(load_settings(env), Learnt()))

    return go


def report_of(surveyor: Surveyor) -> dict[str, Any]:
    places, lists = tuple(surveyor.places()), surveyor.lists()
    found = tuple(surveyor.findings())
    survey = Survey(surveyor.cloud, surveyor.place, places, lists, found)
    return as_issue(survey, surveyor.settings)


def results(surveyor: Surveyor) -> dict[str, Result]:
    return {finding.name: finding.result for finding in surveyor.findings()}


def differing(found: dict[str, Result]) -> dict[str, Result]:
    return {name: result for name, result in found.items() if result is not Result.AS_BELIEVED}


@pytest.mark.parametrize("world", WORLDS)
def test_each_rule_that_is_off_is_found_kinder_and_no_other(world: str, begin: Begin) -> None:
    with StandIn(world=world, caps=CAPS) as workspace:
        surveyor = begin(workspace)
        usual = {name: Result.UNKNOWN for name in LISTS if world == "classic"}
        found = list(surveyor.findings())
        assert differing({f.name: f.result for f in found}) == usual
        requests = {f.name for f in found if f.believed} - LISTS - {"caching"}
        assert len(requests) >= 11
        for name in requests - {"missing-model", "missing-endpoint"}:
            workspace.lenient = {name}
            again = results(Surveyor(surveyor.proof))
            assert differing(again) == usual | {name: Result.KINDER}, name


@pytest.mark.parametrize("world", WORLDS)
def test_a_survey_costs_no_more_than_it_says(world: str, begin: Begin) -> None:
    with StandIn(world=world, caps=CAPS) as workspace:
        surveyor = begin(workspace)
        report = report_of(surveyor)
        cost = cost_of(surveyor.settings)
        assert report["world"] == world
        assert report["limits"] == {"cache": "no-tools", "max_tokens": 25000}
        assert report["limits"] == surveyor.proof.learnt.facts(surveyor.place)
        assert len(workspace.chats()) <= cost.requests
        prompts = sum(r.input + r.read + r.write for r in workspace.chats())
        assert cost.prompts / 2 < prompts < cost.prompts


def test_other_words_are_told_apart(begin: Begin) -> None:
    with StandIn(lenient={"missing-model"}) as workspace:
        found = {finding.name: finding for finding in begin(workspace).findings()}
        assert found["missing-model"].result is Result.AS_BELIEVED
        assert ": in other words: The given endpoint does not exist" in found["missing-model"].text
        assert found["strict"].text == RULES["strict"].what


def test_what_another_rule_refuses_is_not_asked(begin: Begin) -> None:
    """A GPT model refuses all marks and all thinking: nothing finer can be told."""
    with StandIn(caps=CAPS) as workspace:
        surveyor = begin(workspace, GPT)
        untold = {name for name, r in results(surveyor).items() if r is Result.UNKNOWN}
        finer = {"cache-tool", "cache-empty", "cache-many", "thinking-budget", "thinking-round"}
        assert untold == finer | LISTS
        workspace.lenient = {"cache-marks"}
        found = results(Surveyor(surveyor.proof))
        assert found["cache-marks"] is Result.KINDER
        assert found["cache-tool"] is Result.AS_BELIEVED


@pytest.mark.parametrize("name", [*WORLDS, "kind", "strict"])
def test_a_stand_in_for_a_reported_workspace_is_reported_the_same(name: str, begin: Begin) -> None:
    if name in WORLDS:
        with StandIn(world=name, caps=CAPS, lenient={"name", "reasoning-effort"}) as workspace:
            report = report_of(begin(workspace))
    else:
        report = read_report(REPORTS / f"{name}.json")
    with StandIn(**options_of(report)) as workspace:
        again = report_of(begin(workspace))
    known = [(place["route"], place["name"]) for place in report["places"]]
    again["places"] = [p for p in again["places"] if (p["route"], p["name"]) in known]
    assert again == report  # but for routes that this project knows since


Answering = Callable[[Call], Answer]
LIMITED = (429, {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "too many requests"})


def broken_off(call: Call) -> Answer:
    raise ConnectionError


@pytest.mark.fault("network")
@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (lambda call: LIMITED, "too many requests"),
        (broken_off, "Remote end closed"),
        (lambda call: (200, b"what the model says"), "an answer that cannot be read"),
        (lambda call: (200, b'data: {"choices": []}\n\n'), "an answer that cannot be read"),
        (lambda call: (503, b""), "no message"),
        (lambda call: (403, {"message": "Invalid access token."}), "Invalid access token."),
        (lambda call: (400, {"message": "Invalid Token"}), "Invalid Token"),
    ],
)
def test_an_odd_answer_in_the_middle_is_one_row_that_is_unknown(
    odd: Answering, said: str, begin: Begin
) -> None:
    with StandIn(world="both", caps=CAPS) as workspace:
        surveyor, answer = begin(workspace), workspace.answer

        def sometimes(call: Call) -> Answer:
            return odd(call) if '"store"' in call.body.decode() else answer(call)

        workspace.answer = sometimes  # type: ignore[method-assign]
        found = {finding.name: finding for finding in surveyor.findings()}
        untold = {name: f.result for name, f in found.items()}
        assert differing(untold) == {"unknown-field": Result.UNKNOWN}
        assert said in found["unknown-field"].text


def test_a_control_that_was_not_told_is_asked_again(begin: Begin) -> None:
    with StandIn(world="both", caps=CAPS) as workspace:
        surveyor, answer, left = begin(workspace), workspace.answer, [1]

        def once(call: Call) -> Answer:
            plain = "tools" not in call.json and "store" not in call.json
            if plain and left:
                left.pop()
                return LIMITED
            return answer(call)

        workspace.answer = once  # type: ignore[method-assign]
        assert list(differing(results(surveyor)).values()) == [Result.UNKNOWN]


def test_prompts_that_are_not_cached(begin: Begin) -> None:
    with StandIn(world="both", faults={"no-caching"}, caps=CAPS) as workspace:
        found: dict[str, Finding] = {f.name: f for f in begin(workspace).findings()}
        assert found["caching"].result is Result.STRICTER
        assert found["caching"].text.endswith("from the cache: nothing was read from it")


SECRETS = {
    "token": "dapi0123456789abcdef0123456789abcdef",
    "workspace id": "1234567890123456",
    "another id": "9876543210",
    "host": "adb-1234567890123456.7.azuredatabricks.net",
    "gateway": "1234567890123456.0.ai-gateway.azuredatabricks.net",
    "another host": "https://acme-prod.cloud.databricks.com/login?o=12",
    "user": "jane.doe@acme.example",
    "name": "Jane",
    "request id": "0f3b1c2d-89ab-4cde-8f01-23456789abcd",
    "address": "10.139.64.12",
    "path": "/Workspace/Users/jane.doe/notebook",
    "output": "Certainly!",
    "model": "acme-claude-prod",
    "catalog": "acme_prod.agents.claude",
    "spaced id": "1234 5678 9012 3456",
}


@pytest.mark.parametrize("model", [OPUS_4_7, "acme-claude-prod"])
def test_a_report_tells_nothing_of_whose_workspace_it_was(model: str, begin: Begin) -> None:
    everything = " ".join(SECRETS.values())
    with StandIn(world="both", caps=CAPS) as workspace:
        workspace.serves["openai"].add("acme-claude-prod")
        surveyor, answer = begin(workspace, model), workspace.answer
        everything += f" {workspace.token}"

        def talking(call: Call) -> Answer:
            status, body = answer(call)
            if isinstance(body, dict) and "message" in body:
                said = f"{everything} {body['message']} {everything}"
                return status, {"error_code": SECRETS["token"], "message": said}
            if isinstance(body, dict) and "choices" in body:
                body["choices"][0]["message"]["content"] = everything
            return status, body

        workspace.answer = talking  # type: ignore[method-assign]
        found = report_of(surveyor)
        report = json.dumps(found)
        for kind, secret in {**SECRETS, "its token": workspace.token}.items():
            assert secret.lower() not in report.lower(), kind
        for part in ("jane", "acme", "azuredatabricks", "1234", "dapi", "10.139"):
            assert part not in report.lower()
        assert "messages: text content blocks must be non-empty" in report
        assert found["family"] == "claude"
        assert options_of(found)["world"] == (found["world"] or "classic")


# --- The command ------------------------------------------------------------------------------------

Command = Callable[..., "tuple[int, str, str]"]


class Terminal(io.StringIO):
    """Where a person types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def report(run: Runner, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `setup_hermes.py --report` in a folder of its own: exit code, output, errors."""

    def go(workspace: StandIn, *arguments: str, typed: str | None = None) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.stdin", io.StringIO() if typed is None else Terminal(typed))
        done = run(workspace, "--report", *arguments)
        return done.code, done.out, done.err

    return go


def test_the_cost_is_said_and_agreed_to_before_anything_is_asked(
    report: Command, tmp_path: Path
) -> None:
    with StandIn() as workspace:
        code, out, err = report(workspace)
        assert (code, err.count("\n")) == (2, 1)
        assert "expected make report YES=1, or --yes after --report" in err
        assert re.match(
            rf"This asks {OPUS_4_7}: about \d+0 requests, at most \d+,000 tokens\.\n", out
        )
        assert workspace.chats() == []
        for typed in ("", "n\n"):
            assert report(workspace, typed=typed)[0] == 0
            assert workspace.chats() == []
        assert not (tmp_path / "hermes-report.json").exists()


def test_a_person_reads_a_table_and_says_whether_a_file_is_written(
    report: Command, tmp_path: Path
) -> None:
    file = tmp_path / "hermes-report.json"
    with StandIn(lenient={"strict"}) as workspace:
        code, out, err = report(workspace, typed="y\nn\n")
        assert (code, err, file.exists()) == (0, "", False)
        assert re.search(r"^strict +kinder +200 taken +strict in a tool's function", out, re.M)
        assert "\nWorld:     classic\nResult:    18 as believed, 2 kinder, 2 unknown" in out
        assert workspace.token not in out
        assert report(workspace, typed="y\ny\n")[0] == 0
        assert read_report(file)["world"] == "classic"
        file.write_text("somebody's own")
        workspace.requests.clear()
        code, _, err = report(workspace, "--yes")
        assert workspace.chats() == []
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith("hermes-report.json: it is not a report; expected ")
        assert file.read_text() == "somebody's own"


def test_ctrl_c_is_one_line(report: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(Terminal, "readline", interrupt)
    with StandIn() as workspace:
        code, _, err = report(workspace, typed="")
        assert (code, err) == (130, "\nEnded; nothing was written.\n")


def test_no_place_for_the_model_is_said_as_by_check(report: Command, tmp_path: Path) -> None:
    with StandIn(reject_token=True) as workspace:
        code, out, _ = report(workspace, "--yes")
        assert code == 1
        assert out.splitlines()[-1].startswith("The token was rejected: check DATABRICKS_TOKEN")
        assert not (tmp_path / "hermes-report.json").exists()


def test_the_stand_in_is_started_as_a_reported_workspace(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.standin", "--as", str(REPORTS / "strict.json"), "--"]
    command += [sys.executable, str(ROOT / "setup_hermes.py"), "--check"]
    env = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    serves = "serves the model (25000 output tokens at most, prompts are not cached)"
    assert serves in done.stdout
