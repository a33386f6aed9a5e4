"""Well-behaved callers: they submit with idempotency keys, try again, follow, cancel, delete, and compare results."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx

from bench.soak_hosts import FileHost
from bench.soak_ledger import Accepted, Ledger, outcome_of
from bench.soak_service import SoakedService, bearer

# Everybody's patience with a service whose parts are killed.
SUBMIT_LIMIT_S = 45.0
JOB_LIMIT_S = 180.0
POLL_S = 0.7
MAX_WORK_MS = 300
PASSING = frozenset({429, 503})


class Caller:
    """One client with one key: `count` jobs, each begun `pace_s` after the last or later."""

    def __init__(
        self, service: SoakedService, host: FileHost, ledger: Ledger, key: str, count: int, pace_s: float, seed: int
    ) -> None:
        self._service, self._host, self._ledger = service, host, ledger
        self._count, self._pace_s, self._chance = count, pace_s, random.Random(seed)
        self._api = httpx.Client(base_url=service.url, headers=bearer(key), timeout=60, follow_redirects=True)
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
        self._ledger.accept(accepted)
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
        way = self._chance.choices((self._send_form, self._send_uploads, self._send_addresses), (60, 20, 20))[0]
        fields: dict[str, Any] = {
            "evaluate": [],
            "seed": self._chance.randrange(MAX_WORK_MS),
            "webhook_url": self._service.hooks.url,
            "priority": self._chance.randrange(2),
            "metadata": {"note": "soak", "number": self._chance.randrange(1000)},
        }
        headers = {"Idempotency-Key": uuid.UUID(int=self._chance.getrandbits(128)).hex}
        answer = way(fields, headers)
        if answer is None:
            return None
        job_id = str(answer.json()["id"])
        if way == self._send_form and self._chance.random() < 0.1:
            again = way(fields, headers)
            if again is not None and again.json()["id"] != job_id:
                self._ledger.violate("one idempotency key made two jobs", job_id)
        return job_id

    def _send_form(self, fields: dict[str, Any], headers: dict[str, str]) -> httpx.Response | None:
        data = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
        files = {"video": ("face.mp4", self._files["video"]), "audio": ("speech.wav", self._files["audio"])}
        return self._insist("submit", {202}, lambda: self._api.post("/jobs", data=data, files=files, headers=headers))

    def _send_uploads(self, fields: dict[str, Any], headers: dict[str, str]) -> httpx.Response | None:
        named = {}
        for slot, content in self._files.items():
            link = self._insist("ask for an upload", {201}, lambda: self._api.post("/uploads"))
            if link is None:
                return None
            url = link.json()["url"]
            if self._insist("put an upload", {200, 204}, lambda u=url, c=content: httpx.put(u, content=c)) is None:
                return None
            named[f"{slot}_upload_id"] = link.json()["id"]
        return self._insist("submit", {202}, lambda: self._api.post("/jobs", json=fields | named, headers=headers))

    def _send_addresses(self, fields: dict[str, Any], headers: dict[str, str]) -> httpx.Response | None:
        named = {"video_url": f"{self._host.url}/face.mp4", "audio_url": f"{self._host.url}/speech.wav"}
        return self._insist("submit", {202}, lambda: self._api.post("/jobs", json=fields | named, headers=headers))

    def _insist(self, what: str, wanted: set[int], send: Callable[[], httpx.Response]) -> httpx.Response | None:
        """Until it is answered as wanted. What else may come while parts are killed is noted, and judged at the end."""
        deadline = time.monotonic() + SUBMIT_LIMIT_S
        while True:
            began = time.monotonic()
            try:
                answer = send()
            except httpx.TransportError as fault:
                self._ledger.fail(f"{what}: {type(fault).__name__}", began)
            else:
                if answer.status_code in wanted:
                    return answer
                self._ledger.fail(f"{what}: {outcome_of(answer)}", began)
                if answer.status_code not in PASSING and answer.status_code < 500:
                    self._ledger.violate(f"a well-behaved caller could not {what}", outcome_of(answer))
                    return None
            if time.monotonic() > deadline:
                self._ledger.violate(f"a well-behaved caller could not {what} within {SUBMIT_LIMIT_S:.0f} s")
                return None
            time.sleep(self._chance.uniform(0.3, 1.2))

    def _call(self, path: str, what: str, wanted: set[int], method: str = "GET") -> httpx.Response | None:
        return self._insist(what, wanted, lambda: self._api.request(method, path))

    def _listen(self, job_id: str) -> None:
        """The event stream as far as it goes; polling decides what came of the job."""
        began = time.monotonic()
        try:
            with self._api.stream("GET", f"/jobs/{job_id}/events", timeout=20) as stream:
                if stream.status_code != 200:
                    self._ledger.fail(f"listen: {stream.status_code}", began)
                    return
                for _line in stream.iter_lines():
                    if time.monotonic() > began + 30:
                        return
        except httpx.TransportError as fault:
            self._ledger.fail(f"listen: {type(fault).__name__}", began)

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
        answer = self._call(f"/jobs/{job_id}/result", "download", {200})
        if answer is not None and hashlib.sha256(answer.content).hexdigest() != self._service.expected_sha256:
            self._ledger.violate("a result was not whole and right when its job succeeded", job_id)
