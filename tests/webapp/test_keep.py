"""What outlives a restart, against the stand-in's volume and with the real databricks-sdk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests

pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")

from databricks.sdk.errors import PermissionDenied
from databricks.sdk.service.files import FilesAPI

from tests.served import until
from tests.standin import StandIn
from tests.standin.files import Volume
from tests.webapp.nursery import Nursery, hurry
from tests.webapp.saving import reach, savers
from webapp.keep import archive, child, content, format, histories, packs
from webapp.keep import selection as kept
from webapp.keep import worker as saver
from webapp.keep.archive import Archive, Opened, Saved, SupersededError
from webapp.keep.format import TornError
from webapp.keep.selection import LeftOut

PATH = "/Volumes/main/hermes/state"


class Place:
    """A workspace with a volume, and homes that come and go."""

    def __init__(self, workspace: StandIn, volume: Volume, folder: Path) -> None:
        self.workspace, self.volume, self.folder = workspace, volume, folder
        self.number = 0
        self.instances: list[Instance] = []

    def home(self) -> Path:
        """A fresh disk."""
        self.number += 1
        home = self.folder / f"home-{self.number}"
        (home / "projects").mkdir(parents=True)
        (home / ".hermes").mkdir(mode=0o700)
        return home

    def files(self) -> FilesAPI:
        """The Files API, logged in."""
        return saver.connect(self.workspace.env["DATABRICKS_HOST"], self.workspace.token)

    def instance(self, home: Path) -> Archive:
        """A new instance, whose disk has what was saved."""
        here = Archive(home, PATH)
        here.restore(self.files())
        return here

    def save(self, here: Archive) -> Saved:
        """Save."""
        return here.save(self.files())

    def ask(self, home: Path, do: str = "restore", **more: Any) -> dict[str, Any]:
        """What the process that saves answers, as a new one."""
        request = {"do": do, "history": None, "instance": home.name, "state": ""} | more
        return self.worker(home).answer(request | self.login())

    def worker(self, home: Path) -> saver.Worker:
        """What runs in the process that saves."""
        return saver.Worker(home, PATH, saver.connect, lambda _: None)

    def login(self) -> dict[str, str]:
        """The part of a request that logs in."""
        return {"host": self.workspace.env["DATABRICKS_HOST"], "token": self.workspace.token}

    def restored(self) -> Path:
        """A fresh disk with what was saved."""
        home = self.home()
        self.instance(home)
        return home


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    volume = Volume(PATH)
    with StandIn(rooms=volume.rooms()) as workspace:
        reach(workspace, monkeypatch)
        hurry(monkeypatch.setattr)
        here = Place(workspace, volume, tmp_path)
        yield here
        for instance in here.instances:  # of a test that failed
            if not instance.output.closed:
                instance.end(signal.SIGKILL)


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


# --- What comes back ---------------------------------------------------------


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
    with contextlib.closing(sqlite3.connect(projects / "closed.db")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE t (a)")
    before = tree(home)
    done = place.save(place.instance(home))
    assert done.left_out == []
    assert tree(home) == before
    back = place.restored()
    assert tree(back) == before
    assert (back / "projects" / "sparse").stat().st_blocks * 512 < 2**20


def test_a_newer_file_stays(place: Place) -> None:
    home = place.home()
    for name in ("newer", "older", "same"):
        (home / "projects" / name).write_text("saved")
        os.utime(home / "projects" / name, ns=(10**18, 10**18))
    place.save(place.instance(home))
    back = place.home()
    for name, shift in (("newer", 1), ("older", -1), ("same", 0)):
        (back / "projects" / name).write_text("here")
        os.utime(back / "projects" / name, ns=(10**18 + shift, 10**18 + shift))
    assert Archive(back, PATH).restore(place.files()).missing == {}
    found = {path.name: path.read_text() for path in (back / "projects").iterdir()}
    assert found == {"newer": "here", "older": "saved", "same": "here"}


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
            assert place.save(place.instance(home)).left_out == []
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


def test_a_transaction_that_was_cut_off_is_rolled_back_in_what_is_saved(place: Place) -> None:
    home = place.home()
    with contextlib.closing(sqlite3.connect(home / "a.db")) as database:
        database.execute("CREATE TABLE t (a)")
        database.execute("INSERT INTO t VALUES (42)")
        database.commit()
        database.execute("PRAGMA cache_size = 1")  # so that the file changes before the end
        database.executemany("INSERT INTO t VALUES (?)", [(b"x" * 4000,)] * 100)
        for name in ("a.db", "a.db-journal"):  # as they lie there when the program is killed
            shutil.copy(home / name, home / "projects" / name)
        database.rollback()
    assert (home / "projects" / "a.db-journal").stat().st_size > 0
    assert place.save(place.instance(home)).left_out == []
    back = place.restored() / "projects"
    with contextlib.closing(sqlite3.connect(back / "a.db")) as database:
        assert database.execute("SELECT a FROM t").fetchall() == [(42,)]


def test_what_only_begins_as_a_database_does_is_saved_as_it_is(place: Place) -> None:
    home, data = place.home(), b"SQLite format 3\0" + b"a fixture of a test" * 100
    (home / "projects" / "broken.db").write_bytes(data)
    assert place.save(place.instance(home)).left_out == []
    assert (place.restored() / "projects" / "broken.db").read_bytes() == data


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


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_our_keys_are_emptied_where_a_link_leads_to_the_config(
    place: Place, link: Callable[[Path, Path], None]
) -> None:
    home = place.home()
    config = home / "projects" / "hermes.yaml"
    config.write_text("providers: {databricks-gateway: {api_key: k}}\n")
    link(config, home / ".hermes" / "config.yaml")
    place.save(place.instance(home))
    back = place.restored() / "projects" / "hermes.yaml"
    assert back.read_text() == "providers: {databricks-gateway: {api_key: ''}}\n"


def test_our_keys_are_emptied_in_a_project_that_is_hermes_folder_too(place: Place) -> None:
    home = place.home()
    (home / ".hermes").rename(home / "projects" / "mine")
    (home / ".hermes").symlink_to("projects/mine")
    text = "providers: {databricks-gateway: {api_key: k}}\n"
    (home / "projects" / "mine" / "config.yaml").write_text(text)
    place.save(place.instance(home))
    back = place.restored()
    for folder in (".hermes", "projects/mine"):
        assert (back / folder / "config.yaml").read_text() == text.replace("k}}", "''}}")


def test_a_gitconfig_that_is_a_link_comes_back_as_one(place: Place) -> None:
    home = place.home()
    (home / "projects" / "gitconfig").write_text("[user]\n\tname = Jo\n")
    (home / ".gitconfig").symlink_to("projects/gitconfig")
    before = tree(home)
    assert place.save(place.instance(home)).left_out == []
    assert tree(place.restored()) == before


def test_only_scratch_folders_of_ours_are_removed(place: Place) -> None:
    home = place.home()
    ours, mine = f".keep-scratch-{'0' * 32}", [".keep-notes", ".keep-projects", ".keep-scratch-x"]
    for name in [ours, *mine]:
        (home / name).mkdir()
    (home / f".keep-scratch-{'1' * 32}").symlink_to(home / "projects")
    place.save(place.instance(home))
    left = {path.name for path in home.glob(".keep-*")}
    assert left == {*mine, f".keep-scratch-{'1' * 32}"}


def test_projects_may_be_a_link(place: Place) -> None:
    home = place.home()
    (home / "projects").rename(place.folder / "elsewhere")
    (home / "projects").symlink_to(place.folder / "elsewhere")
    (home / "projects" / "a").write_text("a")
    place.save(place.instance(home))
    assert (place.restored() / "projects" / "a").read_text() == "a"


# --- Whole, or not there -----------------------------------------------------


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
        here.save(files)
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
    assert other.restore(place.files()) == Opened(older=True)
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
    "through a file": {"files": [["projects/good/x", 0o644, 1, 1, [0]]]},
    "in place of a folder": {"files": [["projects", 0o644, 1, 1, [0]]]},
    "a credential": {"files": [["projects/.env", 0o644, 1, 1, [0]]]},
    "no such target": {"links": [["projects/a", None]]},
    "no time": {"files": [["projects/a", 420, "x", 1, [0]]]},
    "a size beyond any disk": {"files": [["projects/a", 420, 1, 2**31, [0]]]},
    "a surrogate": {"files": [["projects/\ud800", 420, 1, 1, [0]]]},
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
    assert Archive(back, PATH).restore(place.files()).missing
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
    data = b"none" + (bomb := zlib.compress(bytes(40 * 2**20)))
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
    assert done.missing == {"projects/a": "error", "projects/b": "ValueError"}
    assert {path.name for path in (back / "projects").iterdir()} == {"good"}


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
    worker = place.worker(old)
    worker.archive = first
    answer = worker.answer({"do": "save"} | place.login())
    assert answer == {
        "problem": "a newer instance of this app saves now, this one no longer does",
        "end": True,
    }


@pytest.mark.parametrize("cleaned", [False, True])
@pytest.mark.fault("volume")
def test_an_older_instance_whose_process_is_started_anew_stays_the_older(
    place: Place, cleaned: bool
) -> None:
    old, new = place.home(), place.home()
    place.ask(old)
    assert "problem" not in place.ask(old, "save", history="")  # alone, it goes on
    second = place.instance(new)
    (new / "projects" / "a").write_text("new")
    if cleaned:  # a save of the newer one deletes the marker of the older
        place.save(second)
    assert place.ask(old, "save", history="")["end"]
    if not cleaned:
        assert place.ask(old)["end"]
    place.save(second)
    assert tree(place.restored()) == tree(new)


def test_a_process_started_anew_counts_on(place: Place) -> None:
    home = place.home()
    for number in range(3):
        worker = place.worker(home)
        ask = {"do": "save" if number else "restore", "history": "", "instance": "i", "state": ""}
        (home / "projects" / "a").write_text(f"{number}")
        worker.answer(ask | place.login())
        one = worker.archive
        worker.answer(ask | {"do": "save"} | place.login())
        assert worker.archive is one  # it looks once
    assert len(place.volume.names("state-000001-i-")) == 3
    assert tree(place.restored()) == tree(home)


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
    real = second._write_state

    def after_the_older(*arguments: Any) -> None:
        answers = iter([looked])
        monkeypatch.setattr(
            first, "_check", lambda files: next(answers, None) or first._list(files)
        )
        place.save(first)
        real(*arguments)

    monkeypatch.setattr(second, "_write_state", after_the_older)
    place.save(second)
    assert len(place.volume.names(f"state-000001-{first.id}-000006")) == 1
    assert tree(place.restored()) == tree(new)


def test_no_manifest_is_written_for_what_is_not_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place.home()
    here = place.instance(home)
    (home / "projects" / "a").write_text("a")
    real = here._write_state

    def after_a_loss(*arguments: Any) -> None:
        place.volume.files.pop(f"{PATH}/{place.volume.names('pack-')[0]}")
        monkeypatch.setattr(here, "_write_state", real)
        real(*arguments)

    monkeypatch.setattr(here, "_write_state", after_a_loss)
    with pytest.raises(TornError):
        place.save(here)
    assert place.volume.names("state-") == []
    place.save(here)
    assert tree(place.restored()) == tree(home)


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


# --- What could not be put back ----------------------------------------------


def test_what_could_not_be_put_back_stays_saved_until_it_is(place: Place) -> None:
    """A disk on which two files find no place; then its successor, where there is one but it is taken; then one more."""
    home = place.home()
    (home / "projects" / "big").write_text("the big one")
    (home / "projects" / "taken").write_text("the old one")
    (home / "projects" / "gone").write_text("x")
    place.save(place.instance(home))
    back = place.home()
    for name in ("big", "taken"):
        (back / "projects" / name).mkdir()  # in the place of a file
    here = Archive(back, PATH)
    opened = here.restore(place.files())
    assert opened.missing == dict.fromkeys(
        ("projects/big", "projects/taken"), "something else is in its place"
    )
    for name in ("big", "taken"):
        (back / "projects" / name).rmdir()
    (back / "projects" / "taken").write_text("the new one")
    (back / "projects" / "gone").unlink()
    for number in range(2 * archive.KEPT):
        (back / "projects" / "a").write_text(f"{number}")
        place.save(here)
    successor = place.restored() / "projects"
    found = {
        str(p.relative_to(successor)): p.read_text() for p in successor.rglob("*") if p.is_file()
    }
    assert found == {
        "a": "9",
        "big": "the big one",
        "taken": "the new one",
        "brought-back/projects/taken": "the old one",
    }


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_was_below_a_file_of_now_is_brought_back_beside_it(place: Place, kind: str) -> None:
    home = place.home()
    (home / "projects" / "x" / "empty").mkdir(parents=True)
    (home / "projects" / "x" / "deep").write_text("mine")
    place.save(place.instance(home))
    second = place.home()
    here = second / "projects" / "x"
    here.write_text("a file") if kind == "file" else here.symlink_to("elsewhere")
    place.save(place.instance(second))
    third = place.home()
    opened = Archive(third, PATH).restore(place.files())
    aside = third / "projects" / "brought-back" / "projects" / "x"
    assert opened.missing == {}
    assert (aside / "deep").read_text() == "mine"
    assert (aside / "empty").is_dir()


@pytest.mark.parametrize("later", ["older", "newer"])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_was_brought_back_before_stays_beside_what_is_brought_back_now(
    place: Place, kind: str, later: str
) -> None:
    """Twice, what is in a folder finds a file in the folder's place."""
    texts = {"first": 10**18, "second": 10**18 + (1 if later == "newer" else -1)}
    here = place.instance(place.home())
    for text, when in texts.items():
        data = here.home / "projects" / "data"
        data.unlink(missing_ok=True)
        data.mkdir()
        if kind == "link":
            (data / "x").symlink_to(text)
        else:
            (data / "x").write_text(text)
            os.utime(data / "x", ns=(when, when))
        place.save(here)
        blocked = place.home()
        (blocked / "projects" / "data").write_text("in the way")
        place.save(place.instance(blocked))
        here = Archive(place.home(), PATH)
        assert here.restore(place.files()).missing == {}
        place.save(here)
    folders = (here.home / "projects" / "brought-back").rglob("projects/data")
    found = [os.readlink(x / "x") if kind == "link" else (x / "x").read_text() for x in folders]
    assert sorted(found) == ["first", "second"]


def test_a_link_whose_place_is_taken_stays_saved(place: Place) -> None:
    home = place.home()
    (home / "projects" / "x").symlink_to("mine")
    place.save(place.instance(home))
    back = place.home()
    (back / "projects" / "x").symlink_to("elsewhere")
    here = Archive(back, PATH)
    assert list(here.restore(place.files()).missing) == ["projects/x"]
    place.save(here)
    projects = place.restored() / "projects"
    assert os.readlink(projects / "x") == "elsewhere"
    assert os.readlink(projects / "brought-back" / "projects" / "x") == "mine"


def test_what_is_missing_outlives_the_process_that_saves(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, though an answer names no more than some: it has to fit into a line."""
    monkeypatch.setattr(saver, "SHOWN", 2)
    home = place.home()
    (home / "projects" / "a").write_text("a")
    place.save(place.instance(home))
    long = [[f"projects/{number}{'x' * 2**16}", "a"] for number in range(2)]
    rewrite(place.volume, lambda index: {"links": long, "files": index["files"]})
    back = place.home()
    (back / "projects" / "a").mkdir()
    opened = place.ask(back)
    assert (len(opened["missing"]), opened["missing_count"]) == (2, 3)
    assert len(json.dumps(opened)) < 2 * saver.LONGEST + 2**12
    (back / "projects" / "a").rmdir()
    for _ in range(2):  # a process that saves is killed: its successor is told what is missing
        worker = place.worker(back)
        request = {key: opened[key] for key in ("history", "state")}
        request |= {"do": "save", "instance": back.name}
        (back / "projects" / f"b{_}").write_text("b")
        assert "problem" not in worker.answer(request | place.login())
    found = [path.name for path in (place.restored() / "projects").iterdir()]
    assert sorted(found) == ["a", "b0", "b1"]


def test_an_answer_to_a_save_fits_into_a_line(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    escaped = 12  # characters, as JSON has one that is not in the first plane
    assert saver.SHOWN * 2 * saver.LONGEST * escaped < child.LONGEST_LINE
    monkeypatch.setattr(saver, "SHOWN", 2)
    monkeypatch.setattr(saver, "LONGEST", 20)
    monkeypatch.setattr(kept, "MADE_AGAIN", "a reason" * 100)
    home = place.home()
    for number in range(3):
        (home / "projects" / ("\U0001f600" * 50 + f"{number}.pyc")).touch()
    answer = place.ask(home, "save", history="")
    assert (len(answer["left_out"]), answer["left_out_count"]) == (2, 3)
    assert len(json.dumps(answer)) < 2 * 2 * 20 * escaped


def test_packs_are_put_together_but_for_what_nobody_can_send_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was not put back, and one that cannot be read any more, keep the packs that they are in."""
    monkeypatch.setattr(packs, "MANY", 6)
    home = place.home()
    here = place.instance(home)
    (home / "projects" / "carried").write_bytes(os.urandom(2000))
    place.save(here)
    back = place.home()
    (back / "projects" / "carried").mkdir()
    here = place.instance(back)
    (back / "projects" / "carried").rmdir()
    (back / ".hermes" / "config.yaml").write_text("mine: 1\n")
    place.save(here)
    (back / ".hermes" / "config.yaml").write_text("mine: [\n")
    for number in range(packs.MANY + 10):
        (back / "projects" / f"{number}").write_bytes(os.urandom(2000))
        place.save(here)
    assert len(place.volume.names("pack-")) < packs.MANY + 8
    restored = place.restored()
    assert (restored / "projects" / "carried").stat().st_size == 2000
    assert (restored / ".hermes" / "config.yaml").read_text() == "mine: 1\n"


# --- Several histories -------------------------------------------------------------------


def test_a_run_without_what_was_saved_is_a_history_of_its_own(place: Place) -> None:
    """It saves beside, deletes nothing of the other, and the next start asks once which to bring back."""
    home = place.home()
    (home / "projects" / "old").write_text("old")
    place.save(place.instance(home))
    before = dict(place.volume.files)
    name, blank = format.new_name(), place.home()
    (blank / "projects" / "new").write_text("new")
    worker = place.worker(blank)
    request = {"do": "save", "history": name, "instance": "i", "state": ""}
    for number in range(2 * archive.KEPT):
        (blank / "projects" / "n").write_text(f"{number}")
        assert "problem" not in worker.answer(request | place.login())
    assert before.items() <= place.volume.files.items()
    asked = place.ask(place.home())
    assert [one.name for one in asked["histories"]] == [name, format.MAIN]
    assert [one.files for one in asked["histories"]] == [2, 1]
    for chosen, expected in ((name, {"new", "n"}), (format.MAIN, {"old"})):
        back = place.home()
        assert place.ask(back, history=chosen)["history"] == chosen
        assert {path.name for path in (back / "projects").iterdir()} == expected
        assert place.ask(place.home())["history"] == chosen  # it is not asked again
    place.volume.files[f"{PATH}/{histories.CHOICE}"] = b"{torn"
    assert place.ask(place.home())["histories"]


def test_a_history_that_is_alone_is_brought_back_without_a_question(place: Place) -> None:
    name, home = format.new_name(), place.home()
    (home / "projects" / "a").write_text("a")
    place.ask(home, "save", history=name)
    back = place.home()
    assert place.ask(back)["history"] == name
    assert (back / "projects" / "a").read_text() == "a"


# --- The format --------------------------------------------------------------


def test_states_of_the_first_format_are_brought_back(place: Place) -> None:
    """Without `format`, `files` and `carried`, and with mode, time and blocks where they always were."""
    block = zlib.compress(b"hello", 1)
    pack = f"pack-{hashlib.sha256(block).hexdigest()}"
    index = zlib.compress(
        json.dumps(
            {
                "folders": [["projects", 0o755]],
                "files": [["projects/a", 0o640, 10**18, 5, [0]]],
                "links": [["projects/l", "a"]],
                "blocks": [[hashlib.sha256(b"hello").hexdigest(), 0, 0, len(block)]],
                "packs": [[pack, len(block)]],
            }
        ).encode()
    )
    digest = hashlib.sha256(index).hexdigest()
    manifest = {"saved": "2026-01-01T00:00:00.000", "index": {"size": len(index), "sha256": digest}}
    place.volume.files |= {
        f"{PATH}/{pack}": block,
        f"{PATH}/index-{digest}": index,
        f"{PATH}/state-000001-abcd0123-000001": json.dumps(manifest).encode(),
    }
    back = place.restored() / "projects"
    assert (back / "a").read_text() == (back / "l").read_text() == "hello"
    assert (back / "a").stat().st_mtime_ns == 10**18


def test_a_state_of_a_later_version_is_neither_passed_over_nor_deleted(place: Place) -> None:
    home = place.home()
    (home / "projects" / "a").write_text("a")
    place.save(place.instance(home))
    later = f"{PATH}/state-000009-abcd0123-000001"
    place.volume.files[later] = json.dumps({"format": 3, "anything": "else"}).encode()
    assert place.ask(place.home())["problem"] == (
        "it was saved by a later version of this app (format 3, expected at most 2)"
    )


def test_an_index_that_unpacks_to_too_much_is_no_state(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(format, "MOST_IN_AN_INDEX", 2**22)
    home = place.home()
    (home / "projects" / "good").write_text("x")
    place.save(place.instance(home))
    bomb = zlib.compress(b" " * (4 * format.MOST_IN_AN_INDEX))
    digest = hashlib.sha256(bomb).hexdigest()
    place.volume.files[f"{PATH}/index-{digest}"] = bomb
    told = {"saved": "2026", "index": {"size": len(bomb), "sha256": digest}}
    place.volume.files[f"{PATH}/state-000009-abcd0123-000001"] = json.dumps(told).encode()
    tracemalloc.start()
    try:
        opened = place.ask(back := place.home())
        assert tracemalloc.get_traced_memory()[1] < 3 * format.MOST_IN_AN_INDEX
    finally:
        tracemalloc.stop()
    assert opened["older"]
    assert (back / "projects" / "good").read_text() == "x"


@pytest.mark.parametrize(
    ("manifest", "index"),
    [
        ({}, {"packs": [["../../etc/passwd", 1]]}),
        ({}, {"packs": [["pack-" + "0" * 64, 2**40]]}),  # it is not there
        ({}, {"blocks": [["0" * 64, 7, 0, 1]]}),
        ({}, {"files": [["projects/a", 0o644, 1, 1, [99]]]}),
        ({}, {"files": None}),
        ({}, {"folders": [["projects"]]}),
        ({}, {"carried": {"links": 1}}),
        ({}, {"files": [[["a"], 0o644, 1, 1, [0]]]}),
        ({"format": "x"}, {}),
        ({"index": [7]}, {}),
        ({"index": {"sha256": "0" * 64}}, {}),
    ],
)
@pytest.mark.fault("torn or hostile state")
def test_a_state_that_means_nothing_is_none(
    place: Place, manifest: dict[str, Any], index: dict[str, Any]
) -> None:
    home = place.home()
    (home / "projects" / "good").write_text("x")
    place.save(place.instance(home))
    rewrite(place.volume, lambda _: index)
    newest = f"{PATH}/{place.volume.names('state-')[-1]}"
    told = json.loads(place.volume.files[newest]) | manifest
    place.volume.files[newest] = json.dumps(told).encode()
    assert place.ask(back := place.home())["older"]
    assert (back / "projects" / "good").read_text() == "x"


def test_a_state_that_could_not_be_read_again_is_not_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place.home()
    here = place.instance(home)
    (home / "projects" / "a").write_text("a")
    monkeypatch.setattr(format, "MOST_IN_AN_INDEX", 100)
    with pytest.raises(ValueError, match="too many files"):
        place.save(here)
    assert place.volume.names("state-") == []


# --- Faults ------------------------------------------------------------------

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
    worker, request = place.worker(home), {"do": "save"} | place.login()
    worker.archive = here
    wrong, said = FAULTS[fault]
    right = {name: getattr(place.volume, name) for name in wrong}
    vars(place.volume).update(wrong)
    answer = worker.answer(request)
    assert answer["problem"].startswith(said), answer
    assert "\n" not in answer["problem"]
    assert place.workspace.token not in answer["problem"]
    vars(place.volume).update(right)
    back = place.home()
    Archive(back, PATH).restore(place.files())
    assert tree(back) == before
    # The fault passes.
    here.number += 10
    assert "problem" not in worker.answer(request)
    assert tree(place.restored()) == tree(home)


def test_who_may_read_the_volume_is_asked_again_once_the_owner_is_known(place: Place) -> None:
    place.volume.me, place.volume.owner = "the app", "jo@example.com"
    place.volume.grants = {"the app": [("MANAGE", "", "")]}
    worker = saver.Worker(place.home(), PATH, saver.connect, lambda _: None, saver.workspace)
    request = {"do": "restore", "history": None, "instance": "i", "state": ""} | place.login()
    assert worker.answer(request | {"expected_readers": [""]})["exposed"]
    request["do"] = "save"
    assert "exposed" not in worker.answer(request | {"expected_readers": [""]})
    assert not worker.answer(request | {"expected_readers": ["jo@example.com"]})["exposed"]


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
def test_a_write_that_is_cut_off_leaves_the_state_of_the_same_files(place: Place) -> None:
    home = place.home()
    (home / "projects" / "a").write_text("a")
    place.save(place.instance(home))
    other = place.instance(place.home())  # it has what was saved, and nothing changes
    place.volume.cut = 99
    with pytest.raises(TimeoutError):
        place.save(other)
    place.volume.cut = 0
    assert tree(place.restored()) == tree(home)


@pytest.mark.fault("volume")
def test_a_download_cut_in_the_middle_is_no_reason_to_go_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place.home()
    (home / "projects" / "a").write_bytes(os.urandom(100_000))
    place.save(place.instance(home))
    back = place.home()
    other = Archive(back, PATH)
    place.volume.torn = 1
    with pytest.raises(requests.RequestException):
        other.restore(place.files())
    assert list((back / "projects").iterdir()) == []
    whole, torn = archive.download, list[str]()

    def cut_once(files: FilesAPI, path: str, most: int) -> bytes:
        data = whole(files, path, most)
        if "pack-" not in path or torn:
            return data
        torn.append(path)
        return data[:-1]

    monkeypatch.setattr(archive, "download", cut_once)
    assert not other.restore(place.files()).older
    assert torn
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


@pytest.mark.parametrize("gone", ["", "pack-", "index-", "state-"])
@pytest.mark.fault("volume")
def test_what_is_gone_from_the_volume_is_sent_again_though_nothing_changed(
    place: Place, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    monkeypatch.setattr(archive, "HOT", 0)
    home = place.home()
    (home / "projects" / "a").write_text("a")
    place.save(here := place.instance(home))
    for name in place.volume.names(gone or "pack-"):
        place.volume.files[f"{PATH}/{name}"] = b"cut"
    place.save(here)
    for name in place.volume.names(gone):
        del place.volume.files[f"{PATH}/{name}"]
    place.save(here)
    assert tree(place.restored()) == tree(home)


@pytest.mark.fault("volume")
def test_a_volume_that_refuses_is_a_problem_though_nothing_changed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "HOT", 0)
    place.save(here := place.instance(place.home()))
    place.volume.forbidden = True
    with pytest.raises(PermissionDenied):
        place.save(here)


@pytest.mark.fault("volume", 2)
def test_what_cannot_be_read_stays_as_it_was_saved_last(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place.home()
    projects = home / "projects"
    monkeypatch.setattr(content, "LOCKED", 0.1)
    locked = sqlite3.connect(projects / "locked.db")
    locked.execute("CREATE TABLE t (a)")
    locked.commit()
    (home / ".hermes" / "config.yaml").write_text("mine: 1\n")
    here = place.instance(home)
    assert place.save(here).left_out == []
    locked.execute("BEGIN EXCLUSIVE")
    locked.execute("INSERT INTO t VALUES (1)")
    os.utime(projects / "locked.db")
    (home / ".hermes" / "config.yaml").write_text("mine: [\n")
    reasons = {one.path: one.reason for one in place.save(here).left_out}
    assert reasons["projects/locked.db"] == "a database that is locked"
    assert reasons[".hermes/config.yaml"] == "is not valid YAML"
    locked.rollback()
    locked.close()
    back = place.restored()
    assert {path.name for path in (back / "projects").iterdir()} == {"locked.db"}
    assert (back / ".hermes" / "config.yaml").read_text() == "mine: 1\n"


@pytest.mark.fault("disk full")
def test_on_a_full_disk_all_but_the_databases_is_saved(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place.home()
    here = place.instance(home)
    (home / "projects" / "a").write_text("a")
    with contextlib.closing(sqlite3.connect(home / "projects" / "b.db")) as database:
        database.execute("CREATE TABLE t (a)")

    def mkdir(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", mkdir)
        saved = place.save(here)
    assert saved.left_out == [LeftOut("projects/b.db", "No space left on device")]
    assert saved.files == 1
    assert place.save(here).left_out == []
    assert tree(place.restored()) == tree(home)


def test_a_change_that_looks_like_the_last_one_is_saved_too(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changes within a tick of the kernel's clock leave the same times, and may leave the same size."""
    home = place.home()
    here, path = place.instance(home), home / "projects" / "a"
    path.write_text("a")
    soon = time.time_ns() + 10**12  # so that it is fresh however late the save comes
    seen = [
        replace(entry, mark=(1,) if entry.size else (), touched=soon)
        for entry in kept.walk(home, lambda _: None)
    ]
    monkeypatch.setattr(archive, "walk", lambda *_: seen)
    place.save(here)
    path.write_text("b")
    place.save(here)
    assert (place.restored() / "projects" / "a").read_text() == "b"


def test_nothing_is_sent_while_nothing_changes(
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
    assert [call.method for call in place.volume.calls[calls:]] == ["GET"]  # what is there
    os.utime(home / "projects" / "a", ns=(10**18, 10**18 + 1))
    sent = place.volume.sent()
    place.save(here)
    assert place.volume.sent() - sent < 1000  # a time is not a block
    assert len(place.volume.calls) > calls + 1


def test_what_is_left_out_is_named_for_as_long_as_it_is(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "HOT", 0)
    home = place.home()
    here, odd = place.instance(home), home / "projects" / "odd"
    (home / "projects" / ".env").write_text("KEY=1")
    os.mkfifo(odd)
    expected = [
        LeftOut("projects/odd", "neither a file nor a folder"),
        LeftOut("projects/.env", kept.CREDENTIAL, by_rule=True),
    ]
    assert place.save(here).left_out == expected
    sent = place.volume.sent()
    assert place.save(here).left_out == expected
    assert place.volume.sent() == sent
    odd.unlink()
    assert place.save(here).left_out == expected[1:]


def test_many_small_packs_are_put_together(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "MANY", 6)
    home = place.home()
    here = place.instance(home)
    for number in range(packs.MANY + 10):
        (home / "projects" / f"{number}").write_bytes(os.urandom(2000))
        place.save(here)
    assert len(place.volume.names("pack-")) < packs.MANY + 8
    place.save(here)
    assert tree(place.restored()) == tree(home)


def test_packs_that_nobody_can_send_again_are_not_put_together() -> None:
    here, many = packs.Packs(), range(packs.MANY + 1)
    here.blocks = {f"{n}": format.Location(f"pack-{n}", 0, 1) for n in many}
    here.sizes = {f"pack-{n}": 1 for n in many}
    here.mark_stale(here.blocks, fixed=[])
    assert here.stale == here.sizes.keys()
    here.mark_stale(here.blocks, fixed=here.blocks)
    assert not here.stale


# --- Restarts ----------------------------------------------------------------


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    here = Nursery()
    yield here
    here.end()


class Instance:
    """An app without a page: its keeper, in a process of its own, with a fresh disk."""

    def __init__(self, place: Place, nursery: Nursery, **options: Any) -> None:
        self.home = place.home()
        for name in ("projects", ".hermes"):
            (self.home / name).rmdir()
        env = place.workspace.env | {"HOME": str(self.home), "HERMES_VOLUME": PATH}
        self.number, self.output = nursery.start(env, **options)
        place.instances.append(self)

    def back(self) -> str:
        """Wait until what was saved is back; what was said of it."""
        said = []
        while (line := self.output.readline()) != "open\n":
            assert line, "it has ended"
            said.append(line.removeprefix("back: "))
        return "".join(said).strip()

    def first(self) -> str:
        """The first thing that it says."""
        return self.output.readline().removeprefix("back: ").strip()

    def end(self, number: int) -> None:
        """End it, and wait for that."""
        os.kill(self.number, number)
        until(lambda: not Path(f"/proc/{self.number}").exists(), lambda: "it does not end")
        self.output.close()


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


def start(place: Place, nursery: Nursery, fault: str) -> Instance:
    """A new instance; at its start the volume fails for a while, or one before it finds the disk full."""
    if fault == "volume":
        place.volume.forbidden = True
        instance = Instance(place, nursery, forked=True, last=50.0)
        assert instance.first().startswith("Not brought back yet: no permission")
        place.volume.forbidden = False
        return instance
    if fault == "disk":
        full = Instance(place, nursery, forked=True, most=200_000)
        assert full.first()
        full.end(signal.SIGTERM)
        shutil.rmtree(full.home, ignore_errors=True)
    return Instance(place, nursery, forked=True, last=50.0)


@pytest.mark.parametrize(
    ("restarts", "seed"),
    [
        *(pytest.param(10, n, marks=pytest.mark.fault("restart", 10)) for n in range(3)),
        *(pytest.param(50, n, marks=pytest.mark.slow) for n in range(3, 7)),
    ],
)
def test_nothing_is_lost_at_a_restart(
    place: Place, nursery: Nursery, restarts: int, seed: int
) -> None:
    rng = random.Random(seed)
    work, volume = Work(rng), place.volume
    graceful = torn = 0
    instance = Instance(place, nursery, forked=True, last=50.0)
    assert instance.back() == ""
    for number in range(restarts):
        volume.slow = rng.choice([0, 0, 0.02, 0.05])  # so that the end comes in mid-save, too
        volume.cut = rng.choice([0, 0, 1])
        work.until(time.time() + rng.uniform(0.05, 0.5), instance.home)
        how, two = [signal.SIGTERM, signal.SIGKILL][number % 2], number % 5 == 4
        ended = time.time()
        if two:  # a deployment: the new instance is there before the old one goes
            since = newest(volume)
            other = Instance(place, nursery, forked=True, last=50.0)
            work.until(time.time() + rng.uniform(0.05, 0.5), instance.home)
            instance.end(how)
        else:
            volume.cut = volume.cut if how == signal.SIGKILL else 0
            instance.end(how)
            since = newest(volume)
            if how == signal.SIGTERM:
                graceful += 1
                since = ended  # all of it was saved at the end
            torn += volume.names("state-") != [] and since == 0
            volume.slow = volume.cut = 0
            other = start(place, nursery, {1: "volume", 3: "disk"}.get(number % 5, ""))
        volume.slow = volume.cut = 0
        told = other.back()
        assert told.startswith("Brought back") or since == 0, told
        work.check(other.home, since)
        shutil.rmtree(instance.home, ignore_errors=True)  # what saves may not have ended yet
        instance = other
    instance.end(signal.SIGTERM)
    assert graceful >= restarts // 3
    assert torn == 0
    assert len(volume.names("state-")) <= 7


@pytest.mark.fault("volume")
def test_a_last_save_that_takes_too_long_is_given_up_cleanly(
    place: Place, nursery: Nursery
) -> None:
    instance = Instance(place, nursery, last=0.5)
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
def test_a_process_that_saves_and_is_killed_has_a_successor(place: Place, nursery: Nursery) -> None:
    instance = Instance(place, nursery, last=50.0)
    assert instance.back() == ""
    (instance.home / "projects").mkdir()
    (instance.home / "projects" / "a").write_text("a")
    until(lambda: place.volume.names("state-"), lambda: "nothing is saved")
    (instance.home / "projects" / "a").unlink()
    (instance.home / "projects" / "b").write_text("b")
    (killed,) = savers(instance.home)
    os.kill(killed, signal.SIGKILL)
    until(lambda: set(savers(instance.home)) - {killed}, lambda: "no successor")
    instance.end(signal.SIGTERM)
    assert [path.name for path in (place.restored() / "projects").iterdir()] == ["b"]


@pytest.mark.fault("volume")
def test_what_ends_the_app_does_not_end_the_process_that_saves_before_it_has(
    place: Place, nursery: Nursery
) -> None:
    instance = Instance(place, nursery, last=50.0)
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
