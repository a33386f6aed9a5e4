"""One attempt at one job, top to bottom: claim, load inputs, probe, render, evaluate, publish, succeed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from celery.exceptions import SoftTimeLimitExceeded
from redis.exceptions import RedisError

from jobs.messages import MessageNotSentError
from jobs.models import Job, JobStatus, MetricResult, RenderInfo, ResultInfo
from jobs.names import curves_key, portrait_key, poster_key, preview_key, result_key, targets_key
from jobs.objects import ObjectStoreError
from jobs.store import JobNotFoundError, LeaseLostError, WrongStateError
from retalking_core.digests import file_sha256
from retalking_core.engine import settled_render
from retalking_core.errors import RenderCanceled
from retalking_core.media.tap import Excerpts, ResultTap
from retalking_core.progress import Progress
from retalking_core.video_analysis import analyze_video
from retalking_core.vocabulary.engines import preferred_engine
from worker.context import Attempt, RunContext
from worker.engines import choose_engine, wanted_engine
from worker.evaluation import RenderedClip, evaluate_after, follows, is_wanted
from worker.faults import describe_fault, is_transient, is_unexpected, retry_redis
from worker.lease import LeaseKeeper, ShutdownRequestedError
from worker.memory import release_frames
from worker.publication import Publication, open_signer, put_file
from worker.scratch import FETCHED, InputLoader, Inputs, attempt_folder, scratch_root
from worker.splitting import RenderTask, render
from worker.translation import Targets, early_looks, render_info, render_options, result_info, spoken

log = logging.getLogger(__name__)

# Where each stage ends, in the progress of the whole job.
RENDERED, EVALUATED = 0.85, 0.95
# Between two looks at a queued job whose engine only other workers offer.
HAND_ON_PAUSE_S = 2.0


def run_job(job_id: str, context: RunContext) -> None:
    """Claim a job and attempt it. The store learns how the attempt ended; only SystemExit escapes.

    Raises RedisError when the store does not answer the claim.
    """
    settings = context.settings
    if _hand_on(job_id, context):
        return
    lease = retry_redis(lambda: context.store.jobs.claim(job_id, context.worker_id, settings.lease_s))
    if lease is None:
        log.info("nothing to do: job ended, past its deadline, or owned by another worker", extra={"job": job_id})
        return
    keeper = LeaseKeeper(
        context.store.jobs, lease, lease_s=settings.lease_s, stall_s=settings.stall_s, notice=context.notice
    )
    attempt = Attempt(context, lease, keeper)
    attempt.log(logging.INFO, "attempt started")
    with ExitStack() as stack:
        try:
            stack.enter_context(keeper)  # starts a thread, which may be refused
            _produce(attempt)
        except LeaseLostError:
            attempt.log(logging.WARNING, "lease lost: attempt ends")
            _delete_published(attempt)
        except RenderCanceled:
            _settle(attempt, "canceled", lambda: context.store.jobs.cancel(lease, retention_s=settings.retention_s))
        except ShutdownRequestedError:
            _settle(attempt, "released", lambda: context.store.jobs.release(lease, count_attempt=False))
        except RedisError:
            log.exception("job store unreachable: the lease will expire", extra={"job": job_id})
        except Exception as fault:
            _give_up(attempt, fault)
        except SystemExit:
            _release_at_exit(attempt)
            raise


def _hand_on(job_id: str, context: RunContext) -> bool:
    """Leave a job whose engine is not here to the live workers that offer it: back to the end of the queue. Without
    such a worker the job is claimed, and fails with the reason (`choose_engine`).

    One that comes back at once, since those workers are busy, waits here for a moment, so that it does not circle.
    """
    try:
        job = retry_redis(lambda: context.store.jobs.get(job_id))
    except JobNotFoundError:
        return False
    if job.spec.kind == "analyze":  # needs no engine
        return False
    wanted = wanted_engine(job.spec.request.engine, context.settings)
    if job.status is not JobStatus.QUEUED or preferred_engine(wanted, context.engines.by_name) is not None:
        return False
    live = retry_redis(context.store.workers.live)
    if not any(preferred_engine(wanted, {engine.name for engine in worker.engines}) for worker in live):
        return False
    now_s = time.monotonic()
    recent = {each: at_s for each, at_s in context.handed_on.items() if now_s - at_s < HAND_ON_PAUSE_S}
    if job_id in recent:
        time.sleep(HAND_ON_PAUSE_S)
    else:
        log.info("engine %s is not here: left to another worker", wanted, extra={"job": job_id})
    context.handed_on.clear()
    context.handed_on.update(recent | {job_id: time.monotonic()})
    try:
        context.send_again(job)
    except MessageNotSentError:
        log.warning("message not sent: the janitor sends it again", extra={"job": job_id})
    return True


def _produce(attempt: Attempt) -> None:
    """Load inputs, render, evaluate, publish, and mark the job as succeeded."""
    context, lease, keeper = attempt.context, attempt.lease, attempt.keeper
    job = retry_redis(lambda: context.store.jobs.get(lease.job_id))
    if job.spec.kind == "analyze":
        _produce_analysis(attempt, job)
        return
    container = job.spec.request.output.container
    signer = open_signer(context.settings, job.spec.request)
    with ExitStack() as opened:
        folder = opened.enter_context(attempt_folder(scratch_root(context.settings.work_dir), job.id, lease.attempt))
        engine = choose_engine(job.spec.request.engine, context.settings, context.engines)
        inputs = _load_inputs(attempt, job, folder)
        file = folder / f"result.{container}"
        options = render_options(job.spec.request.options, inputs.expression_image, job.owner)
        excerpts = opened.enter_context(Excerpts(folder / "poster", folder / "preview"))
        tap = ResultTap(excerpts)
        with keeper.expecting_progress():  # also while planning: a demuxer can hang as well as a decoder
            given = (engine.capabilities, inputs.video, spoken(job.spec, inputs), options)
            settled = opened.enter_context(settled_render(*given, partial(_report_render, keeper), context.limits))
            clip = replace(settled.clip, tap=tap)
            early = None
            if is_wanted(job) and not follows(job):  # else it would only take cores from the render
                looks = early_looks(file, clip, job.spec.request, context.limits, context.models, tap)
                early = opened.enter_context(looks)
            else:
                tap.close()
            task = RenderTask(attempt, job, engine, clip, settled.options, folder, file, settled.progress)
            report = render(task)
            published = file if signer is None else signer.sign(file, inputs.video, inputs.speech, report)
        rendered = RenderedClip(job, file, clip, report, early, folder / "curves.json")
        result = result_info(published, result_key(job.id, lease.fence, container), container, report)
        publication = opened.enter_context(Publication(attempt))
        excerpts_made = _begin_publishing(publication, rendered, published, result, excerpts)
        metrics: list[MetricResult] = []
        if is_wanted(job) and not follows(job):
            began = time.perf_counter()
            metrics = _evaluate(attempt, rendered)
            report = replace(report, stage_times_s=report.stage_times_s | {"evaluate": time.perf_counter() - began})
        with keeper.expecting_progress():
            excerpts_made.result()
        keeper.beat("publish", EVALUATED)
        if rendered.curves.exists():
            publication.put(curves_key(result.key), rendered.curves, "application/json")
        publication.finish()
        _succeed(attempt, result, render_info(report, clip, inputs), None if follows(job) else metrics)
        if follows(job):
            evaluate_after(rendered, result.key, attempt)


def _produce_analysis(attempt: Attempt, job: Job) -> None:
    """Load the video, find who is in it, publish what was found with the thumbnails, and mark the job as succeeded."""
    context, keeper = attempt.context, attempt.keeper
    key = result_key(job.id, attempt.lease.fence, job.result_suffix)
    root = scratch_root(context.settings.work_dir)
    with attempt_folder(root, job.id, attempt.lease.attempt) as folder:
        video = _input_loader(attempt).fetch(job, folder)["video"]
        thumbnails, file = folder / "thumbnails", folder / "analysis.json"
        thumbnails.mkdir()
        with keeper.expecting_progress():
            found = analyze_video(video, thumbnails, context.limits, partial(_report_render, keeper))
        file.write_text(found.model_dump_json(), encoding="utf-8")
        keeper.beat("publish", EVALUATED)
        for person in found.people:
            picture = thumbnails / f"{person.track}.jpg"
            put_file(attempt, portrait_key(key, person.track), picture, "image/jpeg")
        put_file(attempt, key, file, "application/json")
        keeper.check()
        result = ResultInfo(
            key=key,
            content_type="application/json",
            size_bytes=file.stat().st_size,
            sha256=file_sha256(file),
            **found.model_dump(include={"duration_s", "width", "height", "fps", "frames"}),
        )
    _succeed(attempt, result, None, [])


def _succeed(attempt: Attempt, result: ResultInfo, info: RenderInfo | None, metrics: list[MetricResult] | None) -> None:
    """info: of a render. metrics: None if they follow. Raises RenderCanceled."""
    settings = attempt.context.settings
    try:
        retry_redis(
            lambda: attempt.context.store.jobs.succeed(
                attempt.lease,
                result=result,
                render=info,
                evaluation=metrics,
                retention_s=settings.retention_s,
                evaluation_lease_s=settings.lease_s if metrics is None else None,
            )
        )
    except WrongStateError:
        _delete_published(attempt)
        raise RenderCanceled("The job was canceled.") from None
    attempt.log(logging.INFO, "succeeded")


def _load_inputs(attempt: Attempt, job: Job, folder: Path) -> Inputs:
    return _input_loader(attempt).load(job, folder)


def _input_loader(attempt: Attempt) -> InputLoader:
    keeper = attempt.keeper
    return InputLoader(
        objects=attempt.context.objects,
        max_bytes=attempt.context.settings.max_upload_bytes,
        beat=lambda stage, fraction, detail: keeper.beat(stage, FETCHED * fraction, detail),
        wait=keeper.wait,
        pauses_s=attempt.context.storage_pauses_s,
    )


def _report_render(keeper: LeaseKeeper, progress: Progress) -> None:
    fraction = FETCHED + (RENDERED - FETCHED) * progress.fraction
    keeper.beat(progress.stage, fraction, (progress.done, progress.total))


def _evaluate(attempt: Attempt, rendered: RenderedClip) -> list[MetricResult]:
    keeper = attempt.keeper
    keeper.beat("evaluate", RENDERED)
    with keeper.expecting_progress():
        metrics = rendered.evaluate(attempt.context, partial(_report_evaluation, keeper), attempt.log)
    keeper.beat("evaluate", EVALUATED)
    return metrics


def _report_evaluation(keeper: LeaseKeeper, progress: Progress) -> None:
    fraction = RENDERED + (EVALUATED - RENDERED) * progress.fraction
    keeper.beat(progress.stage, fraction, (progress.done, progress.total))


def _begin_publishing(
    publication: Publication, rendered: RenderedClip, file: Path, result: ResultInfo, excerpts: Excerpts
) -> Future[list[Path]]:
    """Upload what is known once the result is rendered, beside its evaluation. Returns the excerpts that could be made:
    one that fails must not cost the render."""
    made = publication.add(lambda: excerpts.finish(rendered.file))

    def put_excerpts() -> None:
        for path, key, content_type in (
            (excerpts.poster, poster_key(result.key), "image/jpeg"),
            (excerpts.preview, preview_key(result.key), "video/mp4"),
        ):
            if path in made.result():
                put_file(publication.attempt, key, path, content_type)

    publication.add(put_excerpts)
    if follows(rendered.job):
        stated = rendered.curves.with_name("targets.npz")
        Targets.of(rendered.report).save(stated)
        publication.put(targets_key(result.key), stated, "application/octet-stream")
    publication.put(result.key, file, result.content_type)
    return made


def _give_up(attempt: Attempt, fault: Exception) -> None:
    """Requeue the job after a transient fault while attempts are left; else fail it, with a public reason."""
    context, lease = attempt.context, attempt.lease
    error = describe_fault(fault, is_memory_full=context.memory.is_full)
    release_frames(fault)
    context.memory.note_failure(error.code)
    attempt.log(logging.ERROR, "attempt failed", fault if is_unexpected(error) else None, code=error.code)
    if is_transient(fault) and lease.attempt < retry_redis(lambda: context.store.jobs.get(lease.job_id)).max_attempts:
        _settle(attempt, "returned to the queue", lambda: context.store.jobs.release(lease, count_attempt=True))
    else:
        retention_s = context.settings.retention_s
        _settle(attempt, "failed", lambda: context.store.jobs.fail(lease, error, retention_s=retention_s))


def _release_at_exit(attempt: Attempt) -> None:
    """SIGTERM reached this process. Celery also sends it at the hard time limit, 0.1 s before SIGKILL: a job whose
    engine ignores the soft limit must not be released and rendered again forever."""
    if time.monotonic() - attempt.started_s > attempt.context.settings.render_limit_s:
        _give_up(attempt, SoftTimeLimitExceeded())
    else:
        _settle(attempt, "released", lambda: attempt.context.store.jobs.release(attempt.lease, count_attempt=False))


def _settle(attempt: Attempt, outcome: str, call: Callable[[], object]) -> None:
    """Record how the attempt ended. If the store stays unreachable, the lease expires instead.

    What it wrote is deleted first: if the process dies in between, the lease expires, and the janitor deletes it.
    """
    _delete_published(attempt)
    try:
        retry_redis(call)
        attempt.log(logging.INFO, outcome)
    except (LeaseLostError, WrongStateError, JobNotFoundError):
        attempt.log(logging.INFO, "job continued without this attempt")
    except RedisError:
        attempt.log(logging.ERROR, f"job store unreachable: `{outcome}` not recorded, the lease will expire")


def _delete_published(attempt: Attempt) -> None:
    """Delete what the attempt wrote, unless the store names it as the result: then only the answer was lost."""
    if not attempt.written:
        return
    try:
        result = retry_redis(lambda: attempt.context.store.jobs.get(attempt.lease.job_id)).result
    except JobNotFoundError:
        result = None
    except RedisError:
        attempt.log(logging.ERROR, "job store unreachable: the result is not deleted")
        return
    if result is not None and result.key in attempt.written:
        return
    try:
        while attempt.written:
            attempt.context.objects.delete(attempt.written[-1])
            attempt.written.pop()
    except ObjectStoreError:
        attempt.log(logging.ERROR, "withdrawn result not deleted; it is deleted with the job's files")
