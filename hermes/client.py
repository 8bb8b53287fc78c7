"""One request with the user's token: bounded in time and in bytes, and never sent on to where it is
redirected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import requests
from urllib3.exceptions import HTTPError

from hermes.trust import Trust
from hermes.urls import in_time, why_unreachable

CONNECT_TIMEOUT, QUESTION = 2.0, 20.0  # seconds for a connection, and for all of one request
LIST = 4 * 1024 * 1024  # bytes that are read of a list at most


class Reply(NamedTuple):
    """What came back; status 0, and the reason as the body, where no answer came."""

    status: int
    body: bytes


class Client:
    """Sends requests to one workspace and its gateway.

    Arguments:
        token: the user's.
        trust: where it may go; nothing else is asked.

    `workspace_id` is named in each request once it is set: a host may serve several workspaces.
    """

    def __init__(self, token: str, trust: Trust) -> None:
        self.token, self.trust = token, trust
        self.workspace_id = ""
        self._session = requests.Session()

    def ask(
        self,
        url: str,
        body: dict[str, Any] | None = None,
        most: int = LIST,
        enough: Callable[[bytes], bool] = lambda received: False,
    ) -> Reply:
        """Ask for a list, or post JSON.

        Arguments:
            url: where to.
            body: what is posted; None to ask for a list.
            most: bytes of the answer that are read at most.
            enough: whether what was received so far will do.
        """
        try:
            return in_time(lambda: self._send(url, body, most, enough), QUESTION)
        except (OSError, ValueError) as error:  # requests' own errors are OSErrors
            return Reply(0, why_unreachable(error).encode(errors="replace"))

    def _send(
        self, url: str, body: dict[str, Any] | None, most: int, enough: Callable[[bytes], bool]
    ) -> Reply:
        if not self.trust.allows(url):
            raise ValueError(f"the token may not go to {url}")
        # What was sent is read, never what it would unpack to.
        headers = {"Accept-Encoding": "identity"}
        if self.workspace_id:
            headers["X-Databricks-Workspace-Id"] = self.workspace_id

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            # As an auth of ours, or ~/.netrc would replace the header.
            request.headers["Authorization"] = f"Bearer {self.token}"
            return request

        with self._session.request(
            "GET" if body is None else "POST",
            url,
            json=body,
            auth=authorize,
            headers=headers,
            timeout=(CONNECT_TIMEOUT, QUESTION),
            allow_redirects=False,
            stream=True,
            # Plain http is for this machine alone, and a proxy may be elsewhere.
            proxies={"http": ""},
        ) as response:
            return Reply(response.status_code, _read(response, most, enough))


def _read(response: requests.Response, most: int, enough: Callable[[bytes], bool]) -> bytes:
    received = b""
    while len(received) < most and not enough(received):
        try:
            piece = response.raw.read1(most, decode_content=False)
        except HTTPError as error:  # urllib3's own: the answer was cut off
            raise requests.ConnectionError(error) from None
        if not piece:
            break
        received += piece
    return received[:most]
