"""What keeping costs, with 200 MB in 2,000 files, on this machine; part of `make bench`."""

from __future__ import annotations

import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser

from tests.bench.rows import Row, chromium, opened
from tests.bench.terminal import KEYS, echo
from tests.conftest import ROOT
from tests.served import Served, until
from tests.standin import StandIn
from tests.standin.files import Volume
from tests.webapp.browsing import sees
from tests.webapp.saving import DRIVER

FILES, SIZE = 2000, 100_000  # bytes each


def fill(home: Path) -> None:
    """2,000 files, half of each compressible, as source and data are."""
    rng = random.Random(1)
    for number in range(FILES):
        path = home / "projects" / f"{number % 40}" / f"{number}.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(SIZE // 2) + b"%6d\n" % number * (SIZE // 14))


def states(volume: Volume) -> int:
    return len(volume.names("state-"))


def keeper(workspace: StandIn, home: Path, volume: Volume) -> subprocess.Popen[bytes]:
    """What saves, without a page."""
    env = workspace.env | {"HOME": str(home), "HERMES_VOLUME": volume.path}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER], env=env, cwd=ROOT, stdout=subprocess.DEVNULL
    )


def keep_rows() -> Iterator[Row]:
    """A first save, a small one, a restore, and typing while it saves."""
    volume = Volume()
    with (
        chromium() as browser,
        StandIn(rooms=volume.rooms()) as workspace,
        tempfile.TemporaryDirectory() as folder,
    ):
        home = Path(folder)
        fill(home)
        started = time.monotonic()
        saver = keeper(workspace, home, volume)
        until(lambda: states(volume), lambda: "nothing is saved")
        took, sent = time.monotonic() - started, volume.sent()
        note = f"{sent / 1e6:.0f} MB sent"
        yield Row("first save, 200 MB in 2,000 files", f"{took:.1f} s", note=note)
        (home / "projects" / "7" / "7.dat").write_text("changed")
        until(lambda: states(volume) > 1, lambda: "nothing is saved")
        sent = volume.sent() - sent
        yield Row("sent for one changed file", f"{sent / 1e6:.2f} MB", "< 1 MB")
        saver.send_signal(signal.SIGTERM)
        saver.wait()
        took = statistics.median(restored(browser, workspace, volume) for _ in range(3))
        yield Row("boot to the first terminal, 200 MB restored", f"{took:.1f} s", "< 5 s")
        with Served(workspace.env) as served, opened(browser, served) as page:
            sees(page, "This is a shell")
            page.locator(".xterm-helper-textarea").focus()
            quiet, quiet_most = echo(page)
            other = Volume(f"{volume.path}/other")
            other.slow = 0.2  # a network that takes as long as the typing
            workspace.rooms |= other.rooms()
            saver = keeper(workspace, home, other)
            until(lambda: other.names("pack-"), lambda: "nothing is saved")
            busy, busy_most = echo(page)
            note = f"{KEYS} keys; p95 {quiet_most:.1f} and {busy_most:.1f} ms"
            if states(other):
                note += "; the save was over before"
            name, target = "keystroke echo during a save, p50", f"< {1.5 * quiet:.1f} ms"
            yield Row(name, f"{busy:.1f} ms", target, note)
            saver.send_signal(signal.SIGTERM)
            saver.wait()


def restored(browser: Browser, workspace: StandIn, volume: Volume) -> float:
    """Seconds from the start of the process to its first terminal, with all that was saved."""
    started = time.monotonic()
    with (
        Served(workspace.env, HERMES_VOLUME=volume.path) as served,
        opened(browser, served) as page,
    ):
        sees(page, "This is a shell")
        seconds = time.monotonic() - started
        assert len(list((served.home / "projects").glob("*/*"))) == FILES
        return seconds
