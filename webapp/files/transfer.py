"""Files in and out of the projects folder over HTTP: in whole or not at all, out so that nothing runs as a page of ours."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shlex
import stat
import unicodedata
import uuid
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from webapp.access import App, Receive, Scope, Send
from webapp.files.folder import (
    CHUNK,
    ENTRIES,
    PART,
    closed,
    is_packable,
    open_below,
    pack,
    read,
    shown,
    text,
)

UPLOADS = "uploads"  # the folder, below the one that is served, where uploads go
LIMIT = 500_000_000  # bytes of one upload
AT_ONCE = 8  # uploads being written; the others wait, without an open file
IDLE = 60.0  # seconds after which an upload that sends nothing loses its place

HEADERS = {
    "content-security-policy": "sandbox; default-src 'none'",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
REASONS = {
    errno.ENOENT: (404, "there is no such file"),
    errno.ENOTDIR: (404, "there is no such file"),
    errno.ELOOP: (403, "it is a link, and links are not followed"),
    errno.ENAMETOOLONG: (400, "its name is too long"),
    errno.ENOSPC: (507, "the disk is full"),
    errno.EDQUOT: (507, "the disk is full"),
    errno.EFBIG: (507, "the disk takes no file of this size"),
}


class OnDemand(HttpToolsProtocol):
    """HTTP that reads no more of a body than was asked for: uvicorn itself reads up to 320 kB of each upload that waits."""

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body, and rest until the application asks for the next."""
        super().on_body(body)
        if self.cycle and self.cycle.body and not self.cycle.response_complete:
            self.flow.pause_reading()


class Files:
    """`GET /files/<path>` gives a file, or a folder as a zip; `POST /files/<path>` puts the body into the folder `uploads`.

    A name that is taken gets a number. A POST to a path with a slash at its end makes a folder. The answer to a POST is
    JSON: the `path` below `uploads`, and as it is `typed` in a shell. Every refusal is one line of text.

    Arguments:
        app: the ASGI application for every other path.
        root: the folder that is served. No link below it is followed.
    """

    def __init__(self, app: App, root: Path) -> None:
        self.app, self.root = app, root
        self._places = asyncio.Semaphore(AT_ONCE)
        self._swept = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/files/"):
            await self.app(scope, receive, send)
            return
        # Not scope["path"], where a name that is not UTF-8 is lost.
        path = unquote_to_bytes(scope["raw_path"]).removeprefix(b"/files/")
        parts = [os.fsdecode(part) for part in path.split(b"/") if part]
        name = shown(parts[-1]) if parts else "projects"
        try:
            if any(part in (".", "..") or "\0" in part for part in parts):
                raise HTTPException(400, f"{name}: a path goes down only, by names")
            if scope["method"] == "GET":
                response = await asyncio.to_thread(self._download, parts)
            elif scope["method"] == "POST":
                response = await self._upload(Request(scope, receive), parts, path.endswith(b"/"))
            else:
                raise HTTPException(405, f"{name}: GET and POST are all there is")
        except HTTPException as refusal:
            response = PlainTextResponse(f"{refusal.detail}.\n", refusal.status_code, HEADERS)
        except OSError as error:
            status, reason = REASONS.get(
                error.errno or 0, (403, error.strerror or "it cannot be used")
            )
            response = PlainTextResponse(f"{name}: {reason}.\n", status, HEADERS)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    # --- In ---------------------------------------------------------------------------------------------------------------

    async def _upload(self, request: Request, parts: list[str], folder: bool) -> Response:
        for part in parts:
            # They will be typed into a terminal, which takes control characters for keys.
            if any(unicodedata.category(c) in ("Cc", "Cs") for c in part):
                raise HTTPException(
                    400, f"{shown(part)}: its name holds a control character, or is not UTF-8"
                )
            if len(part.encode()) > 255 or part.startswith(PART):
                raise HTTPException(
                    400, f"{shown(part)[:60]}…: its name is too long, or one of ours"
                )
        if not parts:
            raise HTTPException(400, "An upload needs a name")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > LIMIT:
            raise _too_large(parts[-1])
        async with self._places:
            if not self._swept:
                self._swept = True
                await asyncio.to_thread(self._sweep)
            *way, name = parts
            with closed(
                await asyncio.to_thread(open_below, self.root, [UPLOADS, *way], make=True)
            ) as place:
                if folder:
                    name = await asyncio.to_thread(
                        _first_free, name, partial(os.mkdir, dir_fd=place)
                    )
                else:
                    name = await self._store(request, place, name)
        path = "/".join([*way, name])
        return JSONResponse(
            {"path": path, "typed": shlex.quote(str(self.root / UPLOADS / path))}, headers=HEADERS
        )

    async def _store(self, request: Request, place: int, name: str) -> str:
        """Stream the body into a folder. Returns the name that it got there."""
        part = f"{PART}{uuid.uuid4().hex}"
        # In `uploads` itself, where a killed server's leftovers are found again.
        with closed(await asyncio.to_thread(open_below, self.root, [UPLOADS])) as home:
            try:
                with open(
                    part,
                    "xb",
                    buffering=0,
                    opener=lambda p, flags: os.open(p, flags, 0o666, dir_fd=home),
                ) as file:
                    body, rest, size = aiter(request.stream()), bytearray(), 0
                    while True:
                        try:
                            async with asyncio.timeout(IDLE):
                                chunk = await anext(body, None)
                        except TimeoutError:
                            raise HTTPException(
                                408, f"{shown(name)}: nothing came for {IDLE:.0f} s"
                            ) from None
                        rest += chunk or b""
                        size += len(chunk or b"")
                        if size > LIMIT:
                            raise _too_large(name)
                        if len(rest) >= CHUNK or chunk is None:
                            await asyncio.to_thread(_write_all, file, rest)
                            rest = bytearray()
                        if chunk is None:
                            break
                # Unlike a rename, a link replaces nothing.
                link = partial(
                    os.link, part, src_dir_fd=home, dst_dir_fd=place, follow_symlinks=False
                )
                return await asyncio.to_thread(_first_free, name, link)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=home)

    def _sweep(self) -> None:
        """Remove what a server that was killed left half there."""
        with suppress(OSError), closed(open_below(self.root, [UPLOADS])) as home:
            for name in os.listdir(home):
                if name.startswith(PART):
                    os.unlink(name, dir_fd=home)

    # --- Out --------------------------------------------------------------------------------------------------------------

    def _download(self, parts: list[str]) -> Response:
        handle = open_below(self.root, parts)
        status = os.fstat(handle)
        name = text(parts[-1] if parts else self.root.name)
        if stat.S_ISDIR(status.st_mode):
            os.close(handle)
            if not is_packable(self.root, parts):
                raise HTTPException(
                    413,
                    f"{shown(name)}: it holds more than {ENTRIES} files; pack it in a terminal with tar",
                )
            return _Attachment(pack(self.root, parts), f"{name}.zip", "application/zip")
        file = FileIO(handle)
        if not stat.S_ISREG(status.st_mode):
            file.close()
            raise HTTPException(403, f"{shown(name)}: it is neither a file nor a folder")
        response = _Attachment(read(file, status.st_size), name, "application/octet-stream")
        response.headers["content-length"] = str(status.st_size)
        return response


# --- Helpers --------------------------------------------------------------------------------------------------------------


def _too_large(name: str) -> HTTPException:
    return HTTPException(413, f"{shown(name)}: it has more than {LIMIT // 1_000_000} MB")


def _write_all(file: FileIO, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _first_free(name: str, make: Callable[[str], None]) -> str:
    """Make something of this name, or of the next one that is free. Returns the name."""
    for number in itertools.count(1):
        with suppress(FileExistsError):
            make(candidate := _numbered(name, number))
            break
    return candidate


def _numbered(name: str, number: int) -> str:
    if number == 1:
        return name
    stem, ending = os.path.splitext(name)
    if len(ending.encode()) > 20:
        stem, ending = name, ""
    ending = f"-{number}{ending}"
    return stem.encode()[: 255 - len(ending.encode())].decode("utf-8", "ignore") + ending


class _Attachment(StreamingResponse):
    """Something to keep, not to show; what it reads from is closed even when its reader has gone."""

    def __init__(self, pieces: Generator[bytes], name: str, kind: str) -> None:
        kept = f"attachment; filename*=UTF-8''{quote(name, safe='')}"  # RFC 5987
        super().__init__(pieces, headers={**HEADERS, "content-disposition": kept}, media_type=kind)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._pieces.close()
