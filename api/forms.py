"""A submitted form: its files go to the object store while they arrive, its fields become one dictionary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

import anyio
from starlette.requests import Request

from api.bodies import body_chunks, too_large
from api.bounds import check_filename, read_json
from api.claims import Claim
from api.multipart import PartData, PartStart, read_parts
from api.parts import Parts
from api.problems import FieldError
from api.staging import Intake, StagedFile
from jobs.errors import ServiceError
from jobs.names import input_key
from retalking_core.vocabulary.containers import InputSlot

SLOTS: tuple[InputSlot, ...] = get_args(InputSlot)
# Fields whose value is an object or a list: JSON text, or (objects) dotted names such as `output.crf`.
NESTED_FIELDS = frozenset({"face", "crop", "pads", "output", "metadata"})
LIST_FIELDS = frozenset({"evaluate", "webhook_events"})
# Boundaries and part headers: 100 parts with at most 8 headers of 4 kB would be 3 MB; real forms need a few kB.
FRAMING_BYTES = 1 << 16


@dataclass
class ReceivedForm:
    """files: what was staged, by slot. fields: values by field name, in the order sent."""

    files: dict[InputSlot, StagedFile] = field(default_factory=dict)
    filenames: dict[InputSlot, str] = field(default_factory=dict)
    fields: dict[str, list[str]] = field(default_factory=dict)


async def receive_form(request: Request, parts: Parts, claim: Claim) -> ReceivedForm:
    """Read the whole form. On any exception the file in work leaves no trace; files that were whole by then stay
    under the job's prefix for the caller to remove."""
    settings = parts.settings
    max_bytes = len(SLOTS) * settings.max_upload_bytes + settings.max_json_bytes + FRAMING_BYTES
    chunks = body_chunks(request, max_bytes, parts.pace)
    receiver = _Receiver(parts, claim)
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


class _Receiver:
    """Sends each part where it belongs."""

    def __init__(self, parts: Parts, claim: Claim) -> None:
        self.form = ReceivedForm()
        self._parts = parts
        self._claim = claim
        self._part: PartStart | None = None
        self._intake: Intake | None = None
        self._value = bytearray()
        self._field_bytes = 0

    def start(self, part: PartStart) -> None:
        self._part = part
        slot = slot_of(part)
        if slot is None:
            if part.filename is not None and part.name != "spec":
                names = ", ".join(SLOTS)
                raise refuse_field(part.name, f"There is no file part of this name; the file parts are {names}")
            return
        if slot in self.form.files:
            raise refuse_field(part.name, "This file was sent twice")
        check_filename(part.filename or "", slot)
        self._intake = Intake(self._parts, self._claim, input_key(self._claim.arrival, slot), slot)

    async def add(self, data: bytes) -> None:
        if self._intake is not None:
            await self._intake.add(data)
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
        slot = slot_of(part)
        if slot is None or self._intake is None:
            self._end_field(part.name)
            return
        intake, is_unused = self._intake, part.filename == "" and self._intake.is_empty
        if not is_unused:  # A browser sends a file input without a file as an empty part with an empty name.
            self.form.files[slot] = await intake.finish()
            self.form.filenames[slot] = part.filename or ""
        self._intake = None

    def _end_field(self, name: str) -> None:
        raw, self._value = bytes(self._value), bytearray()
        try:
            value = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise refuse_field(name, "The value is not UTF-8") from None
        self.form.fields.setdefault(name, []).append(value)

    async def abandon(self) -> None:
        if self._intake is not None:
            await self._intake.abandon()


def slot_of(part: PartStart) -> InputSlot | None:
    """The slot of a file part. `expression` is also a plain field (`smile`)."""
    if part.name == "expression" and part.filename is None and part.content_type.startswith("text/"):
        return None
    return next((slot for slot in SLOTS if slot == part.name), None)


def fields_to_body(fields: dict[str, list[str]]) -> dict[str, Any]:
    """Form fields as the dictionary that the same request in JSON would be, its leaves still text. Fields without a
    value count as not sent, because an HTML form can not leave out an empty input."""
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
    """JSON text of a nested field, else the text itself (`face=largest`)."""
    if name not in NESTED_FIELDS | LIST_FIELDS or not text.lstrip().startswith(("{", "[")):
        return text
    return read_json(text, f"The field `{name}`")


def refuse_field(name: str, message: str) -> ServiceError:
    return ServiceError(
        "invalid_request", f"{name}: {message}.", errors=[FieldError(pointer=f"#/{name}", message=message)]
    )
