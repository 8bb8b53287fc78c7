"""What is ours in Hermes's config, merged into what the user has.

Ours are the model, its providers, the fallback chain and MCP servers. A provider is ours by its
name and its URL, or because the last setup wrote it. `hermes/trust.py` decides where our token
goes; it goes nowhere else.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hermes.routes import Place, Routes, direct_route
from hermes.settings import MCP_DEFAULTS, HermesSettings
from hermes.trust import DIRECT, GATEWAY, SECOND, Trust, trust_of_setup
from hermes.urls import as_dict

# What `hermes doctor --fix` calls a list entry's fields.
_MIGRATED = {
    "api": "base_url",
    "url": "base_url",
    "default_model": "model",
    "transport": "api_mode",
}
PLUGIN = "databricks"  # what Hermes calls our plugin
_LIST = ("models", "discover_models")  # the fields of a provider that say what `/model` offers

Config = dict[str, Any]


@dataclass(frozen=True)
class Memory:
    """What a setup wrote, for the next one to know it again; what is not remembered is empty.

    `providers` are base URLs by provider name, `models` what `/model` offers by provider name.
    """

    host: str = ""
    providers: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, Config] = field(default_factory=dict)
    fallback_providers: list[Config] = field(default_factory=list)
    mcp_servers: Config = field(default_factory=dict)
    proved: bool | None = None

    @classmethod
    def read(cls, written: object) -> Memory:
        """What was written as JSON; whatever is odd in it is left out."""
        kept = as_dict(written)
        providers = as_dict(kept.get("providers"))
        proved, host = kept.get("proved"), kept.get("host")
        return cls(
            host if isinstance(host, str) else "",
            {name: url for name, url in providers.items() if isinstance(url, str)},
            as_dict(kept.get("models")),
            as_list(kept.get("fallback_providers")),
            as_dict(kept.get("mcp_servers")),
            proved if isinstance(proved, bool) else None,
        )


@dataclass(frozen=True)
class Ownership:
    """Which providers of a config are ours."""

    trust: Trust
    last: Mapping[str, str]  # base URLs of the last setup's providers by name
    chain: list[Any]  # the user's own fallback entries

    def now(self, entry: object) -> bool:
        """Whether it has one of our names and a URL of this workspace: then it has our token."""
        return self.trust.is_ours(name_of(entry), url_of(entry))

    def before(self, entry: object) -> bool:
        """Whether the last setup wrote it, maybe for another workspace."""
        return url_of(entry) == self.last.get(name_of(entry))

    def needed(self, entry: object) -> bool:
        """Whether an entry of the user's fallback chain names it."""
        provider = f"custom:{name_of(entry)}"
        return any(as_dict(fallback).get("provider") == provider for fallback in self.chain)

    def stays(self, entry: object) -> bool:
        """Whether it is the user's, or the last setup's for another workspace and still needed."""
        return not self.now(entry) and (self.needed(entry) or not self.before(entry))


def merge_config(
    existing: Config, settings: HermesSettings, routes: Routes, memory: Memory
) -> tuple[Config, Memory]:
    """Put our model, providers, fallback chain and MCP servers into a Hermes config.

    Arguments:
        existing: the config as read; not changed.
        settings: checked settings with a token.
        routes: where the models are.
        memory: what an earlier setup wrote: this is ours to replace.

    Returns:
        A new config, the user's keys in their order, ours replaced where they stand, else added at
        the end; and what the next setup has to remember.
    """
    config = copy.deepcopy(existing)
    trust = trust_of_setup(settings.host, settings.gateway, memory.host, memory.providers.values())
    last_model = as_dict(config.get("model")).get("default")
    models = [settings.model, settings.fallback_model, routes.primary.model, routes.fallback.model]
    _drop_inline_keys(config, [*models, last_model], trust)
    listed = as_list(config.get("fallback_providers"))
    theirs = [entry for entry in listed if entry not in memory.fallback_providers]
    own = Ownership(trust, memory.providers, theirs)

    config["model"] = merge_model(config, settings.token, routes.primary, trust)
    entries = _take_providers(config, own)
    names = _names(settings, routes, _taken(config, entries, own))
    ours = _our_providers(names, settings.token, routes)
    config["custom_providers"] = merge_providers(entries, ours, own, memory.models)
    chain = [
        {"provider": f"custom:{names[place.base_url]}", "model": place.model}
        for place in _places(routes)
    ]
    config["fallback_providers"] = chain + [entry for entry in theirs if entry not in chain]

    # Hermes then fetches neither packages nor its command scanner's newest build as it runs.
    _fill(config, "security", {"allow_lazy_installs": False, "tirith_path": "~/.local/bin/tirith"})
    servers = merge_servers(config, settings.mcp_servers, memory.mcp_servers)
    _allow_plugin(config)
    skills = settings.home / ".claude" / "skills"
    if skills.is_dir():
        _fill(config, "skills", {"external_dirs": [str(skills)]})
    written = {name_of(e): url_of(e) for e in config["custom_providers"] if own.now(e)}
    lists = {name: entry["models"] for name, entry in ours.items() if "models" in entry}
    return config, Memory(settings.host, written, lists, chain, servers)


def merge_model(config: Config, token: str, primary: Place, trust: Trust) -> Config:
    """The `model` section: which model, where and with which key; the rest is the user's."""
    theirs = dict(as_dict(config.get("model")))
    if not trust.allows(model_url(config)):
        theirs.pop("api_mode", None)  # another vendor's protocol
    return {
        **theirs,
        "default": primary.model,
        "provider": "custom",
        "base_url": primary.base_url,
        "api_key": token,
    }


def merge_providers(
    entries: Iterable[Any], ours: Mapping[str, Config], own: Ownership, lists: Mapping[str, Config]
) -> list[Any]:
    """The list of providers: ours are brought up to date where they stand, or added at the end.

    Arguments:
        entries: the list as it was.
        ours: what we want to be in it, by name.
        own: which entries are ours.
        lists: the models that the last setup listed, by provider name.
    """
    missing, merged = dict(ours), list[Any]()
    token = next(iter(ours.values()))["api_key"]
    for entry in entries:
        name = name_of(entry)
        if own.now(entry) and name in missing:
            merged.append(_updated(entry, missing.pop(name), lists.get(name)))
        elif own.now(entry) and own.needed(entry):
            merged.append({**entry, "api_key": token})
        elif own.stays(entry):
            merged.append(entry)
    return [*merged, *missing.values()]


def merge_servers(config: Config, urls: Mapping[str, str], before: Config) -> Config:
    """Bring the MCP servers in a config up to date; the user's stay, the last setup's do not.

    Returns:
        The entries that are ours.
    """
    ours = {name: {"url": url} for name, url in urls.items() if url}
    there, kept = config.get("mcp_servers"), {}
    for name, entry in as_dict(there).items():
        # CODA's setup gives its two servers a time-out; one that is left out now goes.
        bare = {k: v for k, v in as_dict(entry).items() if k != "timeout"}
        codas = name in MCP_DEFAULTS and bare == {"url": MCP_DEFAULTS[name][1]}
        left_out = codas and ours.get(name) != bare
        if entry != before.get(name, ...) and not left_out:
            kept[name] = entry
    if isinstance(there, dict):
        config["mcp_servers"] = kept
    _fill(config, "mcp_servers", ours)
    return ours


def name_of(entry: object) -> str:
    """A provider entry's name; "" for what has none."""
    name = entry.get("name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else ""


def url_of(entry: object) -> str:
    """A provider entry's base URL, in any form that Hermes takes; "" where there are several: only
    Hermes knows which it takes.
    """
    fields = as_dict(entry)
    urls = [fields[key] for key in ("base_url", "api", "url") if key in fields]
    return urls[0].rstrip("/") if len(urls) == 1 and isinstance(urls[0], str) else ""


def model_url(config: Config) -> str:
    """The base URL in a config's `model`, where `api` is no URL but an older word for the key."""
    return url_of({"base_url": as_dict(config.get("model")).get("base_url")})


def as_list(value: object) -> list[Any]:
    """A list of entries; one entry by itself, as Hermes takes it too, is a list of one."""
    if isinstance(value, dict):
        return [value]
    return value if isinstance(value, list) else []


def _drop_inline_keys(config: Config, models: list[Any], trust: Trust) -> None:
    """Drop an older setup's fallback entries with a key in them: Hermes reads those once only."""

    def holds_key(entry: object) -> bool:
        fields = as_dict(entry)
        ours = fields.get("model") in models and trust.allows(url_of(entry))
        return ours and "api_key" in fields

    for key in ("fallback_providers", "fallback_model"):  # the second is an older word for it
        entries = as_list(config.get(key))
        if any(map(holds_key, entries)):
            config[key] = [entry for entry in entries if not holds_key(entry)]


def _take_providers(config: Config, own: Ownership) -> list[Any]:
    """The config's list of providers, and ours of the mapping to which `hermes doctor` moves it.

    Hermes reads that mapping first, so ours are taken out of it.
    """

    def ours(entry: object) -> bool:
        return own.now(entry) or own.before(entry)

    mapping = as_dict(config.get("providers"))
    known = {name: {"name": name, **as_dict(entry)} for name, entry in mapping.items()}
    moved = {name: entry for name, entry in known.items() if ours(entry)}
    if moved:
        config["providers"] = {n: entry for n, entry in mapping.items() if n not in moved}
    listed = [*as_list(config.get("custom_providers")), *moved.values()]
    return [
        {_MIGRATED.get(key, key): value for key, value in entry.items()} if ours(entry) else entry
        for entry in listed
    ]


def _taken(config: Config, entries: Iterable[Any], own: Ownership) -> set[str]:
    """The names of the user's own providers, as Hermes compares them.

    Source: hermes_cli.runtime_provider of hermes-agent 0.19.0.
    """
    mapping = as_dict(config.get("providers"))
    fields = [as_dict(entry) for entry in [*filter(own.stays, entries), *mapping.values()]]
    names = [*mapping, *(e.get(key) for e in fields for key in ("name", "provider_key"))]
    return {str(name).strip().lower().replace(" ", "-") for name in names}


def _names(settings: HermesSettings, routes: Routes, taken: set[str]) -> dict[str, str]:
    """Our providers' names by base URL; another one where the user has a provider of that name."""
    names = {
        routes.fallback.base_url: SECOND,
        routes.primary.base_url: GATEWAY,
        direct_route(settings.host): DIRECT,
    }

    def free(name: str) -> str:
        numbered = (f"{name}-{n}" for n in itertools.count(2))
        return next(n for n in itertools.chain([name], numbered) if n not in taken)

    return {place.base_url: free(names[place.base_url]) for place in _places(routes)}


def _our_providers(names: Mapping[str, str], token: str, routes: Routes) -> dict[str, Config]:
    """The providers that we want, by name."""
    ours: dict[str, Config] = {}
    for url, name in names.items():
        ours[name] = {"name": name, "base_url": url, "api_key": token}
        if routes.models:
            ours[name] |= {"models": _models(routes, url), "discover_models": False}
    return ours


def _updated(entry: Config, ours: Config, last_list: Config | None) -> Config:
    """An entry of ours brought up to date; a list of models that is the user's own stays."""
    if entry.get("models") == last_list:
        return {**{k: v for k, v in entry.items() if k not in _LIST}, **ours}
    return {**entry, **{k: v for k, v in ours.items() if k not in _LIST}}


def _places(routes: Routes) -> list[Place]:
    """Each step of the fallback chain."""
    direct = [routes.direct] if routes.direct else []
    return list(dict.fromkeys([routes.primary, routes.fallback, *direct]))


def _models(routes: Routes, url: str) -> Config:
    """What `/model` offers on a provider: the chat models listed for it, and ours."""
    listed = routes.models.get(url, {})
    found = {place.model for place in _places(routes) if place.base_url == url}
    windows = {model: listed.get(model, 0) for model in sorted({*listed, *found})}
    return {model: {"context_length": n} if n else {} for model, n in windows.items()}


def _allow_plugin(config: Config) -> None:
    """List our plugin where a list says which are allowed, and none says that ours is not."""
    plugins = as_dict(config.get("plugins"))
    allowed, refused = plugins.get("enabled"), plugins.get("disabled")
    refused = refused if isinstance(refused, list) else []
    if isinstance(allowed, list) and PLUGIN not in [*allowed, *refused]:
        config["plugins"] = {**plugins, "enabled": [*allowed, PLUGIN]}


def _fill(config: Config, key: str, defaults: Config) -> None:
    """Add what the user has not set; a section that is no mapping stays as it is."""
    section = config.get(key)
    if defaults and (section is None or isinstance(section, dict)):
        there = section or {}
        missing = {name: value for name, value in defaults.items() if name not in there}
        config[key] = {**there, **missing}
