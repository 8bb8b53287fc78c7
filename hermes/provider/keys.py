"""The key that Hermes's config holds now, for each request to a provider of ours.

Hermes reads a key once a turn at most, so a token that is renewed and revoked within a long turn
would be refused from then on. 0.19.0 goes on with the same model then, once a turn; 0.22.2 goes on
with another one (measured). Asked for with each request, the key is always the one that a token
refresh wrote last; that costs less than 1 ms.
"""

from __future__ import annotations

import re
from typing import Any

# What setup calls its providers.
OUR_NAME = re.compile(r"databricks-(gateway|direct|fallback)(-[0-9]+)?")
_OWN_WAYS = {"key_env", "api_key_env", "key_cmd"}  # by which a user has Hermes find a key


class Unshown(dict[str, str]):
    """Headers that are sent, not shown: a copy, as in Hermes's record of a failure, is empty."""

    def __deepcopy__(self, memo: object) -> dict[str, str]:
        return {}

    def __repr__(self) -> str:
        return "{...}"


def current_headers(base_url: str) -> dict[str, Any]:
    """A request's fields that carry the key for a base URL; {} where Hermes's own stays."""
    from hermes_cli.config import load_config  # type: ignore[import-not-found]

    key = current_key(load_config(), base_url)
    return {"extra_headers": Unshown(Authorization=f"Bearer {key}")} if key else {}


def current_key(config: Any, base_url: str) -> str:
    """The key for a base URL, where our providers alone say which.

    Arguments:
        config: Hermes's.
        base_url: where a request goes.

    Returns:
        "" where no provider of ours has this URL, or where the user has another key for it.
    """
    there = [e for e in _entries(config) if _url(e) == base_url.rstrip("/")]
    if not any(map(_is_ours, there)):
        return ""
    # That of `model` comes first: CODA's rotator reaches it however deep Hermes indents the lists.
    key = there[0].get("api_key")
    clear = isinstance(key, str) and not any(_has_another(entry, key) for entry in there)
    return str(key) if clear else ""


def _entries(config: Any) -> list[dict[str, Any]]:
    """What says where a model is and with which key: `model`, and the providers in both forms."""
    sections = config if isinstance(config, dict) else {}
    listed, mapping = sections.get("custom_providers"), sections.get("providers")
    named = [
        {"name": name, **entry}
        for name, entry in (mapping.items() if isinstance(mapping, dict) else ())
        if isinstance(entry, dict)
    ]
    entries = [sections.get("model"), *(listed if isinstance(listed, list) else []), *named]
    return [entry for entry in entries if isinstance(entry, dict)]


def _is_ours(entry: dict[str, Any]) -> bool:
    return OUR_NAME.fullmatch(str(entry.get("name"))) is not None


def _has_another(entry: dict[str, Any], key: str) -> bool:
    """Whether an entry is the user's with another key, or has its own way to one."""
    theirs = "name" in entry and not _is_ours(entry)
    return bool(_OWN_WAYS & entry.keys()) or (theirs and entry.get("api_key") != key)


def _url(entry: dict[str, Any]) -> str:
    found = (entry.get(key) for key in ("base_url", "api", "url"))
    return next((url.rstrip("/") for url in found if isinstance(url, str)), "")
