"""access.py: identities, origins and hosts, over HTTP and websockets, against an application that must not be reached."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any

import pytest

from webapp.access import PAGES, Access
from webapp.owner import Owner

OWNER = "Owner.Name@Example.com"
PROXIED = {
    "host": "10.0.0.7:8000",
    "x-forwarded-host": "app.example.com",
    "x-forwarded-email": OWNER,
}
LOCAL = {"host": "localhost:8000"}
SECRET = b"a terminal"
Headers = list[tuple[str, str]]


def ask(
    owner: Owner | None,
    kind: str,
    headers: dict[str, str] | Headers,
    method: str = "GET",
    path: str = "/",
) -> tuple[int, bytes]:
    """The status and body that a request gets; for a websocket 101 or 403."""
    sent: list[MutableMapping[str, Any]] = []

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

    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    scope: dict[str, Any] = {
        "type": kind,
        "path": path,
        "headers": [(k.encode(), v.encode()) for k, v in pairs],
    }
    if kind == "http":
        scope["method"] = method
    asyncio.run(Access(inside, owner)(scope, receive, send))
    if kind == "websocket":
        assert [m["type"] for m in sent] in (["websocket.accept"], ["websocket.close"])
        return (101 if sent[0]["type"] == "websocket.accept" else 403), b""
    if sent[0]["status"] != 200:
        assert (b"cache-control", b"no-store") in sent[0][
            "headers"
        ]  # else the owner may be shown it later
    length = dict(sent[0]["headers"]).get(b"content-length")
    assert length is None or int(length) == len(sent[1]["body"])
    return sent[0]["status"], sent[1]["body"]


def proxied(
    headers: dict[str, str] | Headers, kind: str = "http", method: str = "GET", path: str = "/"
) -> int:
    return ask(Owner(OWNER), kind, headers, method, path)[0]


def local(
    headers: dict[str, str] | Headers, kind: str = "http", method: str = "GET", path: str = "/"
) -> int:
    return ask(None, kind, headers, method, path)[0]


@pytest.mark.parametrize(
    ("email", "status"),
    [
        (OWNER, 200),
        ("owner.name@example.com", 200),
        ("OWNER.NAME@EXAMPLE.COM", 200),
        ("  owner.name@example.com ", 200),
        ("other@example.com", 403),
        ("owner.name@example.com.evil.example", 403),
        ("xowner.name@example.com", 403),
        ("owner.name@example.com, other@example.com", 403),
        ("other@example.com,owner.name@example.com", 403),
        ("owner.name@example.com\x00", 403),
        ("owner.name", 403),
        ("owner.name@example.coM\u0307", 403),
        ("", 403),
        (" ", 403),
        ("*", 403),
    ],
)
def test_the_owner_comes_in_and_nobody_else(email: str, status: int) -> None:
    headers = PROXIED | {"x-forwarded-email": email}
    assert proxied(headers) == status
    assert proxied(headers | {"origin": "https://app.example.com"}, "websocket") == (
        101 if status == 200 else 403
    )


@pytest.mark.parametrize(
    ("owner", "email"),
    [("kim@example.com", "\u212aim@example.com"), ("strasse@example.com", "straße@example.com")],
)
def test_no_other_letter_passes_for_the_owners(owner: str, email: str) -> None:
    assert ask(Owner(owner), "http", PROXIED | {"x-forwarded-email": email})[0] == 403


def test_an_owner_beyond_ascii_comes_in() -> None:
    assert (
        ask(
            Owner("jürgen@example.com"),
            "http",
            PROXIED | {"x-forwarded-email": "jürgen@Example.com"},
        )[0]
        == 200
    )


@pytest.mark.parametrize("name", ["x-forwarded-email", "X-Forwarded-Email"])
def test_a_second_identity_beside_the_first_is_refused(name: str) -> None:
    for second in (OWNER, "other@example.com", ""):
        assert proxied([*PROXIED.items(), (name, second)]) == 403
        assert proxied([(name, second), *PROXIED.items()]) == 403


def test_no_identity_is_refused() -> None:
    headers = {k: v for k, v in PROXIED.items() if k != "x-forwarded-email"}
    assert proxied(headers) == 403
    assert (
        proxied(
            headers
            | {"x-forwarded-user": OWNER, "x-forwarded-preferred-username": OWNER, "from": OWNER}
        )
        == 403
    )
    assert proxied(headers | {"origin": "https://app.example.com"}, "websocket") == 403


@pytest.mark.parametrize("owner", ["", " ", "\n"])
@pytest.mark.parametrize("email", [OWNER, "", " "])
def test_nobody_comes_in_while_the_owner_is_unknown(owner: str, email: str) -> None:
    headers = PROXIED | {"x-forwarded-email": email}
    status, body = ask(Owner(owner), "http", headers)
    assert status == 503
    assert PAGES[503][1].encode() in body
    assert b"refresh" in body
    assert ask(Owner(owner), "websocket", headers | {"origin": "https://app.example.com"})[0] == 403


def test_the_owner_may_become_known_while_it_runs() -> None:
    owner = Owner()
    assert ask(owner, "http", PROXIED)[0] == 503
    owner.email = OWNER
    assert ask(owner, "http", PROXIED)[0] == 200


ORIGINS = [
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
]


@pytest.mark.parametrize(("origin", "own"), ORIGINS)
def test_a_foreign_origin_is_refused_whatever_it_asks(origin: str, own: bool) -> None:
    headers = PROXIED | {"origin": origin}
    assert proxied(headers, "websocket") == (101 if own else 403)
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        assert proxied(headers, "http", method) == (200 if own else 403)


def test_without_an_origin_only_reading_is_allowed() -> None:
    assert proxied(PROXIED, "websocket") == 403
    assert local(LOCAL, "websocket") == 403
    for method, status in {
        "GET": 200,
        "HEAD": 200,
        "POST": 403,
        "DELETE": 403,
        "OPTIONS": 403,
        "get": 403,
        "": 403,
    }.items():
        assert proxied(PROXIED, "http", method) == status
        assert local(LOCAL, "http", method) == status


def test_two_origins_are_refused() -> None:
    own = ("origin", "https://app.example.com")
    assert proxied([*PROXIED.items(), own, own], "websocket") == 403
    assert proxied([*PROXIED.items(), own, ("Origin", "https://evil.example")]) == 403


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
    said = {
        k: v for k, v in {"sec-fetch-site": site, "sec-fetch-dest": use}.items() if v is not None
    }
    for path in ("/", "/_nicegui_ws/socket.io/?EIO=4&transport=polling&j=0"):
        assert proxied(PROXIED | said, path=path) == (200 if welcome else 403)
        assert local(LOCAL | said, path=path) == (200 if welcome else 403)
    assert local(LOCAL | said | {"origin": "http://localhost:8000"}, "websocket") == (
        101 if welcome else 403
    )


def test_the_apps_own_host_is_the_forwarded_one_where_there_is_one() -> None:
    origin = {"origin": "https://app.example.com"}
    plain = {"host": "app.example.com", "x-forwarded-email": OWNER}
    assert proxied(plain | origin, "websocket") == 101
    assert (
        proxied({"host": "app.example.com:443", "x-forwarded-email": OWNER} | origin, "websocket")
        == 101
    )
    assert (
        proxied(PROXIED | {"x-forwarded-host": "app.example.com:443"} | origin, "websocket") == 101
    )
    assert (
        proxied(
            PROXIED | {"host": "app.example.com", "x-forwarded-host": "else.example.com"} | origin,
            "websocket",
        )
        == 403
    )
    twice = [
        *plain.items(),
        *origin.items(),
        ("x-forwarded-host", "a.example"),
        ("x-forwarded-host", "app.example.com"),
    ]
    assert proxied(twice, "websocket") == 403
    nowhere = {"x-forwarded-email": OWNER, "origin": "https://"}
    assert proxied(nowhere, "websocket") == 403


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
    assert local({"host": host}) == (200 if own else 403)
    assert local({"host": host, "origin": f"http://{host.strip()}"}, "websocket") == (
        101 if own else 403
    )


def test_a_laptop_needs_one_host_and_its_own_origin() -> None:
    assert local({}) == 403
    assert local([("host", "localhost"), ("Host", "localhost")]) == 403
    assert local(LOCAL | {"origin": "http://localhost:8000"}, "websocket") == 101
    for origin in (
        "http://localhost",
        "http://localhost:9000",
        "http://127.0.0.1:8000",
        "https://localhost:8000",
        "null",
        "http://evil.example",
    ):
        assert local(LOCAL | {"origin": origin}, "websocket") == 403
        assert local(LOCAL | {"origin": origin}) == 403
    # Nobody stands in front of it: these headers mean nothing there.
    assert (
        local(
            LOCAL | {"x-forwarded-host": "evil.example", "origin": "http://evil.example"},
            "websocket",
        )
        == 403
    )
    assert (
        local({"host": "evil.example", "x-forwarded-host": "localhost", "x-forwarded-email": OWNER})
        == 403
    )


@pytest.mark.parametrize("owner", [None, Owner(), Owner(OWNER)])
def test_health_is_for_anyone_and_says_nothing_more(owner: Owner | None) -> None:
    for method in ("GET", "HEAD", "POST"):
        assert ask(
            owner, "http", {"host": "probe", "origin": "https://evil.example"}, method, "/health"
        ) == (200, b"ok")
    assert (
        ask(
            owner, "websocket", {"host": "probe", "origin": "https://evil.example"}, path="/health"
        )[0]
        == 403
    )


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
    assert ask(Owner(OWNER), "http", {"host": "probe"}, path=path)[0] == 403


def test_a_refusal_names_nobody() -> None:
    for headers in (PROXIED | {"x-forwarded-email": "other@example.com"}, {"host": "evil.example"}):
        _, body = ask(Owner(OWNER), "http", headers)
        assert SECRET not in body
        assert b"@" not in body
        assert b"owner.name" not in body.lower()
        assert b"example" not in body


def test_the_end_and_the_start_of_the_app_pass_through() -> None:
    seen: list[str] = []

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(Access(inside, Owner(""))({"type": "lifespan"}, inside, inside))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_the_owner_is_asked_for_until_known_with_growing_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers: list[str | Exception | None] = [
        *[OSError("no network")] * 4,
        None,
        "",
        *[PermissionError("not you")] * 3,
        f" {OWNER}\n",
    ]
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
