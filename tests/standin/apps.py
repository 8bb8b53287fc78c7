"""The stand-in's Databricks Apps: the Apps API, workspace files, volumes and Unity Catalog grants.

    apps = Apps()
    with StandIn(rooms=apps.rooms) as workspace: ...

It answers as databricks-sdk asks. With a `Runner`, a deployment starts the uploaded files as the
app, behind a front with the app's own name.
"""

from __future__ import annotations

import email.parser
import itertools
import re
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from tests.standin.runner import ME, Runner
from tests.standin.wire import Answer, Call, Room
from tests.standin.workspace import WORKSPACE_ID
from tests.standin.worlds import is_service

PRINCIPAL = "0a1b2c3d-0000-4000-8000-000000000001"
NAME = re.compile("[a-z0-9-]{2,30}")
# What an app may be given. Source: databricks.sdk.service.apps.AppUpdate
SET = (
    "description",
    "resources",
    "budget_policy_id",
    "compute_size",
    "compute_min_instances",
    "compute_max_instances",
    "user_api_scopes",
)


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
        admin: whether `me` may give others what `system` holds, and serving endpoints.
        endpoints: the serving endpoints that can be given to an app.
        services: the model services that can be given to an app, by full name.
        knows_services: whether this workspace's Apps API knows resources of type MODEL_SERVICE.
        knows_instances: whether it knows the number of instances.
        volumes: the volumes of Unity Catalog, by full name.
        fails: what a deployment fails with; "" where it succeeds.
        crashes: what the app itself says as it ends after its deployment; "" where it runs.
        fault: sees each call first; an answer of its own is the answer, a ConnectionError cuts it.
        runner: starts what was deployed.
    """

    me: str = ME
    takes: int = 2
    may_create: bool = True
    limit: int = 100
    admin: bool = True
    endpoints: set[str] = field(default_factory=lambda: {"databricks-claude-opus-4-6"})
    services: set[str] = field(default_factory=set)
    knows_services: bool = True
    knows_instances: bool = True
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
        self._updates: dict[str, int] = {}
        self.updated = ("SUCCEEDED", "App was updated.")
        self._time = itertools.count()
        self._lock = threading.RLock()

    @classmethod
    def of(cls, serves: Mapping[str, Collection[str]], **more: Any) -> Apps:
        """With the endpoints and the model services of a workspace's routes."""
        models = {model for served in serves.values() for model in served}
        endpoints = set(serves.get("serving-endpoints", ()))
        return cls(endpoints=endpoints, services=set(filter(is_service, models)), **more)

    def executable(self) -> set[str]:
        """The model services that an app may execute, as `StandIn.rights` wants them."""
        granted = {
            name
            for (kind, name), held in self.grants.items()
            if kind == "MODEL_SERVICE" and "EXECUTE" in held.get(PRINCIPAL, ())
        }
        whole = "EXECUTE" in self.grants.get(("SCHEMA", "system.ai"), {}).get(PRINCIPAL, ())
        return self.services if whole else granted

    @property
    def rooms(self) -> dict[str, Room]:
        """By the beginning of the path, as `StandIn` takes them."""
        mine: dict[str, Room] = {
            "/api/2.0/preview/scim/v2/Me": self._person,
            "/api/2.0/apps": self._app,
            "/api/2.0/workspace/": self._file,
            "/api/2.1/unity-catalog/volumes/": self._volume,
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
        if rest == "update" and call.method == "GET":
            return self._look_at_update(name)
        if call.method == "GET":
            self._look(app)
        elif call.method == "DELETE":
            app["compute_status"] = {"state": "DELETING", "message": "App is being deleted."}
        elif rest == "update":
            return self._update(call.json, app)
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

    def _update(self, asked: dict[str, Any], app: dict[str, Any]) -> Answer:
        """Take an update: the fields of its mask, each whole. It takes some looks."""
        fields = asked.get("update_mask", "").split(",")
        given = asked.get("app", {})
        if not set(fields) <= set(SET):
            return error(400, "INVALID_PARAMETER_VALUE", f"Invalid update mask: {fields}.")
        if refused := self._refusal(given if "resources" in fields else {}):
            return refused
        if not self.knows_instances and any("instances" in name for name in fields):
            return error(400, "INVALID_PARAMETER_VALUE", "Several instances are not available.")
        if self.updated[0] == "SUCCEEDED":
            self._revoke(app)
            for name in fields:
                app.pop(name, None)
            app |= {name: given[name] for name in fields if name in given}
            self._grant(app)
        self._updates[app["name"]] = self.takes
        return 200, {"status": {"state": "IN_PROGRESS", "message": "Updating the app."}}

    def _look_at_update(self, name: str) -> Answer:
        left = self._updates.get(name, 0)
        self._updates[name] = max(0, left - 1)
        state = ("IN_PROGRESS", "Updating the app.") if left else self.updated
        return 200, {"status": dict(zip(("state", "message"), state, strict=True))}

    def _revoke(self, app: dict[str, Any]) -> None:
        """Take from an app what its resources gave: Databricks may, so what is to stay is given."""
        for resource in app.get("resources", []):
            one = resource.get("uc_securable", {})
            key = (one.get("securable_type", ""), one.get("securable_full_name", ""))
            self.grants.get(key, {}).pop(PRINCIPAL, None)

    def _grant(self, app: dict[str, Any]) -> None:
        """Give an app what its resources say, and what is needed above them."""
        for resource in app.get("resources", []):
            one = resource.get("uc_securable", {})
            if one.get("securable_type") != "MODEL_SERVICE":
                continue
            catalog, schema, _ = one["securable_full_name"].split(".")
            for kind, name, right in (
                ("CATALOG", catalog, "USE_CATALOG"),
                ("SCHEMA", f"{catalog}.{schema}", "USE_SCHEMA"),
                ("MODEL_SERVICE", one["securable_full_name"], one["permission"]),
            ):
                self.grants.setdefault((kind, name), {}).setdefault(PRINCIPAL, set()).add(right)

    def _refusal(self, given: dict[str, Any]) -> Answer | None:
        answers = (self._refuse_resource(one) for one in given.get("resources", []))
        return next((answer for answer in answers if answer), None)

    def _refuse_resource(self, one: dict[str, Any]) -> Answer | None:
        endpoint = one.get("serving_endpoint", {}).get("name")
        securable = one.get("uc_securable", {})
        service, kind = securable.get("securable_full_name"), securable.get("securable_type")
        if not 2 <= len(one["name"]) <= 30:
            return error(400, "INVALID_PARAMETER_VALUE", f"Invalid resource name: {one['name']}.")
        if endpoint and not self.admin:
            message = f"You need CAN_MANAGE on serving endpoint {endpoint}."
            return error(403, "PERMISSION_DENIED", message)
        if endpoint and endpoint not in self.endpoints:
            message = f"Serving endpoint {endpoint} does not exist."
            return error(404, "RESOURCE_DOES_NOT_EXIST", message)
        return self._refuse_service(service) if kind == "MODEL_SERVICE" else None

    def _refuse_service(self, service: str) -> Answer | None:
        if not self.knows_services:
            return error(400, "INVALID_PARAMETER_VALUE", "Unknown securable type: MODEL_SERVICE.")
        if service not in self.services:
            return error(404, "RESOURCE_DOES_NOT_EXIST", f"'{service}' does not exist")
        if not self.admin:
            message = f"User does not have MANAGE on model service '{service}'."
            return error(403, "PERMISSION_DENIED", message)
        return None

    def _deployment(self, call: Call, app: dict[str, Any], which: str) -> Answer:
        made = self.deployments[app["name"]]
        if call.method != "GET":
            return self._deploy(app, call.json["source_code_path"])
        if not which:
            return 200, {"app_deployments": made[::-1]}
        found = next((one for one in made if one["deployment_id"] == which), None)
        if found is None:
            return error(404, "RESOURCE_DOES_NOT_EXIST", f"Deployment {which} does not exist.")
        self._look(app)
        return 200, found

    def _deploy(self, app: dict[str, Any], path: str) -> Answer:
        if app["compute_status"]["state"] != "ACTIVE":
            message = f"Cannot deploy app {app['name']} as its compute is not active."
            return error(400, "BAD_REQUEST", message)
        if "pending_deployment" in app:
            return error(409, "ABORTED", "Cannot deploy while another deployment is in progress.")
        source = path.removeprefix("/Workspace")
        taken = {
            str(PurePosixPath(name).relative_to(source)): data
            for name, data in self.files.items()
            if name.startswith(f"{source}/")
        }
        if "app.yaml" not in taken:
            return error(400, "INVALID_PARAMETER_VALUE", f"Source code path {source} holds no app.")
        self.deployed = taken
        new = {
            "deployment_id": secrets.token_hex(16),
            "create_time": self._now(),
            "creator": self.me,
            "mode": "SNAPSHOT",
            "source_code_path": path,
            "status": {"state": "IN_PROGRESS", "message": "Preparing source code."},
        }
        self.deployments[app["name"]].append(new)
        app["pending_deployment"] = new
        if self.runner:
            self.runner.start(app, taken)
        return 200, new

    def _look(self, app: dict[str, Any]) -> None:
        """Time goes by with each look: after `takes` of them, what is under way is done."""
        name, state = app["name"], app["compute_status"]["state"]
        busy = "pending_deployment" in app or state in ("STARTING", "STOPPING", "DELETING")
        self._looks[name] = self._looks.get(name, 0) + 1 if busy else 0
        if self._looks[name] <= self.takes or (self.runner and not self.runner.done):
            return
        self._looks[name] = 0
        if state == "DELETING":
            del self.apps[name]
        elif state == "STOPPING":
            app["compute_status"] = {"state": "STOPPED", "message": "App compute is stopped."}
        elif state == "STARTING":
            app["compute_status"] = {"state": "ACTIVE", "message": "App compute is running."}
            if "active_deployment" in app:
                app["app_status"] = {"state": "RUNNING", "message": "App is running."}
        else:
            self._end_deployment(app)

    def _end_deployment(self, app: dict[str, Any]) -> None:
        new = app.pop("pending_deployment")
        fails = self.fails or (self.runner.fails if self.runner else "")
        if fails:
            new["status"] = {"state": "FAILED", "message": fails}
            return
        new["status"] = {"state": "SUCCEEDED", "message": "App started successfully"}
        app["app_status"] = {"state": "RUNNING", "message": "App is running."}
        if self.crashes:
            app["app_status"] = {"state": "CRASHED", "message": self.crashes}
        app["active_deployment"] = new
        app["default_source_code_path"] = new["source_code_path"]

    def _now(self) -> str:
        """A second later than the last event."""
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
        short = name.rpartition(".")[2]
        return 200, {"full_name": name, "name": short, "volume_type": "MANAGED", "owner": self.me}

    def _rights(self, call: Call) -> Answer:
        """What a principal may do with something, rights from above it included."""
        kind, name = call.path.split("/")[-2:]
        there = {"system": "CATALOG", "system.ai": "SCHEMA"} | dict.fromkeys(
            self.services, "MODEL_SERVICE"
        )
        there |= dict.fromkeys(self.volumes, "volume")
        if there.get(name) != kind:
            return error(404, "RESOURCE_DOES_NOT_EXIST", f"{kind} '{name}' does not exist.")
        above = [(kind, name), *(("SCHEMA", "system.ai"),) * (kind == "MODEL_SERVICE")]
        asked = (
            [call.query["principal"]] if "principal" in call.query else self.grants.get(above[0])
        )
        found = []
        for who in asked or []:
            held = set().union(*(self.grants.get(one, {}).get(who, set()) for one in above))
            privileges = [{"privilege": right} for right in sorted(held)]
            found.append({"principal": who, "privileges": privileges})
        return 200, {"privilege_assignments": found}


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
