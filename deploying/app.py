"""A Databricks App through databricks-sdk: it is created, brought up, filled and deployed, each where that is missing."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, cast

from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import NotFound, PermissionDenied, ResourceConflict
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service.apps import (
    App,
    AppDeployment,
    AppDeploymentState,
)
from databricks.sdk.service.workspace import ExportFormat, ImportFormat

POLL, LONGEST = 2.0, 1200.0  # seconds between two looks, and until waiting is over
MANIFEST = ".deployed.json"


class DeployError(RuntimeError):
    """Why it cannot go on; its text is one line that says what to do."""


@dataclass(frozen=True)
class Target:
    """An app in somebody's workspace, there already or not.

    Arguments:
        client: logged in.
        name: the app's.
        me: who is logged in, as the workspace names them.
        dry: say what would be done, and do nothing.
    """

    client: WorkspaceClient
    name: str
    me: str
    dry: bool = False

    @property
    def folder(self) -> str:
        """Where its files are uploaded."""
        return f"/Workspace/Users/{self.me}/{self.name}"

    @property
    def page(self) -> str:
        """Its page in the workspace, with its logs."""
        return f"{self.client.config.host}/apps/{self.name}"

    def done(self, word: str) -> str:
        """What happened, or would have."""
        return f"would be {word}" if self.dry else word


@dataclass
class Manifest:
    """What was uploaded: each file's SHA-256, "" while it is on its way; settings given, and the value of HERMES_VOLUME among
    them; the deployment made of it."""

    files: dict[str, str] = field(default_factory=dict)
    given: list[str] = field(default_factory=list)
    volume: str = ""
    deployment: str = ""


def say(label: str, text: str) -> None:
    """Print one step's line."""
    print(f"{label + ':':10} {text}", flush=True)


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
        try:
            target.client.apps.create(
                App(target.name, description="Hermes Agent in its owner's browser")
            )
        except PermissionDenied as error:
            raise DeployError(
                f"You may not create apps in this workspace ({brief(error)}): its admin can allow it."
            ) from None
        except ResourceConflict as error:
            # Ours after all, where the connection was lost before the answer.
            if (found := find_app(target)) is None or not is_mine(target, found):
                raise _taken(target, error) from None
        except (DatabricksError, TimeoutError) as error:
            if refused := _over_quota(error):
                raise DeployError(
                    f"No room for another app ({refused}): `make undeploy APP=...`, or ask an admin."
                ) from None
            raise
        say("App", f"{target.name} created")
    elif (state := _state(app.compute_status)[0]) == "DELETING":
        raise DeployError(
            f"{target.name} is being deleted: run this again when it is gone, or choose another APP."
        )
    elif state == "ACTIVE":
        say("App", f"{target.name} is there")
    else:
        say("App", f"{target.name} was {state}: {target.done('started')}")
    return app if target.dry else _bring_up(target)


def is_mine(target: Target, app: App) -> bool:
    """Whether the app's creator is who is logged in."""
    return (app.creator or "").lower() == target.me.lower()


def _taken(target: Target, error: Exception) -> DeployError:
    return DeployError(
        f"APP: {target.name!r} is taken by an app that is hidden from you ({brief(error)}); expected another name"
    )


def _over_quota(error: Exception) -> str:
    """What the service says of a limit that is reached; "" where that is not the matter."""
    cause = (
        error.__cause__ if isinstance(error, TimeoutError) else error
    )  # the SDK asks again after HTTP 429
    code = str(getattr(cause, "error_code", "") or "")
    return (
        brief(cause)
        if isinstance(cause, Exception) and any(w in code for w in ("EXHAUSTED", "QUOTA", "LIMIT"))
        else ""
    )


def _state(status: Any) -> tuple[str, str]:
    """The state and the message in a status of an app's, of its compute's or of a deployment's."""
    state = status.state.value if status and status.state else "UNKNOWN"
    return state, (status and status.message) or "no reason given"


def _bring_up(target: Target) -> App:
    apps, name = target.client.apps, target.name

    def look() -> tuple[str, str]:
        return _state(apps.get(name).compute_status)

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


# --- What it runs ---------------------------------------------------------------------------------------------------------


def upload(
    target: Target, files: dict[str, bytes], given: Mapping[str, str], old: Manifest
) -> Manifest:
    """Bring the app's folder up to date: what has changed is sent, files of ours that are gone are deleted, others stay.

    Arguments:
        target: the app.
        files: each file's content by its path below the folder.
        given: the settings that are not in the checkout's own app.yaml.
        old: what was uploaded before.

    Returns:
        What is there now.
    """
    workspace, folder = target.client.workspace, target.folder
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    new = Manifest(digests, sorted(given), given.get("HERMES_VOLUME", ""), old.deployment)
    changed = [name for name, digest in new.files.items() if old.files.get(name) != digest]
    gone = [name for name in old.files if name not in files]
    if not changed and not gone:
        say("Files", f"{len(files)} in {folder} (unchanged)")
        return new
    new.deployment = ""
    if lost := [name for name in old.given if name not in new.given]:
        say("Settings", f"{', '.join(lost)} given last time, and not now: as in app.yaml again")
    if not target.dry:
        for place in sorted({str(PurePosixPath(folder, name).parent) for name in files}):
            workspace.mkdirs(place)
        # What is on its way counts as unknown until it is there, so that the next run mends what is cut off.
        write_manifest(
            target, Manifest(old.files | dict.fromkeys(changed, ""), old.given, new.volume)
        )
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: _send(target, name, files[name]), changed))
        for name in gone:
            with suppress(NotFound):
                workspace.delete(f"{folder}/{name}")
        write_manifest(target, new)
    say(
        "Files",
        f"{len(changed)} of {len(files)} {target.done('uploaded')} to {folder}: {_few(changed)}",
    )
    if gone:
        say("Files", f"{_few(gone)} {target.done('deleted')}")
    return new


def read_manifest(target: Target) -> Manifest:
    """What was uploaded before; nothing where that cannot be read."""
    try:
        with target.client.workspace.download(
            f"{target.folder}/{MANIFEST}", format=ExportFormat.AUTO
        ) as file:
            found = json.loads(file.read())
        files = {str(name): str(digest) for name, digest in found["files"].items()}
        inside = {
            name: digest
            for name, digest in files.items()
            if ".." not in name and not name.startswith("/")
        }
        return Manifest(
            inside,
            [str(name) for name in found["given"]],
            str(found["volume"]),
            str(found["deployment"]),
        )
    except (NotFound, ValueError, LookupError, TypeError, AttributeError):
        return Manifest()


def write_manifest(target: Target, manifest: Manifest) -> None:
    """Keep what was uploaded, beside it."""
    _send(target, MANIFEST, json.dumps(asdict(manifest), indent=1).encode())


def _send(target: Target, name: str, content: bytes) -> None:
    target.client.workspace.upload(
        f"{target.folder}/{name}", content, format=ImportFormat.AUTO, overwrite=True
    )


def deploy(target: Target, app: App | None, manifest: Manifest) -> None:
    """Deploy what was uploaded, if the app does not run it already, and wait until it runs.

    Raises:
        DeployError: where the deployment fails, or the app does not run.
    """
    if app is None or target.dry:
        same = (
            app
            and _is_of(app.active_deployment, manifest)
            and _state(app.app_status)[0] == "RUNNING"
        )
        say("Deployed", "unchanged" if same else "would be")
        return
    if (
        pending := app.pending_deployment
    ):  # cut off from it, or somebody else's: only one can be under way
        _follow(target, pending)
        app = target.client.apps.get(target.name)
    active = app.active_deployment
    if _is_of(active, manifest) and _state(app.app_status)[0] not in ("CRASHED", "UNAVAILABLE"):
        say("Deployed", f"unchanged since {active and active.create_time}")
    else:
        made = cast(
            AppDeployment,
            target.client.apps.deploy(
                target.name, AppDeployment(source_code_path=target.folder)
            ).response,
        )
        write_manifest(target, replace(manifest, deployment=made.deployment_id or ""))
        state, message = _follow(target, made)
        if state != "SUCCEEDED":
            raise DeployError(f"The deployment ended {state}: {message}. Its logs: {target.page}")
        say("Deployed", message)

    def look() -> tuple[str, str]:
        return _state(target.client.apps.get(target.name).app_status)

    state, message = look()
    if state != "RUNNING":
        state, message = wait("App", look, {"RUNNING", "CRASHED"})
    if state != "RUNNING":
        raise DeployError(
            f"{target.name} does not run ({state}: {message}). Its logs: {target.page}"
        )


def _is_of(deployment: AppDeployment | None, manifest: Manifest) -> bool:
    if (
        deployment is None
        or deployment.deployment_id != manifest.deployment
        or deployment.status is None
    ):
        return False
    return deployment.status.state == AppDeploymentState.SUCCEEDED


def _follow(target: Target, deployment: AppDeployment) -> tuple[str, str]:
    def look() -> tuple[str, str]:
        return _state(
            target.client.apps.get_deployment(target.name, deployment.deployment_id or "").status
        )

    return wait("Deploying", look, {state.value for state in AppDeploymentState} - {"IN_PROGRESS"})


# --- Saying so ------------------------------------------------------------------------------------------------------------


def wait(label: str, look: Callable[[], tuple[str, str]], ends: Collection[str]) -> tuple[str, str]:
    """Look until a state is reached: a line that lives on a terminal, a line for each new state elsewhere.

    Arguments:
        label: what is waited for.
        look: gives the state now, and a message.
        ends: the states at which the waiting ends.

    Returns:
        The last state and message.

    Raises:
        DeployError: after LONGEST.
    """
    begun, last, live = time.monotonic(), "", sys.stdout.isatty()
    try:
        while True:
            state, message = look()
            seconds = time.monotonic() - begun
            if live:
                print(f"\r{label + ':':10} {state}, {seconds:.0f} s\x1b[K", end="", flush=True)
            elif state != last:
                say(label, f"{state}, {seconds:.0f} s")
            if state in ends:
                return state, message
            if seconds > LONGEST:
                raise DeployError(
                    f"Still {state} after {seconds / 60:.0f} minutes: run this again, it goes on from there."
                )
            last = state
            time.sleep(POLL)
    finally:
        if live:
            print(flush=True)


def brief(error: BaseException) -> str:
    """An error's message on one short line, without what the SDK adds of its own settings."""
    return (
        " ".join(str(error).split(". Config:")[0].split())[:240].removesuffix(".")
        or type(error).__name__
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
