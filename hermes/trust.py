"""Where a workspace's token may go: setup's questions, and what is written, are decided here.

It may go to the workspace's own host, to the workspace's gateway, and to the URLs that the last
setup wrote; where neither host nor URLs are known, to Databricks' hosts. A gateway counts where
`DATABRICKS_GATEWAY_HOST` names it, or where it is in the same one of Databricks' clouds
(`hermes/login.py` checks that). databricks-sdk asks the workspace's own host alone. In
Hermes's config the token stands in the providers that have one of our names and such a URL, and in
`model` while that uses one of these URLs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from hermes.provider.keys import OUR_NAME
from hermes.urls import cloud_of

GATEWAY, DIRECT, SECOND = "databricks-gateway", "databricks-direct", "databricks-fallback"


@dataclass(frozen=True)
class Trust:
    """Where one workspace's token may go.

    `host` and `gateway` are clean URLs, "" where there is none or it is not known. `remembered` are
    the base URLs of the last setup's providers, where they count.
    """

    host: str
    gateway: str = ""
    remembered: frozenset[str] = frozenset()

    def allows(self, url: str) -> bool:
        """Whether the token may be sent to this URL."""
        if any(base and url.startswith(f"{base}/") for base in (self.host, self.gateway)):
            return True
        if url in self.remembered:
            return True
        nothing_known = not self.host and not self.remembered
        return nothing_known and _is_databricks(url)

    def is_ours(self, name: object, url: str) -> bool:
        """Whether a provider, by its name and its base URL, is ours for this token."""
        return is_our_name(name) and self.allows(url)


def trust_of_setup(host: str, gateway: str, last_host: object, last_urls: Iterable[str]) -> Trust:
    """Where a setup may write the token.

    Arguments:
        host: the workspace's URL.
        gateway: its gateway's, or "".
        last_host: the workspace of the last setup. Its routes count while they are this
            workspace's too: a gateway may be out of reach for a while.
        last_urls: the base URLs of the last setup's providers.
    """
    cloud = cloud_of(host)
    known = last_urls if cloud and last_host == host else ()
    return Trust(host, gateway, frozenset(url for url in known if cloud_of(url) == cloud))


def trust_of_refresh(host: str, last_host: object, last_urls: Iterable[str]) -> Trust | None:
    """Where a fresh token may be written.

    Arguments:
        host: the URL of the workspace that the token is of; "" where it is not known.
        last_host: the workspace of the last setup, None where nothing is remembered.
        last_urls: the base URLs of the last setup's providers.

    Returns:
        None where the last setup was for another workspace.
    """
    last = last_host if isinstance(last_host, str) else ""
    if host and last and host != last:
        return None
    return Trust(host or last, remembered=frozenset(last_urls))


def trusts_gateway(host: str, gateway: str) -> bool:
    """Whether a gateway that was found, not named by the user, may have the workspace's token."""
    cloud = cloud_of(host)
    return urlsplit(gateway).netloc == urlsplit(host).netloc or bool(
        cloud and cloud_of(gateway) == cloud
    )


def is_our_name(name: object) -> bool:
    """Whether setup may have given this name to a provider."""
    return isinstance(name, str) and OUR_NAME.fullmatch(name) is not None


def _is_databricks(url: str) -> bool:
    """Whether a URL is below a host of Databricks' own: https, no port and no user info."""
    base = re.match(r"https://[\w.-]+/", url)
    return base is not None and cloud_of(base[0]) != ""
