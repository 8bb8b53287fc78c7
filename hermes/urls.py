"""URLs and hosts of Databricks: checked, of which cloud, and why one cannot be reached.

`requests` is imported where something is asked: it is most of what importing this would take.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

T = TypeVar("T")
# Databricks' domains, each a cloud of its own, and the host of a workspace's AI Gateway there. The
# sovereign clouds have none that is known. Azure's shard is always 0 here: another one is set with
# `DATABRICKS_GATEWAY_HOST`.
CLOUDS = {
    "azuredatabricks.net": "{}.0.ai-gateway.azuredatabricks.net",
    "gcp.databricks.com": "{}.ai-gateway.gcp.databricks.com",
    "databricks.com": "{}.ai-gateway.cloud.databricks.com",
    "azuredatabricks.us": "",
    "databricks.azure.us": "",
    "databricks.azure.cn": "",
    "databricks.us": "",
    "databricks.mil": "",
}
EXAMPLES = {"DATABRICKS_HOST": "https://adb-1234567890123456.7.azuredatabricks.net"}
_HOST_NAME = re.compile(
    r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
)
_BAD_PORT, _NO_HOST = "its port is no number from 1 to 65535", "it is no host name"
_NAMESPACE = re.compile(
    r"(/openai(/v1)?|/mlflow(/v1)?|/anthropic(/v1)?|/gemini(/v1(beta)?)?)?(/chat/completions)?/*$"
)


class SettingError(ValueError):
    """A setting that cannot be used; its text is one line that names the setting, what was found
    and what is expected.
    """


def ensure_https(url: str) -> str:
    """Add `https://` to a URL or host without a scheme, and drop white space around it."""
    url = (url or "").strip()
    return url if not url or re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", url) else f"https://{url}"


def clean_url(setting: str, value: str, keep_path: bool = False) -> str:
    """Check a URL from a setting, and put it into one form.

    Arguments:
        setting: the setting's name, for the error.
        value: a URL or a bare host, in any case, with a trailing slash, a path or `/?o=<id>`.
        keep_path: keep the path (never the query).

    Returns:
        `https://host[:port][/path]` in lower case but for the path, without a trailing slash; ""
        for a blank value.

    Raises:
        SettingError: where it is not valid; user info and tokens are hidden in it.
    """
    url = ensure_https(value)
    if not url:
        return ""
    try:
        parts, host, port = _split(url)
    except ValueError as error:
        raise SettingError(
            f"{setting}: {shown(value)} is not valid ({error}); expected something like"
            f" {EXAMPLES.get(setting, 'https://host.example')}"
        ) from None
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    return f"{parts.scheme}://{netloc}" + (parts.path.rstrip("/") if keep_path else "")


def _split(url: str) -> tuple[SplitResult, str, int | None]:
    """A URL's parts, its host and its port; ValueError says what is wrong with it."""
    # Checked before urlsplit, which drops tabs and newlines without a word.
    if not re.fullmatch(r"[!-\[\]-~]+", url):
        raise ValueError("it holds a space, a backslash, a control or a non-ASCII character")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError:
        has_port = re.search(r":[^]/]*(/|$)", url[8:])
        raise ValueError(_BAD_PORT if has_port else _NO_HOST) from None
    if problem := _problem(parts, host, port):
        raise ValueError(problem)
    return parts, host, port


def _problem(parts: SplitResult, host: str, port: int | None) -> str:
    """What is wrong with the parts of a URL; "" for nothing."""
    local = host in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not (local and parts.scheme == "http"):
        return "only https:// keeps a token private"
    if "@" in parts.netloc:
        return "it holds user info"
    if port == 0 or parts.netloc.endswith(":"):
        return _BAD_PORT
    return "" if local or _HOST_NAME.fullmatch(host) else _NO_HOST


def clean_gateway(setting: str, value: str) -> str:
    """Check a gateway's URL as `clean_url` does, and cut it back to its base where it ends in a
    namespace, as in `https://gateway.example/openai/`.
    """
    return _NAMESPACE.sub("", clean_url(setting, value, keep_path=True))


def cloud_of(url: str | None) -> str:
    """Which of Databricks' domains, such as `azuredatabricks.net`, the host of a URL is below; ""
    for a host that is not Databricks'. The URL has any form that a setting takes.
    """
    name = host_name(url)
    return next((domain for domain in CLOUDS if name.endswith(f".{domain}")), "")


def host_name(url: str | None) -> str:
    """The host name in a URL that will do; "" for any other."""
    try:
        return urlsplit(clean_url("host", url or "")).hostname or ""
    except ValueError:
        return ""


def workspace_id(host: str | None) -> str:
    """Read the workspace id out of a workspace's URL, in any form that `DATABRICKS_HOST` takes.

    Source: https://docs.databricks.com/en/workspace/workspace-details.html

    Returns:
        The digits of an Azure host, a GCP host or `?o=<id>`; "" for anything else.
    """
    name = host_name(host)
    found = (
        re.fullmatch(r"adb-([0-9]{1,20})\.[0-9]+\.azuredatabricks\.net", name)
        or re.fullmatch(r"([0-9]{1,20})\.[0-9]+\.gcp\.databricks\.com", name)
        or re.search(r"\?(?:[^#]*&)?o=([0-9]{1,20})(?![^&#])", (host or "").strip())
    )
    return found[1] if name and found else ""


def gateway_url(workspace_id: str, host: str | None) -> str:
    """Build the URL at which a workspace's AI Gateway is expected.

    Arguments:
        workspace_id: digits.
        host: the workspace's host, which tells the cloud.

    Returns:
        The form of the host's own cloud, AWS's where there is no host; "" where the id is not made
        of digits, and for a host that is in none of these clouds: a token must not leave its cloud.
    """
    if not re.fullmatch("[0-9]{1,20}", workspace_id):
        return ""
    gateway = CLOUDS.get(cloud_of(host) if (host or "").strip() else "databricks.com", "")
    return gateway and f"https://{gateway.format(workspace_id)}"


def given_gateway(value: str | None, empty_is_none: bool) -> str | None:
    """What `DATABRICKS_GATEWAY_HOST` says.

    Arguments:
        value: the setting, None where it is not set.
        empty_is_none: whether an empty value says that there is no gateway, as in CODA since the
            summer of 2026, or nothing, as before.

    Returns:
        The gateway's base URL, "" for none; None where the value says nothing. One that cannot be
        used says nothing either: a line on stderr tells.
    """
    try:
        if value is None or "<" not in value:
            gateway = clean_gateway("DATABRICKS_GATEWAY_HOST", value or "")
            return gateway if gateway or (empty_is_none and value is not None) else None
        problem = f"DATABRICKS_GATEWAY_HOST: {shown(value)} still holds the template's placeholder"
    except SettingError as error:
        problem = str(error)
    warn(f"{problem}; passed over.")
    return None


def warn(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr, flush=True)


def unreachable(url: str, timeout: float = 2.0) -> str:
    """Ask for an HTTP answer, any one, without a token and without following a redirect.

    Arguments:
        url: what to ask for.
        timeout: seconds for everything: name look-up, each address, TLS and the answer's first
            line.

    Returns:
        "" when one came; else why not.
    """
    import requests

    def ask() -> None:
        # An auth of our own keeps requests from sending what ~/.netrc holds for that host.
        requests.get(
            url, timeout=timeout, allow_redirects=False, stream=True, auth=lambda request: request
        ).close()

    try:
        in_time(ask, timeout)
    except (requests.Timeout, TimeoutError):
        return f"timed out after {timeout:g} s"
    except (OSError, ValueError) as error:  # requests' own errors are OSErrors
        return why_unreachable(error)
    return ""


def in_time(work: Callable[[], T], seconds: float) -> T:
    """Do something that may take for ever: requests' own time-outs count anew for each address and
    each byte.

    Arguments:
        work: is left alone, in a thread, when its time is over; else its result is returned, or its
            error raised.
        seconds: for all of it.

    Raises:
        TimeoutError: when its time is over.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # for whoever waits
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not wait([future], seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return future.result()


def why_unreachable(error: Exception) -> str:
    """Say in a few words why no HTTP answer came, from what requests raised: `timed out`, or `DNS`,
    `TLS`, `proxy` or `connection` with the innermost message.
    """
    import requests

    if isinstance(error, (requests.Timeout, TimeoutError)):
        return "timed out"
    inner: BaseException = error
    while isinstance(
        cause := getattr(inner, "reason", None) or [None, *inner.args][-1], BaseException
    ):
        inner = cause
    said = re.sub(r"^.*?: (?=\[)|\[[^]]*\] ?| \(_ssl\.c:\d+\)", "", str(inner)).strip()
    unknown = "resolve" in said
    detail = "no such host" if unknown else said or type(inner).__name__
    if isinstance(error, requests.exceptions.ProxyError):
        return f"proxy: {detail}"
    if isinstance(error, requests.exceptions.SSLError):
        return f"TLS: {detail}"
    return f"{'DNS' if unknown else 'connection'}: {detail}"


def brief_error(error: BaseException) -> str:
    """An error's message on one short line, without the settings that databricks-sdk adds."""
    said = " ".join(str(error).split(". Config:")[0].split())
    return said[:240].removesuffix(".") or type(error).__name__


def as_dict(value: object) -> dict[str, Any]:
    """A mapping; anything else is an empty one."""
    return value if isinstance(value, dict) else {}


def as_json(body: bytes) -> dict[str, Any]:
    """A body as a JSON object; {} where it is none."""
    try:
        return as_dict(json.loads(body.decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        return {}


def shown(value: str) -> str:
    """A setting's value for a message: short, without user info, a query, which may hold a key, or
    anything that looks like a token.
    """
    hidden = r"^.*@|(dapi|eyJ)[\w.-]*|(?<=\?).*"
    return repr(re.sub(hidden, "***", value.strip(), flags=re.DOTALL)[:100])
