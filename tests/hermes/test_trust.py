"""hermes/trust.py: where a token may go."""

from __future__ import annotations

import pytest

from hermes.trust import Trust, is_our_name, trust_of_refresh, trust_of_setup, trusts_gateway

AZURE, OTHER = "https://adb-1.2.azuredatabricks.net", "https://adb-2.7.azuredatabricks.net"
GATEWAY = "https://1.0.ai-gateway.azuredatabricks.net"
AWS_GATEWAY = "https://1.ai-gateway.cloud.databricks.com"
PROXY = "https://llm.example/base"

UNKNOWN = Trust("")
KNOWN = Trust(AZURE, GATEWAY)
PROXIED = Trust(AZURE, PROXY)


@pytest.mark.parametrize(
    ("trust", "url", "allowed"),
    [
        (KNOWN, f"{AZURE}/serving-endpoints", True),
        (KNOWN, f"{AZURE}/ai-gateway/openai/v1", True),
        (KNOWN, f"{AZURE}/api/2.1/unity-catalog/model-services", True),
        (KNOWN, f"{GATEWAY}/openai", True),
        (KNOWN, f"{OTHER}/serving-endpoints", False),
        (KNOWN, f"{AWS_GATEWAY}/openai", False),
        (KNOWN, AZURE, False),
        (KNOWN, "", False),
        (PROXIED, f"{PROXY}/openai", True),
        (PROXIED, "https://llm.example/elsewhere", False),
        (Trust(AZURE, "", frozenset({f"{PROXY}/openai"})), f"{PROXY}/openai", True),
        (Trust(AZURE, "", frozenset({f"{PROXY}/openai"})), f"{PROXY}/mlflow/v1", False),
        (Trust("", "", frozenset({f"{PROXY}/openai"})), f"{AZURE}/serving-endpoints", False),
        (UNKNOWN, f"{AZURE}/serving-endpoints", True),
        (UNKNOWN, f"{AWS_GATEWAY}/openai", True),
        (UNKNOWN, f"{PROXY}/openai", False),
    ],
)
def test_where_a_token_may_go(trust: Trust, url: str, allowed: bool) -> None:
    assert trust.allows(url) is allowed
    assert trust.is_ours("databricks-gateway-2", url) is allowed
    assert not trust.is_ours("mine", url)


@pytest.mark.fault("token")
@pytest.mark.parametrize("trust", [UNKNOWN, KNOWN])
@pytest.mark.parametrize(
    "url",
    [
        f"{AZURE}/x".replace("https", "http"),
        f"{AZURE}/x".replace("https", "ftp"),
        f"{AZURE}/x".removeprefix("https:"),
        f"{AZURE}:8443/serving-endpoints",
        f"{AZURE}/x".replace("://", "://user:word@"),
        f"{AZURE}/x".replace("://", "://evil.example\\@"),
        f"{AZURE}.evil.example/serving-endpoints",
        "https://evil.example/serving-endpoints#.azuredatabricks.net/",
    ],
)
def test_no_odd_url_gets_a_token(trust: Trust, url: str) -> None:
    assert not trust.allows(url)


def test_a_setup_remembers_the_routes_of_its_own_workspace_and_cloud() -> None:
    last = [f"{GATEWAY}/openai", f"{AWS_GATEWAY}/openai", f"{PROXY}/openai"]
    assert trust_of_setup(AZURE, "", AZURE, last).remembered == {f"{GATEWAY}/openai"}
    assert trust_of_setup(AZURE, "", OTHER, last).remembered == set()
    assert (
        trust_of_setup("http://127.0.0.1:80", "", "http://127.0.0.1:80", last).remembered == set()
    )


@pytest.mark.parametrize(
    ("host", "last", "trusted"),
    [(AZURE, AZURE, AZURE), ("", AZURE, AZURE), (AZURE, None, AZURE), (AZURE, OTHER, None)],
)
def test_a_refresh_is_of_the_last_setups_workspace(
    host: str, last: str | None, trusted: str | None
) -> None:
    trust = trust_of_refresh(host, last, [f"{PROXY}/openai"])
    assert (trust and trust.host) == trusted
    assert trust is None or trust.allows(f"{PROXY}/openai")


@pytest.mark.parametrize(
    ("host", "gateway", "trusted"),
    [
        (AZURE, GATEWAY, True),
        (AZURE, f"{AZURE}/ai-gateway", True),
        (AZURE, AWS_GATEWAY, False),
        (AZURE, PROXY, False),
        ("https://dbx.example", PROXY, False),
        ("https://dbx.example", "https://dbx.example/ai-gateway", True),
    ],
)
def test_a_gateway_that_was_found_is_of_the_same_cloud(
    host: str, gateway: str, trusted: bool
) -> None:
    assert trusts_gateway(host, gateway) is trusted


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("databricks-gateway", True),
        ("databricks-direct-2", True),
        ("databricks-fallback-10", True),
        ("databricks-mine", False),
        ("my databricks-direct", False),
        ("", False),
        (None, False),
    ],
)
def test_the_names_of_our_providers(name: object, ours: bool) -> None:
    assert is_our_name(name) is ours
