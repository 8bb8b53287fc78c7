"""Who deploys, and what: the login, the settings that the app is given, and the files that are uploaded."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
import yaml
from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config
from databricks.sdk.errors import NotFound, PermissionDenied, Unauthenticated

import webapp.settings
from deploying.app import DeployError, Target, brief, say
from hermes.login import load_settings, sdk_config
from hermes.settings import HermesSettings, read_flag, read_home
from hermes.urls import SettingError, clean_url, why_unreachable

# What runs in the app, and all that is uploaded.
RUNS = (
    "app.py",
    "setup_hermes.py",
    "utils.py",
    "hermes",
    "webapp",
    "app.yaml",
    "requirements.txt",
    "constraints.txt",
)
OPEN = "DATABRICKS_TOKEN would lie open in app.yaml; expected a secret of the app, bound there with `valueFrom`"
TIMEOUT = 20  # seconds for a request, and for asking again while the connection is lost


def log_in(env: Mapping[str, str], asked: Mapping[str, str]) -> WorkspaceClient:
    """Log in as `PROFILE`, at `HOST` with the browser, or as the environment says.

    Raises:
        SettingError: for a profile or a host that cannot be used.
        DeployError: where there are no credentials.
    """
    home, profile, host = read_home(env), asked.get("PROFILE", ""), asked.get("HOST", "")
    mine = (
        "PROFILE" if profile or not env.get("DATABRICKS_CONFIG_PROFILE") else ""
    )  # what to call the profile
    if profile and host:
        raise SettingError("HOST: it is set, and PROFILE too; expected one of them")
    if profile or host:
        # The SDK reads the process's own environment, and would take a token from there before the profile's.
        for name in [
            n for n in os.environ if n.startswith("DATABRICKS_") and n != "DATABRICKS_CONFIG_FILE"
        ]:
            del os.environ[name]
        env = {"DATABRICKS_CONFIG_FILE": env.get("DATABRICKS_CONFIG_FILE", "")}
    if profile:
        env = {**env, "DATABRICKS_CONFIG_PROFILE": profile}
    name, url = ("HOST", host) if host else ("DATABRICKS_HOST", env.get("DATABRICKS_HOST", ""))
    if url := clean_url(name, url):
        _reach(name, url)
    try:
        if host:
            say("Login", "in your browser, unless it was done before")
            logging.getLogger("databricks.sdk").setLevel(logging.ERROR)  # as sdk_config does
            browser = Config(
                host=url,
                auth_type="external-browser",
                http_timeout_seconds=TIMEOUT,
                retry_timeout_seconds=TIMEOUT,
            )
            return WorkspaceClient(config=browser)
        return WorkspaceClient(config=sdk_config(env, home, timeout=TIMEOUT))
    except SettingError as error:
        raise SettingError(
            re.sub("^DATABRICKS_CONFIG_PROFILE", mine, str(error)) if mine else str(error)
        ) from None
    except ValueError as error:
        raise DeployError(
            f"Not logged in ({brief(error)}): give PROFILE=..., HOST=https://..., or DATABRICKS_HOST and DATABRICKS_TOKEN."
        ) from None


def _reach(name: str, url: str) -> None:
    """See that something answers there: the SDK asks again and again, and tells nobody whom."""
    try:
        requests.head(url, timeout=TIMEOUT, allow_redirects=False, proxies={"http": ""})
    except requests.RequestException as error:
        why = f"no connection to {url}: {why_unreachable(error)}"
        raise DeployError(
            f"{name}: {why}; expected your workspace's URL, and a network that leads there"
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
        raise DeployError(
            f"Not logged in ({why}): give PROFILE=..., HOST=https://..., or a token that is valid."
        ) from None


def read_set(text: str, root: Path) -> dict[str, str]:
    """Read `SET`: `NAME=value` pairs, quoted as in a shell where a value holds a space.

    Arguments:
        text: the pairs.
        root: the checkout, whose app.yaml.template holds every setting of the app.

    Raises:
        SettingError: for what is no setting of the app, and for a token.
    """
    try:
        pairs = [word.partition("=") for word in shlex.split(text)]
    except ValueError as error:
        raise SettingError(f"SET: {error}; expected NAME=value pairs") from None
    known = re.findall(
        r"- name: (?!DATABRICKS_TOKEN$)(\w+)",
        (root / "app.yaml.template").read_text(),
        re.MULTILINE,
    )
    for name, equals, _ in pairs:
        if name == "DATABRICKS_TOKEN":
            raise SettingError(f"SET: {OPEN}")
        if not equals and name not in known:
            raise SettingError(
                "SET: a word of it has no '=' (not shown); expected NAME=value pairs, quoted where there is a space"
            )
        if name not in known:
            shown = (
                repr(name) if re.fullmatch("[A-Z_]{1,50}", name) else "one of its names (not shown)"
            )
            raise SettingError(
                f"SET: {shown} is no setting of the app; expected {', '.join(known)}"
            )
    if bare := [name for name, equals, _ in pairs if not equals]:
        raise SettingError(f"SET: {bare[0]} has no value; expected {bare[0]}=value")
    return {name: value for name, _, value in pairs}


def read_volume(volume: str) -> dict[str, str]:
    """Read `VOLUME`; what it sets in app.yaml.

    Raises:
        SettingError: where it is no volume's name.
    """
    if volume and not re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", volume):
        raise SettingError(f"VOLUME: {volume[:100]!r} is not valid; expected catalog.schema.volume")
    return {"HERMES_VOLUME": f"/Volumes/{volume.replace('.', '/')}"} if volume else {}


def check_volume(client: WorkspaceClient, path: str) -> None:
    """See that a volume is there, which is `/Volumes/catalog/schema/volume`, or a folder of it.

    Raises:
        SettingError: where it is not, or is hidden.
    """
    volume = ".".join(path.split("/")[2:5])
    try:
        client.volumes.read(volume)
    except (NotFound, PermissionDenied) as error:
        raise SettingError(
            f"VOLUME: {volume} cannot be used ({brief(error)}); expected a volume of yours"
        ) from None


def read_files(root: Path, given: Mapping[str, str]) -> dict[str, bytes]:
    """What is uploaded, by path below the app's folder.

    Arguments:
        root: the checkout.
        given: settings for app.yaml.
    """
    found = [
        path
        for part in RUNS
        for path in ([root / part] if (root / part).is_file() else sorted((root / part).rglob("*")))
    ]
    names = [path.relative_to(root) for path in found if path.is_file()]
    own = [
        name
        for name in names
        if not any(
            p.startswith((".", "__pycache__")) or p.endswith(("~", ".pyc")) for p in name.parts
        )
    ]
    files = {name.as_posix(): (root / name).read_bytes() for name in own}
    config, env = read_app_yaml(files["app.yaml"])
    if given:
        kept = [entry for entry in env if entry["name"] not in given]
        config["env"] = [*kept, *({"name": name, "value": value} for name, value in given.items())]
        files["app.yaml"] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
    return files


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
        names = [str(entry["name"]) for entry in env if "value" in entry or entry["valueFrom"]]
    except (yaml.YAMLError, ValueError, LookupError, TypeError, RecursionError):
        raise SettingError(
            "app.yaml: it has no usable `env`; expected a list of name and value, as in app.yaml.template"
        ) from None
    if "DATABRICKS_TOKEN" in names and any(
        "value" in entry for entry in env if entry["name"] == "DATABRICKS_TOKEN"
    ):
        raise SettingError(f"app.yaml: {OPEN}")
    return config, env


def check_settings(target: Target, config: bytes) -> HermesSettings | None:
    """Read the settings of an app.yaml as the app will, but with the workspace and the token of whoever deploys it.

    Returns:
        Hermes's settings; None where Hermes is turned off.

    Raises:
        SettingError: for the first one that cannot be used.
        DeployError: where the login gives no token.
    """
    login = target.client.config
    env = {
        entry["name"]: str(entry["value"]) for entry in read_app_yaml(config)[1] if "value" in entry
    }
    kind, _, token = login.authenticate().get("Authorization", "").partition(" ")
    if kind != "Bearer":
        raise DeployError(
            f"Not logged in with a token ({login.auth_type}): give another PROFILE, or HOST=https://..."
        )
    own = {
        "HOME": str(read_home(os.environ)),
        "DATABRICKS_HOST": login.host or "",
        "DATABRICKS_TOKEN": token,
    }
    env = {"DATABRICKS_WORKSPACE_ID": login.workspace_id or ""} | env | own
    if "@" not in (webapp.settings.read_settings(env).owner or target.me):
        raise SettingError(
            f'APP_OWNER: it is not set, and {target.me} is no person; expected SET="APP_OWNER=you@example.com"'
        )
    return load_settings(env) if read_flag(env, "ENABLE_HERMES") else None
