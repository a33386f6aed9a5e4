"""The webhook receiver is down, slow, or answers oddly. The outcome of a job never depends on it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from jobs.models import Delivery
from tests.faults.hooks import Answer
from tests.faults.outcome import check_outcomes
from tests.faults.service import Service
from tests.services import wait_until

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def _back_to_normal(service: Service):
    plan = service.hooks.plan
    yield
    service.hooks.plan = plan


def _delivery(service: Service, job_id: str) -> Delivery:
    (delivery,) = service.store.webhooks.deliveries(job_id)
    return delivery


def test_the_receiver_is_down_for_a_while(service: Service) -> None:
    service.hooks.stop()
    try:
        jobs = service.submit_many(0, 0, 0)
        time.sleep(3)
    finally:
        service.hooks.start()
    check_outcomes(service, jobs)
    assert all(len(_delivery(service, job_id).attempts) > 1 for job_id in jobs)


def test_the_receiver_is_slower_than_it_may_be(service: Service) -> None:
    """It received the first request, but its answer came too late: the event is sent again, under the same id."""
    service.hooks.plan = lambda _, before: Answer(200, after_s=2.5 if before == 0 else 0.0)
    jobs = service.submit_many(0, 0)
    check_outcomes(service, jobs)
    assert all(len(service.hooks.about(job_id)) == 2 for job_id in jobs)


def test_the_receiver_redirects(service: Service) -> None:
    """A redirect is not followed (it could lead inside), but counts as a fault that may pass."""
    inside = f"{service.hooks.url}/inside"
    service.hooks.plan = lambda _, before: Answer(307, {"Location": inside}) if before < 2 else Answer()
    (job,) = check_outcomes(service, [service.submit()])
    assert [each.status_code for each in _delivery(service, job.id).attempts] == [307, 307, 200]


def test_the_receiver_says_gone(service: Service) -> None:
    service.hooks.plan = lambda *_: Answer(410)
    (job,) = check_outcomes(service, [service.submit()], webhook_state="given_up")
    assert len(service.hooks.about(job.id)) == 1


def test_the_receiver_asks_for_patience(service: Service) -> None:
    service.hooks.plan = lambda _, before: Answer(429, {"Retry-After": "2"}) if before == 0 else Answer()
    (job,) = check_outcomes(service, [service.submit()])
    first, second = _delivery(service, job.id).attempts
    assert (second.at - first.at).total_seconds() >= 1.9


@contextmanager
def silent_receiver() -> Iterator[str]:
    """Takes connections in the kernel's line, and never reads or answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/hook"


def test_silent_receivers_do_not_delay_a_healthy_one(service: Service) -> None:
    with ExitStack() as opened:
        silent = [opened.enter_context(silent_receiver()) for _ in range(20)]
        theirs = [service.submit(webhook_url=url) for url in silent]
        check_outcomes(service, service.submit_many(0, 0, 0), timeout_s=30.0)
        deliveries = [_delivery(service, job_id) for job_id in theirs]
        assert {each.state for each in deliveries} == {"pending"}
        messages = service.redis._client().llen("retalking.webhooks")
        assert messages == 0
    for job_id in theirs:  # leave no pending events to the tests that follow
        service.client.delete(f"/jobs/{job_id}").raise_for_status()


@pytest.mark.parametrize("asked", ["-1", "\xb2", "9" * 5000, "Mon, 01 Jan 1900 00:00:00 GMT", "Mon, 32 Foo 9 9:9:9"])
def test_the_receiver_asks_for_nonsense(service: Service, asked: str) -> None:
    """Ignored, or bounded: the next attempt has its time, and the worker lives."""
    service.hooks.plan = lambda _, before: Answer(503, {"Retry-After": asked}) if before == 0 else Answer()
    job_id = service.submit()
    wait_until(lambda: any(each.attempts for each in service.store.webhooks.deliveries(job_id)), 30)
    assert _delivery(service, job_id).attempts[0].status_code == 503
    if asked.startswith("9"):  # a day is the longest that it gets
        service.store.webhooks.redeliver(job_id, _delivery(service, job_id).id)
    check_outcomes(service, [job_id])


@pytest.mark.faults_long
def test_the_webhook_worker_is_killed_while_it_delivers(service: Service) -> None:
    """The receiver holds the request when its sender dies: the hold on the delivery runs out, another sends it."""
    service.hooks.plan = lambda _, before: Answer(after_s=0.8 if before == 0 else 0.0)
    job_id = service.submit()
    wait_until(lambda: service.hooks.about(job_id), 20)
    service.webhooks.kill()
    service.mend()
    (delivery,) = service.store.webhooks.deliveries(job_id)
    assert delivery.state == "pending"
    check_outcomes(service, [job_id], timeout_s=90)
    assert len(service.hooks.about(job_id)) == 2
