"""Starts the compose file's services in order, runs one real job through them over HTTP, and looks around inside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from cli.demo_input import write_portrait
from cli.demo_speech import write_demo_speech
from deploy.trial.building import Builder, Image
from deploy.trial.compose import Service, read_services
from deploy.trial.container import Container, Places
from deploy.trial.hook import Receiver
from deploy.trial.network import leave_network
from deploy.trial.stand_ins import stand_in_for

API = "http://127.0.0.1:8000"
_START_LIMIT_S = 120.0
_JOB_LIMIT_S = 300.0
# uvicorn and rclone close everything and then end by the signal that they were sent.
_GOOD_ENDS = (0, -signal.SIGTERM, 128 + signal.SIGTERM)
_NEURAL = """
import torch, torchvision, spandrel, facexlib, face_alignment
import retalking_core.engines.videoretalking.engine
print("torch", torch.__version__, "and torchvision", torchvision.__version__, "load,",
      "with CUDA" if torch.cuda.is_available() else "without a GPU here")
"""


class TrialError(Exception):
    """Something is not as the compose file and the pages promise."""


class Rehearsal:
    """Every service of the compose file, as containers. Leaving it stops what still runs."""

    def __init__(
        self, compose: Path, variables: dict[str, str], images: dict[str, Image], builder: Builder, work: Path
    ) -> None:
        self._services = read_services(compose, variables)
        self._variables = variables
        self._images = images
        self._builder = builder
        self._containers: dict[str, Container] = {}
        self._places = Places(work / "runs", work / "volumes", work / "hosts")

    def __enter__(self) -> Self:
        for folder in (self._places.runs, self._places.volumes):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        names = " ".join(["localhost", *self._services])
        self._places.hosts.write_text(f"127.0.0.1 {names}\n", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for container in self._containers.values():
            container.kill()

    def run(self) -> None:
        """From the first process to the last. Raises TrialError."""
        print("\nServices")
        self._containers = {name: self._make(service) for name, service in self._services.items()}
        leave_network()
        for name in self._order():
            self._start(self._containers[name])
        self._wait_ready()
        self._run_job()
        for container in self._running():
            self._look_inside(container)
        self._load_networks()
        self._stop_all()

    def _make(self, service: Service) -> Container:
        if service.dockerfile is not None:
            return Container(service, self._images[service.dockerfile], self._places)
        stand_in = stand_in_for(service, self._builder)
        print(f"  {service.name}: {service.image} can not be pulled here; {stand_in.what}", flush=True)
        return Container(stand_in.service, stand_in.image, self._places)

    def _order(self) -> list[str]:
        """Dependencies before those who depend."""
        placed: list[str] = []
        waiting = dict(self._services)
        while waiting:
            free = [name for name, service in waiting.items() if set(service.depends_on) <= set(placed)]
            if not free:
                raise TrialError(f"these services depend on each other: {', '.join(waiting)}")
            placed += free
            waiting = {name: service for name, service in waiting.items() if name not in free}
        return placed

    def _start(self, container: Container) -> None:
        started = time.monotonic()
        container.start()
        if container.service.health_test:
            self._until(container.is_healthy, container, "not healthy")
            said = "healthy"
        else:
            if code := container.wait(_START_LIMIT_S):
                raise TrialError(f"{container.service.name} ended with {code}\n{container.log_tail()}")
            said = "done"
        print(f"  {time.monotonic() - started:6.1f} s  {container.service.name}: {said}", flush=True)

    def _until(self, condition: Callable[[], object], container: Container, what: str) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        while not condition():
            if container.exit_code() is not None or time.monotonic() > deadline:
                raise TrialError(f"{container.service.name}: {what}\n{container.log_tail()}")
            time.sleep(0.5)

    def _wait_ready(self) -> None:
        self._until(_is_ready, self._containers["api"], f"{API}/readyz does not say ready")

    def _run_job(self) -> None:
        """As a user does: the command line of another process, and a webhook."""
        with tempfile.TemporaryDirectory() as name, Receiver(self._variables["RETALKING_WEBHOOK_SECRET"]) as receiver:
            folder = Path(name)
            face, speech, result = write_portrait(folder), folder / "speech.wav", folder / "result.mp4"
            write_demo_speech(speech)
            key = self._make_key()
            started = time.monotonic()
            words = ["submit", str(face), str(speech), "-o", str(result), "--webhook-url", receiver.url, "--json"]
            done = subprocess.run(
                [sys.executable, "-m", "cli.main", *words, "--url", API],
                env=os.environ | {"NO_COLOR": "1", "RETALKING_API_KEY": key},
                capture_output=True,
                text=True,
                timeout=_JOB_LIMIT_S,
                check=False,
            )
            if done.returncode:
                logs = "".join(container.log_tail() for container in self._running())
                raise TrialError(f"the job ended with {done.returncode}\n{done.stdout}{done.stderr}\n{logs}")
            job = json.loads(done.stdout)
            print(
                f"\nJob\n  {time.monotonic() - started:6.1f} s  {job['status']} by {job['engine']} on {job['device']}, "
                f"{result.stat().st_size} bytes over a presigned link"
            )
            self._until(lambda: receiver.events, self._containers["webhook-worker"], "no signed webhook arrived")
            if receiver.events[0]["data"]["id"] != job["id"]:
                raise TrialError("the webhook tells of another job")
            print(f"  signed webhook: {receiver.events[0]['type']}", flush=True)

    def _make_key(self) -> str:
        """As README.md says, after a look that nobody comes in without one."""
        try:
            urllib.request.urlopen(f"{API}/jobs", timeout=10).close()
        except urllib.error.HTTPError as refusal:
            if refusal.code != 401:
                raise TrialError(f"GET /jobs without a key: {refusal.code}") from refusal
        else:
            raise TrialError("GET /jobs is answered without a key")
        done = self._containers["api"].run(["retalking", "keys", "create", "trial"])
        if done.returncode:
            raise TrialError(f"retalking keys create ended with {done.returncode}\n{done.stderr}")
        return done.stdout.strip()

    def _running(self) -> list[Container]:
        return [container for container in self._containers.values() if container.service.health_test]

    def _look_inside(self, container: Container) -> None:
        """What a process of the container may do. The healthcheck is asked again after the job."""
        name = container.service.name
        user = container.run(["id", "-u"]).stdout.strip()
        if user in ("", "0"):
            raise TrialError(f"{name} runs as root")
        if container.run(["sh", "-c", "echo x > /usr/written || echo x > /opt/written"]).returncode == 0:
            raise TrialError(f"{name} can write to its own image")
        if container.run(["touch", "/tmp/written"]).returncode:
            raise TrialError(f"{name} can not write to /tmp")
        gains = container.run(["grep", "-E", "Cap(Eff|Bnd)|NoNewPrivs", "/proc/self/status"]).stdout.split()
        if gains[1::2] != ["0000000000000000", "0000000000000000", "1"]:
            raise TrialError(f"{name} keeps capabilities: {gains}")
        if not container.is_healthy():
            raise TrialError(f"{name} is not healthy any more\n{container.log_tail()}")
        print(f"  {name}: user {user}, root read-only, no capabilities, still healthy", flush=True)

    def _load_networks(self) -> None:
        """The preview engine needs no torch: that the neural engine's libraries load is looked at by itself."""
        done = self._containers["gpu-worker"].run(["python", "-c", _NEURAL])
        if done.returncode:
            raise TrialError(f"the libraries of the neural engine do not load\n{done.stderr[-3000:]}")
        print(f"  gpu-worker: {done.stdout.strip()}", flush=True)

    def _stop_all(self) -> None:
        print("\nSIGTERM")
        for container in (self._containers[name] for name in reversed(self._order())):
            if not container.service.health_test:
                continue
            started = time.monotonic()
            code = container.stop()
            print(f"  {time.monotonic() - started:6.1f} s  {container.service.name} ended with {code}", flush=True)
            if code not in _GOOD_ENDS:
                raise TrialError(f"{container.service.name} did not end well\n{container.log_tail()}")


def _is_ready() -> bool:
    try:
        with urllib.request.urlopen(f"{API}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
