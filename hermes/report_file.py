"""`hermes-report.json`: what was found in a workspace, for an issue. It tells nothing of whose
workspace it was: of what was answered, only words that are known beforehand are kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hermes.answers import SHOWN, Answer
from hermes.config import write_whole
from hermes.findings import Finding, Survey, rule_of, surface_of
from hermes.provider import family
from hermes.routes import Place
from hermes.rules import RULES
from hermes.settings import HermesSettings
from hermes.urls import SettingError, as_json, workspace_id

NAME, FORMAT = "hermes-report.json", 1
LEFT_OUT = "[...]"
DIGITS = 6  # of a number at most; the id of a workspace has more
# Words of APIs and of their refusals that the table does not hold.
_MORE = """
a above accepted access additional adaptive after allowed already an and any api argument arguments
array assistant at auto available bad base be because been before below between body boolean both
budget but by can cannot chat choices completion completions configured contain contains content
context could current custom default did different disabled do documentation does each effort either
empty enable enabled end endpoint error exactly exceeded exceeds exist exists expected extra
failed field fields final first following for format found from function functions generate has have
haiku high if ignored in include incompatible inference input instead integer internal into invalid
invocation is isn it its json key last least length less level limit list low malformed many max
maximum may mode more most must native no none not null number object of on one only opus or order
other out output parallel parameter parameters parse pass passed payload permission permitted
possible preceding previous property provide provided providers rate read reasoning received refer
reference rejected remove removed replaced request requested requests require required requires
response result results retry role run same see sequence service set should single size sonnet
specified standard start stream string such supplied support supported supports system temperature
text than that the their then there these this those through to token tokens tool tools top true
type types unable undefined unexpected union unknown unprocessable unrecognized unsupported until
unused up usage use used user using valid validation value values version via was were when where
which while will with within without write wrong you your zero
answer answered asked closed connection keeps nothing refused remote reset taken timed too what
anthropic bedrock claude databricks gemini gemma glm google gpt kimi llama openai oss qwen us vertex
"""
_EDGES = "\"'`()[]{}<>,;:.!?*$"


def as_issue(survey: Survey, settings: HermesSettings) -> dict[str, Any]:
    """A survey as JSON, without the names of the settings wherever they stand."""
    redactor = Redactor(_names_of(settings))
    place = survey.place
    return {
        "hermes-report": FORMAT,
        "cloud": survey.cloud,
        "world": survey.world,
        "model": redactor.redact(place.model),
        "family": family(place.model),
        "place": _describe(place),
        "limits": survey.limits,
        "lists": {name: number > 0 for name, number in survey.lists.items()},
        "places": [_place(answer, redactor) for answer in survey.places],
        "rules": [_finding(finding, redactor) for finding in survey.findings],
    }


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report, for its owner alone; a report that is there already is replaced.

    Raises:
        SettingError: where it cannot be written; what was there is there then.
    """
    check_free(path)
    try:
        write_whole(path, json.dumps(report, indent=1).encode() + b"\n")
    except OSError as error:
        raise SettingError(f"{path}: it cannot be written ({error.strerror})") from None


def check_free(path: Path) -> None:
    """Raise SettingError where anything but an older report is where one is to be written."""
    if path.is_symlink() or (path.exists() and not _is_report(path)):
        raise SettingError(
            f"{path.name}: it is not a report; expected none there, or an older report"
        )


def _is_report(path: Path) -> bool:
    try:
        return path.is_file() and as_json(path.read_bytes()).get("hermes-report") == FORMAT
    except OSError:  # not ours to read
        return False


def _describe(place: Place) -> dict[str, str]:
    """A place without its host."""
    name = "service" if place.is_service else "old" if place.is_old_name else "own"
    route = "/".join(place.base_url.split("/")[3:])
    return {"surface": surface_of(place), "route": route, "name": name}


def _place(answer: Answer, redactor: Redactor) -> dict[str, Any]:
    return {
        **_describe(answer.place),
        "serves": answer.serves,
        "outcome": answer.outcome.name,
        "status": answer.status,
        "rule": "" if answer.serves else rule_of(answer),
        "words": "" if answer.serves else redactor.redact(answer.said),
    }


def _finding(finding: Finding, redactor: Redactor) -> dict[str, Any]:
    said = finding.said
    return {
        "rule": finding.name,
        "believed": finding.believed,
        "result": finding.result.value,
        "status": said.status,
        "code": redactor.redact(said.code),
        "words": redactor.redact(said.words),
        "worded": finding.worded,
    }


# --- What is kept of an answer ---


class Redactor:
    """Keeps the known words of an answer, and leaves out the rest.

    Arguments:
        names: are left out even where they are made of known words.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = [name.lower() for name in names if len(name) > 2]

    def redact(self, words: str) -> str:
        """The words of which each is known; `LEFT_OUT` for each other."""
        known = (word if self._is_known(word) else LEFT_OUT for word in words.split())
        kept = " ".join(known)
        several = rf"{re.escape(LEFT_OUT)}(?: {re.escape(LEFT_OUT)})+"
        number = r"[^\w\s]*\d+[^\w\s]*"
        # Numbers in a row may be one number.
        kept = re.sub(rf"(?<!\S){number}(?: {number})+(?!\S)", LEFT_OUT, kept)
        return re.sub(several, LEFT_OUT, kept)[:SHOWN].rstrip()

    def _is_known(self, word: str) -> bool:
        """Whether it is made of known words and short numbers: `messages.3.content`, `25000`."""
        core = word.strip(_EDGES)
        if not core:
            return word.isascii()
        if any(name in core.lower() for name in self._names):
            return False
        if re.fullmatch(rf"\d{{1,{DIGITS}}}", core) or core in _NUMBERS:
            return True
        return _is_path(core.lower())


def _is_path(core: str) -> bool:
    """Whether it is one known word, or several with short numbers between them."""
    first, *more = re.split(r"[._/:-]", core)
    numbers = [part for part in more if re.fullmatch(r"\d{1,2}", part)]
    few = len("".join(numbers)) <= DIGITS
    return few and all(part in _WORDS for part in (first, *more) if part not in numbers)


def _names_of(settings: HermesSettings) -> list[str]:
    """What the workspace is called: its token, its id, and the first part of each host."""
    hosts = [urlsplit(url).netloc.partition(".")[0] for url in (settings.host, settings.gateway)]
    return [settings.token, settings.workspace_id, workspace_id(settings.host), *hosts]


_TABLE = " ".join(
    f"{rule.words} {rule.code} {rule.what} {json.dumps([rule.breaks, rule.keeps])}"
    for rule in RULES.values()
)
_WORDS = frozenset(re.findall(r"[a-z]+", f"{_TABLE} {_MORE}".lower())) | {"v3"}
_NUMBERS = frozenset(re.findall(r"\d{7,}", _TABLE))
