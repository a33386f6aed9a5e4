"""A batch of which every fifth item cannot be rendered, while the API, Redis, workers and the feeder are killed."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import httpx
import pytest

from jobs.models import Job, JobStatus
from tests.faults.service import Service
from tests.services import wait_until

GRACE_S = 60.0


@pytest.mark.parametrize(
    "size", [pytest.param(20, marks=pytest.mark.faults), pytest.param(500, marks=pytest.mark.faults_long)]
)
def test_a_batch_ends_right_whatever_is_killed(service: Service, size: int) -> None:
    face, speech = _upload(service, service.video.read_bytes()), _upload(service, service.audio.read_bytes())
    # A box that promises a video and holds none: found by the worker. A picture as speech: found before.
    damaged = _upload(service, b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(range(256)) * 40)
    picture = _upload(service, b"\x89PNG\r\n\x1a\n" + bytes(64))
    wrong = {1: "media_unreadable", 6: "container_unsupported"}
    jobs: list[dict[str, Any]] = []
    for index in range(size):
        code = wrong.get(index % 10)
        jobs.append(
            {
                "video_upload_id": damaged if code == "media_unreadable" else face,
                "audio_upload_id": picture if code == "container_unsupported" else speech,
                "evaluate": [],
                "seed": 10,
            }
        )
    asked = {"jobs": jobs, "webhook_url": service.hooks.url}
    first = _submit(service, asked, f"batch-{size}")
    service.api.kill()
    service.mend()
    again = _submit(service, asked, f"batch-{size}")
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (first.json()["id"], "true")
    batch_id = first.json()["id"]

    for share, kill in ((0.1, _kill_worker), (0.3, _kill_redis), (0.5, _kill_feeder), (0.7, _kill_api)):
        _wait_for_share(service, batch_id, share, size)
        kill(service)
        service.mend()
    wait_until(lambda: service.store.batches.get(batch_id).is_over, GRACE_S + size, 0.1, "the batch is over")

    body = service.client.get(f"/v1/batches/{batch_id}").json()
    expected = {index: code for index in range(size) if (code := wrong.get(index % 10))}
    assert body["status"] == "completed"
    assert {each["index"]: each["code"] for each in body["failures"]} == expected
    assert {name: count for name, count in body["counts"].items() if count} == {
        "succeeded": size - len(expected),
        "failed": len(expected),
    }
    found = _jobs_of(service, batch_id)
    assert sorted(job.spec.batch.index for job in found) == list(range(size)), "every item is one job"
    for job in found:
        code = expected.get(job.spec.batch.index)
        assert (job.status, job.error.code if job.error else None) == (
            (JobStatus.FAILED, code) if code else (JobStatus.SUCCEEDED, None)
        )
        assert code or job.result.sha256 == service.expected_sha256
    (delivery,) = wait_until(
        lambda: [each for each in service.store.webhooks.deliveries(batch_id) if each.state == "delivered"],
        GRACE_S,
        what="the event of the batch is delivered",
    )
    events = [each for each in service.hooks.about(batch_id) if each.answered == 200]
    assert {(each.event, each.webhook_id) for each in events} == {("batch.completed", delivery.id)}
    assert service.store.batches.waiting("") == 0
    assert service.store.batches.open("") == []


def _submit(service: Service, asked: dict[str, Any], key: str) -> httpx.Response:
    answer = service.client.post("/v1/batches", json=asked, headers={"Idempotency-Key": key})
    assert answer.status_code == 202, answer.text
    return answer


def _upload(service: Service, content: bytes) -> str:
    link = service.client.post("/v1/uploads").json()
    httpx.put(link["url"], content=content).raise_for_status()
    return link["id"]


def _wait_for_share(service: Service, batch_id: str, share: float, size: int) -> None:
    def is_reached() -> bool:
        counts = service.store.batches.get(batch_id).counts
        return counts.succeeded + counts.failed >= share * size

    wait_until(is_reached, GRACE_S + size, 0.05, f"{share:.0%} of the batch are over")


def _kill_worker(service: Service) -> None:
    os.kill(service.workers[0].children[0], signal.SIGKILL)


def _kill_redis(service: Service) -> None:
    os.kill(service.redis.pid, signal.SIGKILL)
    time.sleep(1.0)


def _kill_feeder(service: Service) -> None:
    service.webhooks.kill()


def _kill_api(service: Service) -> None:
    service.api.kill()


def _jobs_of(service: Service, batch_id: str) -> list[Job]:
    jobs: list[Job] = []
    cursor = None
    while True:
        page = service.store.jobs.page(status=None, cursor=cursor, limit=200, batch=batch_id)
        jobs += page.jobs
        if page.next_cursor is None:
            return jobs
        cursor = page.next_cursor
