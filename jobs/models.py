"""Models of a job: what is requested (JobRequest, JobSpec), stored (Job), and shown to callers (JobView)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.dataclasses import dataclass

from jobs.names import MAX_PRIORITY, PREFIX_PATTERN, USUAL_PRIORITY
from retalking_core.vocabulary.containers import InputSlot
from retalking_core.vocabulary.engines import JOB_STAGES, EngineInfo, KernelState
from retalking_core.vocabulary.metrics import Better
from retalking_core.vocabulary.options import (
    MAX_SEGMENTS,
    ExpressionName,
    FaceChoice,
    JobOptions,
    OutputOptions,
    UpperFace,
)


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_over(self) -> bool:
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED)


WebhookEvent = Literal[
    "job.started", "job.progress", "job.succeeded", "job.failed", "job.canceled", "job.evaluated", "job.exported"
]
DEFAULT_WEBHOOK_EVENTS: tuple[WebhookEvent, ...] = (
    "job.succeeded",
    "job.failed",
    "job.canceled",
    "job.evaluated",
    "job.exported",
)
BATCH_EVENT: Literal["batch.completed"] = "batch.completed"
DeliveryEvent = WebhookEvent | Literal["batch.completed"]
EvaluatePolicy = Literal["inline", "after", "none"]
JobKind = Literal["render", "analyze"]


class FrozenModel(BaseModel):
    """Immutable; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class JobOutput(OutputOptions):
    """How the result is encoded, and where it is put besides this service."""

    put_url: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = Field(
        default=None, description="http(s) URL that takes the result by PUT, e.g. a presigned link of your bucket"
    )
    prefix: Annotated[str, StringConstraints(pattern=PREFIX_PATTERN, max_length=200)] | None = Field(
        default=None,
        description="Folder in the bucket of the service where a copy of the result is put, below one that the "
        "operator allows (RETALKING_OUTPUT_PREFIXES)",
    )

    @property
    def encoding(self) -> OutputOptions:
        """Without destinations, which may contain credentials."""
        return OutputOptions(**{each.name: getattr(self, each.name) for each in fields(OutputOptions)})


class JobHandling(BaseModel):
    """What every kind of job takes: webhook, priority, deadline and metadata."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    webhook_url: Annotated[str, StringConstraints(max_length=2048)] | None = Field(
        None, description="http(s) URL that receives events of the job"
    )
    webhook_events: list[WebhookEvent] = Field(
        default_factory=lambda: list(DEFAULT_WEBHOOK_EVENTS), max_length=7, description="Which events are delivered"
    )
    priority: int = Field(
        USUAL_PRIORITY,
        ge=0,
        le=MAX_PRIORITY,
        description="2 is rendered first; a key may be limited to lower priorities",
    )
    expires_in_s: int | None = Field(
        None, ge=1, le=30 * 86400, description="Fail the job if it is still queued after this"
    )
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        description="Returned with the job and its webhooks; at most 16 kB, 16 levels, 1000 names and values",
    )


class JobRequest(JobHandling, JobOptions):
    """The `spec` of a submission: render options, and how the job is handled."""

    output: JobOutput = Field(default_factory=JobOutput)
    evaluate_policy: EvaluatePolicy = Field(
        "inline",
        description="When the metrics of `evaluate` are computed. inline: before the job succeeds; after: the job "
        "succeeds first, and `job.evaluated` follows; none: never",
    )

    @property
    def options(self) -> JobOptions:
        """The options of the render alone."""
        names = JobOptions.model_fields.keys() - {"output"}
        return JobOptions(**{name: getattr(self, name) for name in names}, output=self.output.encoding)


MAX_AUDIO_FILES = 50
SEGMENT_AUDIO = "audio_[1-9][0-9]?"
"""Pattern of the names of the speeches of segments."""
InputPart = Annotated[str, StringConstraints(pattern=rf"^(video|audio|{SEGMENT_AUDIO}|expression)$")]
"""An input of a job: `video`, `audio` and `expression`; `audio_1`, `audio_2`, ... are the speeches of segments."""


def slot_of(part: InputPart) -> InputSlot:
    """The purpose of an input: which containers it may have, and what it is called in messages."""
    slots: dict[str, InputSlot] = {"video": "video", "expression": "expression"}
    return slots.get(part, "audio")


Seconds = Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]


class SegmentOptions(FrozenModel):
    """What a segment says besides its speech. Times are seconds on the video's clock."""

    start_s: Seconds = Field(description="Where the speech starts in the video")
    end_s: Seconds | None = Field(None, description="Where it ends; absent: where the speech ends")
    audio_offset_s: Seconds = Field(0.0, description="How much to skip at the start of the sound file")
    face: FaceChoice | None = Field(None, description="Who speaks; absent: the `face` of the job")
    expression: ExpressionName | None = Field(
        None, description="Absent: the `expression` of the job; `image`: the picture that was sent with it"
    )
    upper_face: UpperFace | None = Field(None, description="Absent: the `upper_face` of the job")


class JobSegment(SegmentOptions):
    """A part of the video in which one face speaks. Segments of different faces may overlap in time."""

    audio: InputPart = Field(description="Which of the job's `inputs` is the speech")


class InputRef(FrozenModel):
    """Where an input is: an object in our store, or a URL that is fetched before the job can be claimed."""

    kind: Literal["object", "url"]
    key: str | None = None
    url: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    filename: str | None = Field(None, description="Name given by the caller: data, never used as a path")
    upload_id: str | None = Field(None, description="The upload that it is a copy of")


class BatchPlace(FrozenModel):
    """Where an item stands in its batch."""

    id: str = Field(description="Id of the batch")
    index: int = Field(description="Of the item, from 0")


class JobSpec(FrozenModel):
    """The whole request, fixed at submission."""

    kind: JobKind = "render"
    video: InputRef
    audio: InputRef | None = Field(None, description="The speech of a render without segments")
    expression_image: InputRef | None = None
    segments: list[JobSegment] = Field(default_factory=list, max_length=MAX_SEGMENTS)
    segment_audio: dict[InputPart, InputRef] = Field(default_factory=dict, max_length=MAX_AUDIO_FILES)
    request: JobRequest
    retry_of: str | None = Field(None, description="Id of the job that this one repeats")
    batch: BatchPlace | None = Field(None, description="The batch that it is an item of")

    @classmethod
    def of(
        cls,
        inputs: Mapping[InputPart, InputRef],
        segments: Sequence[JobSegment],
        request: JobRequest,
        retry_of: str | None = None,
        kind: JobKind = "render",
        batch: BatchPlace | None = None,
    ) -> Self:
        """The reverse of `inputs`."""
        single = ("video", "audio", "expression")
        return cls(
            kind=kind,
            video=inputs["video"],
            audio=inputs.get("audio"),
            expression_image=inputs.get("expression"),
            segments=list(segments),
            segment_audio={part: ref for part, ref in inputs.items() if part not in single},
            request=request,
            retry_of=retry_of,
            batch=batch,
        )

    @property
    def inputs(self) -> dict[InputPart, InputRef]:
        """By part, as they were given."""
        given: dict[InputPart, InputRef | None] = {
            "video": self.video,
            "audio": self.audio,
            **self.segment_audio,
            "expression": self.expression_image,
        }
        return {part: ref for part, ref in given.items() if ref is not None}


class ErrorInfo(FrozenModel):
    code: str = Field(description="Stable code, see GET /errors")
    message: str = Field(description="What happened, in a sentence")
    retryable: bool = False


class ResultInfo(FrozenModel):
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


class SegmentValue(FrozenModel):
    """A metric of one segment: of its face, in its time, against its speech. If value is null, reason says why."""

    value: float | None
    reason: str | None = None


class MetricResult(FrozenModel):
    """One metric of the result; if value is null, reason says why."""

    name: str
    value: float | None
    unit: str = ""
    better: Better = "neutral"
    reason: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict)
    segments: list[SegmentValue] = Field(
        default_factory=list,
        max_length=MAX_SEGMENTS,
        description="Of each segment, in the order of the job's `segments`; empty for a metric of the whole "
        "picture and for a job with one speech for the whole video",
    )


class SyncCurve(FrozenModel):
    distances: list[float | None] = Field(description="SyncNet's mean distance at the shifts -s .. s frames")
    offset_frames: int = Field(description="Shift with the smallest distance")


class EvaluationCurves(FrozenModel):
    """Curves behind the metrics: one value per frame of the result, null if unknown; an empty list was not measured."""

    fps: float
    mouth_opening: list[float | None] = Field(
        default_factory=list, description="Inner-lip gap as a share of the face size"
    )
    mouth_target: list[float | None] = Field(
        default_factory=list, description="Opening that the engine aimed at, 0 (closed) to 1; empty if it states none"
    )
    speech_level: list[float | None] = Field(default_factory=list, description="Loudness of the speech, 0..1")
    ssim: list[float | None] = Field(default_factory=list, description="Structural similarity to the input")
    window_distance: list[float | None] = Field(
        default_factory=list, description="SyncNet's distance of the window that starts at the frame"
    )
    sync: dict[str, SyncCurve] = Field(default_factory=dict, description="Distance by shift, for each protocol")


class RenderNote(FrozenModel):
    """One thing to know about a result."""

    code: str = Field(description="Stable name of the kind; the table is in docs/inputs.md")
    sentence: str = Field(description="The same for people")
    ranges_s: list[tuple[float, float]] = Field(
        default_factory=list, description="Start and end in seconds of the result; empty: the whole result"
    )


class AudioTrackInfo(FrozenModel):
    """The sound track that became the speech."""

    number: int = Field(description="Among the sound tracks of the file, from 1")
    count: int = Field(description="How many sound tracks the file has")
    language: str | None = Field(None, description="As the file states it")
    codec: str
    rate_hz: int
    channels: int


class DecodedInput(FrozenModel):
    """An input as the worker read it. width, height, fps: of the upright picture, null for sound. audio_track: which
    sound of the file was used."""

    sha256: str
    duration_s: float
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    audio_track: AudioTrackInfo | None = None


class SegmentInfo(FrozenModel):
    """What became of one segment."""

    start_s: float = Field(description="On the clock of the result")
    end_s: float
    face_coverage: float = Field(description="Share of its frames that show the speaker's face")
    face_box: list[float] | None = Field(
        None, description="Where the face is, usually: left, top, right, bottom in pixels of the result"
    )


class RenderInfo(FrozenModel):
    """What the engine reported."""

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
        description="Whether the face analysis of an earlier job of the same account on the same video was reused; "
        "off: caching is disabled",
    )
    kernels: KernelState | None = Field(
        None,
        description="Kernels of the neural engine's networks: plain (until the compiled ones are ready; slower, equal "
        "up to rounding), compiled, or mixed; null: an engine that compiles none, or a split job",
    )
    audio_track: AudioTrackInfo | None = Field(None, description="Which sound of the speech file was used")
    inputs: dict[str, DecodedInput] = Field(default_factory=dict, description="Inputs as they were read")
    segments: list[SegmentInfo] = Field(default_factory=list, description="In the order of the job's `segments`")


class DeliveryAttempt(FrozenModel):
    at: datetime
    status_code: int | None = None
    error: str | None = None
    duration_ms: int = 0


DeliveryState = Literal["pending", "delivered", "given_up"]


class JobSnapshot(FrozenModel):
    """The fields of a job that change while it is live, as they were at an event."""

    status: JobStatus
    stage: str | None
    progress: float
    attempt: int
    cancel_requested: bool
    started_at: datetime | None
    finished_at: datetime | None
    delete_at: datetime | None


class Delivery(FrozenModel):
    """One webhook event of a job or batch. `id` is the webhook-id header, the same for all attempts."""

    id: str
    job_id: str = Field("", description="Empty for the event of a batch")
    batch_id: str = Field("", description="Empty for an event of a job")
    event: DeliveryEvent
    state: DeliveryState = "pending"
    created_at: datetime
    next_attempt_at: datetime | None = None
    attempts: list[DeliveryAttempt] = Field(default_factory=list)
    tries: int = Field(0, description="Attempts since the event or the last redelivery request")
    holder: str = Field("", description="Token of the process that is sending it")
    snapshot: JobSnapshot | None = Field(None, description="The job at the event; null: created by an earlier version")

    def job_then(self, job: Job) -> Job:
        """The job as it was at the event."""
        if self.snapshot is None:
            return job
        ended = {} if self.snapshot.status.is_over else dict.fromkeys(("error", "result", "evaluation", "render"))
        then = {name: getattr(self.snapshot, name) for name in JobSnapshot.model_fields}
        return job.model_copy(update=then | ended)


class Job(FrozenModel):
    """A job as stored. Changed only by the transitions of jobs/store/jobs.py."""

    id: str
    spec: JobSpec
    owner: str = Field("", description="Id of the account that it belongs to; empty: keys were not required")
    request_id: str = Field("", description="Of the submission")
    traceparent: str = Field("", description="Trace context of the submission (W3C), if tracing is enabled")
    status: JobStatus = JobStatus.QUEUED
    stage: str | None = None
    progress: float = Field(0.0, ge=0, le=1)
    attempt: int = 0
    fence: int = Field(0, description="Of its newest lease; increases with every claim, counted as an attempt or not")
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
    evaluation_pending: bool = Field(False, description="It succeeded, and its evaluation is still to be made")
    render: RenderInfo | None = None
    awaits_inputs: bool = Field(False, description="Its inputs are still to be fetched; no worker can claim it")
    fetched: dict[InputPart, InputRef] = Field(
        default_factory=dict, description="Fetched inputs by part: objects we hold"
    )

    @property
    def inputs(self) -> dict[InputPart, InputRef]:
        """By part; objects, unless `awaits_inputs`."""
        return self.spec.inputs | self.fetched

    @property
    def result_suffix(self) -> str:
        """Of the published file."""
        return "json" if self.spec.kind == "analyze" else self.spec.request.output.container


# Shown to callers


class InputView(FrozenModel):
    """An input of a job. Its URL is left out, because it may contain credentials."""

    kind: Literal["file", "upload", "url"] = Field(description="How it was given")
    filename: str | None = Field(description="Of a file, as the caller named it")
    upload_id: str | None
    size_bytes: int | None = Field(description="null while it is fetched")
    sha256: str | None = Field(description="null until the file was read as a whole")
    duration_s: float | None = Field(description="null until the job succeeded, as are the fields below; 0: a still")
    width: int | None = Field(description="Pixels of the upright picture")
    height: int | None
    fps: float | None
    audio_track: AudioTrackInfo | None = Field(description="The sound track that became the speech")


class ResultView(FrozenModel):
    url: str = Field(description="Download link")
    expires_at: datetime | None = Field(None, description="null: valid as long as the job exists")
    content_type: str
    size_bytes: int
    sha256: str
    duration_s: float
    width: int
    height: int
    fps: float
    frames: int


class DeliveryView(FrozenModel):
    id: str
    event: DeliveryEvent
    state: DeliveryState
    created_at: datetime
    next_attempt_at: datetime | None
    attempts: list[DeliveryAttempt]

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        return cls(**{name: getattr(delivery, name) for name in cls.model_fields})


class WebhookView(FrozenModel):
    url: str
    events: list[DeliveryEvent]
    deliveries: list[DeliveryView]


ExportState = Literal["pending", "done", "failed"]


class Export(FrozenModel):
    """A result on its way to where its caller wants it, as stored."""

    job_id: str
    state: ExportState
    attempts: list[DeliveryAttempt]
    next_attempt_at: datetime | None
    error: ErrorInfo | None
    finished_at: datetime | None
    key: str = Field(description="Of the copy in the object store; empty: not copied, or put to a URL")
    tries: int
    holder: str = Field(description="Token of the process that works on it")


class ExportView(FrozenModel):
    """Whether the result is where `output.put_url` or `output.prefix` wants it. It stays downloadable here."""

    state: Literal["waiting", "pending", "done", "failed", "skipped"] = Field(
        description="waiting: for the end of the job; skipped: the job has no result"
    )
    url: str | None = Field(description="`output.put_url` without its secrets")
    key: str | None = Field(description="With `output.prefix`: key of the copy, which is deleted with the job")
    attempts: list[DeliveryAttempt]
    next_attempt_at: datetime | None
    error: ErrorInfo | None
    finished_at: datetime | None


class JobView(FrozenModel):
    """A job as shown to callers: the body of `GET /jobs/{id}` and the `data` of every webhook."""

    id: str
    kind: JobKind = Field(description="render: a video; analyze: who is in a video (`POST /videos/analyze`)")
    status: JobStatus
    stage: str | None = Field(description=f"Current stage: {', '.join(JOB_STAGES)}", examples=list(JOB_STAGES))
    progress: float = Field(description="0..1")
    queue_position: int | None = Field(description="1 is next; null when not queued, or while inputs are fetched")
    eta_s: float | None = Field(description="Estimated seconds to completion; null if unknown")
    engine_requested: str
    engine: str | None = Field(
        description="The engine that ran; results of `preview` are previews, not the neural method"
    )
    device: str | None
    attempts: int
    max_attempts: int
    cancel_requested: bool
    options: JobOptions
    inputs: dict[str, InputView] = Field(
        description="By part: `video`, `audio`, `expression`; `audio_1`, `audio_2`, ... are the speeches of segments"
    )
    segments: list[JobSegment] = Field(description="Who speaks when; empty: one speech for the whole video")
    retry_of: str | None = Field(description="Id of the job that this one repeats")
    batch: BatchPlace | None = Field(description="The batch that it is an item of")
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
    evaluation_pending: bool = Field(description="The evaluation is still to come, with the event `job.evaluated`")
    webhook: WebhookView | None
    export: ExportView | None = Field(description="null: no destination was given")


class BatchCounts(FrozenModel):
    """Items of a batch by state. Together they are `total`."""

    waiting: int = Field(description="Not a job yet: at most a few items of a batch are live at a time")
    queued: int
    running: int
    succeeded: int
    failed: int
    canceled: int = Field(description="Canceled jobs, and items that were dropped before they became jobs")


class BatchFailure(FrozenModel):
    """An item that failed. Kept as long as the batch, also when the job is deleted."""

    index: int = Field(description="Of the item, from 0")
    job_id: str
    code: str = Field(description="Stable code, see GET /errors")
    message: str


BatchStatus = Literal["running", "completed", "canceled"]


class Batch(FrozenModel):
    """A batch as stored. Changed by jobs/store/batches.py and by transitions of its jobs."""

    id: str
    status: BatchStatus
    owner: str = Field(description="Id of the account that it belongs to; empty: keys were not required")
    request_id: str
    traceparent: str
    metadata: dict[str, Any]
    webhook_url: str | None
    total: int
    next: int = Field(description="Index of the first item that is not a job yet")
    cancel_requested: bool
    counts: BatchCounts
    tries: int = Field(description="Failed attempts to make the next item a job")
    paused_until: datetime | None = Field(description="When the next item is tried again")
    created_at: datetime
    kept_at: datetime = Field(description="When the uploads of its items were last kept from expiring")
    finished_at: datetime | None
    delete_at: datetime | None

    @property
    def is_over(self) -> bool:
        return self.status != "running"


class BatchSummary(FrozenModel):
    """A batch in a list."""

    id: str
    status: BatchStatus = Field(description="canceled: it was canceled, and none of its jobs is live any more")
    total: int
    counts: BatchCounts
    cancel_requested: bool
    metadata: dict[str, Any]
    created_at: datetime
    finished_at: datetime | None
    delete_at: datetime | None
    jobs_url: str = Field(description="List of its jobs")


class BatchView(BatchSummary):
    """A batch as shown to callers: the body of `GET /batches/{id}` and the `data` of `batch.completed`."""

    failures: list[BatchFailure] = Field(description="By index")
    webhook: WebhookView | None


class WebhookMessage(FrozenModel):
    """Body of a webhook. timestamp: when the event happened, not when it was sent."""

    type: WebhookEvent
    timestamp: str = Field(json_schema_extra={"format": "date-time"})
    owner: str | None = Field(description="Id of the account that the job belongs to; null: keys were not required")
    data: JobView = Field(description="The job at that time")


class BatchMessage(FrozenModel):
    """Body of the webhook of a batch. timestamp: when the batch was over."""

    type: Literal["batch.completed"]
    timestamp: str = Field(json_schema_extra={"format": "date-time"})
    owner: str | None = Field(description="Id of the account that the batch belongs to; null: keys were not required")
    data: BatchView


class JobEvent(FrozenModel):
    """One entry of a job's history, as sent over SSE. `id` is the Redis stream id, usable as Last-Event-ID."""

    id: str
    event: Literal[
        "job.queued",
        "job.started",
        "job.progress",
        "job.requeued",
        "job.succeeded",
        "job.failed",
        "job.canceled",
        "job.evaluated",
        "job.exported",
    ]
    at: datetime
    status: JobStatus
    stage: str | None = None
    progress: float = 0.0
    detail: dict[str, Any] = Field(default_factory=dict)


class GpuMemory(FrozenModel):
    """Memory of one device, used by all processes together."""

    device: str
    used_bytes: int
    total_bytes: int


class WorkerInfo(FrozenModel):
    """A live render worker."""

    id: str
    engines: list[EngineInfo]
    unavailable: dict[str, str] = Field(
        default_factory=dict, description="Engines that it does not offer, with the reason"
    )
    metrics: list[str] = Field(default_factory=list, description="Metrics that this worker can compute")
    versions: dict[str, str] = Field(default_factory=dict)
    started_at: datetime
    busy_with: str | None = Field(None, description="Id of the job in progress")
    polled_at: datetime | None = Field(None, description="When its parent process last polled the broker")
    gpu_memory: list[GpuMemory] = Field(default_factory=list)
    kernels: KernelState | None = Field(None, description="What the neural engine's networks run; null: none compiles")
