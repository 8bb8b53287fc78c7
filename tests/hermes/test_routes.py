"""hermes/routes.py and hermes/choice.py: where a model may be, and what is written, with HTTP mocked."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
import responses

from hermes.routes import Place, direct_place, places
from setup_hermes import main
from tests.hosts import AZURE_GATEWAY
from tests.mocked import (
    DIRECT,
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

NEW, NATIVE = "system.ai.claude-opus-4-7", f"{HOST}/ai-gateway/openai/v1"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            name,
            [(OPENAI, OPUS_4_7), (MLFLOW, OPUS_4_7), (OWN, NEW), (OWN, OPUS_4_7), (NATIVE, NEW), (DIRECT, OPUS_4_7)],
        )
        for name in (OPUS_4_7, NEW)
    ]
    + [
        ("mine", [(OPENAI, "mine"), (MLFLOW, "mine"), (OWN, "mine"), (DIRECT, "mine")]),
        ("main.ai.m", [(OWN, "main.ai.m"), (NATIVE, "main.ai.m"), (OPENAI, "main.ai.m"), (MLFLOW, "main.ai.m")]),
    ],
)  # fmt: skip
def test_where_a_model_may_be(model: str, expected: list[tuple[str, str]]) -> None:
    found = places(HOST, AZURE_GATEWAY, model)
    assert [(p.base_url, p.model) for p in found] == expected
    without = [p for p in expected if p[0] not in (OPENAI, MLFLOW)]
    assert [(p.base_url, p.model) for p in places(HOST, "", model)] == without


def test_a_model_service_has_no_place_on_direct_serving() -> None:
    assert direct_place(HOST, NEW) == Place(DIRECT, OPUS_4_7)
    assert direct_place(HOST, "main.ai.m") is None


A, B = OPUS_4_7, OPUS_4_6


@pytest.mark.parametrize(
    ("served", "primary", "fallback", "direct", "asked"),
    [
        ([(OPENAI, A), (OPENAI, B), (DIRECT, B)], (OPENAI, A), (OPENAI, B), True, 3),
        ([(OPENAI, A), (OPENAI, B)], (OPENAI, A), (OPENAI, B), False, 3),
        ([(OPENAI, A), (DIRECT, B)], (OPENAI, A), (DIRECT, B), True, 5),
        ([(MLFLOW, A), (MLFLOW, B), (DIRECT, B)], (MLFLOW, A), (MLFLOW, B), True, 4),
        ([(OWN, A), (OWN, B)], (OWN, A), (OWN, B), False, 5),
        ([(DIRECT, A), (DIRECT, B)], (DIRECT, A), (DIRECT, B), True, 5),
        ([(OPENAI, A), (MLFLOW, B)], (OPENAI, A), (MLFLOW, B), False, 4),
        ([(OPENAI, A)], (OPENAI, A), None, False, 5),
        # The wanted model is not there: the fallback is the model, with no dead entry.
        ([(OPENAI, B), (DIRECT, B)], (OPENAI, B), None, True, 6),
        # Nothing proved: the route and the models that were asked for stay.
        ([], (OPENAI, A), (OPENAI, B), False, 8),
    ],
)
@responses.activate
def test_the_first_place_that_answers_is_written(
    served: list[tuple[str, str]],
    primary: tuple[str, str],
    fallback: tuple[str, str] | None,
    direct: bool,
    asked: int,
    env: dict[str, str],
    home: Path,
) -> None:
    """In the classic world no more is asked than was before there were others."""
    serve(*served)
    assert main([], env) == 0
    config = config_of(home)
    assert config["model"] == {
        "default": primary[1],
        "provider": "custom",
        "base_url": primary[0],
        "api_key": TOKEN,
    }
    urls = {f"custom:{p['name']}": p["base_url"] for p in config["custom_providers"]}
    chain = [(urls[e["provider"]], e["model"]) for e in config["fallback_providers"]]
    expected = [primary, fallback or primary, *([(DIRECT, OPUS_4_6)] if direct else [])]
    assert chain == list(dict.fromkeys(expected))
    assert all(p["api_key"] == TOKEN for p in config["custom_providers"])
    assert all(e.keys() == {"provider", "model"} for e in config["fallback_providers"])
    assert [call.request.method for call in responses.calls].count("POST") == asked


@responses.activate
def test_the_place_that_answered_last_is_asked_right_after_the_first(
    env: dict[str, str], home: Path
) -> None:
    serve((OWN, A), (OWN, B))
    assert main([], env) == 0
    before = len(responses.calls)
    assert main([], env) == 0
    again = [call.request.url for call in [*responses.calls][before:]]
    assert again[:2] == [f"{OPENAI}/chat/completions", f"{OWN}/chat/completions"]


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
    asked = env | {"HERMES_PROVE": "false", "_GATEWAY_RESOLVED": gateway}
    assert main([], asked) == 0
    config = config_of(home)
    assert config["model"]["base_url"] == expected
    assert "databricks-direct" in [p["name"] for p in config["custom_providers"]]
    assert main([], asked | {"HERMES_FALLBACK_MODEL": "main.ai.m"}) == 0
    chain = config_of(home)["fallback_providers"]
    assert {
        "provider": "custom:databricks-direct",
        "model": "main.ai.m",
    } not in chain or not gateway
    assert len(responses.calls) == 0


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
        (
            NOT_FOUND,
            f"{OPUS_4_7} is served on none of these routes: set HERMES_MODEL to a model that is.",
        ),
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
    assert f"{OPUS_4_7}  gateway /openai " in output.err
    assert "NOT PROVED" in output.out
    assert config_of(home)["model"]["base_url"] == OPENAI
    assert TOKEN not in output.out + output.err


@responses.activate
def test_a_token_that_one_host_took_is_not_to_blame(
    env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    serve()
    responses.replace("POST", f"{OPENAI}/chat/completions", status=401)
    assert main(["--check"], env) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"{OPUS_4_7} is served on none of these routes" in last


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
def test_an_unclear_answer_is_no_reason_to_ask_for_other_models(env: dict[str, str]) -> None:
    serve(otherwise=ODD)
    other = {
        "name": "databricks-claude-sonnet-4-5",
        "state": {"ready": "READY"},
        "task": "llm/v1/chat",
    }
    responses.replace("GET", f"{HOST}/api/2.0/serving-endpoints", json={"endpoints": [other]})
    assert main(["--check"], env) == 1
    assert not [c for c in responses.calls if b"sonnet" in (c.request.body or b"")]


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
