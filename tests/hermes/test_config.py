"""hermes/config.py: what is merged, kept and refreshed."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from hermes.config import parse_config, refresh_token, was_proved, write_config
from hermes.merge import url_of
from hermes.yaml_text import dump, render
from tests.conftest import ROOT
from tests.mocked import (
    DESIGN,
    DIRECT,
    HOST,
    MLFLOW,
    OPENAI,
    OPUS_4_6,
    OPUS_4_7,
    TOKEN,
    config_without_ours,
    merged,
    routes_at,
    settings_for,
)


def test_the_config_is_the_designs(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    assert write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI)) == "written"
    assert path.read_text() == DESIGN
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    stamp = path.stat().st_mtime_ns
    assert write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI)) == "unchanged"
    assert path.stat().st_mtime_ns == stamp
    assert sorted(p.name for p in path.parent.iterdir()) == [".config.yaml.setup", "config.yaml"]
    assert {stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()} == {0o600}


USERS = f"""\
# my Hermes
memory: {{enabled: true}}  # keep

# mine
custom_providers:
- name: mine   # inside what changes
  base_url: https://mine.example
  api_key: my-key
fallback_providers:
- provider: custom:mine
  model: my-model
- provider: custom
  model: {OPUS_4_6}
  base_url: {DIRECT}
  api_key: stale
- provider: custom
  model: my-finetune
  base_url: {DIRECT}
  api_key: mine-too
model:
  default: gpt
  provider: openai
  api_mode: codex_responses
  temperature: 0.5
security:
  allow_lazy_installs: true
  other: 1
skills:
  external_dirs: [/my/skills]
mcp_servers:
  exa:
    url: https://my.exa.example
  deepwiki:
    url: https://mcp.deepwiki.com/mcp
# the end
"""


def test_the_users_own_stays(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(USERS)
    (tmp_path / ".claude" / "skills").mkdir(parents=True)
    servers = {
        "deepwiki": "",
        "exa": "https://mcp.exa.ai/mcp",
        "team-memory": "https://memory.example/mcp",
    }
    said = write_config(
        path, settings_for(tmp_path, mcp_servers=servers), routes_at(OPENAI, OPENAI)
    )
    text, config, old = path.read_text(), yaml.safe_load(path.read_text()), yaml.safe_load(USERS)
    assert text.startswith("# my Hermes\nmemory: {enabled: true}  # keep\n\n# mine\n")
    assert text.endswith("# the end\n")
    assert list(config) == list(old)
    assert [p["name"] for p in config["custom_providers"]] == [
        "mine",
        "databricks-gateway",
        "databricks-direct",
    ]
    assert config["custom_providers"][0] == old["custom_providers"][0]
    assert config["fallback_providers"][3:] == [
        old["fallback_providers"][0],
        old["fallback_providers"][2],
    ]
    assert config["model"]["temperature"] == 0.5
    assert "api_mode" not in config["model"]
    assert config["security"] == {
        "allow_lazy_installs": True,
        "other": 1,
        "tirith_path": "~/.local/bin/tirith",
    }
    assert config["skills"] == {"external_dirs": ["/my/skills"]}
    assert config["mcp_servers"] == {
        "exa": {"url": "https://my.exa.example"},
        "team-memory": {"url": "https://memory.example/mcp"},
    }
    (backup,) = tmp_path.glob("*.bak")
    assert backup.read_text() == USERS
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert backup.name in said
    write_config(
        path, settings_for(tmp_path, model="other", mcp_servers=servers), routes_at(MLFLOW, MLFLOW)
    )
    assert len(list(tmp_path.glob("*.bak"))) == 1
    assert config_without_ours(yaml.safe_load(path.read_text())) == config_without_ours(config)


def chain_of(path: Path) -> list[tuple[str, str]]:
    return [
        (e["provider"], e["model"]) for e in yaml.safe_load(path.read_text())["fallback_providers"]
    ]


def test_a_users_entry_on_our_provider_stays_and_ours_does_not_pile_up(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    one = settings_for(tmp_path, fallback_model=OPUS_4_7)
    write_config(path, one, routes_at(OPENAI, OPENAI, direct=False, fallback_model=OPUS_4_7))
    assert chain_of(path) == [("custom:databricks-gateway", OPUS_4_7)]
    mine = [
        ("custom:databricks-gateway", "haiku"),
        ("custom:databricks-direct", "my-finetune"),
        ("custom", OPUS_4_6),
    ]
    config = yaml.safe_load(path.read_text())
    config["fallback_providers"] += [
        {"provider": provider, "model": model} for provider, model in mine
    ]
    config["fallback_providers"][-1] |= {"base_url": DIRECT, "key_env": "MY_KEY"}
    config["custom_providers"].append(
        {"name": "databricks-direct", "base_url": DIRECT, "api_key": "old"}
    )
    path.write_text(dump(config))
    gateway, direct, second = (
        f"custom:databricks-{name}" for name in ("gateway", "direct", "fallback")
    )
    for settings, routes, ours in [
        (
            one,
            routes_at(OPENAI, OPENAI, direct=False, fallback_model=OPUS_4_7),
            [(gateway, OPUS_4_7)],
        ),
        (
            settings_for(tmp_path),
            routes_at(OPENAI, MLFLOW),
            [(gateway, OPUS_4_7), (second, OPUS_4_6), (direct, OPUS_4_6)],
        ),
        (
            settings_for(tmp_path, model="m", fallback_model="f", token="new", gateway=""),
            routes_at(DIRECT, DIRECT, direct=False, model="m", fallback_model="f"),
            [(direct, "m"), (direct, "f")],
        ),
    ]:
        write_config(path, settings, routes)
        assert chain_of(path) == [*ours, *mine]
        named = {
            e["name"]: e["api_key"] for e in yaml.safe_load(path.read_text())["custom_providers"]
        }
        assert named.keys() >= {"databricks-gateway", "databricks-direct"}
        assert set(named.values()) == {settings.token}
    assert list(tmp_path.glob("*.bak")) == []


@pytest.mark.parametrize(
    ("plugins", "after"),
    [
        (None, None),
        ({}, {}),
        ({"enabled": []}, {"enabled": ["databricks"]}),
        ({"enabled": ["mine"], "x": 1}, {"enabled": ["mine", "databricks"], "x": 1}),
        ({"enabled": ["databricks"]}, {"enabled": ["databricks"]}),
        ({"enabled": [], "disabled": ["databricks"]}, {"enabled": [], "disabled": ["databricks"]}),
        ({"enabled": "mine"}, {"enabled": "mine"}),
        ([1], [1]),
    ],
)
def test_the_plugin_is_listed_where_hermes_has_such_a_list(
    plugins: Any, after: Any, tmp_path: Path
) -> None:
    config = merged({"plugins": plugins}, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    assert config["plugins"] == after


ODD_TEXTS = ["1e5", "12", "0o17", ".5", "+1.5E-3", "no", "plain", "1.2.3", "", "a:b#c", "-x", "é"]
ODD_TEXTS += ["null", "'", '"', "it's", "{}", "[x]", "*a", "&a", "!x", "%", "@", "`", "true"]


@pytest.mark.fault("hostile YAML")
@pytest.mark.parametrize("text", ODD_TEXTS)
def test_text_stays_text_for_yaml_1_2_too(text: str) -> None:
    dumped = dump({"a": text}).strip()
    assert yaml.safe_load(dumped) == {"a": text}
    core = r"a: ([-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|0o[0-7]+|0x[0-9a-fA-F]+)"
    assert not re.fullmatch(core, dumped)


@pytest.mark.fault("file")
def test_two_links_to_one_file_share_its_lock(tmp_path: Path) -> None:
    real = tmp_path / "config.yaml"
    write_config(real, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").symlink_to(real)
        assert refresh_token(tmp_path / name / "config.yaml", name)
    assert list(tmp_path.rglob("*.setup")) == [tmp_path / ".config.yaml.setup"]


@pytest.mark.fault("hostile YAML")
@pytest.mark.parametrize(
    "raw",
    [
        b"model: [unclosed", b"- a\n- list\n", b"just text", b"42", b"\xff\xfe\x00", b"a: b: c", b"\ta: 1", b"a: *nowhere",
        b"model: [1, 2]\n", b"custom_providers: {a: 1}\n", b"fallback_providers: text\n", b"when: 2020-13-45\n",
        b"x: !!python/object:os.system {}\n",
        b"{? [a]: 1, ? {b: c}: 2}", b"? [complex]\n: 1\n", b"a: 1\n---\nb: 2\n", b"[" * 500, b"x: " + b"9" * 5000,
    ],
)  # fmt: skip
def test_a_file_that_is_no_config_is_kept_aside(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(raw)
    said = write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    (kept,) = tmp_path.glob("config.yaml.*.bak")
    assert kept.read_bytes() == raw
    assert kept.name in said
    assert "\n" not in said
    assert yaml.safe_load(path.read_text())["model"]["base_url"] == OPENAI
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


@pytest.mark.fault("file")
@pytest.mark.parametrize("raw", [b"", b"\n", b"# only a comment\n", b"--- {}\n", b"null\n"])
def test_an_empty_config_is_filled(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(raw)
    assert write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI)) == "written"
    assert yaml.safe_load(path.read_text())["model"]["base_url"] == OPENAI
    assert path.read_text().startswith("#") == raw.startswith(b"#")


@pytest.mark.fault("hostile YAML")
@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x\nmodel: {default: m}\n",
        "{a: 1, model: {default: m}}\n",
        "---\na: 1\n...\n",
        "a: 1\na: 2\n",
        "a: |\n  text\n  # no comment\nmodel: x",
        "a: .nan\n",
        "a: 1\r\n# c\r\nmodel: x\r\n# d\r\nb: 2\r\n",
        "\ufeffa: 1\n",
        "'quoted key': 1\n12: x\n",
    ],
)
def test_rendering_means_what_was_merged(text: str, tmp_path: Path) -> None:
    old, problem = parse_config(text.encode())
    assert problem == ""
    new = merged(old, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    result = render(text, old, new)
    assert repr(yaml.safe_load(result)) == repr(new)
    for comment in ("# c", "# d"):
        assert (comment in result) == (comment in text)


@pytest.mark.fault("hostile YAML")
@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]\n",
        "a0: &a0 [x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20)),
        "model: {default: [1], base_url: {}}\nfallback_providers: [{model: [1]}, 3, [], {provider: {}, model: {}}]\n",
        "custom_providers: [{name: [1]}, 3, null]\nmcp_servers: [1]\nsecurity: 5\nproviders: [databricks-gateway]\n",
    ],
    ids=["recursive", "a billion laughs", "odd entries", "odd sections"],
)
def test_a_hostile_config_is_merged_in_time_and_settles(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert "written" in write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    assert yaml.safe_load(path.read_text())["model"]["base_url"] == OPENAI
    assert write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI)) == "unchanged"
    assert refresh_token(path, "new")
    assert path.read_text().count("new") == 3


@pytest.mark.fault("file")
def test_a_symlink_is_followed(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles" / "hermes.yaml", tmp_path / "config.yaml"
    real.parent.mkdir()
    real.write_text("memory: {}\n")
    link.symlink_to(real)
    write_config(link, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    assert link.is_symlink()
    assert yaml.safe_load(real.read_text())["model"]["base_url"] == OPENAI
    assert refresh_token(link, "new")
    assert link.is_symlink()
    assert real.read_text().count("new") == 3


def test_a_refresh_changes_our_keys_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    mine = "# mine\n- name: mine\n  base_url: https://mine.example\n  api_key: " + TOKEN + "\n"
    path.write_text(DESIGN.replace("custom_providers:\n", f"custom_providers:\n{mine}"))
    before = path.read_text()
    assert refresh_token(path, "new: 'token' #1")
    expected = before.replace(f"api_key: {TOKEN}", "api_key: 'new: ''token'' #1'").replace(
        mine.replace(TOKEN, "'new: ''token'' #1'"), mine
    )
    assert path.read_text() == expected
    assert not refresh_token(path, "new: 'token' #1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.fault("file")
@pytest.mark.parametrize("text", [None, "", "model: [unclosed", "model: {api_key: mine}\n"])
def test_a_config_that_is_not_ours_is_not_refreshed(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    assert not refresh_token(path, "new")
    assert (path.read_text() if path.exists() else None) == text


class Deep(yaml.SafeDumper):
    """Writes lists as Hermes does."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


INDENTED = yaml.dump(yaml.safe_load(DESIGN), Dumper=Deep, sort_keys=False)


@pytest.mark.parametrize("text", ["", INDENTED, "# mine\n" + INDENTED])
def test_codas_rotator_reaches_every_key_after_a_setup(text: str, tmp_path: Path) -> None:
    """Also where Hermes has written the file since, with its deeper lists."""
    path = tmp_path / "config.yaml"
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    if text:
        assert "\n    api_key: " in text
        path.write_text(text)
        assert write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI)) == "written"
        assert write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI)) == "unchanged"
    rotated = re.sub(r"^  api_key: .*$", "  api_key: rotated", path.read_text(), flags=re.MULTILINE)
    assert TOKEN not in rotated
    assert rotated.count("rotated") == 3


@pytest.mark.parametrize(
    "odd",
    [
        f"api_key: &tok {TOKEN}",
        f"api_key: >-\n    {TOKEN}",
        f"api_key: |-\n    {TOKEN}",
        "api_key:",
        f"api_key: !!str {TOKEN}",
        f'"api_key": "{TOKEN}"',
    ],
)
def test_a_refresh_survives_odd_yaml(odd: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    tail = "mine: *tok\n" if "&tok" in odd else "mine: 1\n"
    path.write_text(DESIGN.replace(f"api_key: {TOKEN}", odd, 1) + tail)
    assert refresh_token(path, "new")
    config = yaml.safe_load(path.read_text())
    assert [config["model"]["api_key"], *(e["api_key"] for e in config["custom_providers"])] == [
        "new"
    ] * 3
    assert {k: v for k, v in config.items() if k != "mine"} == yaml.safe_load(
        DESIGN.replace(TOKEN, "new")
    )
    assert not refresh_token(path, "new")


@pytest.mark.fault("oversized values")
def test_an_oversized_config_is_merged(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    text = "".join(f"key{n}: {{a: [1, 2, 3], b: text}}  # {n}\n" for n in range(200))
    path.write_text(text)
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    assert path.read_text().startswith(text)


@pytest.mark.fault("disk full")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """RLIMIT_FSIZE of 200 bytes stands for the disk that fills up in mid-write."""
    path = tmp_path / "config.yaml"
    path.write_text(DESIGN)
    code = f"""if True:
        import resource, signal, sys
        from pathlib import Path
        from setup_hermes import refresh_token
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
        try:
            refresh_token(Path({str(path)!r}), "new")
        except OSError as error:
            sys.exit(error.strerror)
    """
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.stderr == "File too large\n"
    assert path.read_text() == DESIGN
    assert list(tmp_path.glob("*.tmp")) == []


# --- Whose token goes where ---------------------------------------------------------------------------------------------

OTHER = "https://adb-2.7.azuredatabricks.net"
THERE = f"{OTHER}/serving-endpoints"


def providers_of(path: Path) -> dict[str, dict[str, Any]]:
    return {e["name"]: e for e in yaml.safe_load(path.read_text())["custom_providers"]}


def test_a_change_of_workspace_takes_no_token_along(tmp_path: Path) -> None:
    """The user's entry keeps the old workspace's provider in the file, with the old workspace's key."""
    path = tmp_path / "config.yaml"
    old = settings_for(tmp_path, host=OTHER, gateway="", token="token-of-a")
    write_config(path, old, routes_at(THERE, THERE, host=OTHER))
    config = yaml.safe_load(path.read_text())
    config["fallback_providers"].append({"provider": "custom:databricks-direct", "model": "mine"})
    path.write_text(dump(config))
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    assert {(e["base_url"], e["api_key"]) for e in providers_of(path).values()} == {
        (THERE, "token-of-a"),
        (OPENAI, TOKEN),
        (DIRECT, TOKEN),
    }
    assert providers_of(path)["databricks-direct"]["base_url"] == THERE
    chain = yaml.safe_load(path.read_text())["fallback_providers"]
    assert [e["provider"] for e in chain[2:]] == [
        "custom:databricks-direct-2",
        "custom:databricks-direct",
    ]
    assert refresh_token(path, "new", HOST)
    assert {(e["base_url"], e["api_key"]) for e in providers_of(path).values()} == {
        (THERE, "token-of-a"),
        (OPENAI, "new"),
        (DIRECT, "new"),
    }


@pytest.mark.parametrize("name", ["databricks-direct", "databricks-gateway", "databricks-fallback"])
@pytest.mark.parametrize("form", ["custom_providers", "providers"])
def test_a_users_provider_with_a_name_of_ours_is_theirs(
    name: str, form: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    url = "https://llm.elsewhere.example/v1"
    theirs: Any = [{"name": name, "base_url": url, "api_key": "their-key"}]
    if form == "providers":
        theirs = {name: {"api": url, "api_key": "their-key"}}
    path.write_text(
        dump(
            {
                form: theirs,
                "fallback_providers": [{"provider": f"custom:{name}", "model": "theirs"}],
            }
        )
    )
    for token in (TOKEN, "second"):
        write_config(path, settings_for(tmp_path, token=token), routes_at(OPENAI, MLFLOW))
        refresh_token(path, f"{token}-new", HOST)
        config = yaml.safe_load(path.read_text())
        there = config[form][0] if form == "custom_providers" else config[form][name]
        assert there == (theirs[0] if form == "custom_providers" else theirs[name])
        ours = {url_of(e): e["api_key"] for e in config["custom_providers"] if url_of(e) != url}
        assert ours == dict.fromkeys([OPENAI, MLFLOW, DIRECT], f"{token}-new")
        assert config["fallback_providers"][-1] == {"provider": f"custom:{name}", "model": "theirs"}
        names = {url_of(e): e["name"] for e in config["custom_providers"]}
        assert config["fallback_providers"][0]["provider"] == f"custom:{names[OPENAI]}"


@pytest.mark.fault("token")
@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("keys", [("base_url", "api"), ("base_url", "url"), ("api", "url")])
@pytest.mark.parametrize("form", ["custom_providers", "providers"])
def test_an_entry_with_two_urls_gets_no_token(
    form: str, keys: tuple[str, str], remembered: bool, tmp_path: Path
) -> None:
    """Hermes takes `api` first, in `providers`; whichever it takes, one of them is not ours."""
    path = tmp_path / "config.yaml"
    if remembered:
        write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    for first, second in (keys, keys[::-1]):
        entry = {first: DIRECT, second: "https://evil.example/v1", "api_key": "old"}
        listed = [{"name": "databricks-direct", **entry}]
        config = {form: listed if form == "custom_providers" else {"databricks-direct": entry}}
        path.write_text(dump(config))
        assert not refresh_token(path, "new", HOST)
        write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
        after = yaml.safe_load(path.read_text())
        if form == "custom_providers":
            assert listed[0] in after[form]
        else:
            assert after[form] == config[form]


@pytest.mark.fault("hostile YAML")
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("api_key: *k", "api_key: &k their-key"),
        ("<<: *b", "<<: &b {api_key: their-key}"),
        ("<<: *b\n  api_key: old", "<<: &b {api_key: their-key}"),
    ],
)
def test_a_key_that_is_shared_by_an_anchor_becomes_two(
    ours: str, theirs: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    mine = f"custom_providers:\n- name: mine\n  base_url: https://mine.example\n  {theirs}\n"
    text = DESIGN.replace("custom_providers:\n", mine).replace(
        f"base_url: {DIRECT}\n  api_key: {TOKEN}", f"base_url: {DIRECT}\n  {ours}"
    )
    path.write_text(text)
    assert refresh_token(path, "new", HOST)
    assert {name: e["api_key"] for name, e in providers_of(path).items()} == {
        "mine": "their-key",
        "databricks-gateway": "new",
        "databricks-direct": "new",
    }
    # Where the entry has a key of its own, that is all that changes.
    assert [b.read_text() for b in tmp_path.glob("*.bak")] == ([] if "old" in ours else [text])
    assert not refresh_token(path, "new", HOST)


@pytest.mark.fault("hostile YAML")
@pytest.mark.parametrize("text", ["model: [unclosed", "- a\n", "a: " + "[" * 400 + "]" * 400])
def test_what_cannot_be_refreshed_is_logged(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert not refresh_token(path, "new-token")
    assert len(caplog.records) == 1
    assert "is not renewed" in caplog.text
    assert "new-token" not in caplog.text
    assert path.read_text() == text


# --- Tables -------------------------------------------------------------------------------------------

ELSEWHERE = "https://llm.elsewhere.example/v1"
LOCAL = "http://127.0.0.1:11434/v1"
THEIRS = {"api": ELSEWHERE, "api_key": "mine"}


def inline(url: str, **more: str) -> dict[str, str]:
    """A fallback entry with a key inside, as an older setup wrote it."""
    return {"provider": "custom", "model": OPUS_4_6, "base_url": url, "api_key": "old"} | more


def provider(name: str, url: str, form: str = "custom_providers", **more: str) -> dict[str, Any]:
    """A config with one provider, in one of the two forms that Hermes reads."""
    fields = {"base_url": url, "api_key": "old"} | more
    return {form: [{"name": name, **fields}] if form == "custom_providers" else {name: fields}}


@pytest.mark.parametrize(
    ("chain", "stays"),
    [
        (inline(DIRECT), []),
        ([inline(DIRECT), inline(LOCAL)], [inline(LOCAL)]),
        ([inline(OPENAI, model="my-finetune")], [inline(OPENAI, model="my-finetune")]),
        ([{"provider": "openrouter", "model": OPUS_4_6, "api_key": "x"}],) * 2,
    ],
)
@pytest.mark.parametrize("key", ["fallback_providers", "fallback_model"])
def test_an_older_setups_inline_key_goes(key: str, chain: Any, stays: Any, tmp_path: Path) -> None:
    """Hermes appends `fallback_model`, an older word, to the chain."""
    config = merged({key: chain}, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    assert config[key][3 if key == "fallback_providers" else 0 :] == stays


@pytest.mark.parametrize(
    "theirs",
    [
        {"providers": {"databricks-gateway": THEIRS}},
        {"providers": {"Databricks Gateway": THEIRS}},
        {"providers": {"x": {"name": "Databricks Gateway", **THEIRS}}},
        provider("Databricks Gateway ", ELSEWHERE),
        provider("x", ELSEWHERE, provider_key="databricks-gateway"),
    ],
)
def test_a_name_that_hermes_would_take_for_theirs_is_not_ours(
    theirs: dict[str, Any], tmp_path: Path
) -> None:
    config: Any = theirs
    for _ in range(2):
        config = merged(config, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
        named = {e["name"]: e for e in config["custom_providers"]}
        assert named["databricks-gateway-2"]["base_url"] == OPENAI
        ours = [e["provider"] for e in config["fallback_providers"]]
        assert ours[:2] == ["custom:databricks-gateway-2"] * 2
        assert config.get("providers") == theirs.get("providers")
        assert all(e in named.values() for e in theirs.get("custom_providers", []))


@pytest.mark.parametrize(
    "old",
    [
        provider("databricks-gateway", OPENAI, "providers"),
        {"providers": {"databricks-gateway": {"api": OPENAI, "api_key": "old"}}},
        {"custom_providers": [{"name": "databricks-gateway", "api": OPENAI, "api_key": "old"}]},
        {"custom_providers": [{"name": "databricks-gateway", "url": OPENAI, "api_key": "old"}]},
        {"model": {"default": "gpt", "api": "whatever"}},
    ],
)
def test_what_is_ours_is_brought_into_one_form(old: dict[str, Any], tmp_path: Path) -> None:
    mine = {"mine": {"api": "https://mine.example"}}
    old = {**old, "providers": {**mine, **old.get("providers", {})}}
    config = merged(old, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    assert config["custom_providers"] == yaml.safe_load(DESIGN)["custom_providers"]
    assert config["providers"] == mine
    assert merged(config, settings_for(tmp_path), routes_at(OPENAI, OPENAI)) == config


@pytest.mark.parametrize("moved", [False, True])
def test_a_provider_of_the_old_workspace_that_nobody_names_goes(
    moved: bool, tmp_path: Path
) -> None:
    """Also where `hermes doctor --fix` has moved it."""
    path = tmp_path / "config.yaml"
    old = settings_for(tmp_path, host=OTHER, gateway="", token="token-of-a")
    write_config(path, old, routes_at(THERE, THERE, host=OTHER))
    if moved:
        config = yaml.safe_load(path.read_text())
        config["providers"] = {
            e.pop("name"): {"api": e.pop("base_url"), **e} for e in config.pop("custom_providers")
        }
        path.write_text(dump(config))
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    assert {k: v for k, v in yaml.safe_load(path.read_text()).items() if v} == yaml.safe_load(
        DESIGN
    )


CODAS = {"deepwiki": "https://mcp.deepwiki.com/mcp", "exa": "https://mcp.exa.ai/mcp"}


@pytest.mark.parametrize("answers", [True, False])
def test_codas_own_servers_are_known(answers: bool, tmp_path: Path) -> None:
    """CODA's setup gives its two servers a time-out."""
    mine = {"mine": {"url": "https://mine.example", "timeout": 60}}
    entries = {name: {"url": url, "timeout": 60} for name, url in CODAS.items()}
    there = settings_for(tmp_path, mcp_servers=CODAS if answers else dict.fromkeys(CODAS, ""))
    config: Any = {"mcp_servers": {**entries, **mine}}
    for _ in range(2):
        config = merged(config, there, routes_at(OPENAI, OPENAI))
        assert config["mcp_servers"] == ({**entries, **mine} if answers else mine)


@pytest.mark.fault("token")
@pytest.mark.parametrize("form", ["custom_providers", "providers"])
@pytest.mark.parametrize(
    ("host", "url", "renewed"),
    [
        ("", DIRECT, True),
        ("", OPENAI, True),
        ("", ELSEWHERE, False),
        ("", f"{HOST}:8443/serving-endpoints", False),
        ("", DIRECT.replace("://", "://user:word@"), False),
        (HOST, DIRECT, True),
        (HOST, OPENAI, False),
        (HOST, f"{HOST}.evil.example/serving-endpoints", False),
        (OTHER, DIRECT, False),
        ("https://dbc-1.cloud.databricks.com", DIRECT, False),
    ],
)
def test_without_a_memory_a_token_goes_to_its_own_workspace(
    host: str, url: str, renewed: bool, form: str, tmp_path: Path
) -> None:
    """Or, where it is not known whose it is, to Databricks' hosts; a gateway waits for the setup."""
    path = tmp_path / "config.yaml"
    path.write_text(dump(provider("databricks-direct", url, form)))
    assert refresh_token(path, "new", host) is renewed
    assert ("new" in path.read_text()) is renewed


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        ("model:\n", "model:\n  api: whatever\n", ["new", "new", "new"]),
        (f"base_url: {OPENAI}", "base_url: https://mine.example", ["old", "new", "new"]),
        ("custom_providers:\n", "mcp_servers: 3\ncustom_providers:\n", ["new", "new", "new"]),
    ],
)
def test_a_refresh_reaches_what_is_ours(
    old: str, new: str, keys: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    write_config(path, settings_for(tmp_path, token="old"), routes_at(OPENAI, OPENAI))
    path.write_text(path.read_text().replace(old, new, 1))
    before = path.read_text()
    assert not refresh_token(path, "of-another-workspace", OTHER)
    assert path.read_text() == before
    assert refresh_token(path, "new", HOST)
    config = yaml.safe_load(path.read_text())
    assert [e["api_key"] for e in [config["model"], *config["custom_providers"]]] == keys


@pytest.mark.fault("hostile YAML")
@pytest.mark.parametrize("odd", ["fallback_providers: ''\n", "model: 5\n"])
def test_what_parses_is_refreshed_all_the_same(odd: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump({**yaml.safe_load(DESIGN), **yaml.safe_load(odd)}))
    assert refresh_token(path, "new", HOST)
    assert providers_of(path)["databricks-direct"]["api_key"] == "new"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (dump(provider("databricks-gateway", "https://mine.example")), True),
        (f"{DESIGN}# mine\nmemory: {{a: 1}}\nmemory: {{a: 2}}\n", True),  # cannot stay as it is
        (DESIGN.replace(f"base_url: {OPENAI}", "base_url: https://mine.example", 1), True),
        (DESIGN.replace("model:\n", "model:  # mine\n"), True),
        (DESIGN.replace("custom_providers:\n", "custom_providers:\n# mine, within\n"), False),
        (f"# head\na: &x [1, 2]  # one\nb: *x  # two\n{DESIGN}# end\n", False),
    ],
)
def test_what_has_to_go_is_kept_beside(text: str, kept: bool, tmp_path: Path) -> None:
    """A comment in a block of ours stays when only the key changes, and goes with a change of model."""
    path = tmp_path / "config.yaml"
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    path.write_text(text)
    model = "other" if kept else OPUS_4_7
    settings = settings_for(tmp_path, token="new", model=model)
    said = write_config(path, settings, routes_at(OPENAI, OPENAI, model=model))
    backups = list(tmp_path.glob("*.bak"))
    assert [b.read_text() for b in backups] == ([text] if kept else [])
    assert all(b.name in said for b in backups)
    if not kept:
        assert path.read_text() == text.replace(TOKEN, "new")


# --- Nothing of the user's is lost --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["custom_providers", "providers"])
def test_extra_keys_on_our_entries_stay(form: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    config = yaml.safe_load(path.read_text())
    config["custom_providers"][0] |= {"context_length": 200000, "extra_headers": {"X-Team": "a"}}
    if form == "providers":
        config["providers"] = {
            e.pop("name"): {"api": e.pop("base_url"), **e, "transport": "chat_completions"}
            for e in config.pop("custom_providers")
        }
    path.write_text(dump(config))
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    entry = providers_of(path)["databricks-gateway"]
    assert (entry["context_length"], entry["extra_headers"], entry["base_url"]) == (
        200000,
        {"X-Team": "a"},
        OPENAI,
    )
    assert entry.get("api_mode") == ("chat_completions" if form == "providers" else None)
    assert not {"api", "transport"} & entry.keys()


def test_the_backup_is_there_before_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("memory: {}\n")
    replace_file = os.replace

    def fail(source: str, target: Path) -> None:
        if Path(target).name == "config.yaml":
            raise OSError("the disk is gone")
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    (backup,) = tmp_path.glob("*.bak")
    assert backup.read_text() == path.read_text() == "memory: {}\n"
    assert list(tmp_path.glob(".*.tmp")) == []


def test_a_file_is_on_the_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    steps: list[str] = []
    sync, swap = os.fsync, os.replace

    def fsync(handle: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def replace_file(source: str, target: Path) -> None:
        assert Path(source).parent == target.parent
        steps.append("name")
        swap(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace_file)
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    assert steps == ["file", "name", "folder"]


def test_a_refresh_waits_for_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    with open(tmp_path / ".config.yaml.setup") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=refresh_token, args=(path, "new"))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        assert path.read_text() == DESIGN
    thread.join()
    assert path.read_text() == DESIGN.replace(TOKEN, "new")


@pytest.mark.fault("file")
@pytest.mark.parametrize(
    "memory",
    [
        '{"mcp_servers": null}',
        "[]",
        '{"providers": []}',
        '{"providers": {"databricks-gateway": [1]}}',
        "[" * 10000,
    ]
    + [
        f'{{"{key}": {value}}}'
        for key in ("fallback_providers", "models", "host")
        for value in ("3", "null", '{"a": 1}')
    ],
)
def test_an_odd_memory_stops_nothing(memory: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    (tmp_path / ".config.yaml.setup").write_text(memory)
    refresh_token(path, "new", HOST)
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    assert path.read_text() == DESIGN


def test_a_pipe_in_place_of_the_memory_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(DESIGN)
    os.mkfifo(tmp_path / ".config.yaml.setup")
    assert was_proved(path) is None
    with pytest.raises(OSError, match=r"\.config\.yaml\.setup is not a regular file; expected"):
        refresh_token(path, "new", HOST)
    assert path.read_text() == DESIGN


def test_a_lock_that_is_never_given_back_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(DESIGN)
    monkeypatch.setattr("hermes.config.LOCK_WAIT", 0.1)
    with (tmp_path / ".config.yaml.setup").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="is locked by another program"):
            refresh_token(path, "new", HOST)
    assert refresh_token(path, "new", HOST)


@pytest.mark.fault("hostile YAML")
def test_a_config_that_is_nested_too_deeply_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: " + "[" * 400 + "]" * 400)
    assert "nested too deeply" in write_config(
        path, settings_for(tmp_path), routes_at(OPENAI, OPENAI)
    )
    assert path.read_text() == DESIGN


@pytest.mark.fault("oversized values")
def test_many_comments_take_no_time(tmp_path: Path) -> None:
    """With a quadratic search this would take minutes, and the test's time limit would end it."""
    path = tmp_path / "config.yaml"
    comments = "#\n\n" * 60_000
    path.write_text(f"model: m\n{comments}b: 1\n")
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    assert path.read_text().count("#\n") == 60_000


# --- Models to choose from ----------------------------------------------------------------------------------------------


def test_the_workspaces_models_are_offered(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI, models=("gpt", "sonnet")))
    gateway, direct = providers_of(path).values()
    assert gateway["models"] == {name: {} for name in (OPUS_4_6, OPUS_4_7, "gpt", "sonnet")}
    assert direct["models"] == {name: {} for name in (OPUS_4_6, "gpt", "sonnet")}
    assert gateway["discover_models"] is direct["discover_models"] is False
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI, models=("gpt",)))
    assert providers_of(path)["databricks-direct"]["models"] == {OPUS_4_6: {}, "gpt": {}}
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI))
    assert path.read_text() == DESIGN


def test_a_users_own_list_of_models_stays(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI, models=("gpt",)))
    config = yaml.safe_load(path.read_text())
    config["custom_providers"][0]["models"] = {"mine": {"context_length": 1000}}
    config["custom_providers"][0]["discover_models"] = True
    path.write_text(dump(config))
    for models in (("gpt", "sonnet"), ()):
        write_config(path, settings_for(tmp_path), routes_at(OPENAI, OPENAI, models=models))
        entry = providers_of(path)["databricks-gateway"]
        assert (entry["models"], entry["discover_models"]) == (
            {"mine": {"context_length": 1000}},
            True,
        )
