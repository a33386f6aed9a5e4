"""Pages of other sites, where no key is asked for: what they may not do with a caller's own browser.

A browser lends its place on the network to every page that it shows. Keys stop that, because no other site knows one.
Without keys two checks take their place: the name under which the service is asked (DNS rebinding makes another site's
name point here), and the page that asks (Fetch Metadata, and Origin for browsers without it).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import problem_response
from jobs.errors import ServiceError
from jobs.settings import Settings

# They tell nothing about anybody, and orchestrators ask for them by whatever address a container has.
_PROBES = frozenset({"/healthz", "/readyz"})
_OWN_SITES = frozenset({"same-origin", "none"})


class HostGuard:
    """ASGI middleware: refuses names that are not the service's own. own_hosts: beside those of loopback."""

    def __init__(self, app: ASGIApp, own_hosts: Iterable[str]) -> None:
        self.app = app
        self._own = frozenset(host.lower() for host in own_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _PROBES or self._is_own(_host_of(Request(scope))):
            await self.app(scope, receive, send)
            return
        detail = (
            "Without API keys the service answers only under the names of this machine and those that "
            "RETALKING_PUBLIC_URL and RETALKING_PUBLIC_HOSTS name."
        )
        await problem_response(Request(scope), "host_not_allowed", detail)(scope, receive, send)

    def _is_own(self, host: str | None) -> bool:
        return host is not None and (host in self._own or _is_loopback(host))


def own_hosts(settings: Settings) -> list[str]:
    """Names beside those of loopback under which callers may reach the service."""
    public = urlsplit(settings.public_url).hostname
    return [*settings.public_hosts, *([public] if public else [])]


def refuse_other_sites(request: Request, public_url: str) -> None:
    """Raises cross_site_refused for what a page of another site started. Programs send neither header.

    Following a link to a file is let through: that opens a page of its own, which the other site can not look into.
    """
    origin = request.headers.get("origin")
    if origin is not None and not _is_own_origin(origin, request, public_url):
        raise _refusal(f"a page of {origin[:100]}")
    site = request.headers.get("sec-fetch-site", "none")
    if site not in _OWN_SITES and not _is_followed_link(request.method, request.headers):
        raise _refusal(f"a page that is {site[:20]} to this service")


def _refusal(who: str) -> ServiceError:
    message = f"The browser says that {who} asks; without API keys only this service's own pages may."
    return ServiceError("cross_site_refused", message)


def _is_own_origin(origin: str, request: Request, public_url: str) -> bool:
    """The host and port that were asked (whose name HostGuard has checked), or those of the public address, which a
    proxy may hide from us. `null`, which sandboxed pages send, is nobody's."""
    try:
        asking = urlsplit(origin).netloc.lower()
    except ValueError:
        return False
    return asking in {request.headers.get("host", "").lower(), urlsplit(public_url).netloc.lower()} - {""}


def _is_followed_link(method: str, headers: Mapping[str, str]) -> bool:
    return (
        method == "GET" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    )


def _host_of(request: Request) -> str | None:
    """The name asked for, without its port; None where there is no single one."""
    given = request.headers.getlist("host")
    try:
        return urlsplit(f"//{given[0]}").hostname if len(given) == 1 else None
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
