"""A Databricks workspace and its AI Gateway on loopback; see `workspace.py`."""

from tests.standin.wire import Answer, Call, Cut, Room
from tests.standin.workspace import (
    GATEWAY_FAULTS,
    GPT,
    HOSTS,
    LLAMA,
    NEW_OPUS_4_6,
    NEW_OPUS_4_7,
    OPUS_4_6,
    OPUS_4_7,
    SONNET,
    WORKSPACE_ID,
    StandIn,
)
from tests.standin.worlds import FAULTS, GATEWAY_ROUTES, WORKSPACE_ROUTES, WORLDS, default_serves

__all__ = [
    "FAULTS",
    "GATEWAY_FAULTS",
    "GATEWAY_ROUTES",
    "GPT",
    "HOSTS",
    "LLAMA",
    "NEW_OPUS_4_6",
    "NEW_OPUS_4_7",
    "OPUS_4_6",
    "OPUS_4_7",
    "SONNET",
    "WORKSPACE_ID",
    "WORKSPACE_ROUTES",
    "WORLDS",
    "Answer",
    "Call",
    "Cut",
    "Room",
    "StandIn",
    "default_serves",
]
