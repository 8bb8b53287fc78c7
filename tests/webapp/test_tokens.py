"""webapp/tokens.py: logins, and tokens kept fresh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

pytest.importorskip("nicegui", reason="the app needs nicegui, which is not installed")
pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")


from hermes.config import refresh_token
from tests.conftest import ROOT
from tests.standin import StandIn
from tests.webapp.logins import HOST, Login, write_config
from webapp import tokens
from webapp.settings import read_settings


class Stop(BaseException):
    """Ends `keep_token_fresh`, which nothing else does."""


class Kept(NamedTuple):
    """What `keep_token_fresh` did."""

    pauses: list[float]
    keys: list[str]  # Hermes's, during each pause
    logins: int


def keep(config: Path, steps: list[Any], news: tokens.TokenNews | None = None) -> Kept:
    """Run `keep_token_fresh` over the given answers (a token, or an error to raise)."""
    answers, pauses, keys, logins = iter(steps), [], [], 0

    def log_in() -> Login:
        nonlocal logins
        logins += 1

        def ask() -> str:
            answer = next(answers)
            if callable(answer):
                answer = answer()
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        return Login(ask)

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        keys.append(
            yaml.safe_load(config.read_text())["model"]["api_key"] if config.exists() else "-"
        )
        if len(pauses) == len(steps):
            raise Stop

    with pytest.raises(Stop):
        tokens.keep_token_fresh(config, log_in, sleep, news)
    return Kept(pauses, keys, logins)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Hermes's config, for the login's workspace."""
    config = tmp_path / "config.yaml"
    write_config(config, f"{HOST}/serving-endpoints")
    return config


def test_a_new_token_reaches_hermes_at_the_next_look(config: Path) -> None:
    pauses, keys, logins = keep(config, ["one", "one", "two", "three"])
    assert keys == ["one", "one", "two", "three"]
    assert set(pauses) == {tokens.POLL}
    assert logins == 1
    assert yaml.safe_load(config.read_text())["custom_providers"][0]["api_key"] == "three"


def test_a_look_comes_far_more_often_than_five_minutes_or_the_life_of_a_five_second_token() -> None:
    assert tokens.POLL < 2.5


def test_the_file_is_left_alone_while_the_token_stays(config: Path) -> None:
    times: list[int] = []

    def look() -> str:
        times.append(config.stat().st_mtime_ns)
        return "one"

    keep(config, ["one", look, look])
    assert times[0] == times[1] == config.stat().st_mtime_ns


def test_an_old_token_put_back_by_someone_else_is_replaced(config: Path) -> None:
    news = tokens.TokenNews()

    def put_back() -> str:
        write_config(config, f"{HOST}/serving-endpoints", "stale")
        news.since = 1.0
        return "one"

    assert keep(config, ["one", put_back], news).keys == ["one", "one"]
    assert news.since == 1.0, "it is no new token"


def test_errors_are_logged_and_tried_again_with_growing_pauses(
    config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Any] = [OSError("no network. Config: client_secret=***\nmore")] * 6
    errors.append(ValueError("no login"))
    pauses, keys, logins = keep(config, [*errors, "one", "two"])
    assert pauses == [4, 8, 16, 32, 60, 60, 60, 2, 2]
    assert keys == ["old"] * 7 + ["one", "two"]
    assert logins == 8
    assert "no network" in caplog.text
    assert "client_secret" not in caplog.text
    assert "more" not in caplog.text


def test_a_write_of_someone_else_right_after_ours_is_looked_at_again(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = refresh_token
    os.utime(config, (1, 1))

    def overtaken(path: Path, token: str, host: str) -> bool:
        ours(path, token, host)
        write_config(path, f"{HOST}/serving-endpoints", "stale")
        monkeypatch.setattr(tokens, "refresh_token", ours)
        return True

    monkeypatch.setattr(tokens, "refresh_token", overtaken)
    assert keep(config, ["one", "one", "one"]).keys == ["stale", "one", "one"]


def test_no_token_is_asked_for_before_there_is_a_config(tmp_path: Path) -> None:
    nothing = keep(tmp_path / "config.yaml", ["one", "two"])
    assert nothing == ([tokens.POLL, tokens.POLL], ["-", "-"], 0)


@pytest.mark.parametrize("life", [3600, 1200])
def test_a_token_never_has_less_than_five_minutes_to_live(
    config: Path, monkeypatch: pytest.MonkeyPatch, life: float
) -> None:
    oauth = pytest.importorskip(
        "databricks.sdk.oauth", reason="databricks-sdk, which gives the tokens, is not installed"
    )
    now, left = datetime(2026, 1, 1), []

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return now

    class Credentials(oauth.Refreshable):  # type: ignore[misc, name-defined]
        def refresh(self) -> Any:
            return oauth.Token(now.isoformat(), expiry=now + timedelta(seconds=life))

        def _trigger_async_refresh(self) -> None:
            # It does this in a thread, which is no matter of the clock.
            self._update_token(self.refresh())

    def sleep(seconds: float) -> None:
        nonlocal now
        key = config.read_text().partition("api_key: ")[2].partition("\n")[0]
        issued = datetime.fromisoformat(key.strip("'"))
        now += timedelta(seconds=seconds)
        left.append((issued - now).total_seconds() + life)
        if len(left) * tokens.POLL > 2.2 * life:
            raise Stop

    monkeypatch.setattr(oauth, "datetime", Clock)
    source = Credentials(disable_async=False)
    login = Login(lambda: str(source.token().access_token))
    with pytest.raises(Stop):
        tokens.keep_token_fresh(config, lambda: login, sleep)
    assert 300 <= min(left) < life / 2


@pytest.fixture
def log_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[dict[str, str]], Any]:
    """Logs in as the app does, with that environment and a home of its own."""

    def log_in(env: dict[str, str]) -> Any:
        own = env | {"HOME": str(tmp_path)}
        for name, value in own.items():  # databricks-sdk reads the process's own
            monkeypatch.setenv(name, value)
        return tokens.log_in(read_settings(own))

    return log_in


@pytest.mark.parametrize("token", ["", " \n", "dapi-bound"])
def test_the_apps_own_secret_goes_before_a_token(
    log_in: Callable[[dict[str, str]], Any], token: str
) -> None:
    with StandIn(oauth=600) as standin:
        login = log_in(standin.env | {"DATABRICKS_TOKEN": token})
        assert tokens.bearer(login) in standin._expiring
        assert login.host == f"https://{standin.workspace_host}"


@pytest.mark.parametrize("token", [{}, {"DATABRICKS_TOKEN": " \n"}])
def test_a_host_finds_its_own_profile(
    log_in: Callable[[dict[str, str]], Any], token: dict[str, str], tmp_path: Path
) -> None:
    with StandIn() as standin:
        ours = f"[work]\nhost = {standin.env['DATABRICKS_HOST']}\ntoken = dapi-work\n"
        profiles = (
            f"[DEFAULT]\nhost = https://other.example\n[odd]\nhost = https://100%.example\n{ours}"
        )
        (tmp_path / ".databrickscfg").write_text(profiles)
        env = {name: value for name, value in standin.env.items() if name != "DATABRICKS_TOKEN"}
        assert tokens.bearer(log_in(env | token)) == "dapi-work"


def test_a_token_waits_until_the_setup_has_moved_the_config_to_its_workspace(
    config: Path,
) -> None:
    other = "https://adb-2.2.azuredatabricks.net"
    write_config(config, f"{other}/serving-endpoints")
    config.with_name(".config.yaml.setup").write_text(json.dumps({"host": other}))
    assert keep(config, ["one", "one"]).keys == ["old", "old"]


def test_a_config_that_cannot_be_renewed_is_logged_once(
    config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config.write_text("model: {api_key: [unclosed")
    answers = iter(["one"] * 5)

    def sleep(seconds: float) -> None:
        if next(answers, None) is None:
            raise Stop

    with pytest.raises(Stop):
        tokens.keep_token_fresh(config, lambda: Login(lambda: "one"), sleep)
    assert caplog.text.count("is not renewed") == 1


def test_the_first_page_is_answered_without_databricks_sdk() -> None:
    """It takes a second to import; `finish_imports` does that beside the first terminal."""
    code = "import sys, app, webapp.page; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "nicegui" in found.stdout.split()
    assert "databricks.sdk" not in found.stdout.split()
