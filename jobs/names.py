"""Names that more than one process must agree on: queues, tasks, object keys. Keys come from ids, never from users."""

from __future__ import annotations

RENDER_QUEUE = "retalking.render"
RENDER_TASK = "retalking.render_job"
SEGMENTS_TASK = "retalking.render_segments"

# Celery's Redis transport serves 0 first and keeps one list a step; job priority 2 is the most urgent.
PRIORITY_STEPS = [0, 3, 6]
BROKER_PRIORITY = {2: 0, 1: 3, 0: 6}

# What renders keep of a video for the next speech on it; belongs to no job, and goes by age and size.
FACE_CACHE_PREFIX = "face-cache/"
UPLOADS_PREFIX = "uploads/"


def upload_key(upload_id: str) -> str:
    """An input that arrived before its job (`POST /uploads`)."""
    return f"{UPLOADS_PREFIX}{upload_id}"


def job_prefix(job_id: str) -> str:
    """Everything a job owns lies under this prefix; deleting the prefix deletes the job's files."""
    return f"jobs/{job_id}/"


def input_key(job_id: str, part: str) -> str:
    """part: `video`, `audio` or `expression`."""
    return f"{job_prefix(job_id)}input/{part}"


def result_key(job_id: str, fence: int, container: str) -> str:
    """One key a lease, so that a late writer that lost its lease never touches the published file. Not one an attempt:
    an attempt that is handed back uncounted gives its number to the next one. A fence never comes again."""
    return f"{job_prefix(job_id)}result/lease-{fence}.{container}"


def curves_key(result: str) -> str:
    """The curves behind the evaluation, beside the result of the same lease. result: its key."""
    return f"{result.rpartition('.')[0]}.curves.json"


def segments_prefix(job_id: str) -> str:
    """What the workers of a split job hand each other; deleted when the job is over."""
    return f"{job_prefix(job_id)}segments/"


def scene_key(job_id: str, fence: int) -> str:
    """fence: of the job's lease under which the clip was analyzed."""
    return f"{segments_prefix(job_id)}scene-{fence}"


def shared_video_key(job_id: str, fence: int) -> str:
    """The video of a job that named an address: helpers must see the very bytes that were analyzed."""
    return f"{segments_prefix(job_id)}video-{fence}"


def segment_key(job_id: str, number: int, fence: int) -> str:
    """One key a lease, so that a late writer never touches a segment that another worker made again."""
    return f"{segments_prefix(job_id)}{number}-{fence}.mp4"
