"""The one public table of error codes: what each means, which HTTP status it takes, what the caller can do.

`GET /errors` and docs/errors.md are made from it. Codes are stable; messages are not.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorCode:
    """status: HTTP status when a request is refused with it. retryable: the same call may succeed later."""

    code: str
    status: int
    title: str
    advice: str
    retryable: bool = False


class ServiceError(Exception):
    """A refusal with a public code. The message names the cause; the table gives title, status and advice."""

    def __init__(self, code: str, message: str, **details: object) -> None:
        super().__init__(message)
        if code not in ERROR_CODES:
            raise KeyError(f"{code} is not in the public table of error codes")
        self.code = code
        self.message = message
        self.details = details


_TABLE = [
    # Callers
    ErrorCode(
        "unauthorized",
        401,
        "An API key is needed",
        "Send `Authorization: Bearer rtk_...` with a key that is not revoked; `retalking keys create` makes one.",
    ),
    ErrorCode("forbidden", 403, "The key does not allow this", "Use a key with the scope that the message names."),
    ErrorCode(
        "priority_not_allowed",
        403,
        "The key may not ask for this priority",
        "Ask for the priority that the message names, or use a key made with a higher `--max-priority`.",
    ),
    ErrorCode(
        "rate_limited", 429, "The key made too many requests", "Wait as long as `Retry-After` says; poll less.", True
    ),
    ErrorCode(
        "quota_exceeded",
        429,
        "The key has too many live jobs",
        "Wait until some of its jobs are over, or cancel them.",
        True,
    ),
    ErrorCode(
        "host_not_allowed",
        403,
        "The service does not answer under this name",
        "Call it by the address it was started with; the operator adds names with RETALKING_PUBLIC_HOSTS, or asks for "
        "keys.",
    ),
    ErrorCode(
        "cross_site_refused",
        403,
        "A page of another site asked",
        "Call the service from its own console or from a program; for pages of other sites the operator asks for keys.",
    ),
    ErrorCode(
        "too_many_open",
        429,
        "Too many requests of this kind are open",
        "Wait until some of them have ended, or close them.",
        True,
    ),
    ErrorCode(
        "storage_quota_exceeded",
        429,
        "The key stores as many bytes as it may",
        "Delete jobs that are over, or wait until their files and uploads expire.",
        True,
    ),
    # Requests
    ErrorCode("invalid_request", 422, "The request is not valid", "Correct the fields that `errors` names."),
    ErrorCode("malformed_json", 400, "The body is not JSON", "Send well-formed JSON in UTF-8."),
    ErrorCode(
        "malformed_form",
        400,
        "The body is not a multipart form",
        "Send multipart/form-data with a boundary, and close every part.",
    ),
    ErrorCode(
        "unsupported_media_type",
        415,
        "The content type is not accepted",
        "Send multipart/form-data or application/json.",
    ),
    ErrorCode(
        "body_too_large",
        413,
        "The body is over the limit",
        "Send a smaller file, or less metadata; the limits are in `GET /engines`.",
    ),
    ErrorCode(
        "request_timeout",
        408,
        "The body stopped arriving",
        "Send it again without long pauses, or put large files to a link from `POST /uploads`.",
        True,
    ),
    ErrorCode(
        "invalid_option",
        422,
        "An option has a value that is not allowed",
        "Use one of the values that the message names.",
    ),
    ErrorCode(
        "value_out_of_bounds",
        422,
        "A value is over a limit",
        "Shorten or flatten the value that `errors` names; its message states the limit.",
    ),
    ErrorCode(
        "unsupported_option",
        422,
        "The engine can not honour an option",
        "Leave the option out, or ask for the engine that the message names.",
    ),
    ErrorCode(
        "engine_unavailable",
        409,
        "The engine is not available",
        "Use engine `auto`, or install the checkpoints that the message names.",
        True,
    ),
    ErrorCode(
        "idempotency_conflict",
        422,
        "The Idempotency-Key was used for another request",
        "Use a fresh key for a different request.",
    ),
    ErrorCode(
        "job_not_found", 404, "No such job", "Check the id; finished jobs are deleted after their retention time."
    ),
    ErrorCode(
        "upload_not_found",
        404,
        "No such upload",
        "Check the id, and that the file was put to the link before it expired.",
    ),
    ErrorCode(
        "upload_complete",
        409,
        "The upload already holds its file",
        "Submit jobs with its id, or get a fresh link from `POST /uploads` for another file.",
    ),
    ErrorCode(
        "content_range_not_supported",
        400,
        "The upload can not be sent in parts",
        "Send the whole file in one PUT without Content-Range.",
    ),
    ErrorCode(
        "record_unreadable",
        410,
        "The record of the job can not be read",
        "Submit the job again; an operator finds the record with `retalking doctor`.",
    ),
    ErrorCode(
        "record_not_found",
        404,
        "No such record in quarantine",
        "Check kind and id against `GET /quarantine`.",
    ),
    ErrorCode("result_not_ready", 409, "The job has no result", "Wait until the status is `succeeded`.", True),
    ErrorCode("evaluation_not_ready", 409, "The job has no evaluation", "Wait until the status is `succeeded`.", True),
    ErrorCode(
        "delivery_not_found", 404, "No such webhook delivery", "Check the id; deliveries are deleted with their job."
    ),
    ErrorCode("key_not_found", 404, "No such API key", "Check the id; `retalking keys list` shows all."),
    ErrorCode(
        "webhook_secret_shared",
        409,
        "The service has one webhook secret",
        "Ask the operator for RETALKING_WEBHOOK_SECRET; each key has a secret of its own only where keys are required.",
    ),
    ErrorCode("webhook_not_configured", 409, "The job has no webhook", "Submit the job with `webhook_url`."),
    ErrorCode("job_not_finished", 409, "The job is not over yet", "Wait until the job is over.", True),
    ErrorCode(
        "link_invalid", 403, "The link is not valid", "Ask for a fresh link; links expire and can not be altered."
    ),
    ErrorCode(
        "range_not_satisfiable",
        416,
        "The range lies outside the file",
        "Ask for a range inside the size that Content-Range names.",
    ),
    ErrorCode("not_found", 404, "No such address", "See /docs for the addresses there are."),
    ErrorCode(
        "method_not_allowed",
        405,
        "The address does not know this method",
        "Use one of the methods in the Allow header.",
    ),
    ErrorCode(
        "url_not_allowed",
        422,
        "The address may not be reached from here",
        "Use a public http(s) address; private ranges are refused.",
    ),
    ErrorCode(
        "host_unresolved",
        422,
        "The host name was not resolved in time",
        "Check that the name servers of the host answer, and send the request again.",
        True,
    ),
    ErrorCode("service_unavailable", 503, "A part of the service can not be reached", "Try again later.", True),
    # Inputs (found at submission, or by the worker)
    ErrorCode("file_empty", 422, "The file is empty", "Send a file with content."),
    ErrorCode(
        "container_unsupported",
        422,
        "The file is not in a container that is accepted",
        "Send mp4, mov, mkv, webm or avi for video; wav, mp3, flac, ogg or m4a for speech; "
        "png, jpeg or webp for a still.",
    ),
    ErrorCode(
        "media_unreadable", 422, "The file is damaged or cut short", "Check that it plays, and send it again whole."
    ),
    ErrorCode("codec_unsupported", 422, "The codec can not be decoded", "Re-encode the file, e.g. to H.264 and AAC."),
    ErrorCode(
        "video_stream_missing",
        422,
        "The video file holds no picture stream",
        "Send a file with a video stream, or a still image.",
    ),
    ErrorCode(
        "audio_stream_missing", 422, "The speech file holds no audio stream", "Send a file with an audio stream."
    ),
    ErrorCode("audio_empty", 422, "The speech holds no sound samples", "Send speech of at least 20 ms."),
    ErrorCode(
        "audio_invalid", 422, "The speech holds values that are not numbers", "Export the speech again from its source."
    ),
    ErrorCode(
        "media_too_long", 422, "The file is longer than allowed", "Cut it, or raise the limit of the deployment."
    ),
    ErrorCode("picture_too_large", 422, "The picture has more pixels than allowed", "Scale it down."),
    ErrorCode(
        "streams_too_many", 422, "The file holds too many streams", "Send a file with one video and one audio stream."
    ),
    ErrorCode(
        "face_not_found", 422, "No face was found", "Send a clip that shows a face from the front, at least 64 px wide."
    ),
    ErrorCode(
        "face_missing",
        422,
        "Some frames show no face",
        "Use missing_face=pass_through, or cut the ranges that the message names.",
    ),
    ErrorCode(
        "input_unreachable",
        422,
        "The input could not be fetched from its address",
        "Check that the address answers with the file.",
        True,
    ),
    ErrorCode(
        "input_too_slow",
        422,
        "The input comes too slowly from its address",
        "Put the file to a link from `POST /uploads`, or serve it from a faster address.",
        True,
    ),
    # Jobs
    ErrorCode(
        "deadline_exceeded",
        504,
        "The job waited in the queue past its deadline",
        "Submit again, with a longer expires_in_s.",
        True,
    ),
    ErrorCode(
        "worker_lost",
        500,
        "The job's worker died too many times",
        "Submit again; if it repeats, the input kills the worker: report it.",
        True,
    ),
    ErrorCode("render_timeout", 504, "The render ran past its time limit", "Send a shorter clip.", True),
    ErrorCode("engine_fault", 500, "The engine produced an unusable picture", "Report the job id.", True),
    ErrorCode(
        "out_of_memory", 507, "The machine has too little memory for this job", "Send a smaller or shorter clip.", True
    ),
    ErrorCode(
        "provenance_failed",
        500,
        "The result could not be signed",
        "Tell the operator: RETALKING_C2PA_CERT and RETALKING_C2PA_KEY of the worker are to be checked.",
        True,
    ),
    ErrorCode("storage_failed", 503, "The object store did not take or give a file", "Try again later.", True),
    ErrorCode(
        "threads_exhausted",
        503,
        "The machine can start no more threads",
        "Try again later; the operator raises the limit on processes (`pids`), or the memory.",
        True,
    ),
    ErrorCode(
        "storage_full",
        507,
        "The service has no room for new files now",
        "Try again later; the operator frees or adds space. Jobs that were accepted go on.",
        True,
    ),
    ErrorCode("disk_full", 507, "The worker's disk is full", "Try again later.", True),
    ErrorCode("canceled", 409, "The job was canceled", "Submit it again if it is still wanted."),
    ErrorCode("internal_error", 500, "Something broke that should not", "Report the request id or job id.", True),
    # Weight files (said by `retalking weights`, and by a worker that can not load its engine)
    ErrorCode("weights_missing", 503, "A weight file is not there", "Run `retalking weights fetch`."),
    ErrorCode("weights_truncated", 503, "A weight file is cut short", "Run `retalking weights fetch` again."),
    ErrorCode("weights_unsafe", 503, "A weight file holds code", "Do not use it; fetch it from its publisher."),
    ErrorCode("weights_wrong_file", 503, "A file is not the weights its name says", "Fetch it again."),
    ErrorCode("weights_key_mismatch", 503, "Tensors are missing or unknown", "Fetch the version the table names."),
    ErrorCode("weights_shape_mismatch", 503, "Tensors have another shape", "Fetch the version the table names."),
    ErrorCode("weights_digest_mismatch", 503, "A weight file changed", "Fetch it again, or remove its lock entry."),
    ErrorCode("weights_unreachable", 503, "A weight file can not be fetched", "Set RETALKING_WEIGHTS_URL.", True),
    ErrorCode("weights_invalid", 503, "A weight file can not be used", "Run `retalking weights verify`."),
]

ERROR_CODES: dict[str, ErrorCode] = {row.code: row for row in _TABLE}


def is_thread_shortage(fault: BaseException) -> bool:
    """True when no thread or process could be started: a limit of the machine, not a fault of the request.

    CPython raises a bare RuntimeError with this text for threads; fork and FFmpeg report EAGAIN.
    """
    if isinstance(fault, OSError):
        return fault.errno == errno.EAGAIN
    return isinstance(fault, RuntimeError) and str(fault).startswith("can't start new thread")
