"""The receiver of webhooks is down, slow, or answers oddly. A job's outcome never depends on it."""

from __future__ import annotations

import time

import pytest

from jobs.models import Delivery
from tests.faults.hooks import Answer
from tests.faults.outcome import check_outcomes
from tests.faults.service import Service

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def _back_to_normal(service: Service):
    plan = service.hooks.plan
    yield
    service.hooks.plan = plan


def _delivery(service: Service, job_id: str) -> Delivery:
    (delivery,) = service.store.deliveries(job_id)
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
    """It has heard the first one, but we do not know: it is told again, under the same id."""
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


@pytest.mark.faults_long
def test_the_webhook_worker_is_killed_while_it_delivers(service: Service) -> None:
    """The receiver holds the request when its sender dies: the hold on the delivery runs out, another sends it."""
    service.hooks.plan = lambda _, before: Answer(after_s=0.8 if before == 0 else 0.0)
    job_id = service.submit()
    deadline = time.monotonic() + 20
    while not service.hooks.about(job_id):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    service.webhooks.kill()
    service.mend()
    (delivery,) = service.store.deliveries(job_id)
    assert delivery.state == "pending"
    check_outcomes(service, [job_id], timeout_s=90)
    assert len(service.hooks.about(job_id)) == 2
