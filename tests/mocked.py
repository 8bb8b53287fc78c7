"""What the tests of the setup share: routes that are mocked, and the config as the design has it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests
import responses
import yaml

from hermes.merge import Config, Memory, merge_config, url_of
from hermes.routes import Place, Routes
from hermes.settings import HermesSettings
from hermes.trust import DIRECT as DIRECT_NAME
from hermes.trust import GATEWAY, SECOND, is_our_name
from tests.hosts import AZURE, AZURE_GATEWAY

HOST, TOKEN = f"https://{AZURE}", "dapi0123456789abcdef"


OPENAI, MLFLOW = f"{AZURE_GATEWAY}/openai", f"{AZURE_GATEWAY}/mlflow/v1"


OWN, DIRECT = f"{HOST}/ai-gateway/mlflow/v1", f"{HOST}/serving-endpoints"


ROUTES = [OPENAI, MLFLOW, OWN, DIRECT]


OPUS_4_7, OPUS_4_6 = "databricks-claude-opus-4-7", "databricks-claude-opus-4-6"


EVENT = 'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\n\n'
NOT_FOUND = (
    404,
    {"error_code": "ENDPOINT_NOT_FOUND", "message": "The given endpoint does not exist."},
)


FORBIDDEN = (403, {"error_code": "403", "message": "Invalid access token."})


def config_of(home: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((home / ".hermes" / "config.yaml").read_text())
    return loaded


def serve(*served: tuple[str, str], otherwise: tuple[int, object] = NOT_FOUND) -> None:
    """Mock all four routes: these (base URL, model) pairs are served."""

    def answer(request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        body = yaml.safe_load(request.body or "")
        assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
        base_url = str(request.url).removesuffix("/chat/completions")
        if (base_url, body["model"]) in served:
            return 200, {}, EVENT
        return otherwise[0], {}, json.dumps(otherwise[1])

    for url in ROUTES:
        responses.add_callback("POST", f"{url}/chat/completions", callback=answer)
    listed = [
        {"name": OPUS_4_6, "task": "llm/v1/chat", "state": {"ready": "READY"}},
        {"name": "not-chat", "task": "llm/v1/embeddings"},
    ]
    responses.get(f"{HOST}/api/2.0/serving-endpoints", json={"endpoints": listed})
    for path in ("2.0/serving-endpoints:foundation-models", "2.1/unity-catalog/model-services"):
        responses.get(f"{HOST}/api/{path}", status=404)


def routes_at(
    primary: str,
    fallback: str,
    direct: bool = True,
    models: tuple[str, ...] = (),
    model: str = OPUS_4_7,
    fallback_model: str = OPUS_4_6,
    host: str = HOST,
) -> Routes:
    """Both models at these base URLs, and the fallback on direct serving too."""
    last = Place(f"{host}/serving-endpoints", fallback_model) if direct else None
    listed = dict.fromkeys(ROUTES, dict.fromkeys(models, 0)) if models else {}
    return Routes(Place(primary, model), Place(fallback, fallback_model), last, listed)


def settings_for(home: Path, **more: Any) -> HermesSettings:
    base = HermesSettings(
        home=home,
        host=HOST,
        token=TOKEN,
        gateway=AZURE_GATEWAY,
        model=OPUS_4_7,
        fallback_model=OPUS_4_6,
        prove=True,
        package="hermes-agent",
        mcp_servers={},
    )
    return replace(base, **more)


DESIGN = f"""\
model:
  default: {OPUS_4_7}
  provider: custom
  base_url: {OPENAI}
  api_key: {TOKEN}
custom_providers:
- name: databricks-gateway
  base_url: {OPENAI}
  api_key: {TOKEN}
- name: databricks-direct
  base_url: {DIRECT}
  api_key: {TOKEN}
fallback_providers:
- provider: custom:databricks-gateway
  model: {OPUS_4_7}
- provider: custom:databricks-gateway
  model: {OPUS_4_6}
- provider: custom:databricks-direct
  model: {OPUS_4_6}
security:
  allow_lazy_installs: false
  tirith_path: ~/.local/bin/tirith
"""


OURS = (GATEWAY, DIRECT_NAME, SECOND)


def merged(existing: Config, settings: HermesSettings, routes: Routes) -> Config:
    """What setup makes of a config, without what it has to remember."""
    return merge_config(existing, settings, routes, Memory())[0]


def is_ours(entry: dict[str, Any]) -> bool:
    """Whether a provider has one of our names and a route of this workspace."""
    return is_our_name(entry["name"]) and url_of(entry) in ROUTES


def config_without_ours(config: dict[str, Any]) -> dict[str, Any]:
    rest = {k: v for k, v in config.items() if k != "model"}
    rest["custom_providers"] = [p for p in config["custom_providers"] if not is_ours(p)]
    ours = {f"custom:{name}" for name in OURS}
    rest["fallback_providers"] = [
        e for e in config["fallback_providers"] if e["provider"] not in ours
    ]
    return rest
