"""What the app may use: serving endpoints and a volume as its resources, models of Unity Catalog by grants."""

from __future__ import annotations

import re
from collections.abc import Collection
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
from databricks.sdk.service.catalog import PermissionsChange, Privilege

from deploying.app import Target, brief, say

MODEL, FALLBACK, VOLUME = (
    "hermes-model",
    "hermes-fallback-model",
    "hermes-volume",
)  # our resources' names
# What the service fills in; all the rest of an app is sent with an update, which clears what is left out.
# Source: databricks.sdk.service.apps.App and AppsAPI.update
FILLED_IN = re.compile(
    "(active|pending)_deployment|(app|compute)_status|(create|update)_time|creator|updater|(default|effective)_.*"
    "|service_principal_.*|oauth2_.*|id|url|thumbnail_url"
)


def endpoint_resources(client: WorkspaceClient, models: Collection[str]) -> list[AppResource]:
    """The resources that let an app ask its models, for those that are serving endpoints of this workspace.

    Arguments:
        client: logged in.
        models: the model and the fallback, or none.
    """
    there = {endpoint.name for endpoint in client.serving_endpoints.list()} if models else set()
    query = AppResourceServingEndpointServingEndpointPermission.CAN_QUERY
    keys = dict(zip(models, (MODEL, FALLBACK), strict=False))
    for model in keys:
        if model not in there and not model.startswith("system.ai."):
            say(
                "Resources",
                f"{model} is no serving endpoint of this workspace: its AI Gateway says who may use it",
            )
    return [
        AppResource(keys[m], serving_endpoint=AppResourceServingEndpoint(m, query))
        for m in keys
        if m in there
    ]


def volume_resource(path: str) -> AppResource:
    """The resource that lets an app write to a volume, which is `/Volumes/catalog/schema/volume`, or to a folder of it."""
    volume = ".".join(path.split("/")[2:5])
    kind, write = (
        AppResourceUcSecurableUcSecurableType.VOLUME,
        AppResourceUcSecurableUcSecurablePermission.WRITE_VOLUME,
    )
    return AppResource(VOLUME, uc_securable=AppResourceUcSecurable(volume, kind, write))


def give_resources(target: Target, app: App | None, wanted: list[AppResource]) -> None:
    """Make these our resources of the app; others' stay, and do where they give the same.

    A refusal is no error: the page works without them, and the line says who can give them.
    """
    kept = [r for r in (app and app.resources) or [] if r.name not in (MODEL, FALLBACK, VOLUME)]
    ours = [w for w in wanted if not any(_gives(r, w) for r in kept)]
    before = {r.name: r for r in (app and app.resources) or []}
    after = {r.name: r for r in [*kept, *ours]}
    what = ", ".join(map(describe, wanted)) or "none"
    if before == after:
        say("Resources", f"{what} (unchanged)" if wanted else "none to give")
        return
    new = [describe(r) for name, r in after.items() if before.get(name) != r]
    lost = [describe(r) for name, r in before.items() if name not in after]
    if app and not target.dry:
        try:
            whole = {
                name: value for name, value in vars(app).items() if not FILLED_IN.fullmatch(name)
            }
            target.client.apps.update(app.name, App(**whole | {"resources": [*kept, *ours]}))
        except DatabricksError as error:
            refused = f"refused ({brief(error)}): who manages {what} can give it to {app.service_principal_name or app.name}"
            say("Resources", f"{refused}, or the first chat may be a 403")
            return
    done = [(new, "given"), (lost, "taken away")]
    say(
        "Resources",
        "; ".join(f"{', '.join(names)} {target.done(word)}" for names, word in done if names),
    )


def describe(resource: AppResource) -> str:
    """A resource in a few words: what, and what for."""
    given = {key: value for key, value in resource.as_dict().items() if isinstance(value, dict)}
    kind, value = next(iter(given.items()), ("", {}))
    name = (
        value.get("name")
        or value.get("securable_full_name")
        or value.get("id")
        or value.get("key")
        or resource.name
    )
    return f"{name} ({value.get('permission') or kind})"


def _gives(resource: AppResource, wanted: AppResource) -> bool:
    """Whether a resource gives what another one would."""
    if resource.serving_endpoint and wanted.serving_endpoint:
        enough = resource.serving_endpoint.permission.value in ("CAN_QUERY", "CAN_MANAGE")
        return enough and resource.serving_endpoint.name == wanted.serving_endpoint.name
    return resource.uc_securable is not None and resource.uc_securable == wanted.uc_securable


def grant_models(target: Target, app: App | None, models: Collection[str]) -> None:
    """Let the app's service principal use models of Unity Catalog, named `system.ai.*`; say the SQL where that is refused."""
    named = sorted({model for model in models if model.startswith("system.ai.")})
    if not named:
        return
    who = (app and app.service_principal_client_id) or ""
    rights = [
        Right(("CATALOG",), "system", Privilege.USE_CATALOG, "USE CATALOG ON CATALOG system"),
        Right(("SCHEMA",), "system.ai", Privilege.USE_SCHEMA, "USE SCHEMA ON SCHEMA system.ai"),
    ]
    # A model there is a model service, or a function where it is a registered model; of these two, SQL is sure of the schema.
    kinds, sql = ("MODEL_SERVICE", "FUNCTION"), "EXECUTE ON SCHEMA system.ai"
    rights += [Right(kinds, model, Privilege.EXECUTE, sql) for model in named]
    missing = [right for right in rights if not (who and _granted(target.client, who, right))]
    refused = [right for right in missing if not (target.dry or _grant(target.client, who, right))]
    state = (
        "refused; an admin can give them with"
        if refused
        else target.done("given")
        if missing
        else "given (unchanged)"
    )
    say("Grants", f"USE CATALOG, USE SCHEMA, EXECUTE for {', '.join(named)}: {state}")
    for sql in dict.fromkeys(right.sql for right in refused):
        print(f"  GRANT {sql} TO `{who}`;")


@dataclass(frozen=True)
class Right:
    """A privilege on one object of Unity Catalog, whose kind may be one of several."""

    kinds: tuple[str, ...]
    name: str
    privilege: Privilege
    sql: str


def _granted(client: WorkspaceClient, who: str, right: Right) -> bool:
    for kind in right.kinds:
        # Where it is not ours to read, or of another kind, asking for it will tell.
        with suppress(DatabricksError):
            found = (
                client.grants.get_effective(kind, right.name, principal=who).privilege_assignments
                or []
            )
            if any(
                held.privilege == right.privilege for one in found for held in one.privileges or []
            ):
                return True
    return False


def _grant(client: WorkspaceClient, who: str, right: Right) -> bool:
    for kind in right.kinds:
        with suppress(DatabricksError):
            client.grants.update(
                kind, right.name, changes=[PermissionsChange(add=[right.privilege], principal=who)]
            )
            return True
    return False
