"""The whole service, made of its real parts, each of which a test can break: Redis, an S3 endpoint behind a proxy, the
API, render workers, a webhook worker with its janitor, and a webhook receiver."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import httpx

from cli.stack.redis_server import EmbeddedRedis
from jobs.models import Job
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from tests.faults.hooks import HookReceiver
from tests.faults.processes import ServiceProcess
from tests.faults.s3_proxy import S3FaultProxy
from tests.media.clips import make_video, make_wav
from tests.services import S3Endpoint, free_port, wait_until
from tests.worker.scripted_engine import remux

SECRET = "whsec_" + "ZmF1bHQtdGVzdHMtc2VjcmV0LWtleS0wMTIzNDU2Nzg5"
RENDER_APP = "tests.faults.timed_app"
# Short times, so that what takes half a minute by default takes two seconds here.
FAST = {
    "LEASE_S": "2",
    "STALL_S": "20",
    "SHUTDOWN_GRACE_S": "1",
    "WORKER_TTL_S": "3",
    "JANITOR_INTERVAL_S": "0.2",
    "RENDER_LIMIT_S": "150",
    "WORKER_MEMORY_BYTES": "1500000000",
    "MAX_ATTEMPTS": "3",
    "WEBHOOK_TIMEOUT_S": "1",
    "WEBHOOK_RETRIES_S": "0.2,0.4,0.8,1.6,2,2,2,2,2,2,2",
    "WEBHOOK_BREAKER_S": "0.3",
    "ALLOW_PRIVATE_HOSTS": "127.0.0.1",
}


class Service:
    """start() starts every process; mend() restarts what a test killed. s3: None keeps objects in a local folder."""

    def __init__(
        self,
        folder: Path,
        s3: S3Endpoint | None,
        *,
        workers: int = 2,
        render_app: str = RENDER_APP,
        redis_launcher: tuple[str, ...] = (),
        worker_prefix: tuple[str, ...] = (),
        **settings: str,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.redis = EmbeddedRedis(folder / "redis", launcher=redis_launcher)
        self.s3 = s3
        self.proxy = S3FaultProxy(s3.endpoint) if s3 else None
        self.hooks = HookReceiver(SECRET)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.work_dir = folder / "work"
        self.environment = self._environment(settings)
        # Checks read the bucket directly, not through the proxy
        direct = self.environment | ({"RETALKING_S3_ENDPOINT": s3.endpoint} if s3 else {})
        self.settings = _settings_of(direct)
        self.store, self.objects = open_store(self.settings), open_objects(self.settings)
        self.client = httpx.Client(base_url=self.url, timeout=90, follow_redirects=True)
        self._render_app = render_app
        self._worker_prefix = worker_prefix
        self.api: ServiceProcess | None = None
        self.webhooks: ServiceProcess | None = None
        self.workers: list[ServiceProcess | None] = [None] * workers
        self.video = make_video(folder / "face.mp4", frames=25)
        self.audio = make_wav(folder / "speech.wav")
        remux(self.video, self.audio, folder / "expected.mp4")
        self.expected_sha256 = hashlib.sha256((folder / "expected.mp4").read_bytes()).hexdigest()

    def _environment(self, settings: dict[str, str]) -> dict[str, str]:
        named = {
            "REDIS_URL": self.redis.url,
            "DATA_DIR": str(self.folder / "data"),
            "WORK_DIR": str(self.work_dir),
            "PUBLIC_URL": self.url,
            "WEBHOOK_SECRET": SECRET,
        }
        table = {f"RETALKING_{name}": value for name, value in (named | FAST | settings).items()}
        return table | (self.s3.env() | {"RETALKING_S3_ENDPOINT": self.proxy.endpoint} if self.s3 else {})

    def start(self) -> Service:
        self.mend()
        return self

    def mend(self, timeout_s: float = 90.0) -> None:
        """Restart what is dead, and wait until every process is ready."""
        self.redis.revive()
        if self.api is None or not self.api.is_alive:
            self.start_api()
        if self.webhooks is None or not self.webhooks.is_alive:
            log = self.folder / "webhooks.log"
            self.webhooks = ServiceProcess(["worker.webhooks"], self.environment, log)
        for number, worker in enumerate(self.workers):
            if worker is None or not worker.is_alive:
                self.start_worker(number)
        wait_until(self._is_ready, timeout_s, 0.1, f"the service is ready; logs in {self.folder}")

    def start_api(self, entry: str = "api.server", **changes: str) -> ServiceProcess:
        arguments = [entry, "--port", str(self.port), "--log-level", "warning"]
        self.api = ServiceProcess(arguments, self.environment | changes, self.folder / "api.log")
        return self.api

    def start_worker(self, number: int) -> ServiceProcess:
        name = f"render-{number}"
        self.workers[number] = self._celery(self._render_app, name, self._worker_prefix)
        return self.workers[number]

    def _celery(self, app: str, name: str, prefix: tuple[str, ...] = ()) -> ServiceProcess:
        arguments = ["celery", "-A", app, "worker", "-n", f"{name}@{self.port}"]
        return ServiceProcess(arguments, self.environment, self.folder / f"{name}.log", prefix)

    def _is_ready(self) -> bool:
        for process in (self.api, self.webhooks, *self.workers):
            assert process is not None
            assert process.is_alive, process.log.read_text()[-3000:]
        try:
            up = self.client.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False
        alive = {child for worker in self.workers if worker for child in worker.children}
        signed_on = {pid_of(card.id) for card in self.store.workers.live()}
        return up and len(alive & signed_on) == len(self.workers)

    def stop(self) -> None:
        processes = [process for process in (self.api, self.webhooks, *self.workers) if process is not None]
        for process in processes:
            if process.is_alive:
                process.signal(signal.SIGTERM)
        for process in processes:
            process.stop()
        self.client.close()
        self.hooks.stop()
        if self.proxy:
            self.proxy.close()
        self.redis.stop()

    def post(self, *, key: str | None = None, **fields: Any) -> httpx.Response:
        """A submission with the service's own clips; nested fields as JSON."""
        data = {"evaluate": "[]", "webhook_url": self.hooks.url} | {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()
        }
        files = {
            "video": ("face.mp4", self.video.read_bytes(), "video/mp4"),
            "audio": ("speech.wav", self.audio.read_bytes(), "audio/wav"),
        }
        headers = {"Idempotency-Key": key} if key else {}
        return self.client.post("/jobs", files=files, data=data, headers=headers)

    def submit(self, work_ms: int = 0, **fields: Any) -> str:
        answer = self.post(seed=work_ms, **fields)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def submit_many(self, *works_ms: int) -> list[str]:
        return [self.submit(work_ms) for work_ms in works_ms]

    def get(self, job_id: str) -> Job:
        return self.store.jobs.get(job_id)

    def wait_running(self, job_id: str, stage: str = "synthesize", timeout_s: float = 30.0) -> Job:
        wait_until(lambda: self.get(job_id).stage == stage, timeout_s, 0.01, f"{job_id} in stage {stage}")
        return self.get(job_id)

    def child_of(self, job: Job) -> int:
        """Process id of the render child that holds the job."""
        return pid_of(str(job.worker))

    def parent_of(self, child: int) -> int:
        """Index of the worker whose child it is."""
        return next(number for number, worker in enumerate(self.workers) if worker and child in worker.children)


def pid_of(worker_id: str) -> int:
    """From `host-pid-random`."""
    return int(worker_id.rsplit("-", 2)[1])


def _settings_of(environment: dict[str, str]) -> Settings:
    names = {name.removeprefix("RETALKING_").lower(): value for name, value in environment.items()}
    return Settings(_env_file=None, **names)
