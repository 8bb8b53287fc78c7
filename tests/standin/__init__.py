"""A Databricks workspace and its AI Gateway on loopback; see `workspace.py`."""

from tests.standin.workspace import (
    GATEWAY_FAULTS,
    GATEWAY_ROUTES,
    GPT,
    HOSTS,
    LLAMA,
    OPUS_4_6,
    OPUS_4_7,
    SONNET,
    WORKSPACE_ID,
    WORKSPACE_ROUTES,
    Answer,
    Call,
    Cut,
    Room,
    StandIn,
    default_serves,
)

__all__ = [
    "GATEWAY_FAULTS",
    "GATEWAY_ROUTES",
    "GPT",
    "HOSTS",
    "LLAMA",
    "OPUS_4_6",
    "OPUS_4_7",
    "SONNET",
    "WORKSPACE_ID",
    "WORKSPACE_ROUTES",
    "Answer",
    "Call",
    "Cut",
    "Room",
    "StandIn",
    "default_serves",
]
