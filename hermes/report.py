"""What the places' answers mean for a person: a table, a verdict, and a line for each model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hermes.answers import Answer, Outcome
from hermes.choice import Choice, Proof
from hermes.models import is_same
from hermes.routes import Place
from hermes.settings import HermesSettings

NOT_LOGGED_IN = "No Databricks token: set DATABRICKS_TOKEN, or log in with the Databricks CLI."
ABOUT_TOKEN = (Outcome.TOKEN, Outcome.OTHER_WORKSPACE)


def chosen(proof: Proof) -> Iterator[str]:
    """A line for each of the two models: where it is, under which name, and whether it answered
    there.
    """
    settings, routes = proof.settings, proof.routes
    yield _line("Model:", settings.model, routes.primary, proof)
    if routes.fallback != routes.primary:
        yield _line("Fallback:", settings.fallback_model, routes.fallback, proof)
    elif proof.choice is Choice.WANTED and not is_same(settings.model, settings.fallback_model):
        yield f"{'Fallback:':10} none, as {settings.fallback_model} does not answer"
    if instead := substitution(proof):
        yield instead


def substitution(proof: Proof) -> str:
    """The line that says which other model Hermes gets; "" where it gets the wanted one."""
    model, fallback = proof.settings.model, proof.settings.fallback_model
    if proof.choice not in (Choice.FALLBACK, Choice.SUBSTITUTE):
        return ""
    what, why = f"{model} does not answer: until it does", "the fallback"
    if proof.choice is Choice.SUBSTITUTE:
        why = "the best that does"
        if not is_same(model, fallback):
            what = f"Neither {model} nor {fallback} answers: until one does"
    instead = f"Hermes uses {proof.routes.primary.model}, {why}."
    return f"{what}, {instead} To choose another model, set HERMES_MODEL."


def verdict(proof: Proof) -> str:
    """Why the wanted model was proved nowhere, and what to do, as one line."""
    answer = _decisive(proof.said_of_wanted)
    cure = answer.outcome.value.cure.format(model=proof.settings.model, said=answer.said)
    listed = f" This workspace lists {', '.join(proof.others)}." if proof.others else ""
    return f"{cure}{listed}"


def problem(proof: Proof) -> str:
    """Whether the problem of the README is this workspace's, and what setup would write."""
    said = proof.direct
    if not proof.answers_at_all:
        return f"no: nothing that setup can write would answer. {verdict(proof)}"
    place = proof.routes.primary
    writes = f"setup writes {place.model} on {place.base_url}, which answered."
    wanted = said.place.model if said else proof.settings.model
    if proof.wanted_is_unknown and not any(is_same(name, wanted) for name in proof.alike):
        there = f" (this workspace has {', '.join(proof.alike)})." if proof.alike else ""
        return (
            f"no: no place serves {proof.settings.model}: is HERMES_MODEL spelt right?{there}"
            f" Setup would write {place.model}."
        )
    if said is None:
        return f"yes: direct serving knows no model service like {wanted}; {writes}"
    if said.serves:
        return f"no: direct serving has {wanted} too; {writes}"
    return f"yes: direct serving does not answer for {wanted} ({_short_answer(said)}); {writes}"


def both_names(wanted: str, name: str) -> str:
    """A model's name, and what it is called where it answered, where that differs."""
    return f"{wanted} as {name}" if name != wanted and is_same(name, wanted) else name


def table(settings: HermesSettings, answers: Iterable[Answer]) -> str:
    """The answers as aligned columns: model, route, answer, what it means; two lines above say
    where the routes begin.
    """
    bases = route_bases(settings)
    rows = [("MODEL", "ROUTE", "ANSWER", "MEANING")]
    rows += [(a.place.model, short(a.place.base_url, bases), a.answer, a.meaning) for a in answers]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]) for row in rows]
    return "\n".join([*(f"{name + ':':10} {url}" for name, url in bases.items()), *lines])


def route_bases(settings: HermesSettings) -> dict[str, str]:
    """Where routes begin: the URLs of the gateway, if any, and of the workspace, by name."""
    own = {"workspace": settings.host}
    return {"gateway": settings.gateway} | own if settings.gateway else own


def short(url: str, bases: dict[str, str]) -> str:
    """A route's URL for a person, with the name of the base that it begins with."""
    return next(
        f"{name} {url.removeprefix(base)}"
        for name, base in bases.items()
        if url.startswith(f"{base}/")
    )


def _line(label: str, wanted: str, place: Place, proof: Proof) -> str:
    name = both_names(wanted, place.model)
    state = "it answered" if proof.proved(place) else "NOT PROVED"
    if proof.choice is Choice.UNASKED:
        state = "not asked"
    return f"{label:10} {name} on {place.base_url} ({state})"


def _decisive(answers: list[Answer]) -> Answer:
    """The answer that a verdict is about.

    A token that one host took is not to blame for what another says of it, nor is a host that
    cannot be reached where another answered.
    """
    accepted = [a for a in answers if a.status and a.outcome not in ABOUT_TOKEN]
    order = list(Outcome)
    return min(accepted or answers, key=lambda answer: order.index(answer.outcome))


def _short_answer(answer: Answer) -> str:
    """What was answered in a few words; the table has all of it."""
    if not answer.status:
        return answer.said
    meaning = answer.outcome.value.meaning
    return f"{answer.answer}, {meaning}" if meaning else answer.answer
