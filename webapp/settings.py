"""What the app is told."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hermes.settings import read_flag, read_home
from hermes.urls import SettingError


@dataclass(frozen=True)
class AppSettings:
    """What the environment asks for, checked."""

    home: Path  # where Hermes and its config live
    name: str  # the app's on Databricks Apps, "" on a laptop
    owner: str  # `APP_OWNER`, or ""
    port: int
    limit: int  # terminals at most
    hermes: bool  # whether it is wanted
    volume: str  # `HERMES_VOLUME`, a folder of a Unity Catalog volume, or ""
    env: dict[str, str] = field(repr=False)  # for the setup, with all its credentials

    @property
    def config(self) -> Path:
        """Hermes's config."""
        return self.home / ".hermes" / "config.yaml"

    @property
    def setup_env(self) -> dict[str, str]:
        """The setup's environment: without the service principal's secret, which any shell could read in its /proc."""
        return {
            k: v
            for k, v in self.env.items()
            if k not in ("DATABRICKS_CLIENT_ID", "DATABRICKS_CLIENT_SECRET")
        }

    @property
    def shell_env(self) -> dict[str, str]:
        """The terminal's environment: without the service principal, whose id alone would only mislead databricks-sdk."""
        env = self.setup_env
        # A question for the cursor's position takes a way over the network that prompt_toolkit does not wait for.
        env |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "PROMPT_TOOLKIT_NO_CPR": "1"}
        env["PATH"] = os.pathsep.join(
            [str(self.home / ".local" / "bin"), env.get("PATH", os.defpath)]
        )
        # The size of whoever started the app: programs would believe it rather than the terminal's own.
        return {"LANG": "C.UTF-8"} | {k: v for k, v in env.items() if k not in ("COLUMNS", "LINES")}


def read_settings(env: Mapping[str, str]) -> AppSettings:
    """Read and check the app's settings.

    Arguments:
        env: the environment.

    Returns:
        The settings.

    Raises:
        SettingError: for the first one that cannot be used.
    """

    def number(name: str, default: int, most: int) -> int:
        text = env.get(name, "").strip() or str(default)
        if not (text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= most):
            raise SettingError(
                f"{name}: {text[:100]!r} is not valid; expected a whole number from 1 to {most}"
            )
        return int(text)

    owner = env.get("APP_OWNER", "").strip()
    if owner and "@" not in owner:
        raise SettingError(f"APP_OWNER: {owner[:100]!r} is not valid; expected an e-mail address")
    given = env.get("HERMES_VOLUME", "").strip()
    volume = given.rstrip("/")
    # Names in Unity Catalog hold no space, slash, dot or control character.
    if given and not re.fullmatch(
        r"/Volumes(/[^\s./\x00-\x1f\x7f]+){3}(/(?!\.\.?(/|$))[^/\x00-\x1f\x7f]+)*", volume
    ):
        expected = "/Volumes/<catalog>/<schema>/<volume>, or a folder below it"
        raise SettingError(f"HERMES_VOLUME: {given[:100]!r} is not valid; expected {expected}")
    home = read_home(env)
    return AppSettings(
        home=home,
        name=env.get("DATABRICKS_APP_NAME", "").strip(),
        owner=owner,
        port=number("DATABRICKS_APP_PORT", 8000, 65535),
        limit=number("MAX_CONCURRENT_SESSIONS", 5, 100),
        hermes=read_flag(env, "ENABLE_HERMES"),
        volume=volume,
        env={**env, "HOME": str(home)},
    )
