"""Refusing a file by its first bytes. A first check only: the worker probes the whole file."""

from __future__ import annotations

from jobs.errors import ServiceError
from retalking_core.vocabulary.containers import (
    ACCEPTED,
    ACCEPTED_NAMES,
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
