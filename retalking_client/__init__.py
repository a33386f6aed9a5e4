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
from retalking_client.events import Progress, verify_webhook
from retalking_client.models import (
    Account,
    AccountUsage,
    Analysis,
    ApiError,
    ApiKey,
    Batch,
    BatchFailure,
    BatchSummary,
    Evaluation,
    FieldFault,
    IssuedKey,
    Job,
    JobEvent,
    MediaLinks,
    Metric,
    MonthUsage,
    Person,
    RenderNote,
    Result,
    UndeliveredEvent,
    Upload,
    WebhookEvent,
    WebhookSecret,
)
from retalking_client.options import AccountChanges, AnalyzeOptions, BatchJob, JobFilters, Segment, SubmitOptions
from retalking_client.responses import RetryPolicy

__all__ = [
    "Account",
    "AccountChanges",
    "AccountUsage",
    "Analysis",
    "AnalyzeOptions",
    "ApiError",
    "ApiKey",
    "AsyncClient",
    "Batch",
    "BatchFailure",
    "BatchJob",
    "BatchSummary",
    "Client",
    "DownloadDamagedError",
    "Evaluation",
    "EventsLostError",
    "FieldFault",
    "IssuedKey",
    "Job",
    "JobEvent",
    "JobFilters",
    "MediaLinks",
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
    "UndeliveredEvent",
    "UnexpectedAnswerError",
    "Upload",
    "WaitTimeoutError",
    "WebhookEvent",
    "WebhookInvalidError",
    "WebhookSecret",
    "__version__",
    "verify_webhook",
]
