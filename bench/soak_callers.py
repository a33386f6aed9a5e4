"""Well-behaved callers of a soak, and the ledger of everything that callers see.

They submit with idempotency keys, retry, follow, cancel, delete, and compare results.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from bench.soak_service import Key, SoakedService

# How long a caller retries while parts of the service are killed.
SUBMIT_LIMIT_S = 45.0
JOB_LIMIT_S = 180.0
POLL_S = 0.7
MAX_WORK_MS = 300
# Examples that are kept of one violation.
EXAMPLES = 5
# What a call that failed met; `Kill` decides which of them a killed process explains.
API_BROKEN, BUCKET_BROKEN, UNAVAILABLE = "connection to the API broken", "bucket broken", "503"


@dataclass
class Accepted:
    """A job that was answered with 202. ends: how it may end, as `succeeded`, `canceled` or `failed <code>`.

    is_hostile: it uses a hostile receiver or hostile media. is_deleted: its caller deleted it after its end.
    """

    job_id: str
    what: str
    ends: frozenset[str]
    is_hostile: bool = False
    is_deleted: bool = False


@dataclass(frozen=True)
class Failure:
    """A call that failed. cause: one of those above, or the outcome where no killed process explains it. ended: by
    time.monotonic()."""

    what: str
    cause: str
    ended: float


@dataclass(frozen=True)
class Refusal:
    """`429 quota_exceeded`. began, ended: by time.time()."""

    what: str
    key: Key
    began: float
    ended: float


@dataclass
class Ledger:
    """Accepted jobs, answers to hostile callers, failed calls, violations. Written by many threads."""

    accepted: list[Accepted] = field(default_factory=list)
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    violations: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    submit_s: list[float] = field(default_factory=list)
    done_s: list[float] = field(default_factory=list)
    uploads: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, ingredient: str, outcome: str) -> None:
        with self._lock:
            self.answers.setdefault(ingredient, Counter())[outcome] += 1

    def fail(self, what: str, cause: str) -> None:
        with self._lock:
            self.failures.append(Failure(what, cause, time.monotonic()))

    def violate(self, kind: str, example: str = "") -> None:
        with self._lock:
            self.violations[kind] += 1
            examples = self.examples.setdefault(kind, [])
            if len(examples) < EXAMPLES:
                examples.append(example[:500])

    def report(self) -> list[dict[str, Any]]:
        """Violations, the most frequent first."""
        rows = self.violations.most_common()
        return [{"violation": kind, "times": times, "examples": self.examples[kind]} for kind, times in rows]


def outcome_of(answer: httpx.Response) -> str:
    """`202`, or the status with the public code: `422 invalid_option`. An error without a code shows as `500 -`."""
    if answer.status_code < 400:
        return str(answer.status_code)
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    code = problem.get("code") if isinstance(problem, Mapping) else None
    return f"{answer.status_code} {code or '-'}"


def cause_of(service: SoakedService, met: httpx.Response | Exception, *, is_link: bool = False) -> str:
    """Why a call failed. is_link: it went to an upload link, which with S3 leads to the bucket. A timeout or an error
    that is not `503 service_unavailable` of the API is no cause that a kill explains."""
    is_bucket = is_link and service.rclone is not None
    if isinstance(met, httpx.Response):
        if is_bucket and met.status_code >= 500:
            return BUCKET_BROKEN
        outcome = outcome_of(met)
        return UNAVAILABLE if outcome == "503 service_unavailable" else outcome
    if isinstance(met, httpx.TimeoutException | TimeoutError):
        return type(met).__name__
    return BUCKET_BROKEN if is_bucket else API_BROKEN


class FileHost:
    """Serves the clips to jobs that name an address."""

    def __init__(self, files: dict[str, Path]) -> None:
        contents = {f"/{name}": path.read_bytes() for name, path in files.items()}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = contents.get(self.path, b"")
                self.send_response(200 if content else 404)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Caller:
    """One client with one key: `count` jobs, each begun at least `pace_s` after the last."""

    def __init__(
        self, service: SoakedService, host: FileHost, ledger: Ledger, key: Key, count: int, pace_s: float, seed: int
    ) -> None:
        self._service, self._host, self._ledger, self._key = service, host, ledger, key
        self._count, self._pace_s, self._chance = count, pace_s, random.Random(seed)
        self._api = httpx.Client(base_url=service.url, headers=key.headers, timeout=60, follow_redirects=True)
        self._files = {"video": service.video.read_bytes(), "audio": service.audio.read_bytes()}
        self.thread = threading.Thread(target=self._run, name=f"caller-{seed}", daemon=True)

    def _run(self) -> None:
        began = time.monotonic() + self._chance.uniform(0, self._pace_s)
        for number in range(self._count):
            time.sleep(max(0.0, began + number * self._pace_s - time.monotonic()))
            try:
                self._one_job()
            except Exception as fault:  # a caller must never end early: its jobs would be missing from the count
                self._ledger.violate(f"a caller broke off with {type(fault).__name__}", repr(fault))
        self._api.close()

    def _one_job(self) -> None:
        began = time.monotonic()
        plan = self._chance.choices(("follow", "cancel", "delete"), (80, 12, 8))[0]
        job_id = self._submit()
        if job_id is None:
            return
        self._ledger.submit_s.append(time.monotonic() - began)
        ends = {"succeeded", "canceled"} if plan == "cancel" else {"succeeded"}
        accepted = Accepted(job_id, "well-behaved", frozenset(ends))
        self._ledger.accepted.append(accepted)
        if plan == "cancel":
            time.sleep(self._chance.uniform(0, 1.5))
            self._call(f"/jobs/{job_id}/cancel", "cancel", {202}, method="POST")
        elif self._chance.random() < 0.15:
            self._listen(job_id)
        status = self._wait(job_id)
        self._ledger.done_s.append(time.monotonic() - began)
        if status == "succeeded":
            self._compare(job_id)
        if plan == "delete" and status is not None:
            accepted.is_deleted = True
            self._call(f"/jobs/{job_id}", "delete", {204, 404}, method="DELETE")

    def _submit(self) -> str | None:
        send = self._chance.choices((self._send_form, self._send_uploads, self._send_addresses), (60, 20, 20))[0]
        fields: dict[str, Any] = {
            "evaluate": [],
            "seed": self._chance.randrange(MAX_WORK_MS),
            "webhook_url": self._service.hooks.url_of(self._key.id),
            "metadata": {"note": "soak", "number": self._chance.randrange(1000)},
        }
        headers = {"Idempotency-Key": uuid.UUID(int=self._chance.getrandbits(128)).hex}
        answer = send(fields, headers)
        if answer is None:
            return None
        job_id = str(answer.json()["id"])
        if send == self._send_form and self._chance.random() < 0.1:
            again = send(fields, headers)
            if again is not None and again.json()["id"] != job_id:
                self._ledger.violate("one idempotency key made two jobs", job_id)
        return job_id

    def _send_form(self, fields: dict[str, Any], headers: dict[str, str]) -> httpx.Response | None:
        data = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
        files = {"video": ("face.mp4", self._files["video"]), "audio": ("speech.wav", self._files["audio"])}
        return self._retry("submit", {202}, lambda: self._api.post("/jobs", data=data, files=files, headers=headers))

    def _send_uploads(self, fields: dict[str, Any], headers: dict[str, str]) -> httpx.Response | None:
        named = {}
        for slot in self._files:
            upload_id = self._upload(slot)
            if upload_id is None:
                return None
            named[f"{slot}_upload_id"] = upload_id
        return self._retry("submit", {202}, lambda: self._api.post("/jobs", json=fields | named, headers=headers))

    def _upload(self, slot: str) -> str | None:
        link = self._retry("ask for an upload", {201}, lambda: self._api.post("/uploads"))
        if link is None:
            return None
        # A link of the API takes one file: where the answer to a PUT was lost, the repetition gets 409
        wanted = {200} if self._service.rclone else {200, 409}
        url, content = link.json()["url"], self._files[slot]
        if self._retry("put an upload", wanted, lambda: httpx.put(url, content=content), is_link=True) is None:
            return None
        self._ledger.uploads += 1
        return str(link.json()["id"])

    def _send_addresses(self, fields: dict[str, Any], headers: dict[str, str]) -> httpx.Response | None:
        named = {"video_url": f"{self._host.url}/face.mp4", "audio_url": f"{self._host.url}/speech.wav"}
        return self._retry("submit", {202}, lambda: self._api.post("/jobs", json=fields | named, headers=headers))

    def _retry(
        self, what: str, wanted: set[int], send: Callable[[], httpx.Response], *, is_link: bool = False
    ) -> httpx.Response | None:
        """Until the answer has a wanted status. Every other answer is noted with its cause, and judged at the end."""
        deadline = time.monotonic() + SUBMIT_LIMIT_S
        while True:
            met: httpx.Response | Exception
            try:
                met = send()
            except httpx.TransportError as fault:
                met = fault
            if isinstance(met, httpx.Response) and met.status_code in wanted:
                return met
            self._ledger.fail(what, cause := cause_of(self._service, met, is_link=is_link))
            if isinstance(met, httpx.Response) and met.status_code < 500:
                self._ledger.violate(f"a well-behaved caller could not {what}", f"{cause}: {met.text:.300}")
                return None
            if time.monotonic() > deadline:
                self._ledger.violate(f"a well-behaved caller could not {what} within {SUBMIT_LIMIT_S:.0f} s", cause)
                return None
            time.sleep(self._chance.uniform(0.3, 1.2))

    def _call(self, path: str, what: str, wanted: set[int], method: str = "GET") -> httpx.Response | None:
        return self._retry(what, wanted, lambda: self._api.request(method, path))

    def _listen(self, job_id: str) -> None:
        """Read the event stream to its end; the job's status is polled all the same."""
        began = time.monotonic()
        try:
            with self._api.stream("GET", f"/jobs/{job_id}/events", timeout=20) as stream:
                if stream.status_code != 200:
                    stream.read()
                    self._ledger.fail("listen", cause_of(self._service, stream))
                    return
                for _line in stream.iter_lines():
                    if time.monotonic() > began + 30:
                        return
        except httpx.TransportError as fault:
            self._ledger.fail("listen", cause_of(self._service, fault))

    def _wait(self, job_id: str) -> str | None:
        """How the job ended; None where it did not in time."""
        deadline = time.monotonic() + JOB_LIMIT_S
        while time.monotonic() < deadline:
            answer = self._call(f"/jobs/{job_id}", "look", {200})
            if answer is None:
                return None
            if answer.json()["status"] in ("succeeded", "failed", "canceled"):
                return str(answer.json()["status"])
            time.sleep(POLL_S)
        self._ledger.violate(f"a well-behaved job was not over after {JOB_LIMIT_S:.0f} s", job_id)
        return None

    def _compare(self, job_id: str) -> None:
        """With S3 the result comes from the bucket, by a redirect."""
        fetch = lambda: self._api.get(f"/jobs/{job_id}/result")  # noqa: E731
        answer = self._retry("download", {200}, fetch, is_link=True)
        if answer is not None and hashlib.sha256(answer.content).hexdigest() != self._service.expected_sha256:
            self._ledger.violate("the result of a succeeded job was not complete and correct", job_id)
