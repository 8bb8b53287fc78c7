"""Put the app on Databricks: what is missing is made, what has changed is uploaded, the rest stays.

    make deploy     creates the app if needed, gives it its models, uploads, deploys, prints the address
    make status     shows the app, its resources and its last deployment
    make undeploy   deletes the app, once its name has been typed

with any of APP=name (hermes), PROFILE=name or HOST=https://... (logs in with the browser), SET="NAME=value ..." for app.yaml,
VOLUME=catalog.schema.volume, DRY=1 (reads only), FORCE=1 (without a route for the model, or for another's app).

Exit codes: 0 done, 1 it cannot be done, 2 bad settings.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import requests
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service.apps import App

from deploying.app import (
    DeployError,
    Target,
    brief,
    deploy,
    find_app,
    is_mine,
    make_app,
    read_manifest,
    say,
    upload,
)
from deploying.grants import (
    describe,
    endpoint_resources,
    give_resources,
    grant_models,
    volume_resource,
)
from deploying.settings import (
    check_settings,
    check_volume,
    find_me,
    log_in,
    read_files,
    read_set,
    read_volume,
)
from hermes.choice import Proof, prove
from hermes.learnt import Learnt
from hermes.report import chosen, table, verdict
from hermes.settings import HermesSettings, read_flag
from hermes.urls import SettingError, why_unreachable

ROOT = Path(__file__).resolve().parent


def main(argv: list[str], env: Mapping[str, str]) -> int:
    """Run the program.

    Arguments:
        argv: one of deploy, status and undeploy.
        env: the environment; what make was given is in `DEPLOY_APP`, `DEPLOY_SET` and so on.

    Returns:
        The exit code; see the module's text.
    """
    commands = {"deploy": deploy_app, "status": show_status, "undeploy": undeploy}
    if len(argv) != 1 or argv[0] not in commands:
        print(__doc__)
        return 0 if argv in (["-h"], ["--help"]) else 2
    try:
        asked = {
            name.removeprefix("DEPLOY_"): value.strip()
            for name, value in env.items()
            if name.startswith("DEPLOY_")
        }
        name = asked.get("APP") or "hermes"
        if not re.fullmatch("[a-z0-9-]{2,30}", name):
            raise SettingError(
                f"APP: {name[:100]!r} is not valid; expected 2 to 30 lower-case letters, digits and hyphens"
            )
        given = read_set(asked.get("SET", ""), ROOT) | read_volume(asked.get("VOLUME", ""))
        client = log_in(env, asked)
        target = Target(client, name, find_me(client), _is_on(asked, "DRY"))
        return commands[argv[0]](target, asked, given)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    except DeployError as error:
        print(error, file=sys.stderr)
    except DatabricksError as error:
        print(
            f"The workspace refused: {brief(error)} ({error.error_code or type(error).__name__}).",
            file=sys.stderr,
        )
    except Exception as error:  # requests' own, the SDK's TimeoutError after asking again, what it makes of an odd answer
        lost = error.__cause__ or error
        if isinstance(error, TimeoutError) or isinstance(lost, requests.RequestException):
            why = (
                why_unreachable(lost)
                if isinstance(lost, requests.RequestException)
                else brief(lost)
            )
            print(f"No connection ({why}): run this again, it goes on from there.", file=sys.stderr)
        else:
            print(f"It failed: {brief(error)} ({type(error).__name__}).", file=sys.stderr)
    except KeyboardInterrupt:
        print("Stopped: run this again, it goes on from there.", file=sys.stderr)
    return 1


def deploy_app(target: Target, asked: Mapping[str, str], given: dict[str, str]) -> int:
    """Bring everything up to date."""
    force, old = _is_on(asked, "FORCE"), read_manifest(target)
    if (
        old.volume and "HERMES_VOLUME" not in given
    ):  # what is kept there is not to be lost for a setting forgotten
        given = given | {"HERMES_VOLUME": old.volume}
        say("Volume", f'{old.volume} as last time; SET="HERMES_VOLUME=" leaves it')
    volume = given.get("HERMES_VOLUME", "")
    files = read_files(ROOT, given)
    settings = check_settings(target, files["app.yaml"])
    say("Workspace", f"{target.client.config.host} as {target.me}")
    proof = prove_models(settings) if settings else None
    if proof and not proof.answers_at_all and not force:
        print("Nothing was touched; FORCE=1 deploys all the same.", file=sys.stderr)
        return 1
    app = find_app(target)
    if app and not is_mine(target, app) and not force:
        raise DeployError(
            f"APP: {target.name!r} is the app of {app.creator}; expected a name of your own, or FORCE=1"
        )
    if volume:
        check_volume(target.client, volume)
    resources = [volume_resource(volume)] if volume else []
    routes = proof.routes if proof else None
    models = (routes.primary.model, routes.fallback.model) if routes else ()
    resources += endpoint_resources(target.client, models)
    app = make_app(target, app)
    give_resources(target, app, resources)
    grant_models(target, app, models)
    deploy(target, app, upload(target, files, given, old))
    print((app and app.url) or target.page)
    return 0


def prove_models(settings: HermesSettings) -> Proof:
    """Ask where the models answer, as `setup_hermes.py --check` does, and say what the app will use."""
    proof = prove(settings, Learnt())
    if proof.answers_at_all:
        print(*chosen(proof), sep="\n", flush=True)
    else:
        print(
            f"{table(settings, proof.answers)}\nNot served: {verdict(proof)}",
            file=sys.stderr,
        )
    return proof


def show_status(target: Target, asked: Mapping[str, str], given: dict[str, str]) -> int:
    """Say how the app is."""
    app = _find(target)
    parts = [part for part in (app.compute_status, app.app_status) if part and part.state]
    say(
        "App",
        f"{app.name} of {app.creator}: {', '.join(f'{p.state.value} ({p.message})' for p in parts if p.state)}",
    )
    say("Resources", ", ".join(map(describe, app.resources or [])) or "none")
    deployments = sorted(
        target.client.apps.list_deployments(app.name), key=lambda made: made.create_time or ""
    )
    if deployments and (status := deployments[-1].status) and status.state:
        say("Deployed", f"{status.state.value} {deployments[-1].create_time}: {status.message}")
    else:
        say("Deployed", "never")
    print(app.url or target.page)
    return 0


def undeploy(target: Target, asked: Mapping[str, str], given: dict[str, str]) -> int:
    """Delete the app once its name has been typed."""
    app = _find(target)
    say("App", f"{app.name} of {app.creator}: {app.url}")
    if target.dry:
        say("Undeploy", target.done("deleted"))
        return 0
    print(f"Type {app.name} to delete it: ", end="", flush=True)
    if sys.stdin.readline().strip() != app.name:
        raise DeployError("Nothing was deleted.")
    target.client.apps.delete(target.name)
    print(f"{app.name} is being deleted; what was uploaded stays in {target.folder}.")
    return 0


def _find(target: Target) -> App:
    app = find_app(target)
    if app is None:
        raise DeployError(f"APP: there is no app {target.name!r} in {target.client.config.host}")
    return app


def _is_on(asked: Mapping[str, str], name: str) -> bool:
    return bool(asked.get(name)) and read_flag(asked, name)


if __name__ == "__main__":
    cast(io.TextIOWrapper, sys.stdout).reconfigure(
        line_buffering=True
    )  # in step with stderr where both go to one pipe
    sys.exit(main(sys.argv[1:], os.environ))
