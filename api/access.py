"""Who calls, what the key allows, and how much of it is left. Endpoints get the answer as `WithCaller`.

Every feature is included behind one of the `authorise` functions below, so that an endpoint that asks for nothing is
closed, not open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.browsers import refuse_other_sites
from api.dependencies import Dependencies, WithDependencies
from jobs.errors import ServiceError
from jobs.models import MAX_PRIORITY
from jobs.store.keys import ApiKey, Scope, key_id_of

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


async def authorise(request: Request, parts: WithDependencies, credentials: WithKey) -> None:
    """Reading needs the scope `read`, everything else `submit`."""
    scope = Scope.READ if request.method in _READING else Scope.SUBMIT
    await admit(request, parts, credentials, scope)


async def authorise_any(request: Request, parts: WithDependencies, credentials: WithKey) -> None:
    """Any key that is valid."""
    await admit(request, parts, credentials, None)


async def authorise_admin(request: Request, parts: WithDependencies, credentials: WithKey) -> None:
    await admit(request, parts, credentials, Scope.ADMIN)


async def authorise_metrics(request: Request, parts: WithDependencies, credentials: WithKey) -> None:
    """They count the jobs of all keys, so an admin's; open where the deployment says so."""
    if not parts.settings.metrics_open:
        await admit(request, parts, credentials, Scope.ADMIN)


async def admit(
    request: Request, parts: Dependencies, credentials: HTTPAuthorizationCredentials | None, scope: Scope | None
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


def _identify(parts: Dependencies, text: str | None) -> ApiKey:
    """One answer for a key that is unknown, wrong or revoked: which of them it is, is nobody's business."""
    if text is None:
        message = "This call needs an API key, and none was sent."
        raise ServiceError("unauthorized", message, headers={"WWW-Authenticate": "Bearer"})
    key_id = key_id_of(text)
    key = parts.store.keys.find(key_id) if key_id else None
    if key is None or not key.matches(text) or key.revoked_at is not None:
        header = 'Bearer error="invalid_token"'
        raise ServiceError("unauthorized", "This API key is not valid.", headers={"WWW-Authenticate": header})
    return key


def _spend(request: Request, parts: Dependencies, key: ApiKey) -> None:
    """Field names and forms: draft-ietf-httpapi-ratelimit-headers-09."""
    per_minute = key.requests_per_minute or parts.settings.requests_per_minute
    allowance = parts.store.keys.consume_token(key.id, per_minute)
    request.state.headers = {
        "RateLimit-Policy": f'"requests";q={per_minute};w=60',
        "RateLimit": f'"requests";r={allowance.left};t={math.ceil(allowance.full_in_s)}',
    }
    if not allowance.is_allowed:
        wait_s = max(1, math.ceil(allowance.retry_in_s))
        message = f"This key may make {per_minute} requests a minute; the next one passes in {wait_s} s."
        raise ServiceError("rate_limited", message, headers={"Retry-After": str(wait_s)})


async def caller_of(request: Request) -> Caller:
    """AttributeError, and so no entry, where no `authorise` stood before the endpoint. async: see get_dependencies."""
    return request.state.caller


WithCaller = Annotated[Caller, Depends(caller_of)]
