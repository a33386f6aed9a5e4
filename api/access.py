"""Authentication, scopes and rate limits; signed links; protection against pages of other sites.

Every router is included behind one of the `authorize` functions, so an endpoint that declares nothing is closed.
Endpoints get the caller as `WithCaller`.

A browser gives every page that it shows access to the user's network. API keys stop that, because no other site knows
one. Without keys two checks take their place: the host name that was requested (DNS rebinding points another site's
name at this service; `api.middleware.HostGuard`), and the page that sent the request (`refuse_other_sites`: Fetch
Metadata, and Origin for browsers without it).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Query, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.dependencies import Dependencies, WithDependencies, dependencies_of
from api.strictness import check_request
from jobs.errors import ServiceError
from jobs.names import MAX_PRIORITY
from jobs.signing import account_of_holder, is_signed
from jobs.store.keys import Account, ApiKey, Scope, key_id_of

SCHEME = "ApiKey"
LINK_SCHEME = "SignedLink"
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_DESCRIPTION = "`Authorization: Bearer rtk_...`; where the deployment requires keys"
_bearer = HTTPBearer(auto_error=False, scheme_name=SCHEME, description=_DESCRIPTION)
WithKey = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


@dataclass(frozen=True)
class Caller:
    """key, account: None if keys are not required, and for the holder of a signed link. base: how the caller's path
    began, `/v1` or nothing; the links of the answer begin alike."""

    key: ApiKey | None = None
    account: Account | None = None
    base: str = ""

    @property
    def owner(self) -> str:
        """Owner of the jobs that this caller submits: id of the account, or empty."""
        return self.account.id if self.account else ""

    @property
    def key_id(self) -> str:
        """The holder of links that this caller gets: id of the key, or empty."""
        return self.key.id if self.key else ""

    @property
    def sees_all(self) -> bool:
        return self.key is None or Scope.ADMIN in self.key.scopes

    @property
    def only(self) -> str | None:
        """The only owner whose jobs this caller may see; None: all owners."""
        return None if self.sees_all else self.owner

    @property
    def max_priority(self) -> int:
        return MAX_PRIORITY if self.key is None else self.key.max_priority

    def live_jobs(self, usual: int) -> int:
        return usual if self.account is None or self.account.live_jobs is None else self.account.live_jobs


ANYONE = Caller()


class Access(HTTPBearer):
    """Admits the callers of a router: identifies them, counts the request, and checks what it sends. One dependency
    does it all, because FastAPI takes longer to resolve each than most of them run.

    needed: from the method to the scope that a key must allow; None: any valid key.
    """

    def __init__(self, needed: Callable[[str], Scope | None]) -> None:
        super().__init__(auto_error=False, scheme_name=SCHEME, description=_DESCRIPTION)
        self._needed = needed

    async def __call__(  # type: ignore[override]  # no WebSockets here
        self, request: Request
    ) -> HTTPAuthorizationCredentials | None:
        credentials = await super().__call__(request)
        request.state.caller = await admit(request, dependencies_of(request), credentials, self._needed(request.method))
        await check_request(request)
        return credentials


authorize = Access(lambda method: Scope.READ if method in _READING else Scope.SUBMIT)
authorize_any = Access(lambda method: None)
authorize_admin = Access(lambda method: Scope.ADMIN)


async def authorize_metrics(request: Request, parts: WithDependencies, credentials: WithKey) -> None:
    """An admin key, because the metrics count the jobs of all accounts; anyone with the setting `metrics_open`."""
    if not parts.settings.metrics_open:
        await admit(request, parts, credentials, Scope.ADMIN)


async def admit(
    request: Request, parts: Dependencies, credentials: HTTPAuthorizationCredentials | None, scope: Scope | None
) -> Caller:
    """Identify the caller, and count the request. Raises unauthorized, forbidden, rate_limited, cross_site_refused."""
    base = request.scope["root_path"]
    if not parts.settings.require_keys:
        refuse_other_sites(request, parts.settings.public_url, parts.settings.cors_origins)
        return Caller(base=base)
    if credentials is None:
        message = "This call needs an API key, and none was sent."
        raise ServiceError("unauthorized", message, headers={"WWW-Authenticate": "Bearer"})
    # In one thread, because each handover costs more than the work
    key, account = await run_in_threadpool(_identify_and_count, request, parts, credentials.credentials, scope)
    return Caller(key, account, base)


def _identify_and_count(
    request: Request, parts: Dependencies, text: str, scope: Scope | None
) -> tuple[ApiKey, Account]:
    key, account = _identify(parts, text)
    if scope is not None and not key.allows(scope):
        header = f'Bearer error="insufficient_scope", scope="{scope.value}"'
        message = f"This call needs a key with the scope `{scope.value}`."
        raise ServiceError("forbidden", message, headers={"WWW-Authenticate": header})
    _count_request(request, parts, account)
    return key, account


def _identify(parts: Dependencies, text: str) -> tuple[ApiKey, Account]:
    """Unknown, wrong and revoked keys get the same answer, so that it reveals nothing."""
    key_id = key_id_of(text)
    key, account = parts.store.keys.find_with_account(key_id) if key_id else (None, None)
    if key is None or account is None or not key.matches(text) or not key.is_valid:
        header = 'Bearer error="invalid_token"'
        raise ServiceError("unauthorized", "This API key is not valid.", headers={"WWW-Authenticate": header})
    return key, account


def _count_request(request: Request, parts: Dependencies, account: Account) -> None:
    """Raises rate_limited. Header fields: draft-ietf-httpapi-ratelimit-headers-09."""
    per_minute = account.requests_per_minute or parts.settings.requests_per_minute
    allowance = parts.store.keys.consume_token(account.id, per_minute)
    request.state.headers = {
        "RateLimit-Policy": f'"requests";q={per_minute};w=60',
        "RateLimit": f'"requests";r={allowance.left};t={math.ceil(allowance.full_in_s)}',
    }
    if not allowance.is_allowed:
        wait_s = max(1, math.ceil(allowance.retry_in_s))
        message = f"This account is limited to {per_minute} requests a minute; the next one is allowed in {wait_s} s."
        raise ServiceError("rate_limited", message, headers={"Retry-After": str(wait_s)})


def caller_of(request: Request) -> Caller:
    """Raises AttributeError, and so denies access, if no `authorize` ran before the endpoint."""
    caller: Caller = request.state.caller
    return caller


async def get_caller(request: Request) -> Caller:
    """async: see get_dependencies."""
    return caller_of(request)


WithCaller = Annotated[Caller, Depends(get_caller)]


LinkExpires = Annotated[int, Query(ge=0, le=10**12, description="From the link")]
LinkHolder = Annotated[
    str,
    Query(
        max_length=128,
        description="From the link: id of the API key that it was made with, whose revocation ends the link; or the "
        "account, in webhooks, whose last valid key's does",
    ),
]
LinkSignature = Annotated[str, Query(max_length=128, description="From the link")]


def check_link(parts: Dependencies, method: str, path: str, expires: int | None, holder: str, signature: str) -> None:
    """Raises link_invalid: the link was altered, has expired, or its key was revoked. If keys are required, a link
    without one (made before they were) is invalid."""
    is_genuine = expires is not None and is_signed(
        parts.link_key, method, path, expires, signature, time.time(), holder
    )
    if not is_genuine or not _is_valid_holder(parts, holder):
        raise ServiceError("link_invalid", "The link was altered, has expired, or its API key was revoked.")


def _is_valid_holder(parts: Dependencies, holder: str) -> bool:
    account = account_of_holder(holder)
    if account is not None:
        return any(key.is_valid for key in parts.store.keys.of_account(account))
    return key_is_valid(parts, holder)


def key_is_valid(parts: Dependencies, key_id: str) -> bool:
    """True if the key exists and is not revoked; for the empty id, if keys are not required."""
    if not key_id:
        return not parts.settings.require_keys
    key = parts.store.keys.find(key_id)
    return key is not None and key.is_valid


_OWN_SITES = frozenset({"same-origin", "none"})


def refuse_other_sites(request: Request, public_url: str, allowed: Sequence[str]) -> None:
    """Raises cross_site_refused for requests from a page of another site. Programs send neither header.

    allowed: origins of pages that may call (RETALKING_CORS_ORIGINS).
    Following a link to a file is allowed: it opens a page of its own, which the other site cannot read.
    """
    origin = request.headers.get("origin")
    if origin in allowed:
        return
    if origin is not None and not _is_same_origin(origin, request, public_url):
        raise _refusal(f"a page of {origin[:100]}")
    site = request.headers.get("sec-fetch-site", "none")
    if site not in _OWN_SITES and not _is_followed_link(request.method, request.headers):
        raise _refusal(f"a page that is {site[:20]} to this service")


def _refusal(who: str) -> ServiceError:
    message = f"The browser reports that {who} sent this request; without API keys only this service's own pages may."
    return ServiceError("cross_site_refused", message)


def _is_same_origin(origin: str, request: Request, public_url: str) -> bool:
    """True for the requested host and port (HostGuard has checked the name), and for those of the public URL, which a
    proxy may hide from us. `null`, which sandboxed pages send, never matches."""
    try:
        netloc = urlsplit(origin).netloc.lower()
    except ValueError:
        return False
    return netloc in {request.headers.get("host", "").lower(), urlsplit(public_url).netloc.lower()} - {""}


def _is_followed_link(method: str, headers: Mapping[str, str]) -> bool:
    return (
        method == "GET" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    )
