"""Typed responses of the service, and its errors. Fields of a newer service are kept: `model_dump` returns them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from retalking_client.errors import RetalkingClientError

Status = Literal["queued", "running", "succeeded", "failed", "canceled"]
OVER: frozenset[str] = frozenset({"succeeded", "failed", "canceled"})
_CLASS_OF_CODE: dict[str, type[ApiError]] = {}


@dataclass(frozen=True)
class FieldFault:
    """One thing to correct. pointer: JSON Pointer into the body, or the name of a parameter, header or part."""

    location: str
    pointer: str
    message: str


class ApiError(RetalkingClientError):
    """The service refused a call, or a job failed. Each public code has a subclass in `retalking_client.codes`.

    status: HTTP status of the refusal; None for a failed job. retryable: the same call may succeed later.
    request_id: quote it in bug reports. faults: every field to correct. job: the failed job.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        advice: str | None = None,
        status: int | None = None,
        retryable: bool = False,
        request_id: str | None = None,
        faults: Sequence[FieldFault] = (),
        job: Job | None = None,
    ) -> None:
        super().__init__(message)
        # The service may know better than this version of the client.
        self.code = code or type(self).code
        self.advice = advice or type(self).advice
        self.status = status
        self.retryable = retryable
        self.request_id = request_id
        self.faults = tuple(faults)
        self.job = job

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _CLASS_OF_CODE.setdefault(cls.code, cls)

    @staticmethod
    def class_of(code: str) -> type[ApiError]:
        """The subclass of a code; ApiError itself for codes newer than this client."""
        return _CLASS_OF_CODE.get(code, ApiError)


class _Response(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, defer_build=True)


class Named(_Response):
    """What has an id, which every method takes in its place."""

    id: str


class JobError(_Response):
    """Why a job failed. code: stable, see `GET /errors`."""

    code: str
    message: str
    retryable: bool = False


class Result(_Response):
    """The finished video. expires_at: when `url` expires; None: when the job is deleted."""

    url: str
    expires_at: datetime | None = None
    content_type: str
    size_bytes: int
    sha256: str
    duration_s: float
    width: int
    height: int
    fps: float
    frames: int


class SegmentValue(_Response):
    """A metric of one segment. reason: why `value` is None."""

    value: float | None
    reason: str | None = None


class Metric(_Response):
    """A metric of the result. reason: why `value` is None. segments: of each segment of the job, in their order; empty
    for a metric of the whole picture and for a job with one speech."""

    name: str
    value: float | None
    unit: str = ""
    better: Literal["higher", "lower", "neutral"] = "neutral"
    reason: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict)
    segments: list[SegmentValue] = Field(default_factory=list)


class RenderNote(_Response):
    """One thing to know about a result. code: stable, listed in docs/inputs.md. ranges_s: start and end in seconds of
    the result; empty: the whole result."""

    code: str
    sentence: str
    ranges_s: list[tuple[float, float]] = Field(default_factory=list)


class AudioTrack(_Response):
    """The sound track that became the speech. number: among the `count` sound tracks of the file, from 1."""

    number: int
    count: int
    language: str | None = None
    codec: str
    rate_hz: int
    channels: int


class RenderedSegment(_Response):
    """What became of one segment. start_s, end_s: seconds of the result. face_coverage: share of its frames that show
    the speaker's face. face_box: where it usually is; left, top, right, bottom in pixels of the result."""

    start_s: float
    end_s: float
    face_coverage: float
    face_box: list[float] | None = None


class DecodedInput(_Response):
    """An input as the worker read it. width, height, fps: of the upright picture; None for sound."""

    sha256: str
    duration_s: float
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    audio_track: AudioTrack | None = None


class Render(_Response):
    """Report of the engine. synthetic_weights: made with generated checkpoints, so the result is meaningless.
    face_cache: how much of an earlier face analysis was used: `hit`, `partial`, `miss`, or `off`. kernels: `plain`,
    `mixed` or `compiled`, of a neural engine."""

    engine: str
    engine_version: str
    device: str
    face_coverage: float
    faceless_ranges_s: list[tuple[float, float]]
    stage_times_s: dict[str, float]
    synthetic_weights: bool = False
    notes: list[RenderNote] = Field(default_factory=list)
    face_cache: str = "off"
    kernels: str | None = None
    audio_track: AudioTrack | None = None
    inputs: dict[str, DecodedInput] = Field(default_factory=dict)
    segments: list[RenderedSegment] = Field(default_factory=list)


class DeliveryAttempt(_Response):
    """One delivery attempt of a webhook."""

    at: datetime
    status_code: int | None = None
    error: str | None = None
    duration_ms: int = 0


class Delivery(Named):
    """One webhook event of a job. id: header `webhook-id`, the same for all attempts."""

    event: str
    state: str
    created_at: datetime
    next_attempt_at: datetime | None = None
    attempts: list[DeliveryAttempt] = Field(default_factory=list)


class UndeliveredEvent(Delivery):
    """A webhook event of a job or of a batch."""

    job_id: str | None = None
    batch_id: str | None = None


class Webhook(_Response):
    """The webhook of a job and its deliveries. url: without secrets."""

    url: str
    events: list[str]
    deliveries: list[Delivery]


class Input(_Response):
    """An input of a job. kind: `file`, `upload` or `url`. duration_s and what follows: known once the job succeeded."""

    kind: str
    filename: str | None = None
    upload_id: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    duration_s: float | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    audio_track: AudioTrack | None = None


class JobSegment(_Response):
    """One speech of one face, as it was submitted. audio: its file, among the job's `inputs`."""

    audio: str
    start_s: float
    end_s: float | None = None
    audio_offset_s: float = 0.0
    face: Any = None
    expression: str | None = None
    upper_face: str | None = None


class Export(_Response):
    """Whether the result is where `output.put_url` or `output.prefix` wants it. state: `waiting`, `pending`, `done`,
    `failed` (see `error`; the result can still be downloaded) or `skipped` (the job has no result)."""

    state: str
    url: str | None = None
    key: str | None = None
    attempts: list[DeliveryAttempt] = Field(default_factory=list)
    next_attempt_at: datetime | None = None
    error: JobError | None = None
    finished_at: datetime | None = None


class BatchPlace(_Response):
    """Where an item stands in its batch. index: from 0."""

    id: str
    index: int


class Job(Named):
    """State of a job at the time of the call. progress: 0..1. eta_s: estimated seconds left. segments: empty for one
    speech for the whole video."""

    kind: str = "render"
    status: Status
    stage: str | None = None
    progress: float = 0.0
    queue_position: int | None = None
    eta_s: float | None = None
    engine_requested: str = "auto"
    engine: str | None = None
    device: str | None = None
    attempts: int = 0
    max_attempts: int = 0
    cancel_requested: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, Input] = Field(default_factory=dict)
    segments: list[JobSegment] = Field(default_factory=list)
    retry_of: str | None = None
    batch: BatchPlace | None = None
    priority: int = 1
    metadata: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deadline_at: datetime | None = None
    delete_at: datetime | None = None
    error: JobError | None = None
    result: Result | None = None
    render: Render | None = None
    evaluation: list[Metric] | None = None
    evaluation_pending: bool = False
    webhook: Webhook | None = None
    export: Export | None = None

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    def raise_for_status(self) -> Job:
        """The job itself; raises the exception of its code (`FaceNotFoundError`, ...) if it failed or was canceled."""
        if self.status in ("failed", "canceled"):
            error = self.error or JobError(code=self.status, message=f"The job is {self.status}.")
            message = f"{error.message} (job {self.id})"
            raise ApiError.class_of(error.code)(message, code=error.code, retryable=error.retryable, job=self)
        return self


class BatchCounts(_Response):
    """Items of a batch by state. waiting: not a job yet."""

    waiting: int
    queued: int
    running: int
    succeeded: int
    failed: int
    canceled: int


class BatchFailure(_Response):
    """An item that failed. index: of the item, from 0."""

    index: int
    job_id: str
    code: str
    message: str


class BatchSummary(Named):
    """State of a batch at the time of the call. status: `running`, `completed` or `canceled`."""

    status: str
    total: int
    counts: BatchCounts
    cancel_requested: bool
    metadata: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime
    finished_at: datetime | None = None
    delete_at: datetime | None = None
    jobs_url: str

    @property
    def is_over(self) -> bool:
        return self.status != "running"

    @property
    def done(self) -> int:
        """Items that are over."""
        return self.counts.succeeded + self.counts.failed + self.counts.canceled


class Batch(BatchSummary):
    """A batch with what failed in it. failures: by index."""

    failures: list[BatchFailure]
    webhook: Webhook | None = None


class JobEvent(_Response):
    """One event of a job. id: pass it as `after` to resume from there."""

    id: str
    event: str
    at: datetime
    status: Status
    stage: str | None = None
    progress: float = 0.0
    detail: dict[str, Any] = Field(default_factory=dict)


class SyncCurve(_Response):
    """SyncNet's mean distance at the shifts -s .. s frames, and the shift with the smallest one."""

    distances: list[float | None]
    offset_frames: int


class EvaluationCurves(_Response):
    """Curves behind the metrics, one value per frame of the result; empty: not measured.

    mouth_opening: inner-lip gap as a share of the face size. mouth_target: opening that the engine aimed at, 0 (closed)
    to 1. speech_level: loudness, 0 to 1. ssim: similarity to the input. window_distance: SyncNet's, of the window that
    starts at the frame. sync: distance by shift, for each protocol.
    """

    fps: float
    mouth_opening: list[float | None] = Field(default_factory=list)
    mouth_target: list[float | None] = Field(default_factory=list)
    speech_level: list[float | None] = Field(default_factory=list)
    ssim: list[float | None] = Field(default_factory=list)
    window_distance: list[float | None] = Field(default_factory=list)
    sync: dict[str, SyncCurve] = Field(default_factory=dict)


class Evaluation(_Response):
    """The metrics of a result. curves: None if none were stored."""

    job_id: str
    engine: str | None = None
    synthetic_weights: bool = False
    metrics: list[Metric]
    curves: EvaluationCurves | None = None


class TimeRange(_Response):
    """Seconds on the video's clock."""

    start_s: float
    end_s: float


class Person(_Response):
    """One person of a video. track: for the option `face`, as `{"track": ...}`. boxes: left, top, right, bottom in
    pixels, and speaking: probability, one for each `step_s` of the analysis; None where the face is not seen."""

    track: str
    seen: list[TimeRange]
    visibility: float
    speaking_s: float
    face_px: float
    best_s: float
    boxes: list[tuple[float, float, float, float] | None]
    speaking: list[float | None]


class Analysis(_Response):
    """Who is in a video. voice: probability that anybody is heard, one for each `step_s`; None: no usable sound."""

    duration_s: float
    width: int
    height: int
    fps: float
    frames: int
    step_s: float
    shots: list[TimeRange]
    people: list[Person]
    voice: list[float] | None = None
    notes: list[str] = Field(default_factory=list)


class Upload(_Response):
    """An uploaded file, which any number of jobs can use until `expires_at`. method, url: how the file is sent, until
    `url_expires_at`."""

    id: str
    method: Literal["PUT"] = "PUT"
    url: str
    url_expires_at: datetime | None = None
    expires_at: datetime
    max_bytes: int


class MediaLink(_Response):
    """A link to one file. url: relative to the service if it is one of its own."""

    url: str
    content_type: str


class MediaLinks(_Response):
    """The playable files of a job. None: missing, or not fetched yet. segment_audio: the speeches of segments."""

    expires_at: datetime
    video: MediaLink | None = None
    audio: MediaLink | None = None
    segment_audio: dict[str, MediaLink | None] = Field(default_factory=dict)
    result: MediaLink | None = None
    poster: MediaLink | None = None
    preview: MediaLink | None = None


class WebhookEvent(_Response):
    """A webhook event whose signature was verified."""

    type: str
    timestamp: datetime
    owner: str | None = Field(
        None, description="Id of the account that the job or batch belongs to; None: keys are not required"
    )
    data: Batch | Job = Field(union_mode="left_to_right", description="A Batch for the event `batch.completed`")


class WebhookSecret(_Response):
    """The secret that signs the webhooks of an account's jobs. Both secrets sign until `previous_until`."""

    account: str
    secret: str = Field(repr=False)
    version: int
    previous_secret: str | None = Field(None, repr=False)
    previous_until: datetime | None = None

    @property
    def all(self) -> list[str]:
        """For `verify_webhook`."""
        return [self.secret] + ([self.previous_secret] if self.previous_secret else [])


class ApiKey(_Response):
    """A key of an account, without its secret. While a rotation overlaps, `revoked_at` is in the future."""

    id: str
    account: str
    name: str
    scopes: list[str]
    max_priority: int
    created_at: datetime
    revoked_at: datetime | None = None


class IssuedKey(ApiKey):
    """A new key. `key` is sent this once."""

    key: str = Field(repr=False)


class Account(Named):
    """An account with its limits. live_jobs: unfinished jobs. stored_bytes: of uploads, inputs and results."""

    name: str
    created_at: datetime
    requests_per_minute: int
    live_jobs: int
    stored_bytes: int


class MonthUsage(_Response):
    """Totals of an account in one month (UTC). jobs: by outcome. gpu_s: the part of worker_s on CUDA devices."""

    month: str
    jobs: dict[str, int]
    video_s: float
    result_bytes: int
    worker_s: float
    gpu_s: float


class AccountUsage(_Response):
    """What an account uses now, and what it used by month, the current one first. account: None for all callers of a
    service without keys."""

    account: str | None
    name: str | None
    live_jobs: int
    stored_bytes: int
    months: list[MonthUsage]


class Page(_Response):
    """One page of a list. next_cursor: None at the end."""

    next_cursor: str | None = None


class JobPage(Page):
    jobs: list[Job]


class BatchPage(Page):
    batches: list[BatchSummary]


class DeliveryPage(Page):
    deliveries: list[UndeliveredEvent]


class KeyPage(Page):
    keys: list[ApiKey]


class AccountPage(Page):
    accounts: list[Account]


class UsagePage(Page):
    accounts: list[AccountUsage]
