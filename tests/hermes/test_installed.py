"""hermes/installed.py: what the installed Hermes does with what setup wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hermes.installed import loads_plugin, notes
from hermes.learnt import PLUGIN
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("env", "profile", "said"),
    [
        ({}, None, ""),
        ({"HERMES_HOME": "HOME/.hermes/"}, None, ""),
        ({"HERMES_HOME": "/elsewhere"}, None, "Hermes reads /elsewhere, not"),
        ({"HERMES_HOME": "HOME/.hermes"}, "work", ""),
        ({}, "work\n", "active profile is 'work'"),
        ({}, "default", ""),
        ({}, "", ""),
    ],
)
def test_another_folder_than_ours_is_said(
    env: dict[str, str], profile: str | None, said: str, home: Path
) -> None:
    (home / ".hermes").mkdir()
    if profile is not None:
        (home / ".hermes" / "active_profile").write_text(profile)
    found = notes(home, {name: value.replace("HOME", str(home)) for name, value in env.items()})
    assert len(found) == bool(said)
    assert said in "".join(found)


def test_hermes_says_whether_it_loads_the_plugin(hermes_home: Path) -> None:
    (hermes_home / ".hermes").mkdir()
    assert loads_plugin(hermes_home) is False
    assert "Hermes does not load the plugin" in notes(hermes_home, {})[0]
    shutil.copytree(ROOT / "hermes" / "provider", hermes_home / PLUGIN)
    assert loads_plugin(hermes_home) is True
    (hermes_home / PLUGIN / "__init__.py").write_text("1 / 0\n")
    assert loads_plugin(hermes_home) is False


def test_a_hermes_that_cannot_be_asked_is_none_that_does_not_load_it(home: Path) -> None:
    (home / ".hermes").mkdir()
    assert loads_plugin(home) is None
    python = home / ".local" / "bin" / "python"
    python.write_text("#!/bin/sh\necho nothing of use\n")
    python.chmod(0o755)
    assert loads_plugin(home) is None
    assert notes(home, {}) == []
