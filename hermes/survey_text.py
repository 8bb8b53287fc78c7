"""`setup_hermes.py --report`: says what a survey costs, asks, prints what is found as it comes, and
writes it to a file for an issue where that is wanted.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from hermes.choice import prove
from hermes.findings import Finding, Result
from hermes.learnt import read_learnt
from hermes.proof import describe_limits
from hermes.report import NOT_LOGGED_IN, table, verdict
from hermes.report_file import NAME, as_issue, check_free, write_report
from hermes.settings import HermesSettings
from hermes.survey import Survey, Surveyor, cost_of
from hermes.urls import SettingError


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
