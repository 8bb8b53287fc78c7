"""utils.py: where the gateway is, with HTTP mocked."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests
import responses

import utils
from hermes import urls
from tests.hosts import AWS, AWS_GATEWAY, AZURE, AZURE_GATEWAY, BAD_URLS, GCP, GCP_GATEWAY, ID


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ""),
        ("  ", ""),
        ("host.example", "https://host.example"),
        (" host.example\n", "https://host.example"),
        ("http://localhost:1", "http://localhost:1"),
        ("HTTPS://Host.example/", "HTTPS://Host.example/"),
        (
            "host.example/?next=http://other.example",
            "https://host.example/?next=http://other.example",
        ),
    ],
)
def test_ensure_https(given: str, expected: str) -> None:
    assert urls.ensure_https(given) == expected


@pytest.mark.fault("hostile host names")
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (f"https://{AZURE}", ID),
        (AZURE, ID),
        (AZURE.upper(), ID),
        (f"  https://{AZURE}/  \n", ID),
        (f"HTTPS://{AZURE}/?o={ID}", ID),
        (f"https://{AZURE}:443", ID),
        (f"{AZURE}.", ID),
        (GCP, ID),
        (f"https://{GCP}/", ID),
        (f"https://{AWS}/?o={ID}", ID),
        (f"https://{AWS}/?o={ID}#job/1", ID),
        (f"https://{AWS}/browse?x=1&o={ID}", ID),
        (f"https://vanity.cloud.databricks.com?o={ID}", ID),
        (AWS, ""),
        (f"https://{AWS}/?o=12x", ""),
        (f"https://{AWS}/?o=", ""),
        (f"https://{AWS}/?o=" + "1" * 21, ""),
        ("adb-1.2.azuredatabricks.net.evil.example", ""),
        ("https://evil.example/adb-1.2.azuredatabricks.net", ""),
        ("evil-adb-1.2.azuredatabricks.net", ""),
        ("adb-1.2.azuredatabricks.net@evil.example", ""),
        ("https://user@adb-1.2.azuredatabricks.net", ""),
        ("https://evil.example\\@adb-1.2.azuredatabricks.net", ""),
        ("adb-1\n2.3.azuredatabricks.net", ""),
        ("adb-1 2.3.azuredatabricks.net", ""),
        ("adb-١٢.3.azuredatabricks.net", ""),
        ("adb-1.2.azuredatabric\u212as.net", ""),  # the Kelvin sign is "k" in lower case
        ("adb-1.azuredatabricks.net", ""),
        ("adb-.2.azuredatabricks.net", ""),
        (f"https://{AWS}/?o=١٢", ""),
        ("1.2.gcp.databricks.com.evil.example", ""),
        ("http://adb-1.2.azuredatabricks.net", ""),
        ("https://[", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_workspace_id_from_host(host: str | None, expected: str) -> None:
    assert utils._derive_workspace_id_from_host(host) == expected


@pytest.mark.parametrize(
    ("workspace_id", "host", "expected"),
    [
        (ID, AZURE, AZURE_GATEWAY),
        (ID, f" HTTPS://{AZURE.upper()}/?o=1 ", AZURE_GATEWAY),
        (ID, GCP, GCP_GATEWAY),
        (ID, AWS, AWS_GATEWAY),
        (ID, "", AWS_GATEWAY),
        (ID, None, AWS_GATEWAY),
        (ID, f"{AZURE}.evil.example", ""),
        ("", AZURE, ""),
        ("1.evil.example/", AZURE, ""),
        ("1/../", AWS, ""),
    ],
)
def test_gateway_candidate(workspace_id: str, host: str | None, expected: str) -> None:
    assert utils._build_gateway_candidate(workspace_id, host) == expected


SOVEREIGN = [
    "adb-1.17.databricks.azure.cn",
    "adb-1.4.databricks.azure.us",
    "adb-1.4.azuredatabricks.us",
    "dbc-x.cloud.databricks.us",
    "dbc-x.cloud.databricks.mil",
    "10.1.2.3",
    "http://[::1]",
    "evil.com",
    "databricks.com",
    "notdatabricks.com",
    "databricks.corp.internal",
]


@pytest.mark.fault("token", len(SOVEREIGN))
@pytest.mark.parametrize("host", SOVEREIGN)
def test_no_token_is_tempted_into_another_cloud(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(utils, "_probe_gateway", lambda url: pytest.fail(url))
    assert utils._build_gateway_candidate(ID, host) == ""
    assert utils.get_gateway_host({"DATABRICKS_HOST": host, "DATABRICKS_WORKSPACE_ID": ID}) == ""
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert host in line
    assert "DATABRICKS_GATEWAY_HOST" in line
    assert (
        utils.get_gateway_host({"DATABRICKS_HOST": host, "DATABRICKS_GATEWAY_HOST": EXPLICIT})
        == EXPLICIT
    )


@pytest.mark.parametrize(
    ("url", "cloud"),
    [
        (AZURE_GATEWAY, "azuredatabricks.net"),
        (GCP, "gcp.databricks.com"),
        (GCP_GATEWAY, "gcp.databricks.com"),
        (AWS, "databricks.com"),
        ("vanity.cloud.databricks.com", "databricks.com"),
        (f"https://{AWS}/serving-endpoints", "databricks.com"),
        ("adb-1.17.databricks.azure.cn", "databricks.azure.cn"),
        ("evil.azuredatabricks.net.example", ""),
        ("evilazuredatabricks.net", ""),
        ("no host", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_a_host_says_its_cloud(url: str | None, cloud: str) -> None:
    assert urls.cloud_of(url) == cloud


PLACEHOLDER = "https://<workspace-id>.0.ai-gateway.azuredatabricks.net"
EXPLICIT = "https://gateway.example"


@pytest.mark.parametrize(
    ("env", "expected", "probed"),
    [
        (
            {
                "_GATEWAY_RESOLVED": "",
                "DATABRICKS_GATEWAY_HOST": EXPLICIT,
                "DATABRICKS_HOST": AZURE,
            },
            "",
            [],
        ),
        (
            {"_GATEWAY_RESOLVED": "https://As.It.Is/", "DATABRICKS_HOST": AZURE},
            "https://As.It.Is/",
            [],
        ),
        ({"DATABRICKS_GATEWAY_HOST": EXPLICIT, "DATABRICKS_HOST": AZURE}, EXPLICIT, []),
        (
            {"DATABRICKS_GATEWAY_HOST": " Gateway.Example/ \n", "DATABRICKS_HOST": AZURE},
            EXPLICIT,
            [],
        ),
        ({"DATABRICKS_GATEWAY_HOST": "", "DATABRICKS_HOST": AZURE}, AZURE_GATEWAY, [AZURE_GATEWAY]),
        (
            {"DATABRICKS_GATEWAY_HOST": PLACEHOLDER, "DATABRICKS_HOST": AZURE},
            AZURE_GATEWAY,
            [AZURE_GATEWAY],
        ),
        (
            {"DATABRICKS_GATEWAY_HOST": "http://gateway.example", "DATABRICKS_HOST": AZURE},
            AZURE_GATEWAY,
            [AZURE_GATEWAY],
        ),
        (
            {"DATABRICKS_WORKSPACE_ID": "42", "DATABRICKS_HOST": AZURE},
            AZURE_GATEWAY.replace(ID, "42"),
            [...],
        ),
        (
            {"DATABRICKS_WORKSPACE_ID": f" {ID}\n", "DATABRICKS_HOST": AWS},
            AWS_GATEWAY,
            [AWS_GATEWAY],
        ),
        ({"DATABRICKS_WORKSPACE_ID": "a b", "DATABRICKS_HOST": AZURE}, "", []),
        ({"DATABRICKS_HOST": f"https://{AWS}/?o={ID}"}, AWS_GATEWAY, [AWS_GATEWAY]),
        ({"DATABRICKS_HOST": GCP}, GCP_GATEWAY, [GCP_GATEWAY]),
        ({"DATABRICKS_HOST": AWS}, "", []),
        ({"DATABRICKS_HOST": "no host"}, "", []),
        ({}, "", []),
    ],
)
def test_gateway_order(
    env: dict[str, str],
    expected: str,
    probed: list[object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[str] = []

    def probe(url: str) -> bool:
        asked.append(url)
        return True

    monkeypatch.setattr(utils, "_probe_gateway", probe)
    assert utils.get_gateway_host(env) == expected
    assert asked == ([expected] if probed == [...] else probed)
    explicit = env.get("DATABRICKS_GATEWAY_HOST", "")
    passed_over = bool(explicit) and "_GATEWAY_RESOLVED" not in env and expected != EXPLICIT
    said = capsys.readouterr().err
    assert ("passed over" in said) is passed_over
    assert ("No AI Gateway is known" in said) is (env.get("DATABRICKS_WORKSPACE_ID") == "a b")


@pytest.mark.parametrize(
    "path",
    [
        "/openai",
        "/openai/v1",
        "/mlflow/v1/",
        "/anthropic",
        "/gemini",
        "/openai/chat/completions",
        "/",
    ],
)
@pytest.mark.parametrize("base", [EXPLICIT, f"https://{AZURE}/ai-gateway"])
def test_explicit_gateway_is_cut_back_to_its_base(base: str, path: str) -> None:
    assert utils.get_gateway_host({"DATABRICKS_GATEWAY_HOST": base + path}) == base


@pytest.mark.parametrize(
    ("value", "empty_is_none", "expected"),
    [
        (None, False, None),
        (None, True, None),
        (" \n", False, None),
        (" \n", True, ""),
        (f"{EXPLICIT}/openai/", True, EXPLICIT),
        (PLACEHOLDER, True, None),
        ("http://gateway.example", True, None),
    ],
)
def test_what_the_gateway_setting_says(
    value: str | None, empty_is_none: bool, expected: str | None
) -> None:
    assert urls.given_gateway(value, empty_is_none) == expected


def test_gateway_that_does_not_answer_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "_probe_gateway", lambda url: False)
    assert utils.get_gateway_host({"DATABRICKS_HOST": AZURE}) == ""


def test_children_do_not_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_GATEWAY_RESOLVED", "DATABRICKS_GATEWAY_HOST", "DATABRICKS_WORKSPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABRICKS_HOST", AZURE)
    asked: list[str] = []

    def probe(url: str) -> bool:
        asked.append(url)
        return False

    monkeypatch.setattr(utils, "_probe_gateway", probe)
    monkeypatch.setitem(os.environ, "_GATEWAY_RESOLVED", "")
    del os.environ["_GATEWAY_RESOLVED"]
    assert utils.resolve_and_cache_gateway() == ""
    assert utils.resolve_and_cache_gateway() == ""
    assert os.environ["_GATEWAY_RESOLVED"] == ""
    assert asked == [AZURE_GATEWAY]


@pytest.mark.fault("gateway")
@pytest.mark.parametrize("status", [200, 302, 401, 404, 500])
@responses.activate
def test_any_http_answer_is_reachable(
    status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine gateway.example login token password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    responses.get(EXPLICIT, status=status, headers={"Location": "https://login.example"})
    assert utils._probe_gateway(EXPLICIT)
    assert len(responses.calls) == 1
    assert "Authorization" not in responses.calls[0].request.headers


@pytest.mark.fault("network")
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (requests.ConnectTimeout("..."), "timed out"),
        (requests.ReadTimeout("..."), "timed out"),
        (
            requests.exceptions.SSLError(
                OSError("certificate verify failed: self-signed certificate")
            ),
            "TLS: certificate verify",
        ),
        (
            requests.exceptions.ProxyError(OSError("Tunnel connection failed: 502 Bad Gateway")),
            "proxy: Tunnel connection failed",
        ),
        (
            requests.ConnectionError(OSError("Failed to resolve 'gateway.example'")),
            "DNS: no such host",
        ),
        (
            requests.ConnectionError("[Errno 111] Connection refused"),
            "connection: Connection refused",
        ),
        (requests.exceptions.InvalidURL(), "connection: InvalidURL"),
        (OSError("no CA bundle"), "connection: no CA bundle"),
        (
            requests.exceptions.ProxyError(OSError("Failed to resolve 'proxy.example'")),
            "proxy: no such host",
        ),
    ],
)
@responses.activate
def test_a_failed_probe_says_why_in_one_line(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    responses.get(EXPLICIT, body=error)
    assert not utils._probe_gateway(EXPLICIT)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith(f"AI Gateway {EXPLICIT} cannot be reached ({said}")
    assert "going on without it" in line


def test_a_probe_ends_in_time_where_requests_would_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    over, gone = threading.Event(), threading.Event()
    assert urls.why_unreachable(TimeoutError("no answer within 1 s")) == "timed out"

    def hang(*_: object, **__: object) -> None:
        over.wait(60)
        gone.set()
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "get", hang)
    assert urls.unreachable(EXPLICIT, timeout=0.05) == "timed out after 0.05 s"
    over.set()
    assert gone.wait(60)


def test_a_failed_look_up_and_a_real_refusal_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")

    def look_up(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        assert urls.unreachable("https://no-such-host.invalid", timeout=60) == "DNS: no such host"
    assert urls.unreachable("https://127.0.0.1:1", timeout=60) == "connection: Connection refused"


@pytest.mark.fault("hostile host names")
@pytest.mark.parametrize("value", BAD_URLS)
def test_a_bad_url_is_one_clear_line(value: str) -> None:
    with pytest.raises(
        ValueError,
        match=r"\ASETTING: .* is not valid \(.*\); expected something like https://host.example\Z",
    ) as caught:
        urls.clean_url("SETTING", value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "dapi0" not in str(caught.value)
    with pytest.raises(ValueError, match=r"expected something like https://adb-\d+\.7\.azure"):
        urls.clean_url("DATABRICKS_HOST", value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://localhost", "http://localhost"),
        (f"{AZURE.upper()}/?o=1#x", f"https://{AZURE}"),
    ],
)
def test_clean_url(value: str, expected: str) -> None:
    assert urls.clean_url("SETTING", value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Claude\ntext\n# Two\n", "# Hermes \\1\ntext\n# Two\n"),
        ("intro\n\n# Claude\ntext", "intro\n\n# Hermes \\1\ntext"),
        ("## only a smaller header\n", "# Hermes \\1\n\n## only a smaller header\n"),
    ],
)
def test_adapt_instructions_file(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "CLAUDE.md", tmp_path / "new" / "folder" / "HERMES.md"
    assert not utils.adapt_instructions_file(source, target, "# Hermes \\1", "Hermes")
    assert "is not there" in capsys.readouterr().out
    assert not target.exists()
    source.write_text(text)
    assert utils.adapt_instructions_file(source, target, "# Hermes \\1", "Hermes")
    assert target.read_text() == expected


@pytest.mark.parametrize(
    ("script", "expected"), [("echo 1.2.3", "1.2.3"), ("exit 1", None), ("true", None)]
)
def test_npm_version(
    script: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert utils.get_npm_version("package") is None
    (tmp_path / "npm").write_text(
        f'#!/bin/sh\n[ "$*" = "view package version" ] || exit 9\n{script}\n'
    )
    (tmp_path / "npm").chmod(0o755)
    assert utils.get_npm_version("package") == expected


def test_npm_is_asked_as_codas_own_tests_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def run(*positional: object, **named: object) -> subprocess.CompletedProcess[str]:
        asked.append((positional, named))
        return subprocess.CompletedProcess([], 1, "1.2.3\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert utils.get_npm_version("package") is None
    assert asked == [
        (
            (["npm", "view", "package", "version"],),
            {"capture_output": True, "text": True, "timeout": 30},
        )
    ]


def test_npm_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, timeout: float, **__: object) -> None:
        raise subprocess.TimeoutExpired("npm", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert utils.get_npm_version("package") is None


def test_nothing_happens_at_import() -> None:
    """No connection, no child, no file written: watched by an audit hook. What discovery does
    without is not imported by utils.
    """
    code = """if True:
        import sys
        def watch(event, args):
            written = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
            asked = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir")
            if written or event in asked:
                print(event, args)
        sys.dont_write_bytecode = True
        sys.addaudithook(watch)
        import utils
        print(*{"requests", "yaml", "asyncio"} & sys.modules.keys(), sep="")
        import setup_hermes
    """
    root = Path(utils.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("\n", "")
