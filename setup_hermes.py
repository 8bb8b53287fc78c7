"""Install Hermes Agent and point it at a Databricks route that serves its model.

    python setup_hermes.py            installs, resolves, proves, writes, reports
    python setup_hermes.py --check    proves and reports, writes nothing
    python setup_hermes.py --report   asks the workspace what is believed of Databricks, and says so

With --report it says first what that costs, and asks; --yes after it answers that, and writes
hermes-report.json for an issue.

Exit codes: 0 done (with --check: Hermes will answer), 1 Hermes cannot work (--check: nothing
answers), 2 bad settings.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from hermes.choice import prove, unproved
from hermes.config import own_cap, refresh_token, write_config
from hermes.install import (
    answering_servers,
    compile_hermes,
    install_hermes,
    install_plugin,
    prepare_home,
)
from hermes.installed import notes
from hermes.learnt import read_learnt
from hermes.login import load_settings
from hermes.report import NOT_LOGGED_IN, chosen, problem, substitution, table, verdict
from hermes.settings import read_flag
from hermes.survey import report_workspace
from hermes.urls import SettingError

COMMANDS: tuple[list[str], ...] = ([], ["--check"], ["--report"], ["--report", "--yes"])
__all__ = ["main", "refresh_token"]  # CODA's token rotator finds `refresh_token` here


def main(argv: list[str], env: Mapping[str, str]) -> int:
    """Run the program; what it takes and its exit codes are in the module's text."""
    if argv in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        if argv not in COMMANDS:
            raise SettingError(
                f"setup_hermes.py: {' '.join(argv)[:100]!r} is not valid;"
                " expected no argument, --check or --report"
            )
        if not read_flag(env, "ENABLE_HERMES"):
            print("Hermes is turned off (ENABLE_HERMES); nothing was touched.")
            return 0
        if argv[:1] == ["--report"]:
            return report_workspace(load_settings(env), yes="--yes" in argv)
        return _check(env) if argv else _setup(env)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, RuntimeError) as error:  # a loop of symlinks is a RuntimeError to pathlib
        print(f"Hermes setup failed: {error}", file=sys.stderr)
        return 1


def _setup(env: Mapping[str, str]) -> int:
    """Install Hermes and write its config."""
    settings = load_settings(env)
    if not install_hermes(settings.home, settings.package):
        return 1
    compile_hermes(settings.home)
    prepare_home(settings.home, Path(__file__).resolve().parent)
    if not settings.token:
        print(
            "No Databricks token yet: Hermes is installed, its config follows once a token is"
            " there."
        )
        return 0
    learnt = read_learnt(settings.home)
    proof = (
        prove(settings, learnt, list_models=True) if settings.prove else unproved(settings, learnt)
    )
    print(settings.origin or f"Workspace: {settings.host}")
    found = f"{settings.gateway} ({settings.gateway_origin})"
    print(f"Gateway:   {found if settings.gateway else 'none that answers'}")
    print(*chosen(proof), sep="\n")
    settings = replace(settings, mcp_servers=answering_servers(settings.mcp_servers))
    path = settings.home / ".hermes" / "config.yaml"
    proved = proof.answers_at_all if settings.prove else None
    print(f"Config:    {path} {write_config(path, settings, proof.routes, proved)}")
    install_plugin(settings, proof.learnt, own_cap(path))
    if proved is False:
        print(f"{table(settings, proof.answers)}\nWarning: {verdict(proof)}", file=sys.stderr)
    print(*(f"{note}\n" for note in notes(settings.home, env)), sep="", end="", file=sys.stderr)
    return 0


def _check(env: Mapping[str, str]) -> int:
    """Prove the routes and print what they said; writes nothing."""
    settings = load_settings(env)
    if not settings.token:
        print(NOT_LOGGED_IN)
        return 1
    proof = prove(settings, read_learnt(settings.home), ask_direct=True)
    if settings.origin:
        print(settings.origin)
    print(table(settings, proof.answers))
    print(*filter(None, [substitution(proof)]), "Is this your problem?", problem(proof), sep="\n")
    return 0 if proof.answers_at_all else 1


if __name__ == "__main__":
    # In step with stderr where both go to one pipe.
    cast(io.TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)
    sys.exit(main(sys.argv[1:], os.environ))
