"""hermes/client.py: answers that are none, and what goes along with a question."""

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
import responses

from hermes import client
from hermes.client import Client
from hermes.learnt import Learnt
from hermes.models import Catalog
from hermes.proof import Prover
from hermes.routes import Place
from hermes.trust import Trust
from setup_hermes import main
from tests.hosts import AZURE, AZURE_GATEWAY, ID
from tests.mocked import DIRECT, EVENT, HOST, OPENAI, OPUS_4_7, TOKEN, serve


def prover_for(url: str) -> Prover:
    """A prover that has asked one route for a model."""
    prover = Prover(Client(TOKEN, Trust(url.rpartition("/")[0])), "", Learnt())
    prover.ask(Place(url, OPUS_4_7))
    return prover


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
    monkeypatch.setattr(client, "QUESTION", 0.5)
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
        prover = prover_for(url)
        assert prover.answers[0].serves is None
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
        prover = prover_for(url)
        assert prover.answers[0].serves is None
        assert Catalog(url.removesuffix("/openai"), prover.client.ask).endpoints == []
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
        prover = prover_for(url)
        assert prover.answers[0].serves is None
        assert len(prover.answers[0].meaning) <= 200
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
        assert prover_for(url).answers[0].serves is None
    assert next(asked) == most + 1


@pytest.mark.fault("token")
@pytest.mark.parametrize("status", [303, 307])
def test_a_redirect_is_not_followed(status: int) -> None:
    asked = list[str]()

    def send_on(odd: Odd) -> None:
        asked.append(odd.path)
        odd.send_response(status)
        odd.send_header("Location", "/elsewhere")
        odd.send_header("Content-Length", "0")
        odd.end_headers()

    with odd_server(send_on) as url:
        asker = prover_for(url).client
        assert asker.ask(f"{url}/list").status == status
    assert asked == ["/openai/chat/completions", "/openai/list"]


def test_no_more_of_an_answer_is_kept_than_was_asked_for() -> None:
    def answer_in_two(odd: Odd) -> None:
        head(odd, Content_Length="20")
        odd.wfile.write(b"x" * 6)
        odd.wfile.flush()
        more.wait(5)
        odd.wfile.write(b"x" * 14)

    more = threading.Event()

    def enough(received: bytes) -> bool:
        if received:
            more.set()
        return False

    with odd_server(answer_in_two) as url:
        asker = Client(TOKEN, Trust(url.rpartition("/")[0]))
        assert asker.ask(url, {}, 10, enough).body == b"x" * 10


def test_plain_http_goes_through_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    def serve(odd: Odd) -> None:
        head(odd, Content_Length=str(len(EVENT)))
        odd.wfile.write(EVENT.encode())

    with odd_server(serve) as url:
        assert prover_for(url).answers[0].serves


@pytest.mark.fault("network")
@pytest.mark.parametrize("charset", ["idna", "undefined", "no-such"])
@pytest.mark.parametrize("status", [200, 500])
@responses.activate
def test_an_odd_charset_teaches_nothing(charset: str, status: int) -> None:
    kind = f"text/html; charset={charset}"
    responses.post(
        f"{OPENAI}/chat/completions", body=b"a\xff..b" * 100, status=status, content_type=kind
    )
    assert prover_for(OPENAI).answers[0].serves is None


@pytest.mark.fault("network")
@pytest.mark.parametrize(
    "body",
    ["[" * 60_000, 'data: {"choices": ' + "[" * 60_000 + "\n\n", '{"error": {"message": ' * 9_000],
)
@responses.activate
def test_a_body_nested_too_deeply_teaches_nothing(body: str) -> None:
    responses.post(f"{OPENAI}/chat/completions", body=body)
    assert prover_for(OPENAI).answers[0].serves is None


@pytest.mark.parametrize("status", [400, 404, 500])
@responses.activate
def test_choices_in_a_refusal_are_no_answer(status: int) -> None:
    responses.post(f"{OPENAI}/chat/completions", body=EVENT, status=status)
    assert not prover_for(OPENAI).answers[0].serves


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


@responses.activate
def test_the_token_goes_nowhere_else() -> None:
    client = Client(TOKEN, Trust(HOST, AZURE_GATEWAY))
    for url in ("https://elsewhere.example/x", f"{HOST}.example/x", "http://127.0.0.1:1/x"):
        reply = client.ask(url)
        assert (reply.status, reply.body.decode()) == (
            0,
            f"connection: the token may not go to {url}",
        )
    assert len(responses.calls) == 0
