"""The service about itself: offers, probes, metrics, codes, pages, and how it fails."""

from __future__ import annotations

import http.client
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cli.stack.redis_server import EmbeddedRedis
from jobs.errors import ERROR_CODES
from jobs.models import GpuMemory, WorkerInfo
from jobs.names import input_key
from retalking_core.vocabulary.options import JobOptions
from tests.api.running import NEURAL, PREVIEW, ROOT, RunningApi, check_problem, run_api
from tests.services import accepted_socket, free_port, own_database, wait_until


def test_engines_of_the_live_workers(api: RunningApi) -> None:
    assert api.client.get("/engines").json()["workers"] == 0
    with api.live_worker(PREVIEW, NEURAL, metrics=("sharpness", "coverage")):
        offer = api.client.get("/engines").json()
    assert offer["workers"] == 1
    assert [(row["name"], row["workers"]) for row in offer["engines"]] == [("preview", 1), ("videoretalking", 1)]
    assert offer["engines"][0]["unsupported_options"] == PREVIEW.model_dump(mode="json")["unsupported_options"]
    assert offer["metrics"] == ["coverage", "sharpness"]
    assert set(offer["options"]) == set(JobOptions.model_fields)
    assert offer["options"]["output"]["values"]["properties"]["crf"]["maximum"] == 51
    assert offer["options"]["length_mode"]["default"] == "bounce"
    assert "$ref" not in str(offer["options"])
    assert offer["limits"]["max_upload_bytes"] == api.settings.max_upload_bytes


def test_probes(api: RunningApi) -> None:
    assert api.client.get("/healthz").json() == {"status": "ok"}
    answer = api.client.get("/readyz")
    problem = check_problem(answer, 503, "service_unavailable")
    assert [error["pointer"] for error in problem["errors"]] == ["workers"]
    assert int(answer.headers["retry-after"]) > 0
    with api.live_worker(PREVIEW):
        ready = api.client.get("/readyz")
        assert ready.status_code == 200
        assert set(ready.json()["parts"]) == {"redis", "objects", "workers", "engine", "kernels"}
        assert ready.json()["parts"]["engine"] == "preview"


def test_readiness_tells_which_kernels_run(api: RunningApi) -> None:
    cards = {name: WorkerInfo(id=name, engines=[PREVIEW], started_at=datetime.now(UTC)) for name in ("one", "two")}

    def told(**kernels: str | None) -> str:
        for name, state in kernels.items():
            api.store.workers.report(cards[name].model_copy(update={"kernels": state}), 60)
        return api.client.get("/readyz").json()["parts"]["kernels"]

    try:
        assert told(one=None) == "none"
        assert told(one="plain") == "plain"
        assert told(two="compiled") == "1 compiled, 1 plain"
        assert told(one="compiled") == "compiled"
    finally:
        for name in cards:
            api.store.workers.forget(name)


def test_not_ready_without_the_engine_of_the_deployment(redis_url: str, tmp_path: Path) -> None:
    """The worker lives and could render previews; `auto` means an engine that it could not load."""
    reason = "LNet.pth is refused: it holds more than tensors (weights_unsafe)."
    with run_api(tmp_path, own_database(redis_url), ENGINE="videoretalking") as api:
        card = WorkerInfo(id="w", engines=[PREVIEW], unavailable={NEURAL.name: reason}, started_at=datetime.now(UTC))
        api.store.workers.report(card, 60)
        problem = check_problem(api.client.get("/readyz"), 503, "service_unavailable")
        assert [error["pointer"] for error in problem["errors"]] == ["engine"]
        assert reason.rstrip(".") in problem["detail"]
        assert api.client.get("/engines").json()["auto_engine"] is None
        refused = check_problem(api.submit(), 409, "engine_unavailable")
        assert reason in refused["detail"]
        api.store.workers.report(card.model_copy(update={"engines": [PREVIEW, NEURAL]}), 60)
        assert api.client.get("/readyz").json()["parts"]["engine"] == NEURAL.name


def test_not_ready_while_no_worker_asks_for_jobs(api: RunningApi) -> None:
    now = datetime.now(UTC)
    silent = now - timedelta(seconds=api.settings.worker_ttl_s + 5)
    cards = {name: WorkerInfo(id=name, engines=[PREVIEW], started_at=silent) for name in ("one", "two")}

    def report(name: str, **condition: object) -> int:
        api.store.workers.report(cards[name].model_copy(update=condition), 60)
        return api.client.get("/readyz").status_code

    try:
        assert report("one", polled_at=silent) == 503
        problem = check_problem(api.client.get("/readyz"), 503, "service_unavailable")
        (error,) = problem["errors"]
        assert error["pointer"] == "workers"
        assert "none has polled for jobs for 30 s" in error["message"]
        assert report("one", polled_at=silent, busy_with="job_1") == 200, "it renders"
        assert report("one", polled_at=silent) == 503
        assert report("two", polled_at=now) == 200, "one that asks is enough"
    finally:
        for name in cards:
            api.store.workers.forget(name)


def test_metrics_of_jobs_and_devices(api: RunningApi) -> None:
    api.finish(api.new_job())
    api.fail(api.new_job())
    memory = GpuMemory(device="cuda:0", used_bytes=5_000, total_bytes=80_000)
    card = WorkerInfo(id="w", engines=[PREVIEW], started_at=datetime.now(UTC), gpu_memory=[memory], kernels="mixed")
    api.store.workers.report(card, 60)
    try:
        text = api.client.get("/metrics").text
    finally:
        api.store.workers.forget("w")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["retalking_workers_kernels", ("kernels", "mixed")] == 1
    assert samples["retalking_workers_kernels", ("kernels", "compiled")] == 0
    assert samples["retalking_jobs_finished_total", ("status", "succeeded")] >= 1
    assert samples["retalking_jobs_failed_total", ("code", "face_not_found")] >= 1
    assert samples["retalking_job_run_seconds_count",] >= 1
    assert samples["retalking_job_run_seconds_bucket", ("le", "+Inf")] == samples["retalking_job_run_seconds_count",]
    assert samples["retalking_job_stage_seconds_count", ("stage", "synthesize")] >= 1
    assert samples["retalking_job_wait_seconds_count", ("priority", "1")] >= 1
    used = ("retalking_gpu_memory_bytes", ("device", "cuda:0"), ("kind", "used"), ("worker", "w"))
    assert samples[used] == 5_000
    for name in (
        "retalking_webhook_attempts",
        "retalking_export_attempts",
        "retalking_exports",
        "retalking_face_cache",
    ):
        assert f"# TYPE {name}" in text


def test_metrics(api: RunningApi) -> None:
    job_id = api.new_job(priority="0")
    api.client.get(f"/jobs/{job_id}")
    api.client.get("/no/such/address")
    with api.live_worker(PREVIEW):
        families = {family.name: family for family in text_string_to_metric_families(api.client.get("/metrics").text)}
    requests = {
        (sample.labels["route"], sample.labels["method"], sample.labels["status"]): sample.value
        for sample in families["retalking_http_requests"].samples
        if sample.name.endswith("_total")
    }
    assert requests["/jobs", "POST", "202"] >= 1
    assert requests["/jobs/{job_id}", "GET", "200"] >= 1
    assert requests["unmatched", "GET", "404"] >= 1
    assert not [route for route, *_ in requests if "job_" in route.replace("{job_id}", "")]
    depth = {sample.labels["priority"]: sample.value for sample in families["retalking_queue_depth"].samples}
    assert depth["0"] >= 1
    jobs = {sample.labels["status"]: sample.value for sample in families["retalking_jobs"].samples}
    assert set(jobs) == {"queued", "running", "succeeded", "failed", "canceled"}
    assert jobs["queued"] >= 1
    assert families["retalking_render_demand"].samples[0].value == jobs["queued"] + jobs["running"]
    assert families["retalking_workers"].samples[0].value == 1
    assert families["retalking_store_up"].samples[0].value == 1
    assert families["retalking_upload_bytes"].samples[0].value > 10_000
    assert "retalking_http_request_duration_seconds" in families


def test_the_table_of_errors(api: RunningApi) -> None:
    rows = api.client.get("/errors").json()
    assert {row["code"]: row["status"] for row in rows} == {row.code: row.status for row in ERROR_CODES.values()}
    assert all(row["advice"] for row in rows)


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/jobs/a/b/c",
        "/v1/nope",
        "/v1/healthz",
        "/v1",
        "/v2/jobs",
        "/docs/assets/nope.js",
        "/%00",
        "/..%2f..%2fetc",
    ],
)
def test_addresses_that_are_not_there(api: RunningApi, path: str) -> None:
    answer = api.client.get(path)
    check_problem(answer, 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/jobs", "GET, HEAD, POST"),
        ("TRACE", "/v1/jobs", "GET, HEAD, POST"),
        ("PATCH", "/jobs/job_" + "0" * 32, "DELETE, GET, HEAD"),
        ("POST", f"/jobs/job_{'0' * 32}/result", "GET, HEAD"),
        ("GET", "/v1/jobs/upload", "POST"),
        ("DELETE", "/uploads", "POST"),
        ("POST", "/", "GET, HEAD"),
        ("PROPFIND", "/healthz", "GET, HEAD"),
    ],
)
def test_methods_that_are_not_known(api: RunningApi, method: str, path: str, allow: str) -> None:
    answer = api.client.request(method, path)
    check_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allow


def test_request_ids(api: RunningApi) -> None:
    assert api.client.get("/healthz", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for unsafe in ('a"b', "a b", "x" * 129, "a;b", "{}"):
        given = api.client.get("/healthz", headers={"X-Request-Id": unsafe}).headers["x-request-id"]
        assert re.fullmatch(r"req_[0-9a-f]{32}", given)
    assert api.client.get("/nope", headers={"X-Request-Id": "mine-2"}).json()["request_id"] == "mine-2"


def test_an_unexpected_error_reveals_only_its_request_id(api: RunningApi) -> None:
    """A stored content type that is not text stands for any unexpected fault."""
    job_id = api.new_job()
    damaged = api.settings.data_dir / "objects" / "types" / input_key(job_id, "video")
    damaged.write_bytes(b"damaged \xff")
    answer = api.client.get(f"/jobs/{job_id}/media", headers={"X-Request-Id": "look-for-me"})
    problem = check_problem(answer, 500, "internal_error")
    assert problem["request_id"] == "look-for-me"
    assert "damaged" not in answer.text
    log = api.log.read_text()
    assert "Request look-for-me failed" in log
    assert "Traceback" in log


def test_pages_need_no_other_host(api: RunningApi) -> None:
    start, docs = api.client.get("/"), api.client.get("/docs")
    assert start.headers["content-type"] == docs.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in start.headers["content-security-policy"]
    for page in (start.text, docs.text):
        assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page)
    assets = re.findall(r"""(?:src|href)=["'](/[^"']+\.(?:js|css))["']""", docs.text)
    assert len(assets) == 2
    for asset in assets:
        answer = api.client.get(asset)
        assert answer.status_code == 200
        assert len(answer.content) > 100_000


def test_the_console_is_served_whole(api: RunningApi) -> None:
    """Every file that the page and its modules name is there, is of the right type, and names no other host. Nothing
    stands in the page itself that its policy would have to allow."""
    start = api.client.get("/")
    assert "unsafe" not in start.headers["content-security-policy"]
    assert not re.search(r"<style|<script(?! type=\"module\" src)| on[a-z]+=| style=", start.text)
    kinds = {"js": ("text/javascript", "application/javascript"), "css": "text/css", "svg": "image/svg+xml"}
    waiting, seen = set(re.findall(r"""(?:src|href)=["'](console/[^"']+)["']""", start.text)), set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        answer = api.client.get(f"/{path}")
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].startswith(kinds[path.rpartition(".")[2]])
        assert answer.headers["cache-control"] == "no-cache"
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)\w", answer.text), path
        waiting |= {f"console/{name}" for name in re.findall(r"""from ["']\./([^"']+)["']""", answer.text)} - seen
    files = {path.name for path in (ROOT / "api" / "static").iterdir() if path.suffix[1:] in kinds}
    assert {path.removeprefix("console/") for path in seen} == files, "no file is left over"


def test_upload_signatures_stay_out_of_the_log(api: RunningApi) -> None:
    link = api.client.post("/uploads").json()["url"]
    api.client.put(link, content=b"x")
    line = f"PUT {link.partition('?')[0].removeprefix(api.url.rstrip('/'))} 422"
    wait_until(
        lambda: line in api.log.read_text(), 10, what="the line of the request, which is written after its answer"
    )
    assert link.partition("signature=")[2] not in api.log.read_text()


def test_answers_on_a_kept_connection_are_sent_at_once(api: RunningApi) -> None:
    """As the images start the API, on a port; `tests/cli/test_stack_processes.py` does the same with `--fd`."""
    address = api.client.base_url
    connection = http.client.HTTPConnection(address.host, address.port, timeout=60)
    with closing(connection):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
        with accepted_socket(api.process.pid, connection.sock) as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_without_redis(tmp_path: Path) -> None:
    """Redis goes away under the running service. All at once: each call waits about 5 s for Redis to come back."""
    with EmbeddedRedis(tmp_path / "redis") as redis, run_api(tmp_path / "api", redis.url) as api:
        job_id = api.new_job()
        redis.stop()
        calls = [("GET", f"/jobs/{job_id}"), ("GET", "/engines"), ("POST", "/uploads"), ("GET", "/readyz")]
        with ThreadPoolExecutor(6) as pool:
            answers = [pool.submit(api.client.request, *call) for call in calls]
            submission, scrape = pool.submit(api.submit), pool.submit(api.client.get, "/metrics")
            assert api.client.get("/healthz").status_code == 200
        for answer in (*answers, submission):
            problem = check_problem(answer.result(), 503, "service_unavailable")
            assert int(answer.result().headers["retry-after"]) > 0
            assert problem["retryable"] is True
        readiness = answers[-1].result().json()
        assert {error["pointer"] for error in readiness["errors"]} == {"redis", "workers", "engine"}
        assert "retalking_store_up 0.0" in scrape.result().text
        assert "Traceback" not in api.log.read_text()


def test_without_an_object_store(redis_url: str, tmp_path: Path) -> None:
    s3 = {
        "S3_BUCKET": "nowhere",
        "S3_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "S3_ACCESS_KEY_ID": "id",
        "S3_SECRET_ACCESS_KEY": "secret",
    }
    with run_api(tmp_path, own_database(redis_url), **s3) as api:
        check_problem(api.submit(), 503, "service_unavailable")
        problem = check_problem(api.client.get("/readyz"), 503, "service_unavailable")
        assert {error["pointer"] for error in problem["errors"]} == {"objects", "workers"}
        assert not api.store.jobs.page(status=None, cursor=None, limit=10).jobs
