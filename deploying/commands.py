"""What `deploy.py` does: the app brought up to date, shown, deleted."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import requests
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service.apps import App

from deploying.app import deploy, find_app, is_mine, last_deployment, make_app
from deploying.console import DeployError, say
from deploying.files import read_files, read_manifest, upload
from deploying.login import find_me, find_token, log_in
from deploying.options import Options
from deploying.rights import (
    describe_all,
    give_resources,
    limit_instances,
    model_resources,
    volume_resource,
)
from deploying.settings import (
    add_settings,
    check_settings,
    check_volume,
    merge_settings,
    say_kept,
)
from deploying.target import Target
from hermes.choice import Proof, prove
from hermes.learnt import Learnt
from hermes.report import chosen, table, verdict
from hermes.settings import read_home
from hermes.urls import SettingError, brief_error, why_unreachable
from hermes.volume import find_readers

NO_READERS = "nobody else was given READ VOLUME; admins and its managers can take it."


def run(options: Options, env: Mapping[str, str], root: Path) -> int:
    """Carry out one of the commands.

    Arguments:
        options: the arguments.
        env: the environment, in which a login may be.
        root: the checkout.

    Returns:
        The exit code.

    Raises:
        SettingError: for a setting that is not valid.
    """
    try:
        client = log_in(env, options.profile, options.host)
        target = Target(client, options.app, find_me(client), options.dry)
        if options.command == "deploy":
            return deploy_app(target, options, root)
        return show_status(target) if options.command == "status" else undeploy(target)
    except SettingError:
        raise
    except Exception as error:  # requests' own, the SDK's, and what it makes of an odd answer
        print(explain(error), file=sys.stderr)
        return 1


def explain(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, DeployError):
        return str(error)
    if isinstance(error, DatabricksError):
        code = error.error_code or type(error).__name__
        return f"The workspace refused: {brief_error(error)} ({code})."
    # The SDK asks again, and gives up with a TimeoutError.
    lost = error.__cause__ or error
    again = "run this again, it goes on from there."
    if isinstance(lost, requests.RequestException):
        return f"No connection ({why_unreachable(lost)}): {again}"
    if isinstance(error, TimeoutError):
        return f"No connection ({brief_error(lost)}): {again}"
    return f"It failed: {brief_error(error)} ({type(error).__name__})."


def deploy_app(target: Target, options: Options, root: Path) -> int:
    """Bring everything up to date."""
    old = read_manifest(target)
    given = merge_settings(options.settings, old.given)
    say_kept(given, options.settings, old.given)
    files = read_files(root)
    files["app.yaml"] = add_settings(files["app.yaml"], given)
    token, home = find_token(target.client), str(read_home(os.environ))
    settings = check_settings(files["app.yaml"], target.client, target.me, token, home)
    say("Workspace", f"{target.client.config.host} as {target.me}")
    proof = prove(settings, Learnt()) if settings else None
    if proof and not say_proof(proof) and not options.force:
        print("Nothing was touched; FORCE=1 deploys all the same.", file=sys.stderr)
        return 1
    resources = model_resources(target.client, models_of(proof))
    if volume := given.get("HERMES_VOLUME"):
        check_volume(target.client, volume)
        resources.append(volume_resource(volume))
    app = make_app(target, _find_own(target, options.force))
    if app:
        limit_instances(target, app)
    give_resources(target, app, resources)
    if volume:
        say_readers(target, app, volume)
    deploy(target, app, upload(target, files, given, old))
    print((app and app.url) or target.page)
    return 0


def _find_own(target: Target, force: bool) -> App | None:
    """The app, if it is there; another person's only where that was asked for."""
    app = find_app(target)
    if app and not is_mine(target, app) and not force:
        whose = f"{target.name!r} is the app of {app.creator}"
        raise DeployError(f"APP: {whose}; expected a name of your own, or FORCE=1")
    return app


def say_proof(proof: Proof) -> bool:
    """Say what the app will use, or why nothing answers; whether something does."""
    if proof.answers_at_all:
        print(*chosen(proof), sep="\n", flush=True)
        return True
    print(f"{table(proof.settings, proof.answers)}\nNot served: {verdict(proof)}", file=sys.stderr)
    return False


def say_readers(target: Target, app: App | None, volume: str) -> None:
    """Say who else may read what the app will save."""
    principal = (app and app.service_principal_client_id) or ""
    say("Volume", find_readers(lambda: target.client, volume, [principal]).line or NO_READERS)


def models_of(proof: Proof | None) -> list[str]:
    """The models that the app will use, by the names that answered."""
    if proof is None:
        return []
    places = (proof.routes.primary, proof.routes.fallback, proof.routes.direct)
    return [place.model for place in places if place]


def show_status(target: Target) -> int:
    """Say how the app is."""
    app = _find(target)
    parts = [part for part in (app.compute_status, app.app_status) if part and part.state]
    states = ", ".join(f"{p.state.value} ({p.message})" for p in parts if p.state)
    say("App", f"{app.name} of {app.creator}: {states}")
    say("Resources", describe_all(app.resources or []) or "none")
    say("Deployed", last_deployment(target))
    print(app.url or target.page)
    return 0


def undeploy(target: Target) -> int:
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
