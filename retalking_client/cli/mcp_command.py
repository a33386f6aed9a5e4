"""`retalking mcp`: the service as tools of an agent, by the Model Context Protocol over stdio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field

from retalking_client import (
    ApiError,
    AsyncClient,
    Batch,
    BatchSummary,
    Job,
    RetalkingClientError,
    SubmitOptions,
    WaitTimeoutError,
)
from retalking_client.cli.common import DEFAULT_URL, CommandError, ServiceUrl, validate_options
from retalking_client.cli.submit import read_job
from retalking_client.models import Status

if TYPE_CHECKING:
    from mcp.server.fastmcp import FastMCP

T = TypeVar("T")
MAX_WAIT_S = 300
MAX_ITEMS = 500
# Shown to an agent: more would fill its context.
MAX_FAULTS = 10
_ABOUT = """Lip-sync as a service: submit a talking-face video (or a portrait) and a speech track, wait until the job is
over, then save the result. A job takes seconds to minutes; call `wait_for_job` again while it is not over. Many jobs go
into one batch: submit_batch, wait_for_batch, then list_jobs with its id, and save_result of each."""
JobId = Annotated[str, Field(description="Id of the job, job_ and 32 hex digits")]
BatchId = Annotated[str, Field(description="Id of the batch, batch_ and 32 hex digits")]
WaitTime = Annotated[float, Field(ge=0, le=MAX_WAIT_S, description="Seconds")]
RepeatKey = Annotated[str | None, Field(description="The same key with the same request never submits twice")]


def mcp(url: ServiceUrl = DEFAULT_URL) -> None:
    """Offer submit, wait, result and list to agents, over stdin and stdout (Model Context Protocol)."""
    try:
        server = build_server(url)
    except ModuleNotFoundError as missing:
        if missing.name != "mcp":
            raise
        raise CommandError("package_missing", "Install the package mcp: pip install 'retalking-client[mcp]'.") from None
    server.run("stdio")


def build_server(url: str | None) -> FastMCP:
    """The tools. Files are those of this machine. Raises ModuleNotFoundError without the package `mcp`."""
    from mcp.server.fastmcp import FastMCP

    server = FastMCP("retalking", instructions=_ABOUT, log_level="WARNING")
    tools = _Tools(url)
    for tool in (
        tools.submit_job,
        tools.wait_for_job,
        tools.cancel_job,
        tools.save_result,
        tools.list_jobs,
        tools.submit_batch,
        tools.wait_for_batch,
        tools.cancel_batch,
        tools.list_batches,
    ):
        server.add_tool(tool)
    return server


@contextmanager
def _refusals() -> Iterator[None]:
    """Errors as the agent reads them: code, what happened, and what to do."""
    from mcp.server.fastmcp.exceptions import ToolError

    try:
        yield
    except RetalkingClientError as error:
        faults = error.faults[:MAX_FAULTS] if isinstance(error, ApiError) else ()
        named = "".join(f" {fault.pointer}: {fault.message}." for fault in faults)
        raise ToolError(f"{error.code}: {error.message}{named} {error.advice or ''}".strip()) from error
    except OSError as error:
        raise ToolError(f"file_error: {error.filename}: {error.strerror}") from error
    except CommandError as error:
        raise ToolError(f"{error.code}: {error.message}") from error


class _Tools:
    """What an agent can call; the docstrings are what it reads."""

    def __init__(self, url: str | None) -> None:
        self._url = url

    async def submit_job(
        self,
        video: Annotated[str, Field(description="The face: path of a video or picture, or its http(s) address")],
        audio: Annotated[str, Field(description="The speech: path of a sound or video file, or its http(s) address")],
        options: Annotated[
            dict[str, Any] | None, Field(description="Options as in docs/options.md, e.g. {'output': {'crf': 20}}")
        ] = None,
        idempotency_key: RepeatKey = None,
    ) -> dict[str, Any]:
        """Submit a job. Returns it at once, usually queued."""
        spec = dict(options or {})
        with _refusals():
            validate_options(SubmitOptions, spec)
            async with AsyncClient(self._url) as client:
                return _shown(await client.submit(video, audio, idempotency_key=idempotency_key, **spec))

    async def wait_for_job(self, job_id: JobId, timeout_s: WaitTime = 60) -> dict[str, Any]:
        """Wait until the job is over, or the time has passed. Returns it as it is then; see `status`."""
        with _refusals():
            async with AsyncClient(self._url) as client:
                try:
                    return _shown(await client.wait(job_id, timeout_s=timeout_s))
                except WaitTimeoutError:
                    return _shown(await client.get(job_id))

    async def cancel_job(self, job_id: JobId) -> dict[str, Any]:
        """Cancel a job that is not over; a finished one is unchanged."""
        with _refusals():
            async with AsyncClient(self._url) as client:
                return _shown(await client.cancel(job_id))

    async def save_result(
        self,
        job_id: JobId,
        path: Annotated[str, Field(description="File to write, or a folder with a trailing slash; must not exist")],
    ) -> dict[str, Any]:
        """Save the video of a job that succeeded. Returns where it is, and its metrics."""
        with _refusals():
            if Path(path).is_file():
                raise CommandError("file_exists", f"{path} exists; choose another path.")
            async with AsyncClient(self._url) as client:
                job = await client.get(job_id)
                saved = await client.download(job, path)
        metrics = [metric.model_dump(mode="json") for metric in job.evaluation or ()]
        return {"path": str(saved.absolute()), "metrics": metrics}

    async def list_jobs(
        self,
        status: Annotated[Status | None, Field(description="Only jobs in this status")] = None,
        batch_id: Annotated[str | None, Field(description="Only the items of this batch that are jobs")] = None,
        limit: Annotated[int, Field(ge=1, le=100)] = 20,
    ) -> list[dict[str, Any]]:
        """List jobs, newest first."""
        with _refusals():
            async with AsyncClient(self._url) as client:
                jobs = client.jobs(status=status, batch=batch_id, page_size=limit)
                return [_shown(job) for job in await _first(jobs, limit)]

    async def submit_batch(
        self,
        jobs: Annotated[
            list[dict[str, Any]],
            Field(
                min_length=1,
                max_length=MAX_ITEMS,
                description="Each is {'video': ..., 'audio': ...} as of submit_job, with options beside them",
            ),
        ],
        metadata: Annotated[dict[str, Any] | None, Field(description="Anything, returned with the batch")] = None,
        idempotency_key: RepeatKey = None,
    ) -> dict[str, Any]:
        """Submit many jobs at once. All are accepted, or none. Files are uploaded, each once. Returns the batch."""
        with _refusals():
            items = [read_job(job, f"job {number}") for number, job in enumerate(jobs, start=1)]
            async with AsyncClient(self._url) as client:
                batch = await client.submit_batch(items, metadata=metadata, idempotency_key=idempotency_key)
                return _shown_batch(batch)

    async def wait_for_batch(self, batch_id: BatchId, timeout_s: WaitTime = 60) -> dict[str, Any]:
        """Wait until all jobs of the batch are over, or the time has passed. Returns counts and failures; 0 seconds:
        as it is now."""
        with _refusals():
            async with AsyncClient(self._url) as client:
                try:
                    return _shown_batch(await client.wait_batch(batch_id, timeout_s=timeout_s))
                except WaitTimeoutError:
                    return _shown_batch(await client.batch(batch_id))

    async def cancel_batch(self, batch_id: BatchId) -> dict[str, Any]:
        """Cancel its jobs that are not over; results that exist stay."""
        with _refusals():
            async with AsyncClient(self._url) as client:
                return _shown_batch(await client.cancel_batch(batch_id))

    async def list_batches(self, limit: Annotated[int, Field(ge=1, le=100)] = 20) -> list[dict[str, Any]]:
        """List batches, newest first."""
        with _refusals():
            async with AsyncClient(self._url) as client:
                return [_shown_batch(batch) for batch in await _first(client.batches(), limit)]


async def _first(items: AsyncIterator[T], limit: int) -> list[T]:
    """The first ones, so that no page is fetched beyond them."""
    found: list[T] = []
    async for item in items:
        found.append(item)
        if len(found) == limit:
            break
    return found


def _shown(job: Job) -> dict[str, Any]:
    """What an agent needs of a job: the rest would fill its context."""
    fields = {
        "id",
        "status",
        "stage",
        "progress",
        "queue_position",
        "eta_s",
        "engine",
        "metadata",
        "error",
        "created_at",
    }
    return job.model_dump(mode="json", include=fields, exclude_none=True) | {
        "notes": [note.sentence for note in job.render.notes] if job.render else [],
    }


def _shown_batch(batch: BatchSummary) -> dict[str, Any]:
    fields = {"id", "status", "total", "counts", "metadata", "created_at"}
    shown = batch.model_dump(mode="json", include=fields)
    if isinstance(batch, Batch):
        shown["failures"] = [each.model_dump(mode="json") for each in batch.failures[:MAX_FAULTS]]
        shown["failures_left_out"] = max(0, len(batch.failures) - MAX_FAULTS)
    return shown
