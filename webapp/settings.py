"""The app's settings, read from the environment and checked."""

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
    env: dict[str, str] = field(repr=False)  # with all its credentials

    @property
    def token(self) -> str:
        """`DATABRICKS_TOKEN`, or ""."""
        return self.env.get("DATABRICKS_TOKEN", "").strip()

    @property
    def logs_in(self) -> bool:
        """Whether databricks-sdk is asked for a token or a host, rather than the environment."""
        given = bool(self.token) and bool(self.env.get("DATABRICKS_HOST", "").strip())
        secret = bool(self.env.get("DATABRICKS_CLIENT_SECRET"))
        return not given or secret or bool(self.volume) or bool(self.name and not self.owner)

    @property
    def config(self) -> Path:
        """Hermes's config."""
        return self.home / ".hermes" / "config.yaml"

    @property
    def setup_env(self) -> dict[str, str]:
        """The setup's environment: without the secret, which any shell could read in /proc."""
        return {
            k: v
            for k, v in self.env.items()
            if k not in ("DATABRICKS_CLIENT_ID", "DATABRICKS_CLIENT_SECRET")
        }

    @property
    def shell_env(self) -> dict[str, str]:
        """A terminal's environment: as the setup's, with what a program asks of a terminal."""
        env = self.setup_env
        # prompt_toolkit does not wait for the cursor's position as long as the network takes.
        env |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "PROMPT_TOOLKIT_NO_CPR": "1"}
        # Hermes waits 0.1 s for the background's colour, and would take a later answer for typed.
        env["COLORFGBG"] = "15;0"
        env["PATH"] = os.pathsep.join(
            [str(self.home / ".local" / "bin"), env.get("PATH", os.defpath)]
        )
        # COLUMNS and LINES are of the terminal that started the app, and would win over this one's.
        return {"LANG": "C.UTF-8"} | {k: v for k, v in env.items() if k not in ("COLUMNS", "LINES")}


def read_settings(env: Mapping[str, str]) -> AppSettings:
    """Read and check the app's settings.

    Raises:
        SettingError: for the first one that is not valid.
    """
    home = read_home(env)
    return AppSettings(
        home=home,
        name=env.get("DATABRICKS_APP_NAME", "").strip(),
        owner=_read_owner(env),
        port=_read_number(env, "DATABRICKS_APP_PORT", 8000, 65535),
        limit=_read_number(env, "MAX_CONCURRENT_SESSIONS", 5, 100),
        hermes=read_flag(env, "ENABLE_HERMES"),
        volume=_read_volume(env),
        env={**env, "HOME": str(home)},
    )


def _read_number(env: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = env.get(name, "").strip() or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= most):
        expected = f"a whole number from 1 to {most}"
        raise SettingError(f"{name}: {text[:100]!r} is not valid; expected {expected}")
    return int(text)


def _read_owner(env: Mapping[str, str]) -> str:
    owner = env.get("APP_OWNER", "").strip()
    if owner and owner.count("@") != 1:
        raise SettingError(f"APP_OWNER: {owner[:100]!r} is not valid; expected one e-mail address")
    return owner


def _read_volume(env: Mapping[str, str]) -> str:
    given = env.get("HERMES_VOLUME", "").strip()
    volume = given.rstrip("/")
    # Names in Unity Catalog hold no space, slash, dot or control character.
    names, folders = r"(/[^\s./\x00-\x1f\x7f]+){3}", r"(/(?!\.\.?(/|$))[^/\x00-\x1f\x7f]+)*"
    if given and not re.fullmatch(f"/Volumes{names}{folders}", volume):
        expected = "/Volumes/<catalog>/<schema>/<volume>, or a folder below it"
        raise SettingError(f"HERMES_VOLUME: {given[:100]!r} is not valid; expected {expected}")
    return volume
