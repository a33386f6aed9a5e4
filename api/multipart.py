"""multipart/form-data as a stream of parts. Parsed by python-multipart; nothing is spooled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from jobs.errors import ServiceError

MAX_PARTS = 100
MAX_NAME_CHARS = 255


@dataclass(frozen=True)
class PartStart:
    """name: of the form field. filename: None for a plain field; the caller's data of any
    length, never a path."""

    name: str
    filename: str | None
    content_type: str


@dataclass(frozen=True)
class PartData:
    data: bytes


@dataclass(frozen=True)
class PartEnd:
    """The part is whole."""


PartEvent = PartStart | PartData | PartEnd


async def read_parts(chunks: AsyncIterator[bytes], content_type: str) -> AsyncIterator[PartEvent]:
    """The parts of a form in the order they arrive. Raises malformed_form, also when the form breaks off."""
    parser = _PartParser(_boundary(content_type))
    async for chunk in chunks:
        for event in parser.feed(chunk):
            yield event
    parser.check_whole()


def _boundary(content_type: str) -> bytes:
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    # RFC 2046 section 5.1.1: 1 to 70 characters.
    if not 1 <= len(boundary) <= 70:
        raise ServiceError("malformed_form", "The Content-Type names no boundary of 1 to 70 characters.")
    return boundary


class _PartParser:
    """Turns the parser's callbacks, which come inside write(), into a list of events."""

    def __init__(self, boundary: bytes) -> None:
        self._events: list[PartEvent] = []
        self._headers: dict[str, str] = {}
        self._header_name = b""
        self._header_value = b""
        self._parts = 0
        self._is_whole = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._grow_header_name,
                "on_header_value": self._grow_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._start_part,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_end": self._end_form,
            },
        )

    def feed(self, chunk: bytes) -> list[PartEvent]:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise ServiceError("malformed_form", f"The form can not be read: {error}.") from None
        events, self._events = self._events, []
        return events

    def check_whole(self) -> None:
        if not self._is_whole:
            raise ServiceError("malformed_form", "The form breaks off before its closing boundary.")

    def _begin_part(self) -> None:
        self._headers = {}
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise ServiceError("malformed_form", f"The form has more than {MAX_PARTS} parts.")

    def _grow_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _grow_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        # latin-1 keeps the bytes; names and file names are read as UTF-8 below.
        self._headers[self._header_name.decode("latin-1").lower()] = self._header_value.decode("latin-1")
        self._header_name = self._header_value = b""

    def _start_part(self) -> None:
        disposition, options = parse_options_header(self._headers.get("content-disposition"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if disposition != b"form-data" or not 1 <= len(name) <= MAX_NAME_CHARS:
            raise ServiceError("malformed_form", "A part has no Content-Disposition: form-data with a name.")
        filename = options.get(b"filename")
        self._events.append(
            PartStart(
                name,
                None if filename is None else filename.decode("utf-8", "replace"),
                self._headers.get("content-type", "text/plain"),
            )
        )

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(PartData(bytes(data[start:end])))

    def _end_part(self) -> None:
        self._events.append(PartEnd())

    def _end_form(self) -> None:
        self._is_whole = True
