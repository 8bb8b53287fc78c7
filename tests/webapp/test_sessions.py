"""webapp/sessions.py: what runs in the terminals, and when."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nicegui", reason="the app needs nicegui, which is not installed")
pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")


from hermes.urls import in_time
from tests.served import PATIENCE
from webapp import sessions
from webapp.sessions import CONTINUE, Phase, Sessions, has_conversation
from webapp.settings import read_settings
from webapp.terminal import pty
from webapp.terminal.pty import Terminal
from webapp.terminal.viewer import Viewer


class Seat:
    """Opens terminals and reads what they show.

    Arguments:
        home: the home directory; `hermes` there says that it is Hermes, where `setup` makes the config.
        setup: a shell script, in place of the setup; "" for no Hermes.
    """

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, setup: str = "") -> None:
        (home / ".local" / "bin").mkdir(parents=True)
        (home / ".hermes").mkdir()
        (home / ".local" / "bin" / "hermes").write_text("#!/bin/sh\necho Hermes, $1\n")
        (home / ".local" / "bin" / "hermes").chmod(0o755)
        monkeypatch.setattr(sessions, "SETUP", ["sh", "-c", setup])
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PS1": "$ ",
            "ENABLE_HERMES": "yes" if setup else "no",
        }
        self.sessions, self.text = Sessions(read_settings(env)), dict[int, str]()

    def open(self) -> tuple[Terminal, Viewer]:
        number = self.sessions.new()
        self.text[number] = ""

        async def write(text: str) -> None:
            self.text[number] += text

        terminal = self.sessions.open[number]
        return terminal, terminal.join(write, 24, 80)

    async def nobody(self, text: str) -> None:
        """Takes what a terminal shows."""

    async def shows(self, number: int, text: str) -> None:
        await self.until(lambda: text in self.text[number])

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)

    def run(self, session: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            try:
                await session()
            finally:
                await self.sessions.close()

        try:
            asyncio.run(main())
        except TimeoutError:
            pytest.fail(f"the terminals show {self.text}")


READY = "echo set up; touch .hermes/config.yaml"


def test_a_setup_that_failed_is_tried_again_in_the_next_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat = Seat(
        tmp_path / "home",
        monkeypatch,
        f"[ -f .good ] || {{ echo bad luck; touch .good; exit 1; }}; {READY}",
    )

    async def session() -> None:
        seat.open()
        await seat.shows(1, "bad luck\r\nHermes could not be set up")
        await seat.shows(1, "This is a shell.")
        seat.open()
        await seat.shows(2, "set up\r\nHermes, chat")
        assert seat.sessions.phase is Phase.READY
        seat.open()
        await seat.shows(3, "Hermes, chat")
        assert "set up" not in seat.text[3]

    seat.run(session)


def test_a_setup_that_was_interrupted_is_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat = Seat(
        tmp_path / "home",
        monkeypatch,
        f"[ -f .good ] || {{ touch .good; echo slow $((40 + 2)); exec sleep 600; }}; {READY}",
    )

    async def session() -> None:
        terminal, viewer = seat.open()
        await seat.shows(1, "slow 42")
        seat.open()
        await seat.shows(2, "Hermes is being set up in terminal 1.")
        terminal.type(viewer, "\x03")
        await seat.shows(1, "Hermes could not be set up")
        await seat.shows(2, "set up\r\nHermes, chat")

    seat.run(session)


def test_a_second_terminal_waits_for_the_setup_in_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat = Seat(tmp_path / "home", monkeypatch, f"until [ -f .go ]; do sleep 0.05; done; {READY}")

    async def session() -> None:
        seat.open()
        await seat.until(lambda: "in terminal 1" in seat.sessions.note)
        seat.open()
        await seat.shows(2, "Hermes is being set up in terminal 1.")
        assert "Hermes, chat" not in seat.text[2]
        (tmp_path / "home" / ".go").touch()
        for number in (1, 2):
            await seat.shows(number, "Hermes, chat")
        assert "set up\r\nHermes" in seat.text[1]
        assert "set up\r\nHermes" not in seat.text[2]

    seat.run(session)


def test_a_token_that_comes_late_is_found_by_the_next_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat = Seat(tmp_path / "home", monkeypatch, f"[ -f token ] || exit 0; {READY}")

    async def session() -> None:
        seat.open()
        await seat.shows(
            1, "Hermes waits for a Databricks token; a new terminal looks for one. This is a shell."
        )
        (tmp_path / "home" / "token").touch()
        seat.open()
        await seat.shows(2, "Hermes, chat")

    seat.run(session)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("cli", 2)], True),
        ([("cli", 0), ("telegram", 9)], False),  # nothing was said; another program's
        ([], False),
        (None, False),
    ],
)
def test_the_first_terminal_says_how_the_last_conversation_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[tuple[str, int]] | None, told: bool
) -> None:
    seat = Seat(tmp_path / "home", monkeypatch, READY)
    database = tmp_path / "home" / ".hermes" / "state.db"
    if rows is None:
        database.write_bytes(b"no database")
    else:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("CREATE TABLE sessions (source TEXT, message_count INTEGER)")
            connection.executemany("INSERT INTO sessions VALUES (?, ?)", rows)

    async def session() -> None:
        for number in (1, 2):
            seat.open()
            await seat.shows(number, "Hermes, chat")
            assert (CONTINUE in seat.text[number]) == (told and number == 1)

    seat.run(session)


def test_a_database_that_never_answers_is_no_conversation(tmp_path: Path) -> None:
    endless = (
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT 'cli', 1 FROM r"
    )
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        view = f"{endless} WHERE n < 0"  # it is not known beforehand that there is none
        connection.execute(f"CREATE VIEW sessions (source, message_count) AS {view}")
    assert not in_time(lambda: has_conversation(tmp_path / "state.db"), 30)


def test_no_lock_of_a_database_is_waited_for(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert not in_time(lambda: has_conversation(tmp_path / "state.db"), 30)


def test_nothing_runs_before_a_window_looks_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program started now draws itself for the window's size."""
    seat = Seat(tmp_path / "home", monkeypatch, READY)

    async def session() -> None:
        seat.open()
        await seat.shows(1, "Hermes, chat")
        unseen = seat.sessions.open[seat.sessions.new()]
        seat.open()
        await seat.shows(3, "Hermes, chat")
        assert unseen.output.data == b""
        unseen.join(seat.nobody, 24, 80)
        await seat.until(lambda: b"Hermes, chat" in unseen.output.data)

    seat.run(session)


def test_what_is_turned_off_is_not_set_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat = Seat(tmp_path / "home", monkeypatch)

    async def session() -> None:
        assert seat.sessions.set_up_again() == 1
        assert seat.sessions.phase is Phase.OFF

    seat.run(session)


def test_a_token_goes_before_a_client_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat = Seat(tmp_path / "home", monkeypatch, f"echo token $DATABRICKS_TOKEN; {READY}")
    env = {**seat.sessions.settings.env, "DATABRICKS_TOKEN": "t", "DATABRICKS_CLIENT_SECRET": "s"}
    seat.sessions = Sessions(read_settings(env))

    async def session() -> None:
        seat.open()
        await seat.shows(1, "Hermes, chat")
        assert seat.text[1].startswith("\x1bctoken t\r\n")

    seat.run(session)


def test_what_is_prepared_is_ready_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    seat = Seat(home, monkeypatch, f"[ -f prepared ] && echo in order; {READY}")

    def prepare() -> None:
        assert not seat.text[1]
        (home / "prepared").touch()

    seat.sessions = Sessions(seat.sessions.settings, prepare=prepare)

    async def session() -> None:
        seat.open()
        await seat.shows(1, "in order\r\nset up")

    seat.run(session)


def test_what_fails_before_anything_runs_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat, failed = Seat(tmp_path / "home", monkeypatch, READY), list[int]()

    def prepare() -> None:
        if not failed:
            failed.append(1)
            raise RuntimeError("no\nway")

    seat.sessions = Sessions(seat.sessions.settings, prepare=prepare)

    async def session() -> None:
        first, _ = seat.open()
        await seat.shows(
            1, "This terminal cannot be used (RuntimeError: no way); a new one tries again.\r\n"
        )
        seat.open()
        await seat.shows(2, "Hermes, chat")
        seat.sessions.end(first)
        await seat.until(lambda: list(seat.sessions.open) == [2])

    seat.run(session)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_without_projects_there_is_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    seat = Seat(tmp_path / "home", monkeypatch)
    if kind == "file":
        (tmp_path / "home" / "projects").touch()
    else:
        (tmp_path / "home" / "projects").symlink_to("nowhere")

    async def session() -> None:
        terminal, viewer = seat.open()
        await seat.shows(
            1, f"{tmp_path}/home/projects: File exists. This is your home directory instead."
        )
        await seat.shows(1, "This is a shell.")
        terminal.type(viewer, "echo in $(pwd).\r")
        await seat.shows(1, f"in {tmp_path}/home.")

    seat.run(session)


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes in /proc, which is not here"
)
def test_the_end_of_the_app_waits_for_a_shell_that_is_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat = Seat(tmp_path / "home", monkeypatch)
    monkeypatch.setattr(pty, "GRACE", PATIENCE)
    stays = "trap '' HUP; touch ~/ready; until [ -f ~/go ]; do sleep 0.1; done"
    command = f"({stays}) & until [ -f ~/ready ]; do sleep 0.1; done"

    async def session() -> None:
        terminal, viewer = seat.open()
        await seat.shows(1, "This is a shell.")
        terminal.type(viewer, f"{command}; exit\r")
        await seat.until(lambda: not seat.sessions.open)
        assert terminal._signal(0)
        ending = asyncio.create_task(seat.sessions.close())
        await asyncio.wait({ending}, timeout=0.2)
        assert not ending.done()
        (tmp_path / "home" / "go").touch()
        await ending
        assert not terminal._signal(0)

    seat.run(session)
