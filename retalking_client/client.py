"""The synchronous client, made from async_client.py by `make docs-reference`."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self, Unpack

import httpx

from retalking_client import calls
from retalking_client.calls import (
    BATCH_POLL_S,
    MOST_REDIRECTS,
    Call,
    connect_to,
    id_of,
    list_file,
    opened_request,
    redirected_request,
)
from retalking_client.codes import JobNotFinishedError, ResultNotReadyError
from retalking_client.errors import EventsLostError, UnexpectedAnswerError, WaitTimeoutError
from retalking_client.events import SILENCE_S, EventCursor, EventParser, ProgressHook, Watch
from retalking_client.models import (
    Account,
    AccountPage,
    AccountUsage,
    Analysis,
    ApiKey,
    Batch,
    BatchPage,
    BatchSummary,
    DeliveryPage,
    Evaluation,
    IssuedKey,
    Job,
    JobEvent,
    JobPage,
    KeyPage,
    MediaLinks,
    UndeliveredEvent,
    Upload,
    UsagePage,
    WebhookSecret,
)
from retalking_client.options import (
    AccountChanges,
    AnalyzeOptions,
    BatchJob,
    JobFilters,
    MediaInput,
    Segment,
    SubmitOptions,
)
from retalking_client.responses import (
    Attempts,
    BytesHook,
    PageType,
    PartialFile,
    RetryPolicy,
    parse_response,
    target_of,
)


class Client:
    """Talks to one service. A context manager; safe to share between threads.

    url, api_key: by default from RETALKING_URL and RETALKING_API_KEY. retry: how failed calls are retried. timeout_s:
    longest silence of the service. Every method may raise ServiceUnreachableError, UnexpectedAnswerError and the
    ApiError of a refusal.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        retry: RetryPolicy | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self._connection = connect_to(url, api_key, timeout_s)
        self._policy = retry or RetryPolicy()
        self._http = httpx.Client(timeout=self._connection.timeout, trust_env=self._connection.trust_env)

    @property
    def url(self) -> str:
        return self._connection.url

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self,
        video: MediaInput,
        audio: MediaInput | None = None,
        *,
        segments: Sequence[Segment] | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Job:
        """Submit a video and its speech; returns the queued job. audio: one speech for the whole video; segments:
        several, each for one face at one time. A lost response never makes a second job, because retries share an
        idempotency key (yours, or a generated one). Raises FileNotFoundError for a missing file."""
        return parse_response(Job, self._send(calls.submit_call(video, audio, options, idempotency_key, segments)))

    def analyze(
        self, video: MediaInput, *, idempotency_key: str | None = None, **options: Unpack[AnalyzeOptions]
    ) -> Job:
        """Find out who is in a video; returns the queued job. After `wait`, `analysis` has the answer."""
        return parse_response(Job, self._send(calls.analyze_call(video, options, idempotency_key)))

    def analysis(self, job: Job | str) -> Analysis:
        """The people of a video that was analyzed. Raises ResultNotReadyError."""
        return parse_response(Analysis, self._send(calls.job_call(id_of(job), "/analysis")))

    def run(
        self,
        video: MediaInput,
        audio: MediaInput | None,
        target: str | os.PathLike[str],
        *,
        segments: Sequence[Segment] | None = None,
        timeout_s: float | None = None,
        on_progress: ProgressHook | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Job:
        """Submit, wait and download. Raises the exception of the job's code if it fails."""
        job = self.submit(video, audio, segments=segments, **options)
        job = self.wait(job, timeout_s=timeout_s, on_progress=on_progress)
        self.download(job.raise_for_status(), target)
        return job

    def submit_batch(
        self,
        jobs: Sequence[BatchJob],
        *,
        webhook_url: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """Submit up to 500 jobs at once; files are uploaded first, each once. All are accepted or none: `faults` of the
        error names the items to correct. webhook_url: receives `batch.completed`. Raises FileNotFoundError."""
        items = calls.batch_items(jobs)
        uploads = {file: self.upload(file) for file in calls.batch_files(items)}
        lines = [item.referring_to(uploads) for item in items]
        with list_file(lines) as file:
            listed = lines if file is None else self.upload(file)
            call = calls.batch_call(listed, webhook_url, metadata or {}, idempotency_key)
            return parse_response(Batch, self._send(call))

    def batch(self, batch: BatchSummary | str) -> Batch:
        """The current state of a batch. Its jobs: `jobs(batch=...)`."""
        return parse_response(Batch, self._send(calls.get_batch_call(id_of(batch))))

    def wait_batch(
        self,
        batch: BatchSummary | str,
        *,
        timeout_s: float | None = None,
        on_progress: Callable[[Batch], object] = lambda batch: None,
    ) -> Batch:
        """Wait until the batch is over. Raises WaitTimeoutError; the batch continues in that case."""
        ends_at = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            found = self.batch(batch)
            on_progress(found)
            if found.is_over:
                return found
            if time.monotonic() >= ends_at:
                raise WaitTimeoutError(f"{found.id} is not over after {timeout_s:g} s.", found.id)
            time.sleep(BATCH_POLL_S)

    def batches(self) -> Iterator[BatchSummary]:
        """All batches, newest first; pages are fetched as needed."""
        for page in self._pages(BatchPage, calls.batches_call()):
            yield from page.batches

    def cancel_batch(self, batch: BatchSummary | str) -> Batch:
        """Cancel its live jobs and drop the items that are not jobs yet. A finished one is unchanged."""
        return parse_response(Batch, self._send(calls.cancel_batch_call(id_of(batch))))

    def delete_batch(self, batch: BatchSummary | str) -> None:
        """Delete the record of a batch that is over; its jobs stay. Raises JobNotFinishedError for a live one."""
        found = self.batch(batch)
        if not found.is_over:
            raise JobNotFinishedError(f"{found.id} is {found.status}; cancel it before you delete it.")
        self._send(calls.delete_batch_call(found.id))

    def upload(self, path: str | os.PathLike[str]) -> Upload:
        """Upload a large file before its jobs, straight to the object store if there is one."""
        file = calls.existing_file(path)
        upload = parse_response(Upload, self._send(calls.upload_call()))
        self._send(calls.put_call(upload.url, file))
        return upload

    def get(self, job: Job | str) -> Job:
        """The current state of a job."""
        return parse_response(Job, self._send(calls.job_call(id_of(job))))

    def jobs(self, *, page_size: int = 20, **filters: Unpack[JobFilters]) -> Iterator[Job]:
        """All jobs that pass every filter, newest first; pages are fetched as needed. Raises ValueError for a filter
        that no job can pass."""
        for page in self._pages(JobPage, calls.list_call(filters, page_size)):
            yield from page.jobs

    def events(self, job: Job | str, *, after: str | None = None) -> Iterator[JobEvent]:
        """Events of a job from its beginning (or after an event id), then live, until the job ends. A broken connection
        resumes after the last event. Raises EventsLostError if it keeps breaking."""
        for event in self._listen(EventCursor(id_of(job), after)):
            if event is not None:
                yield event

    def wait(self, job: Job | str, *, timeout_s: float | None = None, on_progress: ProgressHook | None = None) -> Job:
        """Wait until the job ends, in any status (see `raise_for_status`). Follows the events; if a proxy cuts or
        buffers the stream, polls instead. Raises WaitTimeoutError; the job continues in that case."""
        job_id = id_of(job)
        watch = Watch(job_id, timeout_s, on_progress)
        if not watch.is_near_end:
            with suppress(EventsLostError):
                with closing(self._listen(EventCursor(job_id))) as events:
                    for event in events:
                        watch.report_event(event)
                        if watch.is_near_end:
                            break
        while True:
            found = self.get(job_id)
            watch.report_job(found)
            if found.is_over:
                return found
            time.sleep(watch.poll_pause_s())

    def download(
        self, job: Job | str, target: str | os.PathLike[str] | None = None, *, on_bytes: BytesHook | None = None
    ) -> Path:
        """Download the result to the file or folder `target`, by default to `JOB.mp4` in the current folder. The file
        appears complete and verified (size, SHA-256) or not at all; a later call resumes an interrupted download.

        on_bytes: called with received and total bytes. Raises ResultNotReadyError, DownloadDamagedError.
        """
        found = job if isinstance(job, Job) and job.result else self.get(job)
        if found.result is None:
            raise ResultNotReadyError(f"{found.id} is {found.status}; it has no result.")
        part = PartialFile(found.id, found.result, target_of(found, target))
        attempts = Attempts(self._policy, calls.result_call(found.id, 0))
        while not part.is_complete:
            before = part.size
            try:
                with self._stream(calls.result_call(found.id, part.size)) as answer:
                    with part.open_for(answer) as file:
                        for piece in answer.iter_bytes():
                            file.write(piece)
                            if on_bytes is not None:
                                on_bytes(file.tell(), found.result.size_bytes)
                if not part.is_complete:
                    break
            except httpx.TransportError as error:
                if part.size > before:
                    attempts.reset()
                time.sleep(attempts.after_error(error))
        return part.finish()

    def evaluation(self, job: Job | str) -> Evaluation:
        """The metrics of the result. Raises EvaluationNotReadyError."""
        return parse_response(Evaluation, self._send(calls.job_call(id_of(job), "/evaluation")))

    def media(self, job: Job | str) -> MediaLinks:
        """Links that play the inputs and the result of a job without a key, until they expire."""
        return parse_response(MediaLinks, self._send(calls.job_call(id_of(job), "/media")))

    def poster(self, job: Job | str) -> bytes:
        """One picture of the result, a JPEG. Raises ResultNotReadyError."""
        return (self._send(calls.job_call(id_of(job), "/poster.jpg"))).content

    def preview(self, job: Job | str) -> bytes:
        """The first seconds of the result, a small MP4. Raises ResultNotReadyError."""
        return (self._send(calls.job_call(id_of(job), "/preview.mp4"))).content

    def portrait(self, job: Job | str, track: str) -> bytes:
        """A picture of one person of an analysis, a JPEG. Raises ResultNotReadyError."""
        return (self._send(calls.portrait_call(id_of(job), track))).content

    def retry(self, job: Job | str, *, idempotency_key: str | None = None) -> Job:
        """Submit a failed or canceled job again; returns the new job. Raises RetryNotPossibleError."""
        return parse_response(Job, self._send(calls.retry_call(id_of(job), idempotency_key)))

    def cancel(self, job: Job | str) -> Job:
        """Cancel a job: a queued one at once, a running one within a batch of frames. A finished one is unchanged."""
        return parse_response(Job, self._send(calls.cancel_call(id_of(job))))

    def delete(self, job: Job | str) -> None:
        """Delete a finished job with its files. Raises JobNotFinishedError for a live one: cancel it first."""
        found = self.get(job)
        if not found.is_over:
            raise JobNotFinishedError(f"{found.id} is {found.status}; cancel it before you delete it.")
        self._send(calls.delete_call(found.id))

    def redeliver(self, job: Job | str) -> Job:
        """Redeliver the last event of the job, and all events that were given up."""
        return parse_response(Job, self._send(calls.redeliver_call(id_of(job))))

    def undelivered(self, *, state: Literal["pending", "given_up"] = "given_up") -> Iterator[UndeliveredEvent]:
        """Webhook events that were not delivered, oldest first: given up, or still tried (`pending`)."""
        for page in self._pages(DeliveryPage, calls.undelivered_call(state)):
            yield from page.deliveries

    def redeliver_event(self, event: UndeliveredEvent | str) -> UndeliveredEvent:
        """Deliver one event again, with all its attempts ahead."""
        return parse_response(UndeliveredEvent, self._send(calls.redeliver_event_call(id_of(event))))

    def webhook_secret(self) -> WebhookSecret:
        """The secret that signs the webhooks of this account. Raises WebhookSecretSharedError without keys."""
        return parse_response(WebhookSecret, self._send(calls.webhook_secret_call()))

    def rotate_webhook_secret(self, *, overlap_s: int = 86400) -> WebhookSecret:
        """Replace the secret. The previous one keeps signing for overlap_s; use 0 for a leaked secret."""
        return parse_response(WebhookSecret, self._send(calls.rotate_webhook_secret_call(overlap_s)))

    def keys(self, *, account: str | None = None) -> Iterator[ApiKey]:
        """All keys, oldest first, including revoked ones; account: only its keys. Needs the scope `admin`."""
        for page in self._pages(KeyPage, calls.keys_call(account)):
            yield from page.keys

    def create_key(
        self,
        name: str,
        *,
        scopes: Sequence[str] | None = None,
        max_priority: int | None = None,
        account: str | None = None,
        requests_per_minute: int | None = None,
        live_jobs: int | None = None,
        stored_bytes: int | None = None,
    ) -> IssuedKey:
        """A key of an account, or of a new one of the same name with these limits. Needs the scope `admin`. Raises
        AccountNotFoundError, TooManyKeysError."""
        fields = {
            "scopes": None if scopes is None else list(scopes),
            "max_priority": max_priority,
            "account": account,
            "requests_per_minute": requests_per_minute,
            "live_jobs": live_jobs,
            "stored_bytes": stored_bytes,
        }
        return parse_response(IssuedKey, self._send(calls.create_key_call(name, fields)))

    def rotate_key(self, key_id: str, *, overlap_s: int = 86400) -> IssuedKey:
        """Replace a key; the old one stays valid for overlap_s. Needs the scope `admin`. Raises KeyRevokedError."""
        return parse_response(IssuedKey, self._send(calls.rotate_key_call(key_id, overlap_s)))

    def revoke_key(self, key_id: str) -> ApiKey:
        """Revoke a key; its jobs stay with the account. Needs the scope `admin`. Raises KeyNotFoundError."""
        return parse_response(ApiKey, self._send(calls.revoke_key_call(key_id)))

    def usage(self, *, months: int = 1, account: str | None = None) -> Iterator[AccountUsage]:
        """What your account used in the last months; with the scope `admin`, every account or the one named."""
        for page in self._pages(UsagePage, calls.usage_call(months, account)):
            yield from page.accounts

    def accounts(self) -> Iterator[Account]:
        """All accounts with the limits that apply to them, oldest first. Needs the scope `admin`."""
        for page in self._pages(AccountPage, calls.accounts_call()):
            yield from page.accounts

    def change_account(self, account: Account | str, **changes: Unpack[AccountChanges]) -> Account:
        """Change the name or limits of an account; a limit of None becomes that of the deployment. Needs the scope
        `admin`. Raises AccountNotFoundError."""
        return parse_response(Account, self._send(calls.change_account_call(id_of(account), changes)))

    def offer(self) -> dict[str, Any]:
        """What the live workers offer: engines, options with descriptions, limits (`GET /engines`)."""
        return parse_response(dict, self._send(calls.offer_call()))

    def _pages(self, kind: type[PageType], call: Call) -> Iterator[PageType]:
        """All pages of a list; each is fetched when the one before was read."""
        following: Call | None = call
        while following is not None:
            page = parse_response(kind, self._send(following))
            yield page
            following = call.after(page.next_cursor)

    def _send(self, call: Call) -> httpx.Response:
        attempts = Attempts(self._policy, call)
        while True:
            try:
                with opened_request(self._http, call, self.url, self._connection.headers) as request:
                    answer = self._http.send(request)
            except httpx.TransportError as error:
                pause_s = attempts.after_error(error)
            else:
                if attempts.is_settled(answer):
                    return answer
                pause_s = attempts.after_refusal(answer)
            time.sleep(pause_s)

    @contextmanager
    def _stream(self, call: Call, **more: Any) -> Iterator[httpx.Response]:
        """A response with an unread body. Retried like any call if the service refuses it."""
        attempts = Attempts(self._policy, call)
        while True:
            answer = self._open(call, **more)
            try:
                if answer.is_success:
                    yield answer
                    return
                answer.read()
                pause_s = attempts.after_refusal(answer)
            finally:
                answer.close()
            time.sleep(pause_s)

    def _open(self, call: Call, **more: Any) -> httpx.Response:
        with opened_request(self._http, call, self.url, self._connection.headers, **more) as request:
            answer = self._http.send(request, stream=True)
        for _ in range(MOST_REDIRECTS):
            if not answer.has_redirect_location:
                return answer
            answer.close()
            request = redirected_request(self._http, answer, self._connection.headers)
            answer = self._http.send(request, stream=True)
        answer.close()
        raise UnexpectedAnswerError(f"{self.url}{call.path} has too many redirects.", answer.status_code)

    def _listen(self, cursor: EventCursor) -> Generator[JobEvent | None]:
        """Events, and None for each heartbeat in between."""
        timeout = httpx.Timeout(10.0, read=SILENCE_S)
        while not cursor.is_over:
            try:
                with self._stream(calls.events_call(cursor.job_id, cursor.last_id), timeout=timeout) as answer:
                    parser = EventParser()
                    for chunk in answer.iter_bytes():
                        for data in parser.feed(chunk):
                            yield cursor.take(data)
            except httpx.TransportError as error:
                time.sleep(cursor.stream_failed(error))
            else:
                if not cursor.is_over:
                    time.sleep(cursor.stream_failed(None))
