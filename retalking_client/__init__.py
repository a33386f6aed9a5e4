"""The Python client of Retalking.

    from retalking_client import Client

    with Client("http://127.0.0.1:8000") as client:
        client.run("face.mp4", "speech.wav", "result.mp4", on_progress=print)

`AsyncClient` is the same with `await`. Refusals and failed jobs raise the exception of their public code, from
`retalking_client.codes`; docs/client.md tells the rest.
"""

from retalking_client.async_client import AsyncClient
from retalking_client.calls import VERSION as __version__
from retalking_client.client import Client
from retalking_client.errors import (
    DownloadDamagedError,
    EventsLostError,
    RetalkingClientError,
    ServiceUnreachableError,
    UnexpectedAnswerError,
    WaitTimeoutError,
    WebhookInvalidError,
)
from retalking_client.events import Progress
from retalking_client.models import (
    AccountUsage,
    Analysis,
    ApiError,
    ApiKey,
    Batch,
    BatchFailure,
    Evaluation,
    FieldFault,
    IssuedKey,
    Job,
    JobEvent,
    Metric,
    MonthUsage,
    Person,
    RenderNote,
    Result,
    Upload,
    WebhookEvent,
    WebhookSecret,
)
from retalking_client.options import AnalyzeOptions, BatchJob, Segment, SubmitOptions
from retalking_client.responses import RetryPolicy
from retalking_client.webhooks import verify_webhook

__all__ = [
    "AccountUsage",
    "Analysis",
    "AnalyzeOptions",
    "ApiError",
    "ApiKey",
    "AsyncClient",
    "Batch",
    "BatchFailure",
    "BatchJob",
    "Client",
    "DownloadDamagedError",
    "Evaluation",
    "EventsLostError",
    "FieldFault",
    "IssuedKey",
    "Job",
    "JobEvent",
    "Metric",
    "MonthUsage",
    "Person",
    "Progress",
    "RenderNote",
    "Result",
    "RetalkingClientError",
    "RetryPolicy",
    "Segment",
    "ServiceUnreachableError",
    "SubmitOptions",
    "UnexpectedAnswerError",
    "Upload",
    "WaitTimeoutError",
    "WebhookEvent",
    "WebhookInvalidError",
    "WebhookSecret",
    "__version__",
    "verify_webhook",
]
