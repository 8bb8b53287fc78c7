"""deploy.py: from a checkout to a running app, with the real databricks-sdk, on the stand-in."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from unittest.mock import Mock
from urllib.parse import parse_qsl, urlsplit

import pytest
import responses
import yaml

pytest.importorskip("databricks.sdk", reason="databricks-sdk is missing: it is what deploys")
pytest.importorskip("trustme", reason="trustme is missing: the stand-in workspace needs it")

from databricks.sdk.clock import RealClock

import deploy
import deploying.commands
import deploying.console
import deploying.files
from deploying.console import DeployError, State, wait
from deploying.files import Manifest, read_files
from deploying.login import log_in
from deploying.options import known_settings, read_options
from deploying.settings import add_settings
from hermes.urls import SettingError
from tests.conftest import ROOT
from tests.modules import modules, needed
from tests.served import until
from tests.standin import NEW_OPUS_4_7, OPUS_4_6, OPUS_4_7, Answer, Call, StandIn, default_serves
from tests.standin.apps import PRINCIPAL, Apps, error
from tests.standin.runner import ME, Runner
from tests.standin.worlds import UNITY

FOLDER = f"/Users/{ME}/hermes"
URL = "https://hermes-1234567890123456.7.azure.databricksapps.com"
AI_MODEL = "system.ai.claude-opus"
EVERYWHERE = {
    "openai": {OPUS_4_7, OPUS_4_6},
    "ai-gateway/mlflow/v1": {AI_MODEL},
    "serving-endpoints": {OPUS_4_6},
}

Door = Callable[..., tuple[int, str, str]]


@pytest.fixture
def apps() -> Apps:
    return Apps()


@pytest.fixture
def workspace(apps: Apps) -> Iterator[StandIn]:
    with StandIn(rooms=apps.rooms, serves=EVERYWHERE) as standin:
        yield standin


@pytest.fixture
def few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a few files of the app's: each one costs a request."""
    root = tmp_path / "few"
    for name in ("app.yaml", "app.yaml.template", "requirements.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes((ROOT / name).read_bytes())
    for name in ("utils.py", "hermes/urls.py", "webapp/page.py"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(f"# {name}\n")
    monkeypatch.setattr(deploy, "ROOT", root)
    return root


@pytest.fixture
def door(
    workspace: StandIn,
    few_files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Door:
    """Runs deploy.py in this process, logged in: its exit code, and what it printed."""
    for name in os.environ.keys() - workspace.env.keys():
        monkeypatch.delenv(name)
    for name, value in (workspace.env | {"HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(deploying.console, "POLL", 0.0)

    def run(command: str = "deploy", typed: str = "", **given: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        options = [f"--{name.lower()}={value}" for name, value in given.items()]
        code = deploy.main([command, *options], os.environ)
        out, err = capsys.readouterr()
        assert workspace.token not in out + err
        assert "Traceback" not in out + err
        return code, out, err

    return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's own waiting takes no time, and its patience ends all the same."""
    now = [0.0]
    monkeypatch.setattr(RealClock, "time", lambda _: now[0])
    monkeypatch.setattr(RealClock, "sleep", lambda _, seconds: now.append(now.pop() + seconds))


def app_yaml(apps: Apps) -> dict[str, str]:
    """The environment that the uploaded app.yaml gives."""
    return {
        entry["name"]: entry["value"]
        for entry in yaml.safe_load(apps.files[f"{FOLDER}/app.yaml"])["env"]
    }


def resources(apps: Apps) -> list[dict[str, object]]:
    found: list[dict[str, object]] = apps.apps["hermes"].get("resources", [])
    return found


def endpoint(name: str, model: str, permission: str = "CAN_QUERY") -> dict[str, object]:
    return {"name": name, "serving_endpoint": {"name": model, "permission": permission}}


# --- The first time, and the next -----------------------------------------------------------------


def test_the_first_run_makes_everything(
    door: Door, apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy, "ROOT", ROOT)
    code, out, err = door()
    assert (code, err, out.splitlines()[-1]) == (0, "", URL)
    assert (
        f"Resources: none needed for {OPUS_4_7}: AI Gateway answered you; whether it answers the"
        " app, the app's page shows\n" in out
    )
    assert (
        f"Model:     {OPUS_4_7} on https://1234567890123456.0.ai-gateway.azuredatabricks.net/openai"
        " (it answered)" in out
    )
    assert apps.apps["hermes"]["app_status"]["state"] == "RUNNING"
    assert resources(apps) == [endpoint("hermes-fallback-model", OPUS_4_6)]
    assert {
        name: data for name, data in apps.deployed.items() if name != deploying.files.MANIFEST
    } == read_files(ROOT)
    # Each new state is one line.
    assert [
        line.rpartition(",")[0] for line in out.splitlines() if line.startswith("Deploying:")
    ] == [
        "Deploying: IN_PROGRESS",
        "Deploying: SUCCEEDED",
    ]


def test_the_second_run_changes_nothing(door: Door, apps: Apps) -> None:
    door()
    apps.calls.clear()
    code, out, _ = door()
    assert (code, apps.changes, out.splitlines()[-1]) == (0, [], URL)
    assert out.count("unchanged") == 3
    assert len(apps.calls) < 10


def test_what_runs_is_uploaded_and_nothing_else() -> None:
    files = read_files(ROOT)
    code = {name for name in files if name.endswith(".py")}
    assert code == {str(modules()[name].relative_to(ROOT)) for name in needed("app")}
    # The rest is what Databricks reads, Hermes reads beside its plugin, and the code names.
    read = {"app.yaml", "requirements.txt", "constraints.txt", "hermes/provider/plugin.yaml"}
    text = b"".join(files[name] for name in code)
    assert read <= files.keys()
    rest = map(Path, files.keys() - code - read)
    named = {
        path for path in rest if path.name.encode() in text or f'"{path.stem}"'.encode() in text
    }
    assert code | read | set(map(str, named)) == files.keys()


OWN = ["app.yaml", "hermes/a.py", "webapp/in/b.txt"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A few files of the app's, and some that are not."""
    root, outside = tmp_path / "checkout", tmp_path / "outside.py"
    hidden = ["hermes/__pycache__/a.py", "hermes/.a.py", "hermes/a.py~", "n.txt", "webapp/key.pem"]
    for name in (*OWN, *hidden, "hermes/notes.py", "hermes/node_modules/c.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    outside.write_text("secret")
    (root / "hermes" / "link.py").symlink_to(outside)
    (root / "webapp" / "folder").symlink_to(tmp_path)
    (root / "webapp" / "gone.py").symlink_to(root / "nowhere")
    return root


def test_what_git_tracks_is_uploaded_and_no_link_is_followed(checkout: Path) -> None:
    git = ["git", "-C", str(checkout)]
    subprocess.run([*git, "init", "-q"], check=True)
    links = ["hermes/link.py", "webapp/folder", "webapp/gone.py"]
    subprocess.run([*git, "add", "-f", *OWN, "n.txt", *links], check=True)
    assert sorted(read_files(checkout)) == OWN
    (checkout / "hermes" / "a.py").unlink()
    assert sorted(read_files(checkout)) == [OWN[0], OWN[2]]
    subprocess.run([*git, "rm", "-q", "--cached", "app.yaml"], check=True)
    with pytest.raises(SettingError, match="it is not uploaded; expected a file that Git tracks"):
        read_files(checkout)


def test_without_git_the_kinds_of_the_app_are_uploaded(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    notes = ["hermes/node_modules/c.py", "hermes/notes.py"]
    assert sorted(read_files(checkout)) == sorted([*OWN, *notes])
    monkeypatch.setenv("PATH", "/nowhere")
    assert sorted(read_files(checkout)) == sorted([*OWN, *notes])
    (tmp_path / "linked").symlink_to(checkout)
    assert sorted(read_files(tmp_path / "linked")) == sorted([*OWN, *notes])


def test_only_what_changed_is_uploaded(door: Door, apps: Apps, few_files: Path) -> None:
    apps.files[f"{FOLDER}/notes.txt"] = b"somebody's"
    door()
    (few_files / "webapp" / "page.py").unlink()
    (few_files / "utils.py").write_bytes(b"# new\n\xff\r\n\x00")
    apps.calls.clear()
    code, out, _ = door()
    assert code == 0
    assert f"1 of 4 uploaded to /Workspace{FOLDER}: utils.py" in out
    assert "webapp/page.py deleted" in out
    assert apps.files[f"{FOLDER}/utils.py"] == b"# new\n\xff\r\n\x00"
    assert f"{FOLDER}/webapp/page.py" not in apps.files
    assert apps.files[f"{FOLDER}/notes.txt"] == b"somebody's"
    # The file, and what is known: before, after, deployed.
    assert apps.changes.count("POST /api/2.0/workspace/import") == 4
    assert apps.changes.count("POST /api/2.0/apps/hermes/deployments") == 1


def test_a_list_of_files_that_cannot_be_read_or_trusted_deletes_nothing(
    door: Door, apps: Apps, few_files: Path
) -> None:
    door()
    known = f"{FOLDER}/{deploying.files.MANIFEST}"
    outside = '{"files": {"../x": "1", "/Users/y": "1"}, "given": {}, "deployment": ""}'
    for text in ("", "[]", '{"files": 3}', outside):
        apps.files[known] = text.encode()
        apps.calls.clear()
        assert door()[0] == 0
        assert "POST /api/2.0/workspace/delete" not in apps.changes
        assert json.loads(apps.files[known])["files"].keys() == read_files(few_files).keys()


def test_a_dry_run_only_reads(door: Door, apps: Apps) -> None:
    code, out, _ = door(DRY="1", SET="HERMES_MODEL=" + AI_MODEL, FORCE="1")
    assert (code, apps.changes) == (0, [])
    for line in (
        "hermes would be created",
        "would be given",
        "would be uploaded",
        "Deployed:  would be",
    ):
        assert line in out
    door()
    apps.calls.clear()
    code, out, _ = door(DRY="1")
    assert (code, apps.changes, out.count("unchanged")) == (0, [], 3)
    code, out, _ = door("undeploy", "hermes\n", DRY="1")
    assert (code, apps.changes) == (0, [])


def test_a_dry_run_on_an_app_that_lacks_its_resources_only_reads(door: Door, apps: Apps) -> None:
    apps.make("hermes", ME)
    code, out, _ = door(DRY="1")
    assert (code, apps.changes) == (0, [])
    assert "would be given" in out


@pytest.mark.parametrize(
    ("given", "dry"),
    [
        ("--dry", True),
        ("--dry=1", True),
        ("--dry=0", False),
        ("--dry=no", False),
        ("--dry=", False),
    ],
)
def test_off_is_off(given: str, dry: bool) -> None:
    assert read_options(["deploy", given], "", []).dry is dry


# --- Settings -------------------------------------------------------------------------------------


def test_settings_go_into_the_uploaded_file_alone(door: Door, apps: Apps, few_files: Path) -> None:
    before = (few_files / "app.yaml").read_bytes()
    given = f"HERMES_MODEL={OPUS_4_6} MAX_CONCURRENT_SESSIONS=3 DEEPWIKI_MCP_URL="
    given += """ APP_OWNER='"me": #1@example.com'"""
    assert door(SET=given)[0] == 0
    env = app_yaml(apps)
    assert (env["HERMES_MODEL"], env["MAX_CONCURRENT_SESSIONS"]) == (OPUS_4_6, "3")
    assert (env["APP_OWNER"], env["DEEPWIKI_MCP_URL"]) == ('"me": #1@example.com', "")
    assert env["HOME"] == "/app/python/source_code"
    assert (few_files / "app.yaml").read_bytes() == before


KEPT = "HERMES_MODEL, APP_OWNER, EXA_MCP_URL as last time"


def test_settings_stay_until_they_are_taken_back(door: Door, apps: Apps) -> None:
    door(SET=f"HERMES_MODEL={OPUS_4_6} APP_OWNER=a@example.com EXA_MCP_URL=")
    first, apps.calls = app_yaml(apps), []
    code, out, _ = door()
    assert (code, apps.changes, app_yaml(apps)) == (0, [], first)
    assert f'Settings:  {KEPT}; SET="HERMES_MODEL=" takes HERMES_MODEL back\n' in out
    code, out, _ = door(SET="HERMES_MODEL= APP_OWNER=")
    assert "Settings:  HERMES_MODEL, APP_OWNER taken back: as in app.yaml again\n" in out
    assert 'SET="EXA_MCP_URL=https://mcp.exa.ai/mcp" takes EXA_MCP_URL back' in out
    env = app_yaml(apps)
    assert ("APP_OWNER" in env, env["EXA_MCP_URL"], env["HERMES_MODEL"]) == (False, "", OPUS_4_7)
    apps.calls.clear()
    code, out, _ = door(SET="APP_OWNER=")  # the same as nothing
    assert (code, apps.changes, "taken back" in out) == (0, [], False)


def test_where_a_token_goes_is_said_by_each_run(door: Door, apps: Apps, workspace: StandIn) -> None:
    gateway = f"https://{workspace.gateway_host}"
    assert door(SET=f"DATABRICKS_GATEWAY_HOST={gateway}")[0] == 0
    assert app_yaml(apps)["DATABRICKS_GATEWAY_HOST"] == gateway
    _, out, _ = door()
    said = "DATABRICKS_GATEWAY_HOST not kept from last time, as it says where the token goes"
    assert f"Settings:  {said}\n" in out
    assert "DATABRICKS_GATEWAY_HOST" not in app_yaml(apps)
    assert "not kept" not in door()[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--set=DATABRICKS_TOKEN=dapi0123", "SET: DATABRICKS_TOKEN would lie open .* `valueFrom`"),
        ("--set=HERMES_MODLE=x", "SET: 'HERMES_MODLE' is no setting of the app; .*HERMES_MODEL"),
        ("--set=HERMES_MODEL=two words", r"SET: a word of it has no '=' \(not shown\); expected"),
        ("--set=dapi0123=x", r"SET: one of its names \(not shown\) is no setting (?!.*TOKEN)"),
        ("--set=HERMES_MODEL", "SET: HERMES_MODEL has no value; expected HERMES_MODEL=value"),
        ("--set=HERMES_MODEL='a", "SET: No closing quotation; expected NAME=value pairs"),
        ("--app=Hermes!", "APP: 'Hermes!' is not valid"),
        ("--volume=main.default", "VOLUME: 'main.default' is not valid; expected catalog.schema"),
        ("--volume=main.default.home/x", "VOLUME: 'main.default.home/x' is not valid"),
        ("--host=https://x.example --profile=work", "HOST: it is set, and PROFILE too"),
        ("--dry=perhaps", "DRY: 'perhaps' is not valid"),
        ("--colour=red", "deploy.py: unrecognized arguments: --colour=red; --help lists"),
    ],
)
def test_bad_arguments_are_one_line(given: str, said: str) -> None:
    options = re.split(" (?=--)", given)
    with pytest.raises(SettingError, match=f"^{said}") as refused:
        read_options(["deploy", *options], "", known_settings(ROOT))
    assert "dapi0123" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"SET": "DATABRICKS_TOKEN=dapi0123"}, "SET: DATABRICKS_TOKEN would lie open"),
        ({"SET": "HERMES_MODEL='a b'"}, "HERMES_MODEL: 'a b' is not valid"),
        ({"SET": "MAX_CONCURRENT_SESSIONS=many"}, "MAX_CONCURRENT_SESSIONS: 'many' is not valid"),
        ({"SET": "DATABRICKS_GATEWAY_HOST=http://x.y"}, "DATABRICKS_GATEWAY_HOST: 'http://x.y'"),
        ({"VOLUME": "main.default.gone"}, "VOLUME: main.default.gone cannot be used .*not exist"),
        ({"PROFILE": "work"}, "PROFILE: 'work' is not in"),
        ({"HOST": "http://x.example"}, "HOST: 'http://x.example' is not valid"),
    ],
)
def test_bad_settings_are_one_line_and_nothing_is_touched(
    door: Door, apps: Apps, given: dict[str, str], said: str
) -> None:
    code, out, err = door(**given)
    assert (code, apps.changes, err.count("\n")) == (2, [], 1)
    assert re.match(said, err)
    assert "dapi0123" not in out + err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *[
            (text, "^app.yaml: it has no usable `env`")
            for text in ("", "[]", "env: 3", "env: [3]", "env:\n- value: 3", "a: b: c")
        ],
        (
            "env:\n- {name: DATABRICKS_TOKEN, value: dapi0123}",
            "^app.yaml: DATABRICKS_TOKEN would lie open .* `valueFrom`",
        ),
    ],
)
def test_an_app_yaml_that_is_not_valid_is_one_line(text: str, said: str) -> None:
    for given in ({}, {"HERMES_MODEL": "x"}):
        with pytest.raises(SettingError, match=said) as refused:
            add_settings(text.encode(), given)
        assert "dapi0123" not in str(refused.value)


def test_a_token_bound_to_the_app_stays_bound() -> None:
    bound = b"env:\n- {name: HERMES_MODEL, value: x}\n- {name: DATABRICKS_TOKEN, valueFrom: mine}\n"
    env = yaml.safe_load(add_settings(bound, {"HERMES_MODEL": "y"}))["env"]
    assert env == [
        {"name": "DATABRICKS_TOKEN", "valueFrom": "mine"},
        {"name": "HERMES_MODEL", "value": "y"},
    ]


def test_hermes_turned_off_needs_no_route(door: Door, apps: Apps, workspace: StandIn) -> None:
    workspace.serves = {}
    code, out, _ = door(SET="ENABLE_HERMES=false")
    assert (code, "Model:" in out, resources(apps)) == (0, False, [])


def test_make_passes_what_it_is_given_as_it_is(workspace: StandIn, tmp_path: Path) -> None:
    """Neither make nor the shell reads it, and a HOST of the environment is not one given."""
    evil = tmp_path / "evil"
    given = f"A=$(shell touch {evil}) `touch {evil}`; 'touch {evil}' \"$$(touch {evil})\""
    command = [
        "make",
        "-s",
        "-o",
        ".venv/ready",
        "deploy",
        f"SET={given}",
        f"APP=$(shell touch {evil})",
    ]
    env = workspace.env | {"HOME": str(tmp_path), "HOST": "x86_64-conda-linux-gnu"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert f"APP: '$(shell touch {evil})' is not valid" in done.stderr
    command.pop()
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("SET: 'A' is no setting")
    command[-1] = "app=other"
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "app: not valid; expected APP PROFILE HOST SET VOLUME DRY FORCE" in done.stderr
    assert not evil.exists()


# --- What it may use ------------------------------------------------------------------------------


def test_other_resources_and_fields_of_an_app_stay(door: Door, apps: Apps) -> None:
    theirs = [
        {"name": "db", "sql_warehouse": {"id": "abc", "permission": "CAN_USE"}},
        endpoint("hermes-model", "old-model"),
        endpoint("hermes-direct-model", OPUS_4_6),
    ]
    apps.make(
        "hermes",
        ME,
        description="mine",
        budget_policy_id="b1",
        user_api_scopes=["sql"],
        resources=theirs,
    )
    assert door()[0] == 0
    assert resources(apps) == [theirs[0], endpoint("hermes-fallback-model", OPUS_4_6)]
    app = apps.apps["hermes"]
    assert (app["description"], app["budget_policy_id"], app["user_api_scopes"]) == (
        "mine",
        "b1",
        ["sql"],
    )
    _, out, _ = door("status")
    assert f"Resources: abc (CAN_USE), {OPUS_4_6} (CAN_QUERY)" in out


@pytest.mark.parametrize(
    ("permission", "model", "enough"),
    [
        ("CAN_QUERY", OPUS_4_6, True),
        ("CAN_MANAGE", OPUS_4_6, True),
        ("CAN_VIEW", OPUS_4_6, False),
        ("CAN_QUERY", "another-model", False),
    ],
)
def test_a_resource_that_gives_as_much_is_enough(
    door: Door, apps: Apps, permission: str, model: str, enough: bool
) -> None:
    theirs = endpoint("llm", model, permission)
    apps.endpoints.add(model)
    apps.make("hermes", ME, resources=[theirs])
    assert door()[0] == 0
    assert resources(apps) == [
        theirs,
        *([] if enough else [endpoint("hermes-fallback-model", OPUS_4_6)]),
    ]


def test_one_endpoint_for_both_models_is_one_resource(door: Door, apps: Apps) -> None:
    assert door(SET=f"HERMES_MODEL={OPUS_4_6}")[0] == 0
    assert [r["serving_endpoint"] for r in resources(apps)] == [
        {"name": OPUS_4_6, "permission": "CAN_QUERY"}
    ]


@pytest.mark.parametrize("refusal", ["gone", "not mine to give"])
def test_an_endpoint_that_cannot_be_given_is_said(door: Door, apps: Apps, refusal: str) -> None:
    if refusal == "gone":
        apps.endpoints.clear()
    else:
        apps.admin = False
    code, out, _ = door()
    assert (code, out.splitlines()[-1]) == (0, URL)
    said = r"\(CAN_QUERY\) refused \(.*\): who manages that can give it to app-1 hermes"
    assert re.search(said, out)


def test_a_volume_is_bound_and_named_to_the_app(door: Door, apps: Apps) -> None:
    apps.volumes.add("main.default.home")
    assert door(VOLUME="main.default.home")[0] == 0
    bound = {
        "securable_full_name": "main.default.home",
        "securable_type": "VOLUME",
        "permission": "WRITE_VOLUME",
    }
    assert {"name": "hermes-volume", "uc_securable": bound} in resources(apps)
    assert app_yaml(apps)["HERMES_VOLUME"] == "/Volumes/main/default/home"
    apps.calls.clear()
    assert door(VOLUME="main.default.home")[0] == 0
    assert apps.changes == []


def test_who_else_may_read_the_volume_is_said(door: Door, apps: Apps) -> None:
    apps.volumes.add("main.default.home")
    rights = apps.grants.setdefault(("volume", "main.default.home"), {})
    rights |= {ME: {"READ_VOLUME"}, PRINCIPAL: {"READ_VOLUME", "WRITE_VOLUME"}}
    assert (
        "Volume:    nobody else was given READ VOLUME; admins and its managers can take it.\n"
        in door(VOLUME="main.default.home")[1]
    )
    rights["account users"] = {"READ_VOLUME"}
    assert "Volume:    readable by others: account users\n" in door(VOLUME="main.default.home")[1]
    apps.fault = lambda call: (
        error(403, "PERMISSION_DENIED", "no") if "effective" in call.path else None
    )
    assert "Volume:    who else may read the volume is not known (no)\n" in door()[1]


def test_a_volume_stays_until_it_is_taken_away(door: Door, apps: Apps) -> None:
    apps.volumes.add("main.default.home")
    assert door(SET="HERMES_VOLUME=/Volumes/main/default/home/mine")[0] == 0
    assert "hermes-volume" in [r["name"] for r in resources(apps)]
    apps.calls.clear()
    code, out, _ = door()
    assert (code, apps.changes) == (0, [])
    assert 'Settings:  HERMES_VOLUME as last time; SET="HERMES_VOLUME=" takes' in out
    code, out, _ = door(SET="HERMES_VOLUME=", DRY="1")
    assert "Resources: main.default.home (WRITE_VOLUME) would be taken away\n" in out
    code, out, _ = door(SET="HERMES_VOLUME=")
    assert "Resources: main.default.home (WRITE_VOLUME) taken away\n" in out
    assert [r["name"] for r in resources(apps)] == ["hermes-fallback-model"]
    assert "HERMES_VOLUME" not in app_yaml(apps)
    assert "as last time" not in door()[1]


def test_what_cannot_be_taken_away_is_said(door: Door, apps: Apps) -> None:
    apps.volumes.add("main.default.home")
    door(VOLUME="main.default.home")
    apps.updated = ("FAILED", "try later")
    code, out, _ = door(SET="HERMES_VOLUME= ENABLE_HERMES=false")
    assert code == 0
    stays = "main.default.home (WRITE_VOLUME) not taken away (try later): run this again"
    assert stays in out
    assert "hermes-volume" in [r["name"] for r in resources(apps)]


def test_a_volume_is_taken_away_though_all_else_is_refused(door: Door, apps: Apps) -> None:
    apps.volumes.add("main.default.home")
    door(VOLUME="main.default.home", SET="ENABLE_HERMES=false")
    apps.endpoints.clear()
    code, out, _ = door(SET="HERMES_VOLUME= ENABLE_HERMES=")
    assert (code, resources(apps)) == (0, [])
    assert "Resources: main.default.home (WRITE_VOLUME) taken away\n" in out
    assert f"Resources: {OPUS_4_6} (CAN_QUERY) refused (" in out


def test_a_volume_that_an_earlier_version_was_given_stays_too(door: Door, apps: Apps) -> None:
    apps.volumes.add("main.default.home")
    apps.files[f"{FOLDER}/{deploying.files.MANIFEST}"] = json.dumps(
        {"files": {}, "given": ["HERMES_VOLUME"], "volume": "/Volumes/main/default/home"}
        | {"deployment": ""}
    ).encode()
    assert door()[0] == 0
    assert app_yaml(apps)["HERMES_VOLUME"] == "/Volumes/main/default/home"


def test_a_volume_of_a_run_that_was_cut_off_stays_too(door: Door, apps: Apps, clock: None) -> None:
    apps.volumes.add("main.default.home")
    apps.fault = lambda call: error(400, "BAD_REQUEST", "no") if b"/utils.py" in call.body else None
    assert door(VOLUME="main.default.home")[0] == 1
    assert f"{FOLDER}/utils.py" not in apps.files
    apps.fault = lambda call: None
    assert door()[0] == 0
    assert app_yaml(apps)["HERMES_VOLUME"] == "/Volumes/main/default/home"


def service(name: str, model: str) -> dict[str, object]:
    right = {"permission": "EXECUTE", "securable_type": "MODEL_SERVICE"}
    return {"name": name, "uc_securable": {"securable_full_name": model, **right}}


def test_a_model_service_is_given_with_execute(door: Door, apps: Apps) -> None:
    apps.services.add(AI_MODEL)
    code, out, _ = door(SET=f"HERMES_MODEL={AI_MODEL}")
    given = f"Resources: {AI_MODEL} (EXECUTE), {OPUS_4_6} (CAN_QUERY) given\n"
    assert (code, given in out, "GRANT" in out) == (0, True, False)
    assert resources(apps) == [
        service("hermes-model", AI_MODEL),
        endpoint("hermes-fallback-model", OPUS_4_6),
    ]
    assert apps.executable() == {AI_MODEL}
    apps.calls.clear()
    code, out, _ = door()
    assert (code, apps.changes) == (0, [])
    assert f"Resources: {AI_MODEL} (EXECUTE), {OPUS_4_6} (CAN_QUERY) (unchanged)" in out


REFUSING: list[tuple[str, dict[str, object], str]] = [
    ("not mine to give", {"admin": False}, "User does not have MANAGE on model service"),
    ("an older Apps API", {"knows_services": False}, "Unknown securable type: MODEL_SERVICE"),
    ("the update fails", {"updated": ("FAILED", "no such service")}, "no such service"),
]


@pytest.mark.parametrize(
    ("fields", "reason"), [case[1:] for case in REFUSING], ids=[case[0] for case in REFUSING]
)
def test_where_it_is_refused_there_is_sql_for_an_admin(
    door: Door, apps: Apps, fields: dict[str, object], reason: str
) -> None:
    apps.services.add(AI_MODEL)
    vars(apps).update(fields)
    code, out, _ = door(SET=f"HERMES_MODEL={AI_MODEL} HERMES_FALLBACK_MODEL={AI_MODEL}")
    assert code == 0
    assert re.search(
        rf"^Resources: {AI_MODEL} \(EXECUTE\) refused \({reason}.*\): an admin", out, re.M
    )
    assert re.findall("^  GRANT .*", out, re.MULTILINE) == [
        f"  GRANT USE CATALOG ON CATALOG system TO `{PRINCIPAL}`;",
        f"  GRANT USE SCHEMA ON SCHEMA system.ai TO `{PRINCIPAL}`;",
        f"  GRANT EXECUTE ON SCHEMA system.ai TO `{PRINCIPAL}`;",
    ]


def test_what_an_admin_gave_by_sql_is_not_asked_for_again(door: Door, apps: Apps) -> None:
    apps.services.add(AI_MODEL)
    apps.admin = False
    door(SET=f"HERMES_MODEL={AI_MODEL} HERMES_FALLBACK_MODEL={AI_MODEL}")
    apps.grants |= {
        ("CATALOG", "system"): {PRINCIPAL: {"USE_CATALOG"}},
        ("SCHEMA", "system.ai"): {PRINCIPAL: {"USE_SCHEMA", "EXECUTE"}},
    }
    apps.calls.clear()
    code, out, _ = door()
    assert (code, apps.changes, "GRANT" in out) == (0, [], False)
    assert f"Resources: {AI_MODEL} (EXECUTE) (unchanged)" in out


def test_a_model_service_that_takes_another_place_stays_given(
    door: Door, apps: Apps, workspace: StandIn
) -> None:
    other = "system.ai.claude-other"
    apps.services |= {AI_MODEL, other}
    workspace.serves = {"ai-gateway/mlflow/v1": {AI_MODEL, other}}
    door(SET=f"HERMES_MODEL={AI_MODEL} HERMES_FALLBACK_MODEL={other}")
    code, out, _ = door(SET=f"HERMES_MODEL={other} HERMES_FALLBACK_MODEL={AI_MODEL}")
    assert (code, "taken away" in out) == (0, False)
    assert resources(apps) == [
        service("hermes-model", other),
        service("hermes-fallback-model", AI_MODEL),
    ]
    assert apps.executable() == {AI_MODEL, other}


def test_what_is_not_refused_is_given(door: Door, apps: Apps) -> None:
    apps.services.add(AI_MODEL)
    apps.volumes.add("main.default.home")
    apps.knows_services = False
    code, out, _ = door(SET=f"HERMES_MODEL={AI_MODEL}", VOLUME="main.default.home")
    assert (code, "GRANT EXECUTE" in out) == (0, True)
    assert [r["name"] for r in resources(apps)] == ["hermes-fallback-model", "hermes-volume"]


def test_what_is_taken_one_by_one_is_given(door: Door, apps: Apps) -> None:
    apps.volumes.add("main.default.home")

    def fault(call: Call) -> Answer | None:
        if not call.path.endswith("/update"):
            return None
        apps.fault = lambda call: None
        return error(400, "BAD_REQUEST", "not all at once")

    apps.fault = fault
    code, out, _ = door(VOLUME="main.default.home")
    given = f"{OPUS_4_6} (CAN_QUERY), main.default.home (WRITE_VOLUME) given\n"
    assert (code, f"Resources: {given}" in out, "refused" in out) == (0, True, False)
    assert [r["name"] for r in resources(apps)] == ["hermes-fallback-model", "hermes-volume"]


def test_one_instance_of_the_app_runs(door: Door, apps: Apps) -> None:
    apps.make("hermes", ME, compute_min_instances=2, compute_max_instances=3)
    code, _, _ = door(DRY="1")
    assert (code, apps.changes) == (0, [])
    apps.knows_instances = False
    assert "App:       3 instances stay (Several instances are not available): set one" in door()[1]
    apps.knows_instances = True
    assert "App:       3 instances are one now" in door()[1]
    app = apps.apps["hermes"]
    assert (app["compute_min_instances"], app["compute_max_instances"]) == (1, 1)
    apps.calls.clear()
    assert (door()[0], apps.changes) == (0, [])


# --- What goes wrong ------------------------------------------------------------------------------


def test_no_route_for_the_model_stops_before_anything(
    door: Door, apps: Apps, workspace: StandIn
) -> None:
    workspace.serves = {"serving-endpoints": {"mine"}}
    code, _, err = door()
    assert (code, apps.changes) == (1, [])
    assert f"Not served: {OPUS_4_7} is served on none of these routes" in err
    assert "This workspace lists mine." in err
    assert door(FORCE="1")[0] == 0
    assert apps.deployed


def test_nobody_is_logged_in(door: Door, apps: Apps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABRICKS_TOKEN")
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = door()
    assert (code, apps.calls, err.count("\n")) == (1, [], 1)
    assert re.match(r"Not logged in \(.*\): give PROFILE=...", err)


def test_the_login_is_not_taken(door: Door, apps: Apps, workspace: StandIn) -> None:
    workspace.reject_token = True
    code, _, err = door()
    assert (code, apps.calls, err.count("\n")) == (1, [], 1)
    assert re.match(
        r"Not logged in \(https://.* does not take this login: Invalid access token\)", err
    )


def test_a_service_principal_must_name_the_owner(door: Door, apps: Apps) -> None:
    apps.me = PRINCIPAL
    code, _, err = door()
    assert (code, apps.changes) == (2, [])
    assert err.startswith(f"APP_OWNER: it is not set, and {PRINCIPAL} is no person")
    assert door(SET="APP_OWNER=me@example.com")[0] == 0


def test_creating_apps_is_not_allowed(door: Door, apps: Apps) -> None:
    apps.may_create = False
    code, _, err = door()
    assert (code, apps.files, err.count("\n")) == (1, {}, 1)
    assert err.startswith(
        "You may not create apps in this workspace (User does not have permission to create apps)"
    )


def test_the_name_is_taken(door: Door, apps: Apps) -> None:
    apps.make("hermes", "somebody@example.com")
    code, _, err = door()
    assert (code, apps.changes, err.count("\n")) == (1, [], 1)
    assert err.startswith(
        "APP: 'hermes' is the app of somebody@example.com; expected a name of your own"
    )
    assert door(APP="hermes-2")[0] == 0
    assert door(FORCE="1")[0] == 0


@pytest.mark.parametrize(
    "answer", [error(403, "PERMISSION_DENIED", "no"), error(404, "RESOURCE_DOES_NOT_EXIST", "no")]
)
def test_the_name_is_taken_by_an_app_that_is_hidden(door: Door, apps: Apps, answer: Answer) -> None:
    apps.make("hermes", "somebody@example.com")
    apps.fault = lambda call: (
        answer if (call.method, call.path) == ("GET", "/api/2.0/apps/hermes") else None
    )
    code, _, err = door()
    assert code == 1
    assert re.fullmatch(
        r"APP: 'hermes' is taken by an app that is hidden from you \(.+\); expected another name\n",
        err,
    )
    assert apps.files == {}


def test_there_is_no_room_for_another_app(door: Door, apps: Apps, clock: None) -> None:
    apps.limit = 0
    code, _, err = door()
    assert (code, apps.files, err.count("\n")) == (1, {}, 1)
    assert err.startswith(
        "No room for another app (The maximum number of apps for this workspace, 0, was reached)"
    )


def test_the_app_does_not_start(door: Door, apps: Apps) -> None:
    apps.make("hermes", ME, compute_status={"state": "STARTING", "message": ""})
    broken = {
        "name": "hermes",
        "creator": ME,
        "compute_status": {"state": "ERROR", "message": "no capacity"},
    }
    apps.fault = lambda call: (
        (200, broken) if call.path == "/api/2.0/apps/hermes" and call.method == "GET" else None
    )
    code, _, err = door()
    assert code == 1
    assert err.startswith("hermes does not start (ERROR: no capacity). Its page: https://")


@pytest.mark.parametrize("state", ["STOPPED", "STOPPING", "STARTING", "ERROR"])
def test_an_app_that_is_down_is_brought_up(door: Door, apps: Apps, state: str) -> None:
    door()
    apps.apps["hermes"]["compute_status"] = {"state": state, "message": ""}
    apps.calls.clear()
    code, out, _ = door()
    assert (code, f"hermes was {state}: started" in out) == (0, True)
    assert apps.changes == ([] if state == "STARTING" else ["POST /api/2.0/apps/hermes/start"])


def test_an_app_that_is_being_deleted_is_left_alone(door: Door, apps: Apps) -> None:
    apps.make("hermes", ME, compute_status={"state": "DELETING", "message": ""})
    code, _, err = door()
    assert (code, apps.changes) == (1, [])
    assert err.startswith("hermes is being deleted: run this again when it is gone")


def test_a_deployment_fails_and_the_next_one_does_not(door: Door, apps: Apps) -> None:
    apps.fails = "Error installing requirements"
    code, _, err = door()
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(
        "The deployment ended FAILED: Error installing requirements. Its logs: https://"
    )
    assert "FAILED" in door("status")[1]
    apps.fails = ""
    apps.calls.clear()
    assert door()[0] == 0
    # Nothing but the deployment, and which one it was.
    assert apps.changes == [
        "POST /api/2.0/apps/hermes/deployments",
        "POST /api/2.0/workspace/import",
    ]


def test_an_app_that_crashes_is_said_and_deployed_again(door: Door, apps: Apps) -> None:
    apps.crashes = "app.py exited with 2"
    code, _, err = door()
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("hermes does not run (CRASHED: app.py exited with 2). Its logs: https://")
    apps.crashes = ""
    assert door()[0] == 0


@pytest.mark.parametrize("which", ["app", "deployment"])
def test_what_does_not_run_any_more_is_deployed_again(door: Door, apps: Apps, which: str) -> None:
    door()
    app = apps.apps["hermes"]
    if which == "app":
        app["app_status"] = {"state": "UNAVAILABLE", "message": ""}
    else:
        app["active_deployment"]["status"] = {"state": "FAILED", "message": ""}
    apps.calls.clear()
    assert "Deployed:  would be\n" in door(DRY="1")[1]
    assert door()[0] == 0
    assert "POST /api/2.0/apps/hermes/deployments" in apps.changes


def test_somebody_elses_deployment_is_waited_for(door: Door, apps: Apps) -> None:
    door()
    other = {
        "deployment_id": "x",
        "create_time": "0",
        "source_code_path": "/Workspace/x",
        "status": {"state": "IN_PROGRESS", "message": ""},
    }
    apps.deployments["hermes"].append(other)
    apps.apps["hermes"]["pending_deployment"] = other
    apps.takes = 10
    code, _, _ = door()
    assert code == 0
    assert "pending_deployment" not in apps.apps["hermes"]
    assert apps.apps["hermes"]["active_deployment"] == apps.deployments["hermes"][-1] != other


LOST = [
    ("POST", "/api/2.0/apps", 1),
    ("POST", "/api/2.0/apps/hermes/update", 1),
    ("GET", "/api/2.0/apps/hermes/update", 1),
    ("POST", "/api/2.0/workspace/mkdirs", 2),
    ("POST", "/api/2.0/workspace/import", 1),
    ("POST", "/api/2.0/workspace/import", 5),
    ("POST", "/api/2.0/apps/hermes/deployments", 1),
    ("GET", "/api/2.0/apps/hermes/deployments/.*", 1),
]


@pytest.mark.parametrize("answered", [False, True], ids=["not done", "done, not answered"])
@pytest.mark.parametrize(("method", "path", "which"), LOST)
def test_a_lost_connection_is_mended_by_the_next_run(
    door: Door,
    apps: Apps,
    clock: None,
    few_files: Path,
    method: str,
    path: str,
    which: int,
    answered: bool,
) -> None:
    """From one call on nothing is answered; that one was carried out, or it was not."""
    seen, rooms = [0], apps.rooms

    def fault(call: Call) -> Answer | None:
        if seen[0] >= which:
            raise ConnectionError
        seen[0] += call.method == method and re.fullmatch(path, call.path) is not None
        if seen[0] < which:
            return None
        if answered:
            beginning = max((b for b in rooms if call.path.startswith(b)), key=len)
            apps.fault = lambda _: None
            rooms[beginning](call)
            apps.fault = fault
        raise ConnectionError

    apps.fault = fault
    code, _, err = door()
    assert (code, err.count("\n"), seen[0]) == (1, 1, which)
    assert re.match(r"No connection \(.*\): run this again, it goes on from there", err)
    apps.fault, apps.takes = lambda _: None, 10
    code, out, err = door()
    assert (code, err, out.splitlines()[-1]) == (0, "", URL)
    files = read_files(few_files)
    assert {name: apps.files[f"{FOLDER}/{name}"] for name in files} == files
    assert apps.apps["hermes"]["app_status"]["state"] == "RUNNING"
    assert resources(apps) == [endpoint("hermes-fallback-model", OPUS_4_6)]
    if (
        method == "GET" and "deployments" in path
    ):  # the deployment was under way, and is not made twice
        assert apps.changes.count("POST /api/2.0/apps/hermes/deployments") == 1
    apps.calls.clear()
    assert (door()[0], apps.changes) == (0, [])


def test_an_app_whose_creation_was_not_answered_is_ours(
    door: Door, apps: Apps, clock: None
) -> None:
    """The SDK asks again by itself, and is told that there is such an app."""
    create, apps.me = apps.rooms["/api/2.0/apps"], ME.upper()

    def fault(call: Call) -> Answer | None:
        if call.method == "POST":
            apps.fault = lambda _: None
            create(call)
            apps.apps["hermes"]["creator"] = ME
            raise ConnectionError
        return None

    apps.fault = fault
    code, out, err = door()
    assert (code, err, out.splitlines()[-1]) == (0, "", URL)
    assert apps.changes.count("POST /api/2.0/apps") == 3  # cut off, carried out here, asked again


def test_what_was_cut_off_and_taken_back_is_sent_again(
    door: Door, apps: Apps, clock: None, few_files: Path
) -> None:
    """The new file went up, the connection was lost, and the old file is wanted again."""
    door()
    old = (few_files / "utils.py").read_bytes()
    (few_files / "utils.py").write_bytes(b"new")

    def fault(call: Call) -> Answer | None:
        if apps.files[f"{FOLDER}/utils.py"] == b"new":
            raise ConnectionError
        return None

    apps.fault = fault
    assert door()[0] == 1
    apps.fault = lambda _: None
    (few_files / "utils.py").write_bytes(old)
    assert door()[0] == 0
    assert apps.files[f"{FOLDER}/utils.py"] == old


def test_a_line_lives_on_a_terminal(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    code, out, _ = door()
    assert code == 0
    drawn = re.findall(r"\rDeploying: (\w+), \d+ s\x1b\[K", out)
    assert (drawn[0], drawn[-1], len(drawn)) == ("IN_PROGRESS", "SUCCEEDED", 3)
    assert out.count("Deploying") == 3


def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploying.console, "LONGEST", -1.0)
    with pytest.raises(DeployError, match=r"^Still STARTING after 0 minutes: run this again"):
        wait("App", lambda: State("STARTING", ""), {"ACTIVE"})


# --- Login, status, undeploy ----------------------------------------------------------------------


def test_a_profile_goes_before_the_environment(
    door: Door, apps: Apps, workspace: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token goes to its host: one in the environment is of some other workspace."""
    (tmp_path / ".databrickscfg").write_text(
        f"[work]\nhost = https://{workspace.workspace_host}\ntoken = {workspace.token}\n"
    )
    monkeypatch.setenv("DATABRICKS_HOST", "https://other.example")
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-other")
    code, out, _ = door(PROFILE="work")
    assert (code, out.splitlines()[-1]) == (0, URL)
    (tmp_path / ".databrickscfg").rename(tmp_path / "profiles")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "profiles"))
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-other")
    assert door(PROFILE="work")[0] == 0
    assert "dapi-other" not in {request.token for request in workspace.requests}


@pytest.mark.parametrize("name", ["HOST", "DATABRICKS_HOST", "PROFILE"])
def test_a_host_that_is_not_there_is_said_at_once(
    door: Door, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://adb-1.2.azuredatabricks.nett"
    (tmp_path / ".databrickscfg").write_text(f"[work]\nhost = {url}\ntoken = dapi0\n")
    for variable in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("DATABRICKS_HOST", url)
    monkeypatch.setattr(deploying.login, "TIMEOUT", 1)
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        mock := Mock(side_effect=socket.gaierror(-2, "Name or service not known")),
    )
    code, out, err = door(
        **{k: v for k, v in {"HOST": url, "PROFILE": "work"}.items() if k == name}
    )
    said = f"{name}: no connection to {url}: DNS: no such host; expected your workspace's URL"
    assert (code, out, err) == (1, "", f"{said}, and a network that leads there\n")
    assert mock.call_count == 1 or name == "PROFILE"  # there databricks-sdk asks too


@responses.activate
def test_a_host_that_leads_elsewhere_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its login page may be where the network does not lead."""
    url = "https://adb-1.2.azuredatabricks.net"
    responses.head(url, status=302, headers={"Location": "https://elsewhere.example"})
    responses.get(f"{url}/.well-known/databricks-config", status=404)
    monkeypatch.setenv("DATABRICKS_HOST", url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-t")
    assert log_in(os.environ, "", "").config.host == url


def test_a_profile_that_is_missing_is_named_as_it_was_chosen(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABRICKS_HOST")
    monkeypatch.delenv("DATABRICKS_TOKEN")
    (tmp_path / ".databrickscfg").write_text("[home]\nhost = https://x.example\n")
    assert door()[2].startswith("PROFILE: it is not set; expected a profile of ")
    monkeypatch.setenv("DATABRICKS_CONFIG_PROFILE", "work")
    assert door()[2].startswith("DATABRICKS_CONFIG_PROFILE: 'work' is not in ")


def test_a_login_without_a_token_is_said(
    door: Door, apps: Apps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who says who it is logs in with a name and a password.
    monkeypatch.setattr(deploying.commands, "find_me", lambda client: ME)
    monkeypatch.setattr(deploying.commands, "read_manifest", lambda target: Manifest())
    (tmp_path / ".databrickscfg").write_text(
        f"[work]\nhost = {os.environ['DATABRICKS_HOST']}\nusername = me\npassword = p4ssw0rd\n"
    )
    code, _, err = door(PROFILE="work")
    assert (code, err) == (
        1,
        "Not logged in with a token (basic): give another PROFILE, or HOST=https://...\n",
    )


def test_a_volume_that_is_hidden_is_one_line(door: Door, apps: Apps) -> None:
    hidden = error(403, "PERMISSION_DENIED", "User does not have READ VOLUME")
    apps.fault = lambda call: hidden if "/volumes/" in call.path else None
    code, _, err = door(VOLUME="main.default.home")
    said = "VOLUME: main.default.home cannot be used (User does not have READ VOLUME)"
    assert (code, err, apps.changes) == (2, f"{said}; expected a volume of yours\n", [])


def test_a_host_is_logged_in_with_the_browser(
    door: Door, workspace: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's own browser login, once; the browser comes straight back with a code."""
    opened = list[str]()

    def browse(url: str) -> None:
        opened.append(url)
        asked = dict(parse_qsl(urlsplit(url).query))
        back = f"{asked['redirect_uri']}/?code=1&state={asked['state']}"
        threading.Thread(
            target=lambda: until(lambda: visited(back), lambda: "nobody waits for the browser"),
            daemon=True,
        ).start()

    def visited(url: str) -> bool:
        place = urlsplit(url)
        with suppress(OSError), closing(HTTPConnection(place.netloc, timeout=5)) as connection:
            connection.request("GET", f"/?{place.query}")
            return connection.getresponse().status == 200
        return False

    def oidc(path: str, authorization: str) -> Answer:
        if path == "/oidc/v1/token":
            return 200, {
                "access_token": workspace.token,
                "token_type": "Bearer",
                "expires_in": 3600,
                "refresh_token": "r",
            }
        base = f"https://{workspace.workspace_host}/oidc/v1"
        return 200, {
            "authorization_endpoint": f"{base}/authorize",
            "token_endpoint": f"{base}/token",
        }

    monkeypatch.setattr("webbrowser.open_new", browse)
    monkeypatch.setattr(workspace, "_oidc", oidc)
    monkeypatch.setenv("DATABRICKS_HOST", "https://other.example")
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-other")
    for _ in range(2):
        code, out, err = door(HOST=f"{workspace.workspace_host}/?o=1")
        assert (code, err, out.splitlines()[-1]) == (0, "", URL)
        assert "Login:     in your browser, unless it was done before" in out
    assert [url.partition("?")[0] for url in opened] == [
        f"https://{workspace.workspace_host}/oidc/v1/authorize"
    ]
    assert "dapi-other" not in {request.token for request in workspace.requests}


@pytest.mark.parametrize("path", ["/scim/v2/Me", "/apps/hermes", "/deployments", "/import"])
def test_an_odd_answer_is_one_line(door: Door, apps: Apps, path: str) -> None:
    """What is no object ends in whatever the SDK makes of it."""
    apps.fault = lambda call: (200, b'"odd"') if call.path.endswith(path) else None
    code, _, err = door()
    assert (code, err) == (1, "It failed: 'str' object is not a mapping (TypeError).\n")


def test_stopping_it_is_one_line(door: Door, apps: Apps, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(deploying.app, "wait", stop)
        code, _, err = door()
    assert (code, err) == (1, "Stopped: run this again, it goes on from there.\n")
    assert door()[0] == 0


def test_the_status_of_an_app_that_is_not_there(door: Door) -> None:
    for command in ("status", "undeploy"):
        code, _, err = door(command)
        assert (code, err.startswith("APP: there is no app 'hermes' in https://")) == (1, True)


def test_status_says_all_of_it(door: Door, apps: Apps) -> None:
    apps.make("hermes", ME)
    assert "Deployed:  never" in door("status")[1]
    door()
    apps.calls.clear()
    code, out, _ = door("status")
    assert (code, apps.changes, out.splitlines()[-1]) == (0, [], URL)
    assert (
        f"App:       hermes of {ME}: ACTIVE (App compute is running.), RUNNING (App is running.)"
        in out
    )
    assert f"Resources: {OPUS_4_6} (CAN_QUERY)" in out
    assert re.search("Deployed:  SUCCEEDED 2026-.*: App started successfully", out)


def test_it_can_be_tried_by_hand_on_the_stand_in(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.standin",
        "--apps",
        "--",
        sys.executable,
        "deploy.py",
        "deploy",
        "--volume=main.default.home",
        "--dry",
    ]
    env = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{OPUS_4_6} (CAN_QUERY), main.default.home (WRITE_VOLUME) would be given" in done.stdout


@pytest.mark.parametrize(
    ("typed", "deleted"), [("hermes\n", True), ("hermes2\n", False), ("y\n", False), ("", False)]
)
def test_undeploy_deletes_what_was_typed(door: Door, apps: Apps, typed: str, deleted: bool) -> None:
    door()
    apps.calls.clear()
    code, out, err = door("undeploy", typed)
    assert "Type hermes to delete it: " in out
    assert (code, apps.changes) == ((0, ["DELETE /api/2.0/apps/hermes"]) if deleted else (1, []))
    assert err == ("" if deleted else "Nothing was deleted.\n")


def test_help_and_nonsense(door: Door) -> None:
    with pytest.raises(SystemExit, match="0"):
        door("--help")
    code, _, err = door("deply")
    assert (code, err.count("\n"), "'deply'" in err) == (2, 1, True)


# --- From a checkout to a chat --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("world", "model", "path"),
    [
        pytest.param("classic", OPUS_4_7, "/openai", marks=pytest.mark.slow),
        ("enforced", NEW_OPUS_4_7, f"/{UNITY}"),
    ],
)
def test_make_deploy_ends_at_a_chat_for_its_owner_alone(
    installed_hermes: Path, tmp_path: Path, world: str, model: str, path: str
) -> None:
    """The slowest of all: what was uploaded runs as the app, with its own rights and Python."""
    pytest.importorskip(
        "playwright", reason="playwright, which drives the browser, is not installed"
    )
    from playwright.sync_api import expect, sync_playwright

    from tests.webapp.browsing import FLAGS, PATIENCE, prompt, submit

    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("chromium, the browser, is not installed")
    patience = float(PATIENCE)
    apps = Apps.of(default_serves(world))
    with (
        StandIn(world=world, rooms=apps.rooms, rights=apps.executable) as workspace,
        Runner(workspace.app_env, installed_hermes) as runner,
    ):
        apps.runner = runner
        # `make test HERMES=...` hands that on to every make, and `make deploy` takes none.
        home = workspace.env | {"HOME": str(tmp_path), "MAKEFLAGS": ""}
        command = [
            "make",
            "-s",
            "-o",
            ".venv/ready",
            "deploy",
            "SET=DEEPWIKI_MCP_URL= EXA_MCP_URL=",
        ]
        done = subprocess.run(
            command, cwd=ROOT, env=home, capture_output=True, text=True, timeout=280, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr + runner.log
        url = done.stdout.splitlines()[-1]
        assert url == URL

        rules = f"--host-resolver-rules=MAP {runner.host}:443 127.0.0.1:{runner.port}"
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, rules])
            page = browser.new_context(
                ignore_https_errors=True, viewport={"width": 1200, "height": 700}
            ).new_page()
            page.set_default_timeout(patience)
            page.goto(url)
            prompt(page)
            host = workspace.gateway_host if world == "classic" else workspace.workspace_host
            submit(page, "good morning", f"{model} through https://{host}{path}: good morning")

            runner.visitor = "somebody@example.com"
            stranger = browser.new_context(ignore_https_errors=True).new_page()
            answer = stranger.goto(url)
            assert answer
            assert answer.status == 403
            expect(stranger.locator("h1")).to_have_text("Not yours")
            browser.close()
