"""What the environment asks for, checked, and whose token Hermes gets."""

from __future__ import annotations

import configparser
import contextlib
import logging
import os
import pwd
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils import clean_gateway, clean_url, ensure_https, get_gateway_host

HERMES = "hermes-agent[mcp]==0.19.0"
MCP_DEFAULTS = {
    "deepwiki": ("DEEPWIKI_MCP_URL", "https://mcp.deepwiki.com/mcp"),
    "exa": ("EXA_MCP_URL", "https://mcp.exa.ai/mcp"),
}


class SettingError(ValueError):
    """A setting that cannot be used; its text is one line that names the setting, what was found and what is expected."""


@dataclass(frozen=True)
class Settings:
    """Everything read from the environment, checked. URLs are clean, `token` is trimmed; "" means not there."""

    home: Path
    host: str
    token: str = field(repr=False)
    gateway: str
    model: str
    fallback_model: str
    prove: bool
    package: str
    mcp_servers: dict[str, str]


def read_flag(env: Mapping[str, str], name: str) -> bool:
    """Read an on/off setting that is on by default.

    Arguments:
        env: the environment.
        name: the variable.

    Returns:
        False for false, 0, no or off; True for true, 1, yes, on or nothing.

    Raises:
        SettingError: for any other word.
    """
    word = env.get(name, "").strip().lower()
    if word in ("false", "0", "no", "off"):
        return False
    if word in ("", "true", "1", "yes", "on"):
        return True
    raise SettingError(f"{name}: {word[:100]!r} will not do; expected true or false")


def read_settings(env: Mapping[str, str]) -> Settings:
    """Read and check every setting; asks databricks-sdk for what is missing and probes the gateway.

    Arguments:
        env: the environment.

    Returns:
        The settings; an empty token where there is none yet.

    Raises:
        SettingError: for the first setting that cannot be used.
    """
    home = read_home(env)
    package = env.get("HERMES_PIP_URL", "").strip() or HERMES
    if package.startswith("-") or re.search(r"//[^/]*@", package):
        raise SettingError("HERMES_PIP_URL: it starts with '-' or holds user info; expected a package, a path or a plain URL")
    servers = {name: env.get(key, url).strip() for name, (key, url) in MCP_DEFAULTS.items()}
    memory = env.get("TEAM_MEMORY_MCP_URL", "").strip().rstrip("/")
    explicit = env.get("DATABRICKS_GATEWAY_HOST", "")
    try:
        for key, url in [*((MCP_DEFAULTS[name][0], url) for name, url in servers.items()), ("TEAM_MEMORY_MCP_URL", memory)]:
            clean_url(key, url)
        host = clean_url("DATABRICKS_HOST", env.get("DATABRICKS_HOST", ""))
        clean_gateway("DATABRICKS_GATEWAY_HOST", "" if "<" in explicit else explicit)
        clean_gateway("_GATEWAY_RESOLVED", env.get("_GATEWAY_RESOLVED", ""))
    except ValueError as error:
        raise SettingError(str(error)) from None
    workspace_id = env.get("DATABRICKS_WORKSPACE_ID", "").strip()
    if not re.fullmatch("[0-9]{0,20}", workspace_id):
        raise SettingError(f"DATABRICKS_WORKSPACE_ID: {workspace_id[:100]!r} will not do; expected digits")
    prove = read_flag(env, "HERMES_PROVE")
    host, token = _find_credentials(env, home, host)
    if not re.fullmatch("[!-~]*", token):
        raise SettingError("DATABRICKS_TOKEN: it holds a space or a control character (not shown); expected one plain token")
    if token and not host:
        raise SettingError(
            "DATABRICKS_HOST: it is not set; expected the workspace's URL, like https://adb-1.2.azuredatabricks.net"
        )
    # The host as it was given, since it may hold the id in `?o=`.
    given = {**env, "DATABRICKS_HOST": env.get("DATABRICKS_HOST", "").strip() or host}
    return Settings(
        home=home,
        host=host,
        token=token,
        gateway=clean_gateway("_GATEWAY_RESOLVED", get_gateway_host(given)) if token else "",
        model=env.get("HERMES_MODEL", "").strip() or "databricks-claude-opus-4-7",
        fallback_model=env.get("HERMES_FALLBACK_MODEL", "").strip() or "databricks-claude-opus-4-6",
        prove=prove,
        package=package,
        mcp_servers={name: ensure_https(url) for name, url in servers.items()}
        | ({"team-memory": f"{ensure_https(memory)}/mcp"} if memory else {}),
    )


def read_home(env: Mapping[str, str]) -> Path:
    """Find the home directory, also where a Databricks App has `HOME` unset or "/".

    Arguments:
        env: the environment.

    Returns:
        A directory that can be written.

    Raises:
        SettingError: where it cannot.
    """
    home = Path(env.get("HOME", ""))
    if str(home) in (".", "/"):
        app = Path("/app/python/source_code")
        home = app if app.is_dir() else _account_home()
    try:
        if home.is_absolute():
            tempfile.TemporaryFile(dir=home).close()
            return home
        reason = "not an absolute path"
    except OSError as error:
        reason = error.strerror or "no reason given"
    raise SettingError(f"HOME: {str(home)[:100]!r} cannot be written ({reason}); expected a directory of yours")


def _account_home() -> Path:
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise SettingError("HOME: it is not set, and this account has no home; expected a directory of yours") from None


def _find_credentials(env: Mapping[str, str], home: Path, host: str) -> tuple[str, str]:
    """Complete the workspace's URL and token from databricks-sdk's unified authentication, where it is installed."""
    token = env.get("DATABRICKS_TOKEN", "").strip()
    if token and host:
        return host, token
    try:
        config = sdk_config(env, home, timeout=5)
        kind, _, fresh = config.authenticate().get("Authorization", "").partition(" ")
        found = clean_url("host in ~/.databrickscfg", config.host or "")
    except ImportError:
        return host, token
    except SettingError:
        raise
    except ValueError as error:
        reason = " ".join(str(error).split(". Config:")[0].split())
        if "cannot configure default credentials" not in reason:
            print(f"databricks-sdk found no token: {reason[:200]}", file=sys.stderr)
        return host, token
    except Exception as error:  # whatever the provider's HTTP client or the Databricks CLI raises
        print(f"databricks-sdk found no token: {type(error).__name__}", file=sys.stderr)
        return host, token
    return host or found, token or (fresh if kind == "Bearer" else "")


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
        SettingError: where `DATABRICKS_CONFIG_PROFILE` is of another workspace, whose token must not go to this one.
        ValueError: where there are no credentials; the SDK raises more of its own.
    """
    from databricks.sdk.core import Config as SdkConfig

    # It warns there of a missing discovery document, which older workspaces do not have.
    logging.getLogger("databricks.sdk").setLevel(logging.ERROR)
    if not env.get("DATABRICKS_TOKEN", "").strip():
        os.environ.pop("DATABRICKS_TOKEN", None)  # a blank one would be one credential too many
    return SdkConfig(
        host=(host := clean_url("DATABRICKS_HOST", env.get("DATABRICKS_HOST", ""))) or None,
        profile=_find_profile(env, home, host),
        # With a token bound to the app as well, the SDK would not choose by itself.
        auth_type="oauth-m2m" if env.get("DATABRICKS_CLIENT_SECRET") else None,
        http_timeout_seconds=timeout,
        retry_timeout_seconds=timeout,
    )


def _find_profile(env: Mapping[str, str], home: Path, host: str) -> str | None:
    """The profile for a host: the SDK itself reads none once a host is given, and takes a named one for any host."""
    named = env.get("DATABRICKS_CONFIG_PROFILE") or None
    if not host or env.get("DATABRICKS_CLIENT_SECRET"):
        return named
    file = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(OSError, ValueError, configparser.Error):
        file.read(Path(env.get("DATABRICKS_CONFIG_FILE") or home / ".databrickscfg").expanduser())
    hosts = {}
    for name in ("DEFAULT", *file.sections()):
        with contextlib.suppress(ValueError):
            hosts[name] = clean_url(name, file[name].get("host", ""))
    if named and hosts.get(named, host) != host:
        raise SettingError(f"DATABRICKS_CONFIG_PROFILE: {named[:100]!r} is of {hosts[named]}; expected one of {host}")
    return named or next((name for name, url in hosts.items() if url == host), None)
