"""Who else may read a Unity Catalog volume: what is saved there is as private as that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from hermes.urls import brief_error

PAGES = 10  # of grants, at most
READ = {"READ_VOLUME", "ALL_PRIVILEGES"}
NAMED = 3  # readers in a line


@dataclass(frozen=True)
class Readers:
    """Who may read a volume, as far as whoever asked may see it.

    A group is named and not looked into. Admins, and whoever manages the volume, its schema or its
    catalog, can give themselves the right; they are not named.
    """

    others: tuple[str, ...] = ()
    whole: bool = False  # all of them: who does not manage a volume is not shown every grant
    problem: str = ""  # why nobody could be asked

    @property
    def line(self) -> str:
        """It in one line; "" where nobody else may read it."""
        if self.others:
            more = len(self.others) - NAMED
            named = ", ".join(self.others[:NAMED]) + (f" and {more} more" if more > 0 else "")
            return f"readable by others: {named}"
        if self.problem:
            return f"who else may read the volume is not known ({self.problem})"
        if not self.whole:
            return "who else may read the volume is not known: only who manages it can see that"
        return ""


def volume_name(path: str) -> str:
    """The full name of the volume that a path below /Volumes is in."""
    return ".".join(path.split("/")[2:5])


def find_readers(connect: Callable[[], Any], path: str, known: Collection[str] = ()) -> Readers:
    """Ask Unity Catalog who may read a volume: its owner, and who has a grant on or above it.

    Arguments:
        connect: gives databricks-sdk's `WorkspaceClient`.
        path: below /Volumes.
        known: who is meant to read it, beside whoever asks: e-mail addresses and application ids.

    Returns:
        What was found; it never raises.
    """
    name = volume_name(path)
    try:
        client = connect()
        me = str(client.current_user.me().user_name or "")
        owner = str(client.volumes.read(name).owner or "")
        grants = list(_grants(client, name))
    except Exception as error:  # no right to ask, no network: it is said, and nothing hangs on it
        return Readers(problem=brief_error(error))
    meant = {one.lower() for one in (me, *known)}
    found = [(owner, "READ_VOLUME", " (its owner)"), *grants] if owner else grants
    others = [
        f"{principal}{through}"
        for principal, right, through in found
        if right in READ and principal.lower() not in meant
    ]
    manages = owner == me or (me, "MANAGE") in [(who, right) for who, right, _ in grants]
    return Readers(tuple(dict.fromkeys(others)), manages)


def _grants(client: Any, name: str) -> Iterator[tuple[str, str, str]]:
    """The effective grants on a volume: to whom, which right, and through what, in words, where it
    is not a grant on the volume itself.

    Raises:
        RuntimeError: where they do not end.
    """
    token = None
    for _ in range(PAGES):
        page = client.grants.get_effective("volume", name, max_results=0, page_token=token)
        for one in page.privilege_assignments or []:
            for held in one.privileges or []:
                yield str(one.principal), _value(held.privilege), _through(held)
        if not (token := page.next_page_token):
            return
    raise RuntimeError("there are too many grants")


def _value(member: Any) -> str:
    return str(member.value) if member else ""


def _through(held: Any) -> str:
    kind = _value(held.inherited_from_type).lower()
    return f" (by the {kind} {held.inherited_from_name})" if kind else ""
