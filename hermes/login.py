"""Whose workspace it is, and whose token: databricks-sdk's unified authentication and the profiles of its CLI."""

from __future__ import annotations

import configparser
import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hermes.urls import SettingError, clean_url


def find_credentials(env: Mapping[str, str], home: Path, host: str) -> tuple[str, str, str]:
    """Complete the workspace's URL and token from databricks-sdk's unified authentication, where it is installed.

    Returns:
        The URL, the token, and a line that says where the URL is from if it was not given.
    """
    token = env.get("DATABRICKS_TOKEN", "").strip()
    if token and host:
        return host, token, ""
    try:
        config = sdk_config(env, home, timeout=5)
        kind, _, fresh = config.authenticate().get("Authorization", "").partition(" ")
        found = clean_url("host in ~/.databrickscfg", config.host or "")
    except ImportError:
        return host, token, ""
    except SettingError:
        raise
    except ValueError as error:
        reason = " ".join(str(error).split(". Config:")[0].split())
        if "cannot configure default credentials" not in reason:
            print(f"databricks-sdk found no token: {reason[:200]}", file=sys.stderr)
        return host, token, ""
    except Exception as error:  # whatever the provider's HTTP client or the Databricks CLI raises
        print(f"databricks-sdk found no token: {type(error).__name__}", file=sys.stderr)
        return host, token, ""
    origin = (
        ""
        if host
        else f"{found} is from profile {config.profile or 'DEFAULT'} in {_profiles(env, home)[0]}"
    )
    return host or found, token or (fresh if kind == "Bearer" else ""), origin


def sdk_config(env: Mapping[str, str], home: Path, timeout: int) -> Any:
    """Let databricks-sdk choose its credentials, for the workspace of this environment alone.

    Arguments:
        env: the environment; the SDK itself reads the process's own.
        home: where `.databrickscfg` is.
        timeout: seconds for a request, and for its retries.

    Returns:
        The SDK's `Config`: `authenticate()` gives headers with a token that it keeps fresh.

    Raises:
        ImportError: where databricks-sdk is not installed.
        SettingError: where `DATABRICKS_CONFIG_PROFILE` is not there, or is of another workspace, whose token must not go to
            this one; where no workspace is named, but there are profiles; and where their file cannot be read.
        ValueError: where there are no credentials; the SDK raises more of its own.
    """
    from databricks.sdk.core import Config as SdkConfig

    # It warns there of a missing discovery document, which older workspaces do not have.
    logging.getLogger("databricks.sdk").setLevel(logging.ERROR)
    if not env.get("DATABRICKS_TOKEN", "").strip():
        os.environ.pop("DATABRICKS_TOKEN", None)  # a blank one would be one credential too many
    try:
        return SdkConfig(
            host=(host := clean_url("DATABRICKS_HOST", env.get("DATABRICKS_HOST", ""))) or None,
            profile=_find_profile(env, home, host),
            # With a token bound to the app as well, the SDK would not choose by itself.
            auth_type="oauth-m2m" if env.get("DATABRICKS_CLIENT_SECRET") else None,
            http_timeout_seconds=timeout,
            retry_timeout_seconds=timeout,
        )
    except configparser.Error:  # whose text holds the line, and a token may be in it
        file, _ = _profiles(env, home)
        raise SettingError(
            f"DATABRICKS_CONFIG_FILE: {file} cannot be read; expected [profile] sections with host and token"
        ) from None


def _find_profile(env: Mapping[str, str], home: Path, host: str) -> str | None:
    """The profile for a host: the SDK itself reads none once a host is given, and takes a named one for any host."""
    named = env.get("DATABRICKS_CONFIG_PROFILE") or None
    if env.get("DATABRICKS_CLIENT_SECRET"):
        return named
    file, hosts = _profiles(env, home)
    known = (
        ", ".join(hosts)
        or "a profile in it, which `databricks auth login` makes, or DATABRICKS_HOST and DATABRICKS_TOKEN"
    )
    if named and named not in hosts:
        raise SettingError(
            f"DATABRICKS_CONFIG_PROFILE: {named[:100]!r} is not in {file}; expected {known}"
        )
    if named and host and hosts[named] not in ("", host):
        raise SettingError(
            f"DATABRICKS_CONFIG_PROFILE: {named[:100]!r} is of {hosts[named]}; expected one of {host}"
        )
    if not named and not host and hosts and not hosts.get("DEFAULT"):
        raise SettingError(
            f"DATABRICKS_CONFIG_PROFILE: it is not set; expected a profile of {file} ({known}), or DATABRICKS_HOST"
        )
    return named or next((name for name, url in hosts.items() if url and url == host), None)


def _profiles(env: Mapping[str, str], home: Path) -> tuple[Path, dict[str, str]]:
    """The file of the Databricks CLI's profiles, and each one's workspace; "" where that cannot be read."""
    path = Path(env.get("DATABRICKS_CONFIG_FILE") or home / ".databrickscfg").expanduser()
    file = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(OSError, ValueError, configparser.Error):
        file.read(path)
    hosts = {}
    for name in [*(["DEFAULT"] if file.defaults() else []), *file.sections()]:
        try:
            hosts[name] = clean_url(name, file[name].get("host", ""))
        except ValueError:
            hosts[name] = ""
    return path, hosts
