"""Options and clients shared by the commands that talk to a service, and exit codes for its refusals."""

from __future__ import annotations

from typing import Annotated

import typer

from retalking_client import (
    ApiError,
    Client,
    EventsLostError,
    RetalkingClientError,
    RetryPolicy,
    ServiceUnreachableError,
    UnexpectedAnswerError,
)
from retalking_client.cli.failures import EXIT_DENIED, EXIT_FAILED, EXIT_UNAVAILABLE, EXIT_USAGE, CommandError
from retalking_client.codes import InvalidOptionError

_DENIED = (401, 403)
_UNAVAILABLE = (ServiceUnreachableError, UnexpectedAnswerError, EventsLostError)
_COMPLETED_JOBS = 30


# Someone who forgot to start the service learns it within two seconds; waiting for a job retries longer.
_INTERACTIVE = RetryPolicy(retries=3, first_pause_s=0.3)


def open_client(url: str) -> Client:
    """For commands that make one request."""
    return Client(url, retry=_INTERACTIVE)


def complete_job_id(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Shell completion from the newest jobs. Empty unless the service answers at once: a shell must not wait."""
    found: list[tuple[str, str]] = []
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
    typer.Option("--url", envvar=["RETALKING_URL", "RETALKING_PUBLIC_URL"], help="URL of the service"),
]
DEFAULT_URL = "http://127.0.0.1:8000"
JobId = Annotated[str, typer.Argument(help="Id of a job", autocompletion=complete_job_id, show_default=False)]
JobIds = Annotated[list[str], typer.Argument(help="Ids of jobs", autocompletion=complete_job_id, show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


def command_error(error: RetalkingClientError) -> CommandError:
    """Same code and message. Exit codes: refusal 1, wrong option 2, unreachable service 3, missing key 4."""
    exit_code = EXIT_FAILED
    if isinstance(error, _UNAVAILABLE):
        exit_code = EXIT_UNAVAILABLE
    elif isinstance(error, ApiError) and error.status in _DENIED:
        exit_code = EXIT_DENIED
    elif isinstance(error, InvalidOptionError) and error.job is None:
        exit_code = EXIT_USAGE
    return CommandError(error.code, f"{error.message} {error.advice}".strip(), exit_code)
