"""A Databricks workspace and its AI Gateway on loopback, under their real hostnames.

    python -m tests.standin [options] -- COMMAND

runs COMMAND with an environment in which a Databricks workspace is there: `HTTPS_PROXY` is a CONNECT proxy that is itself
the far end of every tunnel, with a certificate from a throw-away CA that the environment trusts. So real clients talk to
real Databricks hostnames over real TLS. Any other host is refused: nothing that honours a proxy leaves the machine.

In Python it is a context manager, and its fields may change while it runs:

    with StandIn(cloud="azure") as workspace:
        subprocess.run([...], env=workspace.env)
        workspace.rotate()
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import secrets
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, quote

import trustme

import tests.standin.worlds as worlds
from tests.standin.models import PromptCache, completion, events
from tests.standin.refusals import NAMES, is_off, refusal
from tests.standin.rules import RULES
from tests.standin.worlds import (
    FAULTS,
    GATEWAY_ROUTES,
    WORKSPACE_ROUTES,
    WORLDS,
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

Answer = tuple[int, dict[str, Any] | bytes]


class Page(bytes):
    """A page of HTML."""


class Cut(bytes):
    """A body that ends in the middle: as much again is promised, and the connection ends."""


@dataclass
class Call:
    """One request as it came through the tunnel, its token good already. Header names are in lower case."""

    method: str
    host: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object; {} where it is none."""
        try:
            body = json.loads(self.body or b"{}")
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}


Room = Callable[
    [Call], Answer
]  # may raise ConnectionError: then the connection ends without an answer


@dataclass
class Request:
    """One request that reached the stand-in, tunnels included (method CONNECT, no path).

    `input`, `read` and `write` are its prompt's tokens: at the plain price, read from the cache, written to it.
    """

    method: str
    host: str
    path: str
    status: int
    token: str = ""
    model: str = ""
    input: int = 0
    read: int = 0
    write: int = 0


@dataclass
class StandIn:
    """A workspace on loopback; use it as a context manager.

    Arguments:
        cloud: "azure", "aws" (no workspace id in the host) or "gcp".
        world: one of `WORLDS`; see `worlds.py`.
        faults: the refusals of `worlds.FAULTS` that hold here.
        serves: models by route; where it is empty, `default_serves` of this world.
        no_entitlement: models to which this workspace is not entitled, by either name.
        provisioned: provisioned-throughput endpoints, which an enforced workspace refuses on direct serving.
        tier: output tokens that a request may ask for before it is refused as one too many; None for any number.
        page_size: the most model services on one page of the list; a larger page, or none, is HTTP 499.
        busy_lists: how many more questions for a list of model services are answered HTTP 504.
        gateway: one of GATEWAY_FAULTS, for the gateway's own host.
        feature_disabled: every AI Gateway route answers FEATURE_DISABLED.
        reject_token: every token is refused with the 403 of a stale one.
        latency: seconds before each answer, tunnels included.
        lenient: the rules of `refusals.NAMES` that are off, on every route ("name") or on one ("name@route").
        caps: the most `max_tokens` that a model's endpoint takes.
        tool_call: each question is answered with one tool call first.
        tool_calls: with so many, each without a word; `at_once` asks for all in one answer.
        command: what they run; "{}" becomes the call's number.
        oauth: life in seconds of the tokens handed to a service principal; None for a static token.
        rooms: what else the workspace's API has, by the beginning of its paths; the longest that fits answers.
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
    tool_call: bool = False
    tool_calls: int = 0
    at_once: bool = False
    command: str = "echo the tool ran {}"
    oauth: float | None = None
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
        self._context, self._bad_context = (
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2)
        )
        for issuer, context in ((authority, self._context), (stranger, self._bad_context)):
            issuer.issue_cert(self.workspace_host, self.gateway_host).configure_cert(context)
        self._folder = tempfile.TemporaryDirectory(prefix="standin-")
        self._bundle = Path(self._folder.name) / "ca.pem"
        authority.cert_pem.write_to_path(str(self._bundle))
        self._stopping = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.standin = self
        self.rotate()
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._folder.cleanup()

    @property
    def env(self) -> dict[str, str]:
        """A whole environment for a child process: the caller's, without its proxy, Databricks settings and window size."""
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
        if self.oauth is None:
            env["DATABRICKS_TOKEN"] = self.token
        else:
            env["DATABRICKS_CLIENT_ID"], env["DATABRICKS_CLIENT_SECRET"] = self._client
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
        """Decide one request; what ends before HTTP is in `_Handler.do_CONNECT`.

        Arguments:
            call: the request; its host is one of this stand-in's two.

        Returns:
            The HTTP status and the body to send: a JSON object, or bytes as they are.
        """
        return self._before_the_token(call) or self._about_the_token(call) or self._behind(call)

    def _before_the_token(self, call: Call) -> Answer | None:
        if call.path == "/.well-known/databricks-config":
            oidc = f"https://{self.workspace_host}/oidc"
            return 200, {
                "workspace_id": WORKSPACE_ID,
                "cloud": self.cloud.upper(),
                "oidc_endpoint": oidc,
            }
        if call.path.startswith("/oidc/"):
            return self._oidc(call.path, call.headers.get("authorization", ""))
        given = WORKSPACE_ID in (
            call.headers.get("x-databricks-workspace-id"),
            call.headers.get("x-databricks-org-id"),
            call.query.get("o"),
        )
        if call.host == self.workspace_host and not given:
            if "several-workspaces" in self.faults:
                return 303, Page(b"")
            if "login-page" in self.faults:
                return 200, Page(LOGIN_PAGE)
        if self.feature_disabled and self._is_gateway(call):
            return RULES["disabled"].answer()
        if call.path.startswith("/presigned/") and "/presigned/" in self.rooms:
            return self.rooms["/presigned/"](call)  # the URL is the permission
        return None

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
        return (
            RULES["narrow-scope"].answer() if "narrow-scope" in self.faults and not unity else None
        )

    def _is_gateway(self, call: Call) -> bool:
        return call.host == self.gateway_host or call.path.startswith("/ai-gateway/")

    def _behind(self, call: Call) -> Answer:
        on_gateway = call.host == self.gateway_host
        fitting = [b for b in self.rooms if call.path.startswith(b) and not on_gateway]
        if fitting:
            return self.rooms[max(fitting, key=len)](call)
        if call.method == "GET" and not on_gateway:
            return self._api(call)
        route = call.path.removesuffix("/chat/completions").lstrip("/")
        known = GATEWAY_ROUTES if on_gateway else WORKSPACE_ROUTES
        chat = call.method == "POST" and call.path.endswith("/chat/completions")
        if not chat or route not in known:
            message = f"No API found for '{call.method} {call.path}'."
            return 404, {"error_code": "NOT_FOUND", "message": message}
        return self._chat(f"https://{call.host}/{route}", route, call.json)

    def _chat(self, base_url: str, route: str, body: dict[str, Any]) -> Answer:
        model = str(body.get("model"))
        if model not in self.serves.get(route, set()):
            why = worlds.not_served(self.world, self.faults, self.provisioned, route, model)
            unsaid = why[0] == 404 and is_off("missing-model", route, self.lenient)
            return RULES["missing-endpoint"].answer() if unsaid else why
        if worlds.bare(model) in map(worlds.bare, self.no_entitlement):
            return RULES["no-entitlement"].answer()
        if self.tier is not None and _asked(body) > self.tier:
            return RULES["busy"].answer(model=model)
        no = refusal(body, route, worlds.surface(route), self.lenient, self.caps)
        if no:
            return no
        answer = completion(base_url, body, self.cache.count(body), self._calls(body))
        for fault, reason in (("guardrail", "content_filter"), ("no-finish-reason", None)):
            if fault in self.faults:
                answer["choices"][0]["finish_reason"] = reason
        return 200, answer

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
        if self.oauth is None or given != ":".join(self._client):
            return 401, {
                "error": "invalid_client",
                "error_description": "Client authentication failed",
            }
        token = secrets.token_hex(16)
        self._expiring[token] = time.monotonic() + self.oauth
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": self.oauth}

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

    def _calls(self, body: dict[str, Any]) -> list[str]:
        """The shell commands to ask for now: those of this question whose answers are not there yet."""
        messages = [m for m in body.get("messages") or [] if isinstance(m, dict)]
        roles = [m.get("role") for m in messages]
        asked = max((i for i, role in enumerate(roles) if role == "user"), default=len(roles))
        done, wanted = roles[asked:].count("tool"), self.tool_calls or int(self.tool_call)
        tools = [t.get("function", {}).get("name") for t in body.get("tools") or []]
        if "terminal" not in tools or "user" not in roles or done >= wanted:
            return []
        self.on_tool_call()
        last = wanted if self.at_once else done + 1
        return [self.command.replace("{}", str(number)) for number in range(done + 1, last + 1)]


def _asked(body: dict[str, Any]) -> int:
    """The most output tokens that a request asks for."""
    return body.get("max_tokens") or body.get("max_completion_tokens") or 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    standin: StandIn

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-answer is no news; anything else is a bug of ours and stays loud."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection: a CONNECT, then TLS on the same socket, then the requests that come through the tunnel."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    host = ""

    @property
    def standin(self) -> StandIn:
        return cast(_Server, self.server).standin

    def do_CONNECT(self) -> None:
        standin = self.standin
        host, _, port = self.path.lower().rpartition(":")
        fault = standin.gateway if host == standin.gateway_host else "ok"
        status = 200
        if self.host or port != "443" or host not in (standin.workspace_host, standin.gateway_host):
            status = 403
        elif fault == "refused":
            status = 502
        standin.requests.append(Request("CONNECT", host, "", status))
        time.sleep(standin.latency)
        if fault == "black-holed":
            standin._stopping.wait(60)
            self.close_connection = True
            return
        if status != 200:
            self._send(status, b"", "text/plain")
            self.close_connection = True
            return
        self.send_response(status)
        self.end_headers()
        self.close_connection = False
        context = standin._bad_context if fault == "bad-certificate" else standin._context
        self.connection = context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = cast(Any, self.connection.makefile("wb", 0))
        self.host = host

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def _handle(self) -> None:
        standin = self.standin
        raw = (
            self._chunks()
            if "Transfer-Encoding" in self.headers
            else self.rfile.read(int(self.headers["Content-Length"] or 0))
        )
        if not self.host:
            standin.requests.append(Request(self.command, self.path, "", 403))
            self._send(403, b"", "text/plain")
            return
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(
            self.command,
            self.host,
            path,
            dict(parse_qsl(query, keep_blank_values=True)),
            headers,
            raw,
        )
        time.sleep(standin.latency)
        status, answer = standin.answer(call)
        body, token = call.json, headers.get("authorization", "").removeprefix("Bearer ")
        usage = answer.get("usage", {}) if isinstance(answer, dict) else {}
        read, write = (usage.get(f"cache_{name}_input_tokens", 0) for name in ("read", "creation"))
        plain, model = usage.get("prompt_tokens", 0) - read - write, str(body.get("model", ""))
        standin.requests.append(
            Request(self.command, self.host, path, status, token, model, plain, read, write)
        )
        if isinstance(answer, bytes):
            page = isinstance(answer, Page)
            self._send(status, answer, "text/html" if page else "application/octet-stream")
        elif status == 200 and body.get("stream"):
            self._send(200, events(answer), "text/event-stream")
        else:
            self._send(status, json.dumps(answer).encode(), "application/json")

    def _chunks(self) -> bytes:
        raw = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            raw += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return raw

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = _handle  # noqa: N815

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if status == 303:
            self.send_header("Location", "/login?next_url=" + quote(self.path, safe=""))
        self.close_connection |= isinstance(body, Cut)
        self.send_header("Content-Length", str(len(body) * (2 if isinstance(body, Cut) else 1)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr: what was asked is in `StandIn.requests`."""


def _serve_option(text: str) -> tuple[str, set[str]]:
    route, equals, models = text.partition("=")
    if not equals or route not in GATEWAY_ROUTES + WORKSPACE_ROUTES:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected ROUTE=MODEL,MODEL with a route of "
            + ", ".join(GATEWAY_ROUTES + WORKSPACE_ROUTES)
        )
    return route, {m for m in models.split(",") if m}


def _cap_option(text: str) -> tuple[str, int]:
    model, _, cap = text.rpartition("=")
    if not model or not cap.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected MODEL=TOKENS")
    return model, int(cap)


def _rule_option(text: str) -> str:
    rule, at, route = text.partition("@")
    if rule not in NAMES or (at and route not in GATEWAY_ROUTES + WORKSPACE_ROUTES):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected RULE or RULE@ROUTE with a rule of {', '.join(NAMES)}"
        )
    return text


def main(argv: list[str]) -> int:
    """Run a command with a workspace around it.

    Arguments:
        argv: options, "--" and the command; see `--help`.

    Returns:
        The command's own exit code (128 + the signal's number if one ended it).
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.standin",
        description="Run COMMAND with a Databricks workspace around it.",
    )
    parser.add_argument("--cloud", choices=HOSTS, default="azure")
    parser.add_argument(
        "--world",
        choices=WORLDS,
        default="classic",
        help="what models are called and where they answer; new workspaces are enforced",
    )
    parser.add_argument(
        "--fault",
        choices=FAULTS,
        action="append",
        default=[],
        dest="faults",
        help="what else such a workspace answers; may be given more than once",
    )
    parser.add_argument(
        "--no-entitlement",
        action="append",
        default=[],
        metavar="MODEL",
        help="a model with a rate limit of 0",
    )
    parser.add_argument(
        "--tier", type=int, metavar="TOKENS", help="the most output tokens that are admitted"
    )
    parser.add_argument(
        "--page-size", type=int, default=100, metavar="N", help="of the list of model services"
    )
    parser.add_argument(
        "--busy-lists", type=int, default=0, metavar="N", help="that list is HTTP 504 N times"
    )
    parser.add_argument(
        "--serve",
        type=_serve_option,
        action="append",
        metavar="ROUTE=MODELS",
        help="which models a route serves, comma-separated; given once or more, routes not named serve nothing",
    )
    parser.add_argument("--gateway", choices=GATEWAY_FAULTS, default="ok")
    parser.add_argument(
        "--feature-disabled",
        action="store_true",
        help="AI Gateway is not available for this workspace",
    )
    parser.add_argument(
        "--reject-token", action="store_true", help="403 Invalid access token, always"
    )
    parser.add_argument(
        "--latency", type=float, default=0.0, metavar="MS", help="milliseconds before each answer"
    )
    parser.add_argument(
        "--lenient",
        type=_rule_option,
        action="append",
        default=[],
        metavar="RULE",
        help=f"turn a rule off: {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--cap",
        type=_cap_option,
        action="append",
        default=[],
        metavar="MODEL=N",
        help="the most max_tokens that it takes",
    )
    parser.add_argument(
        "--tool-call", action="store_true", help="ask for one tool call before each answer"
    )
    parser.add_argument(
        "--tool-calls", type=int, default=0, metavar="N", help="ask for N, one after the other"
    )
    parser.add_argument("--at-once", action="store_true", help="ask for all of them in one answer")
    parser.add_argument(
        "--oauth", type=float, metavar="S", help="a service principal whose tokens live S seconds"
    )
    parser.add_argument(
        "--apps",
        action="store_true",
        help="with the Apps API and a volume, main.default.home: for make deploy",
    )
    parser.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="write each request there, a JSON line each, without tokens",
    )
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    options = vars(parser.parse_args(argv))
    command, log, serve = options.pop("command"), options.pop("log"), options.pop("serve")
    options["latency"] /= 1000
    options["caps"] = dict(options.pop("cap"))
    options |= {name: set(options[name]) for name in ("faults", "no_entitlement", "lenient")}
    if options.pop("apps"):
        from tests.standin.apps import Apps  # which needs databricks-sdk's names, and this module

        options["rooms"] = Apps(volumes={"main.default.home"}).rooms
    if serve:
        options["serves"] = dict(serve)
    with StandIn(**options) as standin:
        child = subprocess.Popen(command, env=standin.env)
        # Ctrl-C reaches the child by itself; a handler, unlike SIG_IGN, is not inherited by it.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        code = child.wait()
        if log:
            rows = ({k: v for k, v in vars(r).items() if k != "token"} for r in standin.requests)
            log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return code if code >= 0 else 128 - code
