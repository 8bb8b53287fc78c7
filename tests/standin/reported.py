"""A stand-in for the workspace of a `hermes-report.json`: it refuses what that workspace refused,
and takes what it took. What the report does not tell stays as the table of rules has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hermes.models import names_of
from hermes.report_file import FORMAT, LEFT_OUT
from hermes.rules import CHAT, REQUEST_RULES, RULES, Rule
from hermes.urls import as_json
from tests.standin.worlds import FAULTS, default_serves

Report = dict[str, Any]
SOME_CAP = 1_000_000  # where a report tells of a cap, but not which


def read_report(path: Path) -> Report:
    """Read a report. Raises ValueError where it is none, OSError where it cannot be read."""
    report = as_json(path.read_bytes())
    if report.get("hermes-report") != FORMAT:
        raise ValueError(f"{path}: it is not a report; expected a hermes-report.json")
    return report


def options_of(report: Report) -> dict[str, Any]:
    """The fields of a `StandIn`."""
    kinder, stricter = (_with(report, result) for result in ("kinder", "stricter"))
    places = {place["rule"] for place in report["places"]}
    names = _names(report)
    return {
        "cloud": report["cloud"] or "azure",
        "world": report["world"] or "classic",
        "serves": _serves(report),
        "faults": (places | {f"no-{name}" for name in stricter}) & {*FAULTS},
        "feature_disabled": "disabled" in places,
        "no_entitlement": names if "no-entitlement" in places else set(),
        "lenient": kinder & {*REQUEST_RULES, "missing-model"},
        "caps": _caps(report),
        "rules": RULES | {rule.name: rule for rule in _rules(report)},
    }


def _names(report: Report) -> set[str]:
    """Of the model; none where it is the workspace's own, and left out."""
    return {name for name in names_of(report["model"]) if name and name != LEFT_OUT}


def _caps(report: Report) -> dict[str, int]:
    refused = {row["rule"] for row in report["rules"] if _is_refused(row)}
    cap = report["limits"].get("max_tokens", SOME_CAP)
    return dict.fromkeys(_names(report) if "cap" in refused else (), cap)


def _with(report: Report, result: str) -> set[str]:
    return {row["rule"] for row in report["rules"] if row["result"] == result}


def _is_refused(row: Report) -> bool:
    believed = row["result"] == "as believed" and bool(row["believed"])
    return believed or row["result"] == "stricter"


def _serves(report: Report) -> dict[str, set[str]]:
    serves = default_serves(report["world"] or "classic")
    old, service = names_of(report["model"])
    for place in report["places"]:
        name = service if place["name"] == "service" else old
        if name not in _names(report):
            continue
        if place["serves"]:
            serves.setdefault(place["route"], set()).add(name)
        elif place["serves"] is False and place["rule"] != "no-entitlement":
            serves.get(place["route"], set()).discard(name)
    return serves


def _rules(report: Report) -> Iterator[Rule]:
    """The rules that this workspace has in its own way: for more than the table knows, or in other
    words.
    """
    for row in report["rules"]:
        if row["rule"] not in REQUEST_RULES or not _is_refused(row):
            continue
        rule = RULES[row["rule"]]
        if row["result"] == "stricter":
            rule = replace(rule, only="", but="", since=(0, 0), before=(99, 0), where=CHAT)
        if not row["worded"]:
            words = row["words"].replace("{", "{{").replace("}", "}}")
            rule = replace(rule, status=row["status"], code=row["code"], words=words)
        yield rule
