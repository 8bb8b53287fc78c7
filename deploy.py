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
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import requests
import yaml
from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config
from databricks.sdk.errors import NotFound, PermissionDenied, Unauthenticated
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service.apps import App

import webapp.settings
from databricks_app import DeployError, Target, brief, deploy, find_app, is_mine, make_app, say, upload
from databricks_grants import describe, endpoint_resources, give_resources, grant_models, volume_resource
from hermes.proof import Prover
from hermes.routes import choose_routes, table, verdict
from hermes.settings import SettingError, Settings, read_flag, read_home, read_settings, sdk_config
from utils import clean_url, why_unreachable

ROOT = Path(__file__).resolve().parent
# What runs in the app, and all that is uploaded.
RUNS = ("app.py", "setup_hermes.py", "utils.py", "hermes", "webapp", "app.yaml", "requirements.txt", "constraints.txt")
TIMEOUT = 20  # seconds for a request, and for asking again while the connection is lost


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
        asked = {name.removeprefix("DEPLOY_"): value.strip() for name, value in env.items() if name.startswith("DEPLOY_")}
        name = asked.get("APP") or "hermes"
        if not re.fullmatch("[a-z0-9-]{2,30}", name):
            raise SettingError(f"APP: {name[:100]!r} will not do; expected 2 to 30 lower-case letters, digits and hyphens")
        given = read_set(asked.get("SET", "")) | read_volume(asked.get("VOLUME", ""))
        client = log_in(env, asked)
        target = Target(client, name, find_me(client), _is_on(asked, "DRY"))
        return commands[argv[0]](target, asked, given)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    except DeployError as error:
        print(error, file=sys.stderr)
    except DatabricksError as error:
        print(f"The workspace refused: {brief(error)} ({error.error_code or type(error).__name__}).", file=sys.stderr)
    except (OSError, ValueError) as error:  # requests' own are OSErrors, and the SDK's TimeoutError after asking again
        lost = error.__cause__ or error
        if isinstance(error, TimeoutError) or isinstance(lost, requests.RequestException):
            why = why_unreachable(lost) if isinstance(lost, requests.RequestException) else brief(lost)
            print(f"No connection ({why}): run this again, it goes on from there.", file=sys.stderr)
        else:
            print(f"It failed: {brief(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("Stopped: run this again, it goes on from there.", file=sys.stderr)
    return 1


def deploy_app(target: Target, asked: Mapping[str, str], given: dict[str, str]) -> int:
    """Bring everything up to date."""
    force = _is_on(asked, "FORCE")
    files = read_files(ROOT, given)
    settings = check_settings(target, files["app.yaml"])
    say("Workspace", f"{target.client.config.host} as {target.me}")
    if settings and not prove(settings) and not force:
        print("Nothing was touched; FORCE=1 deploys all the same.", file=sys.stderr)
        return 1
    app = find_app(target)
    if app and not is_mine(target, app) and not force:
        raise DeployError(f"APP: {target.name!r} is the app of {app.creator}; expected a name of your own, or FORCE=1")
    resources = [volume_resource(asked["VOLUME"])] if asked.get("VOLUME") else []
    if resources:
        check_volume(target.client, asked["VOLUME"])
    models = (settings.model, settings.fallback_model) if settings else ()
    resources += endpoint_resources(target.client, models)
    app = make_app(target, app)
    give_resources(target, app, resources)
    grant_models(target, app, models)
    deploy(target, app, upload(target, files, given))
    print((app and app.url) or target.page)
    return 0


def show_status(target: Target, asked: Mapping[str, str], given: dict[str, str]) -> int:
    """Say how the app is."""
    app = _find(target)
    parts = [part for part in (app.compute_status, app.app_status) if part and part.state]
    say("App", f"{app.name} of {app.creator}: {', '.join(f'{p.state.value} ({p.message})' for p in parts if p.state)}")
    say("Resources", ", ".join(map(describe, app.resources or [])) or "none")
    deployments = sorted(target.client.apps.list_deployments(app.name), key=lambda made: made.create_time or "")
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
        say("", target.done("deleted"))
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


# --- Settings -------------------------------------------------------------------------------------------------------------


def log_in(env: Mapping[str, str], asked: Mapping[str, str]) -> WorkspaceClient:
    """Log in as `PROFILE`, at `HOST` with the browser, or as the environment says.

    Raises:
        SettingError: for a profile or a host that cannot be used.
        DeployError: where there are no credentials.
    """
    home, profile, host = read_home(env), asked.get("PROFILE", ""), asked.get("HOST", "")
    if profile and host:
        raise SettingError("HOST: it is set, and PROFILE too; expected one of them")
    if profile or host:
        # The SDK reads the process's own environment, and would take a token from there before the profile's.
        for name in [n for n in os.environ if n.startswith("DATABRICKS_") and n != "DATABRICKS_CONFIG_FILE"]:
            del os.environ[name]
        env = {"DATABRICKS_CONFIG_FILE": env.get("DATABRICKS_CONFIG_FILE", "")}
    if profile:
        env = {**env, "DATABRICKS_CONFIG_PROFILE": profile}
    try:
        url = clean_url("HOST", host)
    except ValueError as error:
        raise SettingError(str(error)) from None
    try:
        if url:
            browser = Config(
                host=url, auth_type="external-browser", http_timeout_seconds=TIMEOUT, retry_timeout_seconds=TIMEOUT
            )
            return WorkspaceClient(config=browser)
        return WorkspaceClient(config=sdk_config(env, home, timeout=TIMEOUT))
    except SettingError:
        raise
    except ValueError as error:
        raise DeployError(
            f"Not logged in ({brief(error)}): give PROFILE=..., HOST=https://..., or DATABRICKS_HOST and DATABRICKS_TOKEN."
        ) from None


def find_me(client: WorkspaceClient) -> str:
    """Ask who is logged in.

    Raises:
        DeployError: where the workspace does not take the token.
    """
    try:
        return client.current_user.me().user_name or ""
    except (PermissionDenied, Unauthenticated) as error:
        why = f"{client.config.host} does not take this login: {brief(error)}"
        raise DeployError(f"Not logged in ({why}): give PROFILE=..., HOST=https://..., or a token that is valid.") from None


def read_set(text: str) -> dict[str, str]:
    """Read `SET`: `NAME=value` pairs, quoted as in a shell where a value holds a space.

    Raises:
        SettingError: for what is no setting of the app, and for a token.
    """
    try:
        pairs = [word.partition("=") for word in shlex.split(text)]
    except ValueError as error:
        raise SettingError(f"SET: {error}; expected NAME=value pairs") from None
    known = re.findall(r"- name: (\w+)", (ROOT / "app.yaml.template").read_text())
    for name, _, _ in pairs:
        if name == "DATABRICKS_TOKEN":
            raise SettingError(
                "SET: DATABRICKS_TOKEN would lie open in app.yaml; expected a secret of the app, bound there with `valueFrom`"
            )
        if name not in known:
            raise SettingError(f"SET: {name[:100]!r} is no setting of the app; expected {', '.join(known)}")
    if bare := [name for name, equals, _ in pairs if not equals]:
        raise SettingError(f"SET: {bare[0]} has no value; expected {bare[0]}=value")
    return {name: value for name, _, value in pairs}


def read_volume(volume: str) -> dict[str, str]:
    """Read `VOLUME`; what it sets in app.yaml.

    Raises:
        SettingError: where it is no volume's name.
    """
    if volume and not re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", volume):
        raise SettingError(f"VOLUME: {volume[:100]!r} will not do; expected catalog.schema.volume")
    return {"HERMES_VOLUME": f"/Volumes/{volume.replace('.', '/')}"} if volume else {}


def check_volume(client: WorkspaceClient, volume: str) -> None:
    """See that a volume is there.

    Raises:
        SettingError: where it is not, or is hidden.
    """
    try:
        client.volumes.read(volume)
    except (NotFound, PermissionDenied) as error:
        raise SettingError(f"VOLUME: {volume} cannot be used ({brief(error)}); expected a volume of yours") from None


def read_files(root: Path, given: Mapping[str, str]) -> dict[str, bytes]:
    """What is uploaded, by path below the app's folder.

    Arguments:
        root: the checkout.
        given: settings for app.yaml.
    """
    found = [path for part in RUNS for path in ([root / part] if (root / part).is_file() else sorted((root / part).rglob("*")))]
    names = [path.relative_to(root) for path in found if path.is_file()]
    own = [
        name for name in names if not any(p.startswith((".", "__pycache__")) or p.endswith(("~", ".pyc")) for p in name.parts)
    ]
    files = {name.as_posix(): (root / name).read_bytes() for name in own}
    if given:
        config = yaml.safe_load(files["app.yaml"])
        kept = [entry for entry in config["env"] if entry["name"] not in given]
        config["env"] = [*kept, *({"name": name, "value": value} for name, value in given.items())]
        files["app.yaml"] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
    return files


def check_settings(target: Target, config: bytes) -> Settings | None:
    """Read the settings of an app.yaml as the app will, but with the workspace and the token of whoever deploys it.

    Returns:
        Hermes's settings; None where Hermes is turned off.

    Raises:
        SettingError: for the first one that cannot be used.
        DeployError: where the login gives no token.
    """
    login = target.client.config
    env = {entry["name"]: str(entry["value"]) for entry in yaml.safe_load(config)["env"] if "value" in entry}
    kind, _, token = login.authenticate().get("Authorization", "").partition(" ")
    if kind != "Bearer":
        raise DeployError(f"Not logged in with a token ({login.auth_type}): give another PROFILE, or HOST=https://...")
    own = {"HOME": str(read_home(os.environ)), "DATABRICKS_HOST": login.host or "", "DATABRICKS_TOKEN": token}
    env = {"DATABRICKS_WORKSPACE_ID": login.workspace_id or ""} | env | own
    if "@" not in (webapp.settings.read_settings(env).owner or target.me):
        raise SettingError(f'APP_OWNER: it is not set, and {target.me} is no person; expected SET="APP_OWNER=you@example.com"')
    return read_settings(env) if read_flag(env, "ENABLE_HERMES") else None


def prove(settings: Settings) -> bool:
    """Ask the routes for the models, as `setup_hermes.py --check` does, and say what the app will use."""
    prover = Prover(settings.token)
    routes = choose_routes(settings, prover)
    served = prover.serves(routes.primary, settings.model)
    if not served:
        print(f"{table(settings, prover.answers)}\nNot served: {verdict(settings, prover)}", file=sys.stderr)
        return False
    for label, model, url in (
        ("Model", settings.model, routes.primary),
        ("Fallback", settings.fallback_model, routes.fallback),
    ):
        say(label, f"{model} on {url} ({'it answered' if prover.serves(url, model) else 'NOT PROVED'})")
    return True


if __name__ == "__main__":
    cast(io.TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)  # in step with stderr where both go to one pipe
    sys.exit(main(sys.argv[1:], os.environ))
