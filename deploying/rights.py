"""What the app may use: its models and a volume, as its resources; by SQL where that is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from databricks.sdk import WorkspaceClient
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service.apps import (
    App,
    AppResource,
    AppResourceServingEndpoint,
    AppResourceServingEndpointServingEndpointPermission,
    AppResourceUcSecurable,
    AppResourceUcSecurableUcSecurablePermission,
    AppResourceUcSecurableUcSecurableType,
)
from databricks.sdk.service.catalog import Privilege

from deploying.console import State, say, state_of, wait
from deploying.settings import volume_of
from deploying.target import Target
from hermes.models import names_of
from hermes.urls import brief_error

# Our resources' names, 30 characters at most: one for each model, and the volume's.
MODELS = ("hermes-model", "hermes-fallback-model", "hermes-direct-model")
VOLUME = "hermes-volume"
OURS = (*MODELS, VOLUME)
# The SDK's names for what a resource gives.
Endpoint = AppResourceServingEndpoint
Query = AppResourceServingEndpointServingEndpointPermission
Uc = AppResourceUcSecurable
Permission = AppResourceUcSecurableUcSecurablePermission
Securable = AppResourceUcSecurableUcSecurableType


def model_resources(client: WorkspaceClient, models: Iterable[str]) -> list[AppResource]:
    """The resources that let an app use its models: model services, and endpoints that are there.

    Arguments:
        client: logged in.
        models: at most as many as `MODELS` has names.
    """
    named = dict(zip(dict.fromkeys(models), MODELS, strict=False))
    services = [model for model in named if names_of(model).service == model]
    endpoints = _endpoints_there(client, [model for model in named if model not in services])
    service, execute, query = Securable.MODEL_SERVICE, Permission.EXECUTE, Query.CAN_QUERY
    return [
        *(AppResource(named[m], uc_securable=Uc(m, service, execute)) for m in services),
        *(AppResource(named[m], serving_endpoint=Endpoint(m, query)) for m in endpoints),
    ]


def _endpoints_there(client: WorkspaceClient, models: list[str]) -> list[str]:
    """Those that are serving endpoints; what an app may use of AI Gateway is not ours to give."""
    there = {endpoint.name for endpoint in client.serving_endpoints.list()} if models else set()
    for model in models:
        if model not in there:
            say(
                "Resources",
                f"none needed for {model}: AI Gateway answered you; whether it answers the app, the"
                " app's page shows",
            )
    return [model for model in models if model in there]


def volume_resource(path: str) -> AppResource:
    """The resource that lets an app write to the volume that a path is in."""
    volume = Uc(volume_of(path), Securable.VOLUME, Permission.WRITE_VOLUME)
    return AppResource(VOLUME, uc_securable=volume)


def describe(resource: AppResource) -> str:
    """A resource in a few words: what, and what for."""
    given = {key: value for key, value in resource.as_dict().items() if isinstance(value, dict)}
    kind, value = next(iter(given.items()), ("", {}))
    names = (value.get(key) for key in ("name", "securable_full_name", "id", "key"))
    name = next(filter(None, names), resource.name)
    return f"{name} ({value.get('permission') or kind})"


def describe_all(resources: Iterable[AppResource]) -> str:
    """Several resources in a few words."""
    return ", ".join(map(describe, resources))


@dataclass(frozen=True)
class Change:
    """What becomes of an app's resources: others' stay, ours are replaced."""

    before: list[AppResource]
    ours: list[AppResource]

    @property
    def others(self) -> list[AppResource]:
        """Those that are not ours."""
        return [resource for resource in self.before if resource.name not in OURS]

    @property
    def new(self) -> list[AppResource]:
        """What the app does not have yet."""
        return [resource for resource in self.ours if resource not in self.before]

    @property
    def lost(self) -> list[AppResource]:
        """What it will not have any more."""
        names = {resource.name for resource in [*self.others, *self.ours]}
        return [resource for resource in self.before if resource.name not in names]


def give_resources(target: Target, app: App | None, wanted: list[AppResource]) -> None:
    """Make these our resources of the app.

    A refusal is no error: the page works without them, and a line says who can give them.
    """
    before = (app.resources if app else None) or []
    change = Change(before, [w for w in wanted if w in before or not _is_held(target, app, w)])
    if not change.new and not change.lost:
        say("Resources", f"{describe_all(wanted)} (unchanged)" if wanted else "none to give")
    elif app is None or target.dry:
        _say_done(target, change.lost, change.new)
    else:
        _give(target, app, change)


def _give(target: Target, app: App, change: Change) -> None:
    given, reason = _replace(target, change)
    lost = change.lost if given or not reason else []
    _say_done(target, lost, [resource for resource in change.new if resource in given])
    refused = [resource for resource in change.ours if resource not in given]
    if refused or (reason and not change.ours):
        _say_refused(target, app, refused, reason)


def _say_refused(target: Target, app: App, refused: list[AppResource], reason: str) -> None:
    """Say who can give what was refused, or take away what was to go."""
    services = [resource for resource in refused if _rights(resource)]
    rest = [resource for resource in refused if not _rights(resource)]
    if services:
        _say_sql(target, app, services, reason)
    if rest or not refused:
        who = app.service_principal_name or app.name
        why = f"{describe_all(rest) or 'that'} refused ({reason})"
        cure = f"who manages that can give it to {who}, or the first chat may be a 403"
        say("Resources", f"{why}: {cure}")


def _say_done(target: Target, lost: list[AppResource], given: list[AppResource]) -> None:
    if lost:
        say("Resources", f"{describe_all(lost)} {target.done('taken away')}")
    if given:
        say("Resources", f"{describe_all(given)} {target.done('given')}")


def _is_held(target: Target, app: App | None, new: AppResource) -> bool:
    """Whether the app has it in another way: by somebody else's resource, or by an admin's SQL."""
    if app is None:
        return False
    others = (r for r in app.resources or [] if r.name not in OURS)
    return any(_gives(r, new) for r in others) or (
        bool(_rights(new)) and not _missing(target, app, new)
    )


def _replace(target: Target, change: Change) -> tuple[list[AppResource], str]:
    """Replace the app's resources: by all of ours, or by those that are not refused one by one.

    Returns:
        What of ours it has now, and the last refusal or "".
    """
    reason = _update(target, [*change.others, *change.ours])
    if not reason:
        return change.ours, ""
    given: list[AppResource] = []
    for one in change.ours if len(change.ours) > 1 else ():
        why = _update(target, [*change.others, *given, one])
        given += [] if why else [one]
        reason = why or reason
    return given, reason


def _update(target: Target, resources: list[AppResource]) -> str:
    """Replace the list of the app's resources; why that was refused, or ""."""
    apps, name = target.client.apps, target.name
    try:
        apps.create_update(name, "resources", app=App(name, resources=resources))
    except DatabricksError as error:
        return brief_error(error)

    def look() -> State:
        return state_of(apps.get_update(name).status)

    state, message = wait("Updating", look, {"SUCCEEDED", "FAILED"})
    return "" if state == "SUCCEEDED" else message


def _say_sql(target: Target, app: App, services: list[AppResource], reason: str) -> None:
    """Say how an admin gives what was refused."""
    why = f"{describe_all(services)} refused ({reason})"
    say("Resources", f"{why}: an admin can give it with")
    missing = [right for service in services for right in _missing(target, app, service)]
    for sql in dict.fromkeys(right.sql for right in missing):
        print(f"  GRANT {sql} TO `{app.service_principal_client_id}`;")


def _gives(resource: AppResource, wanted: AppResource) -> bool:
    """Whether a resource gives what another one would."""
    if resource.serving_endpoint and wanted.serving_endpoint:
        enough = resource.serving_endpoint.permission.value in ("CAN_QUERY", "CAN_MANAGE")
        return enough and resource.serving_endpoint.name == wanted.serving_endpoint.name
    return resource.uc_securable is not None and resource.uc_securable == wanted.uc_securable


@dataclass(frozen=True)
class Right:
    """A privilege on one object of Unity Catalog, and what SQL calls it."""

    kind: str
    name: str
    privilege: Privilege
    sql: str


def _rights(resource: AppResource) -> Collection[Right]:
    """What a model service's resource stands for; nothing for any other resource."""
    securable = resource.uc_securable
    if securable is None or securable.securable_type != Securable.MODEL_SERVICE:
        return ()
    service = securable.securable_full_name
    catalog, schema = service.split(".")[0], service.rpartition(".")[0]
    execute = f"EXECUTE ON SCHEMA {schema}"  # SQL is sure of the schema
    return (
        Right("CATALOG", catalog, Privilege.USE_CATALOG, f"USE CATALOG ON CATALOG {catalog}"),
        Right("SCHEMA", schema, Privilege.USE_SCHEMA, f"USE SCHEMA ON SCHEMA {schema}"),
        Right("MODEL_SERVICE", service, Privilege.EXECUTE, execute),
    )


def _missing(target: Target, app: App, resource: AppResource) -> list[Right]:
    who = app.service_principal_client_id or ""
    return [right for right in _rights(resource) if not _granted(target.client, who, right)]


def _granted(client: WorkspaceClient, who: str, right: Right) -> bool:
    # Where it is not ours to read, giving it will tell.
    with suppress(DatabricksError):
        found = client.grants.get_effective(right.kind, right.name, principal=who)
        held = (p for one in found.privilege_assignments or [] for p in one.privileges or [])
        return any(privilege.privilege == right.privilege for privilege in held)
    return False


def limit_instances(target: Target, app: App) -> None:
    """See that one instance of the app runs: a terminal lives in one of them."""
    if (app.compute_max_instances or 1) == 1:
        return
    count = f"{app.compute_max_instances} instances"
    if target.dry:
        say("App", f"{count} would be one")
        return
    one = App(target.name, compute_min_instances=1, compute_max_instances=1)
    mask = "compute_min_instances,compute_max_instances"
    try:
        target.client.apps.create_update(target.name, mask, app=one)
    except DatabricksError as error:
        why = f"{count} stay ({brief_error(error)})"
        say("App", f"{why}: set one on {target.page}, or terminals are lost between them")
        return
    say("App", f"{count} are one now: a terminal lives in one of them")
