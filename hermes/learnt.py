"""What was learnt of a workspace, in `learnt.json` beside Hermes's plugin: this alone writes it,
the plugin reads it too.

    {"hosts": [...], "max_tokens": 4096, "models": {"<model>": {"<base url>": {...}}},
     "retired": [...], "files": {...}}

`hosts`, `max_tokens` and `models` are the plugin's; see its own text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hermes.config import write_whole
from hermes.routes import Place
from hermes.urls import as_dict, as_json

PLUGIN, LEARNT = ".hermes/plugins/model-providers/databricks", "learnt.json"
Facts = dict[str, Any]  # of one model at one base URL: see the plugin's text


@dataclass(frozen=True)
class Learnt:
    """What is known of a workspace's places, in order of what was learnt.

    `models` are the places that served, with what they take: facts by model and base URL. `retired`
    are base URLs where the names of Databricks' own endpoints are refused for good.
    """

    models: Mapping[str, Mapping[str, Facts]] = field(default_factory=dict)
    retired: Collection[str] = ()

    def served(self, place: Place) -> bool:
        """Whether a place was seen to serve its model."""
        return place.base_url in self.models.get(place.model, {})

    def is_retired(self, place: Place) -> bool:
        """Whether a place was seen to refuse its name for good."""
        return place.is_old_name and any(
            Place(url, place.model).surface == place.surface for url in self.retired
        )

    def facts(self, place: Place) -> Facts:
        """What a place takes: what was learnt there, or else of the model elsewhere."""
        known = self.models.get(place.model, {})
        return dict(known.get(place.base_url) or next(iter(known.values()), {}))


def read_learnt(home: Path) -> Learnt:
    """What an earlier setup learnt; nothing where it cannot be read."""
    state = _read(home)
    models = {
        model: {url: as_dict(facts) for url, facts in as_dict(routes).items()}
        for model, routes in as_dict(state.get("models")).items()
    }
    retired = state.get("retired")
    urls = retired if isinstance(retired, list) else []
    return Learnt(models, [url for url in urls if isinstance(url, str)])


def read_files(home: Path) -> dict[str, Any]:
    """The hashes of the plugin's files as setup last wrote them, by name."""
    return as_dict(_read(home).get("files"))


def write_learnt(
    home: Path, learnt: Learnt, hosts: list[str], cap: int, files: Mapping[str, str]
) -> None:
    """Write what was learnt, where it differs from what is there.

    Arguments:
        home: the plugin's folder is there already.
        learnt: what to write.
        hosts: host names that are Databricks', though the name does not tell.
        cap: the user's own cap on output tokens, which the plugin keeps below the endpoint's; 0 for
            none.
        files: hashes of the plugin's files, by name.

    Raises:
        OSError: where it cannot be written; the old file is there then.
    """
    state = {
        "hosts": hosts,
        "max_tokens": cap,
        "models": learnt.models,
        "retired": sorted(learnt.retired),
        "files": files,
    }
    path, data = home / PLUGIN / LEARNT, json.dumps(state, indent=1).encode()
    if not path.exists() or path.read_bytes() != data:
        write_whole(path, data)


def _read(home: Path) -> dict[str, Any]:
    try:
        return as_json((home / PLUGIN / LEARNT).read_bytes())
    except OSError:
        return {}
