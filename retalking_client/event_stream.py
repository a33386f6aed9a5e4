"""Server-sent events out of a byte stream, and where a listener stands in it (WHATWG HTML, 9.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import ValidationError

from retalking_client.errors import EventsLostError
from retalking_client.models import OVER, JobEvent
from retalking_client.retrying import describe

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
