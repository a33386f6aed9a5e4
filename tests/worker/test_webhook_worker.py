"""The webhook worker as it is deployed, together with a render worker: events arrive by themselves."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from standardwebhooks import Webhook

from jobs.models import JobStatus
from jobs.signing import is_signed, link_secret, webhook_secret
from tests.jobs.making import start_job, succeed
from tests.services import wait_until
from tests.worker.conftest import ROOT, Clips, Stack, WorkerProcess, make_stack, running
from tests.worker.receiver import Receiver, Reply, receiving
from tests.worker.scripted_engine import Act


@pytest.fixture(scope="module")
def workers(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WorkerProcess, WorkerProcess]]:
    logs = tmp_path_factory.mktemp("logs")
    with ExitStack() as down:
        webhooks = WorkerProcess("worker.webhooks", stack, logs / "webhooks.log")
        down.callback(webhooks.stop)
        render = down.enter_context(running("tests.worker.scripted_app", stack, logs / "render.log"))
        wait_until(lambda: webhooks.says("janitor started"), timeout=30)
        yield webhooks, render


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def test_events_are_delivered_in_order_and_a_failing_one_is_retried(
    stack: Stack, workers: tuple[WorkerProcess, WorkerProcess], receiver: Receiver
) -> None:
    receiver.replies = [Reply(500), Reply(200)]
    job_id = stack.submit(webhook_url=f"{receiver.url}/hook?key=hush", webhook_events=["job.started", "job.succeeded"])
    assert stack.finish(job_id).status is JobStatus.SUCCEEDED
    wait_until(lambda: all(each.state == "delivered" for each in stack.store.webhooks.deliveries(job_id)), timeout=20)
    started, succeeded = stack.store.webhooks.deliveries(job_id)
    assert (started.event, [attempt.status_code for attempt in started.attempts]) in (
        ("job.started", [500, 200]),
        ("job.started", [200]),
    )
    signer = Webhook(webhook_secret(stack.settings))
    events = [signer.verify(call.body, call.headers) for call in receiver.calls]
    assert len(events) == 3
    last = next(event for event in reversed(events) if event["type"] == "job.succeeded")
    assert last["data"]["id"] == job_id
    assert last["data"]["result"]["sha256"]
    assert {call.headers["webhook-id"] for call in receiver.calls} == {started.id, succeeded.id}
    logs = "".join(worker.log.read_text() for worker in workers)
    assert "hush" not in logs
    assert "whsec" not in logs


def test_its_janitor_requeues_the_job_of_a_dead_worker(
    stack: Stack, workers: tuple[WorkerProcess, WorkerProcess]
) -> None:
    """Nobody plays the janitor here: lease, requeue and second attempt go by themselves."""
    job_id = stack.submit(seed=Act.CRASH_ONCE)
    job = stack.finish(job_id, timeout_s=40)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2), job.error


def test_the_result_link_of_an_event_is_signed_for_the_owner_of_the_job(
    redis_url: str, tmp_path: Path, clips: Clips, receiver: Receiver
) -> None:
    stack = make_stack(redis_url, tmp_path, clips, RETALKING_REQUIRE_KEYS="true")
    lease = start_job(stack.store, webhook_url=f"{receiver.url}/hook", webhook_events=["job.succeeded"])
    succeed(stack.store, lease)
    worker = WorkerProcess("worker.webhooks", stack, tmp_path / "log")
    try:
        wait_until(lambda: receiver.calls, timeout=30)
    finally:
        worker.stop()
    event = Webhook(webhook_secret(stack.settings)).verify(receiver.calls[0].body, receiver.calls[0].headers)
    link = urlsplit(event["data"]["result"]["url"])
    query = dict(parse_qsl(link.query))
    assert "key" not in query, "the job has no owner"
    key, expires = link_secret(stack.settings), int(query["expires"])
    assert is_signed(key, "GET", link.path.lstrip("/"), expires, query["signature"], time.time())


def test_it_needs_no_media_library() -> None:
    code = "import sys, worker.webhooks; assert not {'numpy', 'torch', 'av', 'cv2', 'dlib'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_parent_of_a_render_worker_imports_nothing_heavy() -> None:
    """It forks: what it imports and computes would be copied, and threads of a numeric library would be lost."""
    code = "import sys, worker.gpu; assert not {'numpy', 'torch', 'av', 'cv2', 'dlib'} & set(sys.modules), 'heavy'"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_worker_without_a_usable_secret_does_not_start(stack: Stack, tmp_path: Path) -> None:
    worker = WorkerProcess("worker.webhooks", stack, tmp_path / "log", RETALKING_WEBHOOK_SECRET="short")
    try:
        assert worker.wait(30) != 0
        assert "RETALKING_WEBHOOK_SECRET" in worker.log.read_text()
    finally:
        worker.stop()
