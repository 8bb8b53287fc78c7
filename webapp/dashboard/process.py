"""The dashboard's process: started when somebody asks for it, ended when nobody is there.

On 127.0.0.1 Hermes 0.19.0 asks for no login: whoever can connect, which is any user of the machine,
gets its page with the session token in it (measured). On every other address it asks for one. So it
listens on 127.0.0.2, also loopback, with a password that this module alone knows.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from yarl import URL

from webapp.settings import AppSettings
from webapp.terminal.pty import Terminal

log = logging.getLogger(__name__)

HOST, PREFIX = "127.0.0.2", "/hermes"
READY = re.compile(r"HERMES_DASHBOARD_READY port=(\d+)")
CONTROL = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|.)|[\x00-\x09\x0b-\x1f\x7f]")
USER = "owner"
IDLE = 3600.0  # seconds without a visitor after which it is ended
LOGIN = 10 * 365 * 86400  # seconds that a login holds: as long as the process lives
START = 120.0  # seconds that a start may take
PATIENCE = 10.0  # seconds for an answer to a question of ours
PAUSE, LONGEST = 1.0, 60.0  # seconds before the next start, growing while starts fail
WELL = 60.0  # seconds after which a start has not failed


class DashboardError(Exception):
    """Why the dashboard cannot be used, in a few words."""


class Running(NamedTuple):
    """A dashboard that answers."""

    client: ClientSession  # logged in
    base: str

    def url(self, path: str, query: bytes = b"") -> URL:
        """The URL of a path, which is taken as it is."""
        asked = f"?{query.decode('latin-1')}" if query else ""
        return URL(f"{self.base}{path}{asked}", encoded=True)


class Output:
    """What the process prints: the port it got, and its last line."""

    def __init__(self) -> None:
        self.port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._text = ""

    async def write(self, text: str) -> None:
        """Take what came next."""
        self._text = (self._text + CONTROL.sub("", text))[-4000:]
        if not self.port.done() and (found := READY.search(self._text)):
            self.port.set_result(int(found[1]))

    @property
    def last(self) -> str:
        """The last line that is not empty, or ""."""
        return next((line for line in self._text.split("\n")[::-1] if line.strip()), "").strip()


class DashboardProcess:
    """Hermes's dashboard in a process of its own, in the terminals' environment.

    `running` is None while it does not answer, and `note` is the reason.

    Arguments:
        settings: the app's.
        idle: seconds without a visitor after which it is ended.
    """

    def __init__(self, settings: AppSettings, idle: float = IDLE) -> None:
        self.settings, self._idle = settings, idle
        self.running: Running | None = None
        self.note = ""
        self._run: asyncio.Task[None] | None = None
        self._known = asyncio.Event()  # it answers, or has failed to
        self._unused = asyncio.Event()
        self._visitors = 0
        self._timer: asyncio.TimerHandle | None = None
        self.pause, self._not_before = PAUSE, 0.0  # seconds before the next start; when it may be

    @property
    def active(self) -> bool:
        """Whether there is a process: one that starts, answers or ends."""
        return self._run is not None and not self._run.done()

    def start(self) -> None:
        """Start it, unless it runs, or has ended a moment ago."""
        if not self.active and asyncio.get_running_loop().time() >= self._not_before:
            self.note = "It is starting, which takes a few seconds."
            self._known.clear()
            self._unused.clear()
            self._run = asyncio.create_task(self._live())

    async def answers(self) -> Running | None:
        """Start it where it does not run, and wait until it answers or has failed to.

        Returns:
            It; None when it does not answer.
        """
        self.start()
        await self._known.wait()
        return self.running

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Keep it from being ended as unused."""
        self._visitors += 1
        if self._timer:
            self._timer.cancel()
        try:
            yield
        finally:
            self._visitors -= 1
            self._watch()

    def _watch(self) -> None:
        """Give visitors their time to come, from now, where none is there."""
        if not self._visitors:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._idle, self._unused.set)

    async def close(self) -> None:
        """End it, with all that it started."""
        if self._timer:
            self._timer.cancel()
        if self._run:
            self._run.cancel()
            await asyncio.gather(self._run, return_exceptions=True)

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        began, why = loop.time(), ""
        try:
            why = await self._serve()
        except DashboardError as error:
            why = str(error)
        finally:
            if why:
                self.pause = PAUSE if loop.time() - began > WELL else self.pause
                self._not_before = loop.time() + self.pause
                self.note = f"It has ended: {why} It is started again in {self.pause:.0f} s."
                self.pause = min(2 * self.pause, LONGEST)
                log.warning("Hermes's dashboard has ended; the page /hermes/ says why.")
            self._known.set()

    async def _serve(self) -> str:
        """Run it until it ends, or is not used any more.

        Returns:
            Why it ended; "" for not being used.
        """
        password, output, terminal = secrets.token_urlsafe(32), Output(), Terminal()
        terminal.join(output.write, 24, 200)
        # The system chooses the port, and the dashboard says which: nobody can take it in between.
        command = f"dashboard --host {HOST} --port 0 --skip-build --no-open".split()
        home, projects = self.settings.home, self.settings.home / "projects"
        argv = [str(home / ".local" / "bin" / "hermes"), *command]
        folder = projects if projects.is_dir() else home
        ended = asyncio.create_task(terminal.run(argv, cwd=folder, env=self._env(password)))
        try:
            async with _client() as client:
                async with asyncio.timeout(START):
                    await asyncio.wait({ended, output.port}, return_when=asyncio.FIRST_COMPLETED)
                    if not output.port.done():
                        return f"{output.last or 'it said nothing'}."
                    running = Running(client, f"http://{HOST}:{output.port.result()}")
                    await _log_in(running, password)
                self.running, self.note = running, ""
                self._known.set()
                await self._use(running, ended)
                self.running = None
                self._known.clear()
            return f"{output.last}." if ended.done() else ""
        except TimeoutError:
            raise DashboardError(f"it did not answer within {START:.0f} s.") from None
        finally:
            self.running = None
            await terminal.close()
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    async def _use(self, running: Running, ended: asyncio.Task[int]) -> None:
        """Wait until it has ended, or nobody uses it and no scheduled job needs it."""
        while not ended.done():
            unused = asyncio.create_task(self._unused.wait())
            await asyncio.wait({ended, unused}, return_when=asyncio.FIRST_COMPLETED)
            unused.cancel()
            if not ended.done() and not await _runs_jobs(running):
                return
            self._unused.clear()
            self._watch()

    def _env(self, password: str) -> dict[str, str]:
        """The terminals' environment, and a hash of the password: its children may read it."""
        salt = secrets.token_bytes(16)
        key = hashlib.scrypt(password.encode(), salt=salt, n=2, r=8, p=1, dklen=32)
        encoded = "$".join(base64.b64encode(part).decode() for part in (salt, key))
        beginning = "HERMES_DASHBOARD_BASIC_AUTH_"
        env = self.settings.shell_env
        for name in ("NO_PROXY", "no_proxy"):  # its chat connects to it, and not through a proxy
            env[name] = ",".join(filter(None, [env.get(name), HOST]))
        return env | {
            f"{beginning}USERNAME": USER,
            f"{beginning}PASSWORD_HASH": f"scrypt$2$8$1${encoded}",
            f"{beginning}TTL_SECONDS": str(LOGIN),
            "HERMES_SKIP_NODE_BOOTSTRAP": "1",  # it would download Node
        }


def _client() -> ClientSession:
    # A connection that waits to be used again may be closed by the other side at that moment.
    return ClientSession(
        connector=TCPConnector(limit=0, force_close=True),
        cookie_jar=DummyCookieJar(),
        timeout=ClientTimeout(total=None, sock_connect=PATIENCE),
        headers={"X-Forwarded-Prefix": PREFIX},
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        auto_decompress=False,
    )


async def _runs_jobs(running: Running) -> bool:
    """Whether Hermes's gateway, which runs the scheduled jobs, is up: it may be a child of it."""
    try:
        async with (
            asyncio.timeout(PATIENCE),
            running.client.get(running.url("/api/status")) as answer,
        ):
            return bool((await answer.json())["gateway_running"])
    except (ClientError, KeyError, TimeoutError):
        return False


async def _log_in(running: Running, password: str) -> None:
    """Log in, where a login is asked for: the client then sends it with each request.

    Raises:
        DashboardError: where it lets in without one, or does not take ours.
    """
    try:
        async with running.client.get(running.url("/api/sessions")) as answer:
            if answer.status != 401:
                raise DashboardError(
                    f"it answers {answer.status} to a request without a login; expected 401."
                )
        given = {"provider": "basic", "username": USER, "password": password}
        url = running.url("/auth/password-login")
        async with running.client.post(url, json=given) as answer:
            if not answer.cookies:
                raise DashboardError(f"it answers {answer.status} to the login.")
            cookies = [f"{name}={c.coded_value}" for name, c in answer.cookies.items()]
            running.client.headers["Cookie"] = "; ".join(cookies)
    except ClientError as error:
        raise DashboardError(f"{type(error).__name__}.") from None
