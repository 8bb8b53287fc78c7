"""Which model and route Hermes's config names, for the line below the terminal."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from hermes.config import was_proved
from hermes.small_file import is_small_file, read_small_file

# The lines of the key `model`: the rest of the file is a user's, and is not parsed.
BLOCK = re.compile(r"^model:.*\n?(?:(?:[ \t#].*)?\n)*", re.MULTILINE)
LONGEST = 8192  # characters of that block; it has about 200


class Description:
    """What `describe` said last of a config.

    Arguments:
        config: Hermes's.
    """

    def __init__(self, config: Path) -> None:
        self.text = ""
        self._config, self._reading = config, False

    async def refresh(self) -> None:
        """Ask it again, in a thread and once at a time: a file system may take its time."""
        if not self._reading:
            self._reading = True
            try:
                self.text = await asyncio.to_thread(describe, self._config)
            finally:
                self._reading = False


def describe(config: Path) -> str:
    """The model and the route that a config names, in a few words; "" where it does not say."""
    try:
        model = _read_model(read_small_file(config).decode())
        url, name = model["base_url"].rstrip("/"), model["default"]
        named = model.get("provider", "").partition(":")[2]  # as Hermes's dashboard writes it
        host = urlsplit(url).hostname or named or "no route"
    except (OSError, ValueError, LookupError, RecursionError, yaml.YAMLError):
        return ""
    memory = config.with_name(f".{config.name}.setup")
    proved = was_proved(config) if is_small_file(memory) else None
    doubt = "NOT PROVED · " if proved is False else ""
    return f"{doubt}{name} · {_route(url, host)}"


def _route(url: str, host: str) -> str:
    if url.endswith("/serving-endpoints"):
        return "direct"
    if "ai-gateway" in url or url.endswith(("/openai", "/mlflow/v1")):
        return "AI Gateway"
    return host


def _read_model(text: str) -> dict[str, str]:
    """The texts below the key `model`; nodes, since a loader would follow aliases."""
    block = BLOCK.search(text)
    if not block or len(block[0]) > LONGEST:
        return {}
    root = yaml.compose(block[0], Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode) or not isinstance(root.value[0][1], yaml.MappingNode):
        return {}
    pairs = root.value[0][1].value
    return {key.value: value.value for key, value in pairs if value.tag == "tag:yaml.org,2002:str"}
