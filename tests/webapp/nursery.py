"""Apps without a page, each in a process of its own that is forked: their imports take two seconds."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any, TextIO

from databricks.sdk.clock import RealClock

from tests.conftest import ROOT
from tests.webapp.saving import DRIVER
from webapp.keep import child, keeper, worker

HURRY = 20  # databricks-sdk repeats a request in that part of the time


class Nursery:
    """Starts them."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.webapp.nursery", str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
            )

    def start(self, env: dict[str, str], **options: Any) -> tuple[int, TextIO]:
        """Start one.

        Arguments:
            env: its environment.
            options: see `live`.

        Returns:
            The process's number, and what it prints.
        """
        output, theirs = os.pipe()
        request = json.dumps({"env": env, **options}).encode()
        socket.send_fds(self._requests, [request], [theirs])
        os.close(theirs)
        return int(self._requests.recv(32)), open(output)

    def end(self) -> None:
        """End it; the instances go on."""
        self._requests.close()
        self._process.wait()


def serve(requests: socket.socket) -> None:
    """What a `Nursery` asks, until it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for an instance
    while True:
        data, outputs, *_ = socket.recv_fds(requests, 2**16, 1)
        if not data:
            return
        request = json.loads(data)
        env = request.pop("env")
        number = fork(partial(live, **request), {1: outputs[0]}, env)
        os.close(outputs[0])
        requests.sendall(f"{number}".encode())


def live(
    most: int = resource.RLIM_INFINITY, last: float = keeper.LAST, forked: bool = False
) -> None:
    """What an instance does.

    Arguments:
        most: bytes of a file that finds room on its disk.
        last: seconds for the save at the end.
        forked: whether the process that saves is forked too, rather than started.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    keeper.LAST = last
    hurry(setattr)
    if forked:
        vars(os)["nice"] = lambda _: 0  # beside other tests, what is nice would hardly get on
        vars(child)["subprocess"] = SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE)
    exec(DRIVER, {})  # noqa: S102 (it is our own)


def hurry(set_attribute: Callable[[Any, str, Any], None]) -> None:
    """Make databricks-sdk repeat a request in a part of the time.

    Its clock goes on only while it sleeps: a process that has to wait for its turn is not late.
    """

    def sleep(clock: Any, seconds: float) -> None:
        clock.slept = elapsed(clock) + seconds
        time.sleep(seconds / HURRY)

    def elapsed(clock: Any) -> float:
        return float(vars(clock).get("slept", 0))

    set_attribute(RealClock, "time", elapsed)
    set_attribute(RealClock, "sleep", sleep)


class Forked:
    """`webapp.keep.worker` in a process of its own, as `subprocess.Popen` has it."""

    def __init__(self, command: list[str], *, env: dict[str, str], **_: Any) -> None:
        requests, stdin = os.pipe()
        stdout, answers = os.pipe()

        def work() -> None:
            os.setsid()
            sys.argv = command[2:]
            worker.main()

        self.number = fork(work, {0: requests, 1: answers}, env)
        os.close(requests)
        os.close(answers)
        self.stdin, self.stdout = os.fdopen(stdin, "w"), os.fdopen(stdout)

    def poll(self) -> int | None:
        with suppress(ChildProcessError):  # it has been waited for
            return 0 if os.waitpid(self.number, os.WNOHANG)[0] else None
        return 0

    def wait(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self.number, 0)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.number, signal.SIGKILL)


def fork(run: Callable[[], None], files: dict[int, int], env: dict[str, str]) -> int:
    """Run something in a process of its own, which has these open files by their numbers, and no other."""
    if number := os.fork():
        return number
    try:
        for target, source in files.items():
            os.dup2(source, target)
        os.closerange(3, 1024)
        # What these names had is closed when it goes, but not what is now in its place.
        sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
        os.environ.clear()
        os.environ.update(env)
        run()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
