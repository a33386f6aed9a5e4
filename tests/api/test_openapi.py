"""The OpenAPI document: complete, and true of the running service."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from fastapi import FastAPI

from api.main import create_app
from api.openapi import build_document
from api.paths import VERSION
from api.problems import PROBLEM_TYPE
from cli.keys import make_key
from jobs.errors import ERROR_CODES
from jobs.messages import make_celery
from jobs.models import BATCH_EVENT, JobRequest, JobStatus, WebhookEvent
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from jobs.store import JobNotFoundError, LeaseLostError, WrongStateError
from jobs.store.keys import Scope, key_id_of
from tests.api.running import NEURAL, PREVIEW, ROOT, RunningApi, run_api
from tests.media.clips import make_video
from tests.services import own_database

# Found by a worker and told in the job's `error`; no request is answered with them.
JOB_ONLY = {
    "media_unreadable",
    "codec_unsupported",
    "video_stream_missing",
    "audio_stream_missing",
    "audio_empty",
    "audio_track_missing",
    "audio_invalid",
    "media_too_long",
    "picture_too_large",
    "streams_too_many",
    "face_not_found",
    "face_missing",
    "segment_offset_beyond_audio",
    "input_too_slow",
    "input_unreachable",
    "deadline_exceeded",
    "worker_lost",
    "provenance_failed",
    "render_timeout",
    "engine_fault",
    "out_of_memory",
    "disk_full",
    "canceled",
    "export_refused",
    "export_unreachable",
}
# Answered where no route, or no method of it, matched: there is no operation to document them on.
ROUTELESS = {"not_found", "method_not_allowed"}
# Said by the command line and in a worker's log; a caller hears `engine_unavailable`.
OPERATORS = {code for code in ERROR_CODES if code.startswith("weights_")} | {"kernels_unfit"}

ADDRESS = "https://93.184.215.14/face.mp4"
BATCH = {"jobs": [{"video_url": ADDRESS, "audio_url": ADDRESS}], "webhook_url": "https://93.184.215.14/hook"}


@pytest.fixture(scope="module")
def document(api: RunningApi) -> dict[str, Any]:
    return api.client.get("/openapi.json").json()


def test_probes_do_not_wait_for_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is built beside the start; a call that is checked against it waits without holding up others."""
    may_build, built_in_time = threading.Event(), []

    def build(app: FastAPI) -> dict[str, Any]:
        built_in_time.append(may_build.wait(60))
        return build_document(app)

    monkeypatch.setattr("api.openapi.build_document", build)
    settings = Settings(_env_file=None, data_dir=tmp_path)
    app = create_app(settings, open_store(settings), open_objects(settings), make_celery(settings))

    async def call() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000") as client:
            checked = asyncio.create_task(client.get("/v1/errors", params={"misspelled": "1"}))
            for _ in range(3):
                assert (await client.get("/healthz")).status_code == 200
            assert not checked.done()
            may_build.set()
            return await checked

    response = asyncio.run(call())
    assert response.json()["code"] == "invalid_request", response.text
    assert built_in_time == [True]


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_code_is_documented_and_every_documented_code_exists(document: dict[str, Any]) -> None:
    documented = set()
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            for code, example in response.get("content", {}).get(PROBLEM_TYPE, {}).get("examples", {}).items():
                assert ERROR_CODES[code].status == int(status), f"{name}: {code}"
                assert example["value"]["code"] == code
                documented.add(code)
    assert documented == set(ERROR_CODES) - JOB_ONLY - ROUTELESS - OPERATORS
    assert set(document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) == set(ERROR_CODES)


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids)) == 45
    tags = {tag["name"] for tag in document["tags"]}
    for name, operation in operations(document):
        assert operation["summary"], name
        assert set(operation["tags"]) <= tags, name
        assert "500" in operation["responses"], name
        for status, response in operation["responses"].items():
            assert response["description"], f"{name} {status}"
            assert "X-Request-Id" in response["headers"], f"{name} {status}"
            if int(status) >= 400 and not name.startswith("HEAD"):
                assert set(response["content"]) == {PROBLEM_TYPE}, f"{name} {status}"


def test_each_submission_has_one_content_type(document: dict[str, Any]) -> None:
    """Generators know one body per operation."""
    bodies = {name: [*call["requestBody"]["content"]] for name, call in operations(document) if "requestBody" in call}
    assert bodies == {
        "POST /v1/jobs": ["application/json"],
        "POST /v1/jobs/upload": ["multipart/form-data"],
        "POST /v1/videos/analyze": ["application/json"],
        "POST /v1/videos/analyze/upload": ["multipart/form-data"],
        "POST /v1/batches": ["application/json"],
        "PUT /v1/uploads/{upload_id}/content": ["application/octet-stream"],
        "PATCH /v1/accounts/{account_id}": ["application/json"],
        "POST /v1/keys": ["application/json"],
    }
    schemas = document["components"]["schemas"]
    for name in ("JobForm", "JobSubmission", "JobSpec"):
        assert set(JobRequest.model_fields) <= set(schemas[name]["properties"])
    assert {"video", "audio", "spec"} <= set(schemas["JobForm"]["properties"])


def test_paths_servers_and_security(api: RunningApi, document: dict[str, Any]) -> None:
    assert document["servers"] == [{"url": api.url.rstrip("/")}]
    bare = {path for path in document["paths"] if not path.startswith("/v1/")}
    assert bare == {"/healthz", "/readyz", "/metrics"}
    for name, operation in operations(document):
        assert "security" in operation, name
    assert document["paths"]["/v1/jobs"]["post"]["security"] == [{"ApiKey": []}, {}]
    assert document["paths"]["/v1/errors"]["get"]["security"] == []


def test_every_webhook_has_its_schema(document: dict[str, Any]) -> None:
    assert set(document["webhooks"]) == {*get_args(WebhookEvent), BATCH_EVENT}
    for event, hook in document["webhooks"].items():
        name = hook["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        shape = document["components"]["schemas"][name]
        assert shape["title"] == name
        assert shape["properties"]["type"]["const"] == event
        data = "BatchView" if event == BATCH_EVENT else "JobView"
        assert shape["properties"]["data"]["$ref"].endswith(f"/{data}")
        assert set(shape["required"]) == {"type", "timestamp", "owner", "data"}


def nodes(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from nodes(inner)


def test_null_is_a_default_only_where_null_is_allowed(document: dict[str, Any]) -> None:
    for shape in nodes(document["components"]["schemas"]):
        if shape.get("default", ...) is None:
            assert {"type": "null"} in shape.get("anyOf", ()), shape


def test_response_fields_that_are_always_sent_are_required(api: RunningApi, document: dict[str, Any]) -> None:
    job_id = api.new_job()
    api.finish(job_id)
    schemas = document["components"]["schemas"]
    sent = {
        "JobView": api.client.get(f"/jobs/{job_id}").json(),
        "Evaluation": api.client.get(f"/jobs/{job_id}/evaluation").json(),
        "Offer": api.client.get("/engines").json(),
        "JobList": api.client.get("/jobs").json(),
        "MediaLinks": api.client.get(f"/jobs/{job_id}/media").json(),
        "UploadLink": api.client.post("/uploads").json(),
        "BatchView": api.client.post("/batches", json=BATCH).json(),
        "BatchList": api.client.get("/batches").json(),
    }
    sent |= {"BatchSummary": sent["BatchList"]["batches"][0]}
    sent |= {"RenderInfo": sent["JobView"]["render"], "ResultView": sent["JobView"]["result"]}
    for name, body in sent.items():
        assert set(schemas[name]["required"]) == set(schemas[name]["properties"]) == set(body), name
        assert "additionalProperties" not in schemas[name], "later versions may add fields"
    assert set(schemas["Problem"]["properties"]) - set(schemas["Problem"]["required"]) == {"errors"}


class Rendering(threading.Thread):
    """Ends waiting jobs while the generated requests run, so that results and evaluations are met too. Every third one
    fails."""

    def __init__(self, api: RunningApi) -> None:
        super().__init__(daemon=True)
        self.stopping = threading.Event()
        self._api = api

    def run(self) -> None:
        seen = 0
        while not self.stopping.wait(0.1):
            for job in self._api.store.jobs.page(status=JobStatus.QUEUED, cursor=None, limit=50).jobs:
                seen += 1
                # The generated requests cancel and delete at the same time: then there is nothing to end.
                with suppress(JobNotFoundError, LeaseLostError, WrongStateError, AssertionError):
                    finish = self._api.finish if job.spec.kind == "render" else self._api.finish_analysis
                    (finish if seen % 3 else self._api.fail)(job.id)


# The tool itself ends by this now and then: CPython before 3.12 loses count of its depth while it builds a syntax tree
# (gh-106905).
CPYTHON_FAULT = "AST constructor recursion depth mismatch"


# Of each operation and phase, and in all. `make generated` asks for more.
EXAMPLES = int(os.environ.get("RETALKING_TEST_EXAMPLES", "25"))
LEAST_CASES = int(os.environ.get("RETALKING_TEST_CASES", "1000"))


@pytest.mark.timeout(1700 * max(1, EXAMPLES // 25))
def test_generated_requests(redis_url: str, tmp_path: Path) -> None:
    """Schemathesis over a running service that wants keys: all checks, all phases. A fixed seed: a red run can be run
    again."""
    env = {"ALLOW_PRIVATE_HOSTS": "127.0.0.1", "REQUIRE_KEYS": "true"}
    with run_api(tmp_path, own_database(redis_url), **env) as api, api.live_worker(PREVIEW, NEURAL):
        plenty = {"requests_per_minute": 60000, "live_jobs": 100000, "max_priority": 2}
        key = make_key(api.store, "generated requests", frozenset({Scope.ADMIN}), **plenty)
        headers = {"Authorization": f"Bearer {key}"}
        upload = api.client.post("/uploads", headers=headers).json()
        film = make_video(tmp_path / "film.mp4", frames=3, speech_s=0.1).read_bytes()
        assert httpx.put(upload["url"], content=film).status_code == 200
        rendering = Rendering(api)
        rendering.start()
        tool = Path(sys.executable).with_name("schemathesis")
        config = Path(__file__).with_name("schemathesis.toml")
        command = [str(tool), "--config-file", str(config), "run", f"{api.url}/openapi.json"]
        command += ["--header", f"Authorization: Bearer {key}", "--max-examples", str(EXAMPLES)]
        variables = os.environ | {
            "PYTHONPATH": str(ROOT),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path),
            "RETALKING_TEST_KEY_ID": str(key_id_of(key)),
            "RETALKING_TEST_UPLOAD_ID": upload["id"],
        }
        for _ in range(3):
            done = subprocess.run(
                command,
                cwd=tmp_path,
                env=variables,
                capture_output=True,
                text=True,
                check=False,
                timeout=540 * max(1, EXAMPLES // 25),
            )
            if CPYTHON_FAULT not in done.stdout:
                break
        rendering.stopping.set()
        rendering.join(10)
        assert api.client.get("/jobs?limit=100", headers=headers).status_code == 200
        served = api.client.get("/metrics", headers=headers).text
        document = api.client.get("/openapi.json").json()
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    cases = re.search(r"([\d,]+) generated", done.stdout)
    assert cases is not None
    assert int(cases[1].replace(",", "")) >= LEAST_CASES
    for name, _ in operations(document):
        method, _, path = name.partition(" ")
        labels = f'method="{method}",route="{path.removeprefix(VERSION)}"'
        assert f"retalking_http_requests_total{{{labels}," in served, f"no request for {name}"
    assert "retalking_quarantine_records 0.0" in served, "a generated request stored what nobody can read"
    for route, method in (
        ("/jobs", "POST"),
        ("/jobs/upload", "POST"),
        ("/videos/analyze", "POST"),
        ("/videos/analyze/upload", "POST"),
        ("/batches", "POST"),
        ("/batches", "GET"),
        ("/batches/{batch_id}", "GET"),
        ("/jobs/{job_id}/result", "GET"),
        ("/jobs/{job_id}/events", "GET"),
        ("/uploads/{upload_id}/content", "PUT"),
    ):
        status = "202" if method == "POST" else "200"
        line = f'retalking_http_requests_total{{method="{method}",route="{route}",status="{status}"}}'
        assert line in served, f"no generated request got as far as {status} from {method} {route}"
    assert "Traceback" not in api.log.read_text()
