"""The shapes of a job: what is asked (JobRequest, JobSpec), what is stored (Job), what callers see (JobView)."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from jobs.api_keys import MAX_PRIORITY, USUAL_PRIORITY
from retalking_core.vocabulary.engines import EngineInfo
from retalking_core.vocabulary.metrics import Better
from retalking_core.vocabulary.options import JobOptions
from retalking_core.vocabulary.stages import JOB_STAGES


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_over(self) -> bool:
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED)


WebhookEvent = Literal["job.started", "job.progress", "job.succeeded", "job.failed", "job.canceled"]
DEFAULT_WEBHOOK_EVENTS: tuple[WebhookEvent, ...] = ("job.succeeded", "job.failed", "job.canceled")


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class JobRequest(JobOptions):
    """The `spec` of a submission: the options, and what is done with the job around the render."""

    webhook_url: Annotated[str, StringConstraints(max_length=2048)] | None = Field(
        None, description="http(s) address told about the job"
    )
    webhook_events: list[WebhookEvent] = Field(
        default_factory=lambda: list(DEFAULT_WEBHOOK_EVENTS), max_length=5, description="Which events are delivered"
    )
    priority: int = Field(
        USUAL_PRIORITY, ge=0, le=MAX_PRIORITY, description="2 is served first; a key may be limited to less"
    )
    expires_in_s: int | None = Field(
        None, ge=1, le=30 * 86400, description="Fail the job if it is still queued after this"
    )
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        description="Echoed in the job and its webhooks; at most 16 kB, 16 levels deep, 1000 names and values",
    )


class InputRef(_Shape):
    """Where an input is: an object we hold, or an address the worker fetches."""

    kind: Literal["object", "url"]
    key: str | None = None
    url: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    filename: str | None = Field(None, description="The caller's name for it: data, never a path")


class JobSpec(_Shape):
    """Everything that was asked, fixed at submission."""

    video: InputRef
    audio: InputRef
    expression_image: InputRef | None = None
    request: JobRequest


class ErrorInfo(_Shape):
    code: str = Field(description="Stable code, see GET /errors")
    message: str = Field(description="What happened, in a sentence")
    retryable: bool = False


class ResultInfo(_Shape):
    """The published file, as stored."""

    key: str
    content_type: str
    size_bytes: int
    sha256: str
    duration_s: float
    width: int
    height: int
    fps: float
    frames: int


class MetricResult(_Shape):
    """One number about the result; value null comes with a reason."""

    name: str
    value: float | None
    unit: str = ""
    better: Better = "neutral"
    reason: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict)


class SyncCurve(_Shape):
    """SyncNet's mean distance at the shifts -s .. s. offset_frames: where the smallest lies."""

    distances: list[float | None]
    offset_frames: int


class EvaluationCurves(_Shape):
    """What stands behind the numbers, one value a frame of the result, null where unknown; empty: not measured."""

    fps: float
    mouth_opening: list[float | None] = Field(default_factory=list, description="Inner-lip gap, share of the face size")
    speech_level: list[float | None] = Field(default_factory=list, description="Loudness of the speech, 0..1")
    ssim: list[float | None] = Field(default_factory=list, description="Similarity to the input")
    window_distance: list[float | None] = Field(
        default_factory=list, description="SyncNet's distance of the window that begins at the frame"
    )
    sync: dict[str, SyncCurve] = Field(default_factory=dict, description="Distance over the shift, by protocol")


class RenderNote(_Shape):
    """One thing to know about a result."""

    code: str = Field(description="Stable name of the kind; the table is in docs/inputs.md")
    sentence: str = Field(description="The same for people")
    ranges_s: list[tuple[float, float]] = Field(
        default_factory=list, description="Start and end in seconds of the result; empty: the whole result"
    )


class RenderInfo(_Shape):
    """What the engine reported, JSON-safe."""

    engine: str
    engine_version: str
    device: str
    face_coverage: float
    faceless_ranges_s: list[tuple[float, float]]
    stage_times_s: dict[str, float]
    synthetic_weights: bool = False
    notes: list[RenderNote] = Field(default_factory=list)
    face_cache: Literal["hit", "partial", "miss", "off"] = Field(
        "off",
        description="Whether an earlier job of the same key on the same video had done the work on it; "
        "off: no cache is kept",
    )


class DeliveryAttempt(_Shape):
    at: datetime
    status_code: int | None = None
    error: str | None = None
    duration_ms: int = 0


DeliveryState = Literal["pending", "delivered", "given_up"]


class JobSnapshot(_Shape):
    """What an event tells of a job that went on since: the fields that change while a job lives."""

    status: JobStatus
    stage: str | None
    progress: float
    attempt: int
    cancel_requested: bool
    started_at: datetime | None
    finished_at: datetime | None
    delete_at: datetime | None


class Delivery(_Shape):
    """One webhook event of a job. `id` is the webhook-id header, the same over all its attempts."""

    id: str
    job_id: str
    event: WebhookEvent
    state: DeliveryState = "pending"
    created_at: datetime
    next_attempt_at: datetime | None = None
    attempts: list[DeliveryAttempt] = Field(default_factory=list)
    tries: int = Field(0, description="Attempts since it was made or asked for again")
    holder: str = Field("", description="Token of the process that sends it now")
    snapshot: JobSnapshot | None = Field(None, description="The job at the event; null: made by an earlier version")

    def job_then(self, job: Job) -> Job:
        """The job as it was at the event."""
        if self.snapshot is None:
            return job
        ended = {} if self.snapshot.status.is_over else dict.fromkeys(("error", "result", "evaluation", "render"))
        then = {name: getattr(self.snapshot, name) for name in JobSnapshot.model_fields}
        return job.model_copy(update=then | ended)


class Job(_Shape):
    """The stored truth about a job. Changed only through JobStore's transitions."""

    id: str
    spec: JobSpec
    owner: str = Field("", description="Id of the API key that submitted it; empty: keys were not required")
    request_id: str = Field("", description="Of the submission")
    traceparent: str = Field("", description="Trace context of the submission (W3C), where traces are on")
    status: JobStatus = JobStatus.QUEUED
    stage: str | None = None
    progress: float = Field(0.0, ge=0, le=1)
    attempt: int = 0
    fence: int = Field(0, description="Of its newest lease; grows with every claim, counted as an attempt or not")
    max_attempts: int = 3
    cancel_requested: bool = False
    worker: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deadline_at: datetime | None = None
    delete_at: datetime | None = None
    error: ErrorInfo | None = None
    result: ResultInfo | None = None
    evaluation: list[MetricResult] | None = None
    render: RenderInfo | None = None


# What callers see


class ResultView(_Shape):
    url: str = Field(description="Download link; expires")
    expires_at: datetime | None = Field(None, description="null: the link lives as long as the job")
    content_type: str
    size_bytes: int
    sha256: str
    duration_s: float
    width: int
    height: int
    fps: float
    frames: int


class DeliveryView(_Shape):
    id: str
    event: WebhookEvent
    state: DeliveryState
    created_at: datetime
    next_attempt_at: datetime | None
    attempts: list[DeliveryAttempt]

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        return cls(**{name: getattr(delivery, name) for name in cls.model_fields})


class WebhookView(_Shape):
    url: str
    events: list[WebhookEvent]
    deliveries: list[DeliveryView]


class JobView(_Shape):
    """A job as callers see it: the body of `GET /jobs/{id}` and the `data` of every webhook."""

    id: str
    status: JobStatus
    stage: str | None = Field(description=f"Running stage: {', '.join(JOB_STAGES)}", examples=list(JOB_STAGES))
    progress: float = Field(description="0..1")
    queue_position: int | None = Field(description="1 is next; null when not queued")
    eta_s: float | None = Field(description="Estimate of the seconds left; null when nothing is known yet")
    engine_requested: str
    engine: str | None = Field(description="The engine that ran; `preview` results are previews, not the neural method")
    device: str | None
    attempts: int
    max_attempts: int
    cancel_requested: bool
    options: JobOptions
    priority: int
    metadata: dict[str, Any]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None
    delete_at: datetime | None
    error: ErrorInfo | None
    result: ResultView | None
    render: RenderInfo | None
    evaluation: list[MetricResult] | None
    webhook: WebhookView | None


class JobEvent(_Shape):
    """One line of a job's history, as sent over SSE. `id` is the Redis stream id, usable as Last-Event-ID."""

    id: str
    event: Literal[
        "job.queued", "job.started", "job.progress", "job.requeued", "job.succeeded", "job.failed", "job.canceled"
    ]
    at: datetime
    status: JobStatus
    stage: str | None = None
    progress: float = 0.0
    detail: dict[str, Any] = Field(default_factory=dict)


class GpuMemory(_Shape):
    """Of one device, all processes on it together."""

    device: str
    used_bytes: int
    total_bytes: int


class WorkerInfo(_Shape):
    """A live render worker."""

    id: str
    engines: list[EngineInfo]
    unavailable: dict[str, str] = Field(
        default_factory=dict, description="Engines it does not offer, each with the reason"
    )
    metrics: list[str] = Field(default_factory=list, description="Metrics this worker can compute")
    versions: dict[str, str] = Field(default_factory=dict)
    started_at: datetime
    busy_with: str | None = Field(None, description="Job id in work")
    polled_at: datetime | None = Field(None, description="When its parent last asked the broker for a message")
    gpu_memory: list[GpuMemory] = Field(default_factory=list)
