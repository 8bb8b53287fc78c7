"""Who deploys: the login, and the name that the workspace has for it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping

import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config
from databricks.sdk.errors import PermissionDenied, Unauthenticated

from deploying.console import DeployError, say
from hermes.login import sdk_config
from hermes.settings import read_home
from hermes.urls import SettingError, brief_error, clean_url, why_unreachable

TIMEOUT = 20  # seconds for a request, and for asking again while the connection is lost
LOGINS = "give PROFILE=..., HOST=https://..., or"


def log_in(env: Mapping[str, str], profile: str, host: str) -> WorkspaceClient:
    """Log in as a profile, at a host with the browser, or as the environment says.

    A login that was chosen goes before what the environment holds, which is forgotten then.

    Raises:
        SettingError: for a profile or a host that cannot be used.
        DeployError: where there are no credentials.
    """
    if profile or host:
        _forget_login()
        env = {"DATABRICKS_CONFIG_FILE": env.get("DATABRICKS_CONFIG_FILE", "")}
    if profile:
        env = {**env, "DATABRICKS_CONFIG_PROFILE": profile}
    url = _reach("HOST", host) or _reach("DATABRICKS_HOST", env.get("DATABRICKS_HOST", ""))
    try:
        config = _browser(url) if host else sdk_config(env, read_home(os.environ), timeout=TIMEOUT)
    except SettingError as error:
        # It was chosen by PROFILE, or could have been.
        named = not profile and env.get("DATABRICKS_CONFIG_PROFILE")
        asked = str(error) if named else re.sub("^DATABRICKS_CONFIG_PROFILE", "PROFILE", str(error))
        raise SettingError(asked) from None
    except ValueError as error:
        why = f"Not logged in ({brief_error(error)})"
        raise DeployError(f"{why}: {LOGINS} DATABRICKS_HOST and DATABRICKS_TOKEN.") from None
    if not url:
        _reach("PROFILE" if profile else "DATABRICKS_CONFIG_PROFILE", config.host)
    return WorkspaceClient(config=config)


def _forget_login() -> None:
    """Take this process's own login away, which databricks-sdk would find first."""
    for name in list(os.environ):
        if name.startswith("DATABRICKS_") and name != "DATABRICKS_CONFIG_FILE":
            del os.environ[name]


def _browser(url: str) -> Config:
    say("Login", "in your browser, unless it was done before")
    logging.getLogger("databricks.sdk").setLevel(logging.ERROR)  # as sdk_config does
    return Config(
        host=url,
        auth_type="external-browser",
        http_timeout_seconds=TIMEOUT,
        retry_timeout_seconds=TIMEOUT,
    )


def _reach(name: str, value: str) -> str:
    """Check a host, and see that something answers: the SDK asks again and again, in silence.

    Returns:
        Its URL; "" where none is given.
    """
    url = clean_url(name, value)
    try:
        if url:
            requests.head(url, timeout=TIMEOUT, allow_redirects=False, proxies={"http": ""})
    except requests.RequestException as error:
        why = f"no connection to {url}: {why_unreachable(error)}"
        raise DeployError(
            f"{name}: {why}; expected your workspace's URL, and a network that leads there"
        ) from None
    return url


def find_me(client: WorkspaceClient) -> str:
    """Ask who is logged in.

    Raises:
        DeployError: where the workspace does not take the token.
    """
    try:
        return client.current_user.me().user_name or ""
    except (PermissionDenied, Unauthenticated) as error:
        why = f"{client.config.host} does not take this login: {brief_error(error)}"
        raise DeployError(f"Not logged in ({why}): {LOGINS} a token that is valid.") from None


def find_token(client: WorkspaceClient) -> str:
    """The login's token, which is asked with in place of the app's.

    Raises:
        DeployError: where the login gives none.
    """
    login = client.config
    kind, _, token = login.authenticate().get("Authorization", "").partition(" ")
    if kind != "Bearer":
        why = f"Not logged in with a token ({login.auth_type})"
        raise DeployError(f"{why}: give another PROFILE, or HOST=https://...")
    return token
