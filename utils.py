"""Where the AI Gateway of a Databricks workspace is, and small helpers that CODA's setup scripts share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import requests

T = TypeVar("T")

# Azure: adb-<workspace-id>.<shard>.azuredatabricks.net; GCP: <workspace-id>.<shard>.gcp.databricks.com. AWS hosts hold no id.
# Source: https://docs.databricks.com/en/workspace/workspace-details.html
_HOST_WITH_ID = re.compile(r"adb-([0-9]{1,20})\.[0-9]+\.azuredatabricks\.net|([0-9]{1,20})\.[0-9]+\.gcp\.databricks\.com")
# Databricks' domains, each a cloud of its own, and the host of a workspace's AI Gateway there. The sovereign clouds have
# none that is known. Azure's shard is always 0 here: another one is set with `DATABRICKS_GATEWAY_HOST`.
_CLOUDS = {
    "azuredatabricks.net": "{}.0.ai-gateway.azuredatabricks.net",
    "gcp.databricks.com": "{}.ai-gateway.gcp.databricks.com",
    "databricks.com": "{}.ai-gateway.cloud.databricks.com",
    "azuredatabricks.us": "",
    "databricks.azure.us": "",
    "databricks.azure.cn": "",
    "databricks.us": "",
    "databricks.mil": "",
}
_HOST_NAME = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAMESPACE = re.compile(r"(/openai(/v1)?|/mlflow(/v1)?|/anthropic(/v1)?|/gemini(/v1(beta)?)?)?(/chat/completions)?/*$")


class SettingError(ValueError):
    """A setting that cannot be used; its text is one line that names the setting, what was found and what is expected."""


def ensure_https(url: str) -> str:
    """Add `https://` to a URL or host without a scheme.

    Arguments:
        url: as found in the environment, surrounding white space included.

    Returns:
        The URL with a scheme; "" for "".
    """
    url = (url or "").strip()
    return url if not url or re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", url) else f"https://{url}"


def clean_url(setting: str, value: str, keep_path: bool = False) -> str:
    """Check a URL from a setting, and put it into one form.

    Arguments:
        setting: the setting's name, for the error.
        value: a URL or a bare host, in any case, with a trailing slash, a path or `/?o=<id>`.
        keep_path: keep the path (never the query).

    Returns:
        `https://host[:port][/path]` in lower case but for the path, without a trailing slash; "" for a blank value.

    Raises:
        SettingError: where it will not do; user info and tokens are hidden in it.
    """
    url = ensure_https(value)
    if not url:
        return ""
    # Checked before urlsplit, which drops tabs and newlines without a word.
    problem = "" if re.fullmatch(r"[!-\[\]-~]+", url) else "it holds a space, a backslash, a control or a non-ASCII character"
    if not problem:
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").removesuffix("."), parts.port
        except ValueError:
            problem = "its port is no number from 1 to 65535" if re.search(r":[^]/]*(/|$)", url[8:]) else "it is no host name"
    if not problem:
        local = host in ("localhost", "127.0.0.1", "::1")
        if parts.scheme != "https" and not (local and parts.scheme == "http"):
            problem = "only https:// keeps a token private"
        elif "@" in parts.netloc:
            problem = "it holds user info"
        elif port == 0 or parts.netloc.endswith(":"):
            problem = "its port is no number from 1 to 65535"
        elif not local and not _HOST_NAME.fullmatch(host):
            problem = "it is no host name"
    if problem:
        raise SettingError(f"{setting}: {_shown(value)} will not do ({problem}); expected something like https://host.example")
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    return f"{parts.scheme}://{netloc}" + (parts.path.rstrip("/") if keep_path else "")


def clean_gateway(setting: str, value: str) -> str:
    """Check a gateway's URL as `clean_url` does, and cut it back to its base where it ends in a namespace.

    Arguments:
        setting: the setting's name, for the error.
        value: such as `https://gateway.example/openai/`.

    Returns:
        The base URL; "" for a blank value.

    Raises:
        SettingError: as `clean_url`.
    """
    return _NAMESPACE.sub("", clean_url(setting, value, keep_path=True))


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
        _warn(f"DATABRICKS_GATEWAY_HOST: {_shown(explicit)} still holds the template's placeholder; passed over.")
    elif explicit:
        try:
            return clean_gateway("DATABRICKS_GATEWAY_HOST", explicit)
        except ValueError as error:
            _warn(f"{error}; passed over.")
    host = env.get("DATABRICKS_HOST", "")
    workspace_id = env.get("DATABRICKS_WORKSPACE_ID", "").strip() or _derive_workspace_id_from_host(host)
    candidate = _build_gateway_candidate(workspace_id, host)
    if not candidate and re.fullmatch("[0-9]{1,20}", workspace_id):
        _warn(f"No AI Gateway is known for {_shown(host)}: set DATABRICKS_GATEWAY_HOST if there is one.")
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
    name = _host_name(host)
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
    gateway = _CLOUDS.get(cloud_of(host) if (host or "").strip() else "databricks.com", "")
    return gateway and f"https://{gateway.format(workspace_id)}"


def cloud_of(url: str | None) -> str:
    """Tell in which of Databricks' clouds a host is.

    Arguments:
        url: a workspace's or a gateway's, in any form that a setting takes.

    Returns:
        The domain that it is below, such as `azuredatabricks.net`; "" for a host that is not Databricks'.
    """
    name = _host_name(url)
    return next((domain for domain in _CLOUDS if name.endswith(f".{domain}")), "")


def _probe_gateway(url: str, timeout: float = 2.0) -> bool:
    """Ask whether a gateway is there, as `unreachable` does.

    Arguments:
        url: the gateway's base URL.
        timeout: seconds for everything.

    Returns:
        True for any HTTP answer. False, and a line on stderr that says why, for a failure below HTTP.
    """
    if reason := unreachable(url, timeout):
        _warn(f"AI Gateway {url} cannot be reached ({reason}); using the workspace's own endpoints instead.")
    return not reason


def unreachable(url: str, timeout: float = 2.0) -> str:
    """Ask for an HTTP answer, any one, without a token and without following a redirect.

    Arguments:
        url: what to ask for.
        timeout: seconds for everything: name look-up, each address, TLS and the answer's first line.

    Returns:
        "" when one came; else why not.
    """

    def ask() -> None:
        # An auth of our own keeps requests from sending what ~/.netrc holds for that host.
        requests.get(url, timeout=timeout, allow_redirects=False, stream=True, auth=lambda request: request).close()

    try:
        in_time(ask, timeout)
    except requests.Timeout:
        return f"timed out after {timeout:g} s"
    except (OSError, ValueError) as error:  # requests' own errors are OSErrors
        return why_unreachable(error)
    return ""


def in_time(work: Callable[[], T], seconds: float) -> T:
    """Do something that may take for ever: requests' own time-outs count anew for each address and each byte.

    Arguments:
        work: is left alone, in a thread, when its time is over.
        seconds: for all of it.

    Returns:
        What it returns.

    Raises:
        requests.ReadTimeout: when its time is over.
        Exception: whatever it raises.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # for whoever waits
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not wait([future], seconds).done:
        raise requests.ReadTimeout(f"no answer within {seconds:g} s")
    return future.result()


def why_unreachable(error: Exception) -> str:
    """Say in a few words why no HTTP answer came.

    Arguments:
        error: what requests raised.

    Returns:
        `timed out`, or `DNS`, `TLS`, `proxy` or `connection` with the innermost message.
    """
    if isinstance(error, requests.Timeout):
        return "timed out"
    inner: BaseException = error
    while isinstance(cause := getattr(inner, "reason", None) or [None, *inner.args][-1], BaseException):
        inner = cause
    detail = re.sub(r"^.*?: (?=\[)|\[[^]]*\] ?| \(_ssl\.c:\d+\)", "", str(inner)).strip() or type(inner).__name__
    kinds = {"proxy": requests.exceptions.ProxyError, "TLS": requests.exceptions.SSLError}
    unknown = "resolve" in detail
    kind = next((name for name, cls in kinds.items() if isinstance(error, cls)), "DNS" if unknown else "connection")
    return f"{kind}: {'no such host' if unknown else detail}"


def as_dict(value: object) -> dict[str, Any]:
    """A mapping; anything else is an empty one."""
    return value if isinstance(value, dict) else {}


def adapt_instructions_file(source_path: str | Path, target_path: str | Path, new_header: str, cli_name: str) -> bool:
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
        answer = subprocess.run(["npm", "view", package_name, "version"], capture_output=True, text=True, timeout=30)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def _shown(value: str) -> str:
    """A setting's value for a message: short, without user info or anything that looks like a token."""
    return repr(re.sub(r"^.*@|(dapi|eyJ)[\w.-]*", "***", value.strip(), flags=re.DOTALL)[:100])


def _host_name(url: str | None) -> str:
    """The host name in a URL that will do; "" for any other."""
    try:
        return urlsplit(clean_url("host", url or "")).hostname or ""
    except ValueError:
        return ""


def _warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
