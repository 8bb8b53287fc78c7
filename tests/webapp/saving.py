"""What the tests of what outlives a restart share with the benchmark: a keeper's program, and who saves."""

from __future__ import annotations

import contextlib
import json
import zlib
from pathlib import Path

from tests.standin.files import Volume

# An app without a page: its keeper, which saves often.
DRIVER = """
import asyncio, os, signal, sys
from functools import partial
from hermes.login import sdk_config
from webapp.keep.keeper import Keeper
from webapp.settings import read_settings

settings = read_settings(os.environ)
keeper = Keeper(settings, partial(sdk_config, settings.env, settings.home, timeout=20), every=0.05)


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
