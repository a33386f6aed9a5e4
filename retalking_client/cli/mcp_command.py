"""`retalking mcp`: the service as tools of an agent, by the Model Context Protocol over stdio."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from retalking_client import AsyncClient, Job, RetalkingClientError, SubmitOptions, WaitTimeoutError
from retalking_client.cli.common import DEFAULT_URL, ServiceUrl, validate_options
from retalking_client.cli.failures import CommandError
from retalking_client.models import Status

if TYPE_CHECKING:
    from mcp.server.fastmcp import FastMCP

MAX_WAIT_S = 300
_ABOUT = """Lip-sync as a service: submit a talking-face video (or a portrait) and a speech track, wait until the job is
over, then save the result. A job takes seconds to minutes; call `wait_for_job` again while it is not over."""
JobId = Annotated[str, Field(description="Id of the job, job_ and 32 hex digits")]


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
    from mcp.server.fastmcp.exceptions import ToolError

    server = FastMCP("retalking", instructions=_ABOUT, log_level="WARNING")

    def refuse(error: RetalkingClientError | CommandError | OSError) -> ToolError:
        if isinstance(error, RetalkingClientError):
            return ToolError(f"{error.code}: {error.message} {error.advice or ''}".strip())
        if isinstance(error, OSError):
            return ToolError(f"file_error: {error.filename}: {error.strerror}")
        return ToolError(f"{error.code}: {error.message}")

    @server.tool()
    async def submit_job(
        video: Annotated[str, Field(description="The face: path of a video or picture, or its http(s) address")],
        audio: Annotated[str, Field(description="The speech: path of a sound or video file, or its http(s) address")],
        options: Annotated[
            dict[str, Any] | None, Field(description="Options as in docs/options.md, e.g. {'output': {'crf': 20}}")
        ] = None,
        idempotency_key: Annotated[
            str | None, Field(description="The same key with the same request never makes a second job")
        ] = None,
    ) -> dict[str, Any]:
        """Submit a job. Returns it at once, usually queued."""
        try:
            spec = dict(options or {})
            validate_options(SubmitOptions, spec)
            async with AsyncClient(url) as client:
                return _shown(await client.submit(video, audio, idempotency_key=idempotency_key, **spec))
        except (RetalkingClientError, CommandError, OSError) as error:
            raise refuse(error) from error

    @server.tool()
    async def wait_for_job(
        job_id: JobId, timeout_s: Annotated[float, Field(ge=0, le=MAX_WAIT_S, description="Seconds")] = 60
    ) -> dict[str, Any]:
        """Wait until the job is over, or the time has passed. Returns it as it is then; see `status`."""
        try:
            async with AsyncClient(url) as client:
                try:
                    return _shown(await client.wait(job_id, timeout_s=timeout_s))
                except WaitTimeoutError:
                    return _shown(await client.get(job_id))
        except RetalkingClientError as error:
            raise refuse(error) from error

    @server.tool()
    async def save_result(
        job_id: JobId,
        path: Annotated[str, Field(description="File to write, or a folder with a trailing slash; must not exist")],
    ) -> dict[str, Any]:
        """Save the video of a job that succeeded. Returns where it is, and its metrics."""
        if Path(path).is_file():
            raise ToolError(f"file_exists: {path} exists; choose another path.")
        try:
            async with AsyncClient(url) as client:
                job = await client.get(job_id)
                saved = await client.download(job, path)
        except (RetalkingClientError, OSError) as error:
            raise refuse(error) from error
        metrics = [metric.model_dump(mode="json") for metric in job.evaluation or ()]
        return {"path": str(saved.absolute()), "metrics": metrics}

    @server.tool()
    async def list_jobs(
        status: Annotated[Status | None, Field(description="Only jobs in this status")] = None,
        limit: Annotated[int, Field(ge=1, le=100)] = 20,
    ) -> list[dict[str, Any]]:
        """List jobs, newest first."""
        found: list[dict[str, Any]] = []
        try:
            async with AsyncClient(url) as client:
                async for job in client.jobs(status=status, page_size=limit):
                    found.append(_shown(job))
                    if len(found) == limit:
                        break
        except RetalkingClientError as error:
            raise refuse(error) from error
        return found

    return server


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
