"""A Databricks workspace and its AI Gateway on loopback, under their real hostnames.

    python -m tests.standin [options] -- COMMAND

runs COMMAND with an environment in which a Databricks workspace is there: `HTTPS_PROXY` is a
CONNECT proxy that is itself the far end of every tunnel, with a certificate from a throw-away CA
that the environment trusts. So real clients talk to real Databricks hostnames over real TLS. Any
other host is refused: nothing that honours a proxy leaves the machine.

In Python it is a context manager, and its fields may change while it runs:

    with StandIn(cloud="azure") as workspace:
        subprocess.run([...], env=workspace.env)
        workspace.rotate()
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme

from hermes.rules import RULES, Rule
from tests.standin import worlds
from tests.standin.models import Body, PromptCache, completion, messages_of
from tests.standin.refusals import is_off, refusal
from tests.standin.wire import Answer, Call, Handler, Page, Request, Room, Server
from tests.standin.worlds import (
    GATEWAY_ROUTES,
    WORKSPACE_ROUTES,
    default_serves,
)

WORKSPACE_ID = "1234567890123456"
HOSTS = {  # cloud: workspace host, gateway host
    "azure": (
        f"adb-{WORKSPACE_ID}.7.azuredatabricks.net",
        f"{WORKSPACE_ID}.0.ai-gateway.azuredatabricks.net",
    ),
    "aws": (
        "dbc-a1b2c3d4-e5f6.cloud.databricks.com",
        f"{WORKSPACE_ID}.ai-gateway.cloud.databricks.com",
    ),
    "gcp": (
        f"{WORKSPACE_ID}.3.gcp.databricks.com",
        f"{WORKSPACE_ID}.ai-gateway.gcp.databricks.com",
    ),
}
GATEWAY_FAULTS = ("ok", "refused", "black-holed", "bad-certificate")
OPUS_4_7, OPUS_4_6, SONNET = (
    "databricks-claude-opus-4-7",
    "databricks-claude-opus-4-6",
    "databricks-claude-sonnet-4-5",
)
NEW_OPUS_4_7, NEW_OPUS_4_6 = "system.ai.claude-opus-4-7", "system.ai.claude-opus-4-6"
GPT, LLAMA = "databricks-gpt-5", "databricks-meta-llama-3-3-70b-instruct"

NO_TOKEN = {"error_code": "401", "message": "Credential was not sent."}
LOGIN_PAGE = b"<!doctype html><title>Databricks - Sign In</title>"


@dataclass
class StandIn:
    """A workspace on loopback; use it as a context manager.

    Arguments:
        cloud: "azure", "aws" (no workspace id in the host) or "gcp".
        world: one of `WORLDS`; see `worlds.py`.
        faults: the refusals of `worlds.FAULTS` that hold in this workspace.
        serves: models by route; where it is empty, `default_serves` of this world.
        no_entitlement: models to which this workspace is not entitled, by either name.
        provisioned: provisioned-throughput endpoints, which an enforced workspace refuses.
        tier: the most output tokens that are admitted in one request; None for any number.
        page_size: the most model services on one page of their list; above it is HTTP 499.
        busy_lists: how many more questions for that list are answered HTTP 504.
        gateway: one of GATEWAY_FAULTS, for the gateway's own host.
        feature_disabled: every AI Gateway route answers FEATURE_DISABLED.
        reject_token: every token is refused with the 403 of a stale one.
        latency: seconds before each answer, tunnels included.
        lenient: rules of `refusals.NAMES` that are off: "name", or "name@route" for one route.
        caps: the most `max_tokens` that a model's endpoint takes.
        rules: the refusals of a request, by name.
        tool_call: each question is answered with one tool call first.
        tool_calls: with so many, each without a word; `at_once` asks for all in one answer.
        command: what they run; "{}" becomes the call's number.
        oauth: life in seconds of the service principal's tokens, which alone are taken then; None:
            a static token is taken too.
        rights: the model services that the service principal may execute; None for all.
        rooms: what else the API has, by the beginning of its paths; the longest that fits answers.
    """

    cloud: str = "azure"
    world: str = "classic"
    faults: set[str] = field(default_factory=set)
    serves: dict[str, set[str]] = field(default_factory=dict)
    no_entitlement: set[str] = field(default_factory=set)
    provisioned: set[str] = field(default_factory=set)
    tier: int | None = None
    page_size: int = 100
    busy_lists: int = 0
    gateway: str = "ok"
    feature_disabled: bool = False
    reject_token: bool = False
    latency: float = 0.0
    lenient: set[str] = field(default_factory=set)
    caps: dict[str, int] = field(default_factory=dict)
    rules: Mapping[str, Rule] = field(default_factory=lambda: RULES)
    tool_call: bool = False
    tool_calls: int = 0
    at_once: bool = False
    command: str = "echo the tool ran {}"
    oauth: float | None = None
    rights: Callable[[], set[str]] | None = None
    creator: str = "owner@example.com"
    on_tool_call: Callable[[], object] = lambda: None
    rooms: dict[str, Room] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workspace_host, self.gateway_host = HOSTS[self.cloud]
        self.serves = self.serves or default_serves(self.world)
        self.token = ""
        self._client = ("stand-in-client", secrets.token_hex(16))
        self._expiring: dict[str, float] = {}
        self.cache = PromptCache()

    def __enter__(self) -> StandIn:
        authority, stranger = trustme.CA(), trustme.CA()
        self.context, self.bad_context = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))
        for issuer, context in ((authority, self.context), (stranger, self.bad_context)):
            issuer.issue_cert(self.workspace_host, self.gateway_host).configure_cert(context)
        self._folder = tempfile.TemporaryDirectory(prefix="standin-")
        self._bundle = Path(self._folder.name) / "ca.pem"
        authority.cert_pem.write_to_path(str(self._bundle))
        self.stopping = threading.Event()
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.standin = self
        self.rotate()
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._folder.cleanup()

    @property
    def env(self) -> dict[str, str]:
        """A whole environment for a child: the caller's, without its Databricks settings."""
        if self.oauth is not None:
            return self.app_env
        return self._environment() | {"DATABRICKS_TOKEN": self.token}

    @property
    def app_env(self) -> dict[str, str]:
        """The same for an app: with its service principal's credentials instead of a token."""
        client, secret = self._client
        given = {"DATABRICKS_CLIENT_ID": client, "DATABRICKS_CLIENT_SECRET": secret}
        return self._environment() | given

    def _environment(self) -> dict[str, str]:
        theirs = re.compile(
            r"(databricks_(?!app_port$)|_gateway_resolved|arm_|azure_).*|.*_proxy|columns|lines",
            re.IGNORECASE,
        )
        env = {name: value for name, value in os.environ.items() if not theirs.fullmatch(name)}
        proxy = f"http://127.0.0.1:{self._server.server_port}"
        for name in ("HTTPS_PROXY", "HTTP_PROXY"):
            env[name] = env[name.lower()] = proxy
        env["NO_PROXY"] = env["no_proxy"] = "127.0.0.1,localhost"
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            env[name] = str(self._bundle)
        env.pop("SSL_CERT_DIR", None)
        env["DATABRICKS_HOST"] = f"https://{self.workspace_host}"
        if self.cloud == "aws":
            env["DATABRICKS_WORKSPACE_ID"] = WORKSPACE_ID
        return env

    def rotate(self) -> str:
        """Revoke the static token.

        Returns:
            The one that is valid from now on.
        """
        self.token = "dapi" + secrets.token_hex(16)
        return self.token

    def chats(self) -> list[Request]:
        """The chat completions asked for so far, oldest first."""
        return [r for r in list(self.requests) if r.path.endswith("/chat/completions")]

    def answer(self, call: Call) -> Answer:
        """Decide one request; what ends before HTTP is in `wire.Handler.do_CONNECT`.

        Arguments:
            call: the request; its host is one of this stand-in's two.

        Returns:
            The HTTP status and the body to send: a JSON object, or bytes as they are.
        """
        steps = (self._public, self._login_page, self._off, self._about_the_token)
        for step in steps:
            if answer := step(call):
                return answer
        return self._behind(call)

    def _public(self, call: Call) -> Answer | None:
        """What needs no token."""
        if call.path == "/.well-known/databricks-config":
            oidc = f"https://{self.workspace_host}/oidc"
            cloud = self.cloud.upper()
            return 200, {"workspace_id": WORKSPACE_ID, "cloud": cloud, "oidc_endpoint": oidc}
        if call.path.startswith("/oidc/"):
            return self._oidc(call.path, call.headers.get("authorization", ""))
        if call.path.startswith("/presigned/") and "/presigned/" in self.rooms:
            return self.rooms["/presigned/"](call)  # the URL is the permission
        return None

    def _login_page(self, call: Call) -> Answer | None:
        """What a host that serves several workspaces answers to a request that names none."""
        names = ("x-databricks-workspace-id", "x-databricks-org-id")
        named = WORKSPACE_ID in (call.query.get("o"), *map(call.headers.get, names))
        if call.host == self.gateway_host or named:
            return None
        if "several-workspaces" in self.faults:
            return 303, Page(b"")
        return (200, Page(LOGIN_PAGE)) if "login-page" in self.faults else None

    def _off(self, call: Call) -> Answer | None:
        off = self.feature_disabled and self._is_gateway(call)
        return RULES["disabled"].answer() if off else None

    def _about_the_token(self, call: Call) -> Answer | None:
        authorization = call.headers.get("authorization", "")
        if not authorization:
            return 401, NO_TOKEN
        if "foreign-token" in self.faults:
            return RULES["foreign-token"].answer()
        if not self._accepts(authorization.removeprefix("Bearer ")):
            return RULES["stale-token"].answer()
        lists = call.path.startswith("/api/2.1/unity-catalog/")
        if lists and self.faults & {"no-listing", "narrow-scope"}:
            return RULES["no-listing"].answer()
        unity = call.host == self.workspace_host and self._is_gateway(call)
        narrow = "narrow-scope" in self.faults and not unity
        return RULES["narrow-scope"].answer() if narrow else None

    def _is_gateway(self, call: Call) -> bool:
        return call.host == self.gateway_host or call.path.startswith("/ai-gateway/")

    def _behind(self, call: Call) -> Answer:
        """What is answered to a token that is good."""
        on_gateway = call.host == self.gateway_host
        fitting = [beginning for beginning in self.rooms if call.path.startswith(beginning)]
        if fitting and not on_gateway:
            return self.rooms[max(fitting, key=len)](call)
        if call.method == "GET" and not on_gateway:
            return self._api(call)
        return self._chat(call, GATEWAY_ROUTES if on_gateway else WORKSPACE_ROUTES)

    def _chat(self, call: Call, routes: tuple[str, ...]) -> Answer:
        route = call.path.removesuffix("/chat/completions").lstrip("/")
        chat = call.method == "POST" and call.path.endswith("/chat/completions")
        if not chat or route not in routes:
            message = f"No API found for '{call.method} {call.path}'."
            return 404, {"error_code": "NOT_FOUND", "message": message}
        return self._refuse(call, route) or (200, self._complete(call, route))

    def _refuse(self, call: Call, route: str) -> Answer | None:
        """Why a chat completion is not answered; None where nothing is wrong with it."""
        model = str(call.json.get("model"))
        if model not in self.serves.get(route, set()):
            why = worlds.not_served(self.world, self.faults, self.provisioned, route, model)
            unsaid = why[0] == 404 and is_off("missing-model", route, self.lenient)
            return RULES["missing-endpoint"].answer() if unsaid else why
        if not self._may_execute(call, model):
            return RULES["missing-model"].answer(model=model)
        if worlds.bare(model) in map(worlds.bare, self.no_entitlement):
            return RULES["no-entitlement"].answer()
        if self.tier is not None and _asked(call.json) > self.tier:
            return RULES["busy"].answer(model=model)
        surface = worlds.surface(route)
        return refusal(call.json, route, surface, self.lenient, self.caps, self.rules)

    def _may_execute(self, call: Call, model: str) -> bool:
        theirs = call.headers["authorization"].removeprefix("Bearer ") in self._expiring
        limited = theirs and self.rights is not None and worlds.is_service(model)
        return not limited or model in (self.rights or set)()

    def _complete(self, call: Call, route: str) -> dict[str, Any]:
        body, base_url = call.json, f"https://{call.host}/{route}"
        counted = self.cache.count(body)
        if "no-caching" in self.faults:
            counted = (sum(counted), 0, 0)
        answer = completion(base_url, body, counted, self._calls(body))
        for fault, reason in (("guardrail", "content_filter"), ("no-finish-reason", None)):
            if fault in self.faults:
                answer["choices"][0]["finish_reason"] = reason
        return answer

    def _accepts(self, token: str) -> bool:
        live = self.token if self.oauth is None else ""
        return not self.reject_token and (
            token == live or self._expiring.get(token, 0.0) > time.monotonic()
        )

    def _oidc(self, path: str, authorization: str) -> Answer:
        base = f"https://{self.workspace_host}/oidc"
        if path != "/oidc/v1/token":
            return 200, {
                "authorization_endpoint": f"{base}/v1/authorize",
                "token_endpoint": f"{base}/v1/token",
            }
        given = base64.b64decode(authorization.removeprefix("Basic ") or b"").decode()
        if given != ":".join(self._client):
            return 401, {
                "error": "invalid_client",
                "error_description": "Client authentication failed",
            }
        token = secrets.token_hex(16)
        life = 3600.0 if self.oauth is None else self.oauth
        self._expiring[token] = time.monotonic() + life
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": life}

    def _api(self, call: Call) -> Answer:
        if call.path == "/api/2.0/serving-endpoints":
            ready = {"ready": "READY", "config_update": "NOT_UPDATING"}
            names = sorted(self.serves.get("serving-endpoints", set()))
            return 200, {
                "endpoints": [{"name": n, "state": ready, "task": "llm/v1/chat"} for n in names]
            }
        if call.path == "/api/2.0/serving-endpoints:foundation-models":
            return 200, {"endpoints": worlds.foundation_models(self.world)}
        if call.path == "/api/2.1/unity-catalog/model-services" and self.world != "classic":
            return self._model_services(call.query)
        if call.path.startswith("/api/2.0/apps/"):
            return 200, {"name": call.path.rpartition("/")[2], "creator": self.creator}
        message = f"No API found for 'GET {call.path}'."
        return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": message}

    def _model_services(self, query: dict[str, str]) -> Answer:
        if self.busy_lists > 0:
            self.busy_lists -= 1
            return RULES["list-timeout"].answer()
        schema = query.get("parent", "").removeprefix("schemas/")
        found = worlds.services(self.serves, schema)
        there = bool(found) or schema == "system.ai"
        if not there or (schema == "system.ai" and "no-system-ai" in self.faults):
            return RULES["no-schema"].answer(schema=schema)
        return worlds.page_of_services(found, query, self.page_size, "empty-page" in self.faults)

    def _calls(self, body: Body) -> list[str]:
        """The shell commands to ask for now: those of this question that are not answered yet."""
        roles = [m.get("role") for m in messages_of(body)]
        tools = [tool.get("function", {}).get("name") for tool in body.get("tools") or []]
        if "terminal" not in tools or "user" not in roles:
            return []
        since = len(roles) - roles[::-1].index("user")
        done, wanted = roles[since:].count("tool"), self.tool_calls or int(self.tool_call)
        if done >= wanted:
            return []
        self.on_tool_call()
        last = wanted if self.at_once else done + 1
        return [self.command.replace("{}", str(number)) for number in range(done + 1, last + 1)]


def _asked(body: dict[str, Any]) -> int:
    """The most output tokens that a request asks for."""
    return body.get("max_tokens") or body.get("max_completion_tokens") or 0
