"""Where the service is, and who we are to it. Shared by both clients."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import httpx

from retalking_client.errors import ServiceUnreachableError

DEFAULT_URL = "http://127.0.0.1:8000"
VERSION = "0.1.0"
MOST_REDIRECTS = 5
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Connection:
    """url: of the service, without a slash at its end. timeout_s: how long it may be silent in one call (a download
    may take any time, as long as bytes keep coming)."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 60.0

    @property
    def timeout(self) -> httpx.Timeout:
        """Writing may take longer: a service that stores an upload slowly is no dead one."""
        return httpx.Timeout(self.timeout_s, connect=min(10.0, self.timeout_s), write=self.timeout_s * 5)

    @property
    def headers(self) -> dict[str, str]:
        """Sent to the service itself, never to the links it gives."""
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {"User-Agent": f"retalking-client/{VERSION}"} | key

    @property
    def trust_env(self) -> bool:
        """No proxy of the environment stands between a program and its own machine."""
        return httpx.URL(self.url).host not in _LOOPBACK


def connect_to(url: str | None, api_key: str | None, timeout_s: float) -> Connection:
    """What is not given comes from RETALKING_URL and RETALKING_API_KEY. Raises ServiceUnreachableError for an address
    that is none."""
    address = (url or os.environ.get("RETALKING_URL") or DEFAULT_URL).rstrip("/")
    try:
        parsed = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise ServiceUnreachableError(f"{address} is not an address: {error}.") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ServiceUnreachableError(f"{address} is not an http(s) address.")
    return Connection(address, api_key or os.environ.get("RETALKING_API_KEY") or None, timeout_s)


def is_same_place(one: httpx.URL, other: httpx.URL) -> bool:
    """Scheme, host and port are the same: only there does our key go along with a redirect."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)
