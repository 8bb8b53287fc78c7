"""Who else may read a volume, asked with the real databricks-sdk."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")

from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config

from hermes.volume import Readers, find_readers
from tests.standin import StandIn
from tests.standin.files import Volume

ME, APP = "owner@example.com", "0a1b2c3d-0000-4000-8000-000000000001"
READ, WRITE = ("READ_VOLUME", "", ""), ("WRITE_VOLUME", "", "")
BY_SCHEMA, BY_CATALOG = (
    ("READ_VOLUME", "SCHEMA", "main.hermes"),
    ("ALL_PRIVILEGES", "CATALOG", "main"),
)
ALONE = Readers((), whole=True)
VOLUME = Volume()


@pytest.mark.parametrize(
    ("volume", "readers"),
    [
        (VOLUME, ALONE),
        (replace(VOLUME, grants={ME: [READ], APP: [READ, WRITE]}), ALONE),
        (replace(VOLUME, grants={"jo@example.com": [WRITE]}), ALONE),
        (replace(VOLUME, grants={"jo@example.com": [READ]}), Readers(("jo@example.com",), True)),
        (
            replace(VOLUME, grants={"data team": [BY_SCHEMA], "account users": [BY_CATALOG]}),
            Readers(
                ("data team (by the schema main.hermes)", "account users (by the catalog main)"),
                True,
            ),
        ),
        (replace(VOLUME, owner="admins"), Readers(("admins (its owner)",), False)),
        (
            replace(VOLUME, owner="Owner@example.com", me=APP, grants={APP: [("MANAGE", "", "")]}),
            ALONE,
        ),
        (
            replace(VOLUME, me=APP, grants={"jo@x": [READ], APP: [READ]}, sees_grants=False),
            Readers(),
        ),
        (
            replace(VOLUME, forbidden=True),
            Readers(problem="Volume 'main.hermes.state' does not exist"),
        ),
        (
            replace(VOLUME, grants={f"u{n}": [READ] for n in range(20)}),
            Readers(problem="there are too many grants"),
        ),
    ],
)
def test_who_may_read_a_volume(
    volume: Volume, readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StandIn(rooms=volume.rooms()) as workspace:
        for name, value in workspace.env.items():
            if name.lower().endswith(("_proxy", "_bundle", "_cert_file")):
                monkeypatch.setenv(name, value)
        host, token = workspace.env["DATABRICKS_HOST"], workspace.token
        config = Config(host=host, token=token, auth_type="pat", retry_timeout_seconds=1)
        assert (
            find_readers(
                lambda: WorkspaceClient(config=config), f"{volume.path}/a folder", [ME, APP]
            )
            == readers
        )


@pytest.mark.parametrize(
    ("readers", "line"),
    [
        (ALONE, ""),
        (Readers(("a", "b"), True), "readable by others: a, b"),
        (Readers(("a", "b", "c", "d"), False), "readable by others: a, b, c and 1 more"),
        (Readers(), "who else may read the volume is not known: only who manages it can see that"),
        (Readers(problem="no"), "who else may read the volume is not known (no)"),
    ],
)
def test_it_is_said_in_one_line(readers: Readers, line: str) -> None:
    assert readers.line == line
