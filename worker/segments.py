"""One segment of a split job, held by its owner or a helper: renew its lease, render it, store its pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from jobs.names import segment_key
from jobs.objects import ObjectStore, ObjectStoreError
from jobs.store import LeaseLostError, SegmentLease, SegmentOutcome, SplitPlan
from jobs.store.segments import Segments
from retalking_core.engine import SegmentedEngine
from retalking_core.media.encoder import encoder_version
from retalking_core.media.segments import plan_segments
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress
from worker.lease import LeaseKeeper
from worker.outcome import CONTENT_TYPES, render_notes
from worker.patience import insist, patiently
from worker.shutdown import HandBackError

if TYPE_CHECKING:
    from worker.runner import RunContext

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitClip:
    """What a worker holds of a split job while it renders segments of it. folder: for what comes and goes."""

    job_id: str
    engine: SegmentedEngine
    plan: SplitPlan
    scene: Path
    video: Path
    options: RenderOptions
    folder: Path


class SegmentBook:
    """The store, as a LeaseKeeper sees it when the lease is a segment's."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments

    def report(self, lease: SegmentLease, *, stage: str, progress: float, lease_s: float) -> bool:
        """A segment has one stage; its place in the job is the owner's to tell."""
        return self._segments.report(lease, progress, lease_s)

    def renew(self, lease: SegmentLease, lease_s: float) -> bool:
        return self._segments.report(lease, None, lease_s)


def renderer_of(engine: SegmentedEngine) -> str:
    """Workers for which this is equal draw and encode a frame to the same bytes, as far as versions can tell."""
    told = engine.capabilities
    return f"{told.name} {told.version} {told.device.partition(':')[0]} {told.fingerprint} {encoder_version()}"


@contextmanager
def held(lease: SegmentLease, context: RunContext) -> Iterator[LeaseKeeper]:
    """The segment's lease is renewed inside the block; whatever leaves the block before the end gives it back.

    Raises LeaseLostError, RenderCanceled, HandBackError out of the keeper's checks.
    """
    settings = context.settings
    keeper = LeaseKeeper(
        SegmentBook(context.store.segments),
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
    except (HandBackError, SystemExit):
        _give_back(lease, context, count_attempt=False)
        raise
    except BaseException:
        _give_back(lease, context, count_attempt=True)
        raise


def render_segment(
    clip: SplitClip, lease: SegmentLease, keeper: LeaseKeeper, context: RunContext, tell: Callable[[], None]
) -> None:
    """tell() is called after each word of progress. Raises what the engine raises, ObjectStoreError, and LeaseLostError
    when the segment went on without this worker: then nothing of it stays."""
    file = clip.folder / f"drawn-{lease.number}.mp4"
    frames = plan_segments(clip.plan.frames)[lease.number]

    def hear(told: Progress) -> None:
        keeper.beat(told.stage, told.fraction, told.done)
        tell()

    with keeper.expecting_progress():
        drawn = clip.engine.render_segment(clip.scene, clip.video, frames, file, clip.options, hear)
    key = segment_key(lease.job_id, lease.number, lease.fence)
    put = context.objects.put_file
    insist(lambda: put(key, file, CONTENT_TYPES["mp4"]), context.storage_pauses_s, keeper.wait)
    file.unlink()
    outcome = SegmentOutcome(
        key=key, worker=context.worker_id, stage_times_s=drawn.stage_times_s, notes=render_notes(drawn.notes)
    )
    try:
        patiently(lambda: context.store.segments.finish(lease, outcome))
    except LeaseLostError:
        delete_quietly(context.objects, key, lease.job_id)
        raise
    log.info("segment finished", extra=_tags(lease))


def _give_back(lease: SegmentLease, context: RunContext, *, count_attempt: bool) -> None:
    """Nobody is harmed when it is not heard: the lease runs out."""
    try:
        patiently(lambda: context.store.segments.release(lease, count_attempt=count_attempt), limit_s=5.0)
        log.info("segment given back", extra=_tags(lease))
    except RedisError:
        log.error("the job store is away: the segment's lease will run out", extra=_tags(lease))


def delete_quietly(objects: ObjectStore, key: str, job_id: str) -> None:
    try:
        objects.delete(key)
    except ObjectStoreError:
        log.error("a late segment could not be deleted; it goes with the job's files", extra={"job": job_id})


def _tags(lease: SegmentLease) -> dict[str, object]:
    return {"job": lease.job_id, "segment": lease.number, "attempt": lease.attempt, "worker": lease.worker_id}
