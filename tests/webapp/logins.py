"""What the tests of the token and of the page share: a config, and a login that says what it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

HOST = "https://adb-1.2.azuredatabricks.net"


class Login:
    """A login, as far as `keep_token_fresh` knows databricks-sdk's."""

    host = HOST

    def __init__(self, ask: Callable[[], str]) -> None:
        self.ask = ask

    def authenticate(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.ask()}"}


def write_config(path: Path, base_url: str, key: str = "old") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    model = {"default": "m", "provider": "custom", "base_url": base_url, "api_key": key}
    providers = [{"name": "databricks-gateway", "base_url": base_url, "api_key": key}]
    path.write_text(
        yaml.safe_dump({"model": model, "custom_providers": providers}, sort_keys=False)
    )
