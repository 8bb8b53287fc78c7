"""A folder of ours in the home directory, on the same disk as what is saved or brought back."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = re.compile(r"\.keep-scratch-[0-9a-f]{32}")


@contextmanager
def scratch_folder(home: Path) -> Iterator[Path]:
    """A new folder, which is gone afterwards."""
    folder = home / f".keep-scratch-{secrets.token_hex(16)}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(home: Path) -> None:
    """Remove the folders of a killed process: of exactly such a name."""
    for path in home.glob(".keep-scratch-*"):
        if NAME.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)  # which leaves a link as it is
