"""What is ours in Hermes's config: the model, its providers and the fallback chain, merged into what the user has.

A provider is ours by its name and its URL: one of our names, and a URL that is a route of this workspace now. Our token goes
into these entries, and into `model` while it uses one of their URLs; it goes nowhere else.
"""

from __future__ import annotations

import copy
import itertools
import re
from typing import Any

from hermes.routes import Place, Routes, candidate_routes, direct_route
from hermes.settings import MCP_DEFAULTS, HermesSettings
from hermes.urls import as_dict, cloud_of

GATEWAY, DIRECT, SECOND = "databricks-gateway", "databricks-direct", "databricks-fallback"
_NAMES = re.compile(f"({GATEWAY}|{DIRECT}|{SECOND})(-[0-9]+)?")
# What `hermes doctor --fix` calls a list entry's fields.
_MIGRATED = {
    "api": "base_url",
    "url": "base_url",
    "default_model": "model",
    "transport": "api_mode",
}

Config = dict[str, Any]


def merge_config(
    existing: Config, settings: HermesSettings, routes: Routes, written: Config | None = None
) -> tuple[Config, Config]:
    """Put our model, providers and fallback chain into a Hermes config.

    Arguments:
        existing: the config as read; not changed.
        settings: checked settings with a token.
        routes: where the models are.
        written: what an earlier setup had to remember: this is ours to replace.

    Returns:
        A new config, the user's keys in their order, ours replaced where they stand, else added at the end; and what the
        next setup has to remember.
    """
    config, written = copy.deepcopy(existing), written or {}
    here = routes_here(settings, routes, written)
    last, lists = as_dict(written.get("providers")), as_dict(written.get("models"))

    old_model = as_dict(config.get("model"))
    if model_url(config) not in here:
        old_model.pop("api_mode", None)  # another vendor's protocol
    model = {
        "default": routes.primary.model,
        "provider": "custom",
        "base_url": routes.primary.base_url,
        "api_key": settings.token,
    }
    config["model"] = {**old_model, **model}

    def stale(entry: object) -> bool:
        """An inline key of an older setup: Hermes reads such a key once per process, so it outlives its rotation."""
        models = [routes.primary.model, routes.fallback.model, old_model.get("default")]
        return (
            isinstance(entry, dict)
            and "api_key" in entry
            and entry.get("model") in models
            and url_of(entry) in here
        )

    def ours_now(entry: object) -> bool:
        return is_our_name(name_of(entry)) and url_of(entry) in here

    def last_time(entry: object) -> bool:
        return is_our_name(name_of(entry)) and url_of(entry) == last.get(name_of(entry))

    # `hermes doctor --fix` moves the list into this mapping, which Hermes reads first.
    mapping = as_dict(config.get("providers"))
    known = {name: {"name": name, **as_dict(entry)} for name, entry in mapping.items()}
    if moved := {
        name: entry for name, entry in known.items() if ours_now(entry) or last_time(entry)
    }:
        mapping = config["providers"] = {
            name: entry for name, entry in mapping.items() if name not in moved
        }
    entries = [
        {_MIGRATED.get(key, key): value for key, value in e.items()}
        if ours_now(e) or last_time(e)
        else e
        for e in [*as_list(config.get("custom_providers")), *moved.values()]
    ]

    earlier = as_list(written.get("fallback_providers"))
    theirs = [
        e for e in as_list(config.get("fallback_providers")) if e not in earlier and not stale(e)
    ]
    named = [e.get("provider") for e in theirs if isinstance(e, dict)]

    # Where the user has an entry with one of our names, ours takes another.
    gone = [e for e in entries if last_time(e) and f"custom:{name_of(e)}" not in named]
    others = [
        as_dict(e) for e in [*entries, *mapping.values()] if e not in gone and not ours_now(e)
    ]
    taken = [*mapping, *(e.get(key) for e in others for key in ("name", "provider_key"))]
    # As Hermes compares them. Source: hermes_cli.runtime_provider of hermes-agent 0.19.0
    names = _names(
        settings, routes, {str(name).strip().lower().replace(" ", "-") for name in taken}
    )
    wanted = {
        name: {"name": name, "base_url": url, "api_key": settings.token}
        for url, name in names.items()
    }
    models = {name: _models(routes, url) for url, name in names.items() if routes.models}
    providers = []
    for entry in entries:
        if name_of(entry) in wanted and ours_now(entry):
            if entry.get("models") == lists.get(name_of(entry)):  # the last setup's list, or none
                entry = {k: v for k, v in entry.items() if k not in ("models", "discover_models")}
            providers.append({**entry, **wanted.pop(name_of(entry))})
        elif ours_now(entry) and f"custom:{name_of(entry)}" in named:
            providers.append({**entry, "api_key": settings.token})
        elif not ours_now(entry) and entry not in gone:
            providers.append(entry)
    config["custom_providers"] = providers + list(wanted.values())
    for entry in config["custom_providers"]:
        if ours_now(entry) and "models" not in entry and name_of(entry) in models:
            entry |= {"models": models[entry["name"]], "discover_models": False}
    chain = _chain(routes)
    block = [{"provider": f"custom:{names[p.base_url]}", "model": p.model} for p in chain]
    config["fallback_providers"] = block + [e for e in theirs if e not in block]
    if any(
        map(stale, as_list(config.get("fallback_model")))
    ):  # an older word, which Hermes still reads
        config["fallback_model"] = [e for e in as_list(config["fallback_model"]) if not stale(e)]

    # Hermes then fetches neither packages nor the newest build of its command scanner while it runs.
    _fill(config, "security", {"allow_lazy_installs": False, "tirith_path": "~/.local/bin/tirith"})
    servers = {name: {"url": url} for name, url in settings.mcp_servers.items() if url}
    if isinstance(there := config.get("mcp_servers"), dict):
        before = as_dict(written.get("mcp_servers"))

        def replaced(name: str, entry: object) -> bool:
            """What the last setup wrote, and what CODA's own wrote (with a time-out) for a server that is left out now."""
            default = {"url": MCP_DEFAULTS[name][1]} if name in MCP_DEFAULTS else ...
            bare = (
                {k: v for k, v in entry.items() if k != "timeout"}
                if isinstance(entry, dict)
                else entry
            )
            return entry == before.get(name, ...) or (
                bare == default and servers.get(name) != default
            )

        config["mcp_servers"] = {
            name: entry for name, entry in there.items() if not replaced(name, entry)
        }
    _fill(config, "mcp_servers", servers)
    skills = settings.home / ".claude" / "skills"
    if skills.is_dir():
        _fill(config, "skills", {"external_dirs": [str(skills)]})
    providing = {name_of(e): url_of(e) for e in config["custom_providers"] if ours_now(e)}
    remembered = {
        "host": settings.host,
        "providers": providing,
        "models": models,
        "fallback_providers": block,
    }
    return config, {**remembered, "mcp_servers": servers}


def routes_here(settings: HermesSettings, routes: Routes, written: Config) -> set[str]:
    """The base URLs to which this workspace's token may go. This is the one place that decides it.

    Arguments:
        settings: checked settings.
        routes: where the models are.
        written: what the last setup had to remember: its routes count while they are this workspace's too, as a gateway
            may be out of reach for a while.

    Returns:
        Base URLs.
    """
    here = {
        *candidate_routes(settings.host, settings.gateway),
        routes.primary.base_url,
        routes.fallback.base_url,
    }
    before = (
        as_dict(written.get("providers")).values() if written.get("host") == settings.host else ()
    )
    return here | {
        url for url in before if cloud_of(url) and cloud_of(url) == cloud_of(settings.host)
    }


def name_of(entry: object) -> str:
    """A provider entry's name; "" for what has none."""
    name = entry.get("name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else ""


def is_our_name(name: object) -> bool:
    """Whether setup may have given this name to a provider."""
    return isinstance(name, str) and _NAMES.fullmatch(name) is not None


def url_of(entry: object) -> str:
    """A provider entry's base URL, in whichever form Hermes takes it; "" where there are several: only Hermes knows which."""
    urls = (
        [entry[key] for key in ("base_url", "api", "url") if key in entry]
        if isinstance(entry, dict)
        else []
    )
    return urls[0].rstrip("/") if len(urls) == 1 and isinstance(urls[0], str) else ""


def model_url(config: Config) -> str:
    """The base URL in a config's `model`, where `api` is no URL but an older word for the key."""
    return url_of({"base_url": as_dict(config.get("model")).get("base_url")})


def as_list(value: object) -> list[Any]:
    """A list of entries; one entry by itself, as Hermes takes it too, is a list of one."""
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []


def _chain(routes: Routes) -> list[Place]:
    """Each step of the fallback chain."""
    chain = [routes.primary, routes.fallback, *([routes.direct] if routes.direct else [])]
    return list(dict.fromkeys(chain))


def _names(settings: HermesSettings, routes: Routes, taken: set[str]) -> dict[str, str]:
    """Our providers' names by base URL."""
    names = {
        routes.fallback.base_url: SECOND,
        routes.primary.base_url: GATEWAY,
        direct_route(settings.host): DIRECT,
    }

    def free(name: str) -> str:
        numbered = (f"{name}-{n}" for n in itertools.count(2))
        return next(n for n in itertools.chain([name], numbered) if n not in taken)

    return {place.base_url: free(names[place.base_url]) for place in _chain(routes)}


def _models(routes: Routes, url: str) -> Config:
    """What `/model` offers on a provider: the chat models that it serves, and those that were found there."""
    listed = routes.models.get(url, {})
    found = {place.model for place in _chain(routes) if place.base_url == url}
    windows = {model: listed.get(model, 0) for model in sorted({*listed, *found})}
    return {model: {"context_length": n} if n else {} for model, n in windows.items()}


def _fill(config: Config, key: str, defaults: Config) -> None:
    """Add what the user has not set; a section of another type than a mapping is the user's own affair."""
    section = config.get(key)
    if defaults and (section is None or isinstance(section, dict)):
        config[key] = {
            **(section or {}),
            **{k: v for k, v in defaults.items() if k not in (section or {})},
        }
