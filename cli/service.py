"""The service that a command talks to: where it is, what its jobs are called, and its refusals as ours."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.failures import EXIT_DENIED, EXIT_FAILED, EXIT_UNAVAILABLE, CommandError
from retalking_client import (
    ApiError,
    Client,
    EventsLostError,
    RetalkingClientError,
    RetryPolicy,
    ServiceUnreachableError,
    UnexpectedAnswerError,
)

_DENIED = (401, 403)
_NOT_THERE = (ServiceUnreachableError, UnexpectedAnswerError, EventsLostError)
_COMPLETED_JOBS = 30


# A person who forgot to start the service hears it within two seconds; waiting for a job is more patient.
_IMPATIENT = RetryPolicy(retries=3, first_pause_s=0.3)


def open_client(url: str) -> Client:
    """For commands that ask once and are done."""
    return Client(url, retry=_IMPATIENT)


def complete_job_id(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The newest jobs, for a shell. A service that does not answer at once completes nothing: a shell must not wait."""
    found = []
    try:
        with Client(context.params.get("url"), retry=RetryPolicy(retries=0), timeout_s=1.0) as client:
            for job, _ in zip(client.jobs(page_size=_COMPLETED_JOBS), range(_COMPLETED_JOBS), strict=False):
                if job.id.startswith(incomplete):
                    found.append((job.id, job.status))
    except RetalkingClientError:
        return []
    return found


ServiceUrl = Annotated[
    str,
    typer.Option("--url", envvar=["RETALKING_URL", "RETALKING_PUBLIC_URL"], help="Where the service is"),
]
DEFAULT_URL = "http://127.0.0.1:8000"
JobId = Annotated[str, typer.Argument(help="Id of a job", autocompletion=complete_job_id, show_default=False)]
JobIds = Annotated[list[str], typer.Argument(help="Ids of jobs", autocompletion=complete_job_id, show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


def command_error(error: RetalkingClientError) -> CommandError:
    """The same words; the exit code tells a refusal (1), a missing key (4) and a silent service (3) apart."""
    exit_code = EXIT_FAILED
    if isinstance(error, _NOT_THERE):
        exit_code = EXIT_UNAVAILABLE
    elif isinstance(error, ApiError) and error.status in _DENIED:
        exit_code = EXIT_DENIED
    return CommandError(error.code, f"{error.message} {error.advice}".strip(), exit_code)
