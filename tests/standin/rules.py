"""What Databricks is known to refuse, as one table: what, of which models, where, in which words, and who reported it.

Data only, and it imports nothing of ours: the stand-in refuses by it, and whatever asks a real workspace can ask by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Answer = tuple[int, dict[str, Any]]
# Where a rule holds. LEGACY is the gateway's own host, GATEWAY the workspace's `/ai-gateway/`, DIRECT its serving
# endpoints, LISTS its lists of models.
LEGACY, GATEWAY, DIRECT, LISTS = "legacy", "gateway", "direct", "lists"
CHAT = (LEGACY, GATEWAY, DIRECT)


@dataclass(frozen=True)
class Rule:
    """One refusal.

    Arguments:
        name: what options and tests call it.
        what: what is refused.
        status: the HTTP status.
        code: the `error_code` of the answer.
        words: the `message` of the answer; names in braces stand for what differs.
        source: who reported it.
        families: of whose models, see `models.family`; empty for all.
        where: on which surfaces.
        breaks: fields of a chat completion that break it, over a plain question; empty where no field does.
    """

    name: str
    what: str
    status: int
    code: str
    words: str
    source: str
    families: tuple[str, ...] = ()
    where: tuple[str, ...] = CHAT
    breaks: Mapping[str, Any] = field(default_factory=dict)

    def answer(self, **differs: object) -> Answer:
        """The refusal as the workspace words it."""
        return self.status, {"error_code": self.code, "message": self.words.format(**differs)}

    @property
    def pattern(self) -> str:
        """A regular expression for the message, whatever differs."""
        parts = re.split(r"\{\w+\}", self.words)
        return ".+".join(map(re.escape, parts))


_WORLD = [
    Rule(
        "retired",
        "the old name of a pay-per-token model on direct serving, where Unity Gateway is enforced",
        403,
        "PERMISSION_DENIED",
        "Querying pay-per-token foundation model endpoint '{model}' is disabled for this workspace. "
        "Please use Unity Gateway.",
        "databricks-agent-skills, foundation models",
        where=(DIRECT,),
    ),
    Rule(
        "retired-provisioned",
        "a provisioned-throughput foundation model on direct serving, where Unity Gateway is enforced",
        403,
        "PERMISSION_DENIED",
        "Querying provisioned throughput foundation model endpoint '{model}' directly is disabled for "
        "this workspace. Please use Unity Gateway.",
        "databricks-agent-skills, apps",
        where=(DIRECT,),
    ),
    Rule(
        "retired-endpoint",
        "the old name of a model on direct serving, in the words of some workspaces",
        403,
        "PERMISSION_DENIED",
        "Endpoint '{model}' is no longer available. Please use Unity Gateway.",
        "databricks-agent-skills",
        where=(DIRECT,),
    ),
    Rule(
        "retired-gateway",
        "the old name of a model on a gateway route, where Unity Gateway is enforced",
        501,
        "NOT_IMPLEMENTED",
        "'{model}' is no longer available. Use Unity Catalog model services (v3).",
        "litellm PR 40492; omnigent",
        where=(LEGACY, GATEWAY),
    ),
    Rule(
        "retired-gateway-403",
        "the same as retired-gateway, as some workspaces answer it",
        403,
        "PERMISSION_DENIED",
        "'{model}' is no longer available. Use Unity Catalog model services (v3).",
        "a guide that was confirmed against a live workspace",
        where=(LEGACY, GATEWAY),
    ),
    Rule(
        "missing-model",
        "a model service that is not there, or on which EXECUTE is missing",
        404,
        "NOT_FOUND",
        "'{model}' does not exist",
        "CODA PR 140",
        where=(LEGACY, GATEWAY),
    ),
    Rule(
        "missing-endpoint",
        "an endpoint that is not there; also every new name on direct serving",
        404,
        "ENDPOINT_NOT_FOUND",
        "The given endpoint does not exist, please retry after checking the specified model and version "
        "deployment exists.",
        "the trace that started this project",
    ),
    Rule(
        "no-entitlement",
        "a model to which this workspace is not entitled (Free Edition, some new ones)",
        403,
        "PERMISSION_DENIED",
        "The endpoint is temporarily disabled due to a Databricks-set rate limit of 0.",
        "reports of Free Edition workspaces",
    ),
    Rule(
        "busy",
        "more output tokens a minute than the workspace's tier has; max_tokens counts before admission",
        429,
        "REQUEST_LIMIT_EXCEEDED",
        "REQUEST_LIMIT_EXCEEDED: Exceeded workspace output tokens per minute rate limit for {model}.",
        "Microsoft Learn, Foundation Model APIs rate limits and quotas",
    ),
    Rule(
        "disabled",
        "every gateway route of a workspace whose AI Gateway is off",
        404,
        "FEATURE_DISABLED",
        "AI Gateway is not available for this workspace.",
        "a workspace of the classic world",
        where=(LEGACY, GATEWAY),
    ),
    Rule(
        "stale-token",
        "a token that has expired, was revoked or never was",
        403,
        "403",
        "Invalid access token.",
        "the trace that started this project",
        where=(*CHAT, LISTS),
    ),
    Rule(
        "foreign-token",
        "a token of another workspace",
        400,
        "BAD_REQUEST",
        "Invalid Token",
        "ucode issue 84",
        where=(*CHAT, LISTS),
    ),
    Rule(
        "narrow-scope",
        "a token with the scope ai-gateway alone, on anything but the workspace's own gateway",
        403,
        "403",
        "Provided OAuth token does not have required scopes: all-apis",
        "reports of ucode's users",
        where=(LEGACY, DIRECT),
    ),
    Rule(
        "no-listing",
        "the lists of Unity Catalog with a token that may ask models but not list them",
        403,
        "403",
        "Provided OAuth token does not have required scopes: unity-catalog",
        "reports of ucode's users",
        where=(LISTS,),
    ),
    Rule(
        "page-size",
        "a list of model services with no page_size, or with one above what the workspace takes",
        499,
        "CANCELLED",
        "The request was cancelled.",
        "unity-gateway 345",
        where=(LISTS,),
    ),
    Rule(
        "list-timeout",
        "a list of model services while the workspace is busy",
        504,
        "DEADLINE_EXCEEDED",
        "The request timed out.",
        "unity-gateway 345",
        where=(LISTS,),
    ),
    Rule(
        "no-schema",
        "model services of a schema that is not there; on sovereign clouds system.ai is none",
        404,
        "SCHEMA_DOES_NOT_EXIST",
        "Schema '{schema}' does not exist.",
        "Unity Catalog's answer for other securables",
        where=(LISTS,),
    ),
]
RULES = {rule.name: rule for rule in _WORLD}
