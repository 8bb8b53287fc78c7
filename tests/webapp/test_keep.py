"""What outlives a restart, against the stand-in's volume and with the real databricks-sdk."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import yaml

pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")

from databricks.sdk.service.files import FilesAPI

from hermes.urls import SettingError
from tests.conftest import ROOT
from tests.served import until
from tests.standin import StandIn
from tests.standin.files import Volume
from webapp.keep import archive
from webapp.keep import keeper as keep
from webapp.keep import selection as kept
from webapp.keep import worker as saver
from webapp.keep.archive import Archive, SupersededError, TornError
from webapp.keep.format import Done
from webapp.keep.ignore import Ignore
from webapp.keep.keeper import Keeper
from webapp.keep.selection import clean_config
from webapp.settings import read_settings

PATH = "/Volumes/main/hermes/state"


class Place:
    """A workspace with a volume, and homes that come and go."""

    def __init__(self, workspace: StandIn, volume: Volume, folder: Path) -> None:
        self.workspace, self.volume, self.folder = workspace, volume, folder
        self.number = 0
        self.processes: list[subprocess.Popen[str]] = []

    def home(self) -> Path:
        """A fresh disk."""
        self.number += 1
        home = self.folder / f"home-{self.number}"
        (home / "projects").mkdir(parents=True)
        (home / ".hermes").mkdir(mode=0o700)
        return home

    def files(self) -> FilesAPI:
        """The Files API, logged in."""
        return saver._connect(self.workspace.env["DATABRICKS_HOST"], self.workspace.token)

    def instance(self, home: Path) -> Archive:
        """A new instance, whose disk has what was saved."""
        here = Archive(home, PATH)
        here.restore(self.files())
        return here

    def save(self, here: Archive) -> Done:
        """Save, with the workspace's token hidden."""
        return here.save(self.files(), [self.workspace.token])

    def restored(self) -> Path:
        """A fresh disk with what was saved."""
        home = self.home()
        self.instance(home)
        return home


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    volume = Volume(PATH)
    with StandIn(rooms=volume.rooms()) as workspace:
        for name, value in workspace.env.items():
            if name.lower().endswith(("_proxy", "_bundle", "_cert_file")):
                monkeypatch.setenv(name, value)
        here = Place(workspace, volume, tmp_path)
        yield here
        for process in here.processes:  # of a test that failed
            process.kill()
            process.wait()


def tree(home: Path) -> dict[str, Any]:
    """All below a home: modes, times and bytes of files, targets of links."""
    found: dict[str, Any] = {}
    for path in sorted(home.rglob("*")):
        info = path.lstat()
        name = str(path.relative_to(home))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = stat.S_IMODE(info.st_mode)
        else:
            found[name] = (stat.S_IMODE(info.st_mode), info.st_mtime_ns, path.read_bytes())
    return found


def everything(volume: Volume) -> bytes:
    """All bytes that were ever sent, unpacked too, and every header but the one for the token."""
    seen = b""
    for call in volume.calls:
        said = {name: value for name, value in call.headers.items() if name != "authorization"}
        seen += json.dumps([call.path, call.query, said]).encode() + call.body
        with contextlib.suppress(zlib.error):
            rest = call.body
            while rest:
                one = zlib.decompressobj()
                seen += one.decompress(rest)
                rest = one.unused_data
    return seen


# --- What comes back ------------------------------------------------------------------------------------------------------


def test_what_is_the_users_comes_back_byte_for_byte(place: Place) -> None:
    home = place.home()
    projects, hermes = home / "projects", home / ".hermes"
    (home / ".gitconfig").write_text("[user]\n\tname = Jo\n")
    (projects / "deep" / "er").mkdir(parents=True)
    (projects / "deep" / "er" / "a.txt").write_text("a\n")
    (projects / "empty").mkdir(mode=0o750)
    (projects / "run.sh").write_text("#!/bin/sh\n")
    (projects / "run.sh").chmod(0o755)
    (projects / "big.bin").write_bytes(random.Random(1).randbytes(3 * 2**20 + 17))
    (projects / "nothing").touch()
    with open(projects / "sparse", "wb") as file:
        file.truncate(20 * 2**20)
    os.symlink("deep/er/a.txt", projects / "link")
    os.symlink("/nowhere/at all", projects / "dangling")
    (Path(os.fsdecode(os.fsencode(projects) + b"/n\xff\nm ' \"")) / "x").parent.mkdir()
    Path(os.fsdecode(os.fsencode(projects) + b"/n\xff\nm ' \"/\xfe")).write_text("odd")
    for name in (
        "sessions/1.json",
        "memories/MEMORY.md",
        "skills/mine/SKILL.md",
        "HERMES.md",
        "SOUL.md",
    ):
        (hermes / name).parent.mkdir(parents=True, exist_ok=True)
        (hermes / name).write_text(name)
    before = tree(home)
    done = place.save(place.instance(home))
    assert done.left_out == {}
    back = place.restored()
    assert tree(back) == before
    assert (back / "projects" / "sparse").stat().st_blocks * 512 < 2**20


def test_what_can_be_made_again_stays_out_and_so_does_what_keepignore_names(place: Place) -> None:
    home = place.home()
    for name in (
        "projects/node_modules/x.js",
        "projects/a/.venv/pyvenv.cfg",
        "projects/env/pyvenv.cfg",
        "projects/env/lib/y.py",
        "projects/__pycache__/z.pyc",
        "projects/target/CACHEDIR.TAG",
        "projects/data/big.csv",
        "projects/data/small.csv",
        "projects/.tox/mine",
        "projects/kept.log",
        ".hermes/logs/agent.log",
        ".hermes/cache/x",
        ".hermes/checkpoints/x",
        ".hermes/image_cache/x.png",
        ".hermes/plugins/model-providers/databricks/__init__.py",
        ".hermes/plugins/mine/__init__.py",
        ".local/bin/hermes",
        ".bashrc",
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    (home / "projects" / ".keepignore").write_text("# mine\n/data/*\n!/data/small.csv\n!.tox/\n")
    place.save(place.instance(home))
    back = place.restored()
    files = sorted(str(path.relative_to(back)) for path in back.rglob("*") if path.is_file())
    assert files == [
        ".hermes/plugins/mine/__init__.py",
        "projects/.keepignore",
        "projects/.tox/mine",
        "projects/data/small.csv",
        "projects/kept.log",
    ]


PATTERNS = (
    r"""
*.log|/top|build/|docs/*.md|**/deep/*.txt|a/**/z|a/**|!keep.log|foo[0-9].c|[!a]x|[^a]y|\#hash|\!bang|sp\ ace|**/x/**|?|*a*b
[[:digit:]]q|[a-c]w|z[]]k|q[\]]k|un[closed|back\|*.[ch]|d/e/|/d/*|!/d/e|**|x**z|a\*b|!**|d|!d/e|tr\ |[z-a]x|[]-^]x|*/e
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
NAMES = r"""
a b x y z k q w d e top keep.log 1.log foo1.c fooa.c ax bx ay by #hash !bang deep 1q aq cw z]k q]k un[closed build docs r.md
t.txt x.h ab xaxb xz a*b back back\ _x ]x
"""


def test_patterns_mean_what_git_says(tmp_path: Path) -> None:
    if not shutil.which("git"):
        pytest.skip("git, the judge of these patterns, is missing")
    rng = random.Random(11)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    words = [*NAMES.split(), "sp ace", "tr "]
    for _ in range(200):
        path = tmp_path.joinpath(*rng.choices(words, k=rng.randint(1, 4)))
        with contextlib.suppress(
            OSError
        ):  # a file where a folder should be, or the other way round
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    asked = [
        str(path.relative_to(tmp_path))
        for path in sorted(tmp_path.rglob("*"))
        if ".git" not in path.parts
    ]
    cases = 0
    for _ in range(60):
        lines = [*rng.sample(PATTERNS, 3), " ", "#c", "docs  "]
        (tmp_path / ".git" / "info" / "exclude").write_text("\n".join(lines) + "\n")
        command = ["git", "check-ignore", "--no-index", "--stdin", "-z"]
        answer = subprocess.run(
            command, input="\0".join(asked), cwd=tmp_path, capture_output=True, text=True
        )
        git = set(answer.stdout.split("\0")) - {""}
        ignore = Ignore(lines)
        ours = set[str]()
        for name in asked:
            above = {str(parent) for parent in Path(name).parents} & ours
            if above or ignore(name, (tmp_path / name).is_dir()):
                ours.add(name)
        assert ours == git, lines
        cases += len(git)
    assert cases > 1000


@pytest.mark.parametrize(
    "line",
    ["*" * 24 + "b", "**/" * 24 + "b", "*a" * 20 + "b", "**/*a/" * 20 + "b", "*a" * 20 + "/b"],
)
def test_no_pattern_takes_for_ever(line: str) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from webapp.keep.ignore import Ignore; print(Ignore(sys.argv[1:2])(sys.argv[2], 1))",
    ]
    for path in ("a" * 200, "/".join(["da"] * 60)):
        done = subprocess.run(
            [*command, line, path], cwd=ROOT, capture_output=True, text=True, timeout=30
        )
        assert done.stdout == "False\n"


def test_a_newer_file_stays(place: Place) -> None:
    home = place.home()
    for name in ("newer", "older", "same"):
        (home / "projects" / name).write_text("saved")
        os.utime(home / "projects" / name, ns=(10**18, 10**18))
    place.save(place.instance(home))
    for beside in (False, True):
        back = place.home()
        for name, shift in (("newer", 1), ("older", -1), ("same", 0)):
            (back / "projects" / name).write_text("here")
            os.utime(back / "projects" / name, ns=(10**18 + shift, 10**18 + shift))
        Archive(back, PATH).restore(place.files(), beside=beside)
        found = {path.name: path.read_text() for path in (back / "projects").iterdir()}
        assert found == {"newer": "here", "older": "saved", "same": "here"} | (
            {"newer.restored": "saved"} if beside else {}
        )


def test_databases_are_whole_while_they_are_written(place: Place) -> None:
    home = place.home()
    stop, path = threading.Event(), home / ".hermes" / "state.db"
    first = sqlite3.connect(path)
    first.execute("PRAGMA journal_mode=WAL")
    first.execute("CREATE TABLE t (a, b)")
    first.commit()

    def write() -> None:
        with contextlib.closing(sqlite3.connect(path)) as database:
            number = 0
            while not stop.is_set():
                with database:  # both rows or none
                    database.executemany(
                        "INSERT INTO t VALUES (?, ?)",
                        [(number, os.urandom(500)), (-number, os.urandom(500))],
                    )
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            assert place.save(place.instance(home)).left_out == {}
            back = place.restored()
            assert sorted(path.name for path in (back / ".hermes").iterdir()) == ["state.db"]
            with contextlib.closing(sqlite3.connect(back / ".hermes" / "state.db")) as database:
                assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                assert (
                    database.execute(
                        "SELECT count(*) FROM t WHERE a != 0 GROUP BY abs(a) HAVING count(*) != 2"
                    ).fetchall()
                    == []
                )
    finally:
        stop.set()
        writer.join()
        first.close()


def test_rows_that_are_in_a_databases_log_alone_are_saved_too(place: Place) -> None:
    home = place.home()
    here, path = place.instance(home), home / "projects" / "a.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE t (a)")
        place.save(here)
        before = path.stat()
        with database:
            database.execute("INSERT INTO t VALUES (42)")
        assert path.stat() == before
        place.save(here)
    with contextlib.closing(sqlite3.connect(place.restored() / "projects" / "a.db")) as database:
        assert database.execute("SELECT a FROM t").fetchall() == [(42,)]


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("newer", [False, True])
def test_a_log_makes_a_database_newer_and_an_older_one_goes_with_it(
    place: Place, suffix: str, newer: bool
) -> None:
    home = place.home()
    with contextlib.closing(sqlite3.connect(home / "projects" / "a.db")) as database:
        database.execute("CREATE TABLE saved (a)")
    os.utime(home / "projects" / "a.db", ns=(10**18, 10**18))
    place.save(place.instance(home))
    back = place.home() / "projects"
    with contextlib.closing(sqlite3.connect(back / "a.db")) as database:
        database.execute("CREATE TABLE here (a)")
    (back / f"a.db{suffix}").write_bytes(b"a log")
    os.utime(back / "a.db", ns=(10**18 - 1, 10**18 - 1))
    os.utime(back / f"a.db{suffix}", ns=(10**18 - 1 + 2 * newer,) * 2)
    place.instance(back.parent)
    stays = newer and suffix != "-shm"  # which only points into the log
    assert (b"CREATE TABLE here" in (back / "a.db").read_bytes()) == stays
    assert [path.name for path in back.glob("a.db-*")] == [f"a.db{suffix}"] * stays


def test_a_commit_made_meanwhile_has_its_objects(place: Place) -> None:
    """What names them is read first: then it names none that is not there yet."""
    git = place.home() / "projects" / "repo" / ".git"
    for name in ("objects/ab/cd", "refs/heads/main", "packed-refs", "HEAD"):
        (git / name).parent.mkdir(parents=True, exist_ok=True)
        (git / name).write_text("x")
    paths = [entry.path for entry in kept.walk(place.folder / "home-1", lambda *_: None)]
    assert paths.index("projects/repo/.git/objects") > max(
        map(paths.index, (p for p in paths if "refs" in p or "HEAD" in p))
    )


def test_projects_may_be_a_link(place: Place) -> None:
    home = place.home()
    (home / "projects").rename(place.folder / "elsewhere")
    (home / "projects").symlink_to(place.folder / "elsewhere")
    (home / "projects" / "a").write_text("a")
    place.save(place.instance(home))
    assert (place.restored() / "projects" / "a").read_text() == "a"


# --- Credentials ----------------------------------------------------------------------------------------------------------

CONFIG = """\
# my config
model:  # the model
  default: databricks-claude-opus-4-7
  provider: custom
  base_url: https://gw.example/openai
  api_key: {token}
  max_tokens: 4096
custom_providers:
- name: databricks-gateway
  base_url: https://gw.example/openai
  api_key: '{token}'
- {{name: mine, base_url: "https://u:p4ssw0rd@x.example/v1", api_key: "sk-mine-0123456789abcdef", api_key_env: MY_KEY}}
# api_key: sk-comment-0123456789
fallback_providers: [{{provider: 'custom:databricks-gateway', model: m}}]
mcp_servers:
  exa:
    url: https://mcp.exa.ai/mcp?exaApiKey=0123456789abcdef
    headers: {{Authorization: "Bearer 0123456789abcdef", X-Plain: yes}}
    env: {{SOME_TOKEN: "${{SOME_TOKEN}}", OTHER_SECRET: |-
        block}}
security:
  redact_secrets: true
theme: dark  # mine
"""


def test_a_config_is_kept_without_its_keys(place: Place) -> None:
    text = CONFIG.replace("OTHER_SECRET: |-\n        block", 'OTHER_SECRET: "block-value"')
    text = text.format(token=place.workspace.token)
    data, found = clean_config(text.encode())
    cleaned = data.decode()
    for secret in (
        place.workspace.token,
        "p4ssw0rd",
        "sk-mine",
        "sk-comment",
        "0123456789abcdef",
        "block-value",
    ):
        assert secret not in cleaned
    assert place.workspace.token.encode() in found
    before, after = yaml.safe_load(text), yaml.safe_load(cleaned)
    assert after["model"] == before["model"] | {"api_key": ""}
    assert after["custom_providers"][1] == {
        "name": "mine",
        "base_url": "",
        "api_key": "",
        "api_key_env": "MY_KEY",
    }
    assert after["mcp_servers"]["exa"]["env"] == {"SOME_TOKEN": "${SOME_TOKEN}", "OTHER_SECRET": ""}
    assert after["security"] == before["security"]
    assert "# my config\nmodel:  # the model\n" in cleaned
    assert cleaned.endswith("theme: dark  # mine\n")


@pytest.mark.parametrize("text", ["a: [", "\x00", "a: &x secret\nb: *y", "\xff"])
def test_a_config_that_cannot_be_read_is_left_out(text: str) -> None:
    with pytest.raises(kept.LeftOutError):
        clean_config(text.encode("latin-1"))


def test_no_token_is_ever_sent(place: Place) -> None:
    home, token = place.home(), place.workspace.token
    hermes, projects = home / ".hermes", home / "projects"
    (hermes / "config.yaml").write_text(
        CONFIG.replace("|-\n        block", "x").format(token=token) + "keep: me\n"
    )
    for name in (".env", "auth.json", "logs/agent.log"):
        (hermes / name).parent.mkdir(exist_ok=True)
        (hermes / name).write_text(token)
    (home / ".databrickscfg").write_text(f"token = {token}")
    (home / ".gitconfig").write_text(
        f'[url "https://me:{token}@git.example/"]\n\tinsteadOf = x\n[user]\n\tname = Jo\n'
    )
    (projects / "repo" / ".git").mkdir(parents=True)
    (projects / "repo" / ".git" / "config").write_text(
        f"[remote]\n\turl = https://{token}@git.example/x\n[http]\n\textraHeader = Authorization: Basic {token}\n"
    )
    for name in (".env", ".env.local", "id_rsa", ".netrc", "notes.txt", "binary", "x.key"):
        (projects / name).write_text(f"before {token} after")
    (projects / "x.key").write_text("-----BEGIN RSA PRIVATE KEY-----\nabc\n")
    (projects / ".env.example").write_text("TOKEN=")
    with contextlib.closing(sqlite3.connect(hermes / "state.db")) as database, database:
        database.execute("CREATE TABLE messages (text)")
        database.execute("CREATE INDEX i ON messages (text)")
        database.executemany(
            "INSERT INTO messages VALUES (?)",
            [("hello",), (f"DATABRICKS_TOKEN={token}",), (token,)],
        )
    here = place.instance(home)
    done = place.save(here)
    place.workspace.rotate()
    (projects / "later.txt").write_text(f"an old one: {token}")
    again = place.save(here)
    assert token.encode() not in everything(place.volume)
    assert b"sk-mine" not in everything(place.volume)
    assert b"PRIVATE KEY" not in everything(place.volume)
    assert set(done.left_out) == {"projects/notes.txt", "projects/binary", "projects/x.key"}
    assert again.left_out["projects/later.txt"] == "holds a credential"
    back = place.restored()
    assert (
        back / "projects" / "repo" / ".git" / "config"
    ).read_text() == "[remote]\n\turl = https://git.example/x\n[http]\n"
    assert (back / "projects" / ".env.example").exists()
    assert not (back / ".hermes" / ".env").exists()
    assert yaml.safe_load((back / ".hermes" / "config.yaml").read_text())["keep"] == "me"
    with contextlib.closing(sqlite3.connect(back / ".hermes" / "state.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT count(*) FROM messages").fetchone() == (3,)


# --- Whole, or not there --------------------------------------------------------------------------------------------------


def test_the_last_five_states_are_kept_and_no_more_than_they_need(place: Place) -> None:
    home = place.home()
    here = place.instance(home)
    (home / "projects" / "constant").write_text("constant")
    for number in range(9):
        (home / "projects" / "a").write_text(f"{number}")
        place.save(here)
    volume = place.volume
    assert len(volume.names("state-")) == len(volume.names("index-")) == 5
    assert len(volume.names("pack-")) == 6  # the first has the constant
    assert len(volume.names("instance-")) == 1
    assert tree(place.restored()) == tree(home)


def test_a_state_goes_before_what_it_needs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one that is killed there leaves no state with a part missing."""
    home, deleted = place.home(), list[str]()
    here, files = place.instance(home), place.files()
    monkeypatch.setattr(
        files, "delete", lambda path: deleted.append(path.rpartition("/")[2].partition("-")[0])
    )
    for number in range(6):
        (home / "projects" / "a").write_text(f"{number}")
        here.save(files, [])
    assert deleted == ["state", "index", "pack"]


@pytest.mark.parametrize("what", ["pack-", "index-", "state-"])
@pytest.mark.parametrize("how", ["gone", "half", "other", "empty"])
@pytest.mark.fault("torn or hostile state")
def test_a_torn_state_is_never_restored_but_the_one_before(
    place: Place, what: str, how: str
) -> None:
    home = place.home()
    here = place.instance(home)
    (home / "projects" / "a").write_text("before")
    place.save(here)
    before, names = tree(home), set(place.volume.names())
    (home / "projects" / "a").write_text("after!")
    place.save(here)
    torn = [name for name in place.volume.names(what) if name not in names]
    for name in torn:
        path = f"{PATH}/{name}"
        data = place.volume.files.pop(path)
        changed = {"half": data[: len(data) // 2], "other": bytes(len(data)), "empty": b""}
        if how != "gone":
            place.volume.files[path] = changed[how]
    back = place.home()
    other = Archive(back, PATH)
    done = other.restore(place.files())
    assert done.older == (what != "state-" or how != "gone")
    assert tree(back) == before
    # Saving goes on from there, and what is torn goes in its time.
    for number in range(6):
        (back / "projects" / "a").write_text(f"new {number}")
        place.save(other)
    assert tree(place.restored()) == tree(back)
    assert len(place.volume.names("state-")) == 5


@pytest.mark.fault("torn or hostile state")
def test_where_no_state_is_whole_none_is_deleted(place: Place) -> None:
    home = place.home()
    (home / "projects" / "a").write_text("a")
    place.save(place.instance(home))
    index = place.volume.names("index-")[0]
    data = place.volume.files.pop(f"{PATH}/{index}")
    back = place.home()
    other = Archive(back, PATH)
    assert other.restore(place.files()) == Done(older=True)
    for number in range(7):
        (back / "projects" / "b").write_text(f"{number}")
        place.save(other)
    place.volume.files[f"{PATH}/{index}"] = data  # it was not lost after all
    for state in place.volume.names("state-")[1:]:
        del place.volume.files[f"{PATH}/{state}"]
    assert tree(place.restored()) == tree(home)


def test_odd_times_and_permissions_come_back(place: Place) -> None:
    home = place.home()
    here = place.instance(home)
    for number, moment in enumerate((-2_082_844_800, -1, 0, 2**33)):
        (home / "projects" / f"{number}").write_text("x")
        os.utime(home / "projects" / f"{number}", (moment, moment))
    (home / "projects" / "unreadable").mkdir(mode=0)
    (home / "projects" / "0").chmod(0o4755)
    place.save(here)
    back = place.home()
    assert place.instance(back).number == 2
    for number in range(4):
        one, other = (h / "projects" / f"{number}" for h in (home, back))
        assert one.stat().st_mtime_ns == other.stat().st_mtime_ns
    assert (back / "projects" / "unreadable").stat().st_mode & 0o777 == 0o700
    assert (back / "projects" / "0").stat().st_mode & 0o7777 == 0o755


HOSTILE: dict[str, Any] = {
    "up": {"files": [["projects/../../evil", 0o644, 1, 1, [0]]]},
    "absolute": {"files": [["/tmp/evil", 0o644, 1, 1, [0]]]},
    "elsewhere": {"files": [[".bashrc", 0o644, 1, 1, [0]]]},
    "a program": {"files": [[".local/bin/hermes", 0o755, 1, 1, [0]]]},
    "dots": {"files": [["projects/./a", 0o644, 1, 1, [0]]]},
    "zero byte": {"files": [["projects/a\0b", 0o644, 1, 1, [0]]]},
    "through a link of the disk": {"files": [["projects/out/evil", 0o644, 1, 1, [0]]]},
    "a folder through a link": {"folders": [["projects/out/evil", 0o755]]},
    "a link through a link": {"links": [["projects/out/evil", "x"]]},
    "a set-user-ID program": {"files": [["projects/good", 0o104755, 2**62, 1, [0]]]},
    "a credential": {"files": [["projects/.env", 0o644, 1, 1, [0]]]},
}


def rewrite(volume: Volume, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Add a newer state, made of the newest one."""
    manifest = volume.names("state-")[-1]
    digest = json.loads(volume.files[f"{PATH}/{manifest}"])["index"]["sha256"]
    index = json.loads(zlib.decompress(volume.files[f"{PATH}/index-{digest}"]))
    data = zlib.compress(json.dumps(index | change(index)).encode())
    digest = hashlib.sha256(data).hexdigest()
    volume.files[f"{PATH}/index-{digest}"] = data
    told = {"saved": "2026", "index": {"size": len(data), "sha256": digest}}
    volume.files[f"{PATH}/{manifest}9"] = json.dumps(told).encode()


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.fault("torn or hostile state")
def test_a_hostile_state_reaches_nothing_else(place: Place, case: str) -> None:
    home = place.home()
    (home / "projects" / "good").write_text("x")
    here = place.instance(home)
    place.save(here)
    rewrite(
        place.volume,
        lambda index: {kind: [*index[kind], *more] for kind, more in HOSTILE[case].items()},
    )
    back = place.home()
    outside = place.folder / "outside"
    outside.mkdir()
    (back / "projects" / "out").symlink_to(outside)
    other = Archive(back, PATH)
    assert other.restore(place.files()).older == (case == "zero byte")
    assert (back / "projects" / "good").read_text() == "x"
    assert not (back / "projects" / "good").stat().st_mode & 0o7000
    assert list(outside.iterdir()) == []
    assert [str(p.relative_to(back)) for p in back.rglob("*") if p.is_file()] == ["projects/good"]
    assert not (place.folder / "evil").exists()
    assert not Path("/tmp/evil").exists()


@pytest.mark.fault("torn or hostile state")
def test_a_pack_that_names_a_place_on_the_disk_is_not_fetched_there(place: Place) -> None:
    home = place.home()
    (home / "projects" / "good").write_text("x")
    place.save(place.instance(home))
    name = f"{place.folder}/evil-{hashlib.sha256(b'evil').hexdigest()}"
    place.volume.files[f"{PATH}/{name}"] = b"evil"
    rewrite(place.volume, lambda index: {"packs": [*index["packs"], [name, 4]]})
    assert Archive(place.home(), PATH).restore(place.files()).older
    assert not list(place.folder.glob("evil-*"))


@pytest.mark.fault("torn or hostile state", 2)
def test_blocks_that_are_none_or_too_large_cost_their_file_alone(place: Place) -> None:
    home = place.home()
    (home / "projects" / "good").write_text("x")
    place.save(place.instance(home))
    data = b"none" + (bomb := zlib.compress(bytes(100 * 2**20)))
    pack = f"pack-{hashlib.sha256(data).hexdigest()}"
    place.volume.files[f"{PATH}/{pack}"] = data

    def add(index: dict[str, Any]) -> dict[str, Any]:
        blocks, packs = len(index["blocks"]), len(index["packs"])
        return {
            "packs": [*index["packs"], [pack, len(data)]],
            "blocks": [*index["blocks"], ["0" * 64, packs, 0, 4], ["1" * 64, packs, 4, len(bomb)]],
            "files": [
                ["projects/a", 0o644, 1, 1, [blocks]],
                ["projects/b", 0o644, 1, 1, [blocks + 1]],
                *index["files"],
            ],
        }

    rewrite(place.volume, add)
    back = place.home()
    tracemalloc.start()
    try:
        done = Archive(back, PATH).restore(place.files())
        assert tracemalloc.get_traced_memory()[1] < 30 * 2**20  # bytes
    finally:
        tracemalloc.stop()
    assert done.left_out == {"projects/a": "error"}
    assert {path.name for path in (back / "projects").iterdir()} == {"b", "good"}


def test_a_config_that_holds_itself_is_cleaned_too() -> None:
    assert clean_config(b"a: &x [*x]\napi_key: dapi0123456789\n")[0] == b"a: &x [*x]\napi_key: ''\n"


@pytest.mark.parametrize(
    "change",
    [
        {"packs": [["../../etc/passwd", 1]]},
        {"packs": [["pack-" + "0" * 64, -1]]},
        {"blocks": [["0" * 64, 0, 0, 10**12]]},
        {"blocks": [["0" * 64, 7, 0, 1]]},
        {"files": [["projects/a", 0o644, 1, 2**50, [0]]]},
        {"files": [["projects/a", 0o644, 1, 1, [99]]]},
        {"files": [["projects/a", 0o644, 1, 1, [-1]]]},
        {"files": [["projects/a", 0o644, 1, 2049 * 2**20, [0] * 2049]]},
        {"files": [[7, 0o644, 1, 1, [0]]]},
        {"files": "x"},
        {"links": [["projects/a", None]]},
        {"links": [["projects/a", "b\0c"]]},
        {"links": [["projects/\ud800", "b"]]},
        {"folders": [[None, 1]]},
        {"folders": [["projects/a", "x"]]},
        {"folders": [["projects/a", 493.0]]},
        {"files": [["projects/a", 420.0, 1, 1, [0]]]},
        {"files": [["projects/a", 420, 1.5, 1, [0]]]},
        {"files": [["projects/a", 420, 1, 1.0, [0]]]},
        {"files": [["projects/a", 420, 1, -5, []]]},
        {"files": [["projects/a\0b", 420, 1, 1, [0]]]},
        {"files": [["projects/\ud800", 420, 1, 1, [0]]]},
        {"files": [["projects/a", 420, 1, 1, [False]]]},
        {"files": [["projects/a", 420, 1, 1, [0]]], "blocks": []},
        {"blocks": [["0" * 64, 0, 0.0, 1]]},
        {"blocks": [["0" * 64, 0, 0]]},
        {"blocks": [[["0"] * 64, 0, 0, 1]]},
        {"files": None},
    ],
)
@pytest.mark.fault("torn or hostile state")
def test_an_index_that_makes_no_sense_is_no_state(place: Place, change: dict[str, Any]) -> None:
    home = place.home()
    (home / "projects" / "good").write_text("x")
    here = place.instance(home)
    place.save(here)
    rewrite(place.volume, lambda index: change)
    back = place.home()
    assert Archive(back, PATH).restore(place.files()).older
    assert (back / "projects" / "good").read_text() == "x"


def test_the_newer_instance_wins_and_the_older_says_so(place: Place) -> None:
    old, new = place.home(), place.home()
    (old / "projects" / "a").write_text("old")
    first = place.instance(old)
    place.save(first)
    second = place.instance(new)
    (old / "projects" / "a").write_text("too late")
    with pytest.raises(SupersededError):
        place.save(first)
    assert (new / "projects" / "a").read_text() == "old"
    (new / "projects" / "a").write_text("new")
    place.save(second)
    assert (place.restored() / "projects" / "a").read_text() == "new"
    request = {
        "do": "save",
        "host": place.workspace.env["DATABRICKS_HOST"],
        "token": place.workspace.token,
        "hidden": [],
    }
    answer = saver.work(first, saver._connect, request)
    assert answer == {
        "problem": "a newer instance of this app saves now, this one no longer does",
        "end": True,
    }


def test_a_late_state_of_the_older_instance_harms_nothing_of_the_newer(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older one has looked; the newer one starts and sends its packs; then the older one writes its state and cleans up."""
    old, new = place.home(), place.home()
    first = place.instance(old)
    for number in range(5):
        (old / "projects" / "a").write_text(f"old {number}")
        place.save(first)
    (old / "projects" / "a").write_text("late")
    looked = first._list(place.files())
    second = place.instance(new)
    (new / "projects" / "b").write_bytes(os.urandom(1000))
    real = second._send_state

    def after_the_older(*arguments: Any) -> int:
        answers = iter([looked])
        monkeypatch.setattr(
            first, "_check", lambda files: next(answers, None) or first._list(files)
        )
        place.save(first)
        return real(*arguments)

    monkeypatch.setattr(second, "_send_state", after_the_older)
    place.save(second)
    assert len(place.volume.names(f"state-000001-{first.id}-000006")) == 1
    assert tree(place.restored()) == tree(new)


def test_no_manifest_is_written_for_what_is_not_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place.home()
    here = place.instance(home)
    (home / "projects" / "a").write_text("a")
    real = here._send_state

    def after_a_loss(*arguments: Any) -> int:
        place.volume.files.pop(f"{PATH}/{place.volume.names('pack-')[0]}")
        monkeypatch.setattr(here, "_send_state", real)
        return real(*arguments)

    monkeypatch.setattr(here, "_send_state", after_a_loss)
    with pytest.raises(TornError):
        place.save(here)
    assert place.volume.names("state-") == []
    place.save(here)
    assert tree(place.restored()) == tree(home)


def test_no_manifest_is_written_for_what_no_restore_would_take(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place.home()
    here = place.instance(home)
    (home / "projects" / "a").write_text("a")
    monkeypatch.setattr(
        here, "_as_tree", lambda entries: {"folders": [["projects", 0.5]], "files": [], "links": []}
    )
    with pytest.raises(ValueError, match="a folder"):
        place.save(here)
    assert place.volume.names("state-") == []


def test_a_manifest_that_is_not_what_was_written_is_no_save(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place.home()
    here = place.instance(home)
    (home / "projects" / "a").write_text("a")
    real = here._upload

    def torn(files: FilesAPI, name: str, data: bytes) -> None:
        real(files, name, data[:-1] if name.startswith("state-") else data)

    with monkeypatch.context() as patch:
        patch.setattr(here, "_upload", torn)
        with pytest.raises(TornError):
            place.save(here)
    place.save(here)
    assert tree(place.restored()) == tree(home)


# --- Faults ---------------------------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "forbidden": (
        {"forbidden": True},
        f"no permission on {PATH}: the app needs WRITE VOLUME there",
    ),
    "gone": ({"gone": True}, f"{PATH} is not there"),
    "full": ({"room": 500}, "no space left on the volume"),
    "cut": ({"cut": 99}, "the network"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.fault("volume")
def test_a_fault_is_one_line_and_the_last_state_stays(place: Place, fault: str) -> None:
    home = place.home()
    (home / "projects" / "a").write_text("before")
    here = place.instance(home)
    place.save(here)
    before = tree(home)
    (home / "projects" / "a").write_bytes(os.urandom(1000))
    request = {
        "do": "save",
        "host": place.workspace.env["DATABRICKS_HOST"],
        "token": place.workspace.token,
        "hidden": [],
    }
    wrong, said = FAULTS[fault]
    right = {name: getattr(place.volume, name) for name in wrong}
    vars(place.volume).update(wrong)
    answer = saver.work(here, saver._connect, request)
    assert answer["problem"].startswith(said), answer
    assert "\n" not in answer["problem"]
    assert place.workspace.token not in answer["problem"]
    vars(place.volume).update(right)
    back = place.home()
    Archive(back, PATH).restore(place.files())
    assert tree(back) == before
    # The fault passes.
    here.number += 10
    assert "problem" not in saver.work(here, saver._connect, request)
    assert tree(place.restored()) == tree(home)


@pytest.mark.fault("volume")
def test_a_write_without_an_answer_is_written_again(place: Place) -> None:
    home = place.home()
    here = place.instance(home)
    (home / "projects" / "a").write_text("a")
    place.volume.unanswered = 2
    for _ in range(3):
        with contextlib.suppress(Exception):
            place.save(here)
    assert tree(place.restored()) == tree(home)


@pytest.mark.fault("volume")
def test_a_download_cut_in_the_middle_is_no_reason_to_go_back(place: Place) -> None:
    home = place.home()
    (home / "projects" / "a").write_bytes(os.urandom(100_000))
    place.save(place.instance(home))
    back = place.home()
    other = Archive(back, PATH)
    place.volume.torn = 1
    with pytest.raises(requests.RequestException):
        other.restore(place.files())
    assert list((back / "projects").iterdir()) == []
    assert not other.restore(place.files()).older
    assert tree(back) == tree(home)


@pytest.mark.fault("volume")
def test_a_folder_that_somebody_emptied_is_filled_again(place: Place) -> None:
    home = place.home()
    here = place.instance(home)
    (home / "projects" / "a").write_text("a")
    place.save(here)
    place.volume.files.clear()
    (home / "projects" / "b").write_text("b")
    place.save(here)
    assert tree(place.restored()) == tree(home)


@pytest.mark.fault("volume", 6)
def test_what_cannot_be_saved_is_named_and_the_rest_is_saved(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place.home()
    projects = home / "projects"
    monkeypatch.setattr(kept, "MOST_IN_A_FILE", 2 * 2**20)
    monkeypatch.setattr(kept, "MOST_IN_ALL", 3 * 2**20)
    (projects / "a-big").write_bytes(bytes(2 * 2**20 + 1))
    (projects / "b").write_bytes(os.urandom(2 * 2**20))
    (projects / "c-too-much").write_bytes(os.urandom(2**20 + 1))
    (projects / "d").write_text("small")
    (projects / "broken.db").write_bytes(b"SQLite format 3\0" + os.urandom(5000))
    os.mkfifo(projects / "fifo")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(
            str(projects / "socket")[-100:] if len(str(projects)) > 90 else str(projects / "socket")
        )
        locked = sqlite3.connect(projects / "locked.db")
        locked.execute("CREATE TABLE t (a)")
        locked.commit()
        here = place.instance(home)
        done = place.save(here)
        assert set(done.left_out) >= {
            "projects/a-big",
            "projects/c-too-much",
            "projects/fifo",
            "projects/broken.db",
        }
        assert done.left_out["projects/a-big"] == "over 2 MB"
        # A database that is locked stays as it was saved last.
        locked.execute("BEGIN EXCLUSIVE")
        locked.execute("INSERT INTO t VALUES (1)")
        locked.execute("PRAGMA cache_spill")
        os.utime(projects / "locked.db")
        done = place.save(here)
        assert done.left_out["projects/locked.db"] == "a database that is locked"
        locked.rollback()
        locked.close()
    back = place.restored()
    assert {path.name for path in (back / "projects").iterdir()} == {"b", "d", "locked.db"}


@pytest.mark.parametrize("at", [2, 6], ids=["the file", "a database's log"])
def test_a_change_that_looks_like_the_last_one_is_saved_too(
    place: Place, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Two changes within a tick of the kernel's clock leave the same times, and may leave the same size."""
    home = place.home()
    here, path = place.instance(home), home / "projects" / "a"
    path.write_text("a")
    mark = tuple(time.time_ns() if number == at else 0 for number in range(7))
    seen = [
        replace(entry, mark=mark if entry.size else ())
        for entry in kept.walk(home, lambda *_: None)
    ]
    monkeypatch.setattr(archive, "walk", lambda *_: seen)
    place.save(here)
    path.write_text("b")
    place.save(here)
    assert (place.restored() / "projects" / "a").read_text() == "b"


def test_nothing_is_asked_or_sent_while_nothing_changes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place.home()
    here = place.instance(home)
    (home / "projects" / "a").write_text("a")
    os.utime(home / "projects" / "a", ns=(10**18, 10**18))
    monkeypatch.setattr(archive, "HOT", 0)
    place.save(here)
    calls = len(place.volume.calls)
    place.save(here)
    assert len(place.volume.calls) == calls
    os.utime(home / "projects" / "a", ns=(10**18, 10**18 + 1))
    done = place.save(here)
    assert done.sent < 1000  # a time is not a block
    assert len(place.volume.calls) > calls


def test_what_is_left_out_is_told_for_as_long_as_it_is(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "HOT", 0)
    home = place.home()
    here = place.instance(home)
    (home / "projects" / "notes").write_text(place.workspace.token)
    told = {"projects/notes": "holds a credential"}
    assert place.save(here).left_out == told
    calls = len(place.volume.calls)
    assert place.save(here).left_out == told
    assert len(place.volume.calls) == calls
    (home / "projects" / "notes").write_text("nothing")
    assert place.save(here).left_out == {}


def test_many_small_packs_are_put_together(place: Place) -> None:
    home = place.home()
    here = place.instance(home)
    for number in range(archive.MANY + 10):
        (home / "projects" / f"{number}").write_bytes(os.urandom(2000))
        place.save(here)
    assert len(place.volume.names("pack-")) < archive.MANY + 8
    place.save(here)
    assert tree(place.restored()) == tree(home)


@pytest.mark.fault("hostile settings")
@pytest.mark.parametrize(
    "value",
    [
        "main.hermes.state",
        "/Volumes/a/b",
        "/volumes/a/b/c",
        "/Volumes/a/b/c/../d",
        "/Volumes/a/b/c/./d",
        "/Volumes/a/b/c/..",
        "/Volumes/a//c",
        "x",
        "/",
        "/Volumes/a/b/c d\n/e",
    ],
)
def test_a_volume_that_cannot_be_used_is_one_line(value: str, tmp_path: Path) -> None:
    with pytest.raises(
        SettingError,
        match=r"^HERMES_VOLUME: .* is not valid; expected /Volumes/<catalog>/<schema>/<volume>",
    ):
        read_settings({"HOME": str(tmp_path), "HERMES_VOLUME": value})


@pytest.mark.parametrize(
    ("value", "volume"),
    [
        ("/Volumes/a/b/c", "/Volumes/a/b/c"),
        (" /Volumes/a/b/c/ ", "/Volumes/a/b/c"),
        ("/Volumes/a/b/c/d/e f", "/Volumes/a/b/c/d/e f"),
        ("/Volumes/a/b/c/.d", "/Volumes/a/b/c/.d"),
    ],
)
def test_a_volume_or_a_folder_of_it_will_do(value: str, volume: str, tmp_path: Path) -> None:
    assert read_settings({"HOME": str(tmp_path), "HERMES_VOLUME": value}).volume == volume


# --- Restarts -------------------------------------------------------------------------------------------------------------

DRIVER = """
import asyncio, os, signal, sys
from functools import partial
from hermes.login import sdk_config
from webapp.keep.keeper import Keeper
from webapp.settings import read_settings

settings = read_settings(os.environ)
keeper = Keeper(settings, partial(sdk_config, settings.env, settings.home, timeout=20), every=0.2)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(keeper.stop()))
keeper.start()
print("back:", asyncio.run(keeper.restored()), flush=True)
while True:
    signal.pause()
"""


class Instance:
    """An app without a page: its keeper, in a process of its own, with a fresh disk."""

    def __init__(self, place: Place) -> None:
        self.home = place.home()
        for name in ("projects", ".hermes"):
            (self.home / name).rmdir()
        env = place.workspace.env | {"HOME": str(self.home), "HERMES_VOLUME": PATH}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER], env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        place.processes.append(self.process)

    def back(self) -> str:
        """Wait until what was saved is back."""
        assert self.process.stdout
        return self.process.stdout.readline().removeprefix("back: ").strip()

    def end(self, number: int) -> None:
        """End it, and wait for that."""
        self.process.send_signal(number)
        self.process.wait(20)
        assert self.process.stdout
        self.process.stdout.close()


class Work:
    """What a user does: files that prove themselves, a growing database, files that go. It notes when each was done."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.number = rng, 0
        self.done: list[tuple[float, str, int]] = []  # when, where, which; 0 for a file that went

    def do(self, home: Path) -> None:
        """One thing."""
        self.number += 1
        kind = self.rng.randrange(10)
        name = f"projects/{self.rng.randrange(3)}/{self.rng.randrange(12)}"
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind < 6:
            body = b"%d\n" % self.number + self.rng.randbytes(int(10 ** self.rng.uniform(0, 6)))
            new = path.with_suffix(".new")
            new.write_bytes(hashlib.sha256(body).digest() + body)
            new.replace(path)
            self.done.append((time.time(), name, self.number))
        elif kind < 7 and path.exists():
            path.unlink()
            self.done.append((time.time(), name, 0))
        else:
            (home / ".hermes").mkdir(exist_ok=True)
            with contextlib.closing(sqlite3.connect(home / ".hermes" / "state.db")) as database:
                database.execute("PRAGMA journal_mode=WAL")
                with database:
                    database.execute("CREATE TABLE IF NOT EXISTS t (n, data)")
                    database.execute(
                        "INSERT INTO t VALUES (?, ?)", (self.number, self.rng.randbytes(2000))
                    )
            self.done.append((time.time(), "state.db", self.number))

    def until(self, moment: float, home: Path) -> None:
        """Work until then."""
        while time.time() < moment:
            self.do(home)
            time.sleep(self.rng.uniform(0, 0.01))

    def check(self, home: Path, since: float) -> None:
        """Whether all that was done before a moment is there, and nothing torn; from now on, what is there counts."""
        before: dict[str, int] = {}
        later: dict[str, set[int]] = {}
        for when, name, number in self.done:
            if when < since:
                before[name] = number
            else:
                later.setdefault(name, set()).add(number)
        there = {}
        for path in home.glob("projects/*/*"):
            if path.suffix != ".new":
                data = path.read_bytes()
                assert hashlib.sha256(data[32:]).digest() == data[:32], path
                there[str(path.relative_to(home))] = int(data[32:].split(b"\n")[0])
        if (home / ".hermes" / "state.db").exists():
            with contextlib.closing(sqlite3.connect(home / ".hermes" / "state.db")) as database:
                assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                there["state.db"] = database.execute("SELECT max(n) FROM t").fetchone()[0]
        for name in {*before, *later, *there}:
            allowed = {before.get(name, 0), *later.get(name, set())}
            assert there.get(name, 0) in allowed, (name, there.get(name), allowed)
        self.done = [(0.0, name, number) for name, number in there.items()]


def newest(volume: Volume) -> float:
    """When the newest whole state was begun."""
    for name in reversed(volume.names("state-")):
        with contextlib.suppress(ValueError, KeyError):
            manifest = json.loads(volume.files[f"{PATH}/{name}"])
            data = volume.files[f"{PATH}/index-{manifest['index']['sha256']}"]
            packs = json.loads(zlib.decompress(data))["packs"]
            if all(len(volume.files[f"{PATH}/{pack}"]) == size for pack, size in packs):
                return datetime.fromisoformat(manifest["saved"]).timestamp()
    return 0.0


@pytest.mark.parametrize(
    "restarts",
    [
        pytest.param(5, marks=pytest.mark.fault("restart", 5)),
        pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1500)]),
    ],
)
def test_nothing_is_lost_at_a_restart(place: Place, restarts: int) -> None:
    rng = random.Random(restarts)
    work, volume = Work(rng), place.volume
    graceful = torn = 0
    instance = Instance(place)
    assert instance.back() == ""
    for number in range(restarts):
        volume.slow = rng.choice([0, 0, 0.02, 0.1])  # so that the end comes in mid-save, too
        volume.cut = rng.choice([0, 0, 1])
        work.until(time.time() + rng.uniform(0.1, 1.2), instance.home)
        how, two = [signal.SIGTERM, signal.SIGKILL][number % 2], number % 5 == 4
        ended = time.time()
        if two:  # a deployment: the new instance is there before the old one goes
            since = newest(volume)
            other = Instance(place)
            work.until(time.time() + rng.uniform(0.1, 1.2), instance.home)
            instance.end(how)
        else:
            volume.cut = volume.cut if how == signal.SIGKILL else 0
            instance.end(how)
            since = newest(volume)
            if how == signal.SIGTERM:
                graceful += 1
                since = ended  # all of it was saved at the end
            torn += volume.names("state-") != [] and since == 0
            other = Instance(place)
        volume.slow = volume.cut = 0
        told = other.back()
        assert told.startswith("Brought back") or since == 0, told
        work.check(other.home, since)
        shutil.rmtree(instance.home)
        instance = other
    instance.end(signal.SIGTERM)
    assert graceful >= restarts // 3
    assert torn == 0
    assert len(volume.names("state-")) <= 7


def savers(home: Path) -> list[int]:
    """The processes that save for a home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if b"webapp.keep.worker" in command and str(home).encode() in command:
                found.append(int(folder.name))
    return found


@pytest.mark.fault("volume")
def test_a_last_save_that_takes_too_long_is_given_up_cleanly(place: Place) -> None:
    instance = Instance(place)
    assert instance.back() == ""
    work = Work(random.Random(3))
    work.do(instance.home)
    until(lambda: place.volume.names("state-"), lambda: "nothing is saved")
    states = place.volume.names("state-")
    place.volume.slow = 3600.0
    work.do(instance.home)
    (process,) = savers(instance.home)
    instance.end(signal.SIGTERM)
    assert place.volume.names("state-") == states
    assert not Path(f"/proc/{process}").exists()


@pytest.mark.fault("volume")
def test_a_process_that_saves_and_is_killed_has_a_successor(place: Place) -> None:
    instance = Instance(place)
    assert instance.back() == ""
    (instance.home / "projects").mkdir()
    (instance.home / "projects" / "a").write_text("a")
    until(lambda: place.volume.names("state-"), lambda: "nothing is saved")
    (instance.home / "projects" / "a").unlink()
    (instance.home / "projects" / "b").write_text("b")
    os.kill(savers(instance.home)[0], signal.SIGKILL)
    until(lambda: len(place.volume.names("instance-")) > 1, lambda: "no successor")
    instance.end(signal.SIGTERM)
    assert [path.name for path in (place.restored() / "projects").iterdir()] == ["b"]


@pytest.mark.fault("volume")
def test_what_ends_the_app_does_not_end_the_process_that_saves_before_it_has(place: Place) -> None:
    instance = Instance(place)
    assert instance.back() == ""
    (instance.home / "projects").mkdir()
    (instance.home / "projects" / "a").write_text("a")
    until(lambda: place.volume.names("state-"), lambda: "nothing is saved")
    (process,) = savers(instance.home)
    assert os.getsid(process) == process  # a Ctrl-C in the app's terminal is for the app
    os.kill(process, signal.SIGTERM)
    (instance.home / "projects" / "b").write_text("b")
    instance.end(signal.SIGTERM)
    assert len(place.volume.names("instance-")) == 1
    assert sorted(path.name for path in (place.restored() / "projects").iterdir()) == ["a", "b"]


def test_each_token_that_was_used_is_hidden_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = iter(["one", "two"])
    login = SimpleNamespace(
        host="https://h", authenticate=lambda: {"Authorization": f"Bearer {next(tokens)}"}
    )
    keeper = Keeper(read_settings({"HOME": str(tmp_path), "HERMES_VOLUME": PATH}), lambda: login)
    echo = "import sys; print('ready', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)"
    command = [sys.executable, "-c", echo]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        monkeypatch.setattr(keeper, "_hire", lambda: worker)
        assert [keeper._ask("save")["hidden"] for _ in range(2)] == [["one"], ["one", "two"]]


def test_pauses_grow_while_it_fails_and_are_short_again_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(read_settings({"HOME": str(tmp_path), "HERMES_VOLUME": PATH}), lambda: None)
    good = {"saved": "2026-01-01T00:00:00", "older": False, "files": 1, "left_out": {}}
    answers: list[dict[str, Any] | Exception] = [
        OSError("no\nroute"),
        good,
        *[{"problem": "full"}] * 9,
        good,
        good,
    ]
    pauses: list[float] = []
    notes: list[str] = []

    def wait(pause: float) -> bool:
        pauses.append(pause)
        notes.append(keeper.note)
        return len(answers) == 1

    def ask(do: str) -> dict[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with subprocess.Popen(["sleep", "60"], text=True) as worker:
        monkeypatch.setattr(keeper, "_worker", worker)
        monkeypatch.setattr(keeper, "_ask", ask)
        monkeypatch.setattr(keeper._stopping, "wait", wait)
        keeper._live()
        worker.kill()
    assert pauses == [0, 10, 60, 10, 20, 40, 80, 160, 320, 640, 900, 900, 60]
    assert notes[0] == "not saved yet"
    assert notes[1] == "not saved yet; OSError: no"
    assert notes[3] == "not saved yet; full"
    assert keeper.note == "saved just now"


def test_what_comes_back_after_the_first_terminal_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(read_settings({"HOME": str(tmp_path), "HERMES_VOLUME": PATH}), lambda: None)
    monkeypatch.setattr(keep, "PATIENCE", 0.05)
    assert (
        asyncio.run(asyncio.wait_for(keeper.restored(), 10)) == "Not brought back yet: still at it."
    )
    asked = list[str]()
    good = {
        "saved": "2026-01-02T03:04:05",
        "older": True,
        "files": 7,
        "left_out": {"projects/a": "gone"},
    }

    def ask(do: str) -> dict[str, Any]:
        asked.append(do)
        return good

    monkeypatch.setattr(keeper, "_ask", ask)
    monkeypatch.setattr(keeper._stopping, "wait", lambda pause: len(asked) == 3)
    keeper._live()
    assert asked == ["late", "look", "look"]  # there is no process here that could save
    assert (
        keeper.note
        == "not saved yet · not saved: projects/a (gone) · went back to 2026-01-02 03:04 UTC, the last whole state"
    )
    told = "Brought back 7 files, as saved on 2026-01-02 03:04 UTC. Not brought back: projects/a (gone)."
    assert keeper._told == told
    keeper._learn("restore", good | {"saved": "", "left_out": {}})
    assert keeper.note == "not saved yet · no saved state is whole"


def test_a_login_that_failed_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logins = list[dict[str, str]]()

    def log_in() -> dict[str, str]:
        logins.append({"no": "token"})
        return logins[-1]

    keeper = Keeper(read_settings({"HOME": str(tmp_path), "HERMES_VOLUME": PATH}), log_in)
    monkeypatch.setattr(keeper, "_hire", lambda: None)
    monkeypatch.setattr(keep, "bearer", lambda login: login["a token"])
    turns = iter([False, False, True])
    monkeypatch.setattr(keeper._stopping, "wait", lambda pause: next(turns))
    keeper._live()
    assert len(logins) == 2
    assert keeper.note == "not saved yet; KeyError: 'a token'"


def test_the_process_that_saves_inherits_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {f"{name}_CLIENT_SECRET": "s" for name in ("DATABRICKS", "ARM", "AZURE")} | {
        "DATABRICKS_TOKEN": "s",
        "KEPT": "k",
    }
    keeper = Keeper(
        read_settings({"HOME": str(tmp_path), "HERMES_VOLUME": PATH} | given), lambda: None
    )
    started = dict[str, Any]()
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **options: started.update(options))
    keeper._hire()
    assert started["env"]["KEPT"] == "k"
    assert "s" not in started["env"].values()
