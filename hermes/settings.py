"""What the environment asks for, checked, and whose token Hermes gets."""

from __future__ import annotations

import os
import pwd
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hermes.login import find_credentials
from hermes.trust import trusts_gateway
from hermes.urls import SettingError, clean_gateway, clean_url, ensure_https
from utils import get_gateway_host

HERMES = "hermes-agent[mcp]==0.19.0"
MCP_DEFAULTS = {
    "deepwiki": ("DEEPWIKI_MCP_URL", "https://mcp.deepwiki.com/mcp"),
    "exa": ("EXA_MCP_URL", "https://mcp.exa.ai/mcp"),
}


@dataclass(frozen=True)
class HermesSettings:
    """Everything read from the environment, checked. URLs are clean, `token` is trimmed; "" means not there."""

    home: Path
    host: str
    token: str = field(repr=False)
    gateway: str
    origin: str  # a line that says where the host is from, if it was not given
    gateway_origin: str
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
    raise SettingError(f"{name}: {word[:100]!r} is not valid; expected true or false")


def read_settings(env: Mapping[str, str]) -> HermesSettings:
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
    for pattern, wrong in (("-", "starts with '-'"), (r".*//[^/]*@", "holds user info")):
        if re.match(pattern, package, re.DOTALL):
            raise SettingError(
                f"HERMES_PIP_URL: it {wrong} (not shown); expected a package, a path or a plain URL"
            )
    servers = {name: env.get(key, url).strip() for name, (key, url) in MCP_DEFAULTS.items()}
    memory = env.get("TEAM_MEMORY_MCP_URL", "").strip().rstrip("/").removesuffix("/mcp")
    explicit = env.get("DATABRICKS_GATEWAY_HOST", "")
    for key, url in [
        *((MCP_DEFAULTS[name][0], url) for name, url in servers.items()),
        ("TEAM_MEMORY_MCP_URL", memory),
    ]:
        clean_url(key, url)
    host = clean_url("DATABRICKS_HOST", env.get("DATABRICKS_HOST", ""))
    explicit = clean_gateway("DATABRICKS_GATEWAY_HOST", "" if "<" in explicit else explicit)
    clean_gateway("_GATEWAY_RESOLVED", env.get("_GATEWAY_RESOLVED", ""))
    workspace_id = env.get("DATABRICKS_WORKSPACE_ID", "").strip()
    if not re.fullmatch("[0-9]{0,20}", workspace_id):
        raise SettingError(
            f"DATABRICKS_WORKSPACE_ID: {workspace_id[:100]!r} is not valid; expected digits"
        )
    prove = read_flag(env, "HERMES_PROVE")
    model = _read_model(env, "HERMES_MODEL", "databricks-claude-opus-4-7")
    fallback_model = _read_model(env, "HERMES_FALLBACK_MODEL", "databricks-claude-opus-4-6")
    host, token, origin = find_credentials(env, home, host)
    if re.fullmatch(r"""(["']).*\1""", token):
        raise SettingError(
            "DATABRICKS_TOKEN: it is in quotes (not shown); expected the plain token"
        )
    if not re.fullmatch("[!-~]*", token):
        raise SettingError(
            "DATABRICKS_TOKEN: it holds a space or a control character (not shown); expected one plain token"
        )
    if token and not host:
        raise SettingError(
            "DATABRICKS_HOST: it is not set; expected the workspace's URL, like https://adb-1.2.azuredatabricks.net"
        )
    # The host as it was given, since it may hold the id in `?o=`.
    given = {**env, "DATABRICKS_HOST": env.get("DATABRICKS_HOST", "").strip() or host}
    gateway = clean_gateway("_GATEWAY_RESOLVED", get_gateway_host(given)) if token else ""
    if gateway not in ("", explicit) and not trusts_gateway(host, gateway):
        raise SettingError(
            f"_GATEWAY_RESOLVED: {gateway!r} is in another cloud than {host}; expected DATABRICKS_GATEWAY_HOST to say so"
        )
    if "_GATEWAY_RESOLVED" in env:
        source = "found by a parent process"
    elif gateway == explicit:
        source = "from DATABRICKS_GATEWAY_HOST, not probed"
    else:
        source = f"derived from {'DATABRICKS_WORKSPACE_ID' if workspace_id else 'DATABRICKS_HOST'}; it answered"
    return HermesSettings(
        home=home,
        host=host,
        token=token,
        gateway=gateway,
        origin=origin,
        gateway_origin=source,
        model=model,
        fallback_model=fallback_model,
        prove=prove,
        package=package,
        mcp_servers={name: ensure_https(url) for name, url in servers.items()}
        | ({"team-memory": f"{ensure_https(memory)}/mcp"} if memory else {}),
    )


def _read_model(env: Mapping[str, str], name: str, default: str) -> str:
    model = env.get(name, "").strip() or default
    if not model.isprintable() or " " in model:
        raise SettingError(
            f"{name}: {model[:100]!r} is not valid; expected one model's name, without spaces"
        )
    return model


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
    raise SettingError(
        f"HOME: {str(home)[:100]!r} cannot be written ({reason}); expected a directory of yours"
    )


def _account_home() -> Path:
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise SettingError(
            "HOME: it is not set, and this account has no home; expected a directory of yours"
        ) from None
