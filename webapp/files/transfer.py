"""Files in and out of the projects folder over HTTP; out so that nothing runs as a page of ours."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shlex
import stat
from collections.abc import Iterable, Sequence
from io import FileIO
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from webapp.access import App, Receive, Scope, Send
from webapp.files import uploads, zips
from webapp.files.folder import open_below, read, shown, text

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
WORD = re.compile(r"[0-9a-f-]{16,64}")  # random, of the browser's
RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class Files:
    """Serves a folder below `/files/`.

    - `GET /files/<file>` gives a file, or the part of it that `Range` asks for.
    - `PUT /files/<path>?upload=<word>&size=<bytes>&at=<offset>` takes a piece of a file for the
      folder `uploads`; with a slash at the path's end it makes a folder. The answer is JSON:
      `have`, the bytes that have come; once all have, `path`, the place below `uploads`, and
      `typed`, the whole path quoted for a shell. `DELETE` with the same query stops it.
    - `POST /files/<folder>?zip=<word>` begins to pack a folder, and is asked again until the
      JSON's `ready` is true; `GET` with the same query then gives the zip. `DELETE` stops it.

    The word is random, one for each upload or zip. Any request may be sent again. A refusal is
    one line of text.

    Arguments:
        app: the ASGI application for every other path.
        root: the folder that is served. No link below it is followed.
    """

    def __init__(self, app: App, root: Path) -> None:
        self.app, self.root = app, root
        self._uploads, self._zips = uploads.Uploads(root), zips.Zips(root)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/files/"):
            await self._serve(Request(scope, receive), send)
            return
        if scope["type"] == "lifespan":  # the app's start
            await asyncio.to_thread(self._uploads.sweep)
        await self.app(scope, receive, send)

    async def _serve(self, request: Request, send: Send) -> None:
        # Not the scope's path, where a name that is not UTF-8 is lost.
        path = unquote_to_bytes(request.scope["raw_path"]).removeprefix(b"/files/")
        parts = tuple(os.fsdecode(part) for part in path.split(b"/") if part)
        name = shown(parts[-1]) if parts else "projects"
        try:
            check_path(parts)
            response = await self._answer(request, parts, folder=path.endswith(b"/"))
        except HTTPException as refusal:
            response = _refuse(refusal.status_code, refusal.detail)
        except OSError as error:
            unknown = 403, error.strerror or "it cannot be used"
            status, reason = REASONS.get(error.errno or 0, unknown)
            response = _refuse(status, f"{name}: {reason}")
        except ClientDisconnect:
            return
        await response(request.scope, request.receive, send)

    async def _answer(self, request: Request, parts: tuple[str, ...], folder: bool) -> Response:
        match request.method, "zip" in request.query_params:
            case "GET" | "HEAD", False:
                return await asyncio.to_thread(self._download, request, parts)
            case "GET" | "HEAD", True:
                return self._download_zip(request, parts)
            case "POST", True:
                return self._pack(request, parts)
            case "PUT", False:
                return await self._upload(request, parts, folder)
            case "DELETE", True:
                self._zips.forget(zips.Key(_word(request, "zip"), parts))
            case "DELETE", False:
                self._uploads.forget(_upload_key(request, parts, folder))
            case _:
                raise HTTPException(405, f"{request.method} is not valid")
        return JSONResponse({}, headers=HEADERS)

    async def _upload(self, request: Request, parts: tuple[str, ...], folder: bool) -> Response:
        key, at = _upload_key(request, parts, folder), _number(request, "at")
        have, path = await self._uploads.put(key, at, request.stream())
        typed = shlex.quote(str(self.root / uploads.UPLOADS / path)) if path else ""
        return JSONResponse({"have": have, "path": path, "typed": typed}, headers=HEADERS)

    def _pack(self, request: Request, parts: tuple[str, ...]) -> Response:
        found = self._zips.pack(zips.Key(_word(request, "zip"), parts))
        answer = {"done": found.done, "size": found.size, "ready": found.ready}
        return JSONResponse(answer, headers=HEADERS)

    def _download_zip(self, request: Request, parts: tuple[str, ...]) -> Response:
        found = self._zips.get(zips.Key(_word(request, "zip"), parts))
        if not found.ready:
            raise HTTPException(409, f"{shown(found.name)}: it is not packed yet")
        file = FileIO(os.dup(found.file.fileno()))
        return _attachment(request, file, f"{found.name}.zip", "application/zip")

    def _download(self, request: Request, parts: tuple[str, ...]) -> Response:
        name = text(parts[-1] if parts else self.root.name)
        handle = open_below(self.root, parts)
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            os.close(handle)
            kind = "a folder, packed as a zip first" if stat.S_ISDIR(mode) else "not a file"
            raise HTTPException(403, f"{shown(name)}: it is {kind}")
        return _attachment(request, FileIO(handle), name, "application/octet-stream")


def check_path(parts: Sequence[str]) -> None:
    """Refuse a path with ".", ".." or a null byte in it.

    Raises:
        HTTPException: it is refused, and why.
    """
    if any(part in (".", "..") or "\0" in part for part in parts):
        raise HTTPException(400, f"{shown(parts[-1])}: a path goes down only, by names")


def byte_range(wanted: str, size: int) -> tuple[int, int] | None:
    """The bytes that a request asks for: the first, and the one after the last.

    Arguments:
        wanted: the header `Range`.
        size: bytes there are.

    Returns:
        None for all of them, also where the header is not valid or names several ranges.

    Raises:
        ValueError: there are no such bytes.
    """
    found = RANGE.fullmatch(wanted.strip())
    first, last = found.groups() if found else ("", "")
    if not first + last or (first and last and int(last) < int(first)):
        return None
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        raise ValueError(f"there are {size} bytes")
    return start, end


def _attachment(request: Request, file: FileIO, name: str, kind: str) -> Response:
    """A file, or a part of it, to keep and not to show."""
    status = os.fstat(file.fileno())
    size = status.st_size
    # Every change of a file sets its ctime, and no program can set that back.
    tag = f'"{status.st_ino:x}-{status.st_ctime_ns:x}-{size:x}"'
    headers = HEADERS | {
        "accept-ranges": "bytes",
        "content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",  # RFC 5987
        "content-type": kind,
        "etag": tag,
    }
    # A date is no strong validator (RFC 9110, 13.1.5): it gets the whole file.
    same = request.headers.get("if-range", tag) == tag
    try:
        part = byte_range(request.headers.get("range", "") if same else "", size)
    except ValueError as error:
        file.close()
        return _refuse(416, f"{shown(name)}: {error}", {"content-range": f"bytes */{size}"})
    if part:
        headers["content-range"] = f"bytes {part[0]}-{part[1] - 1}/{size}"
    start, end = part or (0, size)
    headers["content-length"] = str(end - start)
    code = 206 if part else 200
    if request.method == "HEAD":
        file.close()
        return Response(status_code=code, headers=headers)
    return _Streamed(file, read(file, start, end), code, headers)


class _Streamed(StreamingResponse):
    """Pieces of a file, which is closed even when its reader has gone."""

    def __init__(
        self, file: FileIO, pieces: Iterable[bytes], code: int, headers: dict[str, str]
    ) -> None:
        super().__init__(pieces, code, headers)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


def _refuse(status: int, line: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{line}.\n", status, HEADERS | (headers or {}))


def _upload_key(request: Request, parts: tuple[str, ...], folder: bool) -> uploads.Key:
    return uploads.Key(_word(request, "upload"), parts, folder, _number(request, "size"))


def _word(request: Request, name: str) -> str:
    word = request.query_params.get(name, "")
    if not WORD.fullmatch(word):
        raise HTTPException(400, f"{name}={shown(word)[:80]} is not valid; expected a random word")
    return word


def _number(request: Request, name: str) -> int:
    number = request.query_params.get(name, "0")
    if not re.fullmatch("[0-9]{1,15}", number):
        raise HTTPException(400, f"{name}={shown(number)[:80]} is not valid; expected bytes")
    return int(number)
