"""The process that saves and restores: one request a line on stdin, one answer a line on stdout, until stdin ends."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from databricks.sdk.core import ApiClient, Config
from databricks.sdk.errors import NotFound, PermissionDenied, Unauthenticated
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service.files import FilesAPI

from hermes.urls import brief_error, why_unreachable
from webapp.keep.archive import Archive, SupersededError, TornError


def work(
    archive: Archive, connect: Callable[[str, str], FilesAPI], request: dict[str, Any]
) -> dict[str, Any]:
    """Do one thing.

    Arguments:
        archive: where the states are.
        connect: gives the Files API for a host and a token.
        request: what `Keeper` asks.

    Returns:
        What was done; or `problem`, in one line, and `end` where nothing more will come of it.
    """
    try:
        files = connect(request["host"], request["token"])
        if request["do"] == "save":
            return vars(archive.save(files, request["hidden"]))
        done = archive.restore(files, beside=request["do"] == "late", look=request["do"] == "look")
        os.nice(19 - os.nice(0))  # the disk's priority follows
        return vars(done)
    except SupersededError:
        return {
            "problem": "a newer instance of this app saves now, this one no longer does",
            "end": True,
        }
    except Exception as error:
        return {"problem": explain(error, archive.folder)}


def explain(error: BaseException, folder: str) -> str:
    """Why a state could not be written or read, in one line without a token.

    Arguments:
        error: what was raised.
        folder: on the volume.

    Returns:
        The line.
    """
    said = brief_error(error)[:160]
    cause = error.__cause__ or error
    code = str(getattr(error, "error_code", "") or "")
    if isinstance(error, PermissionDenied | Unauthenticated):
        return f"no permission on {folder}: the app needs WRITE VOLUME there ({said})"
    if isinstance(error, NotFound):
        return f"{folder} is not there ({said})"
    if "EXHAUSTED" in code or "QUOTA" in code or "not enough space" in said:
        return f"no space left on the volume ({said})"
    if isinstance(error, TornError):
        return said
    if isinstance(error, DatabricksError):
        return f"Databricks answers: {said or code}"
    if isinstance(cause, OSError) and cause.errno == 28:  # ENOSPC
        return "no space left on the app's own disk"
    if isinstance(cause, OSError):
        return (
            f"{cause.strerror} on the app's own disk"
            if cause.strerror
            else f"the network: {why_unreachable(cause)}"
        )
    return f"{type(error).__name__}: {said}"


@lru_cache(maxsize=1)
def _connect(host: str, token: str) -> FilesAPI:
    # The plain API, to the workspace alone: packs are too small to be sent in parts, or to presigned URLs elsewhere.
    config = Config(
        host=host, token=token, auth_type="pat", http_timeout_seconds=30, retry_timeout_seconds=5
    )
    return FilesAPI(ApiClient(config))  # type: ignore[no-untyped-call]


def main() -> None:
    """Answer the app's requests until it closes the pipe."""
    with suppress(AttributeError, OSError):  # not on Linux
        ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE: no terminal may read the token from here
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the app says when it ends
    logging.getLogger("databricks.sdk").setLevel(
        logging.ERROR
    )  # it warns of what older workspaces do not have
    print("ready", flush=True)
    archive = Archive(Path(sys.argv[1]), sys.argv[2])
    with suppress(BrokenPipeError):  # the app was killed
        for line in sys.stdin:
            print(json.dumps(work(archive, _connect, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
