"""The HTTP API as a caller sees it: what `submit` and `demo` speak. Bodies stay plain JSON, as any client gets them."""

from __future__ import annotations

import hashlib
import json
import mimetypes
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx
from httpx_sse import ServerSentEvent, SSEError, connect_sse

from cli.failures import EXIT_UNAVAILABLE, CommandError

Body = dict[str, Any]

TERMINAL_EVENTS = frozenset({"job.succeeded", "job.failed", "job.canceled"})
_RECONNECTS = 5
_RECONNECT_PAUSE_S = 1.0
_SSE_SILENCE_S = 90.0
"""The server comments every few seconds; longer silence is a dead connection."""


class ServiceClient:
    """base_url: where the service is. direct: talk to it without any proxy of the environment (our own loopback).
    api_key: sent with every call, where the service wants one."""

    def __init__(self, base_url: str, direct: bool = False, api_key: str = "") -> None:
        self.base_url = base_url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.base_url,
            timeout=httpx.Timeout(60.0, connect=10.0, write=300.0),
            trust_env=not direct,
            follow_redirects=False,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(self, files: Mapping[str, Path], spec: Body, idempotency_key: str | None = None) -> Body:
        """POST /jobs. files: `video` and `audio`, as far as the spec does not name their addresses; streamed."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        if not files:
            return self._call("POST", "/jobs", json=spec, headers=headers)
        with ExitStack() as opened:
            parts: dict[str, Any] = {"spec": (None, json.dumps(spec), "application/json")}
            parts |= {name: _file_part(path, opened) for name, path in files.items()}
            return self._call("POST", "/jobs", files=parts, headers=headers)

    def job(self, job_id: str) -> Body:
        return self._call("GET", f"/jobs/{job_id}")

    def evaluation(self, job_id: str) -> Body:
        return self._call("GET", f"/jobs/{job_id}/evaluation")

    def follow(self, job_id: str) -> Iterator[Body]:
        """Every event of the job up to the one that ends it. A broken connection is taken up where it broke off."""
        last_id, failures = "", 0
        while True:
            try:
                for message in self._events(job_id, last_id):
                    last_id, failures = message.id or last_id, 0
                    if message.event.startswith("job."):
                        yield message.json()
                    if message.event in TERMINAL_EVENTS:
                        return
            except (httpx.TransportError, SSEError) as error:
                if failures >= _RECONNECTS:
                    raise _unreachable(self.base_url, error) from error
            failures += 1
            if failures > _RECONNECTS:
                raise CommandError("events_lost", f"The event stream of {job_id} keeps ending early.", EXIT_UNAVAILABLE)
            time.sleep(_RECONNECT_PAUSE_S)

    def download(self, job: Body, target: Path) -> None:
        """The result of a succeeded job, checked against its SHA-256; `target` appears whole or not at all."""
        digest = hashlib.sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with (
                os.fdopen(handle, "wb") as out,
                self._http.stream("GET", f"/jobs/{job['id']}/result", follow_redirects=True) as answer,
            ):
                _raise_for(answer)
                for chunk in answer.iter_bytes(1 << 18):
                    digest.update(chunk)
                    out.write(chunk)
            if digest.hexdigest() != job["result"]["sha256"]:
                raise CommandError("download_damaged", "The result arrived damaged: download it again.")
            os.chmod(name, 0o644)
            os.replace(name, target)
        except httpx.TransportError as error:
            raise _unreachable(self.base_url, error) from error
        finally:
            Path(name).unlink(missing_ok=True)

    def _events(self, job_id: str, last_id: str) -> Iterator[ServerSentEvent]:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        timeout = httpx.Timeout(10.0, read=_SSE_SILENCE_S)
        with connect_sse(self._http, "GET", f"/jobs/{job_id}/events", headers=headers, timeout=timeout) as stream:
            _raise_for(stream.response)
            yield from stream.iter_sse()

    def _call(self, method: str, address: str, **request: Any) -> Any:
        try:
            answer = self._http.request(method, address, **request)
        except httpx.InvalidURL as error:
            raise CommandError("invalid_url", f"{self.base_url} is not an address: {error}") from error
        except (httpx.TransportError, httpx.UnsupportedProtocol) as error:
            raise _unreachable(self.base_url, error) from error
        _raise_for(answer)
        return answer.json() if answer.content else None


def _raise_for(answer: httpx.Response) -> None:
    """A refusal becomes a CommandError with the service's own code and words."""
    if answer.is_success:
        return
    answer.read()
    try:
        problem = answer.json()
        code, message = problem["code"], problem.get("detail") or problem["title"]
    except (ValueError, KeyError, TypeError):
        code, message = f"http_{answer.status_code}", f"{answer.request.url} answered {answer.status_code}."
    raise CommandError(str(code), str(message))


def _unreachable(base_url: str, error: Exception) -> CommandError:
    return CommandError(
        "service_unreachable",
        f"{base_url} does not answer ({error}): is it running? `retalking up` starts one.",
        EXIT_UNAVAILABLE,
    )


def _file_part(path: Path, opened: ExitStack) -> tuple[str, Any, str]:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return path.name, opened.enter_context(path.open("rb")), kind
