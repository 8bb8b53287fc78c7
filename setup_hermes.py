"""Install Hermes Agent and point it at a Databricks route that serves its model.

    python setup_hermes.py            installs, resolves, proves, writes, reports
    python setup_hermes.py --check    proves and reports, writes nothing

Exit codes: 0 done (with --check: the model is served), 1 Hermes cannot work (--check: not served), 2 bad settings.
"""

from __future__ import annotations

import configparser
import contextlib
import copy
import fcntl
import importlib.util
import io
import json
import logging
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

import requests
import yaml

from utils import (
    adapt_instructions_file,
    clean_gateway,
    clean_url,
    ensure_https,
    get_gateway_host,
    unreachable,
    why_unreachable,
)

HERMES = "hermes-agent[mcp]==0.19.0"
MCP = "mcp==1.26.0"  # what that extra pins, for a HERMES_PIP_URL that names no extra
GATEWAY, DIRECT, SECOND = "databricks-gateway", "databricks-direct", "databricks-fallback"
OURS = (GATEWAY, DIRECT, SECOND)
MCP_DEFAULTS = {
    "deepwiki": ("DEEPWIKI_MCP_URL", "https://mcp.deepwiki.com/mcp"),
    "exa": ("EXA_MCP_URL", "https://mcp.exa.ai/mcp"),
}
CONNECT_TIMEOUT, READ_TIMEOUT = 2.0, 20.0  # seconds

Config = dict[str, Any]


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


@dataclass(frozen=True)
class Answer:
    """What one route said about one model. `serves` is None where nothing was learnt (no answer, an odd status)."""

    model: str
    base_url: str
    answer: str
    meaning: str
    serves: bool | None


# --- 1. Settings ----------------------------------------------------------------------------------------------------------


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


# --- 2. Install -----------------------------------------------------------------------------------------------------------


def _install_hermes(home: Path, package: str) -> bool:
    """Install Hermes in an environment of its own, unless it is there."""
    binary = home / ".local" / "bin" / "hermes"
    if binary.exists():
        print(f"Hermes:    {binary}")
        return True
    uv = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else [shutil.which("uv") or ""]
    if not uv[-1]:
        print("Hermes cannot be installed: uv is missing; `pip install uv` brings it.", file=sys.stderr)
        return False
    print(f"Hermes:    installing {package} ...", flush=True)
    command = [*uv, "tool", "install", "--quiet", "--force", package, "--with", MCP]
    env = os.environ | {"HOME": str(home), "UV_TOOL_BIN_DIR": str(binary.parent)}
    done = subprocess.run(command, env=env, check=False)
    if done.returncode != 0 or not binary.exists():
        print(f"Hermes could not be installed (uv ended with {done.returncode}); uv's own words are above.", file=sys.stderr)
        return False
    print(f"Hermes:    {binary}")
    return True


# --- 3. Routes ------------------------------------------------------------------------------------------------------------


def candidate_routes(host: str, gateway: str) -> list[str]:
    """The base URLs that may serve a model, best first. This is the one place that knows their order.

    Arguments:
        host: the workspace's URL.
        gateway: the AI Gateway's, or "".

    Returns:
        Base URLs to which an OpenAI client appends `/chat/completions`.
    """
    on_gateway = [f"{gateway}/openai", f"{gateway}/mlflow/v1"] if gateway else []
    return [*on_gateway, f"{host}/ai-gateway/mlflow/v1", direct_route(host)]


def direct_route(host: str) -> str:
    """The base URL of a workspace's direct serving endpoints."""
    return f"{host}/serving-endpoints"


class Prover:
    """Asks routes for models with the user's own token, each question once, and keeps what they said.

    Arguments:
        token: sent to these routes only.
    """

    def __init__(self, token: str) -> None:
        self.answers: list[Answer] = []
        self._dead: dict[str, str] = {}
        self._session = requests.Session()
        self._token = token

    def serves(self, base_url: str, model: str) -> bool | None:
        """Ask one route for a chat completion of one token.

        Arguments:
            base_url: the route.
            model: the model.

        Returns:
            True or False; None where nothing was learnt.
        """
        known = next((a for a in self.answers if (a.base_url, a.model) == (base_url, model)), None)
        if known is None:
            known = Answer(model, base_url, *self._ask(base_url, model))
            self.answers.append(known)
        return known.serves

    def first(self, base_urls: list[str], model: str) -> str:
        """The first of these routes that serves the model, or ""."""
        return next((url for url in base_urls if self.serves(url, model)), "")

    def chat_models(self, host: str) -> list[str]:
        """The chat models on the workspace's direct serving endpoints; [] where the list cannot be read."""
        try:
            response = self._send("GET", f"{host}/api/2.0/serving-endpoints")
            listed = response.json()["endpoints"] if response.ok else []
            return sorted(e["name"] for e in listed if e.get("task") == "llm/v1/chat" and e["state"]["ready"] == "READY")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return []

    def _send(self, method: str, url: str, body: dict[str, object] | None = None) -> requests.Response:
        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            # As an auth of ours, or ~/.netrc would replace the header.
            request.headers["Authorization"] = f"Bearer {self._token}"
            return request

        return self._session.request(
            method,
            url,
            json=body,
            auth=authorize,
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            allow_redirects=False,
            proxies={"http": cast(str, None)},  # plain http is for this machine alone, and a proxy may be elsewhere
        )

    def _ask(self, base_url: str, model: str) -> tuple[str, str, bool | None]:
        server = urlsplit(base_url).netloc
        if server in self._dead:
            return "-", f"not asked again: {self._dead[server]}", None
        question = {"model": model, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
        try:
            response = self._send("POST", f"{base_url}/chat/completions", question)
        except (OSError, ValueError) as error:  # requests' own errors are OSErrors
            self._dead[server] = why_unreachable(error)
            return "-", self._dead[server], None
        return f"HTTP {response.status_code}", *_explain(response, self._token)


def _explain(response: requests.Response, token: str) -> tuple[str, bool | None]:
    """Read what an answer to a chat completion says about the model."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    nested = body.get("error")
    message = body.get("message") or (nested.get("message") if isinstance(nested, dict) else nested) or response.text or ""
    if response.status_code < 300 and body.get("choices") is not None:
        return "serves the model", True
    if response.status_code == 429:
        return "serves the model (busy now: rate limited)", True
    if body.get("error_code") == "FEATURE_DISABLED":
        return "AI Gateway is not enabled for this workspace", False
    if response.status_code == 404:
        return "not served here", False
    if response.status_code in (401, 403):
        return "token rejected or not permitted", None
    printable = "".join(c if c.isprintable() else " " for c in str(message).replace(token, "***"))
    return " ".join(printable.split())[:120] or "no message", None


@dataclass(frozen=True)
class Routes:
    """Base URLs of the primary and the fallback model, and whether direct serving is worth a last try."""

    primary: str
    fallback: str
    direct: bool = True


def choose_routes(settings: Settings, prover: Prover | None) -> Routes:
    """Decide where Hermes will find its two models.

    Arguments:
        settings: checked settings with a host.
        prover: asks the routes; None writes the defaults unasked.

    Returns:
        The first route that serves each model; the default where none was proved.
    """
    urls = candidate_routes(settings.host, settings.gateway)
    default = urls[0] if settings.gateway else urls[-1]
    if prover is None:
        return Routes(default, default)
    primary = prover.first(urls, settings.model) or default
    # The primary's own route goes first: then one provider does for both models.
    fallback = prover.first([primary, *urls], settings.fallback_model) or primary
    return Routes(primary, fallback, prover.serves(direct_route(settings.host), settings.fallback_model) is not False)


# --- 4. Config ------------------------------------------------------------------------------------------------------------


def merge_config(existing: Config, settings: Settings, routes: Routes, written: Config | None = None) -> Config:
    """Put our model, providers and fallback chain into a Hermes config.

    Arguments:
        existing: the config as read; not changed.
        settings: checked settings with a token.
        routes: where the models are.
        written: `fallback_providers` and `mcp_servers` as an earlier setup wrote them: these are ours to replace.

    Returns:
        A new config: the user's keys in their order, ours replaced where they stand, else added at the end.
    """
    config, written = copy.deepcopy(existing), written or {}
    urls, block = _ours(settings, routes)
    here = [*candidate_routes(settings.host, settings.gateway), *urls.values()]

    old_model = config["model"] if isinstance(config.get("model"), dict) else {}
    ours = {"default": settings.model, "provider": "custom", "base_url": routes.primary, "api_key": settings.token}
    if old_model.get("base_url") not in here:
        old_model.pop("api_mode", None)  # another vendor's protocol
    config["model"] = {**old_model, **ours}

    def stale(entry: object) -> bool:
        """An inline key of an older setup: Hermes reads such a key once per process, so it outlives its rotation."""
        models = [settings.model, settings.fallback_model, old_model.get("default")]
        is_ours = isinstance(entry, dict) and "api_key" in entry and entry.get("model") in models
        return is_ours and str(cast(Config, entry).get("base_url")).rstrip("/") in here

    replaced = [*block, *_list(written.get("fallback_providers"))]
    theirs = [e for e in _list(config.get("fallback_providers")) if e not in replaced and not stale(e)]
    wanted = {name: {"name": name, "base_url": url, "api_key": settings.token} for name, url in urls.items()}
    # A provider of ours stays, with a fresh key, while an entry of the user's names it.
    named = [e.get("provider") for e in theirs if isinstance(e, dict)]
    providers = []
    for entry in _list(config.get("custom_providers")):
        name = entry.get("name") if isinstance(entry, dict) else None
        if name not in OURS:
            providers.append(entry)
        elif name in wanted or f"custom:{name}" in named:
            providers.append({**entry, "api_key": settings.token, **wanted.pop(name, {})})
    config["custom_providers"] = providers + list(wanted.values())
    # `hermes doctor --fix` moves the list into this mapping, which Hermes reads first.
    if isinstance(migrated := config.get("providers"), dict) and any(name in migrated for name in OURS):
        config["providers"] = {k: v for k, v in migrated.items() if k not in OURS}
    config["fallback_providers"] = block + theirs

    # Hermes then fetches neither packages nor the newest build of its command scanner while it runs.
    _fill(config, "security", {"allow_lazy_installs": False, "tirith_path": "~/.local/bin/tirith"})
    if isinstance(servers := config.get("mcp_servers"), dict):
        # What CODA's own setup wrote before us counts as ours.
        before = written.get("mcp_servers", {name: {"url": url} for name, (_, url) in MCP_DEFAULTS.items()})
        config["mcp_servers"] = {name: entry for name, entry in servers.items() if before.get(name, ...) != entry}
    _fill(config, "mcp_servers", _servers(settings))
    skills = settings.home / ".claude" / "skills"
    if skills.is_dir():
        _fill(config, "skills", {"external_dirs": [str(skills)]})
    return config


def _ours(settings: Settings, routes: Routes) -> tuple[dict[str, str], list[Config]]:
    """Our providers, URL by name, and our entries of the fallback chain."""
    direct = direct_route(settings.host)
    names = {routes.fallback: SECOND, routes.primary: GATEWAY, direct: DIRECT}
    chain = [(routes.primary, settings.model), (routes.fallback, settings.fallback_model)]
    if routes.direct:
        chain.append((direct, settings.fallback_model))
    entries = [{"provider": f"custom:{names[url]}", "model": model} for url, model in dict.fromkeys(chain)]
    return {names[url]: url for url, _ in chain}, entries


def _servers(settings: Settings) -> Config:
    return {name: {"url": url} for name, url in settings.mcp_servers.items() if url}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []


def _fill(config: Config, key: str, defaults: Config) -> None:
    """Add what the user has not set; a section of another type than a mapping is the user's own affair."""
    section = config.get(key)
    if defaults and (section is None or isinstance(section, dict)):
        config[key] = {**(section or {}), **{k: v for k, v in defaults.items() if k not in (section or {})}}


def dump(config: object) -> str:
    """YAML in block style: keys of `model` and of list entries stand two spaces deep, where CODA's token rotator looks."""
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=False, width=2**20)


def _render(text: str, old: Config, new: Config) -> str:
    """Write a changed config, keeping the text, comments included, of each top-level block that stays as it is."""
    # Dumps are compared, not values: a few aliases can stand for more than can be compared, or for themselves.
    if dump(old) == dump(new) and _keys_in_reach(text):
        return text
    if not old:
        comments_only = all(line.lstrip().startswith("#") or not line.strip() for line in text.splitlines())
        return (text if comments_only else "") + dump(new)
    try:
        starts = [key.start_mark.index for key, _ in _compose(text).value]
        if len(starts) != len(old):
            return dump(new)
        result = text[: starts[0]]
        for key, start, end in zip(old, starts, [*starts[1:], len(text)], strict=True):
            block = text[start:end]
            comments = re.search(r"(?:^(?:#.*)?\r?\n)*\Z", block, re.MULTILINE)
            if dump(old[key]) != dump(new[key]) or not _keys_in_reach(block):
                block = dump({key: new[key]}) + (comments[0] if comments else "")
            result += block
        added = {key: value for key, value in new.items() if key not in old}
        result += ("" if result.endswith("\n") else "\n") + (dump(added) if added else "")
        return result if dump(yaml.safe_load(result)) == dump(new) else dump(new)
    except (yaml.YAMLError, ValueError):
        return dump(new)


def _keys_in_reach(text: str) -> bool:
    """Whether each of our keys in a text stands where CODA's rotator looks; Hermes itself indents lists deeper."""
    try:
        return all(text[: key.start_mark.index].rpartition("\n")[2] == "  api_key: " for key in _our_keys(_compose(text)))
    except (yaml.YAMLError, ValueError):
        return True


def _parse_config(raw: bytes) -> tuple[Config, str]:
    """Read a config's bytes: what it means and "", or what can be kept of it and what is wrong."""
    try:
        config = yaml.safe_load(raw.decode())
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        return {}, f"is not valid YAML ({' '.join(str(error).split())[:120]})"
    if config is None:
        return {}, ""
    if not isinstance(config, dict):
        return {}, f"holds a {type(config).__name__}, not a mapping"
    for key, kinds in (("model", (dict, str)), ("custom_providers", list), ("fallback_providers", (list, dict))):
        if config.get(key) is not None and not isinstance(config[key], kinds):
            return config, f"has a {key} that Hermes does not understand"
    return config, ""


def write_config(path: Path, settings: Settings, routes: Routes) -> str:
    """Bring Hermes's config up to date.

    Arguments:
        path: the file; a symlink is followed.
        settings: checked settings with a token.
        routes: where the models are.

    Returns:
        What was done, in a few words.

    Raises:
        OSError: when it cannot be written; then the old file is there as it was.
    """
    with _locked(path) as memory:
        raw = path.read_bytes() if path.exists() else b""
        existing, problem = _parse_config(raw)
        written = _recall(memory)
        text = raw.decode() if not problem else ""
        if written and not problem:
            # The keys first, in place: after a mere rotation nothing else changes.
            text = _with_key(text, settings.token)
            existing, problem = _parse_config(text.encode())
        foreign = bool(existing) and not (written and _our_keys(_compose(text)))
        merged = merge_config(existing, settings, routes, written)
        text = dump(merged) if problem else _render(text, existing, merged)
        note = ""
        if text.encode() != raw:
            if problem or foreign:
                kept = path.with_name(f"{path.name}.{datetime.now(UTC):%Y-%m-%dT%H%M%S.%f}.bak")
                _write_atomically(kept, raw)
                note = f"; the old one {problem or 'was not ours'}, kept as {kept.name}"
            _write_atomically(path, text.encode())
        path.chmod(0o600)
        memory.seek(0)
        memory.truncate()
        json.dump({"fallback_providers": _ours(settings, routes)[1], "mcp_servers": _servers(settings)}, memory)
        return f"written{note}" if text.encode() != raw else "unchanged"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    """Hold the lock on a config file, waiting for whoever holds it; inside, leftovers of a killed writer are gone."""
    real = path.resolve()
    with open(real.with_name(f".{real.name}.setup"), "a+", opener=lambda p, flags: os.open(p, flags, 0o600)) as memory:
        fcntl.flock(memory, fcntl.LOCK_EX)
        for leftover in real.parent.glob(f".{real.name}.*.tmp"):
            leftover.unlink(missing_ok=True)
        yield memory


def _recall(memory: IO[str]) -> Config:
    """What the last setup left in the lock's file; {} where there is nothing that can be read."""
    memory.seek(0)
    try:
        written = json.load(memory)
    except ValueError:
        return {}
    return written if isinstance(written, dict) else {}


def _write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content: at any moment the old or the new is there, whole, and the new is for its owner alone."""
    real = path.resolve()
    handle, name = tempfile.mkstemp(prefix=f".{real.name}.", suffix=".tmp", dir=real.parent)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, real)
    except BaseException:
        os.unlink(name)
        raise
    folder = os.open(real.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def refresh_token(config_path: Path, token: str) -> bool:
    """Replace the key of exactly our entries in Hermes's config; every other byte stays.

    Arguments:
        config_path: the file; a symlink is followed.
        token: the new key.

    Returns:
        True when something changed; False where all was up to date, or there is no config of ours to change.

    Raises:
        OSError: when it cannot be written; then the old file is there as it was.
    """
    if not config_path.exists():
        return False
    with _locked(config_path):
        raw = config_path.read_bytes()
        if _parse_config(raw)[1]:
            return False
        text = _with_key(raw.decode(), token)
        if text.encode() == raw:
            return False
        _write_atomically(config_path, text.encode())
        return True


def _with_key(text: str, token: str) -> str:
    """Replace our keys in a text; all else stays, but YAML too odd for that (anchors, lines) is written anew, as it means."""
    tree = _compose(text)
    keys = _our_keys(tree)
    scalar, spliced = dump([token])[2:].rstrip("\n"), text
    for key in sorted(keys, key=lambda node: -node.start_mark.index):
        if key.value != token:
            spliced = spliced[: key.start_mark.index] + scalar + spliced[key.end_mark.index :]
        key.tag, key.value, key.style = "tag:yaml.org,2002:str", token, None
    if spliced == text:
        return text
    anew = yaml.serialize(tree, Dumper=yaml.SafeDumper, allow_unicode=True, width=2**20)
    try:
        return spliced if dump(yaml.safe_load(spliced)) == dump(yaml.safe_load(anew)) else anew
    except yaml.YAMLError:
        return anew


def _compose(text: str) -> yaml.Node:
    """The node tree, from PyYAML's own loader: its marks count characters."""
    return cast(yaml.Node, yaml.compose(text, Loader=yaml.SafeLoader))


def _our_keys(tree: yaml.Node) -> set[yaml.ScalarNode]:
    """The nodes of the `api_key` values that are ours: those of our providers, and the model's if it uses one of them."""

    def fields(node: yaml.Node | None) -> dict[str, yaml.Node]:
        return {k.value: v for k, v in node.value if k.id == "scalar"} if isinstance(node, yaml.MappingNode) else {}

    top = fields(tree)
    listed = top.get("custom_providers")
    entries = [fields(e) for e in listed.value] if isinstance(listed, yaml.SequenceNode) else []
    ours = [e for e in entries if "name" in e and e["name"].value in OURS]
    ours += [fields(entry) for name, entry in fields(top.get("providers")).items() if name in OURS]
    urls = [e[key].value for e in ours for key in ("base_url", "api", "url") if key in e]
    model = fields(top.get("model"))
    if "base_url" in model and model["base_url"].value in urls:
        ours.append(model)
    keys = {e.get("api_key") for e in ours}
    return {key for key in keys if isinstance(key, yaml.ScalarNode)}


# --- 5. Report ------------------------------------------------------------------------------------------------------------


def _verdict(settings: Settings, prover: Prover) -> str:
    """Say why the primary model was proved nowhere, and what to do."""
    answers = [a for a in prover.answers if a.model == settings.model]
    if any(a.answer in ("HTTP 401", "HTTP 403") for a in answers):
        return "The token was rejected, or may not use this model: check DATABRICKS_TOKEN, or ask for CAN QUERY on it."
    if all(a.answer == "-" for a in answers):
        return f"Nothing answered ({answers[0].meaning}): check DATABRICKS_HOST and the network, then run this again."
    if any(a.serves is None for a in answers):
        return f"No route gave {settings.model} a clear yes: the answers above say why."
    models = [model for model in prover.chat_models(settings.host) if model != settings.model]
    found = f"This workspace serves {', '.join(models)}: set HERMES_MODEL to one of them." if models else ""
    return f"{settings.model} is served on none of these routes. {found or 'Set HERMES_MODEL to a model that is.'}"


def _table(settings: Settings, answers: list[Answer]) -> str:
    """The answers as aligned columns: model, route, answer, what it means; two lines above say where the routes begin."""
    bases = {name: url for name, url in (("gateway", settings.gateway), ("workspace", settings.host)) if url}

    def short(url: str) -> str:
        return next(f"{name} {url.removeprefix(base)}" for name, base in bases.items() if url.startswith(f"{base}/"))

    rows = [("MODEL", "ROUTE", "ANSWER", "MEANING"), *((a.model, short(a.base_url), a.answer, a.meaning) for a in answers)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]) for row in rows]
    return "\n".join([*(f"{name + ':':10} {url}" for name, url in bases.items()), *lines])


def _check(settings: Settings) -> int:
    """Prove the routes and print what they said; writes nothing."""
    if not settings.token:
        print("No Databricks token: set DATABRICKS_TOKEN, or log in with the Databricks CLI.")
        return 1
    prover = Prover(settings.token)
    routes = choose_routes(settings, prover)
    print(_table(settings, prover.answers))
    if prover.serves(routes.primary, settings.model):
        print(f"OK: {settings.model} answers on {routes.primary}.")
        return 0
    print(f"Not served: {_verdict(settings, prover)}")
    return 1


def _answering_servers(servers: dict[str, str]) -> dict[str, str]:
    """Drop the default MCP servers that do not answer: Hermes would wait for them at every start."""
    asked = [name for name, (_, url) in MCP_DEFAULTS.items() if servers.get(name) == url]
    with ThreadPoolExecutor() as pool:
        reasons = dict(zip(asked, pool.map(unreachable, (servers[name] for name in asked)), strict=True))
    gone = {name: why for name, why in reasons.items() if why}
    if gone:
        said = ", ".join(f"{name} ({why})" for name, why in gone.items())
        print(f"MCP:       left out, as they do not answer: {said}")
    return {name: "" if name in gone else url for name, url in servers.items()}


def _prepare_home(home: Path) -> None:
    """Make `~/projects`, and `~/.hermes/HERMES.md` from CODA's CLAUDE.md where there is one and the user has none."""
    source, target = Path(__file__).resolve().parent / "CLAUDE.md", home / ".hermes" / "HERMES.md"
    try:
        (home / "projects").mkdir(exist_ok=True)
        if source.is_file() and not target.exists():
            adapt_instructions_file(source, target, "# Hermes Agent on Databricks", "Hermes")
    except OSError as error:
        print(f"Left out: {error}", file=sys.stderr)  # Hermes works without them


def _setup(settings: Settings) -> int:
    """Install Hermes and write its config."""
    if not _install_hermes(settings.home, settings.package):
        return 1
    (settings.home / ".hermes").mkdir(mode=0o700, exist_ok=True)
    _prepare_home(settings.home)
    if not settings.token:
        print("No Databricks token yet: Hermes is installed, its config follows once a token is there.")
        return 0
    prover = Prover(settings.token) if settings.prove else None
    routes = choose_routes(settings, prover)
    print(f"Gateway:   {settings.gateway or 'none that answers'}")
    for label, model, url in (
        ("Model:   ", settings.model, routes.primary),
        ("Fallback:", settings.fallback_model, routes.fallback),
    ):
        proved = "not asked" if prover is None else "it answered" if prover.serves(url, model) else "NOT PROVED"
        print(f"{label}  {model} on {url} ({proved})")
    settings = replace(settings, mcp_servers=_answering_servers(settings.mcp_servers))
    path = settings.home / ".hermes" / "config.yaml"
    print(f"Config:    {path} {write_config(path, settings, routes)}")
    if prover and not prover.serves(routes.primary, settings.model):
        print(f"{_table(settings, prover.answers)}\nWarning: {_verdict(settings, prover)}", file=sys.stderr)
    return 0


def main(argv: list[str], env: Mapping[str, str]) -> int:
    """Run the program.

    Arguments:
        argv: the arguments: none, or `--check`.
        env: the environment.

    Returns:
        The exit code; see the module's text.
    """
    if argv in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        if argv not in ([], ["--check"]):
            raise SettingError(f"setup_hermes.py: {' '.join(argv)[:100]!r} will not do; expected no argument or --check")
        if not read_flag(env, "ENABLE_HERMES"):
            print("Hermes is turned off (ENABLE_HERMES); nothing was touched.")
            return 0
        settings = read_settings(env)
        return _check(settings) if argv else _setup(settings)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, RuntimeError) as error:  # a loop of symlinks is a RuntimeError to pathlib
        print(f"Hermes setup failed: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    cast(io.TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)  # in step with stderr where both go to one pipe
    sys.exit(main(sys.argv[1:], os.environ))
