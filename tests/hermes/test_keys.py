"""hermes/provider/keys.py: whose key goes with a request."""

from __future__ import annotations

import copy
import sys
import types
from typing import Any

import pytest

from hermes.provider.keys import Unshown, current_headers, current_key
from tests.mocked import DIRECT, OPENAI

OURS = {"name": "databricks-gateway", "base_url": OPENAI, "api_key": "fresh"}
MODEL = {"provider": "custom", "base_url": OPENAI, "api_key": "fresh"}
MINE = {"name": "mine", "base_url": OPENAI, "api_key": "mine"}


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"model": MODEL, "custom_providers": [OURS]}, "fresh"),
        ({"model": MODEL | {"api_key": "newer"}, "custom_providers": [OURS]}, "newer"),
        ({"model": MODEL | {"base_url": DIRECT}, "custom_providers": [OURS]}, "fresh"),
        ({"custom_providers": [OURS]}, "fresh"),
        ({"providers": {"databricks-gateway-2": {"api": f"{OPENAI}/", "api_key": "k"}}}, "k"),
        ({"model": MODEL}, ""),
        ({"custom_providers": [MINE]}, ""),
        ({"custom_providers": [OURS, MINE]}, ""),
        ({"custom_providers": [OURS, MINE | {"api_key": "fresh"}]}, "fresh"),
        ({"custom_providers": [OURS | {"key_cmd": "print-a-key"}]}, ""),
        ({"custom_providers": [OURS | {"key_env": "A_KEY"}]}, ""),
        ({"custom_providers": [OURS | {"base_url": DIRECT}]}, ""),
        ({"custom_providers": [OURS | {"api_key": 5}]}, ""),
        ({"custom_providers": 3, "providers": [], "model": "m"}, ""),
        (None, ""),
    ],
)
def test_the_key_is_the_configs_where_only_ours_say_so(config: Any, key: str) -> None:
    assert current_key(config, OPENAI) == key


def test_a_key_is_asked_of_hermes_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    config = types.ModuleType("hermes_cli.config")
    monkeypatch.setitem(sys.modules, "hermes_cli.config", config)
    for key in ("first", "second"):
        entry = OURS | {"api_key": key}
        monkeypatch.setattr(
            config, "load_config", lambda e=entry: {"custom_providers": [e]}, raising=False
        )
        assert current_headers(OPENAI) == {"extra_headers": {"Authorization": f"Bearer {key}"}}
    assert current_headers(DIRECT) == {}


def test_a_key_is_not_shown() -> None:
    headers = Unshown(Authorization="Bearer secret")
    assert "secret" not in f"{[headers]} {copy.deepcopy([headers])}"
    assert {**headers} == {"Authorization": "Bearer secret"}
