"""app.py: its settings, its care for tokens, and the served app over raw HTTP and websocket handshakes."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import yaml

pytest.importorskip("nicegui", reason="the app needs nicegui, which is not installed")
pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")

import nicegui

import app
from setup_hermes import SettingError, refresh_token
from terminal import Terminal, Viewer
from tests.conftest import ROOT
from tests.standin import StandIn

PATIENCE = 60.0  # seconds, for what takes one or two
OWNER = "owner@example.com"


class Served:
    """The app in a process of its own, on a free port; a context manager.

    Arguments:
        env: its whole environment; HOME, the port and Hermes's switch are set here.
        hermes: a home directory with Hermes in it, or one where it is missing; None serves shells only.
        settings: more variables, by name.
    """

    def __init__(self, env: dict[str, str], hermes: Path | None = None, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="served-"))
        self.home = self.folder / "home"
        (self.home / ".local").mkdir(parents=True)
        for folder in (hermes / ".local").glob("*") if hermes else ():
            (self.home / ".local" / folder.name).symlink_to(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://localhost:{self.port}"
        env = {k: v for k, v in env.items() if not k.startswith(("PYTEST_", "NICEGUI_"))}
        own = {"HOME": str(self.home), "DATABRICKS_APP_PORT": str(self.port), "ENABLE_HERMES": "true" if hermes else "false"}
        self.log = self.folder / "log"
        with self.log.open("w") as log:
            command = [sys.executable, str(ROOT / "app.py")]
            # Another folder than the checkout, so that the app must find its files by itself.
            self.process = subprocess.Popen(
                command, env=env | own | settings, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder
            )

    def __enter__(self) -> Served:
        until(self.answers, lambda: f"the app does not answer: {self.log.read_text()}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        finally:
            self.process.kill()
            if kind:
                print(self.log.read_text())
            shutil.rmtree(self.folder, ignore_errors=True)

    def answers(self) -> bool:
        """Whether it answers by now."""
        assert self.process.poll() is None, self.log.read_text()
        with suppress(OSError):
            return self.ask("GET /health", {"Host": "probe"})[0] == 200
        return False

    def ask(self, request: str, headers: dict[str, str] | list[tuple[str, str]], body: str = "") -> tuple[int, str]:
        """Send one request as it stands, and close.

        Returns:
            The status and the rest of the answer; a websocket's greeting included.
        """
        pairs = [*(headers.items() if isinstance(headers, dict) else headers), ("Content-Length", str(len(body)))]
        head = "".join(f"{name}: {value}\r\n" for name, value in pairs)
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(f"{request} HTTP/1.1\r\n{head}\r\n{body}".encode())
            answer = b""
            with suppress(TimeoutError):
                while chunk := connection.recv(65536):
                    answer += chunk
                    connection.settimeout(0.3)
        status, _, rest = answer.decode("utf-8", "replace").partition("\r\n")
        return int(status.split()[1]), rest

    def processes(self) -> list[str]:
        """The command lines of all that still runs with this app's home."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"HOME={self.home}\0".encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
        return found


def until(condition: Callable[[], object], failure: Callable[[], str]) -> None:
    """Wait for a condition, for as long as PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, failure()
        time.sleep(0.05)


# --- Settings -------------------------------------------------------------------------------------------------------------


def test_importing_the_app_starts_nothing_and_reads_no_setting(tmp_path: Path) -> None:
    code = "import app, threading, os; print(threading.active_count(), os.listdir('.'))"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DATABRICKS_APP_PORT": "nonsense", "HOME": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("1 []\n", "", 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("DATABRICKS_APP_PORT", value) for value in ("http", "0", "-1", "65536", "8000.5", "8000 8001", "٣", "9" * 5000)],
        *[("MAX_CONCURRENT_SESSIONS", value) for value in ("0", "many", "-5", "101", "1e2", "²")],
        ("ENABLE_HERMES", "perhaps"),
        ("HOME", "/nowhere/at/all"),
    ],
)
def test_a_bad_setting_is_one_clear_line_and_exit_2(name: str, value: str, tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), name: value}
    done = subprocess.run(
        [sys.executable, str(ROOT / "app.py")], env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(
        rf"{name}: .*{re.escape(value[:50])}.*; expected .*\n|{name}: .* cannot be written; expected .*\n", done.stderr
    )


def test_a_port_in_use_is_said_and_ends_the_app(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "ENABLE_HERMES": "no",
            "DATABRICKS_APP_PORT": str(taken.getsockname()[1]),
        }
        done = subprocess.run(
            [sys.executable, str(ROOT / "app.py")], env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    assert done.returncode not in (0, 2)
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_not_set_has_a_default(tmp_path: Path) -> None:
    settings = app.read_settings({"HOME": str(tmp_path)})
    assert (settings.name, settings.owner, settings.port, settings.limit, settings.hermes) == ("", "", 8000, 5, True)
    settings = app.read_settings(
        {"HOME": str(tmp_path), "DATABRICKS_APP_PORT": " 9000\n", "MAX_CONCURRENT_SESSIONS": "", "APP_OWNER": f" {OWNER} "}
    )
    assert (settings.owner, settings.port, settings.limit) == (OWNER, 9000, 5)


def test_settings_do_not_show_the_environment(tmp_path: Path) -> None:
    assert "dapi" not in repr(app.read_settings({"HOME": str(tmp_path), "DATABRICKS_TOKEN": "dapi1"}))


def test_a_wrong_setting_raises() -> None:
    with pytest.raises(SettingError, match="HOME"):
        app.read_settings({"HOME": "/nowhere"})


def test_the_terminal_gets_no_service_principal(tmp_path: Path) -> None:
    env = {
        "HOME": str(tmp_path),
        "PATH": "/bin",
        "DATABRICKS_CLIENT_ID": "id",
        "DATABRICKS_CLIENT_SECRET": "secret",
        "DATABRICKS_HOST": "h",
    }
    shell = app.read_settings(env | {"LANG": "de_DE.UTF-8"}).shell_env
    assert "DATABRICKS_CLIENT_SECRET" not in shell
    assert "DATABRICKS_CLIENT_ID" not in shell
    assert (shell["DATABRICKS_HOST"], shell["LANG"]) == ("h", "de_DE.UTF-8")
    assert shell["PATH"] == f"{tmp_path}/.local/bin:/bin"
    assert app.read_settings(env).shell_env["LANG"] == "C.UTF-8"
    assert app.read_settings(env).env["DATABRICKS_CLIENT_SECRET"] == "secret"


# --- The model and the route ----------------------------------------------------------------------------------------------


def write_config(path: Path, base_url: str, key: str = "old") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    model = {"default": "m", "provider": "custom", "base_url": base_url, "api_key": key}
    providers = [{"name": "databricks-gateway", "base_url": base_url, "api_key": key}]
    path.write_text(yaml.safe_dump({"model": model, "custom_providers": providers}, sort_keys=False))


@pytest.mark.parametrize(
    ("base_url", "shown"),
    [
        ("https://1.0.ai-gateway.azuredatabricks.net/openai", "m · AI Gateway"),
        ("https://adb-1.2.azuredatabricks.net/ai-gateway/mlflow/v1", "m · AI Gateway"),
        ("https://gateway.example/mlflow/v1/", "m · AI Gateway"),
        ("https://adb-1.2.azuredatabricks.net/serving-endpoints", "m · direct"),
        ("https://adb-1.2.azuredatabricks.net/serving-endpoints/", "m · direct"),
        ("https://openrouter.ai/api/v1", "m · openrouter.ai"),
        ("https://user:secret@other.example/v1", "m · other.example"),
        ("", "m · no route"),
    ],
)
def test_the_line_tells_model_and_route(tmp_path: Path, base_url: str, shown: str) -> None:
    config = tmp_path / "config.yaml"
    write_config(config, base_url)
    assert app.describe(config) == shown


def test_the_line_follows_the_config(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    assert app.describe(config) == ""
    write_config(config, "https://h/serving-endpoints")
    assert app.describe(config) == "m · direct"
    write_config(config, "https://h/ai-gateway/mlflow/v1")
    assert app.describe(config) == "m · AI Gateway"


@pytest.mark.parametrize(
    "text",
    [
        *["", "a: b: c", "[]", "model: m", "model: {default: m}", "\x00", "\udcff", "[" * 9999],
        *[f"model: {{default: m, base_url: {url}}}" for url in ("3", "[]", "", "2026-01-01", "'http://['")],
    ],
)
def test_a_config_that_says_nothing_of_it_breaks_nothing(tmp_path: Path, text: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert app.describe(config) == ""


# --- Fresh tokens ---------------------------------------------------------------------------------------------------------


class Stop(BaseException):
    """Ends `keep_token_fresh`, which nothing else does."""


def keep(config: Path, steps: list[Any]) -> tuple[list[float], list[str], int]:
    """Run `keep_token_fresh` over the given answers (a token, or an error to raise).

    Returns:
        The pauses it made, Hermes's key during each, and how often it logged in.
    """
    answers, pauses, keys, logins = iter(steps), [], [], 0

    def login() -> Callable[[], str]:
        nonlocal logins
        logins += 1

        def ask() -> str:
            answer = next(answers)
            if callable(answer):
                answer = answer()
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        return ask

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        keys.append(yaml.safe_load(config.read_text())["model"]["api_key"] if config.exists() else "-")
        if len(pauses) == len(steps):
            raise Stop

    with pytest.raises(Stop):
        app.keep_token_fresh(config, login, sleep)
    return pauses, keys, logins


def test_a_new_token_reaches_hermes_at_the_next_look(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    write_config(config, "https://h/serving-endpoints")
    pauses, keys, logins = keep(config, ["one", "one", "two", "three"])
    assert keys == ["one", "one", "two", "three"]
    assert set(pauses) == {app.POLL}
    assert logins == 1
    assert yaml.safe_load(config.read_text())["custom_providers"][0]["api_key"] == "three"


def test_a_look_comes_far_more_often_than_five_minutes_or_the_life_of_a_five_second_token() -> None:
    assert app.POLL < 2.5


def test_the_file_is_left_alone_while_the_token_stays(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    write_config(config, "https://h/serving-endpoints")
    times: list[int] = []

    def look() -> str:
        times.append(config.stat().st_mtime_ns)
        return "one"

    keep(config, ["one", look, look])
    assert times[0] == times[1] == config.stat().st_mtime_ns


def test_an_old_token_put_back_by_someone_else_is_replaced(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    write_config(config, "https://h/serving-endpoints")

    def put_back() -> str:
        write_config(config, "https://h/serving-endpoints", "stale")
        return "one"

    assert keep(config, ["one", put_back])[1] == ["one", "one"]


def test_errors_are_logged_and_tried_again_with_growing_pauses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tmp_path / "config.yaml"
    write_config(config, "https://h/serving-endpoints")
    errors: list[Any] = [OSError("no network. Config: client_secret=***\nmore")] * 7
    pauses, keys, logins = keep(config, [*errors, "one", "two"])
    assert pauses == [4, 8, 16, 32, 60, 60, 60, 2, 2]
    assert keys == ["old"] * 7 + ["one", "two"]
    assert logins == 8
    assert "no network" in caplog.text
    assert "client_secret" not in caplog.text
    assert "more" not in caplog.text


def test_a_write_of_someone_else_right_after_ours_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, ours = tmp_path / "config.yaml", refresh_token
    write_config(config, "https://h/serving-endpoints")
    os.utime(config, (1, 1))

    def overtaken(path: Path, token: str) -> bool:
        ours(path, token)
        write_config(path, "https://h/serving-endpoints", "stale")
        monkeypatch.setattr(app, "refresh_token", ours)
        return True

    monkeypatch.setattr(app, "refresh_token", overtaken)
    assert keep(config, ["one", "one", "one"])[1] == ["stale", "one", "one"]


def test_no_token_is_asked_for_before_there_is_a_config(tmp_path: Path) -> None:
    assert keep(tmp_path / "config.yaml", ["one", "two"]) == ([app.POLL, app.POLL], ["-", "-"], 0)


@pytest.mark.parametrize("life", [3600, 1200])
def test_a_token_never_has_less_than_five_minutes_to_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, life: float) -> None:
    oauth = pytest.importorskip("databricks.sdk.oauth", reason="databricks-sdk, which gives the tokens, is not installed")
    now, left, config = datetime(2026, 1, 1), [], tmp_path / "config.yaml"
    write_config(config, "https://h/serving-endpoints")

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return now

    class Credentials(oauth.Refreshable):  # type: ignore[misc, name-defined]
        def refresh(self) -> Any:
            return oauth.Token(now.isoformat(), expiry=now + timedelta(seconds=life))

        def _trigger_async_refresh(self) -> None:
            self._update_token(self.refresh())  # it does this in a thread, which is no matter of the clock

    def sleep(seconds: float) -> None:
        nonlocal now
        issued = datetime.fromisoformat(yaml.safe_load(config.read_text())["model"]["api_key"])
        now += timedelta(seconds=seconds)
        left.append((issued - now).total_seconds() + life)
        if len(left) * app.POLL > 2.2 * life:
            raise Stop

    monkeypatch.setattr(oauth, "datetime", Clock)
    source = Credentials(disable_async=False)
    with pytest.raises(Stop):
        app.keep_token_fresh(config, lambda: lambda: str(source.token().access_token), sleep)
    assert 300 <= min(left) < life / 2


# --- The process ----------------------------------------------------------------------------------------------------------


def started(tmp_path: Path, code: str, **env: str) -> str:
    """What some code says where the app would begin to serve."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), **env}
    script = f"import app, ctypes, os\napp.serve = lambda settings: print({code})\napp.main()"
    return subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's prctl, and this is another system")
def test_no_terminal_may_read_the_apps_own_environment(tmp_path: Path) -> None:
    assert started(tmp_path, "ctypes.CDLL(None).prctl(3, 0)") == "0"  # PR_GET_DUMPABLE


@pytest.mark.parametrize("token", ["", " \n"])
def test_a_blank_token_is_none(tmp_path: Path, token: str) -> None:
    with StandIn(oauth=600) as standin:
        env = standin.env | {"DATABRICKS_TOKEN": token, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
        assert started(tmp_path, "app.connect(settings)()", **env) in standin._expiring


def test_a_host_finds_its_own_profile(tmp_path: Path) -> None:
    with StandIn() as standin:
        profiles = (
            f"[DEFAULT]\nhost = https://other.example\n[work]\nhost = {standin.env['DATABRICKS_HOST']}\ntoken = dapi-work\n"
        )
        (tmp_path / ".databrickscfg").write_text(profiles)
        env = {name: value for name, value in standin.env.items() if name != "DATABRICKS_TOKEN"}
        assert started(tmp_path, "app.connect(settings)()", **env | {"HOME": str(tmp_path)}) == "dapi-work"


# --- The terminals --------------------------------------------------------------------------------------------------------


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
        monkeypatch.setattr(app, "SETUP", ["sh", "-c", setup])
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "PS1": "$ ", "ENABLE_HERMES": "yes" if setup else "no"}
        self.sessions, self.text = app.Sessions(app.read_settings(env)), dict[int, str]()

    def open(self) -> tuple[Terminal, Viewer]:
        number = self.sessions.new()
        self.text[number] = ""

        async def write(text: str) -> None:
            self.text[number] += text

        terminal = self.sessions.open[number]
        return terminal, terminal.join(write, 24, 80)

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


def test_a_setup_that_failed_is_tried_again_in_the_next_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seat = Seat(tmp_path / "home", monkeypatch, f"[ -f .good ] || {{ echo bad luck; touch .good; exit 1; }}; {READY}")

    async def session() -> None:
        seat.open()
        await seat.shows(1, "bad luck\r\nHermes could not be set up")
        await seat.shows(1, "This is a shell.")
        seat.open()
        await seat.shows(2, "set up\r\nHermes, chat")
        assert seat.sessions.note == ""
        seat.open()
        await seat.shows(3, "Hermes, chat")
        assert "set up" not in seat.text[3]

    seat.run(session)


def test_a_setup_that_was_interrupted_is_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seat = Seat(
        tmp_path / "home", monkeypatch, f"[ -f .good ] || {{ touch .good; echo slow $((40 + 2)); sleep 600; }}; {READY}"
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


def test_a_second_terminal_waits_for_the_setup_in_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_token_that_comes_late_is_found_by_the_next_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seat = Seat(tmp_path / "home", monkeypatch, f"[ -f token ] || exit 0; {READY}")

    async def session() -> None:
        seat.open()
        await seat.shows(1, "Hermes waits for a Databricks token; a new terminal looks for one. This is a shell.")
        (tmp_path / "home" / "token").touch()
        seat.open()
        await seat.shows(2, "Hermes, chat")

    seat.run(session)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_without_projects_there_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    seat = Seat(tmp_path / "home", monkeypatch)
    if kind == "file":
        (tmp_path / "home" / "projects").touch()
    else:
        (tmp_path / "home" / "projects").symlink_to("nowhere")

    async def session() -> None:
        terminal, viewer = seat.open()
        await seat.shows(1, f"{tmp_path}/home/projects: File exists. This is your home directory instead.")
        await seat.shows(1, "This is a shell.")
        terminal.type(viewer, "echo in $(pwd).\r")
        await seat.shows(1, f"in {tmp_path}/home.")

    seat.run(session)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc, which is not here")
def test_the_end_of_the_app_waits_for_a_shell_that_is_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seat = Seat(tmp_path / "home", monkeypatch)

    async def session() -> None:
        terminal, viewer = seat.open()
        await seat.shows(1, "This is a shell.")
        terminal.type(viewer, "(trap '' HUP; touch ~/ready; sleep 600) & until [ -f ~/ready ]; do sleep 0.1; done; exit\r")
        await seat.until(lambda: not seat.sessions.open)
        assert terminal._signal(0)
        await seat.sessions.close()
        assert not terminal._signal(0)

    seat.run(session)


# --- Who may come in, over real sockets -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace() -> Iterator[StandIn]:
    with StandIn() as standin:
        yield standin


@pytest.fixture(scope="module")
def laptop(workspace: StandIn) -> Iterator[Served]:
    with Served(workspace.env) as served:
        yield served


@pytest.fixture(scope="module")
def deployed(workspace: StandIn) -> Iterator[Served]:
    with Served(workspace.env, DATABRICKS_APP_NAME="hermes", APP_OWNER=OWNER) as served:
        yield served


@pytest.fixture(scope="module")
def unowned() -> Iterator[Served]:
    with StandIn(creator="") as standin, Served(standin.env, DATABRICKS_APP_NAME="hermes") as served:
        yield served


def paths() -> list[str]:
    """A path for every route that NiceGUI and FastAPI have, known ones that are off, and ways to write them oddly."""
    routed = [re.sub(r"\{[^}]*\}", "x", getattr(route, "path", "")) or "/" for route in nicegui.app.routes]
    static = f"/_nicegui/{nicegui.__version__}/static/nicegui.js"
    socket_io = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"
    off = ["/", "/docs", "/redoc", "/openapi.json", "/favicon.ico", "/nothing", static, socket_io, "/_nicegui_ws/socket.io/"]
    odd = [
        "//",
        "///_nicegui_ws/socket.io/",
        "/%2e%2e/",
        "/health/",
        "/health/../",
        "/%68ealth/",
        "/./",
        "*",
        "http://localhost/",
        "/?x=/health",
    ]
    return list(dict.fromkeys([*routed, *off, *odd]))


STRANGERS = {
    "nobody": {},
    "somebody else": {"X-Forwarded-Email": "other@example.com"},
    "a foreign origin": {"X-Forwarded-Email": OWNER, "Origin": "https://evil.example"},
    "another scheme": {"X-Forwarded-Email": OWNER, "Origin": "http://app.example.com"},
}
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
INSIDE = re.compile(r"xterm|nicegui|socket\.io|\"sid\"|Swagger|terminal", re.IGNORECASE)


def refuses(served: Served, request: str, headers: dict[str, str], status: int = 403) -> None:
    """Assert that a request gets this status and none of what is inside."""
    given, answer = served.ask(request, headers)
    assert given == status
    assert not INSIDE.search(answer)


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("path", paths())
def test_a_stranger_reaches_nothing(deployed: Served, stranger: str, path: str) -> None:
    headers = {"Host": "app.example.com", **STRANGERS[stranger]}
    for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE", "PROPFIND"):
        refuses(deployed, f"{method} {path}", headers | {"Connection": "close"})
    refuses(deployed, f"GET {path}", headers | UPGRADE)


@pytest.mark.parametrize("path", paths())
def test_nobody_reaches_anything_while_the_owner_is_unknown(unowned: Served, path: str) -> None:
    for headers in ({"X-Forwarded-Email": OWNER}, {"X-Forwarded-Email": ""}, {}):
        own = {"Host": "app.example.com", "Origin": "https://app.example.com", **headers}
        refuses(unowned, f"GET {path}", own | {"Connection": "close"}, 503)
        refuses(unowned, f"GET {path}", own | UPGRADE)


@pytest.mark.parametrize("path", paths())
def test_a_laptop_answers_no_other_host_or_origin(laptop: Served, path: str) -> None:
    own = f"localhost:{laptop.port}"
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"evil.example:{laptop.port}"},
        {"Host": own, "Origin": "http://evil.example"},
    ):
        refuses(laptop, f"GET {path}", headers | {"Connection": "close"})
        refuses(laptop, f"GET {path}", headers | UPGRADE)
    assert laptop.ask(f"GET {path}", {"Host": own, **UPGRADE})[0] == 403


def test_the_owner_reaches_the_page_and_the_socket(deployed: Served) -> None:
    owner = {"Host": "10.0.0.1:8000", "X-Forwarded-Host": "app.example.com", "X-Forwarded-Email": "Owner@Example.com"}
    status, answer = deployed.ask("GET /", owner | {"Connection": "close"})
    assert status == 200
    assert "xterm" in answer
    assert "content-security-policy: frame-ancestors 'none'" in answer
    status, answer = deployed.ask(f"GET {SOCKET}", owner | {"Origin": "https://app.example.com"} | UPGRADE)
    assert status == 101
    assert '"sid"' in answer


def test_a_laptops_own_browser_reaches_the_page_and_the_socket(laptop: Served) -> None:
    for host in (f"localhost:{laptop.port}", f"127.0.0.1:{laptop.port}"):
        status, answer = laptop.ask("GET /", {"Host": host, "Connection": "close"})
        assert status == 200
        assert "xterm" in answer
        assert laptop.ask(f"GET {SOCKET}", {"Host": host, "Origin": f"http://{host}"} | UPGRADE)[0] == 101


def test_a_setting_of_uvicorns_own_does_not_stop_it(workspace: StandIn) -> None:
    with Served(workspace.env, WEB_CONCURRENCY="2") as served:
        assert served.ask("GET /", {"Host": "localhost", "Connection": "close"})[0] == 200


def test_there_is_no_api_documentation_even_for_the_owner(laptop: Served) -> None:
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert laptop.ask(f"GET {path}", {"Host": "localhost", "Connection": "close"})[0] == 404


def test_health_answers_anyone(laptop: Served, deployed: Served, unowned: Served) -> None:
    for served in (laptop, deployed, unowned):
        status, answer = served.ask("GET /health", {"Host": "probe", "Connection": "close"})
        assert status == 200
        assert answer.endswith("\r\n\r\nok")


def test_a_laptop_listens_on_loopback_alone(laptop: Served) -> None:
    listening = Path("/proc/net/tcp")
    if not listening.exists():
        pytest.skip("reads /proc/net/tcp, which is not here")
    lines = [line.split() for line in listening.read_text().splitlines()[1:]]
    assert {line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{laptop.port:04X}")} == {
        f"0100007F:{laptop.port:04X}"
    }


def test_the_owner_is_learnt_from_the_apps_api_by_the_apps_own_principal() -> None:
    with StandIn(oauth=3600, creator="") as standin, Served(standin.env, DATABRICKS_APP_NAME="hermes") as served:
        headers = {"Host": "app.example.com", "X-Forwarded-Email": OWNER, "Connection": "close"}
        until(lambda: any(r.path == "/api/2.0/apps/hermes" for r in standin.requests), served.log.read_text)
        assert served.ask("GET /", headers)[0] == 503
        standin.creator = "Owner@example.com"
        until(lambda: served.ask("GET /", headers)[0] == 200, served.log.read_text)
        assert served.ask("GET /", headers | {"X-Forwarded-Email": "other@example.com"})[0] == 403
        assert {r.token for r in standin.requests if r.path == "/api/2.0/apps/hermes"} <= set(standin._expiring)
        assert "no creator" in served.log.read_text()


def test_with_a_bound_token_too_the_app_still_asks_as_its_principal() -> None:
    with StandIn(oauth=3600) as standin:
        env = standin.env | {"DATABRICKS_TOKEN": "dapi-bound"}
        with Served(env, DATABRICKS_APP_NAME="hermes") as served:
            headers = {"Host": "app.example.com", "X-Forwarded-Email": OWNER, "Connection": "close"}
            until(lambda: served.ask("GET /", headers)[0] == 200, served.log.read_text)


# --- The end --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc, which is not here")
def test_sigterm_in_the_middle_of_the_setup_leaves_no_process(tmp_path: Path) -> None:
    # Setup has a Hermes to find, and then waits for routes that do not answer.
    (tmp_path / ".local" / "bin").mkdir(parents=True)
    (tmp_path / ".local" / "share").mkdir()
    (tmp_path / ".local" / "bin" / "hermes").write_text("#!/bin/sh\n")
    with StandIn(latency=30) as standin, Served(standin.env, hermes=tmp_path) as served:
        until(lambda: any("setup_hermes" in p for p in served.processes()), served.log.read_text)
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(5)
        until(lambda: not served.processes(), lambda: str(served.processes()))
        assert "Traceback" not in served.log.read_text()
