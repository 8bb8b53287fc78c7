"""What the routes' answers mean for a person: a table, a verdict, and a line for each model."""

from __future__ import annotations

from collections.abc import Iterator

from hermes import provider
from hermes.proof import Answer, Prover
from hermes.routes import Routes
from hermes.settings import HermesSettings

PERMISSION = " Or a permission is missing, which looks the same: USE CATALOG on system, USE SCHEMA on system.ai, EXECUTE on it."


def chosen(settings: HermesSettings, routes: Routes, prover: Prover | None) -> Iterator[str]:
    """A line for each of the two models: where it is, and whether it answered there."""
    for label, place in (("Model:", routes.primary), ("Fallback:", routes.fallback)):
        model, url = place.model, place.base_url
        proved = (
            "not asked"
            if prover is None
            else "it answered"
            if prover.serves(url, model)
            else "NOT PROVED"
        )
        yield f"{label:10} {model} on {url} ({proved})"


def verdict(settings: HermesSettings, prover: Prover) -> str:
    """Say why the primary model was proved nowhere, and what to do.

    Arguments:
        settings: checked settings.
        prover: has asked.

    Returns:
        One line.
    """
    answers = [a for a in prover.answers if a.model == settings.model]
    if any(a.answer in ("HTTP 401", "HTTP 403") for a in answers):
        return "The token was rejected, or may not use this model: check DATABRICKS_TOKEN, or ask for CAN QUERY on it."
    if all(a.answer == "-" for a in answers):
        return f"Nothing answered ({answers[0].meaning}): check DATABRICKS_HOST and the network, then run this again."
    if any(a.serves is None for a in answers):
        return f"No route gave {settings.model} a clear yes: the answers above say why."
    permission = PERMISSION if settings.model.startswith("system.ai.") else ""
    # Open-weight models refuse what Hermes needs.
    others = [
        m
        for m in prover.chat_models(settings.host)
        if m != settings.model and provider.family(m) != "open"
    ]
    do = f"set HERMES_MODEL={others[0]}" if len(others) == 1 else "set HERMES_MODEL to one of them"
    found = (
        f"This workspace serves {', '.join(others)}: {do}."
        if others
        else "Set HERMES_MODEL to a model that is."
    )
    said = (
        "of no use to Hermes on any"
        if any("stream_options" in a.meaning for a in answers)
        else "served on none"
    )
    return f"{settings.model} is {said} of these routes. {found}{permission}"


def table(settings: HermesSettings, answers: list[Answer]) -> str:
    """The answers as aligned columns: model, route, answer, what it means; two lines above say where the routes begin.

    Arguments:
        settings: checked settings.
        answers: a prover's.

    Returns:
        Lines.
    """
    bases = route_bases(settings)
    rows = [("MODEL", "ROUTE", "ANSWER", "MEANING")]
    rows += [(a.model, short(a.base_url, bases), a.answer, a.meaning) for a in answers]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]) for row in rows]
    return "\n".join([*(f"{name + ':':10} {url}" for name, url in bases.items()), *lines])


def route_bases(settings: HermesSettings) -> dict[str, str]:
    """Where routes begin: the URLs of the gateway, if there is one, and of the workspace, by name."""
    return {
        name: url
        for name, url in (("gateway", settings.gateway), ("workspace", settings.host))
        if url
    }


def short(url: str, bases: dict[str, str]) -> str:
    """A route's URL for a person, with the name of the base that it begins with."""
    return next(
        f"{name} {url.removeprefix(base)}"
        for name, base in bases.items()
        if url.startswith(f"{base}/")
    )
