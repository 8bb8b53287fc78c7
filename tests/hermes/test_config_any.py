"""The config file in every weather: any YAML, killed at any moment, several writers at once."""

from __future__ import annotations

import os
import random
import signal
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

pytest.importorskip("hypothesis", reason="hypothesis is missing: it makes the cases")
from hypothesis import given, settings
from hypothesis import strategies as st

import utils
from hermes import urls
from hermes.config import parse_config, refresh_token
from hermes.yaml_text import dump, render
from setup_hermes import main
from tests.mocked import (
    DESIGN,
    DIRECT,
    HOST,
    MLFLOW,
    OPENAI,
    OURS,
    ROUTES,
    TOKEN,
    config_without_ours,
    is_ours,
    merged,
    routes_at,
    settings_for,
)

# --- Any YAML ---------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
URLS = VALUES | st.sampled_from(ROUTES)
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"name": TEXT | st.sampled_from(OURS)}, optional={"base_url": URLS, "x": VALUES}
    ),
    max_size=3,
)
PROVIDER = TEXT | st.sampled_from([f"custom:{name}" for name in OURS])
CHAIN = st.lists(
    st.fixed_dictionaries({"provider": PROVIDER, "model": TEXT}, optional={"base_url": VALUES}),
    max_size=4,
)
KNOWN = {
    "model": st.dictionaries(TEXT, VALUES, max_size=3) | TEXT | st.none(),
    "custom_providers": ENTRIES | st.none(),
    "fallback_providers": CHAIN | st.none(),
    "providers": VALUES,
    "mcp_servers": VALUES,
    "security": VALUES,
    "skills": VALUES,
}
CONFIGS = st.builds(
    lambda a, b: {**a, **b},
    st.dictionaries(TEXT.filter(lambda key: key not in KNOWN), VALUES, max_size=4),
    st.fixed_dictionaries({}, optional=KNOWN),
)


@pytest.mark.fault("hostile YAML", 100)
@given(CONFIGS, st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_config_keeps_what_is_not_ours(config: dict[str, Any], flow: bool) -> None:
    text = "# head\n" + yaml.safe_dump(
        config, sort_keys=False, allow_unicode=True, default_flow_style=flow
    )
    old, problem = parse_config(text.encode())
    assert (old, problem) == (config, "")
    ours = settings_for(Path("/home/x"), mcp_servers={"exa": "https://mcp.exa.ai/mcp"})
    new = merged(old, ours, routes_at(OPENAI, MLFLOW))
    assert old == config
    assert list(new)[: len(old)] == list(old)
    assert {k: v for k, v in new.items() if k not in KNOWN} == {
        k: v for k, v in old.items() if k not in KNOWN
    }
    assert [e for e in new["custom_providers"] if not is_ours(e)] == [
        e for e in old.get("custom_providers") or [] if not is_ours(e)
    ]
    foreign = [
        e
        for e in old.get("fallback_providers") or []
        if e["provider"].removeprefix("custom:") not in OURS
    ]
    assert [e for e in new["fallback_providers"] if e in foreign] == foreign
    if isinstance(old.get("model"), dict):
        ours_in_model = {"default", "provider", "base_url", "api_key", "api_mode"}
        assert all(new["model"][k] == v for k, v in old["model"].items() if k not in ours_in_model)
    result = render(text, old, new)
    assert yaml.safe_load(result) == new
    assert merged(new, ours, routes_at(OPENAI, MLFLOW)) == new
    assert result.startswith("# head\n") or flow or not config


@pytest.mark.fault("hostile YAML", 50)
@given(
    CONFIGS, st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=300)
)
@settings(max_examples=50, deadline=None)
def test_a_refresh_of_any_config_changes_our_keys_only(config: dict[str, Any], token: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        before = merged(config, settings_for(Path("/home/x")), routes_at(OPENAI, OPENAI))
        path.write_text(dump(before))
        refresh_token(path, token)
        after = yaml.safe_load(path.read_text())
        keys = [e["api_key"] for e in after["custom_providers"] if is_ours(e)]
        assert len(keys) >= 2
        assert set(keys) == {token}
        assert after["model"]["api_key"] == token
        assert config_without_ours(after) == config_without_ours(before)
        assert not refresh_token(path, token)


# --- Any host ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault("hostile host names", 200)
@given(
    st.text(max_size=60)
    | st.from_regex(
        r"(https?://)?(adb-)?[0-9]{1,4}\.[0-9]\.(azuredata|gcp\.data)bricks\.(net|com)[ -~]{0,20}"
    )
)
@settings(max_examples=200, deadline=None)
def test_any_host_is_taken_apart_or_refused(host: str) -> None:
    workspace_id = utils._derive_workspace_id_from_host(host)
    assert workspace_id == "" or (workspace_id.isascii() and workspace_id.isdigit())
    gateway = utils._build_gateway_candidate(workspace_id, host)
    if gateway:
        suffixes = (
            ".ai-gateway.azuredatabricks.net",
            ".ai-gateway.gcp.databricks.com",
            ".ai-gateway.cloud.databricks.com",
        )
        assert str(urlsplit(gateway).hostname).endswith(suffixes)
    try:
        clean = urls.clean_url("SETTING", host)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        assert not workspace_id
        return
    assert clean == urls.clean_url("SETTING", clean)
    assert clean == "" or urlsplit(clean).hostname


# --- Killed, and several at once ------------------------------------------------------------------------------------------


def in_child(work: Callable[[], object]) -> int:
    """Run that in a forked process, its output dropped; the process id."""
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            work()
        finally:
            os._exit(0)
    return pid


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    binary = tmp_path / ".local" / "bin" / "hermes"
    binary.parent.mkdir(parents=True)
    binary.touch()
    more = {
        "HERMES_PROVE": "false",
        "DEEPWIKI_MCP_URL": "",
        "EXA_MCP_URL": "",
        "_GATEWAY_RESOLVED": OPENAI.removesuffix("/openai"),
    }
    return {"HOME": str(tmp_path), "DATABRICKS_HOST": HOST, "DATABRICKS_TOKEN": TOKEN, **more}


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(30, marks=pytest.mark.fault("killed", 30)),
        pytest.param(200, marks=[pytest.mark.fault("killed", 200), pytest.mark.slow]),
    ],
)
def test_killed_at_any_moment_the_file_is_whole_and_private(
    env: dict[str, str], tmp_path: Path, kills: int
) -> None:
    path = tmp_path / ".hermes" / "config.yaml"
    users = "memory: {a: 1}\n"
    path.parent.mkdir()
    started = time.monotonic()
    os.waitpid(in_child(lambda: main([], env)), 0)
    run = time.monotonic() - started
    chance = random.Random(1)
    killed = turn = 0
    whole = {
        users,
        DESIGN,
        users + DESIGN,
        users + DESIGN.replace(TOKEN, "other"),
        DESIGN.replace(TOKEN, "other"),
    }
    while killed < kills:
        assert turn < 50 * kills
        turn += 1
        if turn % 4 == 0:
            path.write_text(users)
            path.chmod(0o600)
        token = (TOKEN, "other")[turn % 2]
        pid = in_child(lambda token=token: main([], env | {"DATABRICKS_TOKEN": token}))  # type: ignore[misc]
        time.sleep(chance.uniform(0, run))
        os.kill(pid, signal.SIGKILL)
        landed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        killed += landed
        # Half of them shall come too late: then the others are spread over the whole run.
        run *= 1.02 if landed else 0.98
        assert path.read_text() in whole
        for file in (f for f in path.parent.rglob("*") if f.is_file()):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    os.waitpid(in_child(lambda: main([], env)), 0)
    assert list(path.parent.glob("*.tmp")) + list(path.parent.glob(".*.tmp")) == []
    assert path.read_text() == users + DESIGN


@pytest.mark.fault("concurrent", 24)
def test_several_setups_at_once_leave_one_whole_file(env: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / ".hermes" / "config.yaml"
    path.parent.mkdir()
    path.write_text("memory: {a: 1}\n")
    children = [
        in_child(lambda n=n: main([], env | {"HERMES_MODEL": f"model-{n}"}))  # type: ignore[misc]
        for n in range(12)
    ]
    children += [in_child(lambda n=n: refresh_token(path, f"token-{n}")) for n in range(12)]  # type: ignore[misc]
    for child in children:
        os.waitpid(child, 0)
    config = yaml.safe_load(path.read_text())
    assert config["memory"] == {"a": 1}
    assert [e["name"] for e in config["custom_providers"]] == [
        "databricks-gateway",
        "databricks-direct",
    ]
    assert len(config["fallback_providers"]) == 3
    assert config["custom_providers"][1]["base_url"] == DIRECT
    assert (
        len({config["model"]["api_key"], *(p["api_key"] for p in config["custom_providers"])}) == 1
    )
    assert len(list(path.parent.glob("*.bak"))) == 1
    assert list(path.parent.glob(".*.tmp")) == []
