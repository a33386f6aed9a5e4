"""The processes of a load measurement, and the memory of one of them while it lasts."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import httpx

from cli.stack.redis_server import EmbeddedRedis
from jobs.opening import open_store
from jobs.settings import Settings
from jobs.store import JobStore
from tests.faults.processes import ServiceProcess
from tests.services import free_port, wait_until

MB = 1_000_000


class LoadedService:
    """The processes of one measurement, on free ports and in a folder of their own."""

    def __init__(self, folder: Path, workers: int, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.redis = EmbeddedRedis(folder / "redis")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {
            "RETALKING_REDIS_URL": self.redis.url,
            "RETALKING_DATA_DIR": str(folder / "data"),
            "RETALKING_WORK_DIR": str(folder / "work"),
            "RETALKING_PUBLIC_URL": self.url,
        } | {f"RETALKING_{name}": value for name, value in settings.items()}
        named = {name.removeprefix("RETALKING_").lower(): value for name, value in environment.items()}
        self.store: JobStore = open_store(Settings(_env_file=None, **named))
        serve = ["api.server", "--port", str(self.port), "--log-level", "warning"]
        self.api = ServiceProcess(serve, environment, folder / "api.log")
        commands = [["worker.webhooks"]]
        commands += [["celery", "-A", "bench.stub_worker", "worker", "-n", f"r{n}@{self.port}"] for n in range(workers)]
        self._others = [
            ServiceProcess(command, environment, folder / f"worker-{number}.log")
            for number, command in enumerate(commands)
        ]
        wait_until(lambda: self._is_ready(workers), 120, 0.2, f"the service is ready; logs in {folder}")

    def _is_ready(self, workers: int) -> bool:
        try:
            up = httpx.get(f"{self.url}/healthz").status_code == 200
        except httpx.TransportError:
            return False
        return up and len(self.store.workers.live()) == workers

    def memory_mb(self) -> float:
        """Resident memory of the API now."""
        pages = int(Path(f"/proc/{self.api.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / MB

    def api_cpu_s(self) -> float:
        """Processor time that the API has used so far: the same on a busy machine, unlike the wall clock."""
        fields = Path(f"/proc/{self.api.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        for process in (self.api, *self._others):
            process.stop()
        self.redis.stop()


class MemoryWatch:
    """Samples the API's memory ten times a second inside a `with` block."""

    def __init__(self, service: LoadedService) -> None:
        self._service = service
        self._over = threading.Event()
        self.samples_mb = [service.memory_mb()]
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._over.wait(0.1):
            self.samples_mb.append(self._service.memory_mb())

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
