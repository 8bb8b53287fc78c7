"""What the app may use, as its resources: models and a volume.

Where a model service is refused, the SQL with which an admin gives it is printed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from databricks.sdk import WorkspaceClient
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service.apps import App, AppResource
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


def model_resources(client: WorkspaceClient, models: Iterable[str]) -> list[AppResource]:
    """The resources that let an app use its models: model services, and endpoints that are there.

    Arguments:
        client: logged in.
        models: at most as many as `MODELS` has names.
    """
    named = dict(zip(dict.fromkeys(models), MODELS, strict=False))
    services = [model for model in named if names_of(model).service == model]
    endpoints = _endpoints_there(client, [model for model in named if model not in services])
    return [
        *(_securable(named[model], "MODEL_SERVICE", model, "EXECUTE") for model in services),
        *(_endpoint(named[model], model) for model in endpoints),
    ]


def _endpoint(name: str, model: str) -> AppResource:
    given = {"name": model, "permission": "CAN_QUERY"}
    return AppResource.from_dict({"name": name, "serving_endpoint": given})


def _securable(name: str, kind: str, full_name: str, permission: str) -> AppResource:
    given = {"securable_full_name": full_name, "securable_type": kind, "permission": permission}
    return AppResource.from_dict({"name": name, "uc_securable": given})


def _endpoints_there(client: WorkspaceClient, models: list[str]) -> list[str]:
    """Those that are serving endpoints; what an app may use of AI Gateway is not ours to give."""
    there = {endpoint.name for endpoint in client.serving_endpoints.list()} if models else set()
    for model in models:
        if model not in there:
            unsure = "AI Gateway answered you; whether it answers the app, the app's page shows"
            say("Resources", f"none needed for {model}: {unsure}")
    return [model for model in models if model in there]


def volume_resource(path: str) -> AppResource:
    """The resource that lets an app write to the volume that a path is in."""
    return _securable(VOLUME, "VOLUME", volume_of(path), "WRITE_VOLUME")


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


def give_resources(target: Target, app: App | None, wanted: list[AppResource]) -> None:
    """Make these our resources of the app; others' stay.

    A refusal is no error: the page works without them, and a line says who can give them.
    """
    before = (app.resources if app else None) or []
    ours = [one for one in wanted if one in before or not _is_held(target, app, one)]
    new, lost = _without(ours, before), _lost(before, ours)
    if not new and not lost:
        say("Resources", f"{describe_all(wanted)} (unchanged)" if wanted else "none to give")
    elif app is None or target.dry:
        _say_done(target, lost, new)
    else:
        after, reason = _replace(target, before, ours)
        gone, refused = _without(lost, after), _without(ours, after)
        _say_done(target, gone, _without(new, refused))
        if stays := _without(lost, gone):
            cure = f"run this again, or take it away on {target.page}"
            say("Resources", f"{describe_all(stays)} not taken away ({reason}): {cure}")
        _say_refused(target, app, refused, reason)


def _say_done(target: Target, lost: list[AppResource], given: list[AppResource]) -> None:
    if lost:
        say("Resources", f"{describe_all(lost)} {target.done('taken away')}")
    if given:
        say("Resources", f"{describe_all(given)} {target.done('given')}")


def _without(some: list[AppResource], others: list[AppResource]) -> list[AppResource]:
    return [one for one in some if one not in others]


def _lost(before: list[AppResource], after: list[AppResource]) -> list[AppResource]:
    """What an app had of ours under a name that is not there any more."""
    names = {one.name for one in after}
    return [one for one in before if one.name in OURS and one.name not in names]


def _replace(
    target: Target, before: list[AppResource], ours: list[AppResource]
) -> tuple[list[AppResource], str]:
    """Replace what an app has of ours: by all, or by those that are not refused one by one.

    Returns:
        What the app has after it, and the last refusal or "".
    """
    others = [one for one in before if one.name not in OURS]
    after = [*others, *ours]
    reason = _update(target, after)
    if not reason:
        return after, ""
    after = others
    for one in ours if len(ours) > 1 else ():
        why = _update(target, [*after, one])
        after = after if why else [*after, one]
        reason = why or reason
    if after != others:
        return after, reason
    # All was refused: the app keeps what it has, but for what is to be taken away.
    kept = _without(before, _lost(before, ours))
    gone = kept != before and not _update(target, kept)
    return (kept if gone else before), reason


def _say_refused(target: Target, app: App, refused: list[AppResource], reason: str) -> None:
    """Say who can give what was refused, and for a model service by which SQL."""
    services = [one for one in refused if _rights(one)]
    if services:
        why = f"{describe_all(services)} refused ({reason})"
        say("Resources", f"{why}: an admin can give it with")
    missing = [right.sql for service in services for right in _missing(target, app, service)]
    for sql in dict.fromkeys(missing):
        print(f"  GRANT {sql} TO `{app.service_principal_client_id}`;")
    if rest := [one for one in refused if one not in services]:
        who = app.service_principal_name or app.name
        cure = f"who manages that can give it to {who}, or the first chat may be a 403"
        say("Resources", f"{describe_all(rest)} refused ({reason}): {cure}")


def _is_held(target: Target, app: App | None, new: AppResource) -> bool:
    """Whether the app has it in another way: by somebody else's resource, or by an admin's SQL."""
    if app is None:
        return False
    if giving := [one for one in app.resources or [] if _gives(one, new)]:
        # What a resource of ours gives goes with it: its name may be another model's now.
        return any(one.name not in OURS for one in giving)
    return bool(_rights(new)) and not _missing(target, app, new)


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


def _rights(resource: AppResource) -> tuple[Right, ...]:
    """What a model service's resource stands for; nothing for any other resource."""
    securable = resource.uc_securable
    if securable is None or securable.securable_type.value != "MODEL_SERVICE":
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
