"""The API as its users meet it: uvicorn in a process of its own, on a free port, over real Redis and real objects."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.paths import VERSION, is_versioned
from jobs.models import (
    ErrorInfo,
    Job,
    MetricResult,
    RenderInfo,
    RenderNote,
    ResultInfo,
    SegmentInfo,
    SegmentValue,
    WorkerInfo,
)
from jobs.names import portrait_key, result_key
from jobs.objects import ObjectStore
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from jobs.store import JobStore
from retalking_core.vocabulary.engines import EngineInfo
from retalking_core.vocabulary.video_analysis import AnalyzedPerson, TimeRange, VideoAnalysis
from tests.services import free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
PROBLEM = "application/problem+json"

PREVIEW = EngineInfo(
    name="preview",
    version="1",
    device="cpu",
    description="for tests",
    unsupported_options={"upper_face": [], "expression": ["smile", "image"], "output.crf": ["51"]},
    draws_lines=True,
)
NEURAL = EngineInfo(
    name="videoretalking",
    version="1",
    device="cuda:0",
    description="for tests",
    unsupported_options={},
    draws_lines=True,
)

_WHOLE = TimeRange(start_s=0, end_s=0.4)
ANALYSIS = VideoAnalysis(
    duration_s=0.4,
    width=64,
    height=48,
    fps=25,
    frames=10,
    step_s=0.2,
    shots=[_WHOLE],
    people=[
        AnalyzedPerson(
            track="person_1",
            seen=[_WHOLE],
            visibility=1,
            speaking_s=0.1,
            face_px=30,
            best_s=0.2,
            boxes=[(1, 2, 3, 4), None],
            speaking=[0.5, None],
        )
    ],
    voice=[1, 0],
    notes=[],
)


def _metric(segments: int) -> MetricResult:
    """Of the segments of a job the first one has a value."""
    values = [SegmentValue(value=0.5), *[SegmentValue(value=None, reason="No face.")] * (segments - 1)][:segments]
    return MetricResult(name="sync_offset_frames", value=0.5, unit="frames", better="lower", segments=values)


@dataclass(frozen=True)
class RunningApi:
    """store and objects look at the same data as the process does."""

    url: str
    client: httpx.Client
    settings: Settings
    store: JobStore
    objects: ObjectStore
    process: subprocess.Popen[bytes]
    log: Path
    base: str = ""  # `/v1`: the client calls versioned paths

    def submit(self, **fields: str) -> httpx.Response:
        return self.client.post("/jobs", files=input_files(), data=fields)

    def new_job(self, **fields: str) -> str:
        answer = self.submit(**fields)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def input_keys(self) -> set[str]:
        return set(self.objects.list_keys("jobs/"))

    def finish(
        self, job_id: str, content: bytes = b"0123456789" * 1000, evaluation_lease_s: float | None = None
    ) -> Job:
        """What a worker does with a job, less the render."""
        lease = self.store.jobs.claim(job_id, "worker-of-the-test", 30)
        assert lease is not None
        self.store.jobs.report(lease, stage="synthesize", progress=0.5, lease_s=30)
        key = result_key(job_id, lease.fence, "mp4")
        asked = self.store.jobs.get(job_id).spec.segments
        drawn = [SegmentInfo(start_s=each.start_s, end_s=each.start_s + 1, face_coverage=1.0) for each in asked]
        with self.objects.writer(key, "video/mp4") as writer:
            writer.write(content)
            writer.commit()
        return self.store.jobs.succeed(
            lease,
            result=result_info(key, len(content)),
            render=render_info().model_copy(update={"segments": drawn}),
            evaluation=None if evaluation_lease_s else [_metric(len(drawn))],
            retention_s=3600,
            evaluation_lease_s=evaluation_lease_s,
        )

    def finish_analysis(self, job_id: str, portrait: bytes = b"a picture") -> Job:
        """What a worker does with an analysis, less the search. portrait: of its only person."""
        lease = self.store.jobs.claim(job_id, "worker-of-the-test", 30)
        assert lease is not None
        key = result_key(job_id, lease.fence, "json")
        document = ANALYSIS.model_dump_json().encode()
        for name, content, content_type in (
            (portrait_key(key, "person_1"), portrait, "image/jpeg"),
            (key, document, "application/json"),
        ):
            with self.objects.writer(name, content_type) as writer:
                writer.write(content)
                writer.commit()
        facts = ANALYSIS.model_dump(include={"duration_s", "width", "height", "fps", "frames"})
        digest = hashlib.sha256(document).hexdigest()
        result = ResultInfo(key=key, content_type="application/json", size_bytes=len(document), sha256=digest, **facts)
        return self.store.jobs.succeed(lease, result=result, render=None, evaluation=[], retention_s=3600)

    def fail(self, job_id: str) -> Job:
        lease = self.store.jobs.claim(job_id, "worker-of-the-test", 30)
        assert lease is not None
        return self.store.jobs.fail(lease, ErrorInfo(code="face_not_found", message="No face."), retention_s=3600)

    @contextmanager
    def live_worker(self, *engines: EngineInfo, metrics: tuple[str, ...] = ("face_coverage",)) -> Iterator[None]:
        """A worker in the registry, as the worker process reports itself."""
        worker = WorkerInfo(
            id="worker-of-the-test",
            engines=list(engines),
            metrics=list(metrics),
            versions={"retalking": "0"},
            started_at=datetime.now(UTC),
        )
        self.store.workers.report(worker, 86400)  # longer than any test: nothing reports it again
        try:
            yield
        finally:
            self.store.workers.forget(worker.id)


class VersionedTransport(httpx.HTTPTransport):
    """Sends what a test asks of `/jobs` to `/v1/jobs`."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if is_versioned(request.url.path):
            request.url = request.url.copy_with(raw_path=VERSION.encode() + request.url.raw_path)
        return super().handle_request(request)


@pytest.fixture(name="api", scope="module", params=["", VERSION], ids=["promised", "v1"])
def api_in_both_forms(api: RunningApi, request: pytest.FixtureRequest) -> Iterator[RunningApi]:
    """The same process, called by both forms of its paths."""
    transport = VersionedTransport() if request.param else None
    with httpx.Client(base_url=api.url, timeout=60, transport=transport) as client:
        yield replace(api, client=client, base=request.param)


@contextmanager
def run_api(
    folder: Path,
    redis_url: str,
    prefix: tuple[str, ...] = (),
    *,
    module: str = "api.server",
    **env: str,
) -> Iterator[RunningApi]:
    """prefix: of the command. module: what the process runs. env: settings by name, without the prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    named = {
        "REDIS_URL": redis_url,
        "DATA_DIR": str(folder / "data"),
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        **env,
    }
    settings = Settings(_env_file=None, **{name.lower(): value for name, value in named.items()})
    variables = os.environ | {f"RETALKING_{name}": value for name, value in named.items()}
    log = folder / "api.log"
    command = [*prefix, sys.executable, "-m", module, "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until(lambda: answers(client, process, log), 60, 0.1, "the API answers")
            yield RunningApi(
                str(client.base_url), client, settings, open_store(settings), open_objects(settings), process, log
            )
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def check_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Every refusal has this form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    body = answer.json()
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["type"] == f"/errors#{code}"
    assert body["title"]
    assert body["detail"]
    assert body["advice"]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    assert str(ROOT) not in answer.text
    return body


def input_files(video: bytes | None = None, audio: bytes | None = None) -> dict[str, tuple[str, bytes, str]]:
    return {
        "video": ("face.mp4", MP4 if video is None else video, "video/mp4"),
        "audio": ("speech.wav", WAV if audio is None else audio, "audio/wav"),
    }


def result_info(key: str, size_bytes: int) -> ResultInfo:
    return ResultInfo(
        key=key,
        content_type="video/mp4",
        size_bytes=size_bytes,
        sha256="ab" * 32,
        duration_s=1.0,
        width=64,
        height=64,
        fps=25.0,
        frames=25,
    )


def render_info() -> RenderInfo:
    return RenderInfo(
        engine="preview",
        engine_version="1",
        device="cpu",
        face_coverage=1.0,
        faceless_ranges_s=[],
        stage_times_s={"analyze": 0.1},
        notes=[RenderNote(code="mouth_interior_painted", sentence="Painted.", ranges_s=[(0.5, 1.0)])],
    )


# The API looks at first bytes only, so a box and some content make a file here; the worker's tests use real ones.
MP4 = b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + b"\0\0\0\x08free" + bytes(range(256)) * 40
WAV = b"RIFF\x24\x08\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80>\0\0\0}\0\0\2\0\x10\0data\0\x08\0\0" + bytes(2048)
PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0:~\x9bU" + bytes(64)
