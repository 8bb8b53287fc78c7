"""Whose workspace it is, and whose token: databricks-sdk's unified authentication and the profiles
of its CLI.
"""

from __future__ import annotations

import configparser
import contextlib
import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hermes.settings import HermesSettings, check_token, read_gateway, read_settings
from hermes.small_file import read_small_file
from hermes.trust import trusts_gateway
from hermes.urls import SettingError, brief_error, clean_gateway, clean_url
from utils import get_gateway_host


def load_settings(env: Mapping[str, str]) -> HermesSettings:
    """Read the settings, log in where no token was given, and find the gateway.

    Returns:
        The settings; an empty token where there is none yet.

    Raises:
        SettingError: for the first setting that cannot be used.
    """
    settings = read_settings(env)
    if not (settings.token and settings.host):
        settings = _log_in(env, settings)
        check_token(settings.token)
    if settings.token and not settings.host:
        raise SettingError(
            "DATABRICKS_HOST: it is not set; expected the workspace's URL, like"
            " https://adb-1.2.azuredatabricks.net"
        )
    return _find_gateway(env, settings) if settings.token else settings


def _find_gateway(env: Mapping[str, str], settings: HermesSettings) -> HermesSettings:
    """Find the workspace's AI Gateway, "" where none answers; it is probed where it is not named.

    Raises:
        SettingError: where a parent process found one to which the token must not go.
    """
    # The host as it was given, since it may hold the id in `?o=`.
    known = {**env, "DATABRICKS_HOST": env.get("DATABRICKS_HOST", "").strip() or settings.host}
    gateway = clean_gateway("_GATEWAY_RESOLVED", get_gateway_host(known))
    named = read_gateway(env)
    if gateway not in ("", named) and not trusts_gateway(settings.host, gateway):
        raise SettingError(
            f"_GATEWAY_RESOLVED: {gateway!r} is in another cloud than {settings.host};"
            " expected DATABRICKS_GATEWAY_HOST to say so"
        )
    if "_GATEWAY_RESOLVED" in env:
        origin = "found by a parent process"
    elif gateway == named:
        origin = "from DATABRICKS_GATEWAY_HOST, not probed"
    elif env.get("DATABRICKS_WORKSPACE_ID", "").strip():
        origin = "derived from DATABRICKS_WORKSPACE_ID; it answered"
    else:
        origin = "derived from DATABRICKS_HOST; it answered"
    return replace(settings, gateway=gateway, gateway_origin=origin)


def _log_in(env: Mapping[str, str], given: HermesSettings) -> HermesSettings:
    """Complete the workspace's URL and token from databricks-sdk's unified authentication, where it
    is installed; a line on stderr says why it has none.

    Raises:
        SettingError: where the profiles cannot be used.
    """
    try:
        config = sdk_config(env, given.home, timeout=5)
        kind, _, token = config.authenticate().get("Authorization", "").partition(" ")
        host = clean_url("host in ~/.databrickscfg", config.host or "")
    except ImportError:
        return given
    except SettingError:
        raise
    except Exception as error:  # whatever the provider's HTTP client or the Databricks CLI raises
        reason = brief_error(error) if isinstance(error, ValueError) else type(error).__name__
        if "cannot configure default credentials" not in reason:
            print(f"databricks-sdk found no token: {reason}", file=sys.stderr)
        return given
    file = _profiles_file(env, given.home)
    profile = f"profile {config.profile or 'DEFAULT'} in {file}"
    return replace(
        given,
        host=given.host or host,
        token=given.token or (token if kind == "Bearer" else ""),
        origin="" if given.host else f"{host} is from {profile}",
    )


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
        SettingError: where `DATABRICKS_CONFIG_PROFILE` is not there, or is of another workspace,
            whose token must not go to this one; where no workspace is named, but there are
            profiles; and where their file cannot be read.
        ValueError: where there are no credentials; the SDK raises more of its own.
    """
    from databricks.sdk.core import Config as SdkConfig

    # It warns there of a missing discovery document, which older workspaces do not have.
    logging.getLogger("databricks.sdk").setLevel(logging.ERROR)
    host = clean_url("DATABRICKS_HOST", env.get("DATABRICKS_HOST", ""))
    profile = _find_profile(env, home, host)
    token = None
    if "DATABRICKS_TOKEN" in env and not env["DATABRICKS_TOKEN"].strip():
        # The SDK would take a blank token of the environment for one.
        profiles = _read_profiles(_profiles_file(env, home))
        found = profiles.get(profile or ("" if host else "DEFAULT"))
        token = found.token if found else ""
    try:
        return SdkConfig(
            host=host or None,
            profile=profile,
            token=token,
            # With a token bound to the app as well, the SDK would not choose by itself.
            auth_type="oauth-m2m" if env.get("DATABRICKS_CLIENT_SECRET") else None,
            http_timeout_seconds=timeout,
            retry_timeout_seconds=timeout,
        )
    except configparser.Error:  # whose text holds the line, and a token may be in it
        raise SettingError(_unreadable(_profiles_file(env, home))) from None


def _find_profile(env: Mapping[str, str], home: Path, host: str) -> str | None:
    """The profile for a host: the SDK itself reads none once a host is given, and takes a named one
    for any host.
    """
    named = env.get("DATABRICKS_CONFIG_PROFILE") or None
    if env.get("DATABRICKS_CLIENT_SECRET"):
        return named
    file = _profiles_file(env, home)
    hosts = {name: profile.host for name, profile in _read_profiles(file).items()}
    if named:
        _check_profile(named, host, file, hosts)
        return named
    if host:
        return next((name for name, url in hosts.items() if url == host), None)
    if file.is_fifo():  # databricks-sdk would wait for its writer
        raise SettingError(_unreadable(file))
    if hosts and not hosts.get("DEFAULT"):
        raise SettingError(
            "DATABRICKS_CONFIG_PROFILE: it is not set; expected a profile of"
            f" {file} ({', '.join(hosts)}), or DATABRICKS_HOST"
        )
    return None


def _check_profile(named: str, host: str, file: Path, hosts: Mapping[str, str]) -> None:
    """Refuse a profile that is not there, or is of another workspace than `host`."""
    if named not in hosts:
        expected = (
            ", ".join(hosts)
            or "a profile in it, which `databricks auth login` makes, or DATABRICKS_HOST and"
            " DATABRICKS_TOKEN"
        )
        raise SettingError(
            f"DATABRICKS_CONFIG_PROFILE: {named[:100]!r} is not in {file}; expected {expected}"
        )
    if host and hosts[named] not in ("", host):
        raise SettingError(
            f"DATABRICKS_CONFIG_PROFILE: {named[:100]!r} is of {hosts[named]};"
            f" expected one of {host}"
        )


class _Profile(NamedTuple):
    """A profile's workspace and token; "" where it has none, or a URL that is not valid."""

    host: str
    token: str


def _unreadable(file: Path) -> str:
    expected = "[profile] sections with host and token"
    return f"DATABRICKS_CONFIG_FILE: {file} cannot be read; expected {expected}"


def _profiles_file(env: Mapping[str, str], home: Path) -> Path:
    """The file of the Databricks CLI's profiles."""
    return Path(env.get("DATABRICKS_CONFIG_FILE") or home / ".databrickscfg").expanduser()


def _read_profiles(path: Path) -> dict[str, _Profile]:
    """What profiles there are, by name; none where the file cannot be read."""
    file = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(OSError, ValueError, configparser.Error):
        file.read_string(read_small_file(path).decode())
    found = {}
    for name in [*(["DEFAULT"] if file.defaults() else []), *file.sections()]:
        try:
            host = clean_url(name, file[name].get("host", ""))
        except ValueError:
            host = ""
        found[name] = _Profile(host, file[name].get("token", ""))
    return found
