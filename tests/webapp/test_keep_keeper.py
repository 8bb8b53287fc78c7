"""When it is brought back and saved, and what is said of it: the keeper, without a workspace."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from hermes.urls import SettingError
from tests.served import PATIENCE, until
from webapp.keep import child
from webapp.keep.child import Child
from webapp.keep.format import History
from webapp.keep.keeper import Do, Keeper, Phase, Status, pause_after, what_next
from webapp.keep.selection import LeftOut
from webapp.owner import Owner
from webapp.settings import read_settings

PATH = "/Volumes/main/hermes/state"
LOGIN = SimpleNamespace(host="https://h", authenticate=lambda: {"Authorization": "Bearer t"})
OPENED = {"history": "", "state": "", "saved": "", "older": False, "files": 0}
OPENED |= {"missing": [], "missing_count": 0}
SAVED = {"files": 1, "size": 1, "left_out": [], "left_out_count": 0}


@pytest.mark.parametrize(
    ("phase", "stopping", "do"),
    [
        (Phase.OFF, False, Do.END),
        (Phase.RESTORING, False, Do.RESTORE),
        (Phase.RESTORING, True, Do.END),
        (Phase.ASKING, False, Do.NOTHING),
        (Phase.ASKING, True, Do.END),
        (Phase.SAVING, False, Do.SAVE),
        (Phase.SAVING, True, Do.SAVE),
        (Phase.ENDED, True, Do.END),
    ],
)
def test_what_is_done_next(phase: Phase, stopping: bool, do: Do) -> None:
    assert what_next(phase, stopping) is do


def test_pauses_grow_while_it_fails() -> None:
    saving = [pause_after(n, 60, Phase.SAVING) for n in range(10)]
    assert saving == [60, 10, 20, 40, 80, 160, 320, 640, 900, 900]
    assert max(pause_after(n, 60, Phase.RESTORING) for n in range(1, 50)) == 30


ODD, ENV = LeftOut("projects/odd", "a FIFO"), LeftOut("projects/.env", "a credential", by_rule=True)


@pytest.mark.parametrize(
    ("status", "note"),
    [
        (Status(Phase.OFF), ""),
        (Status(Phase.RESTORING), "bringing back"),
        (Status(Phase.RESTORING, problem="full"), "not brought back yet; full"),
        (Status(Phase.ASKING), "waits: which saved state?"),
        (Status(Phase.SAVING), "not saved yet"),
        (Status(Phase.SAVING, problem="full"), "not saved yet; full"),
        (Status(Phase.SAVING, left_out=(ENV,)), "not saved yet"),
        (Status(Phase.SAVING, readers="not known"), "not saved yet"),
        (
            Status(Phase.SAVING, left_out=(ODD, ODD, ENV), beside=True),
            "not saved yet \u00b7 not saved: projects/odd (a FIFO) and 1 more \u00b7 beside the earlier states",
        ),
        (
            Status(
                Phase.SAVING,
                missing=(LeftOut("a\nb", "full"),),
                went_back="w",
                readers="r",
                exposed=True,
            ),
            "not saved yet \u00b7 r \u00b7 not brought back: 'a\\nb' (full) \u00b7 w",
        ),
    ],
)
def test_how_it_stands_is_one_line(status: Status, note: str) -> None:
    assert status.note == note


def test_when_it_was_saved_is_told_in_words() -> None:
    now = time.monotonic()
    ages = [Status(Phase.SAVING, saved=now - s).note for s in (1, 61, 600, 7300)]
    assert ages == [
        "saved just now",
        "saved a minute ago",
        "saved 10 minutes ago",
        "saved 2 hours ago",
    ]


class Scripted:
    """Stands in for the process that saves: it gives these answers, one after the other, then waits."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers, self.asked, self.alive = answers, list[dict[str, Any]](), True

    def __call__(self, settings: object) -> Scripted:
        self.alive = True
        return self

    def wait_until_ready(self) -> None:
        pass

    def send(self, request: dict[str, Any]) -> None:
        self.asked.append(request)

    def receive(self) -> dict[str, Any]:
        answer = self.answers.pop(0) if self.answers else {"problem": "no more answers"}
        if isinstance(answer, Exception):
            self.alive = False
            raise answer
        return dict(answer() if callable(answer) else answer)

    def kill(self) -> None:
        self.alive = False

    def end(self) -> None:
        pass


@pytest.fixture
def scripted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Keeper, Scripted]]:
    """Makes a keeper and its process, from the answers."""

    def make(*answers: Any) -> tuple[Keeper, Scripted]:
        process = Scripted(list(answers))
        monkeypatch.setattr("webapp.keep.keeper.Child", process)
        settings = read_settings({"HOME": str(tmp_path), "HERMES_VOLUME": PATH})
        return Keeper(settings, Owner(), lambda: LOGIN, every=0.01), process

    return make


def reach(keeper: Keeper, phase: Phase) -> None:
    until(lambda: keeper.status.phase is phase, lambda: f"it is {keeper.status}")


def terminal(keeper: Keeper, said: list[str]) -> list[str]:
    """What the first terminal says before it opens, in a list that grows."""
    asyncio.run(asyncio.wait_for(keeper.restored(said.append), PATIENCE))
    return said


def test_no_terminal_opens_before_it_is_known_what_was_saved(
    scripted: Callable[..., tuple[Keeper, Scripted]],
) -> None:
    def opened() -> dict[str, Any]:
        until(lambda: said, lambda: "the terminal says nothing")
        missing = [("projects/a", "No space left on device")]
        found = {"saved": "2026-01-02T03:04:05", "files": 7, "older": True}
        return OPENED | found | {"missing": missing, "missing_count": 7000}

    said = list[str]()
    keeper, process = scripted({"problem": "no route"}, {"problem": "no route"}, opened, SAVED)
    keeper.start()
    terminal(keeper, said)
    assert said == [
        "Not brought back yet: no route. It goes on trying; the button below starts without it.",
        "Brought back 7 files, as saved on 2026-01-02 03:04 UTC. Not brought back: projects/a"
        " (No space left on device) and 6999 more. What is missing stays saved, and is tried again at the next start.",
    ]
    assert terminal(keeper, []) == []  # once
    until(lambda: keeper.status.saved, lambda: "it does not save")
    assert keeper.status.went_back == "went back to 2026-01-02 03:04 UTC, the last whole state"
    assert [request["do"] for request in process.asked[:4]] == ["restore"] * 3 + ["save"]
    keeper.stop()


def test_an_owner_who_is_found_later_is_meant_to_read_the_volume(
    scripted: Callable[..., tuple[Keeper, Scripted]],
) -> None:
    def found() -> dict[str, Any]:
        keeper.owner.email = "jo@example.com"
        return OPENED

    keeper, process = scripted(found, SAVED)
    keeper.start()
    until(lambda: keeper.status.saved, lambda: "it does not save")
    assert [request["expected_readers"] for request in process.asked[:2]] == [
        ["", ""],
        ["jo@example.com", ""],
    ]
    keeper.stop()


def test_a_start_without_it_ends_what_brings_back_and_is_a_history_of_its_own(
    scripted: Callable[..., tuple[Keeper, Scripted]],
) -> None:
    def meanwhile() -> dict[str, Any]:
        keeper.start_without()
        alive.append(process.alive)
        return OPENED | {"saved": "2026-01-02T03:04:05", "files": 7}

    alive = list[bool]()
    keeper, process = scripted({"problem": "no route"}, meanwhile, SAVED)
    keeper.start()
    (said,) = [line for line in terminal(keeper, []) if line.startswith("Started")]
    until(lambda: keeper.status.saved, lambda: "it does not save")
    assert keeper.status.beside
    assert alive == [False]  # nothing comes back into this run
    assert keeper.status.folder.startswith(f"{PATH}/line-")
    assert keeper.status.folder in said
    asked = process.asked[2]
    assert asked["do"] == "save"
    assert keeper.status.folder == f"{PATH}/{asked['history']}"
    keeper.start_without()  # too late for another one
    assert keeper.status.folder.endswith(asked["history"])
    keeper.stop()


def test_which_history_to_bring_back_is_asked(
    scripted: Callable[..., tuple[Keeper, Scripted]],
) -> None:
    histories: list[list[Any]] = [["line-x", "2026-01-02", 3], ["", "2026-01-01", 2]]
    keeper, process = scripted({"histories": histories}, OPENED | {"history": "line-x"}, SAVED)
    keeper.start()
    reach(keeper, Phase.ASKING)
    assert keeper.status.histories == tuple(History(*one) for one in histories)
    keeper.choose("of nobody")
    assert keeper.status.phase is Phase.ASKING
    keeper.choose("line-x")
    until(lambda: keeper.status.saved, lambda: "it does not save")
    assert [(one["do"], one["history"]) for one in process.asked[:3]] == [
        ("restore", None),
        ("restore", "line-x"),
        ("save", "line-x"),
    ]
    keeper.stop()


def test_a_process_that_ends_has_a_successor_that_knows_what_was_brought_back(
    scripted: Callable[..., tuple[Keeper, Scripted]],
) -> None:
    opened = OPENED | {"state": "state-1", "missing": [("projects/a", "full")], "missing_count": 1}
    keeper, process = scripted(opened, SAVED, RuntimeError("it ended"), SAVED)
    keeper.start()
    until(lambda: len(process.asked) > 3, lambda: f"asked: {process.asked}")
    assert [one["do"] for one in process.asked[:4]] == ["restore", "save", "save", "save"]
    assert {one["state"] for one in process.asked[1:]} == {"state-1"}
    assert len({one["instance"] for one in process.asked}) == 1
    keeper.stop()


def test_a_newer_instance_ends_it(scripted: Callable[..., tuple[Keeper, Scripted]]) -> None:
    keeper, _ = scripted(OPENED, {"problem": "a newer instance saves", "end": True})
    keeper.start()
    reach(keeper, Phase.ENDED)
    assert keeper.status.note == "not saved yet; a newer instance saves"


def test_a_login_that_failed_is_made_anew(
    scripted: Callable[..., tuple[Keeper, Scripted]],
) -> None:
    keeper, _ = scripted(OPENED, SAVED)
    logins = iter([SimpleNamespace(host="h", authenticate=lambda: {}), LOGIN])
    keeper._login = lambda: next(logins)
    keeper.start()
    until(lambda: keeper.status.saved, lambda: "it does not save")
    keeper.stop()


# --- The process itself ------------------------------------------------------


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Child]:
    """Makes a process that saves, of a program that plays it; the first line it prints is that it is ready."""
    real = subprocess.Popen

    def make(program: str, **more: str) -> Child:
        def start(command: list[str], **options: Any) -> Any:
            given.update(options)
            return real([sys.executable, "-c", f"print('ready', flush=True)\n{program}"], **options)

        monkeypatch.setattr(subprocess, "Popen", start)
        env = {"HOME": str(tmp_path), "HERMES_VOLUME": PATH, "PATH": "/bin"} | more
        return Child(read_settings(env))

    given = dict[str, Any]()
    make.given = given  # type: ignore[attr-defined]
    return make


SILENT = "import sys\nfor line in sys.stdin: pass"
WORKING = """input()
for _ in range(8):
    print('{"working": true}', flush=True)
print('{"done": 1}', flush=True)"""


def test_a_process_that_does_not_answer_is_ended(
    played: Callable[[str], Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = played(SILENT)
    process.wait_until_ready()
    monkeypatch.setattr(child, "SILENCE", 0.05)
    process.send({"do": "save"})
    with pytest.raises(RuntimeError, match=r"did not answer for 0 s, and is started anew"):
        process.receive()
    assert not process.alive


def test_a_process_that_shows_signs_of_life_may_take_its_time(
    played: Callable[[str], Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    class Lines(SimpleQueue[str]):
        def get(self, block: bool = True, timeout: float | None = None) -> str:
            waited.append(timeout or 0)
            return super().get(timeout=60)

    monkeypatch.setattr("queue.SimpleQueue", Lines)
    process = played(WORKING)
    process.wait_until_ready()
    process.send({"do": "save"})
    assert process.receive() == {"done": 1}
    assert waited == [child.SILENCE] * 10  # for each line anew
    process.end()


@pytest.mark.parametrize("program", ["", "print('x' * 2000, end='', flush=True); input()"])
def test_a_process_that_ends_or_says_too_much_is_ended(
    played: Callable[[str], Child], monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(child, "LONGEST_LINE", 1000)
    process = played(program)
    process.wait_until_ready()
    with pytest.raises(RuntimeError, match="has ended, and is started anew"):
        process.receive()
    assert not process.alive


def test_the_process_that_saves_inherits_no_credentials(played: Any) -> None:
    secrets = ("DATABRICKS_CLIENT_SECRET", "ARM_CLIENT_SECRET", "AZURE_SECRET", "DATABRICKS_TOKEN")
    process = played("", **dict.fromkeys(secrets, "s"), KEPT="k")
    process.kill()
    assert played.given["env"]["KEPT"] == "k"
    assert "s" not in played.given["env"].values()


# --- The setting -------------------------------------------------------------


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
