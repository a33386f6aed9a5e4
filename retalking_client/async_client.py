"""The client for asyncio: `Client` with `await`; what both decide stands in the modules beside."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self, Unpack

import httpx

from retalking_client import calls
from retalking_client.answers import Attempts, RetryPolicy, id_of, parse_answer
from retalking_client.calls import MOST_REDIRECTS, Call, connect_to, opened_request, redirected_request
from retalking_client.codes import JobNotFinishedError, ResultNotReadyError
from retalking_client.downloading import BytesHook, PartialFile, target_of
from retalking_client.errors import EventsLostError, UnexpectedAnswerError
from retalking_client.events import SILENCE_S, EventCursor, EventParser, ProgressHook, Watch
from retalking_client.models import Evaluation, Job, JobEvent, JobPage, Status, Upload, WebhookSecret
from retalking_client.options import MediaInput, SubmitOptions


class AsyncClient:
    """Talks to one service. An async context manager. Files are read and written in small pieces on the loop itself.

    url, api_key: from RETALKING_URL and RETALKING_API_KEY where not given. retry: how calls are made again. timeout_s:
    how long the service may be silent. Every method may raise ServiceUnreachableError, UnexpectedAnswerError and the
    ApiError of what the service refused.
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
        self._http = httpx.AsyncClient(timeout=self._connection.timeout, trust_env=self._connection.trust_env)

    @property
    def url(self) -> str:
        return self._connection.url

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def submit(
        self,
        video: MediaInput,
        audio: MediaInput,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Job:
        """Hand in a face and a speech track; returns the queued job. A lost answer never makes a second job: the call
        is repeated under one key (yours, or one made for it). Raises FileNotFoundError where a path leads nowhere."""
        return parse_answer(Job, await self._send(calls.submit_call(video, audio, options, idempotency_key)))

    async def run(
        self,
        video: MediaInput,
        audio: MediaInput,
        target: str | os.PathLike[str],
        *,
        timeout_s: float | None = None,
        on_progress: ProgressHook | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Job:
        """Submit, wait, download: the whole way. Raises the exception of the job's code when it fails."""
        job = await self.submit(video, audio, **options)
        job = (await self.wait(job, timeout_s=timeout_s, on_progress=on_progress)).raise_for_status()
        await self.download(job, target)
        return job

    async def upload(self, path: str | os.PathLike[str]) -> Upload:
        """Put a large file ahead of its jobs, straight to the object store where there is one."""
        file = calls.existing_file(path)
        upload = parse_answer(Upload, await self._send(Call("POST", "/uploads")))
        await self._send(calls.put_call(upload.url, file))
        return upload

    async def get(self, job: Job | str) -> Job:
        """The job as it stands now."""
        return parse_answer(Job, await self._send(calls.job_call(id_of(job))))

    async def jobs(self, *, status: Status | None = None, page_size: int = 20) -> AsyncIterator[Job]:
        """Every job, newest first; pages are fetched as they are needed."""
        cursor = None
        while True:
            page = parse_answer(JobPage, await self._send(calls.list_call(status, page_size, cursor)))
            for job in page.jobs:
                yield job
            if page.next_cursor is None:
                return
            cursor = page.next_cursor

    async def events(self, job: Job | str, *, after: str | None = None) -> AsyncIterator[JobEvent]:
        """The history of a job from its beginning (or after an event's id), then live, up to the event that ends it.
        A connection that breaks is taken up after the last event. Raises EventsLostError where it keeps breaking."""
        async for event in self._listen(EventCursor(id_of(job), after)):
            if event is not None:
                yield event

    async def wait(
        self, job: Job | str, *, timeout_s: float | None = None, on_progress: ProgressHook | None = None
    ) -> Job:
        """The job once it is over, however it ended (`raise_for_status` tells). It listens to the events; where streams
        are cut or held back on the way, it polls instead. Raises WaitTimeoutError; the job goes on then."""
        job_id = id_of(job)
        watch = Watch(job_id, timeout_s, on_progress)
        if not watch.is_near_end:
            with suppress(EventsLostError):
                async with aclosing(self._listen(EventCursor(job_id))) as events:
                    async for event in events:
                        watch.tell_event(event)
                        if watch.is_near_end:
                            break
        while True:
            found = await self.get(job_id)
            watch.tell_job(found)
            if found.is_over:
                return found
            await asyncio.sleep(watch.poll_pause_s())

    async def download(
        self, job: Job | str, target: str | os.PathLike[str] | None = None, *, on_bytes: BytesHook | None = None
    ) -> Path:
        """The result as a file: at `target`, in the folder `target`, or as `JOB.mp4` here. It appears whole and checked
        (size, SHA-256) or not at all; what a broken connection left is gone on from, also by a later call.

        on_bytes: called with the bytes that are there and those there will be. Raises ResultNotReadyError,
        DownloadDamagedError.
        """
        found = job if isinstance(job, Job) and job.result else await self.get(job)
        if found.result is None:
            raise ResultNotReadyError(f"{found.id} is {found.status}; it has no result.")
        part = PartialFile(found.id, found.result, target_of(found, target))
        attempts = Attempts(self._policy, calls.result_call(found.id, 0))
        while not part.is_whole:
            before = part.size
            try:
                async with self._stream(calls.result_call(found.id, part.size)) as answer:
                    with part.open_for(answer) as file:
                        async for piece in answer.aiter_bytes():
                            file.write(piece)
                            if on_bytes is not None:
                                on_bytes(file.tell(), found.result.size_bytes)
                if not part.is_whole:
                    break
            except httpx.TransportError as error:
                if part.size > before:
                    attempts.went_on()
                await asyncio.sleep(attempts.after_error(error))
        return await asyncio.to_thread(part.finish)

    async def evaluation(self, job: Job | str) -> Evaluation:
        """The numbers about the result. Raises EvaluationNotReadyError."""
        return parse_answer(Evaluation, await self._send(calls.job_call(id_of(job), "/evaluation")))

    async def cancel(self, job: Job | str) -> Job:
        """Ask for the end of a job: a queued one is canceled at once, a running one stops within a batch of frames. One
        that is over stays as it is."""
        return parse_answer(Job, await self._send(calls.cancel_call(id_of(job))))

    async def delete(self, job: Job | str) -> None:
        """Remove a job that is over, with its files. Raises JobNotFinishedError for a live one: cancel it first."""
        found = await self.get(job)
        if not found.is_over:
            raise JobNotFinishedError(f"{found.id} is {found.status}; cancel it before you delete it.")
        await self._send(calls.delete_call(found.id))

    async def redeliver(self, job: Job | str) -> Job:
        """Tell the webhook once more: the job's last event, and all that were given up."""
        return parse_answer(Job, await self._send(calls.redeliver_call(id_of(job))))

    async def webhook_secret(self) -> WebhookSecret:
        """What signs the webhooks of this key's jobs. Raises WebhookSecretSharedError where keys are not required."""
        return parse_answer(WebhookSecret, await self._send(calls.webhook_secret_call()))

    async def rotate_webhook_secret(self, *, overlap_s: int = 86400) -> WebhookSecret:
        """A new secret. The one until now signs beside it for overlap_s; 0: it leaked, and ends now."""
        return parse_answer(WebhookSecret, await self._send(calls.rotate_webhook_secret_call(overlap_s)))

    async def offer(self) -> dict[str, Any]:
        """What the live workers can do now: engines, options with their meaning, limits (`GET /engines`)."""
        return parse_answer(dict, await self._send(Call("GET", "/engines")))

    async def _send(self, call: Call) -> httpx.Response:
        attempts = Attempts(self._policy, call)
        while True:
            try:
                with opened_request(self._http, call, self.url, self._connection.headers) as request:
                    answer = await self._http.send(request)
            except httpx.TransportError as error:
                pause_s = attempts.after_error(error)
            else:
                if attempts.is_settled(answer):
                    return answer
                pause_s = attempts.after_refusal(answer)
            await asyncio.sleep(pause_s)

    @asynccontextmanager
    async def _stream(self, call: Call, **more: Any) -> AsyncIterator[httpx.Response]:
        """An answer whose body is yet to be read. What the service refuses now is asked for again, like any call."""
        attempts = Attempts(self._policy, call)
        while True:
            answer = await self._open(call, **more)
            try:
                if answer.is_success:
                    yield answer
                    return
                await answer.aread()
                pause_s = attempts.after_refusal(answer)
            finally:
                await answer.aclose()
            await asyncio.sleep(pause_s)

    async def _open(self, call: Call, **more: Any) -> httpx.Response:
        with opened_request(self._http, call, self.url, self._connection.headers, **more) as request:
            answer = await self._http.send(request, stream=True)
        for _ in range(MOST_REDIRECTS):
            if not answer.has_redirect_location:
                return answer
            await answer.aclose()
            request = redirected_request(self._http, answer, self._connection.headers)
            answer = await self._http.send(request, stream=True)
        await answer.aclose()
        raise UnexpectedAnswerError(f"{self.url}{call.path} redirects in circles.", answer.status_code)

    async def _listen(self, cursor: EventCursor) -> AsyncGenerator[JobEvent | None]:
        """Events, and None for every sign of life in between."""
        timeout = httpx.Timeout(10.0, read=SILENCE_S)
        while not cursor.is_over:
            try:
                async with self._stream(calls.events_call(cursor.job_id, cursor.last_id), timeout=timeout) as answer:
                    parser = EventParser()
                    async for chunk in answer.aiter_bytes():
                        for data in parser.feed(chunk):
                            yield cursor.take(data)
            except httpx.TransportError as error:
                await asyncio.sleep(cursor.broke(error))
            else:
                if not cursor.is_over:
                    await asyncio.sleep(cursor.broke(None))
