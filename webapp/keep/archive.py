"""States of a home directory on a Unity Catalog volume: whole, or not there.

A folder of a volume holds, side by side:

    instance-<n>-<id>           an instance of the app that saves here; the one with the highest n alone may
    pack-<SHA-256>              blocks of files, each compressed
    index-<SHA-256>             a state's files, and the blocks of each; compressed JSON
    state-<n>-<id>-<count>      a state's manifest, written last: the time, and its index with size and SHA-256

The names sort by age without any clock. The Files API has no rename, and a write may end in the middle: so whatever a
manifest names, or an index, is checked by size and SHA-256 before it is believed. By hand: `zlib.decompress` of an index
and of each block gives all there is.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import secrets
import shutil
import stat
import tempfile
import time
import zlib
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

from databricks.sdk.errors import NotFound
from databricks.sdk.service.files import FilesAPI

from webapp.keep.format import BLOCK, Done, Index, check, put
from webapp.keep.selection import Entry, LeftOutError, clean_config, read, walk

KEPT = 5  # states
PACK = 2**23  # bytes, at least, but for the last
SMALL, MANY = (
    2**22,
    32,
)  # packs below that many bytes are put together once there are more than that many
HOT = 50_000_000  # nanoseconds: a file changed that recently may change again and look the same

Location = tuple[str, int, int]  # of a block: pack, offset, length


class TornError(Exception):
    """What was read is not what was written, or is not there."""


class SupersededError(Exception):
    """A newer instance saves here."""


class Archive:
    """One instance's way to the states.

    Arguments:
        home: the home directory.
        folder: on the volume, such as `/Volumes/main/hermes/state`.
    """

    def __init__(self, home: Path, folder: str) -> None:
        self.home, self.folder = home, folder
        self.id, self.number, self.count = secrets.token_hex(4), 0, 0
        self._entries: list[Entry] = []  # as they were saved last
        self._left_out: dict[str, str] = {}  # of them
        self._tree: Index = {}
        self._hidden: set[bytes] = set()  # tokens, in nothing that is saved
        self._seen: dict[
            str, tuple[tuple[int, ...], int, list[str]]
        ] = {}  # path: its mark, saved size and blocks
        self._blocks: dict[str, Location] = {}  # what the volume has
        self._sizes: dict[str, int] = {}  # of packs
        self._uses: dict[str, set[str]] = {}  # what a whole state needs
        self._spare = False  # the states that are there: none of them could be read

    def restore(self, files: FilesAPI, *, beside: bool = False, look: bool = False) -> Done:
        """Bring back the newest whole state; from now on this instance is the newest.

        A file that is not older here stays as it is.

        Arguments:
            files: the Files API.
            beside: a file that is newer here has the saved one put beside it, as `<name>.restored`.
            look: change no file; only find out what is there.

        Returns:
            What was done.

        Raises:
            Exception: whatever the Files API raises; then no file was changed.
        """
        for leftover in self.home.glob(".keep-*"):  # of a killed one
            shutil.rmtree(leftover, ignore_errors=True)
        files.create_directory(self.folder)
        if not self.number:
            found = (re.fullmatch("instance-([0-9]{6})-.*", name) for name in self._list(files))
            self.number = 1 + max((int(match[1]) for match in found if match), default=0)
        self._upload(files, self._marker, b"-")
        done = Done()
        for state in _states(self._list(files)):
            with tempfile.TemporaryDirectory(prefix=".keep-", dir=self.home) as scratch:
                try:
                    saved, index = self._read_state(files, state)
                    with ThreadPoolExecutor(4) as pool:
                        list(
                            pool.map(
                                lambda p: Path(scratch, p[0]).write_bytes(self._checked(files, *p)),
                                index["packs"],
                            )
                        )
                except TornError:
                    done.older = True
                    continue
                if not look:
                    put(self.home, index, Path(scratch), beside, done)
            for block, pack, offset, length in index["blocks"]:
                self._blocks[block] = (index["packs"][pack][0], offset, length)
            self._sizes.update({pack: size for pack, size in index["packs"]})
            done.saved, done.files = saved, len(index["files"])
            break
        self._spare = done.older and not done.saved
        return done

    def save(self, files: FilesAPI, hidden: Collection[str]) -> Done:
        """Save what has changed since the last time, if anything has.

        Arguments:
            files: the Files API.
            hidden: tokens, which must be in nothing that is saved.

        Returns:
            What was done.

        Raises:
            SupersededError: where a newer instance saves.
            Exception: whatever the Files API raises; then the states are as they were.
        """
        done, started = (
            Done(saved=datetime.now(UTC).isoformat(timespec="milliseconds")),
            time.time_ns(),
        )
        self._hidden |= {token.encode() for token in hidden}
        with suppress(OSError, LeftOutError):  # whoever keeps it fresh may have another one
            self._hidden |= {
                key
                for key in clean_config((self.home / ".hermes" / "config.yaml").read_bytes())[1]
                if len(key) > 7
            }
        entries = list(walk(self.home, done.left_out.__setitem__))
        if entries == self._entries:
            done.left_out = self._left_out
            return done
        there = self._check(files)
        self._forget({name for name, size in self._sizes.items() if there.get(name) != size})
        self._forget(self._to_put_together(entries))
        again = self._send_blocks(files, entries, started, done)
        tree = self._as_tree(entries)
        if tree != self._tree:
            done.sent += self._send_state(files, tree, done.saved)
            self._tree = tree
            if not self._spare:
                self._clean_up(files, there)
        self._entries, self._left_out = [] if again else entries, done.left_out
        done.files = len(tree["files"])
        return done

    # --- What a save does, in its order -----------------------------------------------------------------------------------

    def _check(self, files: FilesAPI) -> dict[str, int]:
        """What is on the volume, names with sizes, if this is still the newest instance."""
        there = self._list(files)
        if any(name > self._marker for name in there if name.startswith("instance-")):
            raise SupersededError
        if self._marker not in there:  # somebody emptied the folder
            files.create_directory(self.folder)
            self._upload(files, self._marker, b"-")
        return there

    def _forget(self, packs: set[str]) -> None:
        self._blocks = {
            block: place for block, place in self._blocks.items() if place[0] not in packs
        }
        self._sizes = {pack: size for pack, size in self._sizes.items() if pack not in packs}

    def _to_put_together(self, entries: list[Entry]) -> set[str]:
        """The packs whose blocks had better be sent again: most of it is not used any more, or there are many small ones."""
        used = {
            block
            for entry in entries
            if entry.path in self._seen
            for block in self._seen[entry.path][2]
        }
        live = dict.fromkeys(self._sizes, 0)
        for block in used & self._blocks.keys():
            live[self._blocks[block][0]] += self._blocks[block][2]
        small = {pack for pack, size in live.items() if 0 < size < SMALL}
        sparse = {
            pack
            for pack, size in live.items()
            if 0 < size < self._sizes[pack] / 4 and self._sizes[pack] > SMALL
        }
        return (small if len(small) > MANY else set()) | (sparse if self._seen else set())

    def _send_blocks(self, files: FilesAPI, entries: list[Entry], started: int, done: Done) -> bool:
        """Send the blocks that the volume has not; whether some file is to be read again the next time."""
        again, waiting = False, dict[str, bytes]()

        def send() -> None:
            name, offset = (
                f"pack-{hashlib.sha256(data := b''.join(waiting.values())).hexdigest()}",
                0,
            )
            places: dict[str, Location] = {}
            for block, packed in waiting.items():
                places[block] = (name, offset, len(packed))
                offset += len(packed)
            self._upload(files, name, data)
            self._blocks |= places
            self._sizes[name] = len(data)
            done.sent += len(data)
            waiting.clear()

        with tempfile.TemporaryDirectory(prefix=".keep-", dir=self.home) as scratch:
            for entry in entries:
                seen = self._seen.get(entry.path)
                if not stat.S_ISREG(entry.mode) or (
                    seen and seen[0] == entry.mark and self._blocks.keys() >= set(seen[2])
                ):
                    continue
                hot = (
                    max(entry.mark[2::2]) > started - HOT
                )  # its own time, and those of a database's logs
                again = again or hot
                try:
                    data = read(self.home, entry, Path(scratch), self._hidden)
                except LeftOutError as reason:
                    done.left_out[entry.path] = str(reason)
                    self._seen.pop(entry.path, None)
                    continue
                except FileNotFoundError:
                    self._seen.pop(entry.path, None)
                    continue
                except OSError as error:  # it stays as it was saved last
                    done.left_out[entry.path] = error.strerror or type(error).__name__
                    again = True
                    continue
                blocks = []
                for start in range(0, len(data), BLOCK):
                    part = data[start : start + BLOCK]
                    blocks.append(block := hashlib.sha256(part).hexdigest())
                    if block not in self._blocks and block not in waiting:
                        waiting[block] = zlib.compress(part, 1)
                        if sum(map(len, waiting.values())) >= PACK:
                            send()
                self._seen[entry.path] = (() if hot else entry.mark, len(data), blocks)
            if waiting:
                send()
        return again

    def _as_tree(self, entries: list[Entry]) -> Index:
        """What is saved of these entries: a file only where the volume has all its blocks."""
        files = []
        for entry in entries:
            _, size, blocks = self._seen.get(entry.path, ((), 0, ["none"]))
            if stat.S_ISREG(entry.mode) and self._blocks.keys() >= set(blocks):
                files.append([entry.path, stat.S_IMODE(entry.mode), entry.mtime, size, blocks])
        folders = [
            [entry.path, stat.S_IMODE(entry.mode)] for entry in entries if stat.S_ISDIR(entry.mode)
        ]
        links = [[entry.path, entry.target] for entry in entries if stat.S_ISLNK(entry.mode)]
        return {"folders": folders, "files": files, "links": links}

    def _send_state(self, files: FilesAPI, tree: Index, saved: str) -> int:
        """Write a state and see that it is there; how many bytes that took."""
        used = dict.fromkeys(block for *_, blocks in tree["files"] for block in blocks)
        packs = list(dict.fromkeys(self._blocks[block][0] for block in used))
        numbers = {block: number for number, block in enumerate(used)}
        order = {pack: number for number, pack in enumerate(packs)}
        index = tree | {
            "files": [
                [*entry, [numbers[block] for block in blocks]] for *entry, blocks in tree["files"]
            ],
            "blocks": [
                [block, order[pack], offset, length]
                for block in used
                for pack, offset, length in [self._blocks[block]]
            ],
            "packs": [[pack, self._sizes[pack]] for pack in packs],
        }
        check(index)  # what could not be read again would be worth nothing
        data = zlib.compress(json.dumps(index, separators=(",", ":")).encode())
        name = f"index-{hashlib.sha256(data).hexdigest()}"
        self._upload(files, name, data)
        there = self._check(files)
        if there.get(name) != len(data) or any(
            there.get(pack) != self._sizes[pack] for pack in packs
        ):
            raise TornError("what was written is not all there")
        self.count += 1
        state = f"state-{self.number:06}-{self.id}-{self.count:06}"
        digest = name.removeprefix("index-")
        manifest = json.dumps(
            {"saved": saved, "index": {"size": len(data), "sha256": digest}}
        ).encode()
        self._upload(files, state, manifest)
        if self._download(files, state) != manifest:
            raise TornError("what was written is not what is there")
        self._uses[state] = {name, *packs}
        return len(data) + len(manifest)

    def _clean_up(self, files: FilesAPI, there: Iterable[str]) -> None:
        """Delete what the last whole states do not need, of what was there before this one was written.

        What another instance has sent since is not in that list, so it is safe from this one.
        """
        kept: list[str] = []
        states = _states({*there, *self._uses})
        for state in states[: 2 * KEPT]:
            if state not in self._uses:
                with suppress(TornError):
                    self._read_state(files, state)
            if state in self._uses and len(kept) < KEPT:
                kept.append(state)
        needed = {self._marker, *kept}.union(*(self._uses[state] for state in kept))
        # States go first: what is left of one that is killed here is no state with a part missing.
        for name in sorted(there, key=lambda name: not name.startswith("state-")):
            if name.startswith(("state-", "index-", "pack-", "instance-")) and name not in needed:
                with suppress(NotFound):
                    files.delete(f"{self.folder}/{name}")
                self._uses.pop(name, None)
                self._forget({name} & self._sizes.keys())

    # --- The volume -------------------------------------------------------------------------------------------------------

    @property
    def _marker(self) -> str:
        return f"instance-{self.number:06}-{self.id}"

    def _list(self, files: FilesAPI) -> dict[str, int]:
        return {
            entry.name: entry.file_size or 0
            for entry in files.list_directory_contents(self.folder)
            if entry.name
        }

    def _upload(self, files: FilesAPI, name: str, data: bytes) -> None:
        files.upload(f"{self.folder}/{name}", io.BytesIO(data), overwrite=True)

    def _download(self, files: FilesAPI, name: str) -> bytes:
        try:
            return cast(BinaryIO, files.download(f"{self.folder}/{name}").contents).read()
        except NotFound:
            raise TornError(f"{name} is not there") from None

    def _checked(self, files: FilesAPI, name: str, size: int) -> bytes:
        """What a name promises, asked for twice before it is taken for torn."""
        for _ in range(2):
            data = self._download(files, name)
            if len(data) == size and name.endswith(f"-{hashlib.sha256(data).hexdigest()}"):
                return data
        raise TornError(f"{name} is torn")

    def _read_state(self, files: FilesAPI, state: str) -> tuple[str, Index]:
        try:
            manifest = json.loads(self._download(files, state))
            name = f"index-{manifest['index']['sha256']}"
            index = json.loads(
                zlib.decompress(self._checked(files, name, manifest["index"]["size"]))
            )
            self._uses[state] = {name, *check(index)}
            return str(manifest["saved"]), index
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
            zlib.error,
        ) as error:
            raise TornError(f"{state} is no state: {type(error).__name__}") from None


def _states(names: Iterable[str]) -> list[str]:
    """The states among these names, newest first."""
    return sorted((name for name in names if name.startswith("state-")), reverse=True)
