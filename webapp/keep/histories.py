"""Several histories of states on one volume, and which of them is brought back.

A run that was started without what was saved must not save on top of it: it saves in a folder of
its own, `line-<time>-<id>`, beside the states that it knows nothing of. Each folder is complete in
itself, and nothing in one is deleted for another. The next start asks which one to bring back;
`choice.json` remembers the answer, and which there were, so that it is asked once.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from contextlib import suppress

from databricks.sdk.service.files import FilesAPI

from webapp.keep.archive import download
from webapp.keep.format import (
    MAIN,
    MEANINGLESS,
    MOST_IN_A_MANIFEST,
    History,
    TornError,
    folder_of,
    read_manifest,
)

CHOICE = "choice.json"
# A history was called a line once; what lies on volumes keeps that name.
NAME = re.compile(r"line-\d{8}T\d{6}Z-[0-9a-f]{8}")


def find_histories(files: FilesAPI, volume: str) -> list[History]:
    """The histories that have a state, the newest first."""
    entries = files.list_directory_contents(volume)
    folders = [entry.name for entry in entries if entry.is_directory and entry.name]
    names = [MAIN, *filter(NAME.fullmatch, folders)]
    histories = [one for name in names if (one := _newest(files, volume, name))]
    return sorted(histories, key=lambda one: one.saved, reverse=True)


def recall_choice(files: FilesAPI, volume: str, histories: Iterable[History]) -> str | None:
    """Which one to bring back; None where a person has to say it."""
    names = [one.name for one in histories]
    if len(names) < 2:
        return names[0] if names else MAIN
    with suppress(TornError, *MEANINGLESS):
        told = json.loads(download(files, f"{volume}/{CHOICE}", 2**16))
        if told["line"] in names and set(names) <= set(told["known"]):
            return str(told["line"])
    return None


def record_choice(files: FilesAPI, volume: str, name: str, histories: Iterable[History]) -> None:
    """Remember which of these histories was chosen."""
    told = {"line": name, "known": [one.name for one in histories]}
    files.upload(f"{volume}/{CHOICE}", io.BytesIO(json.dumps(told).encode()), overwrite=True)


def _newest(files: FilesAPI, volume: str, name: str) -> History | None:
    folder = folder_of(volume, name)
    names = [entry.name or "" for entry in files.list_directory_contents(folder)]
    states = [name for name in names if name.startswith("state-")]
    if not states:
        return None
    try:
        manifest = read_manifest(download(files, f"{folder}/{max(states)}", MOST_IN_A_MANIFEST))
    except TornError:
        return History(name, "", 0)
    return History(name, manifest.saved, manifest.files)
