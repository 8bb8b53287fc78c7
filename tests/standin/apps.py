"""The stand-in's Databricks Apps: the Apps API, workspace files, volumes and Unity Catalog grants, as databricks-sdk asks.

    apps = Apps()
    with StandIn(rooms=apps.rooms) as workspace: ...

With a `Runner`, a deployment starts the uploaded files as the app, behind a front with the app's own name.
"""

from __future__ import annotations

import email.parser
import itertools
import os
import re
import secrets
import select
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path, PurePosixPath
from typing import Any

import trustme
import yaml

from tests.standin import WORKSPACE_ID, Answer, Call, Room

ME, PRINCIPAL = "owner@example.com", "0a1b2c3d-0000-4000-8000-000000000001"
NAME = re.compile("[a-z0-9-]{2,30}")
# What an update may set; it replaces all of these. Source: databricks.sdk.service.apps.AppsAPI.update
SET = ("description", "resources", "budget_policy_id", "compute_size", "user_api_scopes")


def error(status: int, code: str, message: str) -> Answer:
    """A refusal as the workspace words it."""
    return status, {"error_code": code, "message": message}


@dataclass
class Apps:
    """What a workspace knows of apps and of what they need. Its fields may change while it runs.

    Arguments:
        me: who asks; the one person whose token the stand-in takes.
        takes: how many looks each state lasts.
        may_create: whether `me` may create apps.
        limit: how many apps there may be.
        admin: whether `me` may grant rights on `system`, and give serving endpoints to an app.
        endpoints: the serving endpoints that can be given to an app.
        model: what a model of `system.ai` is: "MODEL_SERVICE", or "FUNCTION" for a registered one.
        volumes: the volumes of Unity Catalog, by full name.
        fails: what a deployment fails with; "" where it succeeds.
        crashes: what the app itself says as it ends after its deployment; "" where it runs.
        fault: sees each call first; an answer of its own is the answer, a ConnectionError cuts the connection.
        runner: starts what was deployed.
    """

    me: str = ME
    takes: int = 2
    may_create: bool = True
    limit: int = 100
    admin: bool = True
    endpoints: set[str] = field(default_factory=lambda: {"databricks-claude-opus-4-6"})
    model: str = "MODEL_SERVICE"
    volumes: set[str] = field(default_factory=set)
    fails: str = ""
    crashes: str = ""
    fault: Callable[[Call], Answer | None] = lambda call: None
    runner: Runner | None = None
    apps: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    grants: dict[tuple[str, str], dict[str, set[str]]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    deployments: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    deployed: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._looks: dict[str, int] = {}
        self._time = itertools.count()
        self._lock = threading.RLock()

    @property
    def rooms(self) -> dict[str, Room]:
        """By the beginning of the path, as `StandIn` takes them."""
        mine: dict[str, Room] = {
            "/api/2.0/preview/scim/v2/Me": self._person,
            "/api/2.0/apps": self._app,
            "/api/2.0/workspace/": self._file,
            "/api/2.1/unity-catalog/volumes/": self._volume,
            "/api/2.1/unity-catalog/permissions/": self._rights,
            "/api/2.1/unity-catalog/effective-permissions/": self._rights,
        }
        return {beginning: self._in_turn(room) for beginning, room in mine.items()}

    @property
    def changes(self) -> list[str]:
        """Every call so far that was no mere question: method and path."""
        return [f"{call.method} {call.path}" for call in self.calls if call.method != "GET"]

    def _in_turn(self, room: Room) -> Room:
        def answer(call: Call) -> Answer:
            with self._lock:
                self.calls.append(call)
                return self.fault(call) or room(call)

        return answer

    def _person(self, call: Call) -> Answer:
        return 200, {"id": "1", "userName": self.me, "active": True}

    # The Apps API

    def make(self, name: str, creator: str, **more: Any) -> dict[str, Any]:
        """An app that is there already, up but never deployed."""
        self.apps[name] = {
            "name": name,
            "id": secrets.token_hex(8),
            "creator": creator,
            "create_time": self._now(),
            "url": f"https://{name}-{WORKSPACE_ID}.7.azure.databricksapps.com",
            "service_principal_client_id": PRINCIPAL,
            "service_principal_name": f"app-1 {name}",
            "compute_status": {"state": "ACTIVE", "message": "App compute is running."},
            "app_status": {"state": "UNAVAILABLE", "message": "App status is unavailable."},
            **more,
        }
        self.deployments[name] = []
        return self.apps[name]

    def _app(self, call: Call) -> Answer:
        name, _, rest = call.path.removeprefix("/api/2.0/apps").lstrip("/").partition("/")
        if not name:
            return self._create(call.json)
        app = self.apps.get(name)
        if app is None:
            return error(
                404,
                "RESOURCE_DOES_NOT_EXIST",
                f"App with name {name} does not exist or is deleted.",
            )
        if rest.startswith("deployments"):
            return self._deployment(call, app, rest.partition("/")[2])
        if call.method == "GET":
            self._look(app)
        elif call.method == "DELETE":
            app["compute_status"] = {"state": "DELETING", "message": "App is being deleted."}
        elif call.method == "PATCH":
            refused = self._refusal(call.json.get("resources", []))
            if refused:
                return refused
            for key in SET:
                app.pop(key, None)
            app |= {key: call.json[key] for key in SET if key in call.json}
        elif rest == "start":
            app["compute_status"] = {"state": "STARTING", "message": "App compute is starting."}
        return 200, app

    def _create(self, asked: dict[str, Any]) -> Answer:
        name = asked.get("name", "")
        if not NAME.fullmatch(name):
            return error(400, "INVALID_PARAMETER_VALUE", f"Invalid app name: {name}.")
        if not self.may_create:
            return error(403, "PERMISSION_DENIED", "User does not have permission to create apps.")
        if name in self.apps:
            return error(409, "ALREADY_EXISTS", f"An app with the same name already exists: {name}")
        if len(self.apps) >= self.limit:
            return error(
                429,
                "RESOURCE_EXHAUSTED",
                f"The maximum number of apps for this workspace, {self.limit}, was reached.",
            )
        starting = {"compute_status": {"state": "STARTING", "message": "App compute is starting."}}
        return 200, self.make(
            name, self.me, **{key: asked[key] for key in SET if key in asked} | starting
        )

    def _refusal(self, resources: list[dict[str, Any]]) -> Answer | None:
        for one in resources:
            endpoint = one.get("serving_endpoint", {}).get("name")
            if endpoint and not self.admin:
                return error(
                    403, "PERMISSION_DENIED", f"You need CAN_MANAGE on serving endpoint {endpoint}."
                )
            if endpoint and endpoint not in self.endpoints:
                return error(
                    404, "RESOURCE_DOES_NOT_EXIST", f"Serving endpoint {endpoint} does not exist."
                )
        return None

    def _deployment(self, call: Call, app: dict[str, Any], which: str) -> Answer:
        made = self.deployments[app["name"]]
        if call.method == "GET" and not which:
            return 200, {"app_deployments": made[::-1]}
        if call.method == "GET":
            found = next((one for one in made if one["deployment_id"] == which), None)
            if found is None:
                return error(404, "RESOURCE_DOES_NOT_EXIST", f"Deployment {which} does not exist.")
            self._look(app)
            return 200, found
        if app["compute_status"]["state"] != "ACTIVE":
            return error(
                400, "BAD_REQUEST", f"Cannot deploy app {app['name']} as its compute is not active."
            )
        if "pending_deployment" in app:
            return error(409, "ABORTED", "Cannot deploy while another deployment is in progress.")
        source = call.json["source_code_path"].removeprefix("/Workspace")
        taken = {
            str(PurePosixPath(path).relative_to(source)): data
            for path, data in self.files.items()
            if _below(path, source)
        }
        if "app.yaml" not in taken:
            return error(400, "INVALID_PARAMETER_VALUE", f"Source code path {source} holds no app.")
        self.deployed = taken
        new = {
            "deployment_id": secrets.token_hex(16),
            "create_time": self._now(),
            "creator": self.me,
            "mode": "SNAPSHOT",
            "source_code_path": call.json["source_code_path"],
            "status": {"state": "IN_PROGRESS", "message": "Preparing source code."},
        }
        made.append(new)
        app["pending_deployment"] = new
        if self.runner:
            self.runner.start(app, taken)
        return 200, new

    def _look(self, app: dict[str, Any]) -> None:
        """Time goes by with each look: after `takes` of them, what is under way is done."""
        name, compute = app["name"], app["compute_status"]
        busy = "pending_deployment" in app or compute["state"] in (
            "STARTING",
            "STOPPING",
            "DELETING",
        )
        self._looks[name] = self._looks.get(name, 0) + 1 if busy else 0
        if self._looks[name] <= self.takes or (self.runner and not self.runner.done):
            return
        self._looks[name] = 0
        if compute["state"] == "DELETING":
            del self.apps[name]
        elif compute["state"] == "STOPPING":
            app["compute_status"] = {"state": "STOPPED", "message": "App compute is stopped."}
        elif compute["state"] == "STARTING":
            app["compute_status"] = {"state": "ACTIVE", "message": "App compute is running."}
            if "active_deployment" in app:
                app["app_status"] = {"state": "RUNNING", "message": "App is running."}
        else:
            new = app.pop("pending_deployment")
            fails = self.fails or (self.runner.fails if self.runner else "")
            state = ("FAILED", fails) if fails else ("SUCCEEDED", "App started successfully")
            new["status"] = dict(zip(("state", "message"), state, strict=True))
            if not fails:
                crashed = {"state": "CRASHED", "message": self.crashes}
                app["app_status"] = (
                    crashed if self.crashes else {"state": "RUNNING", "message": "App is running."}
                )
                app["active_deployment"] = new
                app["default_source_code_path"] = new["source_code_path"]

    def _now(self) -> str:
        """The time as it is here: a second for each event."""
        return f"2026-01-01T00:{next(self._time) // 60:02}:{next(self._time) % 60:02}Z"

    # Files

    def _file(self, call: Call) -> Answer:
        what = call.path.rpartition("/")[2]
        given = call.query | (_form(call) if what == "import" else call.json)
        path = str(given.get("path", "")).removeprefix("/Workspace")
        parent = str(PurePosixPath(path).parent)
        if what == "mkdirs":
            self.folders |= {path, *map(str, PurePosixPath(path).parents)}
        elif what == "import":
            if parent not in self.folders:
                return error(
                    404, "RESOURCE_DOES_NOT_EXIST", f"The parent folder ({parent}) does not exist."
                )
            if path in self.files and given.get("overwrite") != "true":
                return error(400, "RESOURCE_ALREADY_EXISTS", f"Path ({path}) already exists.")
            self.files[path] = given["content"]
        elif path not in self.files:
            return error(404, "RESOURCE_DOES_NOT_EXIST", f"Path ({path}) doesn't exist.")
        elif what == "export":
            return 200, self.files[path]
        elif what == "delete":
            del self.files[path]
        return 200, {}

    # Unity Catalog

    def _volume(self, call: Call) -> Answer:
        name = call.path.rpartition("/")[2]
        if name not in self.volumes:
            return error(404, "VOLUME_DOES_NOT_EXIST", f"Volume '{name}' does not exist.")
        return 200, {"full_name": name, "name": name.rpartition(".")[2], "volume_type": "MANAGED"}

    def _rights(self, call: Call) -> Answer:
        kind, name = call.path.split("/")[-2:]
        if kind not in {"system": ("CATALOG",), "system.ai": ("SCHEMA",)}.get(name, (self.model,)):
            return error(404, "RESOURCE_DOES_NOT_EXIST", f"{kind} '{name}' does not exist.")
        if call.method == "PATCH" and not self.admin:
            return error(403, "PERMISSION_DENIED", f"User does not have MANAGE on {kind} '{name}'.")
        held = self.grants.setdefault((kind, name), {})
        for change in call.json.get("changes", []):
            held.setdefault(change["principal"], set()).update(change["add"])
        asked = {
            who: rights for who, rights in held.items() if call.query.get("principal", who) == who
        }
        if "/effective-permissions/" in call.path:
            found = [
                {"principal": who, "privileges": [{"privilege": right} for right in sorted(r)]}
                for who, r in asked.items()
            ]
        else:
            found = [
                {"principal": who, "privileges": sorted(rights)} for who, rights in asked.items()
            ]
        return 200, {"privilege_assignments": found}


def _below(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


def _form(call: Call) -> dict[str, Any]:
    """A multipart form's fields: text, but for `content`."""
    head = f"Content-Type: {call.headers['content-type']}\r\n\r\n".encode()
    parts: Any = email.parser.BytesParser().parsebytes(head + call.body).get_payload()
    fields: dict[str, Any] = {}
    for part in parts:
        name, data = (
            str(part.get_param("name", header="content-disposition")),
            part.get_payload(decode=True),
        )
        fields[name] = data if name == "content" else data.decode()
    return fields


# --- The app itself -------------------------------------------------------------------------------------------------------


class Runner:
    """Starts uploaded files as Databricks does, and is the proxy in front of them; a context manager.

    Arguments:
        env: the workspace around the app, with its service principal's credentials.
        hermes: a home with Hermes in it, so that it is not installed again.
        visitor: who the browser says it is; may change while it runs.
    """

    def __init__(self, env: dict[str, str], hermes: Path, visitor: str = ME) -> None:
        self.env, self.hermes, self.visitor = env, hermes, visitor
        self.done, self.fails = True, ""
        self.host, self.app_port = "", 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Runner:
        self._folder = Path(tempfile.mkdtemp(prefix="standin-app-"))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("*.7.azure.databricksapps.com").configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind:
            print(self.log)
        self._listener.close()
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def log(self) -> str:
        """What its installation and the app itself printed."""
        path = self._folder / "log"
        return path.read_text() if path.exists() else ""

    def start(self, app: dict[str, Any], files: dict[str, bytes]) -> None:
        """Stop what runs, and start these files; `done` when they answer, or when `fails` says why not."""
        self._stop()
        self.done, self.fails, self.host = False, "", app["url"].removeprefix("https://")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.app_port = free.getsockname()[1]
        threading.Thread(target=self._run, args=(app["name"], files), daemon=True).start()

    def _run(self, name: str, files: dict[str, bytes]) -> None:
        try:
            self._start(name, files)
        except Exception as failure:  # to be told by the deployment
            self.fails = f"{type(failure).__name__}: {failure}"
        finally:
            self.done = True

    def _start(self, name: str, files: dict[str, bytes]) -> None:
        home, python = self._folder / "source_code", self._folder / "python"
        shutil.rmtree(home, ignore_errors=True)
        for file, content in files.items():
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            (home / file).write_bytes(content)
        (home / ".local").mkdir()
        for folder in (self.hermes / ".local").iterdir():
            (home / ".local" / folder.name).symlink_to(folder)
        uv = [sys.executable, "-m", "uv"]
        install = [*uv, "pip", "install", "--python", str(python / "bin" / "python")]
        with (self._folder / "log").open("w") as log:
            subprocess.run(
                [*uv, "venv", "--clear", "--python", sys.executable, str(python)],
                check=True,
                stdout=log,
                stderr=log,
            )
            subprocess.run(
                [*install, "-r", "requirements.txt", "-c", "constraints.txt"],
                cwd=home,
                check=True,
                stdout=log,
                stderr=log,
            )
        config = yaml.safe_load((home / "app.yaml").read_text())
        # The one thing that differs: /app is not ours to write here.
        given = {
            e["name"]: e["value"].replace("/app/python/source_code", str(home))
            for e in config["env"]
        }
        path = f"{python / 'bin'}{os.pathsep}{self.env['PATH']}"
        theirs = {
            "DATABRICKS_APP_NAME": name,
            "DATABRICKS_APP_PORT": str(self.app_port),
            "PATH": path,
        }
        env = (
            {k: v for k, v in self.env.items() if not k.startswith(("PYTEST_", "NICEGUI_"))}
            | theirs
            | given
        )
        program = shutil.which(config["command"][0], path=path)
        assert program
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [program, *config["command"][1:]],
                cwd=home,
                env=env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"app crashed: {self.log[-200:]}")
            with (
                suppress(OSError),
                closing(HTTPConnection("127.0.0.1", self.app_port, timeout=5)) as connection,
            ):
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)

    def _stop(self) -> None:
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(15)
            finally:
                self._process.kill()
            self._process = None

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        """One connection: a request, whose head is written anew, then bytes both ways until one side ends."""
        with suppress(OSError), self._context.wrap_socket(near, server_side=True) as browser:
            data = b""
            while b"\r\n\r\n" not in data:
                if not (more := browser.recv(65536)):
                    return
                data += more
            head, _, rest = data.partition(b"\r\n\r\n")
            with socket.create_connection(("127.0.0.1", self.app_port)) as app:
                app.sendall(self._head(head.decode("latin-1")).encode("latin-1") + rest)
                _relay(browser, app)

    def _head(self, head: str) -> str:
        first, *lines = head.split("\r\n")
        kept = [line for line in lines if not line.lower().startswith("x-forwarded-")]
        if not any(line.lower().startswith("upgrade:") for line in lines):
            # One request a connection, as its head is all that is looked at.
            kept = [line for line in kept if not line.lower().startswith("connection:")] + [
                "Connection: close"
            ]
        name = self.visitor.partition("@")[0]
        said = {
            "Email": self.visitor,
            "User": f"1@{WORKSPACE_ID}",
            "Preferred-Username": name,
            "Host": self.host,
        }
        kept += [f"X-Forwarded-{key}: {value}" for key, value in said.items()]
        return "\r\n".join([first, *kept, f"X-Request-Id: {secrets.token_hex(16)}", "", ""])


def _relay(browser: ssl.SSLSocket, app: socket.socket) -> None:
    """Bytes both ways until one side ends; in one thread, as a TLS connection is not for two."""
    while True:
        ready = [browser] if browser.pending() else select.select([browser, app], [], [])[0]
        for source in ready:
            source.setblocking(False)
            try:
                data = source.recv(65536)
            except ssl.SSLWantReadError:  # a part of a record
                continue
            finally:
                source.setblocking(True)
            if not data:
                return
            (app if source is browser else browser).sendall(data)
