"""Records that could not be read: what they are, and how they are deleted. An admin's business."""

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
    """A record that no process could read."""

    kind: RecordKind
    id: str
    owner: str = Field(description="Id of the API key that a job belongs to; empty where it is not known")
    reason: str = Field(description="What is wrong and where, without content")
    found_at: datetime


class QuarantineView(BaseModel):
    """The oldest records in quarantine, and how many there are."""

    records: list[UnreadableRecord]
    total: int


@router.get(
    "",
    operation_id="listQuarantine",
    summary="List records that could not be read",
    response_model=QuarantineView,
    responses=refusals("service_unavailable"),
)
def list_quarantine(
    parts: WithDependencies, limit: Annotated[int, Query(ge=1, le=1000, description="Records to list")] = 100
) -> Response:
    """They stand in no list and no queue any more. Those of jobs are deleted, with their files, after the retention
    time of the deployment."""
    records = [
        UnreadableRecord(kind=each.kind, id=each.id, owner=each.owner, reason=each.reason, found_at=each.at)
        for each in parts.store.quarantine.records(limit=limit)
    ]
    return view_response(QuarantineView(records=records, total=parts.store.quarantine.size()))


@router.delete(
    "/{kind}/{record_id}",
    operation_id="deleteQuarantined",
    summary="Delete a record that could not be read, with its files",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "Deleted"}} | refusals("record_not_found", "service_unavailable"),
)
def delete_quarantined(
    parts: WithDependencies,
    kind: Annotated[RecordKind, Path(description="As `GET /quarantine` names it")],
    record_id: Annotated[str, Path(max_length=255, description="Id of the record")],
) -> Response:
    # Files first, as for any job: if this breaks off, the record still leads to what is left
    if kind == "job" and is_job_id(record_id):
        parts.objects.delete_prefix(job_prefix(record_id))
    try:
        parts.store.quarantine.drop(kind, record_id)
    except JobNotFoundError:
        raise ServiceError("record_not_found", "There is no such record in quarantine.") from None
    return Response(status_code=204)
