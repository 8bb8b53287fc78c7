"""access.py and owner.py: who comes in, over HTTP and websockets, to an application behind them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from functools import partial
from typing import Any

import pytest

from webapp.access import PAGES, Access
from webapp.owner import Owner

OWNER = "Owner.Name@Example.com"
EMAIL, FORWARDED = "x-forwarded-email", "x-forwarded-host"
PROXIED = {"host": "10.0.0.7:8000", FORWARDED: "app.example.com", EMAIL: OWNER}
OWN = {"origin": "https://app.example.com"}
LOCAL = {"host": "localhost:8000"}
SECRET = b"a terminal"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")
Headers = dict[str, str] | list[tuple[str, str]]


def ask(
    owner: Owner | None, headers: Headers, method: str = "GET", path: str = "/"
) -> tuple[int, bytes]:
    """The status and body that a request gets; for a websocket, which is a method here, 101 or 403."""
    sent: list[MutableMapping[str, Any]] = []
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    scope: dict[str, Any] = {
        "type": "websocket" if method == "websocket" else "http",
        "path": path,
        "headers": [(k.encode(), v.encode()) for k, v in pairs],
    }
    if method != "websocket":
        scope["method"] = method

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": SECRET})

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("nothing needs to be received to decide")

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(Access(inside, owner)(scope, receive, send))
    if method == "websocket":
        (answer,) = sent
        return {"websocket.accept": 101, "websocket.close": 403}[answer["type"]], b""
    start, body = sent
    if start["status"] != 200:  # else the owner may be shown it later
        assert (b"cache-control", b"no-store") in start["headers"]
    length = dict(start["headers"]).get(b"content-length")
    assert length is None or int(length) == len(body["body"])
    return start["status"], body["body"]


def comes_in(owner: Owner | None, headers: Headers, method: str = "GET", path: str = "/") -> bool:
    """Whether a request is let in, rather than refused with 403."""
    status, _ = ask(owner, headers, method, path)
    assert status in (200, 101, 403)
    return status != 403


proxied, local = partial(comes_in, Owner(OWNER)), partial(comes_in, None)


# --- Who asks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("email", "welcome"),
    [
        (OWNER, True),
        ("owner.name@example.com", True),
        ("OWNER.NAME@EXAMPLE.COM", True),
        ("  owner.name@example.com ", True),
        ("other@example.com", False),
        ("owner.name@example.com.evil.example", False),
        ("xowner.name@example.com", False),
        ("owner.name@example.com, other@example.com", False),
        ("other@example.com,owner.name@example.com", False),
        ("owner.name@example.com\x00", False),
        ("owner.name", False),
        ("owner.name@example.coM\u0307", False),
        ("", False),
        (" ", False),
        ("*", False),
    ],
)
def test_the_owner_comes_in_and_nobody_else(email: str, welcome: bool) -> None:
    assert proxied(PROXIED | {EMAIL: email}) is welcome
    assert proxied(PROXIED | OWN | {EMAIL: email}, "websocket") is welcome


@pytest.mark.parametrize(
    ("owner", "email", "welcome"),
    [
        ("kim@example.com", "\u212aim@example.com", False),
        ("strasse@example.com", "straße@example.com", False),
        ("jürgen@example.com", "jürgen@Example.com", True),
    ],
)
def test_no_other_letter_passes_for_the_owners(owner: str, email: str, welcome: bool) -> None:
    assert comes_in(Owner(owner), PROXIED | {EMAIL: email}) is welcome


@pytest.mark.parametrize("name", [EMAIL, "X-Forwarded-Email"])
@pytest.mark.parametrize("second", [OWNER, "other@example.com", ""])
def test_a_second_identity_beside_the_first_is_refused(name: str, second: str) -> None:
    assert not proxied([*PROXIED.items(), (name, second)])
    assert not proxied([(name, second), *PROXIED.items()])


def test_no_identity_is_refused() -> None:
    headers = {k: v for k, v in PROXIED.items() if k != EMAIL}
    others = ("x-forwarded-user", "x-forwarded-preferred-username", "from")
    assert not proxied(headers)
    assert not proxied(headers | dict.fromkeys(others, OWNER))
    assert not proxied(headers | OWN, "websocket")


@pytest.mark.parametrize("email", ["", " ", "\n"])
@pytest.mark.parametrize("asking", [OWNER, "", " "])
def test_nobody_comes_in_until_the_owner_is_known(email: str, asking: str) -> None:
    owner, headers = Owner(email), PROXIED | {EMAIL: asking}
    status, body = ask(owner, headers)
    assert status == 503
    assert PAGES[503][1].encode() in body
    assert b"refresh" in body
    assert not comes_in(owner, headers | OWN, "websocket")
    owner.email = OWNER
    assert comes_in(owner, headers) is (asking == OWNER)


def test_a_refusal_names_nobody() -> None:
    for headers in (PROXIED | {EMAIL: "other@example.com"}, {"host": "evil.example"}):
        _, body = ask(Owner(OWNER), headers)
        for text in (SECRET, b"@", b"owner.name", b"example"):
            assert text not in body.lower()


# --- From which page -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        ("https://app.example.com", True),
        ("https://APP.example.com", True),
        ("http://app.example.com", False),
        ("https://app.example.com:8443", False),
        ("https://app.example.com.evil.example", False),
        ("https://evil.example", False),
        ("https://evil.example/https://app.example.com", False),
        ("https://other-app.example.com", False),
        ("https://10.0.0.7:8000", False),
        ("https://", False),
        ("null", False),
        ("", False),
        ("*", False),
        ("app.example.com", False),
    ],
)
def test_a_foreign_origin_is_refused_whatever_it_asks(origin: str, own: bool) -> None:
    for method in ("websocket", *METHODS):
        assert proxied(PROXIED | {"origin": origin}, method) is own


@pytest.mark.parametrize("method", ["websocket", *METHODS, "get", ""])
def test_without_an_origin_only_reading_is_allowed(method: str) -> None:
    assert proxied(PROXIED, method) is (method in ("GET", "HEAD"))
    assert local(LOCAL, method) is (method in ("GET", "HEAD"))


@pytest.mark.parametrize("second", [("origin", OWN["origin"]), ("Origin", "https://evil.example")])
def test_two_origins_are_refused(second: tuple[str, str]) -> None:
    assert not proxied([*PROXIED.items(), *OWN.items(), second], "websocket")


@pytest.mark.parametrize(
    ("site", "use", "welcome"),
    [
        ("same-origin", "script", True),
        ("same-origin", "iframe", True),
        ("none", "document", True),
        ("cross-site", "document", True),  # a link, and the way back from a login page
        ("same-site", "document", True),
        *[
            (site, use, False)
            for site in ("cross-site", "same-site")
            for use in ("iframe", "frame", "script", "object", "")
        ],
        ("cross-site", None, False),
        ("", "script", False),
        ("nonsense", "iframe", False),
        (None, "iframe", True),  # an old browser, which says no site
    ],
)
def test_another_sites_page_may_link_here_but_embed_nothing(
    site: str | None, use: str | None, welcome: bool
) -> None:
    names = {"sec-fetch-site": site, "sec-fetch-dest": use}
    said = {name: value for name, value in names.items() if value is not None}
    for path in ("/", "/_nicegui_ws/socket.io/?EIO=4&transport=polling&j=0"):
        assert proxied(PROXIED | said, path=path) is welcome
        assert local(LOCAL | said, path=path) is welcome
    own = {"origin": "http://localhost:8000"}
    assert local(LOCAL | said | own, "websocket") is welcome


@pytest.mark.parametrize(
    ("hosts", "own"),
    [
        ([("host", "app.example.com")], True),
        ([("host", "app.example.com:443")], True),
        ([("host", "10.0.0.7:8000"), (FORWARDED, "app.example.com:443")], True),
        ([("host", "app.example.com"), (FORWARDED, "else.example.com")], False),
        ([("host", "app.example.com"), (FORWARDED, "")], False),
        (
            [
                ("host", "app.example.com"),
                (FORWARDED, "a.example"),
                (FORWARDED, "app.example.com"),
            ],
            False,
        ),
    ],
)
def test_the_apps_own_host_is_the_forwarded_one_where_there_is_one(
    hosts: list[tuple[str, str]], own: bool
) -> None:
    assert proxied([*hosts, (EMAIL, OWNER), *OWN.items()], "websocket") is own


def test_no_host_has_no_page_of_its_own() -> None:
    assert not proxied({EMAIL: OWNER, "origin": "https://"}, "websocket")


# --- On a laptop ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("127.0.0.1:8000", True),
        ("127.0.0.1", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("localhost.evil.example:8000", False),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("127.0.0.1.nip.io", False),
        ("127.0.0.2", False),
        ("0.0.0.0:8000", False),
        ("192.168.1.5:8000", False),
        ("localhost:", False),
        ("localhost:80a", False),
        ("localhost@evil.example", False),
        ("evil.example:localhost", False),
        ("localhost:8000\n", True),  # a server strips it before we see it
        ("127x0x0x1", False),
        ("", False),
    ],
)
def test_a_laptop_answers_to_its_own_names_only(host: str, own: bool) -> None:
    assert local({"host": host}) is own
    assert local({"host": host, "origin": f"http://{host.strip()}"}, "websocket") is own


def test_a_laptop_needs_one_host() -> None:
    assert not local({})
    assert not local([("host", "localhost"), ("Host", "localhost")])


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        ("http://localhost:8000", True),
        ("http://localhost", False),
        ("http://localhost:9000", False),
        ("http://127.0.0.1:8000", False),
        ("https://localhost:8000", False),
        ("null", False),
        ("http://evil.example", False),
    ],
)
def test_a_laptops_page_has_its_own_origin(origin: str, own: bool) -> None:
    for method in ("websocket", "GET"):
        assert local(LOCAL | {"origin": origin}, method) is own


def test_what_a_proxy_says_means_nothing_on_a_laptop() -> None:
    evil = {"origin": "http://evil.example", FORWARDED: "evil.example"}
    assert not local(LOCAL | evil, "websocket")
    assert not local({"host": "evil.example", FORWARDED: "localhost", EMAIL: OWNER})


# --- What is for anyone --------------------------------------------------------------------------


@pytest.mark.parametrize("owner", [None, Owner(), Owner(OWNER)])
def test_health_is_for_anyone_and_says_nothing_more(owner: Owner | None) -> None:
    headers = {"host": "probe", "origin": "https://evil.example"}
    for method in ("GET", "HEAD", "POST"):
        assert ask(owner, headers, method, "/health") == (200, b"ok")
    assert ask(owner, headers, "websocket", "/health")[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/health/",
        "/health/../",
        "//health",
        "/Health",
        "/health%00",
        "/health;x",
        "/healthy",
        "health",
        "/x/health",
        "*",
    ],
)
def test_only_health_itself_is_health(path: str) -> None:
    assert not proxied({"host": "probe"}, path=path)


def test_the_end_and_the_start_of_the_app_pass_through() -> None:
    seen: list[str] = []

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(Access(inside, Owner(""))({"type": "lifespan"}, inside, inside))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


# --- Who the owner is ----------------------------------------------------------------------------


def test_the_owner_is_asked_for_until_known_with_growing_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers: list[str | Exception | None] = [*[OSError("no network")] * 4, None, ""]
    answers += [*[PermissionError("not you")] * 2, ValueError("no login"), f" {OWNER}\n"]
    pauses: list[float] = []

    def answer() -> str | None:
        value = answers.pop(0)
        if isinstance(value, Exception):
            raise value
        return value

    owner = Owner()
    with caplog.at_level(logging.WARNING):
        owner.find(answer, pauses.append)
    assert owner.email == OWNER
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert "no network" in caplog.text


def test_a_creator_that_is_no_person_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    owner = Owner()
    owner.find(lambda: "1b2c-service-principal")
    assert owner.email == "1b2c-service-principal"
    assert "APP_OWNER" in caplog.text
