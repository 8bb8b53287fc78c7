"""The process that saves and restores: a request a line on stdin, until that ends.

While it works on a request it writes `{"working": true}` to stdout now and then, and at last the
answer: what was done, or `problem`.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from databricks.sdk import WorkspaceClient
from databricks.sdk.core import ApiClient, Config
from databricks.sdk.errors import NotFound, PermissionDenied, Unauthenticated
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service.files import FilesAPI

from hermes.urls import brief_error, why_unreachable
from hermes.volume import find_readers
from webapp.keep.archive import Archive, SupersededError
from webapp.keep.format import NewerFormatError, TornError, folder_of
from webapp.keep.histories import find_histories, recall_choice, record_choice
from webapp.keep.selection import LeftOut

SHOWN = 1000  # entries of what is left out or missing; more are counted
LONGEST = 1024  # characters of a path or a reason that are shown: an answer is one line
PULSE = 2.0  # seconds between two signs of life
NICE = 10  # a tenth of a core beside a busy program; with 19, a seventieth, no last save gets done
ASKED = 600.0  # seconds between two questions about who may read the volume


class Worker:
    """Does what `Keeper` asks.

    Arguments:
        home: the home directory.
        volume: the folder on the volume.
        connect: gives the Files API for a host and a token.
        say: sends a line.
        workspace: gives databricks-sdk's `WorkspaceClient`; None to not ask who reads the volume.
    """

    def __init__(
        self,
        home: Path,
        volume: str,
        connect: Callable[[str, str], FilesAPI],
        say: Callable[[dict[str, Any]], None],
        workspace: Callable[[str, str], Any] | None = None,
    ) -> None:
        self.home, self.volume = home, volume
        self._connect, self._say, self._ask_readers = connect, say, workspace
        self._said, self._asked = 0.0, -ASKED
        self._expected: list[str] = []  # who was meant to read the volume when that was asked
        self.archive = Archive(home, volume, self._tick)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one thing.

        Returns:
            What was done; or `problem`, in one line, and `end` where nothing more will come of it.
        """
        try:
            files = self._connect(request["host"], request["token"])
            do = {"restore": self._restore, "save": self._save}[request["do"]]
            return do(files, request) | self._readers(request)
        except SupersededError:
            problem = "a newer instance of this app saves now, this one no longer does"
            return {"problem": problem, "end": True}
        except Exception as error:
            return {"problem": explain(error, self.archive.folder)}

    def _restore(self, files: FilesAPI, request: dict[str, Any]) -> dict[str, Any]:
        """Bring back a history; where it is not said which, and several are there, name them."""
        files.create_directory(self.volume)
        histories, name = find_histories(files, self.volume), request["history"]
        chosen = recall_choice(files, self.volume, histories) if name is None else name
        if chosen is None:
            return {"histories": histories}
        if len(histories) > 1:
            record_choice(files, self.volume, chosen, histories)
        self._open(chosen, request)
        opened = self.archive.restore(files)
        missing = [LeftOut(str(path), why) for path, why in opened.missing.items()]
        return asdict(opened) | {"history": chosen} | _shown("missing", missing)

    def _open(self, history: str, request: dict[str, Any]) -> None:
        folder = folder_of(self.volume, history)
        self.archive = Archive(self.home, folder, self._tick, request["instance"])

    def _save(self, files: FilesAPI, request: dict[str, Any]) -> dict[str, Any]:
        if not self.archive.caught_up:  # this process goes on with another one's work
            self._open(request["history"], request)
            self.archive.look(files, request["state"])
        saved = self.archive.save(files)
        return asdict(saved) | _shown("left_out", saved.left_out)

    def _readers(self, request: dict[str, Any]) -> dict[str, Any]:
        """Who else may read the volume, where that is asked for again after a while."""
        if not self._ask_readers:
            return {}
        expected = request["expected_readers"]
        if expected == self._expected and time.monotonic() < self._asked + ASKED:
            return {}
        self._asked, self._expected = time.monotonic(), expected  # the owner may be found later
        login = request["host"], request["token"]
        readers = find_readers(partial(self._ask_readers, *login), self.volume, expected)
        return {"readers": readers.line, "exposed": bool(readers.others)}

    def _tick(self) -> None:
        if time.monotonic() - self._said > PULSE:
            self._said = time.monotonic()
            self._say({"working": True})


def _shown(name: str, entries: list[LeftOut]) -> dict[str, Any]:
    """What fits into an answer of some entries, and how many there are."""
    first = [(path[:LONGEST], why[:LONGEST], rule) for path, why, rule in entries[:SHOWN]]
    return {name: first, f"{name}_count": len(entries)}


def explain(error: BaseException, folder: str) -> str:
    """Why a state of a folder could not be written or read, in one line without a token."""
    said = brief_error(error)[:160]
    cause = error.__cause__ or error
    if isinstance(error, TornError | NewerFormatError):
        return said
    if isinstance(error, DatabricksError):
        return _explain_refusal(error, said, folder)
    if isinstance(cause, OSError):
        return _explain_system(cause)
    return f"{type(error).__name__}: {said}"


def _explain_refusal(error: DatabricksError, said: str, folder: str) -> str:
    code = str(error.error_code or "")
    if isinstance(error, PermissionDenied | Unauthenticated):
        return f"no permission on {folder}: the app needs WRITE VOLUME there ({said})"
    if isinstance(error, NotFound):
        return f"{folder} is not there ({said})"
    if "EXHAUSTED" in code or "QUOTA" in code or "not enough space" in said:
        return f"no space left on the volume ({said})"
    return f"Databricks answers: {said}"


def _explain_system(error: OSError) -> str:
    if error.errno == 28:  # ENOSPC
        return "no space left on the app's own disk"
    if error.strerror:
        return f"{error.strerror} on the app's own disk"
    return f"the network: {why_unreachable(error)}"


@lru_cache(maxsize=1)
def connect(host: str, token: str) -> FilesAPI:
    """The plain Files API: packs are too small for parts, or for presigned URLs elsewhere."""
    return FilesAPI(ApiClient(_config(host, token)))  # type: ignore[no-untyped-call]


def workspace(host: str, token: str) -> WorkspaceClient:
    """The workspace's other APIs."""
    return WorkspaceClient(config=_config(host, token))


def _config(host: str, token: str) -> Config:
    return Config(
        host=host, token=token, auth_type="pat", http_timeout_seconds=30, retry_timeout_seconds=5
    )


def main() -> None:
    """Answer the app's requests until it closes the pipe."""
    with suppress(AttributeError, OSError):  # not on Linux
        ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE: no terminal may read the token from here
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the app says when it ends
    # It warns of what older workspaces do not have.
    logging.getLogger("databricks.sdk").setLevel(logging.ERROR)
    print("ready", flush=True)

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), flush=True)

    with suppress(BrokenPipeError):  # the app was killed
        worker = Worker(Path(sys.argv[1]), sys.argv[2], connect, say, workspace)
        for line in sys.stdin:
            say(answer := worker.answer(json.loads(line)))
            if "files" in answer:  # from now on nobody waits for it
                os.nice(max(0, NICE - os.nice(0)))  # the disk's priority follows


if __name__ == "__main__":
    main()
