"""One exception a public error code, made from jobs/errors.py by `make docs-reference`."""

from __future__ import annotations

from retalking_client.models import ApiError


class UnauthorizedError(ApiError):
    """An API key is required."""

    code = "unauthorized"
    advice = "Send `Authorization: Bearer rtk_...` with a valid key; `retalking keys create` creates one."


class ForbiddenError(ApiError):
    """The key does not allow this."""

    code = "forbidden"
    advice = "Use a key with the scope that the message names."


class PriorityNotAllowedError(ApiError):
    """The key does not allow this priority."""

    code = "priority_not_allowed"
    advice = "Request the priority that the message names, or use a key created with a higher `--max-priority`."


class RateLimitedError(ApiError):
    """The account made too many requests."""

    code = "rate_limited"
    advice = "Wait as long as `Retry-After` says, and poll less often."


class QuotaExceededError(ApiError):
    """The account has too many unfinished jobs."""

    code = "quota_exceeded"
    advice = "Wait until some of its jobs have finished, or cancel them."


class HostNotAllowedError(ApiError):
    """The service does not accept this host name."""

    code = "host_not_allowed"
    advice = (
        "Use the address that the service was started with. The operator can add names with RETALKING_PUBLIC_HOSTS, or "
        "require API keys."
    )


class CrossSiteRefusedError(ApiError):
    """Cross-site request."""

    code = "cross_site_refused"
    advice = "Call the service from its own console or a program. Other sites are allowed only where keys are required."


class TooManyOpenError(ApiError):
    """Too many requests of this kind are open."""

    code = "too_many_open"
    advice = "Wait until some of them end, or close them."


class StorageQuotaExceededError(ApiError):
    """The storage quota of the account is used up."""

    code = "storage_quota_exceeded"
    advice = "Delete finished jobs, or wait until files and uploads expire."


class InvalidRequestError(ApiError):
    """The request is not valid."""

    code = "invalid_request"
    advice = "Correct the fields listed in `errors`."


class MalformedJsonError(ApiError):
    """The body is not JSON."""

    code = "malformed_json"
    advice = "Send well-formed JSON in UTF-8."


class MalformedFormError(ApiError):
    """The body is not a multipart form."""

    code = "malformed_form"
    advice = "Send multipart/form-data with a boundary, and terminate every part."


class UnsupportedMediaTypeError(ApiError):
    """The content type is not accepted."""

    code = "unsupported_media_type"
    advice = "Send multipart/form-data or application/json."


class BodyTooLargeError(ApiError):
    """The body is too large."""

    code = "body_too_large"
    advice = "Send a smaller file, or less metadata; the limits are in `GET /engines`."


class RequestTimeoutError(ApiError):
    """The body arrived too slowly."""

    code = "request_timeout"
    advice = "Send it again without long pauses, or upload large files to a link from `POST /uploads`."


class InvalidOptionError(ApiError):
    """An option has an invalid value."""

    code = "invalid_option"
    advice = "Use one of the values that the message names."


class ValueOutOfBoundsError(ApiError):
    """A value exceeds a limit."""

    code = "value_out_of_bounds"
    advice = "Shorten or flatten the value listed in `errors`; the message states the limit."


class SegmentEndBeforeStartError(ApiError):
    """A segment ends before it starts."""

    code = "segment_end_before_start"
    advice = "Send an `end_s` after `start_s`, or leave it out: the segment ends with its speech."


class SegmentAudioMissingError(ApiError):
    """The speech of a segment was not sent."""

    code = "segment_audio_missing"
    advice = (
        "Send a file part of the name that `audio` states, or name an http(s) address or an upload as `upload:<id>`."
    )


class AudioFilesTooManyError(ApiError):
    """The segments name too many sound files."""

    code = "audio_files_too_many"
    advice = "Join some of the files, and say with `audio_offset_s` where each speech begins."


class UnsupportedOptionError(ApiError):
    """The engine does not support an option."""

    code = "unsupported_option"
    advice = "Omit the option, or request the engine that the message names."


class EngineUnavailableError(ApiError):
    """The engine is not available."""

    code = "engine_unavailable"
    advice = "Ask for an engine that `GET /engines` offers, or correct what the message names (the operator)."


class IdempotencyConflictError(ApiError):
    """The Idempotency-Key was used for a different request."""

    code = "idempotency_conflict"
    advice = "Use a new key for a different request."


class JobNotFoundError(ApiError):
    """No such job."""

    code = "job_not_found"
    advice = "Check the id; finished jobs are deleted after their retention time."


class BatchNotFoundError(ApiError):
    """No such batch."""

    code = "batch_not_found"
    advice = "Check the id; batches are deleted when their retention time is over."


class RetryNotPossibleError(ApiError):
    """The job cannot be retried."""

    code = "retry_not_possible"
    advice = "Wait until the job is over; one that succeeded needs no retry."


class UploadNotFoundError(ApiError):
    """No such upload."""

    code = "upload_not_found"
    advice = "Check the id, and that the file was uploaded before the link expired."


class UploadCompleteError(ApiError):
    """The upload already has its file."""

    code = "upload_complete"
    advice = "Submit jobs with its id, or request a new link from `POST /uploads` for another file."


class ContentRangeNotSupportedError(ApiError):
    """Partial uploads are not supported."""

    code = "content_range_not_supported"
    advice = "Send the whole file in one PUT without Content-Range."


class RecordUnreadableError(ApiError):
    """The record of the job cannot be read."""

    code = "record_unreadable"
    advice = "Submit the job again. An operator can find the record with `retalking doctor`."


class RecordNotFoundError(ApiError):
    """No such record in quarantine."""

    code = "record_not_found"
    advice = "Compare kind and id with `GET /quarantine`."


class ResultNotReadyError(ApiError):
    """The job has no result."""

    code = "result_not_ready"
    advice = "Wait until the status is `succeeded`."


class EvaluationNotReadyError(ApiError):
    """The job has no evaluation."""

    code = "evaluation_not_ready"
    advice = "Wait until the status is `succeeded`."


class DeliveryNotFoundError(ApiError):
    """No such webhook delivery."""

    code = "delivery_not_found"
    advice = "Check the id; deliveries are deleted with their job."


class KeyNotFoundError(ApiError):
    """No such API key."""

    code = "key_not_found"
    advice = "Check the id; `retalking keys list` lists all keys."


class AccountNotFoundError(ApiError):
    """No such account."""

    code = "account_not_found"
    advice = "Check the id; `retalking keys list` names all accounts."


class KeyRevokedError(ApiError):
    """The API key is revoked."""

    code = "key_revoked"
    advice = "Create another key for the account."


class TooManyKeysError(ApiError):
    """The account has too many keys."""

    code = "too_many_keys"
    advice = "Revoke keys that are no longer used."


class KeysNotRequiredError(ApiError):
    """The service requires no API keys."""

    code = "keys_not_required"
    advice = "Set RETALKING_REQUIRE_KEYS=true first. `retalking keys create` works without it."


class WebhookSecretSharedError(ApiError):
    """The service has a single webhook secret."""

    code = "webhook_secret_shared"
    advice = (
        "Ask the operator for RETALKING_WEBHOOK_SECRET. Each account has its own only if the service requires keys."
    )


class WebhookNotConfiguredError(ApiError):
    """The job has no webhook."""

    code = "webhook_not_configured"
    advice = "Submit the job with `webhook_url`."


class JobNotFinishedError(ApiError):
    """The job has not finished."""

    code = "job_not_finished"
    advice = "Wait until the job has finished."


class LinkInvalidError(ApiError):
    """The link is not valid."""

    code = "link_invalid"
    advice = "Request a new link: links expire, and must not be modified."


class PreconditionFailedError(ApiError):
    """If-Match does not hold."""

    code = "precondition_failed"
    advice = "Read the resource again, and send its current ETag, or no If-Match."


class RangeNotSatisfiableError(ApiError):
    """The range lies outside the file."""

    code = "range_not_satisfiable"
    advice = "Request a range within the size that Content-Range states."


class NotFoundError(ApiError):
    """No such endpoint."""

    code = "not_found"
    advice = "See /docs for all endpoints."


class MethodNotAllowedError(ApiError):
    """The endpoint does not support this method."""

    code = "method_not_allowed"
    advice = "Use a method listed in the Allow header."


class UrlNotAllowedError(ApiError):
    """The service may not connect to this URL."""

    code = "url_not_allowed"
    advice = "Use a public http(s) URL; private addresses are refused."


class HostUnresolvedError(ApiError):
    """The host name was not resolved in time."""

    code = "host_unresolved"
    advice = "Check that the name servers of the host answer, then send the request again."


class ServiceUnavailableError(ApiError):
    """A part of the service is unreachable."""

    code = "service_unavailable"
    advice = "Try again later."


class FileEmptyError(ApiError):
    """The file is empty."""

    code = "file_empty"
    advice = "Send a file with content."


class ContainerUnsupportedError(ApiError):
    """The container format is not accepted."""

    code = "container_unsupported"
    advice = (
        "Send mp4, mov, mkv, webm or avi for video; wav, mp3, flac, ogg, m4a, aac, aiff, amr or caf for speech; png, "
        "jpeg, webp, heic or avif for a still."
    )


class MediaUnreadableError(ApiError):
    """The file is damaged or truncated."""

    code = "media_unreadable"
    advice = "Check that it plays, then send the complete file."


class CodecUnsupportedError(ApiError):
    """The codec is not supported."""

    code = "codec_unsupported"
    advice = "Re-encode the file, e.g. to H.264 and AAC."


class VideoStreamMissingError(ApiError):
    """The video file has no video stream."""

    code = "video_stream_missing"
    advice = "Send a file with a video stream, or a still image."


class AudioStreamMissingError(ApiError):
    """The speech file has no audio stream."""

    code = "audio_stream_missing"
    advice = "Send a file with an audio stream."


class AudioEmptyError(ApiError):
    """The speech has no audio samples."""

    code = "audio_empty"
    advice = "Send speech of at least 20 ms."


class AudioTrackMissingError(ApiError):
    """The speech file has no such sound track."""

    code = "audio_track_missing"
    advice = "Name one of the tracks that the message lists in audio_track, or leave the option out."


class AudioInvalidError(ApiError):
    """The speech contains samples that are not numbers."""

    code = "audio_invalid"
    advice = "Export the speech again from its source."


class MediaTooLongError(ApiError):
    """The file is longer than allowed."""

    code = "media_too_long"
    advice = "Shorten it. The operator can raise the limit."


class PictureTooLargeError(ApiError):
    """The picture has more pixels than allowed."""

    code = "picture_too_large"
    advice = "Scale the picture down."


class StreamsTooManyError(ApiError):
    """The file has too many streams."""

    code = "streams_too_many"
    advice = "Send a file with one video and one audio stream."


class FaceNotFoundError(ApiError):
    """No face was found."""

    code = "face_not_found"
    advice = "Send a clip that shows a face from the front, at least 48 px high."


class SegmentsOverlapError(ApiError):
    """Two segments overlap for one face."""

    code = "segments_overlap"
    advice = (
        "One face speaks one segment at a time: end the first segment before the second starts, or name another face."
    )


class SegmentOutOfRangeError(ApiError):
    """A segment lies outside the video."""

    code = "segment_out_of_range"
    advice = "Start each segment within the video, with times in seconds from 0 on."


class SegmentOffsetBeyondAudioError(ApiError):
    """A segment skips all of its speech."""

    code = "segment_offset_beyond_audio"
    advice = "Lower `audio_offset_s` below the length of the audio that the message states, or send the right audio."


class SegmentTooShortError(ApiError):
    """A segment is too short."""

    code = "segment_too_short"
    advice = "Make each segment at least 0.1 s long, and leave as much speech after `audio_offset_s`."


class SegmentsTooManyError(ApiError):
    """Too many segments."""

    code = "segments_too_many"
    advice = "Split the job: one render takes at most 200 segments for 8 different faces."


class FaceMissingError(ApiError):
    """Some frames show no face."""

    code = "face_missing"
    advice = "Use missing_face=pass_through, or cut out the ranges that the message names."


class InputUnreachableError(ApiError):
    """The input could not be fetched from its URL."""

    code = "input_unreachable"
    advice = "Check that the URL returns the file."


class InputTooSlowError(ApiError):
    """The input arrives too slowly from its URL."""

    code = "input_too_slow"
    advice = "Upload the file to a link from `POST /uploads`, or serve it from a faster server."


class ExportRefusedError(ApiError):
    """The destination refused the result."""

    code = "export_refused"
    advice = (
        "Download the result here. Next time, send a URL that takes one PUT without further headers and is valid for as"
        " long as the job may take."
    )


class ExportUnreachableError(ApiError):
    """The destination did not take the result."""

    code = "export_unreachable"
    advice = "Download the result here, and check that the server of `output.put_url` answers."


class DeadlineExceededError(ApiError):
    """The job was still queued at its deadline."""

    code = "deadline_exceeded"
    advice = "Submit again, with a longer expires_in_s."


class WorkerLostError(ApiError):
    """The job's worker died too often."""

    code = "worker_lost"
    advice = "Submit again. If it happens again, the input crashes the worker: report it."


class RenderTimeoutError(ApiError):
    """The render exceeded its time limit."""

    code = "render_timeout"
    advice = "Send a shorter clip."


class EngineFaultError(ApiError):
    """The engine produced an invalid picture."""

    code = "engine_fault"
    advice = "Report the job id."


class OutOfMemoryError(ApiError):
    """Not enough memory for this job."""

    code = "out_of_memory"
    advice = "Send a smaller or shorter clip."


class ProvenanceFailedError(ApiError):
    """The result could not be signed."""

    code = "provenance_failed"
    advice = "Ask the operator to check RETALKING_C2PA_CERT and RETALKING_C2PA_KEY of the worker."


class StorageFailedError(ApiError):
    """The object store failed to read or write a file."""

    code = "storage_failed"
    advice = "Try again later."


class ThreadsExhaustedError(ApiError):
    """The machine cannot start more threads."""

    code = "threads_exhausted"
    advice = "Try again later. The operator can raise the process limit (`pids`) or the memory."


class StorageFullError(ApiError):
    """The storage of the service is full."""

    code = "storage_full"
    advice = "Try again later. The operator must free or add space; accepted jobs continue."


class DiskFullError(ApiError):
    """The worker's disk is full."""

    code = "disk_full"
    advice = "Try again later."


class CanceledError(ApiError):
    """The job was canceled."""

    code = "canceled"
    advice = "Submit it again if you still need it."


class InternalError(ApiError):
    """Internal error."""

    code = "internal_error"
    advice = "Report the request id or the job id."


class KernelsUnfitError(ApiError):
    """Compiled kernels do not fit this machine."""

    code = "kernels_unfit"
    advice = "Run `retalking compile --out DIR` on a machine with the same GPU and the same packages."


class WeightsMissingError(ApiError):
    """A weight file is missing."""

    code = "weights_missing"
    advice = "Run `retalking weights fetch`."


class WeightsTruncatedError(ApiError):
    """A weight file is truncated."""

    code = "weights_truncated"
    advice = "Run `retalking weights fetch` again."


class WeightsUnsafeError(ApiError):
    """A weight file contains code."""

    code = "weights_unsafe"
    advice = "Do not use it; download it from its publisher."


class WeightsWrongFileError(ApiError):
    """A weight file has the wrong content."""

    code = "weights_wrong_file"
    advice = "Fetch it again."


class WeightsKeyMismatchError(ApiError):
    """Tensors are missing or unknown."""

    code = "weights_key_mismatch"
    advice = "Fetch the version that docs/weights.md lists."


class WeightsShapeMismatchError(ApiError):
    """Tensors have the wrong shape."""

    code = "weights_shape_mismatch"
    advice = "Fetch the version that docs/weights.md lists."


class WeightsDigestMismatchError(ApiError):
    """A weight file has another digest."""

    code = "weights_digest_mismatch"
    advice = "Fetch it again, or accept its digest (docs/weights.md)."


class WeightsUnreachableError(ApiError):
    """A weight file cannot be downloaded."""

    code = "weights_unreachable"
    advice = "Set RETALKING_WEIGHTS_URL."


class WeightsInvalidError(ApiError):
    """A weight file is unusable."""

    code = "weights_invalid"
    advice = "Run `retalking weights verify`."
