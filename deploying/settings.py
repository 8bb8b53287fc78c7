"""The settings that the app is given: app.yaml's, this run's, and those of earlier runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Given:
    """What this run is given, and what earlier ones were.

    Arguments:
        now: values by name; "" takes back what was given before.
        before: the same of earlier runs.
    """

    now: Mapping[str, str]
    before: Mapping[str, str]

    @property
    def settings(self) -> dict[str, str]:
        """What goes into app.yaml."""
        new = {name: value for name, value in self.now.items() if not self._takes_back(name)}
        return {name: self.before[name] for name in self.kept} | new

    @property
    def kept(self) -> list[str]:
        """Settings of earlier runs that stay."""
        return [n for n in self.before if n not in self.now and n not in NOT_KEPT]

    @property
    def asked_anew(self) -> list[str]:
        """Settings of earlier runs that each run has to be given."""
        return [name for name in self.before if name not in self.now and name in NOT_KEPT]

    @property
    def taken_back(self) -> list[str]:
        """Settings of earlier runs that do not stay."""
        return [name for name in self.before if name in self.now and self._takes_back(name)]

    def _takes_back(self, name: str) -> bool:
        return not self.now[name] and name not in EMPTY_IS_NONE


def say_kept(given: Given) -> None:
    """Say what an earlier run's settings became, and how to take one back."""
    if given.kept:
        name = sorted(given.kept, key=lambda name: name in EMPTY_IS_NONE)[0]
        back = f'SET="{name}={EMPTY_IS_NONE.get(name, "")}"'
        say("Settings", f"{', '.join(given.kept)} as last time; {back} takes {name} back")
    if given.taken_back:
        say("Settings", f"{', '.join(given.taken_back)} taken back: as in app.yaml again")
    if given.asked_anew:
        names = ", ".join(given.asked_anew)
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
