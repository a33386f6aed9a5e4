"""Webhooks of the caller's account: undelivered events, redelivery, and the signing secret."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from api.access import Caller, WithCaller
from api.dependencies import Dependencies, WithDependencies
from api.jobs import CursorQuery, NextCursor, find_batch, find_job, view_response
from api.problems import refusals
from jobs.errors import ServiceError
from jobs.models import Delivery, DeliveryView
from jobs.names import is_delivery_id
from jobs.store import JobNotFoundError, WebhookSecretState

router = APIRouter(prefix="/webhooks", tags=["webhooks"])

OVERLAP_S = 86400
KeyId = Annotated[
    str | None,
    Query(
        description="Id of a key: the secret of its account; any other account needs the scope `admin`", max_length=64
    ),
]


class UndeliveredEvent(DeliveryView):
    """A webhook event of a job or batch, with its attempts."""

    job_id: str | None = Field(description="null: the event of a batch")
    batch_id: str | None = Field(description="null: an event of a job")

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        shown = {name: getattr(delivery, name) for name in DeliveryView.model_fields}
        return cls(**shown, job_id=delivery.job_id or None, batch_id=delivery.batch_id or None)


class DeliveryList(BaseModel):
    """One page of undelivered events, oldest first."""

    deliveries: list[UndeliveredEvent]
    next_cursor: NextCursor


class WebhookSecret(BaseModel):
    """The secret that signs the webhooks of an account's jobs. While `previous_secret` is set, both secrets sign."""

    account: str = Field(description="Also `owner` in every event")
    secret: str = Field(description="`whsec_` and base64, as in Standard Webhooks")
    version: int
    previous_secret: str | None
    previous_until: datetime | None = Field(description="When the previous secret stops signing")


@router.get(
    "/deliveries",
    operation_id="listUndelivered",
    summary="List undelivered events, oldest first",
    response_model=DeliveryList,
    responses=refusals("service_unavailable"),
)
def list_undelivered(
    parts: WithDependencies,
    caller: WithCaller,
    state: Annotated[
        Literal["pending", "given_up"], Query(description="`pending`: will be tried or retried; `given_up`: will not")
    ] = "given_up",
    limit: Annotated[int, Query(ge=1, le=100, description="Events a page")] = 20,
    cursor: CursorQuery = None,
) -> Response:
    page = parts.store.webhooks.undelivered(state=state, cursor=cursor, limit=limit, owner=caller.only)
    return view_response(
        DeliveryList(deliveries=[UndeliveredEvent.of(each) for each in page.deliveries], next_cursor=page.next_cursor)
    )


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    operation_id="redeliverEvent",
    summary="Redeliver one event",
    status_code=202,
    response_model=UndeliveredEvent,
    responses=refusals("delivery_not_found", "service_unavailable"),
)
def redeliver_event(
    delivery_id: Annotated[str, Path(description="Id of a delivery, as in the header `webhook-id`")],
    parts: WithDependencies,
    caller: WithCaller,
) -> Response:
    """With its original id and the whole retry schedule. Delivered events can be redelivered too."""
    try:
        if not is_delivery_id(delivery_id):
            raise JobNotFoundError(delivery_id)
        found = parts.store.webhooks.find(delivery_id)
        if found.batch_id:
            find_batch(parts, caller, found.batch_id)
        else:
            find_job(parts, caller, found.job_id)
        (delivery,) = parts.store.webhooks.redeliver(found.job_id or found.batch_id, delivery_id)
    except (JobNotFoundError, ServiceError):
        raise ServiceError("delivery_not_found", "There is no delivery with this id.") from None
    return view_response(UndeliveredEvent.of(delivery), 202)


@router.get(
    "/secret",
    operation_id="getWebhookSecret",
    summary="The secret that signs an account's webhooks",
    response_model=WebhookSecret,
    responses=refusals("key_not_found", "webhook_secret_shared", "service_unavailable"),
)
def get_webhook_secret(parts: WithDependencies, caller: WithCaller, key_id: KeyId = None) -> Response:
    owner = _owner_of(parts, caller, key_id)
    return _secret_response(parts, owner, parts.store.webhooks.secret_state(owner))


@router.post(
    "/secret/rotate",
    operation_id="rotateWebhookSecret",
    summary="Replace the secret that signs an account's webhooks",
    response_model=WebhookSecret,
    responses=refusals("key_not_found", "webhook_secret_shared", "service_unavailable"),
)
def rotate_webhook_secret(
    parts: WithDependencies,
    caller: WithCaller,
    key_id: KeyId = None,
    overlap_s: Annotated[
        int, Query(ge=0, le=7 * 86400, description="How long the previous secret signs along with the new one")
    ] = OVERLAP_S,
) -> Response:
    """Until the overlap ends, every event carries both signatures, so a receiver that knows either secret can verify
    it. Use `overlap_s=0` for a leaked secret."""
    owner = _owner_of(parts, caller, key_id)
    return _secret_response(parts, owner, parts.store.webhooks.rotate_secret(owner, overlap_s))


def _owner_of(parts: Dependencies, caller: Caller, key_id: str | None) -> str:
    """Id of the account whose secret is requested. Raises webhook_secret_shared, forbidden, key_not_found."""
    if caller.key is None:
        message = "Keys are not required here, so all webhooks are signed with the secret of the service."
        raise ServiceError("webhook_secret_shared", message)
    key = parts.store.keys.find(key_id) if key_id is not None else caller.key
    if key is not None and key.account == caller.owner:
        return caller.owner
    if not caller.sees_all:
        raise ServiceError("forbidden", "The secret of another account needs a key with the scope `admin`.")
    if key is None:
        raise ServiceError("key_not_found", "There is no key with this id.")
    return key.account


def _secret_response(parts: Dependencies, owner: str, state: WebhookSecretState) -> Response:
    secret, *previous = parts.webhook_secrets.at(owner, state)
    body = WebhookSecret(
        account=owner,
        secret=secret,
        version=state.version,
        previous_secret=previous[0] if previous else None,
        previous_until=state.previous_until if previous else None,
    )
    return view_response(body, headers={"Cache-Control": "no-store"})
