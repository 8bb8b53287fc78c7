"""Files on their way in: in pieces, of which any may be sent again, and whole or not there."""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
import unicodedata
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from starlette.exceptions import HTTPException

from webapp.files.folder import PART, closed, is_part, open_below, shown

UPLOADS = "uploads"  # the folder, below the one that is served, where uploads go
LIMIT = 500_000_000  # bytes of one file
PIECE = 8_000_000  # bytes of one request at most: 64 s at 1 Mbit/s
AT_ONCE = 32  # requests that are read; each may have 0.4 MB in memory
IDLE = 30.0  # seconds after which a request that sends nothing is ended
AGE = 3600.0  # seconds without a piece, after which an upload is forgotten


class Key(NamedTuple):
    """What makes two requests parts of one upload."""

    upload: str  # a random word of the sender's
    path: tuple[str, ...]
    folder: bool
    size: int  # bytes of the whole file


@dataclass(eq=False)
class Upload:
    """One file or folder on its way in, and what became of it."""

    part: str  # the name of its file while it is being written
    have: int = 0  # bytes that are written
    path: str = ""  # where it is, below `uploads`, once it is whole
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # held while something is written
    sender: object = None  # the request that may write: the latest
    timer: asyncio.TimerHandle | None = None  # forgets it


class Uploads:
    """Puts files into the folder `uploads`. A name that is taken gets a number.

    A silent sender holds no file open.

    Arguments:
        root: the folder that is served. No link below it is followed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[Key, Upload] = {}
        self._reading = 0  # requests

    async def put(self, key: Key, at: int, body: AsyncIterator[bytes]) -> tuple[int, str]:
        """Take a piece of a file; the last one puts the file into its place. Or make a folder.

        A piece may come again, and one that was cut may come from its beginning.

        Arguments:
            key: which upload; a new one begins with its first piece.
            at: where the piece begins, in bytes. Beyond what is written, nothing is read.
            body: the piece.

        Returns:
            How many bytes are written, and once it is whole the path below `uploads`, else "".

        Raises:
            HTTPException: it is refused, and why.
            OSError: as the system says.
        """
        check_names(key.path)
        name = shown(key.path[-1])
        if key.size > LIMIT:
            raise HTTPException(413, f"{name}: it has more than {LIMIT // 10**6} MB")
        if self._reading >= AT_ONCE:
            raise HTTPException(503, f"{name}: {AT_ONCE} others are being sent; try again")
        upload = self._known.get(key)
        if upload is None:
            if at > 0:
                return 0, ""
            upload = self._known[key] = Upload(f"{PART}{uuid.uuid4().hex}")
        self._count_anew(key, upload)
        if at <= upload.have and not upload.path:
            self._reading += 1
            try:
                await self._receive(key, upload, at, body)
            except TimeoutError:
                raise HTTPException(408, f"{name}: nothing came for {IDLE:.0f} s") from None
            except (HTTPException, OSError):
                self.forget(key)
                raise
            finally:
                self._reading -= 1
        return upload.have, upload.path

    async def _receive(self, key: Key, upload: Upload, at: int, body: AsyncIterator[bytes]) -> None:
        """Write a piece, and finish the file after its last byte; a later request takes over."""
        sender = upload.sender = object()
        end = min(at + PIECE, key.size)
        async with upload.turn:
            if upload.path or upload.sender is not sender:  # one before it came to its end
                return
            if at == 0:
                await asyncio.to_thread(self._begin, key, upload)
        while chunk := await _next(body):
            async with upload.turn:
                if upload.sender is not sender:
                    return
                if at + len(chunk) > end:
                    name = shown(key.path[-1])
                    raise HTTPException(400, f"{name}: a piece is longer than it may be")
                await asyncio.to_thread(self._write, upload, at, chunk)
                at += len(chunk)
                upload.have = max(upload.have, at)
        async with upload.turn:
            if upload.sender is sender and at == key.size:
                upload.path = await asyncio.to_thread(self._finish, key, upload)

    def forget(self, key: Key) -> None:
        """Remove what is there of an upload that will not go on; a whole file stays."""
        if upload := self._known.pop(key, None):
            upload.sender = None
            if upload.timer:
                upload.timer.cancel()
            asyncio.get_running_loop().run_in_executor(None, self._remove, upload.part)

    def sweep(self) -> None:
        """Remove what a server that was killed left half there."""
        with suppress(OSError), self._folder() as home:
            for name in filter(is_part, os.listdir(home)):
                self._remove(name)

    def _folder(self, *way: str) -> AbstractContextManager[int]:
        """The folder `uploads`, or one below it, open as long as the context."""
        return closed(open_below(self.root, [UPLOADS, *way]))

    def _count_anew(self, key: Key, upload: Upload) -> None:
        """Begin to count its age anew."""
        if upload.timer:
            upload.timer.cancel()
        upload.timer = asyncio.get_running_loop().call_later(AGE, self.forget, key)

    def _begin(self, key: Key, upload: Upload) -> None:
        """Make what is missing: the file, and the folders on the way to its place."""
        os.close(open_below(self.root, [UPLOADS, *key.path[:-1]], make=True))
        if not key.folder:
            # In `uploads` itself, where a killed server's leftovers are found again.
            with self._folder() as home:
                os.close(os.open(upload.part, os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=home))

    def _write(self, upload: Upload, at: int, data: bytes) -> None:
        with (
            self._folder() as home,
            closed(os.open(upload.part, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=home)) as file,
        ):
            write_all(file, data, at)

    def _finish(self, key: Key, upload: Upload) -> str:
        """Put it into its place. Returns the path below `uploads` that it got."""
        *way, name = key.path
        with self._folder() as home, self._folder(*way) as place:
            if key.folder:
                made = first_free(name, partial(os.mkdir, dir_fd=place))
            else:
                status = os.stat(upload.part, dir_fd=home, follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode) or status.st_size != key.size:
                    raise HTTPException(409, f"{shown(name)}: something else wrote to its file")
                # Unlike a rename, a link replaces nothing.
                link = partial(
                    os.link, upload.part, src_dir_fd=home, dst_dir_fd=place, follow_symlinks=False
                )
                made = first_free(name, link)
                os.unlink(upload.part, dir_fd=home)
        return "/".join([*way, made])

    def _remove(self, part: str) -> None:
        with suppress(OSError), self._folder() as home:
            os.unlink(part, dir_fd=home)


async def _next(body: AsyncIterator[bytes]) -> bytes:
    """The next bytes of a body, none at its end. Raises TimeoutError where none come."""
    async with asyncio.timeout(IDLE):
        async for chunk in body:
            if chunk:
                return chunk
        return b""


def check_names(path: Sequence[str]) -> None:
    """Refuse what could do harm where it is typed into a terminal, or cannot be a name.

    Raises:
        HTTPException: it is refused, and why.
    """
    if not path:
        raise HTTPException(400, "An upload needs a name")
    for name in path:
        # A terminal takes control characters for keys.
        if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
            raise HTTPException(
                400, f"{shown(name)}: its name holds a control character, or is not UTF-8"
            )
        if len(name.encode()) > 255 or is_part(name):
            raise HTTPException(
                400, f"{shown(name)[:60]}…: its name is too long, or one of the app's own"
            )


def write_all(file: int, data: bytes, at: int) -> None:
    """Write at a position, again until all of it is written."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written


def first_free(name: str, make: Callable[[str], None]) -> str:
    """Make something of this name, or of the next one that is free. Returns the name."""
    for number in itertools.count(1):
        with suppress(FileExistsError):
            make(candidate := numbered(name, number))
            break
    return candidate


def numbered(name: str, number: int) -> str:
    """A name with a number before its ending, in 255 bytes; the first one has none."""
    if number == 1:
        return name
    stem, ending = os.path.splitext(name)
    if len(ending.encode()) > 20:
        stem, ending = name, ""
    ending = f"-{number}{ending}"
    return stem.encode()[: 255 - len(ending.encode())].decode("utf-8", "ignore") + ending
