"""One exception a public error code, made from jobs/errors.py by `make docs-reference`."""

from __future__ import annotations

from retalking_client.models import ApiError


class UnauthorizedError(ApiError):
    """An API key is needed."""

    code = "unauthorized"
    advice = "Send `Authorization: Bearer rtk_...` with a key that is not revoked; `retalking keys create` makes one."


class ForbiddenError(ApiError):
    """The key does not allow this."""

    code = "forbidden"
    advice = "Use a key with the scope that the message names."


class PriorityNotAllowedError(ApiError):
    """The key may not ask for this priority."""

    code = "priority_not_allowed"
    advice = "Ask for the priority that the message names, or use a key made with a higher `--max-priority`."


class RateLimitedError(ApiError):
    """The key made too many requests."""

    code = "rate_limited"
    advice = "Wait as long as `Retry-After` says; poll less."


class QuotaExceededError(ApiError):
    """The key has too many live jobs."""

    code = "quota_exceeded"
    advice = "Wait until some of its jobs are over, or cancel them."


class HostNotAllowedError(ApiError):
    """The service does not answer under this name."""

    code = "host_not_allowed"
    advice = (
        "Call it by the address it was started with; the operator adds names with RETALKING_PUBLIC_HOSTS, or asks for "
        "keys."
    )


class CrossSiteRefusedError(ApiError):
    """A page of another site asked."""

    code = "cross_site_refused"
    advice = (
        "Call the service from its own console or from a program; for pages of other sites the operator asks for keys."
    )


class TooManyOpenError(ApiError):
    """Too many requests of this kind are open."""

    code = "too_many_open"
    advice = "Wait until some of them have ended, or close them."


class StorageQuotaExceededError(ApiError):
    """The key stores as many bytes as it may."""

    code = "storage_quota_exceeded"
    advice = "Delete jobs that are over, or wait until their files and uploads expire."


class InvalidRequestError(ApiError):
    """The request is not valid."""

    code = "invalid_request"
    advice = "Correct the fields that `errors` names."


class MalformedJsonError(ApiError):
    """The body is not JSON."""

    code = "malformed_json"
    advice = "Send well-formed JSON in UTF-8."


class MalformedFormError(ApiError):
    """The body is not a multipart form."""

    code = "malformed_form"
    advice = "Send multipart/form-data with a boundary, and close every part."


class UnsupportedMediaTypeError(ApiError):
    """The content type is not accepted."""

    code = "unsupported_media_type"
    advice = "Send multipart/form-data or application/json."


class BodyTooLargeError(ApiError):
    """The body is over the limit."""

    code = "body_too_large"
    advice = "Send a smaller file, or less metadata; the limits are in `GET /engines`."


class RequestTimeoutError(ApiError):
    """The body stopped arriving."""

    code = "request_timeout"
    advice = "Send it again without long pauses, or put large files to a link from `POST /uploads`."


class InvalidOptionError(ApiError):
    """An option has a value that is not allowed."""

    code = "invalid_option"
    advice = "Use one of the values that the message names."


class ValueOutOfBoundsError(ApiError):
    """A value is over a limit."""

    code = "value_out_of_bounds"
    advice = "Shorten or flatten the value that `errors` names; its message states the limit."


class UnsupportedOptionError(ApiError):
    """The engine can not honour an option."""

    code = "unsupported_option"
    advice = "Leave the option out, or ask for the engine that the message names."


class EngineUnavailableError(ApiError):
    """The engine is not available."""

    code = "engine_unavailable"
    advice = "Use engine `auto`, or install the checkpoints that the message names."


class IdempotencyConflictError(ApiError):
    """The Idempotency-Key was used for another request."""

    code = "idempotency_conflict"
    advice = "Use a fresh key for a different request."


class JobNotFoundError(ApiError):
    """No such job."""

    code = "job_not_found"
    advice = "Check the id; finished jobs are deleted after their retention time."


class UploadNotFoundError(ApiError):
    """No such upload."""

    code = "upload_not_found"
    advice = "Check the id, and that the file was put to the link before it expired."


class UploadCompleteError(ApiError):
    """The upload already holds its file."""

    code = "upload_complete"
    advice = "Submit jobs with its id, or get a fresh link from `POST /uploads` for another file."


class ContentRangeNotSupportedError(ApiError):
    """The upload can not be sent in parts."""

    code = "content_range_not_supported"
    advice = "Send the whole file in one PUT without Content-Range."


class RecordUnreadableError(ApiError):
    """The record of the job can not be read."""

    code = "record_unreadable"
    advice = "Submit the job again; an operator finds the record with `retalking doctor`."


class RecordNotFoundError(ApiError):
    """No such record in quarantine."""

    code = "record_not_found"
    advice = "Check kind and id against `GET /quarantine`."


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
    advice = "Check the id; `retalking keys list` shows all."


class WebhookSecretSharedError(ApiError):
    """The service has one webhook secret."""

    code = "webhook_secret_shared"
    advice = (
        "Ask the operator for RETALKING_WEBHOOK_SECRET; each key has a secret of its own only where keys are required."
    )


class WebhookNotConfiguredError(ApiError):
    """The job has no webhook."""

    code = "webhook_not_configured"
    advice = "Submit the job with `webhook_url`."


class JobNotFinishedError(ApiError):
    """The job is not over yet."""

    code = "job_not_finished"
    advice = "Wait until the job is over."


class LinkInvalidError(ApiError):
    """The link is not valid."""

    code = "link_invalid"
    advice = "Ask for a fresh link; links expire and can not be altered."


class RangeNotSatisfiableError(ApiError):
    """The range lies outside the file."""

    code = "range_not_satisfiable"
    advice = "Ask for a range inside the size that Content-Range names."


class NotFoundError(ApiError):
    """No such address."""

    code = "not_found"
    advice = "See /docs for the addresses there are."


class MethodNotAllowedError(ApiError):
    """The address does not know this method."""

    code = "method_not_allowed"
    advice = "Use one of the methods in the Allow header."


class UrlNotAllowedError(ApiError):
    """The address may not be reached from here."""

    code = "url_not_allowed"
    advice = "Use a public http(s) address; private ranges are refused."


class HostUnresolvedError(ApiError):
    """The host name was not resolved in time."""

    code = "host_unresolved"
    advice = "Check that the name servers of the host answer, and send the request again."


class ServiceUnavailableError(ApiError):
    """A part of the service can not be reached."""

    code = "service_unavailable"
    advice = "Try again later."


class FileEmptyError(ApiError):
    """The file is empty."""

    code = "file_empty"
    advice = "Send a file with content."


class ContainerUnsupportedError(ApiError):
    """The file is not in a container that is accepted."""

    code = "container_unsupported"
    advice = (
        "Send mp4, mov, mkv, webm or avi for video; wav, mp3, flac, ogg or m4a for speech; png, jpeg or webp for a "
        "still."
    )


class MediaUnreadableError(ApiError):
    """The file is damaged or cut short."""

    code = "media_unreadable"
    advice = "Check that it plays, and send it again whole."


class CodecUnsupportedError(ApiError):
    """The codec can not be decoded."""

    code = "codec_unsupported"
    advice = "Re-encode the file, e.g. to H.264 and AAC."


class VideoStreamMissingError(ApiError):
    """The video file holds no picture stream."""

    code = "video_stream_missing"
    advice = "Send a file with a video stream, or a still image."


class AudioStreamMissingError(ApiError):
    """The speech file holds no audio stream."""

    code = "audio_stream_missing"
    advice = "Send a file with an audio stream."


class AudioEmptyError(ApiError):
    """The speech holds no sound samples."""

    code = "audio_empty"
    advice = "Send speech of at least 20 ms."


class AudioInvalidError(ApiError):
    """The speech holds values that are not numbers."""

    code = "audio_invalid"
    advice = "Export the speech again from its source."


class MediaTooLongError(ApiError):
    """The file is longer than allowed."""

    code = "media_too_long"
    advice = "Cut it, or raise the limit of the deployment."


class PictureTooLargeError(ApiError):
    """The picture has more pixels than allowed."""

    code = "picture_too_large"
    advice = "Scale it down."


class StreamsTooManyError(ApiError):
    """The file holds too many streams."""

    code = "streams_too_many"
    advice = "Send a file with one video and one audio stream."


class FaceNotFoundError(ApiError):
    """No face was found."""

    code = "face_not_found"
    advice = "Send a clip that shows a face from the front, at least 64 px wide."


class FaceMissingError(ApiError):
    """Some frames show no face."""

    code = "face_missing"
    advice = "Use missing_face=pass_through, or cut the ranges that the message names."


class InputUnreachableError(ApiError):
    """The input could not be fetched from its address."""

    code = "input_unreachable"
    advice = "Check that the address answers with the file."


class InputTooSlowError(ApiError):
    """The input comes too slowly from its address."""

    code = "input_too_slow"
    advice = "Put the file to a link from `POST /uploads`, or serve it from a faster address."


class DeadlineExceededError(ApiError):
    """The job waited in the queue past its deadline."""

    code = "deadline_exceeded"
    advice = "Submit again, with a longer expires_in_s."


class WorkerLostError(ApiError):
    """The job's worker died too many times."""

    code = "worker_lost"
    advice = "Submit again; if it repeats, the input kills the worker: report it."


class RenderTimeoutError(ApiError):
    """The render ran past its time limit."""

    code = "render_timeout"
    advice = "Send a shorter clip."


class EngineFaultError(ApiError):
    """The engine produced an unusable picture."""

    code = "engine_fault"
    advice = "Report the job id."


class OutOfMemoryError(ApiError):
    """The machine has too little memory for this job."""

    code = "out_of_memory"
    advice = "Send a smaller or shorter clip."


class ProvenanceFailedError(ApiError):
    """The result could not be signed."""

    code = "provenance_failed"
    advice = "Tell the operator: RETALKING_C2PA_CERT and RETALKING_C2PA_KEY of the worker are to be checked."


class StorageFailedError(ApiError):
    """The object store did not take or give a file."""

    code = "storage_failed"
    advice = "Try again later."


class ThreadsExhaustedError(ApiError):
    """The machine can start no more threads."""

    code = "threads_exhausted"
    advice = "Try again later; the operator raises the limit on processes (`pids`), or the memory."


class StorageFullError(ApiError):
    """The service has no room for new files now."""

    code = "storage_full"
    advice = "Try again later; the operator frees or adds space. Jobs that were accepted go on."


class DiskFullError(ApiError):
    """The worker's disk is full."""

    code = "disk_full"
    advice = "Try again later."


class CanceledError(ApiError):
    """The job was canceled."""

    code = "canceled"
    advice = "Submit it again if it is still wanted."


class InternalError(ApiError):
    """Something broke that should not."""

    code = "internal_error"
    advice = "Report the request id or job id."


class WeightsMissingError(ApiError):
    """A weight file is not there."""

    code = "weights_missing"
    advice = "Run `retalking weights fetch`."


class WeightsTruncatedError(ApiError):
    """A weight file is cut short."""

    code = "weights_truncated"
    advice = "Run `retalking weights fetch` again."


class WeightsUnsafeError(ApiError):
    """A weight file holds code."""

    code = "weights_unsafe"
    advice = "Do not use it; fetch it from its publisher."


class WeightsWrongFileError(ApiError):
    """A file is not the weights its name says."""

    code = "weights_wrong_file"
    advice = "Fetch it again."


class WeightsKeyMismatchError(ApiError):
    """Tensors are missing or unknown."""

    code = "weights_key_mismatch"
    advice = "Fetch the version the table names."


class WeightsShapeMismatchError(ApiError):
    """Tensors have another shape."""

    code = "weights_shape_mismatch"
    advice = "Fetch the version the table names."


class WeightsDigestMismatchError(ApiError):
    """A weight file changed."""

    code = "weights_digest_mismatch"
    advice = "Fetch it again, or remove its lock entry."


class WeightsUnreachableError(ApiError):
    """A weight file can not be fetched."""

    code = "weights_unreachable"
    advice = "Set RETALKING_WEIGHTS_URL."


class WeightsInvalidError(ApiError):
    """A weight file can not be used."""

    code = "weights_invalid"
    advice = "Run `retalking weights verify`."
