"""`Prefer: wait`: a call that answers when the job is over."""

from __future__ import annotations

import asyncio
import signal
import threading
from pathlib import Path

import httpx
import psutil
import pytest

from api.waiting import preferred_wait_s
from cli.stack.redis_server import EmbeddedRedis
from tests.api.running import RunningApi, check_problem, input_files, run_api
from tests.services import own_database, wait_until


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (["wait=10"], 10),
        (["respond-async, wait=10"], 10),
        (["respond-async", 'WAIT="7"; foo'], 7),
        (["wait=3, wait=9"], 3),
        (["wait=3600"], 60),
        (["wait=0"], 0),
        (["wait=-1"], None),
        (["wait"], None),
        (["wait=soon"], None),
        (["return=minimal"], None),
        ([], None),
    ],
)
def test_the_preference(headers: list[str], seconds: int | None) -> None:
    assert preferred_wait_s(headers) == seconds


def after(seconds: float, call: object, *arguments: object) -> threading.Timer:
    timer = threading.Timer(seconds, call, arguments)
    timer.start()
    return timer


@pytest.mark.parametrize("base", ["", "/v1"])
def test_a_call_answers_when_the_job_is_over(api: RunningApi, base: str) -> None:
    job_id = api.new_job()
    timer = after(0.5, api.finish, job_id)
    answer = api.client.get(f"{base}/jobs/{job_id}", headers={"Prefer": "wait=50"})
    timer.join()
    assert answer.json()["status"] == "succeeded"
    assert answer.headers["preference-applied"] == "wait=50"
    assert "retry-after" not in answer.headers
    assert answer.elapsed.total_seconds() >= 0.4


def test_a_job_that_is_over_answers_at_once_and_one_that_is_not_when_the_time_has_passed(api: RunningApi) -> None:
    over, live = api.new_job(), api.new_job()
    api.fail(over)
    assert api.client.get(f"/v1/jobs/{over}?wait=60", timeout=20).json()["status"] == "failed"
    lease = api.store.jobs.claim(live, "worker-of-the-test", 30)
    assert lease is not None
    after(0.3, lambda: api.store.jobs.report(lease, stage="synthesize", progress=0.5, lease_s=30))
    answer = api.client.get(f"/v1/jobs/{live}?wait=1")
    assert (answer.json()["status"], answer.json()["progress"]) == ("running", 0.5), "as it is at the end of the wait"
    assert answer.headers["retry-after"]
    assert "preference-applied" not in answer.headers
    assert answer.elapsed.total_seconds() > 0.9


def test_a_submission_waits_too(api: RunningApi) -> None:
    def finish_next() -> None:
        wait_until(lambda: api.store.jobs.queue_depths()[2])
        (waiting,) = api.store.jobs.page(status=None, cursor=None, limit=1).jobs
        api.finish(waiting.id)

    worker = threading.Thread(target=finish_next)
    worker.start()
    headers = {"Prefer": "wait=50", "Idempotency-Key": "waits"}
    request = {"files": input_files(), "data": {"priority": "2"}, "headers": headers}
    answer = api.client.post("/v1/jobs/upload", **request)
    worker.join()
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    again = api.client.post("/v1/jobs/upload", **request)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    late = api.client.post("/v1/jobs/upload?wait=0", files=input_files())
    assert (late.status_code, late.json()["status"]) == (202, "queued")


@pytest.mark.parametrize("wait", ["61", "-1", "x", "1.5"])
def test_waits_that_are_none(api: RunningApi, wait: str) -> None:
    check_problem(api.client.get(f"/v1/jobs/{api.new_job()}?wait={wait}"), 422, "invalid_request")


def test_a_canceled_job_wakes_and_an_unknown_one_does_not_wait(api: RunningApi) -> None:
    job_id = api.new_job()
    timer = after(0.3, lambda: api.store.jobs.request_cancel(job_id, retention_s=60))
    assert api.client.get(f"/v1/jobs/{job_id}?wait=50").json()["status"] == "canceled"
    timer.join()
    check_problem(api.client.get(f"/v1/jobs/job_{'0' * 32}?wait=60", timeout=20), 404, "job_not_found")


def test_waiting_calls_take_no_threads(api: RunningApi) -> None:
    job_id = api.new_job()

    async def run() -> tuple[int, list[str]]:
        limits = httpx.Limits(max_connections=300, max_keepalive_connections=300)
        async with httpx.AsyncClient(base_url=api.url, timeout=80, limits=limits) as http:
            calls = [asyncio.create_task(http.get(f"/v1/jobs/{job_id}?wait=60")) for _ in range(250)]
            await asyncio.sleep(3)
            threads = psutil.Process(api.process.pid).num_threads()
            assert (await http.get(f"/v1/jobs/{job_id}")).json()["status"] == "queued", "other calls pass"
            await asyncio.to_thread(api.finish, job_id)
            return threads, [call.json()["status"] for call in await asyncio.gather(*calls)]

    threads, statuses = asyncio.run(run())
    assert statuses == ["succeeded"] * 250
    assert threads < 100, "40 of the plain endpoints at most, and a few of its own"


def test_a_restart_of_redis_wakes_nobody_too_late(tmp_path: Path) -> None:
    """A notification that was lost with the connection does not leave a call waiting."""
    with EmbeddedRedis(tmp_path / "redis") as server, run_api(tmp_path / "api", server.url) as api:
        job_id = api.new_job()
        answers: list[httpx.Response] = []
        call = threading.Thread(target=lambda: answers.append(api.client.get(f"/v1/jobs/{job_id}?wait=55")))
        call.start()
        wait_until(lambda: int(api.store.ping() is None) and listeners(api) == 1)
        # The connection of the listener breaks, and the job ends before it is back.
        for client in api.store.jobs._redis.client.client_list(_type="pubsub"):
            api.store.jobs._redis.client.client_kill(client["addr"])
        api.finish(job_id)
        call.join(20)
        assert answers
        assert answers[0].json()["status"] == "succeeded"


def listeners(api: RunningApi) -> int:
    return len(api.store.jobs._redis.client.client_list(_type="pubsub"))


def test_a_process_that_stops_answers_its_waiting_calls(redis_url: str, tmp_path: Path) -> None:
    with run_api(tmp_path, own_database(redis_url)) as api:
        job_id = api.new_job()
        after(1.0, api.process.send_signal, signal.SIGTERM)
        answer = api.client.get(f"/v1/jobs/{job_id}?wait=60", timeout=50)
        assert (answer.status_code, answer.json()["status"]) == (200, "queued")
        assert api.process.wait(20) in (0, -signal.SIGTERM)
