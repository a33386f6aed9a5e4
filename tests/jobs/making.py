"""Jobs, results and workers for the tests of the store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jobs.models import (
    InputRef,
    Job,
    JobRequest,
    JobSpec,
    MetricResult,
    RenderInfo,
    ResultInfo,
    WorkerInfo,
)
from jobs.names import curves_key, new_job_id, poster_key, preview_key, targets_key
from jobs.store import JobStore, Lease

RETENTION_S = 3600
HOOK = "https://hooks.example.com/in"
EVERY_EVENT = ["job.started", "job.progress", "job.succeeded", "job.failed", "job.canceled"]


def published_keys(result: str) -> tuple[str, ...]:
    """Everything that the render of a lease may publish. result: key of its result."""
    return result, curves_key(result), targets_key(result), poster_key(result), preview_key(result)


def spec_of(**request: Any) -> JobSpec:
    source = InputRef(kind="object", key="jobs/1/input/video")
    return JobSpec(video=source, audio=source, request=JobRequest(**request))


def add_job(store: JobStore, *, max_attempts: int = 3, **request: Any) -> Job:
    return store.jobs.create(new_job_id(), spec_of(**request), max_attempts=max_attempts).job


def start_job(store: JobStore, *, lease_s: float = 30.0, **request: Any) -> Lease:
    return claim(store, add_job(store, **request).id, lease_s=lease_s)


def claim(store: JobStore, job_id: str, worker_id: str = "w1", lease_s: float = 30.0) -> Lease:
    lease = store.jobs.claim(job_id, worker_id, lease_s)
    assert lease is not None
    return lease


def result_of(lease: Lease) -> ResultInfo:
    return ResultInfo(
        key=f"jobs/{lease.job_id}/result/attempt-{lease.attempt}.mp4",
        content_type="video/mp4",
        size_bytes=1234,
        sha256="ab" * 32,
        duration_s=2.0,
        width=640,
        height=480,
        fps=25.0,
        frames=50,
    )


RENDER = RenderInfo(
    engine="preview",
    engine_version="1",
    device="cpu",
    face_coverage=0.9,
    faceless_ranges_s=[(0.0, 0.2)],
    stage_times_s={"synthesize": 1.5},
)
EVALUATION = [MetricResult(name="sharpness", value=0.5), MetricResult(name="lse_d", value=None, reason="no model")]


def succeed(store: JobStore, lease: Lease, retention_s: int = RETENTION_S) -> Job:
    return store.jobs.succeed(
        lease, result=result_of(lease), render=RENDER, evaluation=EVALUATION, retention_s=retention_s
    )


def worker_info(worker_id: str) -> WorkerInfo:
    return WorkerInfo(id=worker_id, engines=[], started_at=datetime.now(UTC))
