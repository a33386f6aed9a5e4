"""The table of public error codes: meaning, HTTP status, and what the caller can do.

`GET /errors` and docs/errors.md are generated from it. Codes are stable; messages are not.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorCode:
    code: str
    status: int  # HTTP status of a request that is refused with it
    title: str
    advice: str
    retryable: bool = False  # the same call may succeed later


class ServiceError(Exception):
    """An error with a public code. The message names the cause; the table has title, status and advice."""

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
        "An API key is required",
        "Send `Authorization: Bearer rtk_...` with a valid key; `retalking keys create` creates one.",
    ),
    ErrorCode("forbidden", 403, "The key does not allow this", "Use a key with the scope that the message names."),
    ErrorCode(
        "priority_not_allowed",
        403,
        "The key does not allow this priority",
        "Request the priority that the message names, or use a key created with a higher `--max-priority`.",
    ),
    ErrorCode(
        "rate_limited",
        429,
        "The account made too many requests",
        "Wait as long as `Retry-After` says, and poll less often.",
        True,
    ),
    ErrorCode(
        "quota_exceeded",
        429,
        "The account has too many unfinished jobs",
        "Wait until some of its jobs have finished, or cancel them.",
        True,
    ),
    ErrorCode(
        "host_not_allowed",
        403,
        "The service does not accept this host name",
        "Use the address that the service was started with. The operator can add names with RETALKING_PUBLIC_HOSTS, or "
        "require API keys.",
    ),
    ErrorCode(
        "cross_site_refused",
        403,
        "Cross-site request",
        "Call the service from its own console or a program. Other sites are allowed only where keys are required.",
    ),
    ErrorCode(
        "too_many_open",
        429,
        "Too many requests of this kind are open",
        "Wait until some of them end, or close them.",
        True,
    ),
    ErrorCode(
        "storage_quota_exceeded",
        429,
        "The storage quota of the account is used up",
        "Delete finished jobs, or wait until files and uploads expire.",
        True,
    ),
    # Requests
    ErrorCode("invalid_request", 422, "The request is not valid", "Correct the fields listed in `errors`."),
    ErrorCode("malformed_json", 400, "The body is not JSON", "Send well-formed JSON in UTF-8."),
    ErrorCode(
        "malformed_form",
        400,
        "The body is not a multipart form",
        "Send multipart/form-data with a boundary, and terminate every part.",
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
        "The body is too large",
        "Send a smaller file, or less metadata; the limits are in `GET /engines`.",
    ),
    ErrorCode(
        "request_timeout",
        408,
        "The body arrived too slowly",
        "Send it again without long pauses, or upload large files to a link from `POST /uploads`.",
        True,
    ),
    ErrorCode(
        "invalid_option",
        422,
        "An option has an invalid value",
        "Use one of the values that the message names.",
    ),
    ErrorCode(
        "value_out_of_bounds",
        422,
        "A value exceeds a limit",
        "Shorten or flatten the value listed in `errors`; the message states the limit.",
    ),
    ErrorCode(
        "segment_end_before_start",
        422,
        "A segment ends before it starts",
        "Send an `end_s` after `start_s`, or leave it out: the segment ends with its speech.",
    ),
    ErrorCode(
        "segment_audio_missing",
        422,
        "The speech of a segment was not sent",
        "Send a file part of the name that `audio` states, or name an http(s) address or an upload as `upload:<id>`.",
    ),
    ErrorCode(
        "audio_files_too_many",
        422,
        "The segments name too many sound files",
        "Join some of the files, and say with `audio_offset_s` where each speech begins.",
    ),
    ErrorCode(
        "unsupported_option",
        422,
        "The engine does not support an option",
        "Omit the option, or request the engine that the message names.",
    ),
    ErrorCode(
        "engine_unavailable",
        409,
        "The engine is not available",
        "Ask for an engine that `GET /engines` offers, or correct what the message names (the operator).",
        True,
    ),
    ErrorCode(
        "idempotency_conflict",
        422,
        "The Idempotency-Key was used for a different request",
        "Use a new key for a different request.",
    ),
    ErrorCode(
        "job_not_found", 404, "No such job", "Check the id; finished jobs are deleted after their retention time."
    ),
    ErrorCode(
        "batch_not_found", 404, "No such batch", "Check the id; batches are deleted when their retention time is over."
    ),
    ErrorCode(
        "retry_not_possible",
        409,
        "The job cannot be retried",
        "Wait until the job is over; one that succeeded needs no retry.",
    ),
    ErrorCode(
        "upload_not_found",
        404,
        "No such upload",
        "Check the id, and that the file was uploaded before the link expired.",
    ),
    ErrorCode(
        "upload_complete",
        409,
        "The upload already has its file",
        "Submit jobs with its id, or request a new link from `POST /uploads` for another file.",
    ),
    ErrorCode(
        "content_range_not_supported",
        400,
        "Partial uploads are not supported",
        "Send the whole file in one PUT without Content-Range.",
    ),
    ErrorCode(
        "record_unreadable",
        410,
        "The record of the job cannot be read",
        "Submit the job again. An operator can find the record with `retalking doctor`.",
    ),
    ErrorCode(
        "record_not_found",
        404,
        "No such record in quarantine",
        "Compare kind and id with `GET /quarantine`.",
    ),
    ErrorCode("result_not_ready", 409, "The job has no result", "Wait until the status is `succeeded`.", True),
    ErrorCode("evaluation_not_ready", 409, "The job has no evaluation", "Wait until the status is `succeeded`.", True),
    ErrorCode(
        "delivery_not_found", 404, "No such webhook delivery", "Check the id; deliveries are deleted with their job."
    ),
    ErrorCode("key_not_found", 404, "No such API key", "Check the id; `retalking keys list` lists all keys."),
    ErrorCode("account_not_found", 404, "No such account", "Check the id; `retalking keys list` names all accounts."),
    ErrorCode("key_revoked", 409, "The API key is revoked", "Create another key for the account."),
    ErrorCode("too_many_keys", 409, "The account has too many keys", "Revoke keys that are no longer used."),
    ErrorCode(
        "keys_not_required",
        409,
        "The service requires no API keys",
        "Set RETALKING_REQUIRE_KEYS=true first. `retalking keys create` works without it.",
    ),
    ErrorCode(
        "webhook_secret_shared",
        409,
        "The service has a single webhook secret",
        "Ask the operator for RETALKING_WEBHOOK_SECRET. Each account has its own only if the service requires keys.",
    ),
    ErrorCode("webhook_not_configured", 409, "The job has no webhook", "Submit the job with `webhook_url`."),
    ErrorCode("job_not_finished", 409, "The job has not finished", "Wait until the job has finished.", True),
    ErrorCode(
        "link_invalid", 403, "The link is not valid", "Request a new link: links expire, and must not be modified."
    ),
    ErrorCode(
        "precondition_failed",
        412,
        "If-Match does not hold",
        "Read the resource again, and send its current ETag, or no If-Match.",
    ),
    ErrorCode(
        "range_not_satisfiable",
        416,
        "The range lies outside the file",
        "Request a range within the size that Content-Range states.",
    ),
    ErrorCode("not_found", 404, "No such endpoint", "See /docs for all endpoints."),
    ErrorCode(
        "method_not_allowed",
        405,
        "The endpoint does not support this method",
        "Use a method listed in the Allow header.",
    ),
    ErrorCode(
        "url_not_allowed",
        422,
        "The service may not connect to this URL",
        "Use a public http(s) URL; private addresses are refused.",
    ),
    ErrorCode(
        "host_unresolved",
        422,
        "The host name was not resolved in time",
        "Check that the name servers of the host answer, then send the request again.",
        True,
    ),
    ErrorCode("service_unavailable", 503, "A part of the service is unreachable", "Try again later.", True),
    # Inputs (found at submission, or by the worker)
    ErrorCode("file_empty", 422, "The file is empty", "Send a file with content."),
    ErrorCode(
        "container_unsupported",
        422,
        "The container format is not accepted",
        "Send mp4, mov, mkv, webm or avi for video; wav, mp3, flac, ogg, m4a, aac, aiff, amr "
        "or caf for speech; png, jpeg, webp, heic or avif for a still.",
    ),
    ErrorCode(
        "media_unreadable", 422, "The file is damaged or truncated", "Check that it plays, then send the complete file."
    ),
    ErrorCode("codec_unsupported", 422, "The codec is not supported", "Re-encode the file, e.g. to H.264 and AAC."),
    ErrorCode(
        "video_stream_missing",
        422,
        "The video file has no video stream",
        "Send a file with a video stream, or a still image.",
    ),
    ErrorCode("audio_stream_missing", 422, "The speech file has no audio stream", "Send a file with an audio stream."),
    ErrorCode("audio_empty", 422, "The speech has no audio samples", "Send speech of at least 20 ms."),
    ErrorCode(
        "audio_track_missing",
        422,
        "The speech file has no such sound track",
        "Name one of the tracks that the message lists in audio_track, or leave the option out.",
    ),
    ErrorCode(
        "audio_invalid",
        422,
        "The speech contains samples that are not numbers",
        "Export the speech again from its source.",
    ),
    ErrorCode(
        "media_too_long", 422, "The file is longer than allowed", "Shorten it. The operator can raise the limit."
    ),
    ErrorCode("picture_too_large", 422, "The picture has more pixels than allowed", "Scale the picture down."),
    ErrorCode(
        "streams_too_many", 422, "The file has too many streams", "Send a file with one video and one audio stream."
    ),
    ErrorCode(
        "face_not_found", 422, "No face was found", "Send a clip that shows a face from the front, at least 48 px high."
    ),
    ErrorCode(
        "segments_overlap",
        422,
        "Two segments overlap for one face",
        "One face speaks one segment at a time: end the first segment before the second starts, or name another face.",
    ),
    ErrorCode(
        "segment_out_of_range",
        422,
        "A segment lies outside the video",
        "Start each segment within the video, with times in seconds from 0 on.",
    ),
    ErrorCode(
        "segment_offset_beyond_audio",
        422,
        "A segment skips all of its speech",
        "Lower `audio_offset_s` below the length of the audio that the message states, or send the right audio.",
    ),
    ErrorCode(
        "segment_too_short",
        422,
        "A segment is too short",
        "Make each segment at least 0.1 s long, and leave as much speech after `audio_offset_s`.",
    ),
    ErrorCode(
        "segments_too_many",
        422,
        "Too many segments",
        "Split the job: one render takes at most 200 segments for 8 different faces.",
    ),
    ErrorCode(
        "face_missing",
        422,
        "Some frames show no face",
        "Use missing_face=pass_through, or cut out the ranges that the message names.",
    ),
    ErrorCode(
        "input_unreachable",
        422,
        "The input could not be fetched from its URL",
        "Check that the URL returns the file.",
        True,
    ),
    ErrorCode(
        "input_too_slow",
        422,
        "The input arrives too slowly from its URL",
        "Upload the file to a link from `POST /uploads`, or serve it from a faster server.",
        True,
    ),
    # Exports of results (`output.put_url`, `output.prefix`)
    ErrorCode(
        "export_refused",
        422,
        "The destination refused the result",
        "Download the result here. Next time, send a URL that takes one PUT without further headers and is valid for "
        "as long as the job may take.",
    ),
    ErrorCode(
        "export_unreachable",
        504,
        "The destination did not take the result",
        "Download the result here, and check that the server of `output.put_url` answers.",
        True,
    ),
    # Jobs
    ErrorCode(
        "deadline_exceeded",
        504,
        "The job was still queued at its deadline",
        "Submit again, with a longer expires_in_s.",
        True,
    ),
    ErrorCode(
        "worker_lost",
        500,
        "The job's worker died too often",
        "Submit again. If it happens again, the input crashes the worker: report it.",
        True,
    ),
    ErrorCode("render_timeout", 504, "The render exceeded its time limit", "Send a shorter clip.", True),
    ErrorCode("engine_fault", 500, "The engine produced an invalid picture", "Report the job id.", True),
    ErrorCode("out_of_memory", 507, "Not enough memory for this job", "Send a smaller or shorter clip.", True),
    ErrorCode(
        "provenance_failed",
        500,
        "The result could not be signed",
        "Ask the operator to check RETALKING_C2PA_CERT and RETALKING_C2PA_KEY of the worker.",
        True,
    ),
    ErrorCode("storage_failed", 503, "The object store failed to read or write a file", "Try again later.", True),
    ErrorCode(
        "threads_exhausted",
        503,
        "The machine cannot start more threads",
        "Try again later. The operator can raise the process limit (`pids`) or the memory.",
        True,
    ),
    ErrorCode(
        "storage_full",
        507,
        "The storage of the service is full",
        "Try again later. The operator must free or add space; accepted jobs continue.",
        True,
    ),
    ErrorCode("disk_full", 507, "The worker's disk is full", "Try again later.", True),
    ErrorCode("canceled", 409, "The job was canceled", "Submit it again if you still need it."),
    ErrorCode("internal_error", 500, "Internal error", "Report the request id or the job id.", True),
    ErrorCode(
        "kernels_unfit",
        503,
        "Compiled kernels do not fit this machine",
        "Run `retalking compile --out DIR` on a machine with the same GPU and the same packages.",
    ),
    # Weight files (reported by `retalking weights`, and by a worker that cannot load its engine)
    ErrorCode("weights_missing", 503, "A weight file is missing", "Run `retalking weights fetch`."),
    ErrorCode("weights_truncated", 503, "A weight file is truncated", "Run `retalking weights fetch` again."),
    ErrorCode("weights_unsafe", 503, "A weight file contains code", "Do not use it; download it from its publisher."),
    ErrorCode("weights_wrong_file", 503, "A weight file has the wrong content", "Fetch it again."),
    ErrorCode(
        "weights_key_mismatch", 503, "Tensors are missing or unknown", "Fetch the version that docs/weights.md lists."
    ),
    ErrorCode(
        "weights_shape_mismatch", 503, "Tensors have the wrong shape", "Fetch the version that docs/weights.md lists."
    ),
    ErrorCode(
        "weights_digest_mismatch",
        503,
        "A weight file has another digest",
        "Fetch it again, or accept its digest (docs/weights.md).",
    ),
    ErrorCode("weights_unreachable", 503, "A weight file cannot be downloaded", "Set RETALKING_WEIGHTS_URL.", True),
    ErrorCode("weights_invalid", 503, "A weight file is unusable", "Run `retalking weights verify`."),
]

ERROR_CODES: dict[str, ErrorCode] = {row.code: row for row in _TABLE}


def is_thread_shortage(fault: BaseException) -> bool:
    """True if no thread or process could be started: a limit of the machine, not an error of the request.

    CPython raises a plain RuntimeError with this text for threads; fork and FFmpeg report EAGAIN.
    """
    if isinstance(fault, OSError):
        return fault.errno == errno.EAGAIN
    return isinstance(fault, RuntimeError) and str(fault).startswith("can't start new thread")
