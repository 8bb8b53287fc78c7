"""The stand-in's command line: `python -m tests.standin [options] -- COMMAND`."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tests.standin.apps import Apps
from tests.standin.refusals import NAMES
from tests.standin.reported import options_of, read_report
from tests.standin.workspace import GATEWAY_FAULTS, HOSTS, StandIn
from tests.standin.worlds import FAULTS, GATEWAY_ROUTES, WORKSPACE_ROUTES, WORLDS, default_serves


def _serve_option(text: str) -> tuple[str, set[str]]:
    route, equals, models = text.partition("=")
    if not equals or route not in GATEWAY_ROUTES + WORKSPACE_ROUTES:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected ROUTE=MODEL,MODEL with a route of "
            + ", ".join(GATEWAY_ROUTES + WORKSPACE_ROUTES)
        )
    return route, {m for m in models.split(",") if m}


def _cap_option(text: str) -> tuple[str, int]:
    model, _, cap = text.rpartition("=")
    if not model or not cap.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected MODEL=TOKENS")
    return model, int(cap)


def _rule_option(text: str) -> str:
    rule, at, route = text.partition("@")
    if rule not in NAMES or (at and route not in GATEWAY_ROUTES + WORKSPACE_ROUTES):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected RULE or RULE@ROUTE with a rule of {', '.join(NAMES)}"
        )
    return text


def _report_option(text: str) -> dict[str, Any]:
    try:
        return options_of(read_report(Path(text)))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class Wanted(NamedTuple):
    """What a command line asks for; `fields` are a `StandIn`'s."""

    command: list[str]
    log: Path | None
    home: Path | None
    fields: dict[str, Any]


def parse(argv: list[str]) -> Wanted:
    """Read the arguments: options, "--" and the command; see `--help`."""
    options = vars(_parser().parse_args(argv))
    command, log, home = (options.pop(name) for name in ("command", "log", "home"))
    serve = options.pop("serve")
    options["latency"] /= 1000
    options["caps"] = dict(options.pop("cap"))
    options |= {name: set(options[name]) for name in ("faults", "no_entitlement", "lenient")}
    options["serves"] = dict(serve) if serve else default_serves(options["world"])
    options |= options.pop("report")
    if options.pop("apps"):
        apps = Apps.of(options["serves"], volumes={"main.default.home"})
        options |= {"rooms": apps.rooms, "rights": apps.executable}
    return Wanted(command, log, home, options)


def main(argv: list[str]) -> int:
    """Run a command with a workspace around it.

    Returns:
        The command's own exit code (128 + the signal's number if one ended it).
    """
    wanted = parse(argv)
    with own_home(wanted.home) as home, StandIn(**wanted.fields) as standin:
        child = subprocess.Popen(wanted.command, env=standin.env | home)
        # Ctrl-C reaches the child by itself; a handler, unlike SIG_IGN, is not inherited by it.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        code = child.wait()
        if wanted.log:
            rows = ({k: v for k, v in vars(r).items() if k != "token"} for r in standin.requests)
            wanted.log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return code if code >= 0 else 128 - code


@contextmanager
def own_home(folder: Path | None) -> Iterator[dict[str, str]]:
    """A new home below a folder, in which the folder's .local is; deleted at the end.

    So Hermes is installed once, and two runs share nothing else.

    Yields:
        What the environment says of it; nothing where there is no folder.
    """
    if folder is None:
        yield {}
        return
    with TemporaryDirectory(prefix="run.", dir=folder, ignore_cleanup_errors=True) as home:
        Path(home, ".local").symlink_to(folder / ".local")
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))  # the terminal was closed
        yield {"HOME": home}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.standin",
        description="Run COMMAND with a Databricks workspace around it.",
    )
    parser.add_argument(
        "--home", type=Path, metavar="FOLDER", help="a home for this run alone, with FOLDER/.local"
    )
    parser.add_argument("--cloud", choices=HOSTS, default="azure")
    parser.add_argument(
        "--world",
        choices=WORLDS,
        default="classic",
        help="what models are called and where they answer; new workspaces are enforced",
    )
    parser.add_argument(
        "--fault",
        choices=FAULTS,
        action="append",
        default=[],
        dest="faults",
        help="what else such a workspace answers; may be given more than once",
    )
    parser.add_argument(
        "--no-entitlement",
        action="append",
        default=[],
        metavar="MODEL",
        help="a model with a rate limit of 0",
    )
    parser.add_argument(
        "--tier", type=int, metavar="TOKENS", help="the most output tokens that are admitted"
    )
    parser.add_argument(
        "--page-size", type=int, default=100, metavar="N", help="of the list of model services"
    )
    parser.add_argument(
        "--busy-lists", type=int, default=0, metavar="N", help="that list is HTTP 504 N times"
    )
    parser.add_argument(
        "--serve",
        type=_serve_option,
        action="append",
        metavar="ROUTE=MODELS",
        help="the models of a route, comma-separated; then routes that are not given serve nothing",
    )
    parser.add_argument("--gateway", choices=GATEWAY_FAULTS, default="ok")
    parser.add_argument(
        "--feature-disabled",
        action="store_true",
        help="AI Gateway is not available for this workspace",
    )
    parser.add_argument(
        "--reject-token", action="store_true", help="403 Invalid access token, always"
    )
    parser.add_argument(
        "--latency", type=float, default=0.0, metavar="MS", help="milliseconds before each answer"
    )
    parser.add_argument(
        "--lenient",
        type=_rule_option,
        action="append",
        default=[],
        metavar="RULE",
        help=f"turn a rule off: {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--cap",
        type=_cap_option,
        action="append",
        default=[],
        metavar="MODEL=N",
        help="the most max_tokens that it takes",
    )
    parser.add_argument(
        "--tool-call", action="store_true", help="ask for one tool call before each answer"
    )
    parser.add_argument(
        "--tool-calls", type=int, default=0, metavar="N", help="ask for N, one after the other"
    )
    parser.add_argument("--at-once", action="store_true", help="ask for all of them in one answer")
    parser.add_argument(
        "--oauth", type=float, metavar="S", help="a service principal whose tokens live S seconds"
    )
    parser.add_argument(
        "--apps",
        action="store_true",
        help="with the Apps API and a volume, main.default.home: for make deploy",
    )
    parser.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="write each request there, a JSON line each, without tokens",
    )
    parser.add_argument(
        "--as",
        type=_report_option,
        dest="report",
        default={},
        metavar="FILE",
        help="be the workspace of a hermes-report.json; it goes before other options",
    )
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    return parser
