"""Segments of a split job: keep a segment's lease, render it, store its frames; and the loop of a helper.

The owner of the job (`splitting.py`) and helpers render segments alike. A helper decides nothing about the job: it
leaves a segment that fails to the owner, whose error counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from redis.exceptions import RedisError

from jobs.names import segment_key
from jobs.objects import ObjectStore, ObjectStoreError
from jobs.store import JobNotFoundError, LeaseLostError, SegmentLease, SegmentOutcome, SplitPlan
from jobs.store.segments import Segments
from retalking_core.engine import Engine, SegmentedEngine
from retalking_core.errors import RenderCanceled
from retalking_core.media.encoder import encoder_version
from retalking_core.media.segments import plan_segments
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress
from retalking_core.vocabulary.containers import OUTPUTS
from worker.context import RunContext
from worker.faults import describe_fault, is_unexpected, retry_redis, retry_storage
from worker.lease import LeaseKeeper, ShutdownRequestedError
from worker.memory import release_frames
from worker.scratch import attempt_folder, scratch_root
from worker.translation import render_notes, render_options

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitClip:
    """What a worker needs of a split job to render its segments."""

    job_id: str
    engine: SegmentedEngine
    plan: SplitPlan
    analysis: Path
    """File that `SegmentedEngine.analyze_clip` wrote."""
    video: Path
    options: RenderOptions
    folder: Path
    """For temporary files."""


class SegmentLeaseBackend:
    """Renews the lease of a segment for a LeaseKeeper."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments

    def report(self, lease: SegmentLease, *, stage: str, progress: float, lease_s: float) -> bool:
        """A segment has one stage; the owner reports the progress of the job."""
        return self._segments.report(lease, progress, lease_s)

    def renew(self, lease: SegmentLease, lease_s: float) -> bool:
        return self._segments.report(lease, None, lease_s)


def renderer_of(engine: Engine) -> str:
    """Workers for which this is equal render and encode a frame to the same bytes, as far as versions can tell."""
    info = engine.capabilities
    return f"{info.name} {info.version} {info.device.partition(':')[0]} {info.fingerprint} {encoder_version()}"


@contextmanager
def segment_lease(lease: SegmentLease, context: RunContext) -> Iterator[LeaseKeeper]:
    """Renews the segment's lease inside the block, and releases it when an exception leaves the block.

    Raises LeaseLostError, RenderCanceled, ShutdownRequestedError from the keeper's checks.
    """
    settings = context.settings
    keeper = LeaseKeeper(
        SegmentLeaseBackend(context.store.segments),
        lease,
        lease_s=settings.lease_s,
        stall_s=settings.stall_s,
        notice=context.notice,
    )
    try:
        with keeper:
            yield keeper
    except LeaseLostError:
        raise
    except (ShutdownRequestedError, SystemExit):
        _release(lease, context, count_attempt=False)
        raise
    except BaseException:
        _release(lease, context, count_attempt=True)
        raise


def render_segment(
    clip: SplitClip, lease: SegmentLease, keeper: LeaseKeeper, context: RunContext, on_progress: Callable[[], None]
) -> None:
    """Render and store one segment. on_progress: called after each progress report.

    Raises what the engine raises, ObjectStoreError, and LeaseLostError when another worker took the segment over: then
    its file is deleted.
    """
    file = clip.folder / f"rendered-{lease.number}.mp4"
    frames = plan_segments(clip.plan.frames)[lease.number]

    def report(progress: Progress) -> None:
        keeper.beat(progress.stage, progress.fraction, progress.done)
        on_progress()

    with keeper.expecting_progress():
        drawn = clip.engine.render_segment(clip.analysis, clip.video, frames, file, clip.options, report)
    key = segment_key(lease.job_id, lease.number, lease.fence)
    put = context.objects.put_file
    retry_storage(lambda: put(key, file, OUTPUTS["mp4"].content_type), context.storage_pauses_s, keeper.wait)
    file.unlink()
    outcome = SegmentOutcome(
        key=key, worker=context.worker_id, stage_times_s=drawn.stage_times_s, notes=render_notes(drawn.notes)
    )
    try:
        retry_redis(lambda: context.store.segments.finish(lease, outcome))
    except LeaseLostError:
        _delete_late(context.objects, key, lease.job_id)
        raise
    log.info("segment finished", extra=_tags(lease))


def _release(lease: SegmentLease, context: RunContext, *, count_attempt: bool) -> None:
    """If the store stays unreachable, the lease expires instead."""
    try:
        retry_redis(lambda: context.store.segments.release(lease, count_attempt=count_attempt), limit_s=5.0)
        log.info("segment released", extra=_tags(lease))
    except RedisError:
        log.error("job store unreachable: the segment's lease will expire", extra=_tags(lease))


def _delete_late(objects: ObjectStore, key: str, job_id: str) -> None:
    try:
        objects.delete(key)
    except ObjectStoreError:
        log.error("late segment not deleted; it is deleted with the job's files", extra={"job": job_id})


def _tags(lease: SegmentLease) -> dict[str, object]:
    return {"job": lease.job_id, "segment": lease.number, "attempt": lease.attempt, "worker": lease.worker_id}


def help_job(job_id: str, context: RunContext) -> None:
    """Render segments of another worker's job while there are any and no other job waits. Only SystemExit escapes.

    Raises RedisError when the store does not answer the first call.
    """
    state = retry_redis(lambda: context.store.segments.state(job_id))
    engine = None if state is None else context.engines.by_name.get(state.plan.engine)
    if state is None or not isinstance(engine, SegmentedEngine) or renderer_of(engine) != state.plan.renderer:
        log.info("no segments to render: job ended, or another renderer", extra={"job": job_id})
        return
    lease = retry_redis(lambda: context.store.segments.claim(job_id, context.worker_id, context.settings.lease_s))
    if lease is None:
        log.info("no segments to render: all are taken", extra={"job": job_id})
        return
    try:
        with attempt_folder(scratch_root(context.settings.work_dir), job_id, lease.attempt) as folder:
            _render_segments(lease, engine, state.plan, folder, context)
    except (LeaseLostError, JobNotFoundError):
        log.info("job continued without this helper", extra={"job": job_id})
    except (RenderCanceled, ShutdownRequestedError) as end:
        log.info("helper stops: %s", type(end).__name__, extra={"job": job_id})
    except RedisError:
        log.exception("job store unreachable: the segment's lease will expire", extra={"job": job_id})
    except Exception as fault:
        error = describe_fault(fault, is_memory_full=context.memory.is_full)
        release_frames(fault)
        context.memory.note_failure(error.code)
        log.error(
            "segment failed: left to the owner of the job",
            exc_info=fault if is_unexpected(error) else None,
            extra={"job": job_id, "code": error.code},
        )


def _render_segments(
    first: SegmentLease, engine: SegmentedEngine, plan: SplitPlan, folder: Path, context: RunContext
) -> None:
    store, clip = context.store, None
    lease: SegmentLease | None = first
    while lease is not None:
        with segment_lease(lease, context) as keeper:
            clip = clip or _fetch_clip(lease.job_id, engine, plan, folder, keeper, context)
            render_segment(clip, lease, keeper, context, on_progress=lambda: None)
        if sum(retry_redis(store.jobs.queue_depths).values()):
            log.info("another job waits: helper stops", extra={"job": first.job_id})
            return
        lease = retry_redis(lambda: store.segments.claim(first.job_id, context.worker_id, context.settings.lease_s))


def _fetch_clip(
    job_id: str,
    engine: SegmentedEngine,
    plan: SplitPlan,
    folder: Path,
    keeper: LeaseKeeper,
    context: RunContext,
) -> SplitClip:
    """Raises ObjectStoreError, ObjectNotFoundError, JobNotFoundError."""
    analysis, video = folder / "analysis", folder / "video"
    for key, path in ((plan.scene_key, analysis), (plan.video_key, video)):
        retry_storage(partial(context.objects.fetch, key, path), context.storage_pauses_s, keeper.wait)
    request = retry_redis(lambda: context.store.jobs.get(job_id)).spec.request
    return SplitClip(job_id, engine, plan, analysis, video, render_options(request.options, None), folder)
