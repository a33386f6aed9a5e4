"""multipart/form-data as a stream: files go to the object store while they arrive, fields become one dictionary.

Parsed by python-multipart; nothing is spooled to disk.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, get_args

import anyio
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from api.dependencies import Dependencies
from api.limits import body_chunks, check_filename, read_json, too_large
from api.problems import FieldError
from api.segments import PART_NAME
from api.staging import StagedFile, StorageReservation, UploadStream
from jobs.errors import ServiceError
from jobs.models import MAX_AUDIO_FILES, JobRequest
from jobs.names import input_key
from retalking_core.vocabulary.containers import InputSlot

SLOTS: tuple[InputSlot, ...] = get_args(InputSlot)
# Fields whose value is an object or a list: JSON text, or (objects) dotted names such as `output.crf`.
NESTED_FIELDS = frozenset({"face", "crop", "pads", "output", "sound", "segments", "metadata"})
LIST_FIELDS = frozenset({"evaluate", "webhook_events"})
# JSON parts; clients like to send them with a file name.
JSON_PARTS = frozenset({"spec", "segments"})
# Boundaries and part headers: 100 parts with at most 8 headers of 4 kB would be 3 MB; real forms need a few kB.
FRAMING_BYTES = 1 << 16


@dataclass
class ReceivedForm:
    """files: staged files by the name of their part: a slot, or a name of the caller's for speech of segments.
    filenames: as sent, by the same name. fields: values by field name, in the order sent."""

    files: dict[str, StagedFile] = field(default_factory=dict)
    filenames: dict[str, str] = field(default_factory=dict)
    fields: dict[str, list[str]] = field(default_factory=dict)


async def receive_form(request: Request, parts: Dependencies, reservation: StorageReservation) -> ReceivedForm:
    """Receive a form. On any exception the file that is being received is discarded; files that were complete by then
    stay under the job's prefix for the caller to remove."""
    settings = parts.settings
    max_bytes = len(SLOTS) * settings.max_upload_bytes + settings.max_json_bytes + FRAMING_BYTES
    chunks = body_chunks(request, max_bytes, parts.pace)
    receiver = _FormReceiver(parts, reservation)
    try:
        async for event in read_parts(chunks, request.headers.get("content-type", "")):
            if isinstance(event, PartStart):
                receiver.start(event)
            elif isinstance(event, PartData):
                await receiver.add(event.data)
            else:
                await receiver.end()
    except BaseException:
        with anyio.CancelScope(shield=True):
            await receiver.abandon()
        raise
    return receiver.form


class _FormReceiver:
    """Routes each part of a form: files to the object store, fields into memory."""

    def __init__(self, parts: Dependencies, reservation: StorageReservation) -> None:
        self.form = ReceivedForm()
        self._parts = parts
        self._reservation = reservation
        self._part: PartStart | None = None
        self._stream: UploadStream | None = None
        self._value = bytearray()
        self._field_bytes = 0

    def start(self, part: PartStart) -> None:
        self._part = part
        slot, name = slot_of(part), part.name
        if slot is None:
            return
        if name in self.form.files:
            raise refuse_field(name, "This file was sent twice")
        check_filename(part.filename or "", name)
        count = len(self.form.files)
        if count >= len(SLOTS) + MAX_AUDIO_FILES:
            message = f"The form has more than {MAX_AUDIO_FILES} files for segments."
            raise ServiceError("audio_files_too_many", message)
        # The names are the caller's, so they are no part of a key.
        key = input_key(self._reservation.arrival, name if name in SLOTS else f"file_{count}")
        self._stream = UploadStream(self._parts, self._reservation, key, slot, name)

    async def add(self, data: bytes) -> None:
        if self._stream is not None:
            await self._stream.add(data)
            return
        limit = self._parts.settings.max_json_bytes
        self._field_bytes += len(data)
        if self._field_bytes > limit:
            raise too_large(limit, "form without its files")
        self._value += data

    async def end(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        if self._stream is None:
            self._end_field(part.name)
            return
        stream, is_unused = self._stream, part.filename == "" and self._stream.is_empty
        if not is_unused:  # Browsers send an empty file input as an empty part with an empty name.
            self.form.files[part.name] = await stream.finish()
            self.form.filenames[part.name] = part.filename or ""
        self._stream = None

    def _end_field(self, name: str) -> None:
        raw, self._value = bytes(self._value), bytearray()
        try:
            value = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise refuse_field(name, "The value is not UTF-8") from None
        self.form.fields.setdefault(name, []).append(value)

    async def abandon(self) -> None:
        if self._stream is not None:
            await self._stream.abandon()


def slot_of(part: PartStart) -> InputSlot | None:
    """The slot of a file part; None for a field. `expression` is also a plain field (`smile`). A file of another name
    is the speech of segments, which name it. Raises invalid_request for a file that cannot be one."""
    if part.name == "expression" and part.filename is None and part.content_type.startswith("text/"):
        return None
    slot = next((slot for slot in SLOTS if slot == part.name), None)
    if slot is not None or part.filename is None or part.name in JSON_PARTS:
        return slot
    if part.name in JobRequest.model_fields or not re.fullmatch(PART_NAME, part.name):
        names = ", ".join(SLOTS)
        raise refuse_field(
            part.name, f"There is no file part of this name; the file parts are {names}, and the `audio` of segments"
        )
    return "audio"


def fields_to_body(fields: dict[str, list[str]]) -> dict[str, Any]:
    """Form fields as the equivalent JSON object, with leaves still as text. Fields without a value count as not sent,
    because an HTML form cannot leave out an empty input."""
    body: dict[str, Any] = {}
    for name, values in fields.items():
        filled = [value for value in values if value != ""]
        head, _, rest = name.partition(".")
        if not filled:
            continue
        if name in LIST_FIELDS and not (len(filled) == 1 and filled[0].lstrip().startswith("[")):
            body[name] = filled
        elif len(filled) > 1:
            raise refuse_field(name, "This field was sent more than once")
        elif rest and head in NESTED_FIELDS:
            target = body.setdefault(head, {})
            if not isinstance(target, dict):
                raise refuse_field(name, f"`{head}` is also sent as a whole")
            target[rest] = filled[0]
        elif head in body:
            raise refuse_field(name, f"`{head}` is also sent in parts")
        else:
            body[name] = _leaf(name, filled[0])
    return body


def _leaf(name: str, text: str) -> Any:
    """The parsed JSON of a nested field, or the text itself (`face=largest`)."""
    if name not in NESTED_FIELDS | LIST_FIELDS or not text.lstrip().startswith(("{", "[")):
        return text
    return read_json(text, f"The field `{name}`")


def refuse_field(name: str, message: str) -> ServiceError:
    return ServiceError(
        "invalid_request", f"{name}: {message}.", errors=[FieldError(pointer=f"#/{name}", message=message)]
    )


MAX_PARTS = 100
MAX_NAME_CHARS = 255


@dataclass(frozen=True)
class PartStart:
    """Head of a part. name: of the form field. filename: None for a plain field; untrusted, of any length."""

    name: str
    filename: str | None
    content_type: str


@dataclass(frozen=True)
class PartData:
    data: bytes


@dataclass(frozen=True)
class PartEnd:
    """The part is complete."""


PartEvent = PartStart | PartData | PartEnd


async def read_parts(chunks: AsyncIterator[bytes], content_type: str) -> AsyncIterator[PartEvent]:
    """The parts of a form in the order they arrive. Raises malformed_form, also if the form ends early."""
    parser = _PartParser(_boundary(content_type))
    async for chunk in chunks:
        for event in parser.feed(chunk):
            yield event
    parser.check_complete()


def _boundary(content_type: str) -> bytes:
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    # RFC 2046 section 5.1.1: 1 to 70 characters.
    if not 1 <= len(boundary) <= 70:
        raise ServiceError("malformed_form", "The Content-Type has no boundary of 1 to 70 characters.")
    return boundary


class _PartParser:
    """Turns the callbacks of the parser, which run inside write(), into a list of events."""

    def __init__(self, boundary: bytes) -> None:
        self._events: list[PartEvent] = []
        self._headers: dict[str, str] = {}
        self._header_name = b""
        self._header_value = b""
        self._parts = 0
        self._is_complete = False
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
            raise ServiceError("malformed_form", f"The form cannot be parsed: {error}.") from None
        events, self._events = self._events, []
        return events

    def check_complete(self) -> None:
        if not self._is_complete:
            raise ServiceError("malformed_form", "The form ends before its closing boundary.")

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
        self._is_complete = True
