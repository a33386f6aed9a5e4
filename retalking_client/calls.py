"""The calls of the HTTP interface as data, and the connection that they go through."""

from __future__ import annotations

import json
import mimetypes
import os
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, get_args
from urllib.parse import quote

import httpx

from retalking_client.errors import ServiceUnreachableError
from retalking_client.models import Named, Status, Upload
from retalking_client.options import (
    AccountChanges,
    AnalyzeOptions,
    BatchJob,
    JobFilters,
    MediaInput,
    Segment,
    SubmitOptions,
)

DEFAULT_URL = "http://127.0.0.1:8000"
API = "/v1"
VERSION = "0.1.0"
MOST_REDIRECTS = 5
UPLOAD = "upload:"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Connection:
    """Address and credentials of the service.

    url: without a trailing slash. timeout_s: longest silence during a call; a download may take any time as long as
    bytes keep coming.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 60.0

    @property
    def timeout(self) -> httpx.Timeout:
        """Writing may take longer, because the service may store an upload slowly."""
        return httpx.Timeout(self.timeout_s, connect=min(10.0, self.timeout_s), write=self.timeout_s * 5)

    @property
    def headers(self) -> dict[str, str]:
        """Sent to the service itself, never to links of an object store."""
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {"User-Agent": f"retalking-client/{VERSION}"} | key

    @property
    def trust_env(self) -> bool:
        """False for loopback addresses: proxies of the environment do not apply to the local machine."""
        return httpx.URL(self.url).host not in _LOOPBACK


def connect_to(url: str | None, api_key: str | None, timeout_s: float) -> Connection:
    """Defaults come from RETALKING_URL and RETALKING_API_KEY. Raises ServiceUnreachableError for an invalid address."""
    address = (url or os.environ.get("RETALKING_URL") or DEFAULT_URL).rstrip("/")
    try:
        parsed = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise ServiceUnreachableError(f"{address} is not a valid address: {error}.") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ServiceUnreachableError(f"{address} is not an http(s) address.")
    return Connection(address, api_key or os.environ.get("RETALKING_API_KEY") or None, timeout_s)


def is_same_place(one: httpx.URL, other: httpx.URL) -> bool:
    """True if scheme, host and port are equal. Redirects elsewhere do not get the API key."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class Call:
    """An HTTP call.

    path: relative to the service, or an absolute link, which does not get the API key. files: form parts beside the
    JSON part `spec`. content: a file that is the whole body. is_repeatable: the call is idempotent. deletes: a target
    that is gone counts as success.
    """

    method: str
    path: str
    json: Any = None
    params: Mapping[str, str | list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    content: Path | None = None
    is_repeatable: bool = True
    deletes: bool = False

    @property
    def is_own(self) -> bool:
        return not is_link(self.path)

    def after(self, cursor: str | None) -> Call | None:
        """The call for the next page of a list. cursor None: there is none."""
        return None if cursor is None else replace(self, params={**self.params, "cursor": cursor})


def submit_call(
    video: MediaInput,
    audio: MediaInput | None,
    options: SubmitOptions,
    idempotency_key: str | None = None,
    segments: Sequence[Segment] | None = None,
) -> Call:
    """POST /v1/jobs, or /v1/jobs/upload with files. Without a key one is generated, so that a retry after a lost
    response finds the job it made.

    Raises FileNotFoundError; TypeError unless either `audio` or `segments` is given.
    """
    spec, files = _submission(video, audio, options, segments)
    key = idempotency_key or f"retalking-client-{uuid.uuid4()}"
    path = f"{API}/jobs/upload" if files else f"{API}/jobs"
    return Call("POST", path, json=spec, files=files, headers={"Idempotency-Key": key})


def _submission(
    video: MediaInput,
    audio: MediaInput | None,
    options: Mapping[str, Any],
    segments: Sequence[Segment] | None,
) -> tuple[dict[str, Any], dict[str, Path]]:
    """The JSON of a job, and its files by the name of their form part. Raises FileNotFoundError, TypeError."""
    if (audio is None) == (segments is None):
        raise TypeError("pass either audio, one speech for the whole video, or segments")
    spec: dict[str, Any] = dict(options)
    files: dict[str, Path] = {}
    if segments is not None:
        spec["segments"] = [_segment_spec(segment, files) for segment in segments]
    for name, given in (("video", video), ("audio", audio)):
        if given is not None:
            _add_input(name, given, spec, files)
    expression = spec.get("expression")
    if isinstance(expression, Upload):
        spec["expression"] = f"{UPLOAD}{expression.id}"
    elif isinstance(expression, os.PathLike):
        files["expression"] = existing_file(expression)
        del spec["expression"]
    return spec, files


def _segment_spec(segment: Segment, files: dict[str, Path]) -> dict[str, Any]:
    """Adds the segment's file to the parts of the form, unless another segment did."""
    given = segment["audio"]
    if isinstance(given, Upload):
        source = f"{UPLOAD}{given.id}"
    elif is_link(os.fspath(given)) or os.fspath(given).startswith(UPLOAD):
        source = os.fspath(given)
    else:
        path = existing_file(given)
        source = next((name for name, file in files.items() if file == path), f"speech_{len(files) + 1}")
        files[source] = path
    return {**segment, "audio": source}


def analyze_call(video: MediaInput, options: AnalyzeOptions, idempotency_key: str | None = None) -> Call:
    """POST /v1/videos/analyze, or its /upload with a file; keys as in `submit_call`. Raises FileNotFoundError."""
    spec: dict[str, Any] = dict(options)
    files: dict[str, Path] = {}
    _add_input("video", video, spec, files)
    key = idempotency_key or f"retalking-client-{uuid.uuid4()}"
    path = f"{API}/videos/analyze/upload" if files else f"{API}/videos/analyze"
    return Call("POST", path, json=spec, files=files, headers={"Idempotency-Key": key})


def _add_input(name: str, given: MediaInput, spec: dict[str, Any], files: dict[str, Path]) -> None:
    """Raises FileNotFoundError."""
    if isinstance(given, Upload):
        spec[f"{name}_upload_id"] = given.id
    elif is_link(os.fspath(given)):
        spec[f"{name}_url"] = os.fspath(given)
    else:
        files[name] = existing_file(given)


# How often `wait_batch` asks
BATCH_POLL_S = 1.0
# A longer list of jobs is uploaded: the service limits JSON bodies to 1 MiB.
MOST_BODY_BYTES = 900_000


@dataclass(frozen=True)
class BatchItem:
    """A job of a batch before its files are uploaded.

    spec: its JSON. files: what `spec` lacks, by the name that a form part would have.
    """

    spec: Mapping[str, Any]
    files: Mapping[str, Path]

    def referring_to(self, uploads: Mapping[Path, Upload]) -> dict[str, Any]:
        """The JSON with uploads in place of files."""
        line = dict(self.spec)
        ids = {name: uploads[file].id for name, file in self.files.items()}
        line |= {f"{name}_upload_id": ids[name] for name in ("video", "audio") if name in ids}
        if "expression" in ids:
            line["expression"] = f"{UPLOAD}{ids['expression']}"
        if "segments" in line:
            line["segments"] = [
                {**segment, "audio": f"{UPLOAD}{ids[segment['audio']]}"} if segment["audio"] in ids else segment
                for segment in line["segments"]
            ]
        return line


def batch_items(jobs: Sequence[BatchJob]) -> list[BatchItem]:
    """Raises FileNotFoundError; TypeError for a job without speech."""
    inputs = ("video", "audio", "segments")
    return [
        BatchItem(
            *_submission(
                job["video"],
                job.get("audio"),
                {name: value for name, value in job.items() if name not in inputs},
                job.get("segments"),
            )
        )
        for job in jobs
    ]


def batch_files(items: Sequence[BatchItem]) -> list[Path]:
    """Files to upload, each once."""
    return list(dict.fromkeys(file for item in items for file in item.files.values()))


@contextmanager
def list_file(lines: Sequence[Mapping[str, Any]]) -> Iterator[Path | None]:
    """The lines as a temporary file, if they are too long for a body; else None."""
    text = "\n".join(compact_json(line) for line in lines)
    if len(text.encode()) <= MOST_BODY_BYTES:
        yield None
        return
    with TemporaryDirectory(prefix="retalking-") as folder:
        file = Path(folder) / "jobs.jsonl"
        file.write_text(text, "utf-8")
        yield file


def batch_call(
    jobs: Sequence[Mapping[str, Any]] | Upload,
    webhook_url: str | None,
    metadata: Mapping[str, Any],
    idempotency_key: str | None,
) -> Call:
    """jobs: lines, or an uploaded list of them."""
    body: dict[str, Any] = {"jobs_upload_id": jobs.id} if isinstance(jobs, Upload) else {"jobs": list(jobs)}
    body |= {"webhook_url": webhook_url, "metadata": dict(metadata)}
    key = idempotency_key or f"retalking-client-{uuid.uuid4()}"
    return Call("POST", f"{API}/batches", json=body, headers={"Idempotency-Key": key})


def batches_call() -> Call:
    return Call("GET", f"{API}/batches")


def get_batch_call(batch_id: str) -> Call:
    return Call("GET", batch_path(batch_id))


def cancel_batch_call(batch_id: str) -> Call:
    return Call("POST", f"{batch_path(batch_id)}/cancel")


def delete_batch_call(batch_id: str) -> Call:
    return Call("DELETE", batch_path(batch_id), deletes=True)


def batch_path(batch_id: str) -> str:
    return f"{API}/batches/{quote(batch_id, safe='')}"


def job_call(job_id: str, rest: str = "") -> Call:
    return Call("GET", job_path(job_id) + rest)


def portrait_call(job_id: str, track: str) -> Call:
    return job_call(job_id, f"/people/{quote(track, safe='')}.jpg")


def list_call(filters: JobFilters, page_size: int) -> Call:
    """Raises ValueError for an unknown status, and a time without its zone."""
    given = dict(filters)
    status = filters.get("status")
    statuses = [status] if isinstance(status, str) else list(status or ())
    if unknown := set(statuses) - set(get_args(Status)):
        raise ValueError(f"status is one of {', '.join(get_args(Status))}, not {', '.join(sorted(unknown))!r}")
    for name in ("created_after", "created_before"):
        if isinstance(at := given.get(name), datetime):
            if at.tzinfo is None:
                raise ValueError(f"{name} needs a time zone, as in datetime.now(UTC)")
            given[name] = at.isoformat()
    if (batch := filters.get("batch")) is not None:
        given["batch"] = id_of(batch)
    pairs = (filters.get("metadata") or {}).items()
    metadata = [f"{name}={value if isinstance(value, str) else compact_json(value)}" for name, value in pairs]
    params = {**given, "status": statuses or None, "metadata": metadata or None, "limit": str(page_size)}
    return Call("GET", f"{API}/jobs", params=_given(params))


def id_of(thing: Named | str | Any) -> str:
    """Raises TypeError."""
    if isinstance(thing, Named):
        return thing.id
    if isinstance(thing, str) and thing:
        return thing
    raise TypeError(f"pass an id, or what has one (a Job, a Batch, ...), not {thing!r}")


def compact_json(value: object) -> str:
    """As the service compares values of metadata that are not text."""
    return json.dumps(value, separators=(",", ":"))


def events_call(job_id: str, after: str | None) -> Call:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
    return Call("GET", f"{job_path(job_id)}/events", headers=headers)


def result_call(job_id: str, start: int) -> Call:
    """The result from byte `start` on, never compressed, because the offset counts bytes of the file."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    return Call("GET", f"{job_path(job_id)}/result", headers=headers)


def retry_call(job_id: str, idempotency_key: str | None) -> Call:
    key = idempotency_key or f"retalking-client-{uuid.uuid4()}"
    return Call("POST", f"{job_path(job_id)}/retry", headers={"Idempotency-Key": key})


def cancel_call(job_id: str) -> Call:
    return Call("POST", f"{job_path(job_id)}/cancel")


def delete_call(job_id: str) -> Call:
    return Call("DELETE", job_path(job_id), deletes=True)


def redeliver_call(job_id: str) -> Call:
    """Not retried once it may have arrived: every call redelivers the events."""
    return Call("POST", f"{job_path(job_id)}/webhook/redeliver", is_repeatable=False)


def undelivered_call(state: str) -> Call:
    return Call("GET", f"{API}/webhooks/deliveries", params={"state": state})


def redeliver_event_call(delivery_id: str) -> Call:
    """Not retried once it may have arrived: every call redelivers the event."""
    path = f"{API}/webhooks/deliveries/{quote(delivery_id, safe='')}/redeliver"
    return Call("POST", path, is_repeatable=False)


def webhook_secret_call() -> Call:
    return Call("GET", f"{API}/webhooks/secret")


def rotate_webhook_secret_call(overlap_s: int) -> Call:
    """Not retried once it may have arrived: every call makes another secret."""
    params = {"overlap_s": str(overlap_s)}
    return Call("POST", f"{API}/webhooks/secret/rotate", params=params, is_repeatable=False)


def keys_call(account: str | None) -> Call:
    return Call("GET", f"{API}/keys", params=_given({"account": account}))


def create_key_call(name: str, fields: Mapping[str, Any]) -> Call:
    """Not retried once it may have arrived: every call makes another key."""
    return Call("POST", f"{API}/keys", json={"name": name} | _given(fields), is_repeatable=False)


def rotate_key_call(key_id: str, overlap_s: int) -> Call:
    """Not retried once it may have arrived: every call makes another key."""
    path = f"{API}/keys/{quote(key_id, safe='')}/rotate"
    return Call("POST", path, params={"overlap_s": str(overlap_s)}, is_repeatable=False)


def revoke_key_call(key_id: str) -> Call:
    return Call("POST", f"{API}/keys/{quote(key_id, safe='')}/revoke")


def usage_call(months: int, account: str | None) -> Call:
    return Call("GET", f"{API}/usage", params=_given({"months": str(months), "account": account}))


def accounts_call() -> Call:
    return Call("GET", f"{API}/accounts")


def change_account_call(account_id: str, changes: AccountChanges) -> Call:
    return Call("PATCH", f"{API}/accounts/{quote(account_id, safe='')}", json=dict(changes))


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def upload_call() -> Call:
    return Call("POST", f"{API}/uploads")


def offer_call() -> Call:
    return Call("GET", f"{API}/engines")


def put_call(link: str, path: Path) -> Call:
    return Call("PUT", link, content=path)


def job_path(job_id: str) -> str:
    return f"{API}/jobs/{quote(job_id, safe='')}"


def is_link(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def existing_file(given: str | os.PathLike[str]) -> Path:
    """Raises FileNotFoundError, before anything is sent."""
    path = Path(given).expanduser()
    if not path.is_file():
        raise FileNotFoundError(2, "There is no such file", str(given))
    return path


@contextmanager
def opened_request(
    http: httpx.Client | httpx.AsyncClient, call: Call, base_url: str, own_headers: Mapping[str, str], **more: Any
) -> Iterator[httpx.Request]:
    """The request of a call, with its files open in the context: every attempt reads them from the beginning."""
    headers = dict(call.headers) | (dict(own_headers) if call.is_own else {})
    url = f"{base_url}{call.path}" if call.is_own else call.path
    with ExitStack() as opened:
        body: dict[str, Any] = {}
        if call.files:
            parts: dict[str, Any] = {"spec": (None, json.dumps(call.json), "application/json")}
            body["files"] = parts | {name: _file_part(path, opened) for name, path in call.files.items()}
        elif call.content is not None:
            file = opened.enter_context(call.content.open("rb"))
            body["content"] = _async_chunks(file) if isinstance(http, httpx.AsyncClient) else _chunks(file)
            headers["Content-Length"] = str(call.content.stat().st_size)
        elif call.json is not None:
            body["json"] = call.json
        yield http.build_request(call.method, url, params=dict(call.params) or None, headers=headers, **body, **more)


def redirected_request(
    http: httpx.Client | httpx.AsyncClient, answer: httpx.Response, own_headers: Mapping[str, str]
) -> httpx.Request:
    """The request to the target of a redirect of a GET. Only the same origin gets the API key, not a presigned link of
    an object store."""
    original = answer.request
    target = original.url.join(answer.headers["Location"])
    headers = dict(original.headers)
    headers.pop("host", None)
    if not is_same_place(original.url, target):
        for name in own_headers:
            headers.pop(name.lower(), None)
    return http.build_request("GET", target, headers=headers, extensions=original.extensions)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


async def _async_chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    for chunk in _chunks(file):
        yield chunk


def _file_part(path: Path, opened: ExitStack) -> tuple[str, Any, str]:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return path.name, opened.enter_context(path.open("rb")), kind
