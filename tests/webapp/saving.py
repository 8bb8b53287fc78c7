"""What the tests of what outlives a restart share with the benchmark: a keeper's program, and who saves."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from databricks.sdk.service.files import FilesAPI

from hermes.login import sdk_config
from tests.standin import StandIn
from tests.standin.files import Volume
from webapp.keep.archive import Archive
from webapp.keep.worker import connect
from webapp.tokens import bearer

# An app without a page: its keeper, which saves often.
DRIVER = """
import asyncio, os, signal, sys
from functools import partial
from hermes.login import sdk_config
from webapp.keep.keeper import Keeper
from webapp.owner import Owner
from webapp.settings import read_settings

settings = read_settings(os.environ)
keeper = Keeper(settings, Owner(), partial(sdk_config, settings.env, settings.home, timeout=20), every=0.05)


def end(*_):
    keeper.stop()
    os._exit(0)


signal.signal(signal.SIGTERM, end)
keeper.start()
asyncio.run(keeper.restored(lambda line: print("back:", line, flush=True)))
print("open", flush=True)
while True:
    signal.pause()
"""


def reach(workspace: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process's requests go to a workspace of the tests."""
    for name, value in workspace.env.items():
        if name.lower().endswith(("_proxy", "_bundle", "_cert_file")):
            monkeypatch.setenv(name, value)


@contextlib.contextmanager
def files_api(workspace: StandIn) -> Iterator[FilesAPI]:
    """The Files API, logged in as the app is."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in workspace.env.items():  # databricks-sdk reads the process's own
            monkeypatch.setenv(name, value)
        login = sdk_config(workspace.env, Path("/nowhere"), timeout=20)
        yield connect(login.host, bearer(login))


def save_home(workspace: StandIn, home: Path, folder: str = "/Volumes/main/hermes/state") -> None:
    """Save a home directory as an app does that ran on it."""
    with files_api(workspace) as files:
        archive = Archive(home, folder)
        archive.restore(files)
        archive.save(files)


def savers(home: Path) -> list[int]:
    """The processes that save for a home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if b"webapp.keep.worker" in command and str(home).encode() in command:
                found.append(int(folder.name))
    return found


def everything(volume: Volume) -> bytes:
    """All bytes that were ever sent, unpacked too, and every header but the one for the token."""
    seen = b""
    for call in volume.calls:
        said = {name: value for name, value in call.headers.items() if name != "authorization"}
        seen += json.dumps([call.path, call.query, said]).encode() + call.body
        with contextlib.suppress(zlib.error):
            rest = call.body
            while rest:
                one = zlib.decompressobj()
                seen += one.decompress(rest)
                rest = one.unused_data
    return seen
