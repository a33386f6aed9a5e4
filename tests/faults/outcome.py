"""What must be true of every accepted job, under any fault: one function for the tests, and the checks that it consists
of for the soak, which reports all violations instead of the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from botocore.exceptions import ClientError

from jobs.models import Job, JobStatus
from jobs.names import job_prefix, poster_key, preview_key
from tests.faults.service import Service
from tests.services import wait_until

TERMINAL = frozenset({"job.succeeded", "job.failed", "job.canceled"})


def check_outcomes(
    service: Service,
    job_ids: Iterable[str],
    *,
    failed: dict[str, str] | None = None,
    may_be_canceled: bool = False,
    webhook_state: str = "delivered",
    timeout_s: float = 60.0,
) -> list[Job]:
    """Every job reached one terminal state with the right result, sent it under one webhook-id, and left no files.

    failed: code that a job must fail with; all others must succeed (or be canceled, where that is allowed).
    """
    ids = list(job_ids)
    wait_until(lambda: all(service.get(each).status.is_over for each in ids), timeout_s, 0.05, _states(service, ids))
    wait_until(
        lambda: all(_is_settled(service, each) for each in ids), timeout_s, 0.05, "every terminal webhook is settled"
    )
    jobs = [service.get(job_id) for job_id in ids]
    for job in jobs:
        code = (failed or {}).get(job.id)
        allowed = {JobStatus.FAILED} if code else {JobStatus.SUCCEEDED}
        assert job.status in (allowed | {JobStatus.CANCELED} if may_be_canceled else allowed), job
        assert (job.error.code if job.error else None) == code, job.error
        check_history(service, job)
        check_files(service, job, service.expected_sha256)
        check_webhook(service, job, webhook_state)
    check_nothing_is_left(service)
    return jobs


def _states(service: Service, ids: list[str]) -> str:
    return f"{len(ids)} jobs are over; logs in {service.folder}"


def _is_settled(service: Service, job_id: str) -> bool:
    return all(delivery.state != "pending" for delivery in service.store.webhooks.deliveries(job_id))


def check_history(service: Service, job: Job) -> None:
    """One terminal event, and it is the last."""
    names = [event.event for event in service.store.jobs.events(job.id, after=None)]
    assert [name for name in names if name in TERMINAL] == [f"job.{job.status}"], names
    assert names[0] == "job.queued"
    assert names[-1] == f"job.{job.status}"
    assert service.client.get(f"/jobs/{job.id}").json()["status"] == job.status


def check_files(service: Service, job: Job, expected_sha256: str | None, timeout_s: float = 10.0) -> None:
    """The inputs, the named result with the right bytes, and no other object under the job's prefix.

    expected_sha256: of the result of the service's own clips (25 frames); None: the result must match its record.
    """
    kept = keys_of(job)
    if job.status is JobStatus.SUCCEEDED:
        assert job.result is not None
        content = service.client.get(f"/jobs/{job.id}/result").content
        assert hashlib.sha256(content).hexdigest() == job.result.sha256
        assert len(content) == job.result.size_bytes
        assert expected_sha256 is None or (job.result.sha256, job.result.frames) == (expected_sha256, 25)
    else:
        assert job.result is None
    # What a dead attempt published is deleted by the janitor, a moment after the job went on
    wait_until(
        lambda: set(service.objects.list_keys(job_prefix(job.id))) - excerpts_of(job) == kept,
        timeout_s,
        0.1,
        f"only these objects are left: {kept}; there are {set(service.objects.list_keys(job_prefix(job.id)))}",
    )


def keys_of(job: Job) -> set[str]:
    """The objects that a job without evaluation may have once it is over: inputs, also fetched ones, and a result."""
    kept = {str(ref.key) for ref in job.inputs.values() if ref.kind == "object"}
    return kept | ({job.result.key} if job.result else set())


def excerpts_of(job: Job) -> set[str]:
    """Poster and preview, which a result of the stub engine cannot have."""
    return {poster_key(job.result.key), preview_key(job.result.key)} if job.result else set()


def check_webhook(service: Service, job: Job, state: str) -> None:
    deliveries = [each for each in service.store.webhooks.deliveries(job.id) if each.event in TERMINAL]
    assert [(each.event, each.state) for each in deliveries] == [(f"job.{job.status}", state)]
    received = [each for each in service.hooks.about(job.id) if each.event in TERMINAL]
    assert received, f"{job.id}: no terminal webhook"
    assert {each.webhook_id for each in received} == {deliveries[0].id}
    assert {(each.event, each.status) for each in received} == {(f"job.{job.status}", job.status.value)}
    assert service.hooks.forged == 0
    assert service.hooks.strays == []


def check_nothing_is_left(service: Service) -> None:
    """No folder of an attempt, no upload in parts."""
    wait_until(
        lambda: not list(service.work_dir.glob("retalking-attempt-*")), 30, 0.1, "no folder of an attempt is left"
    )
    assert _unfinished_uploads(service) == []


def _unfinished_uploads(service: Service) -> list[str]:
    if service.s3 is None:
        return []  # what a killed process was writing stays in objects/new for a day: docs/reliability.md
    try:
        reply = service.s3.client().list_multipart_uploads(Bucket=service.s3.bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchUpload":  # how rclone says that there never was one
            return []
        raise
    return [row["Key"] for row in reply.get("Uploads", [])]
