"""hermes/routes.py: which route is written, and what each answer means, with HTTP mocked."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
import responses

from hermes import proof
from hermes.proof import Answer, Prover
from setup_hermes import main
from tests.mocked import (
    DIRECT,
    EVENT,
    FORBIDDEN,
    HOST,
    MLFLOW,
    NOT_FOUND,
    OPENAI,
    OPUS_4_6,
    OPUS_4_7,
    OWN,
    ROUTES,
    TOKEN,
    config_of,
    serve,
)
from tests.test_utils import AZURE, AZURE_GATEWAY, ID


@pytest.mark.parametrize(
    ("served", "primary", "fallback", "direct", "asked"),
    [
        ([(OPENAI, OPUS_4_7), (OPENAI, OPUS_4_6), (DIRECT, OPUS_4_6)], OPENAI, OPENAI, True, 3),
        ([(OPENAI, OPUS_4_7), (OPENAI, OPUS_4_6)], OPENAI, OPENAI, False, 3),
        ([(OPENAI, OPUS_4_7), (DIRECT, OPUS_4_6)], OPENAI, DIRECT, True, 5),
        ([(MLFLOW, OPUS_4_7), (MLFLOW, OPUS_4_6), (DIRECT, OPUS_4_6)], MLFLOW, MLFLOW, True, 4),
        ([(OWN, OPUS_4_7), (OWN, OPUS_4_6)], OWN, OWN, False, 5),
        ([(DIRECT, OPUS_4_7), (DIRECT, OPUS_4_6)], DIRECT, DIRECT, True, 5),
        ([(OPENAI, OPUS_4_7), (MLFLOW, OPUS_4_6)], OPENAI, MLFLOW, False, 4),
        ([(OPENAI, OPUS_4_6), (DIRECT, OPUS_4_6)], OPENAI, OPENAI, True, 6),
        ([], OPENAI, OPENAI, False, 8),
    ],
)
@responses.activate
def test_the_first_route_that_answers_is_written(
    served: list[tuple[str, str]],
    primary: str,
    fallback: str,
    direct: bool,
    asked: int,
    env: dict[str, str],
    home: Path,
) -> None:
    serve(*served)
    assert main([], env) == 0
    config = config_of(home)
    assert config["model"] == {
        "default": OPUS_4_7,
        "provider": "custom",
        "base_url": primary,
        "api_key": TOKEN,
    }
    urls = {f"custom:{p['name']}": p["base_url"] for p in config["custom_providers"]}
    chain = [(urls[e["provider"]], e["model"]) for e in config["fallback_providers"]]
    assert chain == list(
        dict.fromkeys(
            [(primary, OPUS_4_7), (fallback, OPUS_4_6), *([(DIRECT, OPUS_4_6)] if direct else [])]
        )
    )
    assert all(p["api_key"] == TOKEN for p in config["custom_providers"])
    assert all(e.keys() == {"provider", "model"} for e in config["fallback_providers"])
    methods = [call.request.method for call in responses.calls]
    assert (methods.count("POST"), methods.count("GET"), len(methods)) == (asked, 1, asked + 1)


@responses.activate
def test_without_a_gateway_everything_is_direct(env: dict[str, str], home: Path) -> None:
    serve((DIRECT, OPUS_4_6))
    assert main([], env | {"_GATEWAY_RESOLVED": "", "HERMES_MODEL": OPUS_4_6}) == 0
    config = config_of(home)
    assert config["model"]["base_url"] == DIRECT
    assert [p["name"] for p in config["custom_providers"]] == ["databricks-direct"]
    assert config["fallback_providers"] == [
        {"provider": "custom:databricks-direct", "model": OPUS_4_6}
    ]


@pytest.mark.parametrize(("gateway", "expected"), [(AZURE_GATEWAY, OPENAI), ("", DIRECT)])
@responses.activate
def test_unasked_the_default_is_written(
    gateway: str, expected: str, env: dict[str, str], home: Path
) -> None:
    assert main([], env | {"HERMES_PROVE": "false", "_GATEWAY_RESOLVED": gateway}) == 0
    assert config_of(home)["model"]["base_url"] == expected
    assert len(responses.calls) == 0


@pytest.mark.fault("gateway")
@pytest.mark.parametrize(
    ("status", "body", "meaning", "serves"),
    [
        (200, EVENT, "serves the model", True),
        (200, '{"choices": []}', '{"choices": []}', None),
        (200, "<html>log in", "<html>log in", None),
        (200, '{"error_code": "NOPE", "message": "no"}', "no", None),
        (400, f"you sent Bearer {TOKEN} \x1b[31m", "you sent Bearer *** [31m", None),
        (400, "x" * 110 + TOKEN, "x" * 110 + "***", None),
        (
            429,
            '{"error_code": "REQUEST_LIMIT_EXCEEDED"}',
            "serves the model (busy now: rate limited)",
            True,
        ),
        (404, '{"error_code": "ENDPOINT_NOT_FOUND"}', "not served here, or not permitted", False),
        (404, "<html>", "not served here, or not permitted", False),
        (
            404,
            '{"error_code": "FEATURE_DISABLED", "message": "no"}',
            "AI Gateway is not enabled for this workspace",
            False,
        ),
        (
            400,
            '{"error_code": "FEATURE_DISABLED", "message": "no"}',
            "AI Gateway is not enabled for this workspace",
            False,
        ),
        (401, "", "token rejected or not permitted", None),
        (403, "{}", "token rejected or not permitted", None),
        (400, '{"message": "max_tokens is\\nnot supported"}', "max_tokens is not supported", None),
        (400, '{"error": {"message": "nested"}}', "nested", None),
        (500, '{"error": "text"}', "text", None),
        (500, "[1, 2]", "[1, 2]", None),
        (503, "", "no message", None),
        (302, "", "no message", None),
        (500, "x" * 5000, "x" * 120, None),
    ],
)
@responses.activate
def test_what_an_answer_means(status: int, body: str, meaning: str, serves: bool | None) -> None:
    responses.post(
        f"{OPENAI}/chat/completions",
        body=body,
        status=status,
        headers={"Location": "https://login.example"},
    )
    prover = Prover(TOKEN)
    assert prover.serves(OPENAI, OPUS_4_7) is serves
    assert prover.answers == [Answer(OPUS_4_7, OPENAI, f"HTTP {status}", meaning, serves)]
    assert len(responses.calls) == 1


@pytest.mark.fault("network")
@responses.activate
def test_a_dead_host_is_not_asked_twice(
    env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve((OWN, OPUS_4_7), (OWN, OPUS_4_6))
    responses.replace("POST", f"{OPENAI}/chat/completions", body=requests.ConnectTimeout("..."))
    assert main([], env) == 0
    asked = [str(call.request.url) for call in responses.calls]
    assert sum(AZURE_GATEWAY in url for url in asked) == 1
    assert config_of(home)["model"]["base_url"] == OWN


@pytest.mark.fault("token")
@pytest.mark.parametrize(
    ("otherwise", "said"),
    [
        (NOT_FOUND, f"This workspace serves {OPUS_4_6}: set HERMES_MODEL={OPUS_4_6}."),
        (FORBIDDEN, "check DATABRICKS_TOKEN"),
    ],
)
@responses.activate
def test_nothing_proved_is_said_and_the_default_stays(
    otherwise: tuple[int, object],
    said: str,
    env: dict[str, str],
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    serve(otherwise=otherwise)
    assert main([], env) == 0
    output = capsys.readouterr()
    assert said in output.err
    assert all(f"{name}: " in output.err for name in ("gateway", "workspace"))
    for route in (
        "gateway /openai",
        "gateway /mlflow/v1",
        "workspace /ai-gateway/mlflow/v1",
        "workspace /serving-endpoints",
    ):
        assert f"{OPUS_4_7}  {route} " in output.err
    assert "NOT PROVED" in output.out
    assert config_of(home)["model"]["base_url"] == OPENAI
    assert TOKEN not in output.out + output.err


ODD = (400, {"message": "max_tokens is not supported"})


@pytest.mark.parametrize(
    ("otherwise", "said"),
    [
        (ODD, f"No route gave {OPUS_4_7} a clear yes"),
        (requests.ConnectTimeout("..."), "Nothing answered (timed out): check DATABRICKS_HOST"),
        (
            OSError("Could not find a suitable TLS CA certificate bundle"),
            "Nothing answered (connection: Could not find a suitable TLS",
        ),
    ],
)
@responses.activate
def test_check_says_what_to_do(
    otherwise: tuple[int, object] | Exception,
    said: str,
    env: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if isinstance(otherwise, tuple):
        serve(otherwise=otherwise)
    else:
        for url in ROUTES:
            responses.post(f"{url}/chat/completions", body=otherwise)
    assert main(["--check"], env) == 1
    assert said in capsys.readouterr().out.splitlines()[-1]


@responses.activate
def test_only_chat_models_that_are_ready_are_named() -> None:
    ready, model = {"ready": "READY"}, "llm/v1/chat"
    listed = [
        {"name": "b", "task": model, "state": ready},
        {"name": "starting", "task": model, "state": {"ready": "NOT_READY"}},
        {"name": "embeds", "task": "llm/v1/embeddings", "state": ready},
        {"name": "a", "task": model, "state": ready},
    ]
    responses.get(f"{HOST}/api/2.0/serving-endpoints", json={"endpoints": listed})
    assert Prover(TOKEN).chat_models(HOST) == ["a", "b"]
    sent = responses.calls[0].request
    assert sent.headers["Authorization"] == f"Bearer {TOKEN}"
    assert sent.req_kwargs["timeout"] == (2.0, 20.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "odd", ["[]", "{}", '{"endpoints": [1]}', '{"endpoints": [{"task": "llm/v1/chat"}]}', "<html>"]
)
@responses.activate
def test_a_list_of_models_that_cannot_be_read_is_empty(odd: str) -> None:
    responses.get(f"{HOST}/api/2.0/serving-endpoints", body=odd)
    assert Prover(TOKEN).chat_models(HOST) == []


@pytest.mark.fault("token")
@responses.activate
def test_netrc_does_not_replace_the_token(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text(
        f"machine {AZURE} login token password other\nmachine {ID} login a password b"
    )
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    serve((DIRECT, OPUS_4_7))
    assert main([], env) == 0
    assert all(
        call.request.headers["Authorization"] == f"Bearer {TOKEN}" for call in responses.calls
    )


# --- Answers that are no answers ----------------------------------------------------------------------------------------


class Odd(BaseHTTPRequestHandler):
    """Answers every question in an odd way, as its server says."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with contextlib.suppress(OSError):
            self.server.answer(self)  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@contextlib.contextmanager
def odd_server(answer: Callable[[Odd], object]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        server.daemon_threads = True
        server.answer = answer  # type: ignore[attr-defined]
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        yield f"http://127.0.0.1:{server.server_port}/openai"
        server.shutdown()


def head(odd: Odd, **headers: str) -> None:
    odd.send_response(200)
    for name, value in headers.items():
        odd.send_header(name.replace("_", "-"), value)
    odd.end_headers()


@pytest.mark.fault("network")
@pytest.mark.parametrize("slow", ["the headers", "the body", "an event"])
def test_an_answer_that_drips_is_given_up(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "QUESTION", 0.5)
    over = threading.Event()

    def drip(odd: Odd) -> None:
        if slow != "the headers":
            head(odd, Content_Length="100000")
        odd.wfile.write(
            b"HTTP/1.1 200 OK\r\nX: "
            if slow == "the headers"
            else b"data: "
            if slow == "an event"
            else b""
        )
        while not over.wait(0.1):
            odd.wfile.write(b"x")

    with odd_server(drip) as url:
        prover = Prover(TOKEN)
        assert prover.serves(url, OPUS_4_7) is None
        assert prover.answers[0].meaning == "timed out"
        over.set()


@pytest.mark.fault("network")
@pytest.mark.parametrize("framing", [{"Content_Length": "100"}, {"Transfer_Encoding": "chunked"}])
def test_an_answer_that_is_cut_off_is_no_answer(framing: dict[str, str]) -> None:
    def cut(odd: Odd) -> None:
        head(odd, **framing)
        odd.wfile.write(b"5\r\ndat")
        odd.close_connection = True

    with odd_server(cut) as url:
        prover = Prover(TOKEN)
        assert prover.serves(url, OPUS_4_7) is None
        assert prover.chat_models(url.removesuffix("/openai")) == []
        assert (prover.answers[0].answer, prover.answers[0].meaning[:12]) == ("-", "connection: ")


@pytest.mark.fault("oversized values")
@pytest.mark.parametrize("packed", [False, True])
def test_only_the_beginning_of_an_answer_is_read(packed: bool) -> None:
    sent, accepted = [0], list[str]()

    def flood(odd: Odd) -> None:
        accepted.append(odd.headers["Accept-Encoding"])
        piece = gzip.compress(b" " * 10_000_000) if packed else b" " * 65536
        head(odd, Content_Length=str(10**9), **({"Content_Encoding": "gzip"} if packed else {}))
        while True:
            sent[0] += odd.wfile.write(piece)

    with odd_server(flood) as url:
        prover = Prover(TOKEN)
        assert prover.serves(url, OPUS_4_7) is None
        assert len(prover.answers[0].meaning) <= 120
    assert accepted == ["identity"]
    assert sent[0] < 20_000_000  # what the sockets' buffers hold; nobody read on


@pytest.mark.parametrize(
    ("message", "most"),
    [
        ("max_tokens (65536) cannot exceed {}", 6),
        ("messages.1.content.0.cache_control: not permitted", 2),
        ("tool_result.content: cache_control may not be specified", 3),
    ],
)
def test_a_route_that_refuses_whatever_it_is_sent_is_asked_a_few_times(
    message: str, most: int
) -> None:
    asked = itertools.count(1)

    def refuse(odd: Odd) -> None:
        body = json.dumps(
            {"error_code": "BAD_REQUEST", "message": message.format(9000 - next(asked))}
        ).encode()
        odd.send_response(400)
        odd.send_header("Content-Length", str(len(body)))
        odd.end_headers()
        odd.wfile.write(body)

    with odd_server(refuse) as url:
        assert Prover(TOKEN).serves(url, OPUS_4_7) is None
    assert next(asked) == most + 1


def test_plain_http_goes_through_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    def serve(odd: Odd) -> None:
        head(odd, Content_Length=str(len(EVENT)))
        odd.wfile.write(EVENT.encode())

    with odd_server(serve) as url:
        assert Prover(TOKEN).serves(url, OPUS_4_7)


@pytest.mark.fault("network")
@pytest.mark.parametrize("charset", ["idna", "undefined", "no-such"])
@pytest.mark.parametrize("status", [200, 500])
@responses.activate
def test_an_odd_charset_teaches_nothing(charset: str, status: int) -> None:
    kind = f"text/html; charset={charset}"
    responses.post(
        f"{OPENAI}/chat/completions", body=b"a\xff..b" * 100, status=status, content_type=kind
    )
    assert Prover(TOKEN).serves(OPENAI, OPUS_4_7) is None


@pytest.mark.fault("network")
@pytest.mark.parametrize(
    "body",
    ["[" * 60_000, 'data: {"choices": ' + "[" * 60_000 + "\n\n", '{"error": {"message": ' * 9_000],
)
@responses.activate
def test_a_body_nested_too_deeply_teaches_nothing(body: str) -> None:
    responses.post(f"{OPENAI}/chat/completions", body=body)
    assert Prover(TOKEN).serves(OPENAI, OPUS_4_7) is None


@pytest.mark.parametrize("status", [400, 404, 500])
@responses.activate
def test_choices_in_a_refusal_are_no_answer(status: int) -> None:
    responses.post(f"{OPENAI}/chat/completions", body=EVENT, status=status)
    assert not Prover(TOKEN).serves(OPENAI, OPUS_4_7)


@responses.activate
def test_an_unclear_direct_answer_keeps_direct_in_the_chain(
    env: dict[str, str], home: Path
) -> None:
    serve((OPENAI, OPUS_4_7), (OPENAI, OPUS_4_6))
    responses.replace("POST", f"{DIRECT}/chat/completions", status=503)
    assert main([], env) == 0
    assert config_of(home)["fallback_providers"][-1] == {
        "provider": "custom:databricks-direct",
        "model": OPUS_4_6,
    }
