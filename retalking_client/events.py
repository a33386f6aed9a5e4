"""Following a job to its end: server-sent events (WHATWG HTML, 9.2), progress, and how long to wait."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from retalking_client.answers import describe
from retalking_client.errors import EventsLostError, WaitTimeoutError
from retalking_client.models import OVER, Job, JobEvent

SILENCE_S = 45.0
"""The service comments every 15 s: longer silence is a dead connection, or a proxy that holds the stream back."""
BREAKS_IN_A_ROW = 3
PAUSE_S = 1.0
# Not str.splitlines: it also cuts at characters that may stand inside the data.
_LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)


class EventParser:
    """Bytes in, the data of whole events out. A comment (sign of life) comes out as None."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[str | None]:
        # Without a byte after it, a lone CR may be the first half of a line end: it waits for the next chunk.
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        for line in lines:
            if not line:
                if self._data:
                    yield "\n".join(self._data)
                self._data = []
                continue
            name, _, value = line.decode("utf-8", "replace").partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            elif not name:
                yield None


class EventCursor:
    """One listener: which event came last, how often the stream broke off since, and whether the job is over."""

    def __init__(self, job_id: str, after: str | None = None) -> None:
        self.job_id = job_id
        self.last_id = after
        self.is_over = False
        self._breaks = 0

    def take(self, data: str | None) -> JobEvent | None:
        """The event of one data block. None for a sign of life, and for data that are no event of a job."""
        if data is None:
            return None
        try:
            event = JobEvent.model_validate_json(data)
        except ValidationError:
            return None
        self.last_id, self._breaks = event.id, 0
        self.is_over = event.status in OVER
        return event

    def broke(self, error: Exception | None) -> float:
        """The stream ended before the job did. Seconds to wait; raises EventsLostError after too many in a row."""
        self._breaks += 1
        if self._breaks >= BREAKS_IN_A_ROW:
            reason = f" ({describe(error)})" if error else ""
            raise EventsLostError(f"The event stream of {self.job_id} keeps ending early{reason}.") from error
        return PAUSE_S


POLL_FIRST_S = 1.0
POLL_LONGEST_S = 5.0
# A stream gives a sign of life every 15 s. Nearer to the deadline than that, polling keeps it better.
_NEAR_END_S = 20.0


@dataclass(frozen=True)
class Progress:
    """Where a job stands. stage: of a running job, else None. fraction: 0..1 of the whole job. queue_position and
    eta_s are known only while polling."""

    job_id: str
    status: str
    stage: str | None
    fraction: float
    queue_position: int | None = None
    eta_s: float | None = None


ProgressHook = Callable[[Progress], None]


class Watch:
    """The bookkeeping of one wait, for either kind of client. timeout_s None: as long as it takes."""

    def __init__(self, job_id: str, timeout_s: float | None, hook: ProgressHook | None) -> None:
        self._job_id, self._timeout_s, self._hook = job_id, timeout_s, hook
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._told: Progress | None = None
        self._pause_s = POLL_FIRST_S

    @property
    def left_s(self) -> float | None:
        return None if self._deadline_s is None else self._deadline_s - time.monotonic()

    @property
    def is_near_end(self) -> bool:
        """True when it is time to leave the stream and poll."""
        left_s = self.left_s
        return left_s is not None and left_s < _NEAR_END_S

    def tell_event(self, event: JobEvent | None) -> None:
        if event is not None:
            self._tell(Progress(self._job_id, event.status, event.stage, event.progress))

    def tell_job(self, job: Job) -> None:
        self._tell(Progress(job.id, job.status, job.stage, job.progress, job.queue_position, job.eta_s))

    def poll_pause_s(self) -> float:
        """Seconds until the next look, growing. Raises WaitTimeoutError."""
        left_s = self.left_s
        if left_s is not None and left_s <= 0:
            raise WaitTimeoutError(f"{self._job_id} is not over after {self._timeout_s:g} s; it goes on.", self._job_id)
        pause_s, self._pause_s = self._pause_s, min(POLL_LONGEST_S, self._pause_s * 1.3)
        return pause_s if left_s is None else min(pause_s, left_s)

    def _tell(self, progress: Progress) -> None:
        if self._hook is not None and progress != self._told:
            self._told = progress
            self._hook(progress)
