"""What outlives a restart: when it is brought back and saved, and by whom.

A process of its own does the work, at low priority once all is brought back. It gets the token of
the moment with each request, through a pipe, and the app's client secret never.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from webapp.keep.child import Child
from webapp.keep.format import MAIN, History, folder_of, new_name
from webapp.keep.selection import LeftOut
from webapp.owner import Owner
from webapp.settings import AppSettings
from webapp.tokens import bearer, one_line

log = logging.getLogger(__name__)

EVERY = 60.0  # seconds between two saves
MOST_PAUSE = 900.0  # seconds between two saves at most, while they fail
MOST_PAUSE_BEFORE = (
    30.0  # seconds at most between two tries to bring back: nothing else goes on meanwhile
)
LAST = 8.5  # seconds for the save at the end
PATIENCE = 20.0  # seconds after which a start without what was saved is offered, whatever is known
NONE_WHOLE = "no saved state is whole"
DISK = "A restart empties the disk; to keep ~/projects and Hermes's memory, set HERMES_VOLUME."


class Phase(Enum):
    """How far it is."""

    OFF = "no volume is set"
    RESTORING = "what was saved is not back: nothing may run that could be saved on top of it"
    ASKING = "there are several histories, and a person says which"
    SAVING = "what changes is saved"
    ENDED = "nothing is saved any more"


class Do(Enum):
    """What the thread in the background may do."""

    RESTORE = "restore"
    SAVE = "save"
    NOTHING = "nothing"  # until a person has chosen
    END = "end"


def what_next(phase: Phase, stopping: bool) -> Do:
    """Which of them comes next.

    Arguments:
        phase: how far it is.
        stopping: whether the app ends.
    """
    if phase in (Phase.OFF, Phase.ENDED):
        return Do.END
    if phase is Phase.SAVING:
        return Do.SAVE
    if stopping:
        return Do.END  # what is on the disk is not the user's state: it replaces nothing
    return Do.RESTORE if phase is Phase.RESTORING else Do.NOTHING


def pause_after(failures: int, every: float, phase: Phase) -> float:
    """Seconds until the next try, after so many failures in a row."""
    if not failures:
        return every
    most = MOST_PAUSE_BEFORE if phase is Phase.RESTORING else MOST_PAUSE
    return min(every / 12 * 2.0 ** min(failures, 20), most)


@dataclass(frozen=True)
class Status:
    """How it stands. It is replaced whole, never changed."""

    phase: Phase
    since: float = 0.0  # when this phase began, by time.monotonic()
    problem: str = ""  # what stands in the way, in one line
    saved: float = 0.0  # when all was last seen to be saved, by time.monotonic(); 0 for never
    files: int = 0  # that are saved
    size: int = 0  # bytes of them
    # What is not saved: problems first, then what a rule leaves out; it may be more than are named.
    left_out: tuple[LeftOut, ...] = ()
    left_out_count: int = 0
    # What could not be put back, and stays saved; it may be more than are named.
    missing: tuple[LeftOut, ...] = ()
    missing_count: int = 0
    histories: tuple[History, ...] = ()  # to choose from, while ASKING
    folder: str = ""  # where this run saves, once it is known
    beside: bool = False  # whether it was started without what was saved
    restored: str = ""  # what was brought back, in one line
    went_back: str = ""  # why it is not the newest state
    readers: str = ""  # who else may read the volume, in one line; "" where nobody may
    exposed: bool = False  # whether somebody else may, as far as that can be seen

    @property
    def may_start_without(self) -> bool:
        """Whether a start without what was saved is to be offered."""
        if self.phase is Phase.ASKING:
            return True
        late = time.monotonic() - self.since > PATIENCE
        return self.phase is Phase.RESTORING and (bool(self.problem) or late)

    @property
    def notice(self) -> str:
        """Why there is no terminal yet, in one line; "" where it need not be said."""
        if self.phase is Phase.ASKING:
            return "There are several saved states. Choose below which one to bring back."
        if not self.may_start_without:
            return ""
        problem = self.problem or "still at it"
        return (
            f"Not brought back yet: {problem}."
            " It goes on trying; the button below starts without it."
        )

    @property
    def note(self) -> str:
        """All of it in a few words; "" without a volume."""
        if self.phase is Phase.RESTORING:
            return f"not brought back yet; {self.problem}" if self.problem else "bringing back"
        if self.phase in (Phase.OFF, Phase.ASKING):
            return "" if self.phase is Phase.OFF else "waits: which saved state?"
        how = f"saved {age(time.monotonic() - self.saved)}" if self.saved else "not saved yet"
        parts = [
            f"{how}; {self.problem}" if self.problem else how,
            self.readers if self.exposed else "",
            listed("not saved", self.not_by_rule),
            listed("not brought back", self.missing, self.missing_count),
            self.went_back,
            "beside the earlier states" if self.beside else "",
        ]
        return " · ".join(part for part in parts if part)

    @property
    def not_by_rule(self) -> tuple[LeftOut, ...]:
        """What is not saved though no rule says so."""
        return tuple(one for one in self.left_out if not one.by_rule)


class Keeper:
    """Brings back what was saved, then saves what changes, until it is stopped.

    Arguments:
        settings: the app's; without a volume, nothing is done.
        owner: who is expected among the volume's readers.
        login: gives databricks-sdk's `Config`.
        every: seconds between two saves.
    """

    def __init__(
        self, settings: AppSettings, owner: Owner, login: Callable[[], Any], every: float = EVERY
    ) -> None:
        self.settings, self.owner, self._login, self._every = settings, owner, login, every
        phase = Phase.RESTORING if settings.volume else Phase.OFF
        self.status = Status(phase, time.monotonic())
        self._config: Any = None
        self._child: Child | None = None
        self._history: str | None = None  # None until it is known
        self._instance = secrets.token_hex(4)  # the id of this run, whichever process saves
        self._state = ""  # the one that was brought back
        self._stopping = self._told = False
        self._wake = threading.Event()
        self._lock = threading.Lock()  # what changes the status, or which process is asked
        self._thread = threading.Thread(target=self._run, daemon=True)

    # --- For the page

    def start(self) -> None:
        """Begin, in the background."""
        if self.status.phase is not Phase.OFF:
            self._thread.start()

    async def restored(self, say: Callable[[str], None]) -> None:
        """Wait until what was saved is back, or a person goes on without it.

        Arguments:
            say: is called with what is waited for, and with what was brought back.
        """
        said = ""
        while (status := self.status).phase in (Phase.RESTORING, Phase.ASKING):
            if status.notice and status.notice != said:
                said = status.notice
                say(said)
            await asyncio.sleep(0.02)
        if status.restored and not self._told:
            say(status.restored)
        self._told = True

    def start_without(self) -> None:
        """Go on without what was saved: this run is a history of its own, beside it."""
        with self._lock:
            if self.status.phase not in (Phase.RESTORING, Phase.ASKING):
                return
            if self._child:
                self._child.kill()  # what it would still bring back is not to land in this run
            self._history = new_name()
            folder = folder_of(self.settings.volume, self._history)
            told = (
                f"Started without what was saved, which stays. This run is saved in {folder};"
                " the next start asks which to bring back."
            )
            new = {"phase": Phase.SAVING, "beside": True, "folder": folder, "restored": told}
            self._set(problem="", histories=(), **new)
        self._wake.set()

    def choose(self, name: str) -> None:
        """Bring back one of `status.histories`."""
        with self._lock:
            if name in [one.name for one in self.status.histories]:
                self._history = name
                self._set(phase=Phase.RESTORING, histories=())
        self._wake.set()

    def stop(self) -> None:
        """Save once more, and end; a save that takes too long is given up."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive() and self.status.phase is Phase.SAVING:
            self._thread.join(LAST)
        if self._child:
            self._child.kill()

    # --- In the background

    def _run(self) -> None:
        failures = 0
        while (do := self._next()) is not Do.END:
            stopping = (
                self._stopping
            )  # as it was before this turn: the save of this turn is the last
            if do is Do.NOTHING:
                self._sleep(None)
            elif answer := self._try(do):
                self._learn(do, answer)
                failures = failures + 1 if self.status.problem else 0
                if stopping:
                    break
                self._sleep(pause_after(failures, self._every, self.status.phase))
        if self._child:
            self._child.end()

    def _sleep(self, pause: float | None) -> None:
        """Sleep so many seconds, or for ever, until a person has chosen or the app ends."""
        self._wake.wait(pause)
        self._wake.clear()

    def _next(self) -> Do:
        return what_next(self.status.phase, self._stopping)

    def _set(self, **changes: Any) -> None:
        if changes.get("phase", self.status.phase) is not self.status.phase:
            changes["since"] = time.monotonic()
        self.status = replace(self.status, **changes)

    def _try(self, do: Do) -> dict[str, Any]:
        """Do it; {} where something else is to be done by now."""
        try:
            return self._ask(do)
        except Exception as error:  # no network, no credentials: each may pass
            self._config = None
            return {"problem": str(error) if type(error) is RuntimeError else one_line(error)}

    def _ask(self, do: Do) -> dict[str, Any]:
        child = self._child
        if not child or not child.alive:
            child = Child(self.settings)  # it gets ready while we log in
        with self._lock:
            self._child = child
        self._config, env = self._config or self._login(), self.settings.env
        request = {
            "do": do.value,
            "history": self._history,
            "instance": self._instance,
            "state": self._state,
            "host": self._config.host,
            "token": bearer(self._config),
            "expected_readers": [self.owner.email, env.get("DATABRICKS_CLIENT_ID", "")],
        }
        child.wait_until_ready()
        with self._lock:
            if self._next() is not do:
                return {}
            child.send(request)
        return child.receive()

    def _learn(self, do: Do, answer: dict[str, Any]) -> None:
        """Take in what was answered, for the line below the page and the app's log."""
        with self._lock:
            if do is Do.RESTORE and self.status.phase is not Phase.RESTORING:
                return  # the answer of a process that was killed meanwhile
            before, problem = self.status.problem, str(answer.get("problem", ""))
            seen = {key: answer[key] for key in ("readers", "exposed") if key in answer}
            self._set(problem=problem, **seen)
            if answer.get("end"):
                self._set(phase=Phase.ENDED)
            if problem:
                if problem != before:
                    what = "brought back" if do is Do.RESTORE else "saved"
                    log.warning("Not %s: %s.", what, problem)
            elif do is Do.RESTORE:
                self._learn_restored(answer)
            else:
                self._learn_saved(answer)

    def _learn_restored(self, answer: dict[str, Any]) -> None:
        if histories := tuple(History(*one) for one in answer.get("histories", [])):
            self._set(phase=Phase.ASKING, histories=histories)
            return
        self._history, self._state = answer["history"], answer["state"]
        missing = tuple(LeftOut(*one) for one in answer["missing"])
        count = answer["missing_count"]
        when = _minute(answer["saved"])
        told = [f"Brought back {answer['files']} files, as saved on {when}."] if when else []
        if missing:
            told.append(
                f"{listed('Not brought back', missing, count)}."
                " What is missing stays saved, and is tried again at the next start."
            )
            log.warning("%s", told[-1])
        went_back = f"went back to {when}, the last whole state" if when else NONE_WHOLE
        self._set(
            phase=Phase.SAVING,
            missing=missing,
            missing_count=count,
            restored=" ".join(told),
            went_back=went_back if answer["older"] else "",
            folder=folder_of(self.settings.volume, self._history or MAIN),
        )

    def _learn_saved(self, answer: dict[str, Any]) -> None:
        before = self.status.not_by_rule
        left_out = tuple(LeftOut(*one) for one in answer["left_out"])
        self._set(
            saved=time.monotonic(),
            files=answer["files"],
            size=answer["size"],
            left_out=left_out,
            left_out_count=answer["left_out_count"],
        )
        if (not_by_rule := self.status.not_by_rule) and not_by_rule != before:
            log.warning("%s", listed("Not saved", not_by_rule))


def listed(what: str, entries: tuple[LeftOut, ...], count: int = 0) -> str:
    """The first of some entries with its reason, and how many more there are; "" for none.

    Arguments:
        what: is said of them.
        entries: those that are named.
        count: how many there are, where that may be more.
    """
    if not entries:
        return ""
    others = max(count, len(entries)) - 1
    first, more = entries[0], f" and {others} more" if others else ""
    path = first.path if first.path.isprintable() else ascii(first.path)
    return f"{what}: {path} ({first.reason}){more}"


def describe_history(one: History) -> str:
    """One of several histories, for whoever chooses."""
    when = _minute(one.saved) or "at a time that is not known"
    kind = "a run that was started without it" if one.name else "the original"
    return f"Saved {when}, {one.files} files ({kind})"


def _minute(saved: str) -> str:
    """A time in ISO 8601, as it is shown; "" for none."""
    return f"{saved.replace('T', ' ')[:16]} UTC" if saved else ""


def age(seconds: float) -> str:
    """How long ago, in words."""
    minutes = int(seconds // 60)
    if minutes < 2:
        return "just now" if minutes < 1 else "a minute ago"
    return f"{minutes} minutes ago" if minutes < 120 else f"{minutes // 60} hours ago"
