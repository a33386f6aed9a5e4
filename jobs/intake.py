"""From an upload to the input of a job: how the API does it for a submission, and a worker for an item of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.errors import ServiceError
from jobs.models import InputPart, InputRef, JobSpec, slot_of
from jobs.names import upload_key
from jobs.objects import ObjectNotFoundError, ObjectStore
from jobs.settings import Settings
from jobs.store import JobStore
from retalking_core.vocabulary.containers import (
    ACCEPTED,
    ACCEPTED_NAMES,
    HEAD_BYTES,
    KINDS,
    ContainerKind,
    InputSlot,
    describe,
    sniff,
)


def check_container(head: bytes, slot: InputSlot | None, file: str = "") -> ContainerKind:
    """The container that begins with these bytes. Raises container_unsupported if the slot does not accept it.

    file: what the message calls the file; empty: by its slot.
    """
    found = sniff(head)
    if found is not None and found in (ACCEPTED[slot] if slot else KINDS):
        return found
    what, advice = (f"a {found.name} file", "") if found else describe(head)
    wanted = ACCEPTED_NAMES[slot] if slot else "a video, speech or picture file"
    name = file or (f"`{slot}` file" if slot else "file")
    sentences = (f"The {name} is {what}.", advice, f"Send {wanted}.")
    raise ServiceError("container_unsupported", " ".join(filter(None, sentences)))


def is_job_list(head: bytes) -> bool:
    """True for the first bytes of a list of jobs (JSON Lines), which a batch names by its upload."""
    return head.lstrip().startswith(b"{")


# Keeps an upload from expiring while it is copied; an object store copies 2 GB in seconds.
KEEP_UPLOAD_S = 300.0


@dataclass(frozen=True)
class CheckedUpload:
    """An upload that can be this input of a job."""

    part: InputPart
    upload_id: str
    size_bytes: int
    sha256: str | None
    """None: unknown, because the file was put to a presigned link."""

    def copy_to(self, objects: ObjectStore, key: str) -> InputRef:
        """Copied, because one upload can serve many jobs. Raises ServiceError upload_not_found."""
        try:
            objects.copy(upload_key(self.upload_id), key)
        except ObjectNotFoundError:
            raise _missing(self.upload_id, self.part) from None
        return InputRef(
            kind="object", key=key, size_bytes=self.size_bytes, sha256=self.sha256, upload_id=self.upload_id
        )


def check_upload(
    store: JobStore, objects: ObjectStore, settings: Settings, part: InputPart, upload_id: str, owner: str | None
) -> CheckedUpload:
    """owner: whose upload it must be; None: anybody's.

    Raises ServiceError upload_not_found, body_too_large, file_empty, container_unsupported.
    """
    source = upload_key(upload_id)
    try:
        if store.uploads.keep(upload_id, KEEP_UPLOAD_S, owner) is None:
            raise ObjectNotFoundError(source)
        size = objects.info(source).size_bytes
        if size > settings.max_upload_bytes:  # S3 cannot limit a presigned PUT.
            message = f"The upload {upload_id} is larger than the limit of {settings.max_upload_bytes} bytes."
            raise ServiceError("body_too_large", message)
        if size == 0:
            raise ServiceError("file_empty", f"The upload {upload_id} is empty.")
        head = b"".join(objects.read(source, 0, min(size, HEAD_BYTES)))
        check_container(head, slot_of(part), f"upload {upload_id}")
    except ObjectNotFoundError:
        raise _missing(upload_id, part) from None
    return CheckedUpload(part, upload_id, size, store.uploads.sha256(upload_id))


def check_speech(spec: JobSpec, settings: Settings) -> None:
    """Raises ServiceError body_too_large if the files of all segments together exceed what one file may be."""
    if sum(ref.size_bytes or 0 for ref in spec.segment_audio.values()) > settings.max_upload_bytes:
        limit = settings.max_upload_bytes
        raise ServiceError("body_too_large", f"The speech of all segments together is larger than {limit} bytes.")


def _missing(upload_id: str, part: InputPart) -> ServiceError:
    message = f"There is no upload {upload_id} for the {part}, or its file has not been sent yet."
    return ServiceError("upload_not_found", message)
