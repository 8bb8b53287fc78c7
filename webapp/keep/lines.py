"""Several lines of states on one volume, and which of them is brought back.

A run that was started without what was saved must not save on top of it: it saves in a folder of
its own, `line-<time>-<id>`, beside the states that it knows nothing of. Each folder is complete in
itself, and nothing in one is deleted for another. The next start asks which line to bring back;
`choice.json` remembers the answer, and the lines there were, so that it is asked once.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from contextlib import suppress

from databricks.sdk.errors import NotFound
from databricks.sdk.service.files import FilesAPI

from webapp.keep.archive import download
from webapp.keep.format import (
    MAIN,
    MEANINGLESS,
    MOST_IN_A_MANIFEST,
    Line,
    TornError,
    folder_of,
    read_manifest,
)

CHOICE = "choice.json"
NAME = re.compile(r"line-\d{8}T\d{6}Z-[0-9a-f]{8}")


def find_lines(files: FilesAPI, volume: str) -> list[Line]:
    """The lines that have a state, the newest first."""
    names = [MAIN]
    with suppress(NotFound):
        names += [
            entry.name
            for entry in files.list_directory_contents(volume)
            if entry.is_directory and entry.name and NAME.fullmatch(entry.name)
        ]
    lines = [line for name in names if (line := _newest(files, volume, name))]
    return sorted(lines, key=lambda line: line.saved, reverse=True)


def recall_choice(files: FilesAPI, volume: str, lines: Iterable[Line]) -> str | None:
    """Which line to bring back; None where a person has to say it."""
    names = [line.name for line in lines]
    if len(names) < 2:
        return names[0] if names else MAIN
    with suppress(TornError, *MEANINGLESS):
        told = json.loads(download(files, f"{volume}/{CHOICE}", 2**16))
        if told["line"] in names and set(names) <= set(told["known"]):
            return str(told["line"])
    return None


def record_choice(files: FilesAPI, volume: str, name: str, lines: Iterable[Line]) -> None:
    """Remember which line was chosen, of these."""
    told = {"line": name, "known": [line.name for line in lines]}
    files.upload(f"{volume}/{CHOICE}", io.BytesIO(json.dumps(told).encode()), overwrite=True)


def _newest(files: FilesAPI, volume: str, name: str) -> Line | None:
    folder = folder_of(volume, name)
    states: list[str] = []
    with suppress(NotFound):
        listed = files.list_directory_contents(folder)
        states = sorted(e.name for e in listed if e.name and e.name.startswith("state-"))
    if not states:
        return None
    try:
        manifest = read_manifest(download(files, f"{folder}/{states[-1]}", MOST_IN_A_MANIFEST))
    except TornError:
        return Line(name, "", 0)
    return Line(name, manifest.saved, manifest.files)
