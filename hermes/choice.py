"""Which places Hermes gets: the wanted model where it answers, else the fallback, else the best
model that does.

`prove` is the whole sequence, for setup, `--check`, `make report`, the deployment and the page.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from hermes.answers import Answer, Outcome
from hermes.client import Client
from hermes.learnt import Learnt
from hermes.models import Catalog, is_same, names_of
from hermes.proof import Prover
from hermes.routes import (
    Place,
    Routes,
    default_route,
    direct_place,
    direct_route,
    own_routes,
    places,
)
from hermes.settings import HermesSettings
from hermes.trust import Trust

# Models that are asked for at most where neither the wanted one nor the fallback answers.
SUBSTITUTES = 6


class Choice(Enum):
    """Which model Hermes gets."""

    WANTED = auto()
    FALLBACK = auto()  # the wanted model answers nowhere
    SUBSTITUTE = auto()  # neither does
    NOTHING = auto()  # nor does any other
    UNASKED = auto()


@dataclass(frozen=True)
class Proof:
    """What was asked for, what was chosen, and why.

    `others` are chat models that could be set instead, where nothing answers. `direct` is what
    direct serving says to the wanted model's endpoint; None where that was not asked. `alike` are
    listed models with a name like the wanted one's, where no place knows it.
    """

    settings: HermesSettings
    routes: Routes
    choice: Choice
    learnt: Learnt
    answers: tuple[Answer, ...] = ()
    others: tuple[str, ...] = ()
    direct: Answer | None = None
    alike: tuple[str, ...] = ()

    @property
    def answers_at_all(self) -> bool:
        """Whether Hermes will answer, as far as was asked."""
        return self.choice not in (Choice.NOTHING, Choice.UNASKED)

    @property
    def said_of_wanted(self) -> list[Answer]:
        """What places said of the wanted model, under either of its names."""
        wanted = self.settings.model
        return [answer for answer in self.answers if is_same(answer.place.model, wanted)]

    @property
    def wanted_is_unknown(self) -> bool:
        """Whether places answered for the wanted model, and none knows the name."""
        return {answer.outcome for answer in self.said_of_wanted} == {Outcome.NOT_SERVED}

    def proved(self, place: Place) -> bool:
        """Whether a place was seen to serve its model."""
        return any(a.serves for a in self.answers if a.place == place)


def prove(
    settings: HermesSettings, learnt: Learnt, list_models: bool = False, ask_direct: bool = False
) -> Proof:
    """Ask where both models answer, and choose.

    Arguments:
        settings: checked settings with a host and a token.
        learnt: what an earlier run learnt.
        list_models: list what else each chosen route serves.
        ask_direct: ask direct serving for the wanted model too, whether or not another place has
            it.
    """
    client = Client(settings.token, Trust(settings.host, settings.gateway))
    prover = Prover(client, settings.workspace_id, learnt)
    chooser = _Chooser(settings, prover, Catalog(settings.host, client.ask))
    choice, routes = chooser.choose(ask_direct)
    if list_models:
        routes = chooser.with_models(routes)
    proof = Proof(
        settings,
        routes,
        choice,
        prover.learnt,
        tuple(prover.answers),
        chooser.others() if choice is Choice.NOTHING else (),
        chooser.direct,
    )
    if proof.wanted_is_unknown:
        return replace(proof, alike=chooser.catalog.alike(settings.model))
    return proof


def unproved(settings: HermesSettings, learnt: Learnt) -> Proof:
    """The defaults, unasked."""
    base_url = default_route(settings.host, settings.gateway)
    fallback = Place(base_url, settings.fallback_model)
    last = direct_place(settings.host, settings.fallback_model)
    routes = Routes(Place(base_url, settings.model), fallback, last)
    return Proof(settings, routes, Choice.UNASKED, learnt)


class _Chooser:
    """One choice; what was asked for it is in `prover.answers`."""

    def __init__(self, settings: HermesSettings, prover: Prover, catalog: Catalog) -> None:
        self.settings, self.prover, self.catalog = settings, prover, catalog
        self.direct: Answer | None = None

    def choose(self, ask_direct: bool) -> tuple[Choice, Routes]:
        """Find the two models; or another, where neither is there."""
        settings = self.settings
        wanted = self._find(settings.model)
        if ask_direct and (place := direct_place(settings.host, settings.model)):
            self.direct = self.prover.ask(place)
        # The primary's own route goes first: then one provider does for both models.
        fallback = self._find(settings.fallback_model, wanted.base_url if wanted else "")
        if wanted:
            choice, primary = Choice.WANTED, wanted
        elif fallback:
            choice, primary = Choice.FALLBACK, fallback
        elif substitute := self._find_substitute():
            choice, primary, fallback = Choice.SUBSTITUTE, substitute, substitute
        else:
            routes = unproved(settings, self.prover.learnt).routes
            return Choice.NOTHING, replace(routes, direct=self._direct_for(None))
        return choice, Routes(primary, fallback or primary, self._direct_for(fallback))

    def with_models(self, routes: Routes) -> Routes:
        """The same routes, with what each of them offers; with nothing where nothing is listed."""
        catalog = self.catalog
        if not (catalog.endpoints or catalog.services.types or catalog.windows):
            return routes
        chain = [p for p in (routes.primary, routes.fallback, routes.direct) if p]
        models = {}
        for url in dict.fromkeys(place.base_url for place in chain):
            there = [place for place in chain if place.base_url == url]
            windows = {place.model: catalog.window(place.model) for place in there}
            models[url] = windows | self._offered(url, there)
        return replace(routes, models=models)

    def _offered(self, url: str, there: list[Place]) -> dict[str, int]:
        """What a route serves: model services, where a model that was chosen there is one."""
        services = any(p.is_service for p in there) and url in own_routes(self.settings.host)
        retired = self.prover.learnt.is_retired(Place(url, "databricks-any"))  # whichever
        return self.catalog.offered(url, services, not retired)

    def others(self) -> tuple[str, ...]:
        """What a person may set instead, where nothing was chosen: what was not asked for yet."""
        if not self._was_refused():
            return ()
        tried = {names_of(answer.place.model) for answer in self.prover.answers}
        url = direct_route(self.settings.host)
        offered = self.catalog.offered(url, services=False, old_names=True)
        return tuple(model for model in offered if names_of(model) not in tried)

    def _find(self, model: str, base_url: str = "") -> Place | None:
        """The first place that serves a model, those at this base URL before the others."""
        found = places(self.settings.host, self.settings.gateway, model)
        learnt = self.prover.learnt

        def rank(place: Place) -> tuple[bool, bool, bool]:
            # Retired names last. Before them what is at the base URL, then the table's first place,
            # then what served the last time.
            likely = place == found[0] or learnt.served(place)
            return learnt.is_retired(place), place.base_url != base_url, not likely

        asked = (p for p in sorted(found, key=rank) if self._is_worth_asking(p, model))
        return next((place for place in asked if self.prover.serves(place)), None)

    def _is_worth_asking(self, place: Place, given: str) -> bool:
        """Whether a place may serve: a service on the workspace's own gateway has to be listed."""
        mlflow, native = own_routes(self.settings.host)
        if not place.is_service or place.base_url not in (mlflow, native):
            return True
        if self.prover.known(place) or self.prover.learnt.served(place):
            return True
        # Two names need not be listed: one that was given, and one that a refusal referred to.
        referred = any(a.outcome is Outcome.RETIRED_NAME for a in self.prover.answers)
        unlisted_too = place.base_url == mlflow and (referred or place.model == given)
        return self.catalog.may_serve(place.base_url, place.model, unlisted_too)

    def _find_substitute(self) -> Place | None:
        """The best other model that answers."""
        if not self._was_refused():
            return None
        names = self.catalog.substitutes(self.settings.model)[:SUBSTITUTES]
        return next((place for name in names if (place := self._find(name))), None)

    def _was_refused(self) -> bool:
        """Whether a place refused a model; a refused token, or no answer, does not count."""
        return any(answer.serves is False for answer in self.prover.answers)

    def _direct_for(self, after: Place | None) -> Place | None:
        """The last try on direct serving, for the same model; None where it is refused there."""
        model = after.model if after else self.settings.fallback_model
        place = direct_place(self.settings.host, model)
        return place if place and self.prover.serves(place) is not False else None
