"""Install Hermes Agent and point it at a Databricks route that serves its model.

    python setup_hermes.py            installs, resolves, proves, writes, reports
    python setup_hermes.py --check    proves and reports, writes nothing

Exit codes: 0 done (with --check: the model is served), 1 Hermes cannot work (--check: not served), 2 bad settings.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from hermes.config import own_cap, refresh_token, write_config
from hermes.install import (
    answering_servers,
    compile_hermes,
    install_hermes,
    install_plugin,
    prepare_home,
    read_learnt,
)
from hermes.proof import Prover
from hermes.report import chosen, table, verdict
from hermes.routes import candidate_routes, choose_routes
from hermes.settings import HermesSettings, read_flag, read_settings
from hermes.urls import SettingError

__all__ = ["main", "refresh_token"]  # CODA's token rotator finds `refresh_token` here


def main(argv: list[str], env: Mapping[str, str]) -> int:
    """Run the program.

    Arguments:
        argv: the arguments: none, or `--check`.
        env: the environment.

    Returns:
        The exit code; see the module's text.
    """
    if argv in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        if argv not in ([], ["--check"]):
            raise SettingError(
                f"setup_hermes.py: {' '.join(argv)[:100]!r} is not valid; expected no argument or --check"
            )
        if not read_flag(env, "ENABLE_HERMES"):
            print("Hermes is turned off (ENABLE_HERMES); nothing was touched.")
            return 0
        settings = read_settings(env)
        return _check(settings) if argv else _setup(settings)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, RuntimeError) as error:  # a loop of symlinks is a RuntimeError to pathlib
        print(f"Hermes setup failed: {error}", file=sys.stderr)
        return 1


def _setup(settings: HermesSettings) -> int:
    """Install Hermes and write its config."""
    if not install_hermes(settings.home, settings.package):
        return 1
    compile_hermes(settings.home)
    prepare_home(settings.home, Path(__file__).resolve().parent)
    if not settings.token:
        print(
            "No Databricks token yet: Hermes is installed, its config follows once a token is there."
        )
        return 0
    learnt = read_learnt(settings.home)
    prover = Prover(settings.token, learnt) if settings.prove else None
    routes = choose_routes(settings, prover)
    print(settings.origin or f"Workspace: {settings.host}")
    print(
        f"Gateway:   {f'{settings.gateway} ({settings.gateway_origin})' if settings.gateway else 'none that answers'}"
    )
    print(*chosen(settings, routes, prover), sep="\n")
    settings = replace(settings, mcp_servers=answering_servers(settings.mcp_servers))
    if prover:
        listed = dict.fromkeys(prover.chat_models(settings.host), 0)
        urls = candidate_routes(settings.host, settings.gateway)
        routes = replace(routes, models=dict.fromkeys(urls, listed) if listed else {})
    path = settings.home / ".hermes" / "config.yaml"
    served = (
        None
        if prover is None
        else prover.serves(routes.primary.base_url, routes.primary.model) is True
    )
    print(f"Config:    {path} {write_config(path, settings, routes, served)}")
    hosts = [host] if (host := urlsplit(settings.gateway).hostname) else []
    install_plugin(settings.home, hosts, prover.learnt if prover else learnt, own_cap(path))
    if prover and not served:
        print(
            f"{table(settings, prover.answers)}\nWarning: {verdict(settings, prover)}",
            file=sys.stderr,
        )
    return 0


def _check(settings: HermesSettings) -> int:
    """Prove the routes and print what they said; writes nothing."""
    if not settings.token:
        print("No Databricks token: set DATABRICKS_TOKEN, or log in with the Databricks CLI.")
        return 1
    prover = Prover(settings.token, read_learnt(settings.home))
    routes = choose_routes(settings, prover)
    if settings.origin:
        print(settings.origin)
    print(table(settings, prover.answers))
    if prover.serves(routes.primary.base_url, routes.primary.model):
        print(f"OK: {routes.primary.model} answers on {routes.primary.base_url}.")
        return 0
    print(f"Not served: {verdict(settings, prover)}")
    return 1


if __name__ == "__main__":
    cast(io.TextIOWrapper, sys.stdout).reconfigure(
        line_buffering=True
    )  # in step with stderr where both go to one pipe
    sys.exit(main(sys.argv[1:], os.environ))
