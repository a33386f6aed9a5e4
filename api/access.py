"""Who calls, what the key or the signed link allows, and how much of it is left."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Query, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.parts import Parts, WithParts
from jobs.api_keys import MAX_PRIORITY, ApiKey, Scope, is_key_id, key_id_of
from jobs.errors import ServiceError
from jobs.links import is_signed

SCHEME = "ApiKey"
LINK_SCHEME = "SignedLink"
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_bearer = HTTPBearer(
    auto_error=False,
    scheme_name=SCHEME,
    description="`Authorization: Bearer rtk_...`; where the deployment requires keys",
)
WithKey = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


@dataclass(frozen=True)
class Caller:
    """key: None where keys are not required, and for a holder of a signed link."""

    key: ApiKey | None = None

    @property
    def owner(self) -> str:
        """Whose the jobs are that this caller makes."""
        return self.key.id if self.key else ""

    @property
    def sees_all(self) -> bool:
        return self.key is None or Scope.ADMIN in self.key.scopes

    @property
    def only(self) -> str | None:
        """The owner whose things this caller sees; None: those of all."""
        return None if self.sees_all else self.owner

    @property
    def max_priority(self) -> int:
        return MAX_PRIORITY if self.key is None else self.key.max_priority

    def live_jobs(self, usual: int) -> int:
        return usual if self.key is None or self.key.live_jobs is None else self.key.live_jobs


ANYONE = Caller()


async def authorise(request: Request, parts: WithParts, credentials: WithKey) -> None:
    """Reading needs the scope `read`, everything else `submit`."""
    scope = Scope.READ if request.method in _READING else Scope.SUBMIT
    await admit(request, parts, credentials, scope)


async def authorise_any(request: Request, parts: WithParts, credentials: WithKey) -> None:
    """Any key that is valid."""
    await admit(request, parts, credentials, None)


async def authorise_admin(request: Request, parts: WithParts, credentials: WithKey) -> None:
    await admit(request, parts, credentials, Scope.ADMIN)


async def authorise_metrics(request: Request, parts: WithParts, credentials: WithKey) -> None:
    """They count the jobs of all keys, so an admin's; open where the deployment says so."""
    if not parts.settings.metrics_open:
        await admit(request, parts, credentials, Scope.ADMIN)


async def admit(
    request: Request, parts: Parts, credentials: HTTPAuthorizationCredentials | None, scope: Scope | None
) -> None:
    """Note the caller at the request. Raises unauthorized, forbidden, rate_limited, cross_site_refused."""
    if not parts.settings.require_keys:
        refuse_other_sites(request, parts.settings.public_url)
        request.state.caller = ANYONE
        return
    text = credentials.credentials if credentials else None
    key = await run_in_threadpool(_identify, parts, text)
    if scope is not None and not key.allows(scope):
        header = f'Bearer error="insufficient_scope", scope="{scope.value}"'
        message = f"This call needs a key with the scope `{scope.value}`."
        raise ServiceError("forbidden", message, headers={"WWW-Authenticate": header})
    await run_in_threadpool(_spend, request, parts, key)
    request.state.caller = Caller(key)


def _identify(parts: Parts, text: str | None) -> ApiKey:
    """One answer for a key that is unknown, wrong or revoked: which of them it is, is nobody's business."""
    if text is None:
        message = "This call needs an API key, and none was sent."
        raise ServiceError("unauthorized", message, headers={"WWW-Authenticate": "Bearer"})
    key_id = key_id_of(text)
    key = parts.store.find_key(key_id) if key_id else None
    if key is None or not key.matches(text) or key.revoked_at is not None:
        header = 'Bearer error="invalid_token"'
        raise ServiceError("unauthorized", "This API key is not valid.", headers={"WWW-Authenticate": header})
    return key


def _spend(request: Request, parts: Parts, key: ApiKey) -> None:
    """Field names and forms: draft-ietf-httpapi-ratelimit-headers-09."""
    per_minute = key.requests_per_minute or parts.settings.requests_per_minute
    allowance = parts.store.spend(key.id, per_minute)
    request.state.headers = {
        "RateLimit-Policy": f'"requests";q={per_minute};w=60',
        "RateLimit": f'"requests";r={allowance.left};t={math.ceil(allowance.full_in_s)}',
    }
    if not allowance.is_allowed:
        wait_s = max(1, math.ceil(allowance.retry_in_s))
        message = f"This key may make {per_minute} requests a minute; the next one passes in {wait_s} s."
        raise ServiceError("rate_limited", message, headers={"Retry-After": str(wait_s)})


async def caller_of(request: Request) -> Caller:
    """AttributeError, and so no entry, where no `authorise` stood before the endpoint. async: see get_parts."""
    return request.state.caller


WithCaller = Annotated[Caller, Depends(caller_of)]


LinkExpires = Annotated[int, Query(ge=0, le=10**12, description="From the link")]
LinkHolder = Annotated[str, Query(max_length=128, description="From the link: id of the API key that it ends with")]
LinkSignature = Annotated[str, Query(max_length=128, description="From the link")]


def check_link(parts: Parts, method: str, path: str, expires: int | None, holder: str, signature: str) -> None:
    """Raises link_invalid: altered, expired, or made for a key that is revoked. Where keys are required a link without
    one, made before they were, opens nothing."""
    is_whole = expires is not None and is_signed(parts.link_key, method, path, expires, signature, time.time(), holder)
    if not is_whole or not _is_held(parts, holder):
        raise ServiceError("link_invalid", "The link was altered, has expired, or its API key was revoked.")


def _is_held(parts: Parts, holder: str) -> bool:
    if not holder:
        return not parts.settings.require_keys
    key = parts.store.find_key(holder) if is_key_id(holder) else None
    return key is not None and key.revoked_at is None


_OWN_SITES = frozenset({"same-origin", "none"})


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
