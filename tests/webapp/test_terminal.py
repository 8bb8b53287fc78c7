"""terminal.py on real pseudo-terminals, with viewers that are fast, slow, gone or stalled."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE
from webapp.terminal import pty as terminal
from webapp.terminal.marks import MOST, MarkBound, marks
from webapp.terminal.pty import REPORT, Terminal
from webapp.terminal.scrollback import SCROLLBACK, Scrollback
from webapp.terminal.viewer import PIECE, RESET, WINDOW, Viewer

ENV = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LANG": "C.UTF-8", "PS1": "$ "}


class Window:
    """A viewer's far end: keeps what it was shown; `open` may be cleared to make it stall."""

    def __init__(self, terminal: Terminal, rows: int = 24, columns: int = 80) -> None:
        self.text, self.largest = "", 0
        self.open, self.turn = asyncio.Event(), asyncio.Lock()
        self.open.set()
        self.viewer: Viewer = terminal.join(self.write, rows, columns)

    async def write(self, text: str) -> None:
        async with self.turn:  # several pieces may wait here; they come in as they were sent
            await self.open.wait()
            self.text += text
            self.largest = max(self.largest, len(text))

    async def shows(self, text: str) -> None:
        await until(lambda: text in self.text, (text, self))

    def __repr__(self) -> str:
        return repr(self.text[-300:])


async def until(condition: Callable[[], object], what: object = "the condition") -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        await asyncio.sleep(0.01)


def run(session: Callable[[Terminal], Coroutine[Any, Any, None]]) -> None:
    """Run a test in an event loop with a terminal that is ended whatever happens."""

    async def main() -> None:
        shell = Terminal()
        try:
            await asyncio.wait_for(session(shell), 3 * PATIENCE)
        finally:
            await shell.close()

    asyncio.run(main())


def sh(shell: Terminal, script: str) -> asyncio.Task[int]:
    return asyncio.create_task(shell.run(["sh", "-c", script], cwd=Path("/"), env=ENV))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_command_runs_in_its_folder_and_environment_and_its_exit_code_comes_back(
    tmp_path: Path,
) -> None:
    async def session(shell: Terminal) -> None:
        window = Window(shell)
        env = ENV | {"GREETING": "good day"}
        code = await shell.run(
            ["sh", "-c", 'echo "$GREETING from $(pwd)"; tty; exit 7'], cwd=tmp_path, env=env
        )
        await window.shows(f"good day from {tmp_path}")
        assert "/dev/" in window.text
        assert code == 7

    run(session)


def test_a_program_that_cannot_be_started_is_said_in_the_terminal() -> None:
    async def session(shell: Terminal) -> None:
        window = Window(shell)
        assert await shell.run(["no-such-program"], cwd=Path("/"), env=ENV) == 127
        await window.shows("no-such-program: No such file or directory")
        assert await sh(shell, "exit 0") == 0

    run(session)


def test_what_a_command_prints_last_is_never_lost() -> None:
    async def session(shell: Terminal) -> None:
        window = Window(shell)
        for n in range(30):
            await sh(shell, f"seq 3000; echo last words {n}")
            await window.shows(f"last words {n}")

    run(session)


def test_a_character_split_over_two_reads_is_not_broken() -> None:
    async def session(shell: Terminal) -> None:
        window = Window(shell)
        parts = r"'a\342' '\202' '\254 \360\237' '\220\233 z'"
        await sh(shell, f'stty raw; for part in {parts}; do printf "$part"; sleep 0.2; done')
        await window.shows("a€ 🐛 z")
        assert "\ufffd" not in window.text

    run(session)


def test_bytes_that_are_no_utf_8_are_shown_as_such_and_stop_nothing() -> None:
    async def session(shell: Terminal) -> None:
        window = Window(shell)
        await sh(shell, r"printf 'a\377b'; printf 'still here'")
        await window.shows("a\ufffdb")
        await window.shows("still here")

    run(session)


def test_a_character_is_whole_wherever_a_piece_ends() -> None:
    async def session(shell: Terminal) -> None:
        window = Window(shell)
        window.open.clear()
        text = "€" * (PIECE // 3 + 1000)
        shell.print(b"x" + text.encode())
        window.open.set()
        await until(lambda: len(window.text) >= len(text) + 1 + len(RESET))
        assert window.text == RESET + "x" + text

    run(session)


def test_typing_reaches_the_program_and_its_echo_the_window() -> None:
    async def session(shell: Terminal) -> None:
        window = Window(shell)
        task = sh(shell, "read line; echo got:$line")
        await until(lambda: shell._reading)
        shell.type(window.viewer, "hällo\r")
        await window.shows("hällo\r\ngot:hällo")
        await task

    run(session)


def test_a_long_paste_arrives_whole_while_the_program_is_slow() -> None:
    async def session(shell: Terminal) -> None:
        window = Window(shell)
        task = sh(shell, "stty -icanon -echo; echo ready; sleep 0.3; head -c 200000 | cksum")
        await window.shows("ready")
        paste = "".join(f"{n:07d}\n" for n in range(25000))
        shell.type(window.viewer, paste)
        await task
        await window.shows("200000")
        expected = (
            subprocess.run(["cksum"], input=paste.encode(), capture_output=True, check=True)
            .stdout.decode()
            .strip()
        )
        assert expected in window.text

    run(session)


def test_input_that_nobody_reads_is_bounded() -> None:
    async def session(shell: Terminal) -> None:
        window = Window(shell)
        sh(shell, "stty raw -echo; echo ready; exec sleep 60")
        await window.shows("ready")
        for _ in range(100):
            shell.type(window.viewer, "x" * 100_000)
        assert len(shell._typed) <= terminal.TYPEAHEAD + 100_000

    run(session)


def test_the_size_is_the_one_of_the_window_used_last() -> None:
    async def session(shell: Terminal) -> None:
        first = Window(shell, 30, 100)
        sh(shell, "trap 'stty size' WINCH; stty size; echo ready; while :; do read line; done")
        await first.shows("30 100\r\nready")
        shell.resize(first.viewer, 40, 120)
        await first.shows("40 120")
        second = Window(shell, 20, 60)
        await first.shows("20 60")
        shell.type(first.viewer, "x")
        await until(lambda: first.text.count("40 120") == 2, "the first window's size")
        shell.leave(first.viewer)
        await until(lambda: second.text.count("20 60") == 2, "the second window's size")

    run(session)


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (-3, 10**9), (10**9, -3)])
def test_an_absurd_size_is_brought_within_reason(size: tuple[int, int]) -> None:
    async def session(shell: Terminal) -> None:
        window = Window(shell, *size)
        await sh(shell, "stty size")
        await window.shows("\r\n")
        rows, columns = map(int, window.text.removeprefix(RESET).split())
        assert 2 <= rows <= 1000
        assert 2 <= columns <= 1000

    run(session)


def test_who_joins_late_sees_what_was_and_who_left_sees_no_more() -> None:
    async def session(shell: Terminal) -> None:
        await sh(shell, "echo before anyone")
        first = Window(shell)
        await first.shows("before anyone")
        shell.leave(first.viewer)
        shell.leave(first.viewer)
        await sh(shell, "echo while away")
        second = Window(shell)
        await second.shows("before anyone\r\nwhile away\r\n")
        assert second.text.startswith(RESET)
        assert "away" not in first.text

    run(session)


def test_two_windows_see_the_same() -> None:
    async def session(shell: Terminal) -> None:
        first, second = Window(shell), Window(shell)
        await sh(shell, "seq 5000")
        await first.shows("5000")
        await second.shows("5000")
        assert first.text == second.text

    run(session)


def test_a_window_that_fails_leaves_and_the_others_stay() -> None:
    async def session(shell: Terminal) -> None:
        async def broken(_: str) -> None:
            raise RuntimeError("the window is gone")

        gone = shell.join(broken, 24, 80)
        window = Window(shell)
        await sh(shell, "echo on we go")
        await window.shows("on we go")
        assert shell.viewers == [window.viewer]
        task = sh(shell, "read line; stty size; echo got:$line")
        await until(lambda: shell._reading)
        shell.resize(gone, 50, 50)
        for text in ("typed\r", "\x1b[0n"):
            shell.type(gone, text)
        shell.type(window.viewer, "only this\r")
        await window.shows("24 80\r\ngot:only this")
        await task
        shell.leave(window.viewer)
        shell.type(window.viewer, "\x1b[0n")

    run(session)


def test_the_scrollback_is_bounded_and_cut_between_lines() -> None:
    async def session(shell: Terminal) -> None:
        await sh(shell, "seq 1 400000")
        assert SCROLLBACK - 5000 < len(shell.output.data) <= SCROLLBACK
        window = Window(shell)
        await window.shows("400000")
        lines = window.text.removeprefix(RESET).split()
        assert lines == [str(n) for n in range(400001 - len(lines), 400001)]

    run(session)


@pytest.mark.parametrize(
    ("unit", "starts"),
    [
        (b"\x1b[31m\x1b[42mred", ("\x1b[31m", "\x1b[42m")),
        ("€".encode(), ("€",)),
        ("🐛".encode(), ("🐛",)),
        (b"x", ("x",)),
    ],
)
def test_the_scrollback_is_not_cut_within_an_escape_sequence_or_a_character(
    unit: bytes, starts: tuple[str, ...]
) -> None:
    async def session(shell: Terminal) -> None:
        for n in range(40):
            shell.print(unit * (50_000 // len(unit) + n))
        text = shell.output.data.decode()
        assert text.startswith(starts)
        assert len(shell.output.data) <= SCROLLBACK

    run(session)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_cell_has_thirty_marks_at_most_however_they_come(step: int) -> None:
    """xterm.js takes 12.9 s for 20,000 accents on one letter."""
    text = "e" + "\u0301" * 500 + "e\u0301x" + "\u0302\ufe0f\U000e0101" * 100 + "끝"
    data = text.encode()
    scrollback = Scrollback()
    for start in range(0, len(data), step):
        scrollback.add(data[start : start + step])
    marks = ("\u0302\ufe0f\U000e0101" * 10)[:MOST]
    assert scrollback.data.decode() == f"e{chr(0x301) * MOST}e\u0301x{marks}끝"


def test_half_a_character_does_not_wait_for_the_end_of_plain_text() -> None:
    bound = MarkBound()
    assert bound.bound(b"\xe2\x82") + bound.bound(b"a") == "\ufffda".encode()


def test_every_character_that_xterm_draws_into_the_cell_before_it_is_a_mark() -> None:
    nicegui = pytest.importorskip("nicegui", reason="it brings xterm.js, and is not installed")
    script = Path(nicegui.__file__).parent / "elements" / "xterm" / "dist" / "index.js"
    spans = re.search(r"UnicodeV6=void 0;.*?=(\[\[.*?\]\]),\w=(\[\[.*?\]\])", script.read_text())
    assert spans
    for first, last in json.loads(spans[1]) + json.loads(spans[2]):
        assert {chr(code) for code in range(first, last + 1)} <= set(marks())


def test_a_flood_waits_for_a_slow_window_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(terminal, "STALL", 3600.0)

    async def session(shell: Terminal) -> None:
        slow, fast = Window(shell), Window(shell)
        slow.open.clear()
        task = sh(shell, "seq 1 300000; echo done")
        await until(
            lambda: shell._master is not None and not shell._reading and shell.output.end > WINDOW,
            "the pause",
        )
        assert shell.output.end <= WINDOW + 65536
        assert not task.done()
        slow.open.set()
        await task
        for window in (slow, fast):
            await window.shows("done")
            assert window.text.removeprefix(RESET).split()[:-1] == [
                str(n) for n in range(1, 300001)
            ]
            assert window.largest <= PIECE + len(RESET)

    run(session)


def test_a_window_stalled_for_good_stops_the_others_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(terminal, "STALL", 0.3)

    async def session(shell: Terminal) -> None:
        stalled, other = Window(shell), Window(shell)
        await stalled.shows(RESET)
        stalled.open.clear()
        await sh(shell, "seq 1 400000; echo done")
        await other.shows("done")
        assert stalled.text == RESET
        assert len(shell.output.data) <= SCROLLBACK
        # It wakes up: what it missed is more than the scrollback holds, so it starts afresh.
        stalled.open.set()
        await stalled.shows("done")
        replay = stalled.text.rpartition(RESET)[2].split()[:-1]
        assert replay == [str(n) for n in range(400001 - len(replay), 400001)]
        # And it counts again.
        await until(lambda: not stalled.viewer.stalled)

    run(session)


def test_half_a_character_is_not_carried_over_what_a_window_missed() -> None:
    async def session(shell: Terminal) -> None:
        window = Window(shell)
        await window.shows(RESET)
        window.open.clear()
        shell.print("€".encode() * (WINDOW // 3 + 1))
        await until(
            lambda: window.viewer.on_way == WINDOW,
            "pieces that end within a character",
        )
        shell.print(b"x" * SCROLLBACK + b"end")
        window.open.set()
        await window.shows("end")
        assert "\ufffd" not in window.text

    run(session)


def test_reading_goes_on_when_a_slow_window_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "STALL", 3600.0)

    async def session(shell: Terminal) -> None:
        slow, fast = Window(shell), Window(shell)
        slow.open.clear()
        sh(shell, "seq 1 300000; echo done")
        await until(
            lambda: shell._master is not None and not shell._reading and shell.output.end > WINDOW,
            "the pause",
        )
        assert len(slow.viewer.pieces) > 1
        shell.leave(slow.viewer)
        await until(
            lambda: not (slow.viewer.pieces or slow.viewer.timer), "the end of what was on its way"
        )
        await fast.shows("done")

    run(session)


def test_a_window_has_its_time_again_for_each_piece_and_none_runs_while_it_has_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def session(shell: Terminal) -> None:
        gates: list[asyncio.Future[None]] = []

        async def write(_: str) -> None:
            gates.append(asyncio.get_running_loop().create_future())
            await gates[-1]

        viewer = shell.join(write, 24, 80)
        await until(lambda: gates)
        shell.print(b"x" * 3 * PIECE)
        await until(lambda: len(gates) == 4)
        timers = []
        for gate in gates:
            timer, left = viewer.timer, len(viewer.pieces)
            assert timer
            timers.append(timer)
            gate.set_result(None)
            await until(lambda left=left: len(viewer.pieces) < left)  # type: ignore[misc]
        assert len(set(map(id, timers))) == 4
        assert all(timer.cancelled() for timer in timers)
        assert viewer.timer is None
        monkeypatch.setattr(terminal, "STALL", 0.1)
        shell.print(b"x")
        await until(lambda: viewer.stalled)
        gates[-1].set_result(None)
        await until(lambda: not viewer.stalled)

    run(session)


def test_what_a_command_did_not_read_is_not_for_the_next_one() -> None:
    async def session(shell: Terminal) -> None:
        window = Window(shell)
        task = sh(shell, "stty raw -echo; echo ready; read -r go; kill -9 $$")
        await window.shows("ready")
        shell.type(window.viewer, "\n" + "unread\n" * 50_000)
        waiting = asyncio.create_task(shell.taken())
        assert await task == -signal.SIGKILL
        await waiting
        task = sh(
            shell, "stty -icanon -echo min 0 time 5; echo again; printf '<%s>' \"$(head -c 3)\""
        )
        await task
        await window.shows("<>")

    run(session)


def test_control_c_does_not_wait_behind_a_paste_that_nobody_reads(tmp_path: Path) -> None:
    async def session(shell: Terminal) -> None:
        window = Window(shell)
        # It looks after a while: neither what waits here nor what waits in the kernel comes before the Ctrl-C.
        script = "stty raw -echo; echo ready; while [ ! -e go ]; do sleep 0.01; done; head -c 1 | od -An -tx1"
        sh(shell, f"cd '{tmp_path}'; {script}")
        await window.shows("ready")
        shell.type(window.viewer, "x" * 500_000)
        assert len(shell._typed) > 400_000
        shell.type(window.viewer, "\x03")
        assert len(shell._typed) <= 1
        (tmp_path / "go").touch()
        await window.shows(" 03")

    run(session)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_that_the_app_was_told_to_ignore_reaches_the_programs(name: str) -> None:
    number = getattr(signal, name)

    async def session(shell: Terminal) -> None:
        before = signal.signal(number, signal.SIG_IGN)
        try:
            assert await sh(shell, f"kill -{number} $$; sleep 60") == -number
        finally:
            signal.signal(number, before)

    run(session)


def test_answers_to_questions_come_from_one_window_and_not_from_a_replay() -> None:
    async def session(shell: Terminal) -> None:
        await sh(shell, r"printf '\033[6n'")
        first, second = Window(shell), Window(shell)
        sh(shell, "stty raw -echo; echo ready; exec cat -v")
        first.open.clear()
        await second.shows("ready")
        shell.type(first.viewer, "\x1b[1;1R")
        shell.type(second.viewer, "\x1b[2;2R")
        await second.shows("^[[2;2R")
        shell.type(first.viewer, "typed")
        await second.shows("typed")
        shell.type(second.viewer, "\x1b[3;3R")
        shell.type(first.viewer, "\x1b[4;4R")  # it leads now, but is still being shown what was
        shell.type(first.viewer, "end")
        await second.shows("end")
        first.open.set()
        await first.shows("end")
        await until(lambda: first.viewer.position == shell.output.end)
        shell.type(first.viewer, "\x1b[5;5R")
        await second.shows("^[[5;5R")
        assert second.text.partition("ready\n")[2] == "^[[2;2Rtypedend^[[5;5R"

    run(session)


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[24;80R",
        "\x1b[?1;2c",
        "\x1b[>0;276;0c",
        "\x1b[0n",
        "\x1b[?2026;2$y",
        "\x1b]11;rgb:1e/1e/1e\x1b\\",
        "\x1bP1$r0m\x1b\\",
        "\x1b[0n\x1b[1;1R",
    ],
)
def test_what_an_emulator_answers_is_a_report(text: str) -> None:
    assert REPORT.fullmatch(text)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "\r",
        "\x1b",
        "\x1b[A",
        "\x1bOP",
        "\x1b[15~",
        "\x1b]",
        "\x1bP",
        "\x1b[200~paste\x1b[201~",
        "\x1b[I",
        "\x1b[<0;3;4M",
        "R",
    ],
)
def test_what_a_person_does_is_no_report(text: str) -> None:
    assert not REPORT.fullmatch(text)


def test_waiting_for_the_first_window() -> None:
    async def session(shell: Terminal) -> None:
        waiting = asyncio.create_task(shell.seen.wait())
        await sh(shell, "exit")
        assert not waiting.done()
        window = Window(shell)
        await waiting
        shell.leave(window.viewer)
        await shell.seen.wait()

    run(session)


def test_what_a_command_leaves_running_does_not_hold_up_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "STALL", 3600.0)
    stays = f"setsid sh -c 'echo it $((40 + 2)) runs; touch {tmp_path}/runs; exec sleep 600'"

    async def session(shell: Terminal) -> None:
        window = Window(shell)
        command = f"{stays} & until [ -e {tmp_path}/runs ]; do sleep 0.1; done; exit 3"
        assert await sh(shell, command) == 3
        await window.shows("it 42 runs")

    run(session)


@pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="counts what is open in /proc, which is not here"
)
def test_a_command_that_ended_leaves_nothing_open() -> None:
    async def session(shell: Terminal) -> None:
        assert await sh(shell, "true") == 0
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            assert await sh(shell, "true") == 0
        assert len(os.listdir("/proc/self/fd")) == before

    run(session)


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(),
    reason="finds its processes in /proc, which is not here",
)
def test_the_end_leaves_no_process_whatever_it_did_to_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(terminal, "GRACE", 1.0)
    stubborn, daemon, script = (
        tmp_path / "stubborn.py",
        tmp_path / "daemon.py",
        tmp_path / "stay.sh",
    )
    stubborn.write_text(
        "import os, signal, time\n"
        "for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "print('pid', os.getpid(), flush=True)\n"
        "time.sleep(600)\n"
    )
    daemon.write_text(
        f"import os\nos.fork() and os._exit(0)\nos.setsid()\nexec(open({str(stubborn)!r}).read())\n"
    )
    # A daemon that gives up its environment, too.
    forgetful = f"env -i {sys.executable} {daemon}"
    python = sys.executable
    script.write_text(
        f"set -m\ntrap '' HUP\necho pid $$\n{python} {stubborn} &\nnohup {python} {stubborn} 2>&1 | cat &\n"
        f"{python} {daemon} &\n{forgetful} &\nwait\nexec sleep 600\n"
    )

    async def session(shell: Terminal) -> None:
        window = Window(shell)
        flow = asyncio.create_task(shell.run(["bash", str(script)], cwd=tmp_path, env=ENV))
        await until(lambda: window.text.count("pid ") == 5, "five processes")
        pids = [
            int(line.split()[1])
            for line in window.text.replace(RESET, "").splitlines()
            if line.startswith("pid ")
        ]
        assert all(map(alive, pids))
        flow.cancel()
        await shell.close()
        await until(lambda: not any(map(alive, pids)), pids)

    run(session)


def test_the_end_takes_no_harm_from_processes_that_end_while_it_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = os.stat

    def stat(path: Any, *rest: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("/environ"):
            raise ProcessLookupError(3, "No such process", str(path))
        return asked(path, *rest, **options)

    async def session(shell: Terminal) -> None:
        flow = sh(shell, "echo ready; exec sleep 600")
        await Window(shell).shows("ready")
        monkeypatch.setattr(os, "stat", stat)
        await shell.close()
        assert await flow == -signal.SIGHUP

    run(session)


def test_the_end_is_a_hangup_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "GRACE", PATIENCE)

    async def session(shell: Terminal) -> None:
        window = Window(shell)
        flow = sh(
            shell,
            f"trap 'echo saved > {tmp_path}/out; exit 3' HUP; echo ready; while :; do sleep 0.1; done",
        )
        await window.shows("ready")
        await shell.close()
        assert await flow == 3
        assert (tmp_path / "out").read_text() == "saved\n"

    run(session)


def test_a_terminal_that_was_never_used_ends_too() -> None:
    async def session(shell: Terminal) -> None:
        await shell.close()

    run(session)


def test_a_command_ended_by_a_signal_says_which() -> None:
    async def session(shell: Terminal) -> None:
        assert await sh(shell, "kill -TERM $$") == -signal.SIGTERM

    run(session)


def test_control_c_interrupts_the_program_in_front() -> None:
    async def session(shell: Terminal) -> None:
        window = Window(shell)
        flow = asyncio.create_task(shell.run(["bash", "--norc", "-i"], cwd=Path("/"), env=ENV))
        await window.shows("$ ")
        # exec: dash ignores the key in a child that it has just made (vforked), and waits for it.
        shell.type(window.viewer, "sh -c 'echo in $((40 + 2)) front; exec sleep 600'\r")
        await window.shows("in 42 front")
        shell.type(window.viewer, "\x03")
        shell.type(window.viewer, "echo $?\r")
        await window.shows("130")
        assert "no job control" not in window.text
        shell.type(window.viewer, "exit 5\r")
        assert await flow == 5

    run(session)


@pytest.mark.parametrize("turns", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_a_cancellation_is_never_lost(turns: int) -> None:
    async def session(shell: Terminal) -> None:
        cancelled = 0
        for turn in range(turns):
            task = asyncio.create_task(shell.run(["true"], cwd=Path("/"), env=ENV))
            await asyncio.sleep(0)
            # Around the moment at which the program ends.
            ended = shell._ended
            deadline = time.monotonic() + 0.5
            while not ended.is_set() and not task.done() and time.monotonic() < deadline:
                await asyncio.sleep(0)
            for _ in range(turn % 5):
                await asyncio.sleep(0)
            if task.cancel():
                cancelled += 1
                with pytest.raises(asyncio.CancelledError):
                    await task
        assert cancelled > turns // 3

    run(session)


def test_a_window_that_takes_all_in_time_is_never_counted_as_stalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "STALL", 0.05)

    async def quick(_: str) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        one = Terminal()
        viewer = one.join(quick, 24, 80)
        one.say("a line")
        async with asyncio.timeout(60):
            while viewer.position < one.output.end:
                await asyncio.sleep(0.01)
        await asyncio.sleep(4 * terminal.STALL)  # this is the test's input: longer than a stall
        assert not viewer.stalled
        one.leave(viewer)

    asyncio.run(main())
