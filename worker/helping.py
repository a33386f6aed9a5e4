"""Segments of somebody else's job: fetch what its owner learned, render one after the other, then step back.

A helper decides nothing about the job. What goes wrong with a segment here is left to the owner, whose word counts.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from jobs.store import JobNotFoundError, LeaseLostError, SegmentLease, SplitPlan
from retalking_core.engine import SegmentedEngine
from retalking_core.errors import RenderCanceled
from worker.faults import describe_fault, is_unexpected
from worker.lease import LeaseKeeper
from worker.memory import release_frames
from worker.options import render_options
from worker.patience import insist, patiently
from worker.scratch import attempt_folder, scratch_root
from worker.segments import SplitClip, held, render_segment, renderer_of
from worker.shutdown import HandBackError

if TYPE_CHECKING:
    from worker.runner import RunContext

log = logging.getLogger(__name__)


def help_job(job_id: str, context: RunContext) -> None:
    """Render segments of the job while there are any and no other job waits. Nothing but SystemExit escapes; raises
    RedisError when the store did not even answer the first question."""
    state = patiently(lambda: context.store.segments.state(job_id))
    engine = None if state is None else context.engines.get(state.plan.engine)
    if state is None or not isinstance(engine, SegmentedEngine) or renderer_of(engine) != state.plan.renderer:
        log.info("nothing to help with: over, or of another version", extra={"job": job_id})
        return
    lease = patiently(lambda: context.store.segments.claim(job_id, context.worker_id, context.settings.lease_s))
    if lease is None:
        log.info("nothing to help with: every segment is in work", extra={"job": job_id})
        return
    try:
        with attempt_folder(scratch_root(context.settings.work_dir), job_id, lease.attempt) as folder:
            _render_segments(lease, engine, state.plan, folder, context)
    except (LeaseLostError, JobNotFoundError):
        log.info("the job went on without this helper", extra={"job": job_id})
    except (RenderCanceled, HandBackError) as end:
        log.info("helping ends: %s", type(end).__name__, extra={"job": job_id})
    except RedisError:
        log.exception("the job store is away; the segment's lease will run out", extra={"job": job_id})
    except Exception as fault:
        error = describe_fault(fault, is_memory_full=context.memory.is_full)
        release_frames(fault)
        context.memory.note_failure(error.code)
        told = {"job": job_id, "code": error.code}
        log.error(
            "a segment failed here; its owner renders it",
            exc_info=fault if is_unexpected(error) else None,
            extra=told,
        )


def _render_segments(
    first: SegmentLease, engine: SegmentedEngine, plan: SplitPlan, folder: Path, context: RunContext
) -> None:
    store, clip, lease = context.store, None, first
    while lease is not None:
        with held(lease, context) as keeper:
            clip = clip or _fetch_clip(lease.job_id, engine, plan, folder, keeper, context)
            render_segment(clip, lease, keeper, context, tell=lambda: None)
        if sum(patiently(store.jobs.queue_depths).values()):
            log.info("another job waits: helping ends", extra={"job": first.job_id})
            return
        lease = patiently(lambda: store.segments.claim(first.job_id, context.worker_id, context.settings.lease_s))


def _fetch_clip(
    job_id: str,
    engine: SegmentedEngine,
    plan: SplitPlan,
    folder: Path,
    keeper: LeaseKeeper,
    context: RunContext,
) -> SplitClip:
    """Raises ObjectStoreError, ObjectNotFoundError, JobNotFoundError."""
    scene, video = folder / "scene", folder / "video"
    for key, path in ((plan.scene_key, scene), (plan.video_key, video)):
        insist(lambda key=key, path=path: context.objects.fetch(key, path), context.storage_pauses_s, keeper.wait)
    request = patiently(lambda: context.store.jobs.get(job_id)).spec.request
    return SplitClip(job_id, engine, plan, scene, video, render_options(request, None), folder)
