"""hermes/findings.py and hermes/report_file.py: comparisons, and what is kept of an answer."""

from __future__ import annotations

import json
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hermes.answers import Answer, Outcome, limits_in
from hermes.client import Reply
from hermes.findings import Result, Said, compare, read_caching, read_reply, rule_of, world_of
from hermes.report_file import FORMAT, LEFT_OUT, Redactor, write_report
from hermes.routes import Place
from hermes.rules import RULES
from hermes.urls import SettingError
from tests.conftest import ROOT
from tests.mocked import DIRECT, EVENT, MLFLOW, OPENAI, OPUS_4_7, OWN, TOKEN

STRICT = RULES["strict"]
TAKEN, WORDS = Said(True, 200), "tools.0.custom.strict: Extra inputs are not permitted"
REFUSED, BUSY = Said(False, 400, "BAD_REQUEST", WORDS), Said(None, 429, "", "too many")
NEW = "system.ai.claude-opus-4-7"


@pytest.mark.parametrize(
    ("believed", "kept", "broken", "result", "worded", "text"),
    [
        (True, TAKEN, REFUSED, Result.AS_BELIEVED, True, ""),
        (True, TAKEN, replace(REFUSED, words="no"), Result.AS_BELIEVED, False, ": in other words: no"),
        (True, TAKEN, TAKEN, Result.KINDER, True, ": taken"),
        (False, TAKEN, TAKEN, Result.AS_BELIEVED, True, ""),
        (False, TAKEN, REFUSED, Result.STRICTER, True, f"; it holds for this model too: {WORDS}"),
        (True, TAKEN, BUSY, Result.UNKNOWN, True, ": too many"),
        (True, BUSY, REFUSED, Result.UNKNOWN, True, ": what keeps it is not taken either: too many"),
        (False, REFUSED, REFUSED, Result.UNKNOWN, True, f": what keeps it is not taken either: {WORDS}"),
    ],
)  # fmt: skip
def test_what_two_answers_say_of_a_rule(
    believed: bool, kept: Said, broken: Said, result: Result, worded: bool, text: str
) -> None:
    found = compare(STRICT, believed, kept, broken)
    assert (found.result, found.worded, found.text) == (result, worded, STRICT.what + text)


@pytest.mark.parametrize(
    ("status", "body", "taken", "words"),
    [
        (200, EVENT, True, ""),
        (200, "said by a model", None, "an answer that cannot be read"),
        (400, '{"message": "no"}', False, "no"),
        (422, '{"message": "no"}', False, "no"),
        (400, '{"message": "Could not finish: model output limit was reached"}', True, ""),
        (400, '{"message": "Invalid Token"}', None, "Invalid Token"),
        (404, '{"message": "gone"}', None, "gone"),
        (429, "", None, "no message"),
        (303, "", None, "no message"),
        (500, f'{{"message": "for {TOKEN}"}}', None, "for ***"),
    ],
)
def test_what_one_answer_says(status: int, body: str, taken: bool | None, words: str) -> None:
    said = read_reply(STRICT, Place(OPENAI, OPUS_4_7), Reply(status, body.encode()), TOKEN)
    assert (said.taken, said.words) == (taken, words)


@pytest.mark.parametrize(
    ("believed", "usage", "result"),
    [
        (True, {"prompt_tokens": 9, "cache_read_input_tokens": 8}, Result.AS_BELIEVED),
        (True, {"prompt_tokens": 9, "cache_read_input_tokens": 0}, Result.STRICTER),
        (True, {"prompt_tokens": 9}, Result.STRICTER),
        (False, {"prompt_tokens": 9}, Result.AS_BELIEVED),
        (False, {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 8}}, Result.KINDER),
        (True, {"prompt_tokens": 9, "cache_read_input_tokens": "8"}, Result.STRICTER),
        (True, {}, Result.UNKNOWN),
    ],
)
def test_whether_prompts_are_cached(believed: bool, usage: dict[str, Any], result: Result) -> None:
    assert read_caching(believed, TAKEN, TAKEN, usage).result is result
    assert read_caching(believed, TAKEN, BUSY, usage).result is Result.UNKNOWN


OLD_LEGACY, OLD_DIRECT, NEW_OWN = Place(MLFLOW, OPUS_4_7), Place(DIRECT, OPUS_4_7), Place(OWN, NEW)
SERVES, GONE, RETIRED, LOST = (
    Outcome.SERVES,
    Outcome.NOT_SERVED,
    Outcome.RETIRED_NAME,
    Outcome.NO_CONNECTION,
)


@pytest.mark.parametrize(
    ("legacy", "own", "direct", "world"),
    [
        (SERVES, GONE, GONE, "classic"),
        (SERVES, SERVES, SERVES, "both"),
        (RETIRED, SERVES, RETIRED, "enforced"),
        (RETIRED, GONE, RETIRED, "enforced"),
        (SERVES, LOST, GONE, ""),
        (LOST, SERVES, LOST, ""),
        (LOST, SERVES, RETIRED, "enforced"),
    ],
)
def test_which_world_it_is(legacy: Outcome, own: Outcome, direct: Outcome, world: str) -> None:
    said = {OLD_LEGACY: legacy, NEW_OWN: own, OLD_DIRECT: direct, Place(DIRECT, NEW): GONE}
    assert world_of(Answer(place, 0, outcome) for place, outcome in said.items()) == world


def test_the_rule_of_a_refusal_is_found_by_its_words() -> None:
    for name in ("retired", "retired-provisioned", "retired-endpoint", "missing-endpoint"):
        status, body = RULES[name].answer(model=OPUS_4_7)
        assert rule_of(Answer(OLD_DIRECT, status, RETIRED, body["message"])) == name
    assert rule_of(Answer(OLD_DIRECT, 403, RETIRED, "in words of its own")) == ""


@pytest.mark.parametrize(
    ("rule", "marks", "limits"),
    [
        ("cap", "all", {"max_tokens": 25000}),
        ("cache-tool", "all", {"cache": "no-tools"}),
        ("cache-tool", "no-tools", {"cache": "none"}),
        ("cache-marks", "all", {"cache": "none"}),
        ("cache-marks", "none", {}),
        ("strict", "all", {}),
    ],
)
def test_what_hermes_does_without_is_read_from_the_tables_words(
    rule: str, marks: str, limits: dict[str, Any]
) -> None:
    _, body = RULES[rule].answer(field="max_tokens", asked=65536, cap=25000, i=0, j=0)
    assert limits_in(body["message"], marks) == limits


# --- What is kept of an answer ---------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_the_tables_own_words_are_kept(rule: str) -> None:
    differs = {"model": "databricks-claude-opus-4-7", "schema": "system.ai", "found": 5}
    differs |= {"field": "max_tokens", "asked": 10_000_000, "cap": 25000, "i": 3, "j": 0}
    _, body = RULES[rule].answer(**differs, name="claude-opus-4-7")
    redactor = Redactor([TOKEN, "1234567890123456"])
    assert redactor.redact(body["message"]) == " ".join(body["message"].split())[:200]
    assert redactor.redact(body["error_code"]) == body["error_code"]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("model acme-claude is not supported", "model [...] is not supported"),
        ("user jane.doe@acme.example may not", "user [...] may not"),
        ("see https://x.cloud.databricks.com/o=1", "see [...]"),
        ("request 0f3b1c2d-89ab-4cde-8f01-23456789abcd failed", "request [...] failed"),
        ("workspace 1234567 does not", "workspace [...] does not"),
        ("id 1234 5678 9012", "id [...]"),
        ("id (123456) 789012, 34: error", "id [...] error"),
        ("at 10.0.0.12: error", "at [...] error"),
        ("model-12-34-56-78 is", "[...] is"),
        ("messages.12.content is required", "messages.12.content is required"),
        ("max_tokens (65536) cannot exceed 25000", "max_tokens (65536) cannot exceed 25000"),
        ("Ångström \x1b[31m is not", "[...] is not"),
        ("the gateway is off", "the [...] is off"),
        ("", ""),
    ],
)
def test_of_an_answer_known_words_alone_are_kept(said: str, kept: str) -> None:
    redactor = Redactor(["gateway"])  # a host by that name
    assert redactor.redact(said) == kept
    assert redactor.redact(kept) == kept
    assert LEFT_OUT not in kept or LEFT_OUT in redactor.redact(said)


REPORT: dict[str, Any] = {"hermes-report": FORMAT, "rules": []}


def test_a_report_is_for_its_owner_and_replaces_a_report_alone(tmp_path: Path) -> None:
    path = tmp_path / "hermes-report.json"
    write_report(path, REPORT)
    write_report(path, REPORT | {"world": "both"})
    assert json.loads(path.read_text())["world"] == "both"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.fault("file")
def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"it cannot be written \(No such file or directory\)$"):
        write_report(tmp_path / "gone" / "hermes-report.json", REPORT)


@pytest.mark.fault("file")
@pytest.mark.parametrize("there", ["{}", "", "text", "link", "folder"])
def test_another_file_is_not_replaced(there: str, tmp_path: Path) -> None:
    path, other = tmp_path / "hermes-report.json", tmp_path / "other"
    other.write_text(json.dumps(REPORT))
    if there == "link":
        path.symlink_to(other)
    elif there == "folder":
        path.mkdir()
    else:
        path.write_text(there)
    with pytest.raises(SettingError, match=re.escape("hermes-report.json: it is not a report")):
        write_report(path, REPORT | {"world": "both"})
    assert json.loads(other.read_text()) == REPORT
    assert there in ("link", "folder") or path.read_text() == there


def test_the_document_has_the_table_of_rules() -> None:
    """Facts in docs/report.md come from the table: a row is what, where, the answer, the source."""
    rows = [
        f"| `{r.name}` | {r.what} | {', '.join(r.where)} | {r.status} | {r.source} |"
        for r in RULES.values()
    ]
    text = (ROOT / "docs" / "report.md").read_text()
    assert re.findall(r"^\| `[\w-]+` \|.*$", text, re.M) == rows, "\n".join(rows)
