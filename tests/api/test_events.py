"""Following a job over Server-Sent Events."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from jobs.models import DeliveryAttempt
from jobs.store import ReceiverRules
from jobs.store.leases import FIRST_FENCE, EvaluationLease
from tests.api.running import RunningApi, check_problem


def parse_events(text: str) -> list[dict[str, Any]]:
    """The events of a stream; comments are left out."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            events.append({"id": fields["id"], "event": fields["event"], "data": json.loads(fields["data"])})
    return events


def read_stream(api: RunningApi, job_id: str, last: str | None = None) -> list[dict[str, Any]]:
    """Reads until the service ends the stream."""
    headers = {} if last is None else {"Last-Event-ID": last}
    answer = api.client.get(f"/jobs/{job_id}/events", headers=headers, timeout=20)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    return parse_events(answer.text)


def test_the_whole_life_is_replayed_and_the_stream_ends(api: RunningApi) -> None:
    job_id = api.new_job()
    api.finish(job_id)
    events = read_stream(api, job_id)
    assert [row["event"] for row in events] == ["job.queued", "job.started", "job.progress", "job.succeeded"]
    assert [row["id"] for row in events] == [row["data"]["id"] for row in events]
    assert events[2]["data"]["stage"] == "synthesize"
    assert events[2]["data"]["progress"] == 0.5


def test_replay_after_the_last_event_seen(api: RunningApi) -> None:
    job_id = api.new_job()
    api.finish(job_id)
    events = read_stream(api, job_id)
    assert read_stream(api, job_id, events[1]["id"]) == events[2:]
    ended = api.client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": events[-1]["id"]})
    assert ended.status_code == 204, "nothing is left, and a browser stops reconnecting"


def test_what_follows_the_end_is_replayed_too(api: RunningApi) -> None:
    job_id = api.new_job(output=json.dumps({"put_url": "https://93.184.215.14/result.mp4"}))
    api.finish(job_id)
    (export,) = api.store.exports.take(8, ReceiverRules(8, hold_s=60.0))
    api.store.exports.finish(export, DeliveryAttempt(at=datetime.now(UTC), status_code=200))
    events = read_stream(api, job_id)
    assert [row["event"] for row in events[-2:]] == ["job.succeeded", "job.exported"]
    ended = api.client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": events[-1]["id"]})
    assert ended.status_code == 204


def test_a_stream_goes_on_to_the_evaluation_that_follows(api: RunningApi) -> None:
    """And `GET /evaluation` says until then that there is none yet."""
    job_id = api.new_job(evaluate_policy="after")
    api.finish(job_id, evaluation_lease_s=30.0)
    view = api.client.get(f"/jobs/{job_id}").json()
    assert (view["status"], view["evaluation"], view["evaluation_pending"]) == ("succeeded", None, True)
    check_problem(api.client.get(f"/jobs/{job_id}/evaluation"), 409, "evaluation_not_ready")
    heard: list[str] = []

    def listen() -> None:
        heard.extend(row["event"] for row in read_stream(api, job_id))

    listener = threading.Thread(target=listen)
    listener.start()
    time.sleep(0.5)  # it has read the end of the job, and waits
    assert listener.is_alive()
    api.store.evaluations.finish(EvaluationLease(job_id, "w1", FIRST_FENCE, 1), [])
    listener.join(20)
    assert heard[-2:] == ["job.succeeded", "job.evaluated"]
    assert api.client.get(f"/jobs/{job_id}").json()["evaluation_pending"] is False
    assert api.client.get(f"/jobs/{job_id}/evaluation").status_code == 200


@pytest.mark.parametrize("last", ["nonsense", "1", "-", "1-2-3", "9" * 40])
def test_ids_that_are_none(api: RunningApi, last: str) -> None:
    answer = api.client.get(f"/jobs/{api.new_job()}/events", headers={"Last-Event-ID": last})
    assert check_problem(answer, 422, "invalid_request")["errors"][0]["pointer"] == "Last-Event-ID"


def test_events_arrive_while_they_happen(api: RunningApi) -> None:
    job_id = api.new_job()
    worker = threading.Timer(1.0, api.finish, [job_id])
    worker.start()
    started_s = time.monotonic()
    arrivals = {}
    with api.client.stream("GET", f"/jobs/{job_id}/events") as answer:
        for line in answer.iter_lines():
            if line.startswith("event: "):
                arrivals[line.removeprefix("event: ")] = time.monotonic() - started_s
    worker.join()
    assert arrivals["job.queued"] < 0.8
    assert 1.0 <= arrivals["job.succeeded"] < 3.0


def test_a_deleted_job_ends_its_streams(api: RunningApi) -> None:
    job_id = api.new_job()

    def remove() -> None:
        api.client.delete(f"/jobs/{job_id}")
        api.client.delete(f"/jobs/{job_id}")

    timer = threading.Timer(0.5, remove)
    timer.start()
    events = read_stream(api, job_id)
    timer.join()
    assert events[0]["event"] == "job.queued"


def test_two_hundred_listeners_starve_no_other_request(api: RunningApi) -> None:
    job_id = api.new_job()

    async def listen(client: httpx.AsyncClient) -> list[str]:
        answer = await client.get(f"/jobs/{job_id}/events")
        return [row["event"] for row in parse_events(answer.text)]

    async def follow() -> tuple[list[list[str]], list[float]]:
        limits = httpx.Limits(max_connections=300)
        async with httpx.AsyncClient(base_url=api.url, timeout=60, limits=limits) as client:
            listeners = [asyncio.create_task(listen(client)) for _ in range(200)]
            await asyncio.sleep(2)
            waits_s = []
            for _ in range(10):
                started_s = time.monotonic()
                assert (await client.get(f"/jobs/{job_id}")).status_code == 200
                waits_s.append(time.monotonic() - started_s)
                await asyncio.sleep(0.1)
            await asyncio.to_thread(api.finish, job_id)
            return await asyncio.gather(*listeners), waits_s

    heard, waits_s = asyncio.run(follow())
    print(f"GET beside 200 listeners: median {sorted(waits_s)[5] * 1000:.0f} ms, worst {max(waits_s) * 1000:.0f} ms")
    assert len(heard) == 200
    assert all(events[-1] == "job.succeeded" for events in heard)
    assert sorted(waits_s)[5] < 0.5
