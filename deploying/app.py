"""A Databricks App through databricks-sdk: created, brought up, deployed, where that is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from databricks.sdk.errors import NotFound, PermissionDenied, ResourceConflict
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service.apps import App, AppDeployment, AppDeploymentState

from deploying.console import DeployError, State, say, state_of, wait
from deploying.files import Manifest, write_manifest
from deploying.target import Target
from hermes.urls import brief_error


def find_app(target: Target) -> App | None:
    """Look for the app.

    Returns:
        The app; None where there is none of this name.

    Raises:
        DeployError: where it is hidden from whoever is logged in.
    """
    try:
        return target.client.apps.get(target.name)
    except NotFound:
        return None
    except PermissionDenied as error:
        raise _taken(target, error) from None


def make_app(target: Target, app: App | None) -> App | None:
    """Create the app if it is not there, and bring it up.

    Returns:
        The app; None in a dry run that would create it.

    Raises:
        DeployError: where it cannot be made, or does not come up.
    """
    if app is None and target.dry:
        say("App", f"{target.name} would be created")
        return None
    if app is None:
        _create(target)
    elif (state := state_of(app.compute_status).name) == "DELETING":
        raise DeployError(
            f"{target.name} is being deleted: run this again when it is gone, or choose another"
            " APP."
        )
    elif state == "ACTIVE":
        say("App", f"{target.name} is there")
    else:
        say("App", f"{target.name} was {state}: {target.done('started')}")
    return app if target.dry else _bring_up(target)


def _create(target: Target) -> None:
    asked = App(target.name, description="Hermes Agent in its owner's browser")
    try:
        target.client.apps.create(asked)
    except PermissionDenied as error:
        why = f"You may not create apps in this workspace ({brief_error(error)})"
        raise DeployError(f"{why}: its admin can allow it.") from None
    except ResourceConflict as error:
        # Ours after all, where the connection was lost before the answer.
        if (found := find_app(target)) is None or not is_mine(target, found):
            raise _taken(target, error) from None
    except (DatabricksError, TimeoutError) as error:
        if refused := _over_quota(error):
            why = f"No room for another app ({refused})"
            raise DeployError(f"{why}: `make undeploy APP=...`, or ask an admin.") from None
        raise
    say("App", f"{target.name} created")


def is_mine(target: Target, app: App) -> bool:
    """Whether the app's creator is who is logged in."""
    return (app.creator or "").lower() == target.me.lower()


def _taken(target: Target, error: Exception) -> DeployError:
    why = f"taken by an app that is hidden from you ({brief_error(error)})"
    return DeployError(f"APP: {target.name!r} is {why}; expected another name")


def _over_quota(error: Exception) -> str:
    """What the service says of a limit that is reached; "" where that is not the matter."""
    # The SDK asks again after HTTP 429, until its own patience ends.
    cause = error.__cause__ if isinstance(error, TimeoutError) else error
    code = str(getattr(cause, "error_code", "") or "")
    limited = any(word in code for word in ("EXHAUSTED", "QUOTA", "LIMIT"))
    return brief_error(cause) if cause and limited else ""


def _bring_up(target: Target) -> App:
    apps, name = target.client.apps, target.name

    def look() -> State:
        return state_of(apps.get(name).compute_status)

    state, _ = look()
    if state == "STOPPING":
        state, _ = wait("App", look, {"STOPPED", "ERROR"})
    if state in ("STOPPED", "ERROR"):
        apps.start(name)
        state = ""
    if state != "ACTIVE":
        state, message = wait("App", look, {"ACTIVE", "ERROR", "STOPPED"})
        if state != "ACTIVE":
            raise DeployError(
                f"{name} does not start ({state}: {message}). Its page: {target.page}"
            )
    return apps.get(name)


def deploy(target: Target, app: App | None, manifest: Manifest) -> None:
    """Deploy what was uploaded, if the app does not run it already, and wait until it runs.

    Raises:
        DeployError: where the deployment fails, or the app does not run.
    """
    if app is None:
        say("Deployed", "would be")
        return
    if app.pending_deployment and not target.dry:
        # We were cut off from it, or it is somebody else's: only one can be under way.
        _follow(target, app.pending_deployment)
        app = target.client.apps.get(target.name)
    active, state = app.active_deployment, state_of(app.app_status).name
    same = _is_of(active, manifest) and state not in ("CRASHED", "UNAVAILABLE")
    if target.dry:
        say("Deployed", "unchanged" if same else "would be")
        return
    if active and same:
        say("Deployed", f"unchanged since {active.create_time}")
    else:
        _deploy(target, manifest)
    _await_running(target)


def _deploy(target: Target, manifest: Manifest) -> None:
    source = AppDeployment(source_code_path=target.folder)
    made = cast(AppDeployment, target.client.apps.deploy(target.name, source).response)
    write_manifest(target, replace(manifest, deployment=made.deployment_id or ""))
    state, message = _follow(target, made)
    if state != "SUCCEEDED":
        raise DeployError(f"The deployment ended {state}: {message}. Its logs: {target.page}")
    say("Deployed", message)


def _await_running(target: Target) -> None:
    def look() -> State:
        return state_of(target.client.apps.get(target.name).app_status)

    state, message = look()
    if state != "RUNNING":
        state, message = wait("App", look, {"RUNNING", "CRASHED"})
    if state != "RUNNING":
        why = f"{target.name} does not run ({state}: {message})"
        raise DeployError(f"{why}. Its logs: {target.page}")


def last_deployment(target: Target) -> str:
    """How the app's last deployment went, in a line."""
    made = target.client.apps.list_deployments(target.name)
    last = max(made, key=lambda one: one.create_time or "", default=None)
    if last is None or last.status is None:
        return "never"
    state, message = state_of(last.status)
    return f"{state} {last.create_time}: {message}"


def _is_of(deployment: AppDeployment | None, manifest: Manifest) -> bool:
    """Whether a deployment is the one that was made of what was uploaded, and it succeeded."""
    if deployment is None or deployment.deployment_id != manifest.deployment:
        return False
    return state_of(deployment.status).name == "SUCCEEDED"


def _follow(target: Target, deployment: AppDeployment) -> State:
    apps, which = target.client.apps, deployment.deployment_id or ""

    def look() -> State:
        return state_of(apps.get_deployment(target.name, which).status)

    return wait("Deploying", look, {state.value for state in AppDeploymentState} - {"IN_PROGRESS"})
