"""Races of callers with each other and with the end of a job."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs.models import JobStatus
from jobs.store import JobStore, WrongStateError
from tests.faults.outcome import TERMINAL, check_outcomes
from tests.faults.service import Service
from tests.jobs.making import EVERY_EVENT, HOOK, RETENTION_S, start_job, succeed

pytestmark = pytest.mark.faults


def test_a_cancel_races_with_completion_a_thousand_times(job_store: JobStore) -> None:
    """In the store, where the race is decided: both calls start at one moment, on connections of their own."""
    outcomes: Counter[JobStatus] = Counter()
    start = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(1000):
            lease = start_job(job_store, webhook_url=HOOK, webhook_events=EVERY_EVENT)

            def finish(lease=lease) -> None:
                start.wait()
                try:
                    succeed(job_store, lease)
                except WrongStateError:
                    job_store.jobs.cancel(lease, retention_s=RETENTION_S)

            def cancel(job_id: str = lease.job_id) -> None:
                start.wait()
                job_store.jobs.request_cancel(job_id, retention_s=RETENTION_S)

            for done in [pool.submit(finish), pool.submit(cancel)]:
                done.result(30)
            job = job_store.jobs.get(lease.job_id)
            sent = [delivery.event for delivery in job_store.webhooks.deliveries(job.id) if delivery.event in TERMINAL]
            events = [event.event for event in job_store.jobs.events(job.id, after=None) if event.event in TERMINAL]
            assert sent == events == [f"job.{job.status}"]
            assert (job.result is None) == (job.status is JobStatus.CANCELED)
            outcomes[job.status] += 1
    assert set(outcomes) == {JobStatus.SUCCEEDED, JobStatus.CANCELED}, "both sides must win now and then"


@pytest.mark.faults_long
@pytest.mark.timeout(1800)
def test_a_cancel_races_with_completion_in_the_whole_service(service: Service) -> None:
    """Each job is canceled at a random moment around its end."""
    choose = random.Random(7)
    jobs = []
    for _ in range(1000):
        job_id = service.submit(choose.choice([0, 0, 60]))
        jobs.append(job_id)
        _wait_a_moment(service, job_id, choose.choice(["analyze", "synthesize", "publish"]))
        service.store.jobs.request_cancel(job_id, retention_s=RETENTION_S)
    check_outcomes(service, jobs, may_be_canceled=True, timeout_s=120)


def _wait_a_moment(service: Service, job_id: str, stage: str) -> None:
    """Until the job is in the stage, or over."""
    while (job := service.get(job_id)).stage != stage and not job.status.is_over:
        continue


def test_fifty_submissions_with_one_key_make_one_job(service: Service) -> None:
    before = {key.split("/")[1] for key in service.objects.list_keys("jobs/")}
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: service.post(key="fifty"), range(50)))
    assert {answer.status_code for answer in answers} == {202}
    (job_id,) = {answer.json()["id"] for answer in answers}
    assert Counter("idempotent-replayed" in answer.headers for answer in answers) == {True: 49, False: 1}
    check_outcomes(service, [job_id])
    assert {key.split("/")[1] for key in service.objects.list_keys("jobs/")} - before == {job_id}
