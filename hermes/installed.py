"""What the installed Hermes does with what setup wrote: which folder it reads, which plugin."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from hermes.learnt import PLUGIN

_QUESTION = """
from providers import get_provider_profile
print("profile:", type(get_provider_profile("custom")).__name__)
"""
PATIENCE = 20.0  # seconds for Hermes's Python to answer


def notes(home: Path, env: Mapping[str, str]) -> list[str]:
    """What a person has to know before Hermes can use what setup wrote below a home directory."""
    found = [_other_folder(home, env)]
    if loads_plugin(home) is False:
        found.append(
            f"Warning: Hermes does not load the plugin in {home / PLUGIN}, so Databricks refuses"
            " some of its requests; see `hermes plugins list`, and plugins in config.yaml."
        )
    return [note for note in found if note]


def loads_plugin(home: Path) -> bool | None:
    """Ask Hermes whether our plugin is in force; None where it cannot tell."""
    python = (home / ".local" / "bin" / "hermes").resolve().with_name("python")
    folder = home / ".hermes"
    try:
        done = subprocess.run(
            [str(python), "-c", _QUESTION],
            # In no folder with modules of other names that Hermes has, and with no token.
            cwd=folder,
            env={"HOME": str(home), "HERMES_HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = [line for line in done.stdout.splitlines() if line.startswith("profile: ")]
    return said[-1] == "profile: Databricks" if said else None


def _other_folder(home: Path, env: Mapping[str, str]) -> str:
    """Say so where Hermes reads another config than the one that setup writes.

    Source: HERMES_HOME and `hermes profile use`, measured with hermes-agent 0.19.0 to 0.22.2.
    """
    ours = home / ".hermes"
    theirs = env.get("HERMES_HOME", "").strip()
    if theirs:
        if Path(theirs).expanduser() == ours:
            return ""
        return f"Note: Hermes reads {theirs}, not {ours}: HERMES_HOME is set; unset it for Hermes."
    try:
        profile = (ours / "active_profile").read_text().strip()
    except (OSError, ValueError):
        return ""
    if profile in ("", "default"):
        return ""
    return (
        f"Note: Hermes's active profile is {profile[:50]!r}, which does not read"
        f" {ours}/config.yaml; `hermes profile use default` goes back to it."
    )
