"""The real Hermes against the stand-in workspace: what the user of `hermes chat` sees."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

pytest.importorskip("trustme", reason="trustme is missing: the stand-in workspace needs it")

from setup_hermes import refresh_token
from tests.conftest import OTHER_HERMES, ROOT, submit, until
from tests.documents import BLOCK, CHECK, checked
from tests.real import ask, chat_session, hermes_env, run_hermes
from tests.standin import HOSTS, NEW_OPUS_4_7, OPUS_4_6, OPUS_4_7, SONNET, StandIn

BACKUPS = ".hermes/backups/config/config.yaml.*"  # Hermes 0.22's own copies of the config
# Of what Hermes has to be asked, `make test` asks once: what is slow here is the matrix around it.
slow = pytest.mark.slow


@pytest.fixture
def workspace(request: pytest.FixtureRequest) -> Iterator[StandIn]:
    with StandIn(world=getattr(request, "param", "classic")) as standin:
        yield standin


def setup(
    workspace: StandIn, home: Path, *arguments: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    env = workspace.env | {"HOME": str(home)} | settings
    command = [sys.executable, str(ROOT / "setup_hermes.py"), *arguments]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=120, check=False
    )


# Python runs it before anything else, and it writes the program's own command line into a file, and
# that of each program which it starts.
SPY = """
import os, sys

def write(event, arguments):
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system"):
        with open(os.path.join(os.path.dirname(__file__), "started"), "a") as file:
            print(arguments[:2], file=file)  # the third is the environment

write("os.exec", (sys.executable, sys.orig_argv))
sys.addaudithook(write)
"""


@pytest.fixture
def started(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], str]:
    """The command lines of all Python programs from now on, and of what these started."""
    folder = tmp_path_factory.mktemp("spy")
    (folder / "sitecustomize.py").write_text(SPY)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return (folder / "started").read_text


@slow
def test_the_trace_that_started_this(workspace: StandIn, hermes_home: Path) -> None:
    direct = f"https://{workspace.workspace_host}/serving-endpoints"
    old = {
        "model": {
            "default": OPUS_4_7,
            "provider": "custom",
            "base_url": direct,
            "api_key": workspace.token,
        },
        "fallback_providers": [
            {"provider": "custom", "model": OPUS_4_6, "base_url": direct, "api_key": "stale"}
        ],
        "security": {"allow_lazy_installs": False},
    }
    (hermes_home / ".hermes").mkdir()
    (hermes_home / ".hermes" / "config.yaml").write_text(yaml.safe_dump(old))
    said = ask(workspace, hermes_home, "hello")
    assert "HTTP 404: The given endpoint does not exist" in said
    assert "HTTP 403: Invalid access token" in said
    assert {(r.status, r.model) for r in workspace.chats()} == {(404, OPUS_4_7), (403, OPUS_4_6)}

    assert setup(workspace, hermes_home).returncode == 0
    assert f"{OPUS_4_7} through https://{workspace.gateway_host}/openai: hello" in ask(
        workspace, hermes_home, "hello", "-Q"
    )
    assert "stale" not in (hermes_home / ".hermes" / "config.yaml").read_text()


@slow
def test_hermes_asks_direct_serving_alone_where_the_gateway_was_blocked(hermes_home: Path) -> None:
    with StandIn(gateway="black-holed", serves={"serving-endpoints": {OPUS_4_6}}) as workspace:
        direct = f"https://{workspace.workspace_host}/serving-endpoints"
        assert setup(workspace, hermes_home).returncode == 0
        assert f"{OPUS_4_6} through {direct}: hello" in ask(workspace, hermes_home, "hello", "-Q")
        assert {(r.status, r.model) for r in workspace.chats()} == {(200, OPUS_4_6)}


# --- Rotation and loss ------------------------------------------------------------------------------------------------


@slow
@pytest.mark.fault("token", 4)
def test_a_token_revoked_at_each_step_of_a_turn(workspace: StandIn, hermes_home: Path) -> None:
    """The plugin sends the newest key with each request, so that none is refused."""
    assert setup(workspace, hermes_home).returncode == 0
    config = hermes_home / ".hermes" / "config.yaml"
    workspace.tool_calls = 4
    workspace.on_tool_call = lambda: refresh_token(config, workspace.rotate())
    assert f"{OPUS_4_7} through https://{workspace.gateway_host}/openai: hello" in ask(
        workspace, hermes_home, "hello", "-Q"
    )
    assert {r.model for r in workspace.chats()} == {OPUS_4_7}
    assert len({r.token for r in workspace.chats() if r.status == 200}) == 5
    # Newer versions ask for a title beside the turn, with the key of that moment.
    assert sum(r.status != 200 for r in workspace.chats()) <= (1 if OTHER_HERMES else 0)


@slow
@pytest.mark.fault("token")
def test_a_token_revoked_in_mid_turn_without_the_plugin(
    workspace: StandIn, hermes_home: Path
) -> None:
    """The fallback chain goes on: with the same model on Hermes 0.19.0, with the other on 0.22."""
    assert setup(workspace, hermes_home).returncode == 0
    config = hermes_home / ".hermes" / "config.yaml"
    shutil.rmtree(hermes_home / ".hermes" / "plugins")
    workspace.lenient = {"empty-content", "name", "reasoning-effort"}  # which is the plugin's work
    workspace.tool_call = True
    workspace.on_tool_call = lambda: refresh_token(config, workspace.rotate())
    assert re.search("through https://.*: hello", ask(workspace, hermes_home, "hello", "-Q"))
    assert (403, OPUS_4_7) in [(r.status, r.model) for r in workspace.chats()]


@slow
@pytest.mark.parametrize("name", ["1e5", 'it\'s"quoted"'])
def test_a_model_name_arrives_as_it_is(name: str, hermes_home: Path) -> None:
    with StandIn(serves={"openai": {name}}) as workspace:
        assert setup(workspace, hermes_home, HERMES_MODEL=name).returncode == 0
        assert f"{name} through https://{workspace.gateway_host}/openai: hello" in ask(
            workspace, hermes_home, "hello", "-Q"
        )


@slow
def test_hermes_would_fetch_a_program_by_itself(workspace: StandIn, hermes_home: Path) -> None:
    """Its command scanner, the newest build from GitHub; that it does not: hermes/test_worlds.py."""
    if OTHER_HERMES:  # later versions fetch none
        return
    assert setup(workspace, hermes_home).returncode == 0
    config = hermes_home / ".hermes" / "config.yaml"
    config.write_text(config.read_text().replace("  tirith_path: ~/.local/bin/tirith\n", ""))
    ask(workspace, hermes_home, "hello", "-Q")
    assert "github.com" in {r.host for r in workspace.requests}


# --- Tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workspace", ["enforced"], indirect=True)
def test_the_token_is_nowhere_but_in_the_config(
    workspace: StandIn, hermes_home: Path, started: Callable[[], str]
) -> None:
    token = workspace.token

    def serve_nothing() -> None:
        for models in workspace.serves.values():
            models.clear()

    first, again = setup(workspace, hermes_home), setup(workspace, hermes_home, "--check")
    workspace.tool_call, workspace.on_tool_call = True, serve_nothing
    # One request is answered, the next is refused: Hermes keeps a record of that one.
    chat = ask(workspace, hermes_home, "hello")
    assert {(r.status, r.model) for r in workspace.chats()} >= {
        (200, NEW_OPUS_4_7),
        (404, NEW_OPUS_4_7),
    }
    assert "yes: " in again.stdout
    for said in (chat, first.stdout, first.stderr, again.stdout, again.stderr):
        assert token not in said
    for program in ("setup_hermes.py", "/bin/hermes"):
        assert program in started()
    assert token not in started()
    files = [Path(folder) / name for folder, _, names in os.walk(hermes_home) for name in names]
    assert [f for f in files if f.name.startswith("request_dump")]
    found = [f for f in files if f.is_file() and token.encode() in f.read_bytes()]
    assert hermes_home / ".hermes" / "config.yaml" in found
    assert {f.name for f in found if not f.match(BACKUPS)} == {"config.yaml"}


# --- The stand-in itself ----------------------------------------------------------------------------------------------


def test_the_stand_in_wraps_a_command(tmp_path: Path) -> None:
    url = "os.environ['DATABRICKS_HOST'] + '/api/2.0/serving-endpoints'"
    code = f"import requests, os; print(requests.get({url}, timeout=60).status_code)"
    log = tmp_path / "log"
    command = [sys.executable, "-m", "tests.standin", "--cloud", "gcp", "--serve", "openai=a,b"]
    command += ["--log", str(log), "--", sys.executable, "-c", f"{code}; raise SystemExit(7)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (7, b"401\n")
    assert '"path": "/api/2.0/serving-endpoints"' in log.read_text()


@pytest.mark.parametrize("block", [*BLOCK.finditer(CHECK.read_text())], ids=lambda block: block[1])
def test_what_is_shown_is_what_check_prints(block: re.Match[str]) -> None:
    assert checked(block) == block[0], "`make docs` writes it anew"


def command(*arguments: str) -> Callable[[StandIn, Path], object]:
    return lambda workspace, home: run_hermes(workspace, home, *arguments)


def script(text: str) -> Callable[[StandIn, Path], object]:
    """What Hermes's own Python is to run."""

    def run(workspace: StandIn, home: Path) -> None:
        python = (home / ".local" / "bin" / "hermes").resolve().with_name("python")
        env = hermes_env(workspace, home)
        subprocess.run(
            [str(python), "-c", text], env=env, cwd=home, capture_output=True, check=True
        )

    return run


def choose(workspace: StandIn, home: Path) -> None:
    """Choose a model in a chat, for all to come."""
    config = home / ".hermes" / "config.yaml"
    with chat_session(workspace, home) as session:
        choice = f"/model {SONNET} --provider custom:databricks-gateway --global"
        submit(session, choice, "(?i)switched")
        until(lambda: f"default: {SONNET}" in config.read_text(), lambda: str(session.before))


UPDATE = "from hermes_cli.config import migrate_config; migrate_config(interactive=False)"
MINE = "mine: {a: 1}\nplugins:\n  enabled: [mine]\n"
SETTINGS_PAGE = """
from fastapi.testclient import TestClient
from hermes_cli import web_server
headers = {"X-Hermes-Session-Token": web_server._SESSION_TOKEN}
page = TestClient(web_server.app, base_url="http://127.0.0.1", headers=headers)
"""
SAVE = """
config = page.get("/api/config").raise_for_status().json()
config["display"]["compact"] = not config["display"]["compact"]
page.put("/api/config", json={"config": config}).raise_for_status()
"""
CHOOSE = f"""
choice = {{"scope": "main", "provider": "custom:databricks-gateway", "model": "{SONNET}"}}
choice["confirm_expensive_model"] = True
assert page.post("/api/model/set", json=choice).raise_for_status().json()["ok"]
"""


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(command("config", "migrate"), id="config migrate"),
        *[
            pytest.param(write, id=name, marks=slow)
            for name, write in {
                "config set": command("config", "set", "model.default", OPUS_4_6),
                "doctor": command("doctor", "--fix"),
                "update": script(UPDATE),
                "settings page": script(SETTINGS_PAGE + SAVE),
                "model page": script(SETTINGS_PAGE + CHOOSE),
                "model": choose,
            }.items()
        ],
    ],
)
def test_what_hermes_writes_itself_is_ours_again(
    write: Callable[[StandIn, Path], object], workspace: StandIn, hermes_home: Path
) -> None:
    """It indents lists deeper, and its migration moves the providers into a mapping."""
    config = hermes_home / ".hermes" / "config.yaml"
    config.parent.mkdir()
    config.write_text(MINE)
    assert setup(workspace, hermes_home).returncode == 0
    before = config.read_text()
    write(workspace, hermes_home)
    assert config.read_text() != before
    host, old = f"https://{workspace.workspace_host}", workspace.token
    assert refresh_token(config, workspace.rotate(), host)
    assert old not in config.read_text()
    assert config.read_text().count(workspace.token) in (2, 3)  # a page may take that of the model
    theirs = yaml.safe_load(config.read_text())
    assert setup(workspace, hermes_home, DATABRICKS_TOKEN=workspace.token).returncode == 0
    ours, first = yaml.safe_load(config.read_text()), yaml.safe_load(before)
    ours["model"].pop("api_mode", None)  # Hermes's own word for what it does anyway
    for key in ("model", "custom_providers", "fallback_providers"):
        assert str(ours[key]).replace(workspace.token, "") == re.sub(
            "dapi\\w+", "", str(first[key])
        )
    assert ours["plugins"]["enabled"] == ["mine", "databricks"]
    assert ours["mine"] == {"a": 1}
    rest = {"model", "custom_providers", "fallback_providers", "providers", "security", "plugins"}
    assert {k: v for k, v in ours.items() if k not in rest} == {
        k: v for k, v in theirs.items() if k not in rest
    }
    assert not ours.get("providers")  # which Hermes would read first


@slow
@pytest.mark.fault("token", 3)
def test_three_workspaces_tokens_are_found_only_where_they_belong(
    hermes_home: Path, started: Callable[[], str]
) -> None:
    """One home that moves through three workspaces and back, with entries of the user's that name ours."""
    config, said = hermes_home / ".hermes" / "config.yaml", []
    with StandIn("azure") as azure, StandIn("aws") as aws, StandIn("gcp") as gcp:
        places, tokens, asked = (azure, aws, gcp, azure), dict[str, str](), []
        for place in places:
            done = setup(place, hermes_home)
            assert done.returncode == 0, done.stderr
            said += [done.stdout, done.stderr, setup(place, hermes_home, "--check").stdout]
            tokens[place.token] = place.cloud
            assert refresh_token(config, place.rotate(), f"https://{place.workspace_host}")
            tokens[place.token] = place.cloud
            other = next(p for p in places if p is not place)
            assert not refresh_token(config, other.token, f"https://{other.workspace_host}")
            asked += [(place, request) for request in place.requests]
            said.append(ask(place, hermes_home, "hello", "-Q"))
            asked += [(place, request) for request in place.requests]
            assert f"through https://{place.gateway_host}/openai: hello" in said[-1]
            mine = yaml.safe_load(config.read_text())
            for name in ("databricks-gateway", "databricks-direct"):
                mine["fallback_providers"].append(
                    {"provider": f"custom:{name}", "model": f"mine-{len(said)}"}
                )
            config.write_text(yaml.safe_dump(mine, sort_keys=False))
        assert len([request for _, request in asked if request.token]) > 20
        for place, request in asked:
            assert request.host in (place.workspace_host, place.gateway_host) or not request.token
            assert not request.token or tokens[request.token] == place.cloud
    for file in (f for f in hermes_home.rglob("*") if f.is_file() and ".local" not in f.parts):
        found = [token for token in tokens if token.encode() in file.read_bytes()]
        # Hermes 0.22 keeps backups of the config, with what is in it.
        assert not found or file.match(".hermes/config.yaml*") or file.match(BACKUPS), file
        if found:
            kept = yaml.safe_load(file.read_text())
            for entry in [kept["model"], *kept["custom_providers"]]:
                assert urlsplit(entry["base_url"]).hostname in HOSTS[tokens[entry["api_key"]]], file
    for text in (*said, started()):
        assert not [token for token in tokens if token in text]


@slow
def test_hermes_offers_the_workspaces_models(workspace: StandIn, hermes_home: Path) -> None:
    assert setup(workspace, hermes_home).returncode == 0
    if OTHER_HERMES:  # which shows its list in other ways
        return
    with chat_session(workspace, hermes_home) as session:
        submit(session, "/model", r"databricks-gateway\W+4 models")
        session.expect(r"databricks-direct\W+3 models")
