"""Clients made by generators from the OpenAPI document, unpatched: they submit files, poll and download."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from checks.node import install, reason_to_skip
from cli.keys import make_key
from jobs.models import JobStatus
from jobs.store import JobNotFoundError
from jobs.store.keys import Scope
from tests.api.running import MP4, WAV, RunningApi, run_api
from tests.services import own_database
from worker.delivery import signed_headers

HERE = Path(__file__).parent
TYPESCRIPT = HERE.parents[1] / "clients" / "typescript"
NODE_FOLDER = HERE.parents[1] / "checks" / "contract"
RESULT = b"0123456789" * 1000
GENERATOR, COMPILER = "@hey-api/openapi-ts/bin/run.js", "typescript/bin/tsc"
FETCH = ("--client", "@hey-api/client-fetch")


@pytest.fixture(scope="module")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    env = {"REQUIRE_KEYS": "true"}
    with run_api(tmp_path_factory.mktemp("generated"), own_database(redis_url), **env) as running:
        yield running


@pytest.fixture(scope="module")
def key(api: RunningApi) -> str:
    return make_key(api.store, "generated", frozenset({Scope.SUBMIT, Scope.READ}))


@pytest.fixture
def folder(api: RunningApi, tmp_path: Path) -> Path:
    """The document of the running service, and the inputs."""
    (tmp_path / "openapi.json").write_bytes(api.client.get("/openapi.json").content)
    (tmp_path / "face.mp4").write_bytes(MP4)
    (tmp_path / "speech.wav").write_bytes(WAV)
    return tmp_path


@contextmanager
def rendering(api: RunningApi) -> Iterator[None]:
    """Ends every job while the client polls."""
    stopping = threading.Event()

    def run() -> None:
        while not stopping.wait(0.1):
            for job in api.store.jobs.page(status=JobStatus.QUEUED, cursor=None, limit=10).jobs:
                with suppress(JobNotFoundError):
                    api.finish_analysis(job.id) if job.spec.kind == "analyze" else api.finish(job.id, RESULT)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def check(api: RunningApi, command: list[str], folder: Path, **env: str) -> None:
    """Runs a script that prints what it saw, as JSON."""
    with rendering(api):
        done = subprocess.run(
            command, cwd=folder, env=os.environ | env, capture_output=True, text=True, check=False, timeout=120
        )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["status"] == "succeeded"
    assert seen["bytes"] == len(RESULT)
    assert seen["sha256"] == hashlib.sha256(RESULT).hexdigest()
    assert seen["crf"] == 20
    assert seen["metadata"] == {"order": 7}
    assert seen["refusal"] == "invalid_request"
    assert seen["listed"] >= 1


def test_python(api: RunningApi, key: str, folder: Path) -> None:
    """openapi-python-client."""
    tool = Path(sys.executable).with_name("openapi-python-client")
    if not tool.is_file():
        pytest.skip("openapi-python-client is not installed")
    made = folder / "made"
    command = [str(tool), "generate", "--path", "openapi.json", "--output-path", str(made)]
    settings = folder / "settings.yaml"
    settings.write_text("package_name_override: generated_client\npost_hooks: []\n")
    done = subprocess.run(
        [*command, "--config", str(settings)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    warnings = [line for line in done.stdout.splitlines() if line.startswith("WARNING")]
    assert all("/result" in line or "/media/" in line for line in warnings), warnings  # it names no video types
    script = HERE / "python_caller.py"
    check(api, [sys.executable, str(script), api.url, key], folder, PYTHONPATH=str(made))


@pytest.fixture
def modules(folder: Path) -> Path:
    """The packages of checks/contract, also for what is compiled in the folder."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    install(NODE_FOLDER)
    modules = NODE_FOLDER / "node_modules"
    (folder / "node_modules").symlink_to(modules)
    return modules


def run_node(folder: Path, *command: str | Path) -> str:
    done = subprocess.run(
        ["node", *map(str, command)], cwd=folder, capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_typescript(api: RunningApi, key: str, folder: Path, modules: Path) -> None:
    """@hey-api/openapi-ts, compiled strictly."""
    (folder / "caller.ts").write_text((HERE / "typescript_caller.ts").read_text())
    options = ["--target", "es2023", "--module", "commonjs", "--moduleResolution", "node10", "--types", "node"]
    options += ["--strict", "--skipLibCheck", "--outDir", "built", "caller.ts"]
    run_node(folder, modules / GENERATOR, "--input", "openapi.json", "--output", "client", *FETCH)
    run_node(folder, modules / COMPILER, *options)
    check(api, ["node", "built/caller.js", api.url, key], folder)


def test_the_typescript_client(api: RunningApi, key: str, folder: Path, modules: Path) -> None:
    """clients/typescript: submit, segments, events, wait, download, analyze, webhook verification, refusals."""
    shutil.copytree(TYPESCRIPT / "src", folder / "src", ignore=shutil.ignore_patterns("generated"))
    for name in ("package.json", "tsconfig.json"):
        shutil.copy(TYPESCRIPT / name, folder)
    shutil.copy(HERE / "typescript_layer.ts", folder / "src" / "layer.ts")
    run_node(folder, modules / GENERATOR, "--input", "openapi.json", "--output", "src/generated", *FETCH)
    run_node(folder, modules / COMPILER)
    secret = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
    body = json.dumps({"type": "job.succeeded", "data": {"id": "job_1", "metadata": {"name": "J\u00f6rg"}}})
    headers = signed_headers([secret], "whd_1", datetime.now(UTC), body)
    (folder / "webhook.json").write_text(json.dumps({"body": body, "headers": headers, "secret": secret}))
    with rendering(api):
        seen = json.loads(run_node(folder, "dist/layer.js", api.url, key).splitlines()[-1])
    assert (seen["status"], seen["sha256"]) == ("succeeded", hashlib.sha256(RESULT).hexdigest())
    assert (seen["crf"], seen["metadata"], seen["evaluate"], seen["isReplayed"]) == (20, {"order": 7}, [], True)
    assert seen["events"] == ["job.queued", "job.started", "job.progress", "job.succeeded"]
    assert seen["batch"] == [2, True, "canceled", 2, {"order": 7}]
    assert seen["webhook"] == ["job.succeeded", "job_1"]
    assert seen["dubbed"] == {
        "segments": [["audio_1", 0.5, 3, 0], ["audio_2", 2, None, 0], ["audio_1", 4, None, 1.5]],
        "files": [["video", "face.mp4"], ["audio_1", "speech.wav"], ["audio_2", "other.wav"]],
        "mix": "over",
        "values": [0.5, None, None],
    }
    invalid = "webhook_invalid"
    assert seen["refusals"] == [
        "url_not_allowed",
        "segment_end_before_start",
        "job_not_found",
        "retry_not_possible",
        "invalid_request",
        invalid,
        invalid,
        "job_not_found",
        "result_not_ready",
        "url_not_allowed",
        "job_not_found",
        "batch_not_found",
        "webhook_not_configured",
        "delivery_not_found",
        "job_not_found",
        "job_not_found",
    ]
    assert seen["lists"] == {"batches": 1, "jobs": True, "used": 1, "lost": []}
    assert seen["uploaded"] == ["succeeded", True, "job_not_finished"]
    assert (seen["metrics"], seen["links"]) == (["sync_offset_frames"], [True, len(b"a picture")])
    assert (seen["isRotated"], seen["engines"]) == (1, 0)
    assert seen["analyzed"] == ["analyze", {"order": 8}, "person_1"]
