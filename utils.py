"""What CODA's setup scripts share: where a workspace's AI Gateway is, and small helpers.

The first four functions are also put into CODA's own utils.py: see patch_coda.py.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from hermes import urls
from hermes.urls import ensure_https as ensure_https


def get_gateway_host(env: dict[str, str] | None = None) -> str:
    """Find the base URL of the workspace's AI Gateway; "" where there is none.

    In order: `_GATEWAY_RESOLVED`, as it is; `DATABRICKS_GATEWAY_HOST`, trusted; what is built from
    `DATABRICKS_WORKSPACE_ID` or the id in `DATABRICKS_HOST`, if it answers a probe.
    """
    env = dict(os.environ) if env is None else env
    if "_GATEWAY_RESOLVED" in env:
        return env["_GATEWAY_RESOLVED"]
    given = urls.given_gateway(env.get("DATABRICKS_GATEWAY_HOST"), empty_is_none=False)
    if given is not None:
        return given
    host = env.get("DATABRICKS_HOST", "")
    workspace_id = env.get("DATABRICKS_WORKSPACE_ID", "").strip()
    workspace_id = workspace_id or _derive_workspace_id_from_host(host)
    candidate = _build_gateway_candidate(workspace_id, host)
    if workspace_id and not candidate:
        urls.warn(f"No AI Gateway is known for {urls.shown(host)}: set DATABRICKS_GATEWAY_HOST.")
    return candidate if candidate and _probe_gateway(candidate) else ""


def _derive_workspace_id_from_host(host: str | None) -> str:
    """Read the workspace id out of a workspace's URL; "" where it holds none, as on AWS."""
    return urls.workspace_id(host)


def _build_gateway_candidate(workspace_id: str, host: str | None) -> str:
    """Build the gateway's URL in the host's own cloud; "" where none is known."""
    return urls.gateway_url(workspace_id, host)


def _probe_gateway(url: str, timeout: float = 2.0) -> bool:
    """Whether a gateway gives any HTTP answer within `timeout` seconds; a line says why not."""
    if reason := urls.unreachable(url, timeout):
        urls.warn(f"AI Gateway {url} cannot be reached ({reason}); going on without it.")
    return not reason


def resolve_and_cache_gateway() -> str:
    """Find the gateway once for this process and its children, which read `_GATEWAY_RESOLVED`."""
    os.environ["_GATEWAY_RESOLVED"] = gateway = get_gateway_host()
    return gateway


def adapt_instructions_file(
    source_path: str | Path, target_path: str | Path, new_header: str, cli_name: str
) -> bool:
    """Write CLAUDE.md as another CLI's instructions file.

    Arguments:
        source_path: CLAUDE.md; False and a message say that it is missing.
        target_path: where the CLI looks; folders are made.
        new_header: the line that replaces the first `# ` header, or goes above a text without one.
        cli_name: the CLI's name, for the message.
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
    """Ask npm for a package's newest version; None on any failure, and after 30 seconds."""
    try:
        # CODA's own tests hold this call to the letter.
        answer = subprocess.run(
            ["npm", "view", package_name, "version"], capture_output=True, text=True, timeout=30
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
