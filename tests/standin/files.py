"""A Unity Catalog volume for the stand-in: the Files API as databricks-sdk 0.156.0 uses it.

    volume = Volume()
    with StandIn(rooms=volume.rooms()) as workspace: ...

Read from the SDK's source: files and directories below `/api/2.0/fs/`, a file from 50 MB on in
parts to presigned URLs, and each download of `WorkspaceClient().files` through one. `FilesAPI`
alone, which the app uses, asks for neither.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from tests.standin import Answer, Call, Cut, Room

FILES, FOLDERS, PRESIGNED = "/api/2.0/fs/files", "/api/2.0/fs/directories", "/presigned/"


@dataclass
class Volume:
    """A volume, and what was sent to it. Its fields may change while it is used.

    Arguments:
        path: where it is.
        slow: seconds before each answer, and for each MB that is sent or fetched.
        room: bytes that there is space for.
        forbidden: 403 to everything.
        gone: 404 to everything.
        cut: how many of the next writes end in the middle, half of each written.
        unanswered: how many of the next writes are done without an answer.
        torn: how many of the next downloads end in the middle.
        presigned: whether it hands out presigned URLs.
        me: who asks Unity Catalog.
        owner: the volume's.
        grants: each principal's privileges, with the kind and name of what they are inherited
            from ("" for none).
        sees_grants: whether `me` may see all of them, or only its own.
    """

    path: str = "/Volumes/main/hermes/state"
    slow: float = 0.0
    room: int = 2**40
    forbidden: bool = False
    gone: bool = False
    cut: int = 0
    unanswered: int = 0
    torn: int = 0
    presigned: bool = True
    me: str = "owner@example.com"
    owner: str = "owner@example.com"
    grants: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    sees_grants: bool = True
    files: dict[str, bytes] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._urls: dict[str, tuple[str, str, int]] = {}  # id: path, session, part
        self._parts: dict[tuple[str, int], bytes] = {}

    def rooms(self) -> dict[str, Room]:
        """What `StandIn.rooms` wants."""
        return {
            "/api/2.0/fs/": self.answer,
            PRESIGNED: self._cloud,
            "/api/2.0/preview/scim/v2/Me": lambda call: (200, {"userName": self.me}),
            "/api/2.1/unity-catalog/volumes/": self._volume,
            "/api/2.1/unity-catalog/effective-permissions/volume/": self._effective,
        }

    def names(self, beginning: str = "") -> list[str]:
        """The names of the files in it, with no folder, that begin like this."""
        return sorted(
            name
            for path in list(self.files)
            if (name := path.rpartition("/")[2]).startswith(beginning)
        )

    def sent(self) -> int:
        """How many bytes were uploaded so far."""
        return sum(len(call.body) for call in list(self.calls) if call.method == "PUT")

    def answer(self, call: Call) -> Answer:
        """Decide one request."""
        self.calls.append(call)
        time.sleep(self.slow * (1 + len(call.body) / 2**20))
        path = unquote(call.path)
        target = (
            call.query.get("path")
            or str(call.json.get("path", ""))
            or path.removeprefix(FILES).removeprefix(FOLDERS)
        )
        if self.forbidden:
            return _error(
                403,
                "PERMISSION_DENIED",
                f"User does not have WRITE VOLUME on Volume '{self.path}'.",
            )
        if self.gone or not f"{target}/".startswith(f"{self.path}/"):
            return _error(404, "NOT_FOUND", f"Volume '{target}' does not exist.")
        with self._lock:
            if path.startswith(FILES):
                return self._file(call, target)
            if path.startswith(FOLDERS):
                return self._folder(call, target)
            return self._presign(call, target)

    def _file(self, call: Call, path: str) -> Answer:
        action = call.query.get("action")
        if call.method == "PUT":
            if call.query.get("overwrite") == "false" and path in self.files:
                return _error(409, "ALREADY_EXISTS", f"The file {path} already exists.")
            return self._write(path, call.body)
        if call.method == "POST" and action == "initiate-upload":
            return 200, {"multipart_upload": {"session_token": secrets.token_hex(8)}}
        if call.method == "POST" and action == "complete-upload":
            return self._write(path, self._joined(call))
        if path not in self.files:
            return _error(404, "NOT_FOUND", f"The file {path} does not exist.")
        if call.method == "DELETE":
            del self.files[path]
            return 204, b""
        return self._read(call, path)

    def _joined(self, call: Call) -> bytes:
        session, parts = call.query["session_token"], call.json["parts"]
        return b"".join(self._parts.pop((session, part["part_number"])) for part in parts)

    def _write(self, path: str, data: bytes) -> Answer:
        if sum(map(len, self.files.values())) + len(data) > self.room:
            return _error(507, "RESOURCE_EXHAUSTED", "There is not enough space left.")
        if self.cut:
            self.cut -= 1
            self.files[path] = data[: len(data) // 2]
            raise ConnectionError
        self.files[path] = data
        if self.unanswered:
            self.unanswered -= 1
            raise ConnectionError
        return 204, b""

    def _read(self, call: Call, path: str) -> Answer:
        start = int(call.headers.get("range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        data = self.files[path][start:]
        time.sleep(self.slow * len(data) / 2**20)
        if self.torn and call.method == "GET":
            self.torn -= 1
            return 200, Cut(data[: len(data) // 2])
        return (206 if start else 200), data

    def _folder(self, call: Call, path: str) -> Answer:
        inside = [name for name in [*self.files, *self.folders] if name.startswith(f"{path}/")]
        if call.method == "PUT":
            parts = path.split("/")
            self.folders |= {"/".join(parts[:n]) for n in range(5, len(parts) + 1)}
            return 204, b""
        if path not in self.folders and path != self.path and not inside:
            return _error(404, "NOT_FOUND", f"The directory {path} does not exist.")
        if call.method == "DELETE":
            if inside:
                return _error(400, "DIRECTORY_NOT_EMPTY", f"The directory {path} is not empty.")
            self.folders.discard(path)
            return 204, b""
        if call.method == "HEAD":
            return 200, b""
        return self._list(call, path, inside)

    def _list(self, call: Call, path: str, inside: list[str]) -> Answer:
        names = sorted({f"{path}/{name[len(path) + 1 :].split('/')[0]}" for name in inside})
        size, start = int(call.query.get("page_size", 1000)), int(call.query.get("page_token", 0))
        page: dict[str, Any] = {"contents": [self._entry(n) for n in names[start : start + size]]}
        if len(names) > start + size:
            page["next_page_token"] = str(start + size)
        return 200, page

    def _entry(self, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"path": path, "name": path.rpartition("/")[2]}
        if path not in self.files:
            return entry | {"is_directory": True}
        return entry | {"is_directory": False, "file_size": len(self.files[path])}

    def _presign(self, call: Call, path: str) -> Answer:
        kind = call.path.rpartition("/")[2]
        if not self.presigned:
            return _error(
                403, "PERMISSION_DENIED", "Presigned URLs are not enabled for this workspace."
            )

        def url(session: str = "", part: int = 0) -> str:
            self._urls[number := secrets.token_hex(8)] = (path, session, part)
            return f"https://{call.host}{PRESIGNED}{number}"

        if kind == "create-download-url":
            return 200, {"url": url(), "headers": []}
        session = str(call.json.get("session_token"))
        if kind == "create-upload-part-urls":
            first = int(call.json["start_part_number"])
            parts = [
                {"url": url(session, n), "part_number": n, "headers": []}
                for n in range(first, first + call.json["count"])
            ]
            return 200, {"upload_part_urls": parts}
        if kind == "create-abort-upload-url":
            return 200, {"abort_upload_url": {"url": url(session), "headers": []}}
        return _error(404, "ENDPOINT_NOT_FOUND", f"No API found for '{call.method} {call.path}'.")

    def _volume(self, call: Call) -> Answer:
        name = call.path.rpartition("/")[2]
        if self.forbidden or name != ".".join(self.path.split("/")[2:5]):
            return _error(404, "VOLUME_DOES_NOT_EXIST", f"Volume '{name}' does not exist.")
        return 200, {"full_name": name, "owner": self.owner}

    def _effective(self, call: Call) -> Answer:
        """One principal a page, after an empty one, as the API's documentation allows."""
        number = int(call.query.get("page_token", -1))
        seen = [who for who in self.grants if self.sees_grants or who == self.me]
        more = {"next_page_token": str(number + 1)} if number + 1 < len(seen) else {}
        privileges = [
            {"privilege": right}
            | ({"inherited_from_type": kind, "inherited_from_name": name} if kind else {})
            for who in seen[max(number, 0) : number + 1]
            for right, kind, name in self.grants[who]
        ]
        page = [{"principal": seen[number], "privileges": privileges}] if number >= 0 else []
        return 200, {"privilege_assignments": page, **more}

    def _cloud(self, call: Call) -> Answer:
        """The cloud's storage itself: it knows no token, and has been told all by the URL."""
        self.calls.append(call)
        path, session, part = self._urls.get(call.path.removeprefix(PRESIGNED), ("", "", 0))
        with self._lock:
            if call.method == "PUT" and part:
                self._parts[session, part] = call.body
                return 200, b""
            if call.method == "DELETE":
                return 204, b""
            return self._read(call, path) if path in self.files else (404, b"")


def _error(status: int, code: str, message: str) -> Answer:
    return status, {"error_code": code, "message": message}
