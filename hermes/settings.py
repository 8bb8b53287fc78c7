"""What the environment asks for, checked. No network, and nothing is changed."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hermes.urls import SettingError, clean_gateway, clean_url, ensure_https, workspace_id

HERMES = "hermes-agent[mcp]==0.19.0"
MCP_DEFAULTS = {
    "deepwiki": ("DEEPWIKI_MCP_URL", "https://mcp.deepwiki.com/mcp"),
    "exa": ("EXA_MCP_URL", "https://mcp.exa.ai/mcp"),
}


@dataclass(frozen=True)
class HermesSettings:
    """Everything read from the environment, checked. URLs are clean, `token` is trimmed; "" means
    not there.
    """

    home: Path
    host: str
    token: str = field(repr=False)
    model: str
    fallback_model: str
    prove: bool
    package: str
    mcp_servers: dict[str, str]
    gateway: str = ""
    origin: str = ""  # a line that says where the host is from, if it was not given
    gateway_origin: str = ""
    workspace_id: str = ""  # as it was given; a host may serve several workspaces


def read_flag(env: Mapping[str, str], name: str) -> bool:
    """Read an on/off setting that is on by default.

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
    """Read and check every setting. It asks nobody: `hermes.login.load_settings` adds what is
    still missing, such as the gateway.

    Raises:
        SettingError: for a setting that cannot be used.
    """
    read_gateway(env)
    clean_gateway("_GATEWAY_RESOLVED", env.get("_GATEWAY_RESOLVED", ""))
    token = env.get("DATABRICKS_TOKEN", "").strip()
    check_token(token)
    return HermesSettings(
        home=read_home(env),
        host=clean_url("DATABRICKS_HOST", env.get("DATABRICKS_HOST", "")),
        token=token,
        model=_read_model(env, "HERMES_MODEL", "databricks-claude-opus-4-7"),
        fallback_model=_read_model(env, "HERMES_FALLBACK_MODEL", "databricks-claude-opus-4-6"),
        prove=read_flag(env, "HERMES_PROVE"),
        package=_read_package(env),
        mcp_servers=_read_servers(env),
        workspace_id=_read_workspace_id(env),
    )


def read_gateway(env: Mapping[str, str]) -> str:
    """The gateway that `DATABRICKS_GATEWAY_HOST` names; "" where it names none, or is still the
    template's placeholder.

    Raises:
        SettingError: where it is not valid.
    """
    given = env.get("DATABRICKS_GATEWAY_HOST", "")
    return clean_gateway("DATABRICKS_GATEWAY_HOST", "" if "<" in given else given)


def check_token(token: str) -> None:
    """Refuse what cannot be a token.

    Raises:
        SettingError: without the token in it.
    """
    problem = ""
    if re.fullmatch(r"""(["']).*\1""", token):
        problem = "it is in quotes (not shown); expected the plain token"
    elif not re.fullmatch("[!-~]*", token):
        problem = "it holds more than printable ASCII, or a space (not shown); expected one token"
    elif re.match("https?://", token, re.IGNORECASE):
        problem = "it is a URL (not shown); expected a token"
    if problem:
        raise SettingError(f"DATABRICKS_TOKEN: {problem}")


def _read_package(env: Mapping[str, str]) -> str:
    package = env.get("HERMES_PIP_URL", "").strip() or HERMES
    for pattern, wrong in (("-", "starts with '-'"), (r".*//[^/]*@", "holds user info")):
        if re.match(pattern, package, re.DOTALL):
            raise SettingError(
                f"HERMES_PIP_URL: it {wrong} (not shown); expected a package, a path or a plain URL"
            )
    return package


def _read_servers(env: Mapping[str, str]) -> dict[str, str]:
    """The MCP servers' URLs by name; "" for one that is to be left out."""
    servers = {}
    for name, (setting, default) in MCP_DEFAULTS.items():
        url = env.get(setting, default)
        clean_url(setting, url)
        servers[name] = ensure_https(url)
    memory = env.get("TEAM_MEMORY_MCP_URL", "").strip().rstrip("/").removesuffix("/mcp")
    if clean_url("TEAM_MEMORY_MCP_URL", memory):
        servers["team-memory"] = f"{ensure_https(memory)}/mcp"
    return servers


def _read_workspace_id(env: Mapping[str, str]) -> str:
    """The workspace's id from its setting, or as it was copied with the host; "" where neither
    holds one.
    """
    given = env.get("DATABRICKS_WORKSPACE_ID", "").strip()
    if not re.fullmatch("[0-9]{0,20}", given):
        raise SettingError(
            f"DATABRICKS_WORKSPACE_ID: {given[:100]!r} is not valid; expected digits"
        )
    return given or workspace_id(env.get("DATABRICKS_HOST", ""))


def _read_model(env: Mapping[str, str], name: str, default: str) -> str:
    model = env.get(name, "").strip() or default
    if model.startswith("dapi"):
        raise SettingError(f"{name}: it looks like a token (not shown); expected one model's name")
    if not model.isprintable() or " " in model:
        raise SettingError(
            f"{name}: {model[:100]!r} is not valid; expected one model's name, without spaces"
        )
    return model


def read_home(env: Mapping[str, str]) -> Path:
    """Find the home directory, also where a Databricks App has `HOME` unset or "/".

    Raises:
        SettingError: where it cannot.
    """
    home = Path(env.get("HOME", ""))
    if str(home) in (".", "/"):
        app = Path("/app/python/source_code")
        with contextlib.suppress(KeyError):  # an account without an entry has none
            home = app if app.is_dir() else Path(pwd.getpwuid(os.getuid()).pw_dir)
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
