"""What is deployed to: an app in somebody's workspace, there already or not."""

from __future__ import annotations

from dataclasses import dataclass

from databricks.sdk import WorkspaceClient


@dataclass(frozen=True)
class Target:
    """An app in a workspace.

    Arguments:
        client: logged in.
        name: the app's.
        me: who is logged in, as the workspace names them.
        dry: say what would be done, and do nothing.
    """

    client: WorkspaceClient
    name: str
    me: str
    dry: bool = False

    @property
    def folder(self) -> str:
        """Where its files are uploaded."""
        return f"/Workspace/Users/{self.me}/{self.name}"

    @property
    def page(self) -> str:
        """Its page in the workspace, with its logs."""
        return f"{self.client.config.host}/apps/{self.name}"

    def done(self, word: str) -> str:
        """What happened, or would have."""
        return f"would be {word}" if self.dry else word
