"""Names that all processes agree on: ids, queues and tasks of the broker, keys of the object store.

Object keys are made from ids, never from text of callers.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

RENDER_QUEUE = "retalking.render"
RENDER_TASK = "retalking.render_job"
SEGMENTS_TASK = "retalking.render_segments"
EVALUATE_TASK = "retalking.evaluate_job"

# Priorities of jobs are 0 to 2. The default of a key is the usual one: urgency has no meaning if everybody has it.
USUAL_PRIORITY, MAX_PRIORITY = 1, 2
# Celery's Redis transport serves 0 first and keeps one list per step; job priority 2 is the most urgent.
PRIORITY_STEPS = [0, 3, 6]
BROKER_PRIORITY = {2: 0, 1: 3, 0: 6}

# Face analysis of a video, cached for the next speech on it; belongs to no job, evicted by age and size.
FACE_CACHE_PREFIX = "face-cache/"
UPLOADS_PREFIX = "uploads/"
# First segments of the keys that the service uses itself
OWN_FOLDERS = frozenset({"jobs", "uploads", "face-cache"})
# Segments of a key of the object store: no `..`, no hidden file (jobs/objects.py)
PREFIX_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$"

# Ids have 128 random bits, so that they cannot be guessed.
_JOB = re.compile(r"job_[0-9a-f]{32}")
_UPLOAD = re.compile(r"up_[0-9a-f]{32}")
_BATCH = re.compile(r"batch_[0-9a-f]{32}")
_DELIVERY = re.compile(r"whd_[0-9a-f]{32}")


def new_job_id() -> str:
    return f"job_{secrets.token_hex(16)}"


def new_upload_id() -> str:
    return f"up_{secrets.token_hex(16)}"


def new_batch_id() -> str:
    return f"batch_{secrets.token_hex(16)}"


def new_delivery_id() -> str:
    return f"whd_{secrets.token_hex(16)}"


def is_job_id(text: str) -> bool:
    return _JOB.fullmatch(text) is not None


def is_upload_id(text: str) -> bool:
    return _UPLOAD.fullmatch(text) is not None


def is_batch_id(text: str) -> bool:
    return _BATCH.fullmatch(text) is not None


def is_delivery_id(text: str) -> bool:
    return _DELIVERY.fullmatch(text) is not None


def upload_key(upload_id: str) -> str:
    """An input that arrived before its job (`POST /uploads`)."""
    return f"{UPLOADS_PREFIX}{upload_id}"


def job_prefix(job_id: str) -> str:
    """Prefix of all files of a job; deleting the prefix deletes them."""
    return f"jobs/{job_id}/"


def input_key(job_id: str, part: str) -> str:
    """part: an `InputPart`, or `file_N` for a file of a form whose part is not known yet."""
    return f"{job_prefix(job_id)}input/{part}"


def fetched_input_key(job_id: str, part: str, fence: int) -> str:
    """An input that was given by URL. One key per fetch, so that a late writer never overwrites what is rendered."""
    return f"{input_key(job_id, part)}-{fence}"


def result_key(job_id: str, fence: int, container: str) -> str:
    """One key per lease, so that a late writer that lost its lease never overwrites the published file. Not one per
    attempt: an attempt that is released uncounted passes its number on. A fence is never reused."""
    return f"{lease_prefix(job_id, fence)}{container}"


def lease_prefix(job_id: str, fence: int) -> str:
    """Prefix of everything that a lease publishes."""
    return f"{job_prefix(job_id)}result/lease-{fence}."


def curves_key(result: str) -> str:
    """Curves of the evaluation, next to the result of the same lease. result: its key."""
    return f"{result.rpartition('.')[0]}.curves.json"


def targets_key(result: str) -> str:
    """What the engine stated about a result, for an evaluation by another process. result: its key."""
    return f"{result.rpartition('.')[0]}.targets.npz"


def poster_key(result: str) -> str:
    """JPEG next to the result of the same lease. result: its key."""
    return f"{result.rpartition('.')[0]}.poster.jpg"


def preview_key(result: str) -> str:
    """MP4 of the beginning, next to the result of the same lease. result: its key."""
    return f"{result.rpartition('.')[0]}.preview.mp4"


def portrait_key(result: str, track: str) -> str:
    """JPEG of a person of an analysis, next to its result. result: its key."""
    return f"{result.rpartition('.')[0]}.{track}.jpg"


def segments_prefix(job_id: str) -> str:
    """Files that the workers of a split job exchange; deleted when the job is over."""
    return f"{job_prefix(job_id)}segments/"


def scene_key(job_id: str, fence: int) -> str:
    """fence: of the job's lease under which the clip was analyzed."""
    return f"{segments_prefix(job_id)}scene-{fence}"


def segment_key(job_id: str, number: int, fence: int) -> str:
    """One key per lease, so that a late writer never overwrites a segment that another worker rendered again."""
    return f"{segments_prefix(job_id)}{number}-{fence}.mp4"


def export_key(prefix: str, allowed: Sequence[str], owner: str, job_id: str, container: str) -> str | None:
    """Key of the copy of a result: below the longest allowed folder that the prefix is in, in a folder of the owner, so
    that nobody can write into another's. None: the prefix is in none of them."""
    roots = [root for root in allowed if prefix == root or prefix.startswith(f"{root}/")]
    if not roots:
        return None
    root = max(roots, key=len)
    rest = prefix[len(root) :].strip("/")
    return "/".join(filter(None, (root, owner or "public", rest, f"{job_id}.{container}")))
