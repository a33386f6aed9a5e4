"""Conversion of a stored Job to what callers see: the body of `GET /jobs/{id}` and the data of every webhook."""

from __future__ import annotations

import math
import time
import urllib.parse
from datetime import UTC, datetime, timedelta

from jobs.models import (
    BATCH_EVENT,
    Batch,
    BatchSummary,
    BatchView,
    DeliveryView,
    ExportView,
    InputPart,
    InputView,
    Job,
    JobStatus,
    JobView,
    ResultView,
    WebhookView,
)
from jobs.objects import ObjectStore
from jobs.settings import Settings
from jobs.signing import account_holder, link_query
from jobs.store import JobNotFoundError, JobStore, QueueEstimate

# Up to this, the elapsed time is start-up rather than rendering, and the progress that of fetched inputs
MIN_PROGRESS_FOR_RATE = 0.05


def view_job(
    job: Job,
    store: JobStore,
    objects: ObjectStore,
    settings: Settings,
    link_key: bytes | None = None,
    holder: str | None = None,
    at: datetime | None = None,
    base: str = "",
    estimate: QueueEstimate | None = None,
) -> JobView:
    """URLs of inputs are left out: they may contain credentials of the caller's own stores.

    at: the time of `job`; None: now. link_key: signs links to results that the API serves itself, if it requires keys.
    holder: id of the API key whose revocation ends such links; None: the owner's last one. base: prefix of their paths.
    estimate: if it was read with the job.
    """
    request = job.spec.request
    if estimate is None and job.status is JobStatus.QUEUED:
        (estimate,) = store.jobs.queue_estimates([job.id])
    return JobView(
        id=job.id,
        kind=job.spec.kind,
        status=job.status,
        stage=job.stage,
        progress=job.progress,
        queue_position=estimate.position if estimate else None,
        eta_s=_eta_s(job, estimate, store, at or datetime.now(UTC)),
        engine_requested=request.engine,
        engine=job.render.engine if job.render else None,
        device=job.render.device if job.render else None,
        attempts=job.attempt,
        max_attempts=job.max_attempts,
        cancel_requested=job.cancel_requested,
        options=request.options,
        inputs={part: _input(job, part) for part in job.inputs},
        segments=job.spec.segments,
        retry_of=job.spec.retry_of,
        batch=job.spec.batch,
        priority=request.priority,
        metadata=request.metadata,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        deadline_at=job.deadline_at,
        delete_at=job.delete_at,
        error=job.error,
        result=_result(job, objects, settings, link_key, account_holder(job.owner) if holder is None else holder, base),
        render=job.render,
        evaluation=job.evaluation,
        evaluation_pending=job.evaluation_pending,
        webhook=_webhook(job, store),
        export=_export(job, store),
    )


def _input(job: Job, part: InputPart) -> InputView:
    asked, stored = job.spec.inputs[part], job.inputs[part]
    decoded = job.render.inputs.get(part) if job.render else None
    track = decoded.audio_track if decoded else None
    if track is None and job.render and part == "audio":  # as earlier versions stored it
        track = job.render.audio_track
    return InputView(
        kind="url" if asked.kind == "url" else "upload" if asked.upload_id else "file",
        filename=asked.filename,
        upload_id=asked.upload_id,
        size_bytes=stored.size_bytes,
        sha256=stored.sha256 or (decoded.sha256 if decoded else None),
        duration_s=decoded.duration_s if decoded else None,
        width=decoded.width if decoded else None,
        height=decoded.height if decoded else None,
        fps=decoded.fps if decoded else None,
        audio_track=track,
    )


def _eta_s(job: Job, estimate: QueueEstimate | None, store: JobStore, at: datetime) -> float | None:
    """Seconds to the end of the job. Queued: whole rounds of the live workers. Running: at its own rate so far; before
    there is one, the rest of a mean run."""
    if job.status is JobStatus.RUNNING and job.started_at is not None:
        elapsed_s = max(0.0, (at - job.started_at).total_seconds())
        if job.progress > MIN_PROGRESS_FOR_RATE:
            return round(elapsed_s * (1.0 - job.progress) / job.progress, 1)
        mean_s = estimate.mean_run_s if estimate else store.jobs.mean_run_s()
        return None if mean_s is None else round(max(0.0, mean_s - elapsed_s), 1)
    if estimate is None or estimate.position is None or estimate.mean_run_s is None:
        return None
    return round(estimate.mean_run_s * math.ceil(estimate.position / max(1, estimate.workers)), 1)


def _result(
    job: Job, objects: ObjectStore, settings: Settings, link_key: bytes | None, holder: str, base: str
) -> ResultView | None:
    """A presigned link if the object store has them, else a URL of the API. The URL is signed if the API requires keys,
    because players and receivers of webhooks have none; otherwise it is valid as long as the job exists."""
    if job.result is None:
        return None
    service = settings.public_url.rstrip("/") + base
    name = f"{job.id}.{job.result.key.rpartition('.')[2]}"
    link = objects.presign_get(job.result.key, settings.link_ttl_s, name)
    if link is None and settings.require_keys and link_key is not None:
        path, expires = f"jobs/{job.id}/result", int(time.time()) + settings.link_ttl_s
        query = link_query(link_key, "GET", path, expires, holder)
        link = f"{service}/{path}?{query}"
    return ResultView(
        url=link or f"{service}/jobs/{job.id}/result",
        expires_at=datetime.now(UTC) + timedelta(seconds=settings.link_ttl_s) if link else None,
        **job.result.model_dump(exclude={"key"}),
    )


def _webhook(job: Job, store: JobStore) -> WebhookView | None:
    request = job.spec.request
    if request.webhook_url is None:
        return None
    try:
        deliveries = store.webhooks.deliveries(job.id)
    except JobNotFoundError:  # deleted meanwhile
        deliveries = []
    return WebhookView(
        url=masked_url(request.webhook_url),
        events=request.webhook_events,
        deliveries=[DeliveryView.of(delivery) for delivery in deliveries],
    )


def _export(job: Job, store: JobStore) -> ExportView | None:
    output = job.spec.request.output
    if output.put_url is None and output.prefix is None:
        return None
    export = store.exports.find(job.id) if job.status is JobStatus.SUCCEEDED else None
    return ExportView(
        state=export.state if export else "skipped" if job.status.is_over else "waiting",
        url=masked_url(output.put_url) if output.put_url else None,
        key=(export.key or None) if export else None,
        attempts=export.attempts if export else [],
        next_attempt_at=export.next_attempt_at if export else None,
        error=export.error if export else None,
        finished_at=export.finished_at if export else None,
    )


def view_batch(batch: Batch, store: JobStore, settings: Settings, base: str = "") -> BatchView:
    """base: prefix of paths, as in view_job()."""
    webhook = None
    if batch.webhook_url is not None:
        try:
            deliveries = store.webhooks.deliveries(batch.id)
        except JobNotFoundError:  # deleted meanwhile
            deliveries = []
        views = [DeliveryView.of(each) for each in deliveries]
        webhook = WebhookView(url=masked_url(batch.webhook_url), events=[BATCH_EVENT], deliveries=views)
    summary = summarize_batch(batch, settings, base)
    return BatchView(**dict(summary), failures=store.batches.failures(batch.id), webhook=webhook)


def summarize_batch(batch: Batch, settings: Settings, base: str = "") -> BatchSummary:
    """base: prefix of paths, as in view_job()."""
    jobs_url = f"{settings.public_url.rstrip('/')}{base}/jobs?batch={batch.id}"
    return BatchSummary(jobs_url=jobs_url, **batch.model_dump(include=BatchSummary.model_fields.keys() - {"jobs_url"}))


def masked_url(url: str) -> str:
    """The URL without what may be secret: user info, fragment, and query values. A URL that cannot be parsed is masked
    completely: an earlier version may have accepted what is refused today."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "***"
    names = [name for name, _ in urllib.parse.parse_qsl(parts.query, keep_blank_values=True)]
    query = "&".join(f"{urllib.parse.quote(name)}=***" for name in names)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))
