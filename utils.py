"""Where the AI Gateway of a Databricks workspace is, and small helpers that CODA's setup scripts share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from hermes.urls import CLOUDS, clean_gateway, cloud_of, ensure_https, host_name, shown, unreachable

# Azure: adb-<workspace-id>.<shard>.azuredatabricks.net; GCP: <workspace-id>.<shard>.gcp.databricks.com. AWS hosts hold no id.
# Source: https://docs.databricks.com/en/workspace/workspace-details.html
_HOST_WITH_ID = re.compile(
    r"adb-([0-9]{1,20})\.[0-9]+\.azuredatabricks\.net|([0-9]{1,20})\.[0-9]+\.gcp\.databricks\.com"
)


def get_gateway_host(env: Mapping[str, str] | None = None) -> str:
    """Find the base URL of the workspace's AI Gateway from the environment.

    In order: `_GATEWAY_RESOLVED`, a parent's answer, as it is; `DATABRICKS_GATEWAY_HOST`, trusted; one candidate built from
    `DATABRICKS_WORKSPACE_ID` or else from the id in `DATABRICKS_HOST`, if it answers a probe.

    Arguments:
        env: where these variables are; the process's own environment by default.

    Returns:
        The base URL, without a namespace such as `/openai`; "" where there is none, so: use direct serving endpoints.
    """
    env = os.environ if env is None else env
    if "_GATEWAY_RESOLVED" in env:
        return env["_GATEWAY_RESOLVED"]
    explicit = env.get("DATABRICKS_GATEWAY_HOST", "").strip()
    if "<" in explicit:
        _warn(
            f"DATABRICKS_GATEWAY_HOST: {shown(explicit)} still holds the template's placeholder; passed over."
        )
    elif explicit:
        try:
            return clean_gateway("DATABRICKS_GATEWAY_HOST", explicit)
        except ValueError as error:
            _warn(f"{error}; passed over.")
    host = env.get("DATABRICKS_HOST", "")
    workspace_id = env.get("DATABRICKS_WORKSPACE_ID", "").strip() or _derive_workspace_id_from_host(
        host
    )
    candidate = _build_gateway_candidate(workspace_id, host)
    if not candidate and re.fullmatch("[0-9]{1,20}", workspace_id):
        _warn(
            f"No AI Gateway is known for {shown(host)}: set DATABRICKS_GATEWAY_HOST if there is one."
        )
    return candidate if candidate and _probe_gateway(candidate) else ""


def resolve_and_cache_gateway() -> str:
    """Find the gateway once for this process and its children, which read it from `_GATEWAY_RESOLVED`.

    Returns:
        As `get_gateway_host`.
    """
    os.environ["_GATEWAY_RESOLVED"] = gateway = get_gateway_host()
    return gateway


def _derive_workspace_id_from_host(host: str | None) -> str:
    """Read the workspace id out of a workspace's URL.

    Arguments:
        host: a value of `DATABRICKS_HOST`, in any form it takes.

    Returns:
        The digits of an Azure host, a GCP host or `?o=<id>`; "" for anything else.
    """
    name = host_name(host)
    if match := _HOST_WITH_ID.fullmatch(name):
        return match[1] or match[2]
    given = parse_qs(urlsplit(ensure_https(host)).query).get("o", [""])[0] if host and name else ""
    return given if re.fullmatch("[0-9]{1,20}", given) else ""


def _build_gateway_candidate(workspace_id: str, host: str | None) -> str:
    """Build the URL at which a workspace's AI Gateway is expected.

    Arguments:
        workspace_id: digits.
        host: the workspace's host, which tells the cloud.

    Returns:
        The form of the host's own cloud, AWS's where there is no host; "" where the id is not made of digits, and for a
        host that is in none of these clouds: a token must not leave its cloud.
    """
    if not re.fullmatch("[0-9]{1,20}", workspace_id):
        return ""
    gateway = CLOUDS.get(cloud_of(host) if (host or "").strip() else "databricks.com", "")
    return gateway and f"https://{gateway.format(workspace_id)}"


def _probe_gateway(url: str, timeout: float = 2.0) -> bool:
    """Ask whether a gateway is there, as `unreachable` does.

    Arguments:
        url: the gateway's base URL.
        timeout: seconds for everything.

    Returns:
        True for any HTTP answer. False, and a line on stderr that says why, for a failure below HTTP.
    """
    if reason := unreachable(url, timeout):
        _warn(
            f"AI Gateway {url} cannot be reached ({reason}); using the workspace's own endpoints instead."
        )
    return not reason


def adapt_instructions_file(
    source_path: str | Path, target_path: str | Path, new_header: str, cli_name: str
) -> bool:
    """Write CLAUDE.md as another CLI's instructions file.

    Arguments:
        source_path: CLAUDE.md.
        target_path: where the CLI looks; folders are made.
        new_header: the line that replaces the first `# ` header, or goes above a text without one.
        cli_name: the CLI's name, for the message.

    Returns:
        True when written; False, with a message, where the source is missing.
    """
    source, target = Path(source_path), Path(target_path)
    if not source.is_file():
        print(f"{cli_name}: {source} is not there, so no {target.name} was written.")
        return False
    text = source.read_text(encoding="utf-8", errors="replace")
    adapted, replaced = re.subn(r"^# .*$", lambda _: new_header, text, count=1, flags=re.MULTILINE)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(adapted if replaced else f"{new_header}\n\n{text}", encoding="utf-8")
    print(f"{cli_name}: {target} written from {source.name}.")
    return True


def get_npm_version(package_name: str) -> str | None:
    """Ask npm for a package's newest version.

    Arguments:
        package_name: as the npm registry has it.

    Returns:
        The version; None on any failure, and after 30 seconds.
    """
    try:
        # CODA's own tests hold this call to the letter.
        answer = subprocess.run(
            ["npm", "view", package_name, "version"], capture_output=True, text=True, timeout=30
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def _warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
