"""Unreadable records: list and delete them. Admins only."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from api.dependencies import WithDependencies
from api.jobs import view_response
from api.problems import refusals
from jobs.errors import ServiceError
from jobs.names import is_job_id, job_prefix
from jobs.store import JobNotFoundError, RecordKind

router = APIRouter(prefix="/quarantine", tags=["operations"])


class UnreadableRecord(BaseModel):
    """A stored record that cannot be read."""

    kind: RecordKind
    id: str
    owner: str = Field(description="Id of the account that a job belongs to; empty if unknown")
    reason: str = Field(description="What is wrong and where, without the content")
    found_at: datetime


class QuarantineView(BaseModel):
    """The oldest records in quarantine, and their total number."""

    records: list[UnreadableRecord]
    total: int


@router.get(
    "",
    operation_id="listQuarantine",
    summary="List unreadable records",
    response_model=QuarantineView,
    responses=refusals("service_unavailable"),
)
def list_quarantine(
    parts: WithDependencies, limit: Annotated[int, Query(ge=1, le=1000, description="Records to list")] = 100
) -> Response:
    """They are in no other list and in no queue. Those of jobs are deleted with their files after the retention time of
    the deployment."""
    records = [
        UnreadableRecord(kind=each.kind, id=each.id, owner=each.owner, reason=each.reason, found_at=each.at)
        for each in parts.store.quarantine.records(limit=limit)
    ]
    return view_response(QuarantineView(records=records, total=parts.store.quarantine.size()))


@router.delete(
    "/{kind}/{record_id}",
    operation_id="deleteQuarantined",
    summary="Delete an unreadable record with its files",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "Deleted"}, **refusals("record_not_found", "service_unavailable")},
)
def delete_quarantined(
    parts: WithDependencies,
    kind: Annotated[RecordKind, Path(description="As in `GET /quarantine`")],
    record_id: Annotated[str, Path(max_length=255, description="Id of the record")],
) -> Response:
    # Files first, as for any job: if this fails half-way, the record still leads to the remaining files
    if kind == "job" and is_job_id(record_id):
        parts.objects.delete_prefix(job_prefix(record_id))
    try:
        parts.store.quarantine.drop(kind, record_id)
    except JobNotFoundError:
        raise ServiceError("record_not_found", "There is no such record in quarantine.") from None
    return Response(status_code=204)
