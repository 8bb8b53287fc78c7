"""The stand-in's volume, as the real `WorkspaceClient().files` uses it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pytest

pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")

from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import AlreadyExists, NotFound, PermissionDenied

from tests.standin import StandIn
from tests.standin.files import Volume

LARGE = os.urandom(2**20) * 61  # bytes; from 50 MB on the SDK sends parts


@pytest.fixture
def volume() -> Volume:
    return Volume("/Volumes/main/hermes/state")


@pytest.fixture
def client(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkspaceClient]:
    with StandIn(rooms=volume.rooms()) as workspace:
        for name, value in workspace.env.items():
            monkeypatch.setenv(name, value)
        yield WorkspaceClient()


@pytest.mark.parametrize("presigned", [True, False])
def test_a_large_file_goes_up_in_parts_or_in_one_piece(
    client: WorkspaceClient, volume: Volume, presigned: bool
) -> None:
    volume.presigned = presigned
    path = f"{volume.path}/a folder/large"
    client.files.upload(path, io.BytesIO(LARGE), overwrite=True)
    assert volume.files[path] == LARGE
    assert any(call.path.startswith("/presigned/") for call in volume.calls) == presigned
    assert not any(
        "authorization" in call.headers
        for call in volume.calls
        if call.path.startswith("/presigned/")
    )
    contents = client.files.download(path).contents
    assert contents
    assert contents.read() == LARGE


def test_files_and_folders(client: WorkspaceClient, volume: Volume) -> None:
    files, path = client.files, volume.path
    files.create_directory(f"{path}/a/b")
    files.upload(f"{path}/a/x", io.BytesIO(b"12345"))
    with pytest.raises(AlreadyExists):
        files.upload(f"{path}/a/x", io.BytesIO(b"1"), overwrite=False)
    assert files.get_metadata(f"{path}/a/x").content_length == 5
    listed = {
        entry.name: (entry.is_directory, entry.file_size)
        for entry in files.list_directory_contents(f"{path}/a")
    }
    assert listed == {"b": (True, None), "x": (False, 5)}
    volume.files |= {f"{path}/many/{number}": b"" for number in range(2500)}
    assert len(list(files.list_directory_contents(f"{path}/many"))) == 2500
    files.delete(f"{path}/a/x")
    for missing in (f"{path}/a/x", "/Volumes/main/hermes/other/x"):
        with pytest.raises(NotFound):
            files.delete(missing)
    volume.forbidden = True
    with pytest.raises(PermissionDenied):
        list(files.list_directory_contents(path))
