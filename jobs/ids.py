"""Ids of jobs, uploads and deliveries: a kind and 128 random bits, so that knowing one means having been told it."""

from __future__ import annotations

import re
import secrets

_JOB = re.compile(r"job_[0-9a-f]{32}")
_UPLOAD = re.compile(r"up_[0-9a-f]{32}")
_DELIVERY = re.compile(r"whd_[0-9a-f]{32}")


def new_job_id() -> str:
    return f"job_{secrets.token_hex(16)}"


def new_upload_id() -> str:
    return f"up_{secrets.token_hex(16)}"


def new_delivery_id() -> str:
    return f"whd_{secrets.token_hex(16)}"


def is_job_id(text: str) -> bool:
    return _JOB.fullmatch(text) is not None


def is_upload_id(text: str) -> bool:
    return _UPLOAD.fullmatch(text) is not None


def is_delivery_id(text: str) -> bool:
    return _DELIVERY.fullmatch(text) is not None
