"""The settings that the app is given: app.yaml's, this run's, and those of earlier runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import NotFound, PermissionDenied

import webapp.settings
from deploying.console import say
from deploying.options import IN_CLEAR
from hermes.login import load_settings
from hermes.settings import MCP_DEFAULTS, HermesSettings, read_flag
from hermes.urls import SettingError, brief_error

# They decide where a token goes: each run has to say so.
NOT_KEPT = ("DATABRICKS_HOST", "DATABRICKS_GATEWAY_HOST", "DATABRICKS_WORKSPACE_ID")
# Empty means "none" for these; for every other setting it means the same as nothing.
EMPTY_IS_NONE = dict(MCP_DEFAULTS.values())


def merge_settings(given: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """What goes into app.yaml.

    Arguments:
        given: by this run; "" takes back what was given before.
        before: what earlier runs were given.
    """
    forgotten = {*given, *NOT_KEPT}
    kept = {name: value for name, value in before.items() if name not in forgotten}
    return kept | {n: value for n, value in given.items() if value or n in EMPTY_IS_NONE}


def say_kept(settings: Mapping[str, str], given: Mapping[str, str], before: Iterable[str]) -> None:
    """Say what earlier runs' settings became, and how to take one back.

    Arguments:
        settings: what goes into app.yaml.
        given: by this run.
        before: the names of what earlier runs were given.
    """
    gone = [name for name in before if name not in settings]
    if kept := [name for name in before if name in settings and name not in given]:
        name = min(kept, key=lambda name: name in EMPTY_IS_NONE)
        back = f'SET="{name}={EMPTY_IS_NONE.get(name, "")}"'
        say("Settings", f"{', '.join(kept)} as last time; {back} takes {name} back")
    if taken_back := [name for name in gone if name in given]:
        say("Settings", f"{', '.join(taken_back)} taken back: as in app.yaml again")
    if asked_anew := [name for name in gone if name not in given]:
        names = ", ".join(asked_anew)
        say("Settings", f"{names} not kept from last time, as it says where the token goes")


def add_settings(app_yaml: bytes, given: Mapping[str, str]) -> bytes:
    """An app.yaml with these settings in it; as it is where there are none.

    Raises:
        SettingError: where it cannot be used.
    """
    config, env = read_app_yaml(app_yaml)
    if not given:
        return app_yaml
    kept = [entry for entry in env if entry["name"] not in given]
    config["env"] = [*kept, *({"name": name, "value": value} for name, value in given.items())]
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()


def read_app_yaml(raw: bytes) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Read an app.yaml.

    Returns:
        All of it, and its variables.

    Raises:
        SettingError: where it cannot be used, or holds a token.
    """
    try:
        config = yaml.safe_load(raw)
        env = [dict(entry) for entry in config["env"]]
        values = {str(e["name"]) for e in env if "value" in e or not e["valueFrom"]}
    except (yaml.YAMLError, ValueError, LookupError, TypeError, RecursionError):
        raise SettingError(
            "app.yaml: it has no usable `env`; expected a list of name and value, as in"
            " app.yaml.template"
        ) from None
    if "DATABRICKS_TOKEN" in values:
        raise SettingError(f"app.yaml: {IN_CLEAR}")
    return config, env


def check_settings(
    app_yaml: bytes, client: WorkspaceClient, me: str, token: str, home: str
) -> HermesSettings | None:
    """Read an app.yaml as the app will, but with the workspace and the token of who deploys it.

    Returns:
        Hermes's settings; None where Hermes is turned off.

    Raises:
        SettingError: for the first one that cannot be used.
    """
    given = {e["name"]: str(e["value"]) for e in read_app_yaml(app_yaml)[1] if "value" in e}
    login = client.config
    own = {"HOME": home, "DATABRICKS_HOST": login.host or "", "DATABRICKS_TOKEN": token}
    env = {"DATABRICKS_WORKSPACE_ID": login.workspace_id or ""} | given | own
    if "@" not in (webapp.settings.read_settings(env).owner or me):
        raise SettingError(
            f"APP_OWNER: it is not set, and {me} is no person; expected"
            ' SET="APP_OWNER=you@example.com"'
        )
    return load_settings(env) if read_flag(env, "ENABLE_HERMES") else None


def check_volume(client: WorkspaceClient, path: str) -> None:
    """See that a volume is there, which is `/Volumes/catalog/schema/volume`, or a folder of it.

    Raises:
        SettingError: where it is not, or is hidden.
    """
    volume = volume_of(path)
    try:
        client.volumes.read(volume)
    except (NotFound, PermissionDenied) as error:
        why = f"{volume} cannot be used ({brief_error(error)})"
        raise SettingError(f"VOLUME: {why}; expected a volume of yours") from None


def volume_of(path: str) -> str:
    """The full name of the volume that a path is in."""
    return ".".join(path.split("/")[2:5])
