"""States of a home directory in a folder of a Unity Catalog volume: whole, or not there.

The folder holds, side by side:

    instance-<n>-<id>           an instance of the app; the one with the highest n alone may save
    pack-<SHA-256>              blocks of files, each compressed
    index-<SHA-256>             a state's files, and the blocks of each
    state-<n>-<id>-<count>      a state's manifest, written last

The names sort by age without any clock. The Files API has no rename, and a write may end in the
middle: so whatever a manifest or an index names is checked by size and SHA-256 before it is
believed. `format` says what is in each.
"""

from __future__ import annotations

import hashlib
import io
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from databricks.sdk.errors import NotFound
from databricks.sdk.service.files import FilesAPI

from webapp.keep.content import LeftOutError, copy_database, is_sqlite, read_whole
from webapp.keep.format import (
    BLOCK,
    MOST_IN_A_MANIFEST,
    MOST_IN_A_PACK,
    MOST_IN_AN_INDEX,
    File,
    Folder,
    Link,
    Manifest,
    State,
    TornError,
    Tree,
    read_index,
    read_manifest,
    reading,
    write_index,
    write_manifest,
)
from webapp.keep.packs import Packs, PackWriter
from webapp.keep.place import Placer, is_there
from webapp.keep.redact import empty_our_keys, is_config
from webapp.keep.scratch import remove_leftovers, scratch_folder
from webapp.keep.selection import MOST_IN_A_FILE, Entry, LeftOut, changed, walk

KEPT = 5  # states
HOT = 50_000_000  # nanoseconds: a file changed that recently may change again and look the same
# What may be deleted; all else in the folder is not ours.
PREFIXES = ("state-", "index-", "pack-", "instance-")


class SupersededError(Exception):
    """A newer instance saves here."""


@dataclass
class Opened:
    """What was found, and brought back."""

    state: str = ""  # its name; "" where there is none
    saved: str = ""  # its time, ISO 8601 in UTC
    older: bool = False  # newer states were there, but torn
    files: int = 0
    missing: dict[str, str] = field(default_factory=dict)  # path: why it could not be put back


@dataclass
class Saved:
    """What a save did."""

    saved: str  # when it began, ISO 8601 in UTC
    files: int = 0
    size: int = 0  # bytes of these files
    left_out: list[LeftOut] = field(default_factory=list)


class _Seen(NamedTuple):
    """A file as it was read last."""

    mark: tuple[int, ...]  # () where it is to be read again
    size: int
    blocks: tuple[str, ...]


class Archive:
    """One instance's way to the states of one folder.

    Arguments:
        home: the home directory.
        folder: on the volume, such as `/Volumes/main/hermes/state`.
        tick: is called now and then while work goes on.
        instance: the instance's id, for a process that goes on with another one's work.
    """

    def __init__(
        self,
        home: Path,
        folder: str,
        tick: Callable[[], None] = lambda: None,
        instance: str = "",
    ) -> None:
        self.home, self.folder, self._tick = home, folder, tick
        self.id, self.number, self.count = instance or secrets.token_hex(4), 0, 0
        self._packs = Packs()
        self._seen: dict[str, _Seen] = {}
        # What the last state was made of; [] where all is to be looked at again.
        self._saved: list[Entry] = []
        self._last = Saved("")
        self._tree, self._carried = Tree(), Tree()  # of the last state
        self._written: dict[str, int] = {}  # the files of the last state, with sizes in bytes
        self._needs: dict[str, set[str]] = {}  # what a whole state needs, by its name
        self._spare = False  # the states that are there: none of them could be read
        self.caught_up = False  # whether it knows what was saved last

    def restore(self, files: FilesAPI) -> Opened:
        """Bring back the newest whole state; from now on this instance is the newest.

        A file that is not older on the disk stays as it is there.

        Raises:
            NewerFormatError: where a later version of this app saved here.
            SupersededError: where this instance has tried before, and a newer one saves since.
            Exception: whatever the Files API raises; then no file was changed.
        """

        def put_back(name: str, state: State) -> dict[str, str]:
            with scratch_folder(self.home) as scratch:
                self._fetch(files, state.packs, scratch)
                placer = Placer(self.home, state, scratch)
                with reading("index"):
                    placer.put()
            self._carried = placer.carried
            return placer.missing

        self._register(files, again=False)
        return self._open(files, put_back)

    def look(self, files: FilesAPI, restored: str = "") -> None:
        """Take the newest whole state for what was saved last, and change no file.

        Arguments:
            files: the Files API.
            restored: the state that was brought back. Where nothing was saved since, what of it is
                not on the disk stays saved: it may be what could not be put back.

        Raises:
            SupersededError: where a newer instance saves.
        """

        def take(name: str, state: State) -> dict[str, str]:
            self._carried = state.carried
            with reading("index"):
                for entry in state.tree if name == restored else ():
                    if not is_there(self.home / entry.path, entry):
                        self._carried.add(entry)
            return {}

        self._register(files, again=True)
        self._open(files, take)

    def save(self, files: FilesAPI) -> Saved:
        """Save what has changed since the last time, or is gone from the volume.

        Raises:
            SupersededError: where a newer instance saves.
            Exception: whatever the Files API raises; then the states are as they were.
        """
        saved = Saved(datetime.now(UTC).isoformat(timespec="milliseconds"))
        started, entries, left_out = time.time_ns(), list[Entry](), list[LeftOut]()
        for entry in walk(self.home, left_out.append):
            entries.append(entry)
            self._tick()
        there = self._check(files)
        whole = self._written.items() <= there.items()
        if whole and entries == self._saved:
            self._last.saved = saved.saved
            return self._last
        self._packs.forget({n for n, size in self._packs.sizes.items() if there.get(n) != size})
        self._mark_stale(entries)
        writer = PackWriter(self._packs, lambda name, data: self._upload(files, name, data))
        again = self._read_changed(entries, started, writer, left_out.append)
        tree = self._as_tree(entries)
        if tree != self._tree or not whole:
            self._write_state(files, tree, saved.saved, there)
            self._tree = tree
            if not self._spare:
                self._clean_up(files, there)
        saved.files, saved.size = len(tree.files), sum(file.size for file in tree.files)
        named = {one.path: one for one in left_out}  # a virtual environment is named often
        saved.left_out = sorted(named.values(), key=lambda one: one.by_rule)
        self._saved, self._last = [] if again else entries, saved
        return saved

    # --- Bringing back

    def _register(self, files: FilesAPI, again: bool) -> None:
        """Be the newest instance here; a process started anew never comes before a newer one.

        Arguments:
            files: the Files API.
            again: whether this instance has registered before. Its marker need not be there: a
                newer instance deletes it.
        """
        remove_leftovers(self.home)
        files.create_directory(self.folder)
        there = self._list(files)
        markers = [name for name in there if re.fullmatch("instance-[0-9]{6}-.*", name)]
        newest = max(markers, default="instance-000000-")
        mine = next((name for name in markers if name.endswith(f"-{self.id}")), "")
        if newest != mine and (mine or (again and markers)):
            raise SupersededError
        self.number = int(newest.split("-")[1]) + (not mine)
        before = f"state-{self.number:06}-{self.id}-"
        counts = (re.fullmatch(f"{before}([0-9]{{6}})", name) for name in there)
        self.count = max((1 + int(match[1]) for match in counts if match), default=0)
        self._upload(files, self._marker, b"-")

    def _open(self, files: FilesAPI, take: Callable[[str, State], dict[str, str]]) -> Opened:
        """Take the newest whole state.

        Arguments:
            files: the Files API.
            take: is called with its name and what it says; gives what could not be put back.
        """
        opened = Opened()
        for name in _states(self._list(files)):
            try:
                manifest, state = self._read_state(files, name)
                opened.missing = take(name, state)
            except TornError:
                opened.older = True
                continue
            self._packs.learn(state)
            opened.state, opened.saved, opened.files = name, manifest.saved, len(state.tree.files)
            break
        self._spare = opened.older and not opened.saved
        self.caught_up = True
        return opened

    def _fetch(self, files: FilesAPI, packs: Iterable[str], folder: Path) -> None:
        """Download a state's packs."""

        def fetch(name: str) -> None:
            (folder / name).write_bytes(self._checked(files, name, MOST_IN_A_PACK))

        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(fetch, packs):
                self._tick()

    def _read_state(self, files: FilesAPI, name: str) -> tuple[Manifest, State]:
        manifest = read_manifest(self._download(files, name, MOST_IN_A_MANIFEST))
        state = read_index(self._checked(files, manifest.index_name, MOST_IN_AN_INDEX))
        self._needs[name] = {manifest.index_name, *state.packs}
        return manifest, state

    # --- What a save does, in its order

    def _check(self, files: FilesAPI) -> dict[str, int]:
        """What is on the volume, names with sizes, if this is still the newest instance."""
        there = self._list(files)
        if any(name > self._marker for name in there if name.startswith("instance-")):
            raise SupersededError
        if self._marker not in there:  # somebody emptied the folder
            files.create_directory(self.folder)
            self._upload(files, self._marker, b"-")
        return there

    def _mark_stale(self, entries: list[Entry]) -> None:
        """Forget files that are gone, and find the packs that are better written anew."""
        seen = self._seen
        self._seen = {entry.path: seen[entry.path] for entry in entries if entry.path in seen}
        used = (block for one in self._seen.values() for block in one.blocks)
        carried = (block for file in self._carried.files for block in file.blocks)
        if self._seen:
            self._packs.mark_stale(used, carried)

    def _read_changed(
        self,
        entries: list[Entry],
        started: int,
        writer: PackWriter,
        leave_out: Callable[[LeftOut], None],
    ) -> bool:
        """Read what has changed, and send the blocks that the volume has not.

        Returns:
            Whether some file is to be read again the next time.
        """
        again = False
        for entry in entries:
            if not stat.S_ISREG(entry.mode) or self._is_known(entry):
                continue
            hot = entry.touched > started - HOT
            again |= hot
            self._tick()
            try:
                data = self._read(entry)
            except FileNotFoundError:
                self._seen.pop(entry.path, None)
                continue
            except (LeftOutError, OSError) as error:  # it stays as it was saved last
                leave_out(LeftOut(entry.path, getattr(error, "strerror", None) or str(error)))
                again |= isinstance(error, OSError)
                continue
            parts = (data[start : start + BLOCK] for start in range(0, len(data), BLOCK))
            blocks = tuple(writer.add(part) for part in parts)
            self._seen[entry.path] = _Seen(() if hot else entry.mark, len(data), blocks)
        writer.flush()
        return again

    def _is_known(self, entry: Entry) -> bool:
        seen = self._seen.get(entry.path)
        return bool(seen and seen.mark == entry.mark and self._packs.fresh(seen.blocks))

    def _read(self, entry: Entry) -> bytes:
        full = self.home / entry.path
        if is_sqlite(full):
            with scratch_folder(self.home) as scratch:
                return copy_database(full, scratch / "database", MOST_IN_A_FILE)
        for _ in range(3):  # it may be written at this moment
            data = read_whole(full, MOST_IN_A_FILE)
            if not (now := changed(self.home, entry)):
                break
            entry = now
        return empty_our_keys(data) if is_config(self.home, entry.path) else data

    def _as_tree(self, entries: list[Entry]) -> Tree:
        """What is saved of these entries: a file only where the volume has all its blocks."""
        tree = Tree()
        for entry in entries:
            mode, seen = stat.S_IMODE(entry.mode), self._seen.get(entry.path)
            if stat.S_ISDIR(entry.mode):
                tree.folders.append(Folder(entry.path, mode))
            elif stat.S_ISLNK(entry.mode):
                tree.links.append(Link(entry.path, entry.target))
            elif seen and self._packs.has(seen.blocks):
                tree.files.append(File(entry.path, mode, entry.mtime, seen.size, seen.blocks))
        return tree

    def _write_state(self, files: FilesAPI, tree: Tree, saved: str, there: dict[str, int]) -> None:
        """Write a state and see that it is there."""
        self._carried.files = [f for f in self._carried.files if self._packs.has(f.blocks)]
        data = write_index(State(tree, self._carried, self._packs.blocks, self._packs.sizes))
        packs = read_index(data).packs  # what could not be read again would be worth nothing
        name = f"index-{hashlib.sha256(data).hexdigest()}"
        # An older state may need an index of that name: one that is whole is not written over, as
        # a write that is cut off would leave neither state.
        if there.get(name) != len(data) or self._download(files, name, len(data)) != data:
            self._upload(files, name, data)
        there = self._check(files)
        if not {**packs, name: len(data)}.items() <= there.items():
            raise TornError("what was written is not all there")
        self.count += 1
        state = f"state-{self.number:06}-{self.id}-{self.count:06}"
        manifest = write_manifest(saved, len(tree.files), data)
        self._upload(files, state, manifest)
        if self._download(files, state, MOST_IN_A_MANIFEST) != manifest:
            raise TornError("what was written is not what is there")
        self._needs[state] = {name, *packs}
        self._written = {**packs, name: len(data), state: len(manifest)}

    def _clean_up(self, files: FilesAPI, there: Iterable[str]) -> None:
        """Delete what the last whole states do not need, of what was there before this one.

        What another instance has sent since is not in that list, so it is safe.
        """
        kept: list[str] = []
        for state in _states({*there, *self._needs})[: 2 * KEPT]:
            if state not in self._needs:
                with suppress(TornError):
                    self._read_state(files, state)
            if state in self._needs and len(kept) < KEPT:
                kept.append(state)
        needed = {self._marker, *kept}.union(*(self._needs[state] for state in kept))
        # States go first: what is left of one that is killed here is no state with a part missing.
        for name in sorted(there, key=lambda name: not name.startswith("state-")):
            if name.startswith(PREFIXES) and name not in needed:
                with suppress(NotFound):
                    files.delete(f"{self.folder}/{name}")
                self._needs.pop(name, None)
                self._packs.forget({name} & self._packs.sizes.keys())

    # --- The volume

    @property
    def _marker(self) -> str:
        return f"instance-{self.number:06}-{self.id}"

    def _list(self, files: FilesAPI) -> dict[str, int]:
        entries = files.list_directory_contents(self.folder)
        return {e.name: e.file_size or 0 for e in entries if e.name and not e.is_directory}

    def _upload(self, files: FilesAPI, name: str, data: bytes) -> None:
        files.upload(f"{self.folder}/{name}", io.BytesIO(data), overwrite=True)
        self._tick()

    def _download(self, files: FilesAPI, name: str, most: int) -> bytes:
        """A file's bytes, at most so many and one."""
        return download(files, f"{self.folder}/{name}", most)

    def _checked(self, files: FilesAPI, name: str, most: int) -> bytes:
        """What a name promises, asked for twice before it is taken for torn."""
        for _ in range(2):
            data = self._download(files, name, most)
            if name.endswith(f"-{hashlib.sha256(data).hexdigest()}"):
                return data
        raise TornError(f"{name} is torn")


def download(files: FilesAPI, path: str, most: int) -> bytes:
    """A file of a volume; of one that is larger than expected, one byte more than that.

    Raises:
        TornError: where it is not there.
    """
    try:
        with cast(BinaryIO, files.download(path).contents) as content:
            return content.read(most + 1)
    except NotFound:
        raise TornError(f"{path.rpartition('/')[2]} is not there") from None


def _states(names: Iterable[str]) -> list[str]:
    """The states among these names, newest first."""
    return sorted((name for name in names if name.startswith("state-")), reverse=True)
