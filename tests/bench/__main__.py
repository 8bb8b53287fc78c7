"""Measure what docs/figures.md states, on this machine: `make bench`.

`python -m tests.bench PART ...` measures some of `PARTS` alone. The workspace is the stand-in, so
figures of network are figures of this program, not of Databricks.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from hermes.choice import prove
from hermes.learnt import PLUGIN, Learnt
from hermes.login import load_settings
from tests.bench.dashboard import dashboard_rows
from tests.bench.files import file_rows
from tests.bench.keep import keep_rows
from tests.bench.rows import Row
from tests.bench.terminal import terminal_rows
from tests.conftest import INSTALLED, ROOT
from tests.standin import OPUS_4_6, OPUS_4_7, StandIn
from tests.standin.refusals import NAMES
from utils import get_gateway_host

SETUP = [sys.executable, str(ROOT / "setup_hermes.py")]
# Run by Hermes's Python beside our plugin: milliseconds for the key of one request.
KEY = """
import timeit
from keys import current_headers
from hermes_cli.config import load_config
url = load_config()["model"]["base_url"]
assert current_headers(url)
print(timeit.timeit(lambda: current_headers(url), number=1000))
"""


def median(work: Callable[[], object], runs: int = 5) -> float:
    """Median of the wall-clock seconds that some runs of this take."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


@contextlib.contextmanager
def inside(workspace: StandIn) -> Iterator[dict[str, str]]:
    """This process, for a while, in the workspace's environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in workspace.env.items():
            patch.setenv(name, value)
        for name in (
            "_GATEWAY_RESOLVED",
            "DATABRICKS_GATEWAY_HOST",
            "DATABRICKS_WORKSPACE_ID",
            "SSL_CERT_DIR",
        ):
            patch.delenv(name, raising=False)
        yield workspace.env


def asked(workspace: StandIn, runs: int) -> str:
    """How many requests and how many tunnels a run took; a refused tunnel has no request."""
    requests = sum(r.method != "CONNECT" for r in workspace.requests)
    return (
        f"{requests / runs:g} requests, {(len(workspace.requests) - requests) / runs:g} connections"
    )


def gateway_rows() -> Iterator[Row]:
    """Gateway resolution, and black-holed with the proof of routes behind it."""
    for fault in ("ok", "refused", "black-holed"):
        with StandIn(gateway=fault) as workspace, inside(workspace):
            with contextlib.redirect_stderr(io.StringIO()):
                seconds = median(get_gateway_host)
            note = asked(workspace, 5)
            yield Row(f"gateway resolution, {fault}", f"{seconds:.3f} s", note=note)
    with StandIn(gateway="black-holed") as workspace, inside(workspace) as env:

        def resolve_and_prove() -> None:
            prove(load_settings(env), Learnt())

        with contextlib.redirect_stderr(io.StringIO()):
            seconds = median(resolve_and_prove)
        name, note = "gateway black-holed, proof included", asked(workspace, 5)
        yield Row(name, f"{seconds:.3f} s", "< 2.2 s", note)


def setup_rows(home: Path) -> Iterator[Row]:
    """A whole re-run of setup with everything in place, 20 ms away."""
    for fault, target in (("ok", "< 1 s"), ("black-holed", "")):
        with StandIn(latency=0.02, gateway=fault) as workspace:
            env = workspace.env | {"HOME": str(home)}

            def run(env: dict[str, str] = env) -> None:
                subprocess.run(SETUP, env=env, capture_output=True, check=True)

            run()
            workspace.requests.clear()
            name = "setup_hermes.py again, 20 ms network" + (
                "" if fault == "ok" else f", gateway {fault}"
            )
            seconds = median(run)
            yield Row(name, f"{seconds:.3f} s", target, asked(workspace, 5))
    importing = [sys.executable, "-c", "import utils"]
    seconds = median(lambda: subprocess.run(importing, cwd=ROOT, check=True), runs=15)
    yield Row('python -c "import utils"', f"{seconds:.3f} s", "< 0.15 s")


def answer_rows(home: Path) -> Iterator[Row]:
    """`hermes chat -q` to its answer, where neither the package index nor an MCP server can be reached."""
    took = {}
    for name in ("config of the original trace", "config that setup writes"):
        with StandIn() as workspace:
            env = workspace.env | {"HOME": str(home)}
            config = home / ".hermes" / "config.yaml"
            config.parent.mkdir(exist_ok=True)
            if name.startswith("config that"):
                config.unlink()
                subprocess.run(SETUP, env=env, capture_output=True, check=True)
            else:
                url = f"https://{workspace.gateway_host}/openai"
                route = {"provider": "custom", "base_url": url, "api_key": workspace.token}
                servers = {
                    "deepwiki": "https://mcp.deepwiki.com/mcp",
                    "exa": "https://mcp.exa.ai/mcp",
                }
                old = {
                    "model": {"default": OPUS_4_7, **route},
                    "fallback_providers": [{"model": OPUS_4_6, **route}],
                    "mcp_servers": {server: {"url": url} for server, url in servers.items()},
                }
                config.write_text(yaml.safe_dump(old))
                # Nobody had compiled Hermes then.
                env |= {
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "PYTHONPYCACHEPREFIX": str(home / "no-bytecode"),
                }
            took[name] = median(partial(first_answer, home, env), runs=3)
            yield Row(f"first answer, {name}", f"{took[name]:.1f} s")
    ratio = took["config of the original trace"] / took["config that setup writes"]
    yield Row("first answer, how many times sooner", f"{ratio:.1f}", ">= 4.5")


def price_rows(home: Path) -> Iterator[Row]:
    """Ten requests of a session with nine tool answers of 2 kB, at the vendor's prices, of what they cost unmarked."""
    paid = {}
    for name, lenient in (
        ("unmarked", set(NAMES)),
        ("taken in tool messages", {"cache-tool"}),
        ("refused there", set()),
    ):
        with StandIn(lenient=lenient, tool_calls=9, command="printf '%02000d' {}") as workspace:
            env = workspace.env | {"HOME": str(home)}
            # With what was learnt there of stricter routes.
            shutil.rmtree(home / ".hermes", ignore_errors=True)
            subprocess.run(SETUP, env=env, capture_output=True, check=True)
            if name == "unmarked":
                shutil.rmtree(home / ".hermes" / "plugins")
            workspace.cache.forget()
            workspace.requests.clear()
            first_answer(home, env)
            paid[name] = sum(r.input + 0.1 * r.read + 1.25 * r.write for r in workspace.chats())
            if name != "unmarked":
                target = {"refused there": "<= 36 %", "taken in tool messages": "<= 26 %"}[name]
                share = f"{paid[name] / paid['unmarked']:.1%}"
                yield Row(f"input tokens, cache marks {name}", share, target, "10 requests")


def first_answer(home: Path, env: dict[str, str]) -> None:
    """Ask once, and stop Hermes as soon as its answer is there."""
    command = [str(home / ".local" / "bin" / "hermes"), "chat", "-Q", "-q", "hello"]
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as hermes:
        assert hermes.stdout
        if not any(f"{OPUS_4_7} through" in line for line in hermes.stdout):
            raise RuntimeError("Hermes gave no answer")
        hermes.kill()


def key_rows(home: Path) -> Iterator[Row]:
    """What the plugin takes of each request to look up its key."""
    hermes = home / ".local" / "bin" / "hermes"
    python = hermes.read_text().partition("\n")[0].removeprefix("#!")
    with StandIn() as workspace:
        env = workspace.env | {"HOME": str(home), "PYTHONPATH": str(home / PLUGIN)}
        subprocess.run(SETUP, env=env, capture_output=True, check=True)
        # Not from our own folder, whose `utils` is not Hermes's.
        took = subprocess.check_output([python, "-c", KEY], env=env, cwd=home, text=True)
    milliseconds = float(took.splitlines()[-1])
    yield Row("the key of each request, in the plugin", f"{milliseconds:.1f} ms", "< 1 ms")


def hermes_rows() -> Iterator[Row]:
    """What takes a home with Hermes in it, but no app."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / ".local").symlink_to(INSTALLED / ".local")
        for part in (setup_rows, answer_rows, price_rows, key_rows):
            yield from part(home)


PARTS: dict[str, Callable[[], Iterable[Row]]] = {
    "gateway": gateway_rows,
    "hermes": hermes_rows,
    "terminal": terminal_rows,
    "dashboard": dashboard_rows,
    "files": file_rows,
    "keep": keep_rows,
}


def main(names: list[str]) -> None:
    """Measure everything, or some parts, and print one table."""
    rows = [Row("MEASURED", "MEDIAN", "TARGET", "NOTE")]
    for name in names or PARTS:
        for row in PARTS[name]():
            rows.append(row)
            print(f"{row.name}: {row.value}", file=sys.stderr)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    main(sys.argv[1:])
