"""Processes that are killed or terminated with jobs in flight."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jobs.messages import make_celery
from jobs.models import JobStatus
from jobs.names import RENDER_QUEUE, RENDER_TASK
from jobs.settings import Settings
from tests.faults.outcome import check_outcomes
from tests.faults.processes import is_running
from tests.faults.service import Service
from tests.faults.timed_engine import GLUTTON, KILLER
from tests.jobs.making import published_keys
from tests.services import S3Endpoint, wait_until

pytestmark = pytest.mark.faults


def test_the_render_child_is_killed(service: Service) -> None:
    jobs = service.submit_many(1500, 800, 0, 0)
    os.kill(service.child_of(service.wait_running(jobs[0])), signal.SIGKILL)
    first, *others = check_outcomes(service, jobs)
    assert first.attempt == 2
    assert {job.attempt for job in others} == {1}


@pytest.fixture
def unhurried(s3: S3Endpoint, tmp_path: Path) -> Iterator[Service]:
    """With the default rounds of the janitor, and a lease so long that it cannot be what ends the wait."""
    defaults = {"LEASE_S": "300", "JANITOR_INTERVAL_S": str(Settings.model_fields["janitor_interval_s"].default)}
    service = Service(tmp_path / "service", s3.with_bucket("unhurried"), **defaults)
    try:
        yield service.start()
    finally:
        service.stop()


def test_a_killed_child_is_noticed_before_its_lease_runs_out(
    unhurried: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parent releases the lease of its dead child, and the janitor's next round queues the job again. The delay is
    printed: the target is under 3 s, and by the default lease alone it would be up to 34 s."""
    (job_id,) = unhurried.submit_many(1500)
    child = unhurried.child_of(unhurried.wait_running(job_id))
    killed_at = time.time()
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: unhurried.get(job_id).attempt == 2, 60, 0.01, "another worker has the job")
    moments = {
        event.event: event.at.timestamp() - killed_at for event in unhurried.store.jobs.events(job_id, after=None)
    }
    with capsys.disabled():
        print(f"\nkilled child: job queued again after {moments['job.requeued']:.2f} s,", end=" ")
        print(f"running again after {moments['job.started']:.2f} s (target: under 3 s)")
    check_outcomes(unhurried, [job_id])


def test_the_worker_parent_is_killed_and_its_child_does_not_stay(service: Service) -> None:
    jobs = service.submit_many(1500, 0, 0)
    child = service.child_of(service.wait_running(jobs[0]))
    number = service.parent_of(child)
    service.workers[number].kill()
    service.start_worker(number)
    check_outcomes(service, jobs)
    wait_until(lambda: not is_running(child), 20, what="the orphan has ended")


def test_the_child_is_killed_between_publishing_and_recording(service: Service) -> None:
    """The result of the first attempt lies in the bucket, and no record will ever name it."""
    with service.proxy.fault(r"PUT .*/result/lease-1", times=1, hold=threading.Event()) as held:
        job_id = service.submit()
        assert held.met_once.wait(30)
        wait_until(lambda: any("result" in key for key in service.objects.list_keys(f"jobs/{job_id}/")))
        os.kill(service.child_of(service.get(job_id)), signal.SIGKILL)
    (job,) = check_outcomes(service, [job_id])
    assert job.attempt == 2


def test_the_child_is_killed_while_it_publishes_beside_the_evaluation(service: Service) -> None:
    """The upload of the result hangs in its thread while the metrics are computed; neither outlives the child."""
    with service.proxy.fault(r"PUT .*/result/lease-1", times=1, hold=threading.Event()) as held:
        job_id = service.submit(evaluate=["av_duration_difference"])
        assert held.met_once.wait(30)
        job = service.wait_running(job_id, "publish")  # evaluated; the upload is not over
        os.kill(service.child_of(job), signal.SIGKILL)
    wait_until(lambda: service.get(job_id).status.is_over, 60, 0.05, f"{job_id} is over")
    job = service.get(job_id)
    assert (job.status, job.attempt, len(job.evaluation or [])) == (JobStatus.SUCCEEDED, 2, 1)
    assert job.result is not None
    kept = {str(ref.key) for ref in job.inputs.values()} | set(published_keys(job.result.key))
    wait_until(
        lambda: set(service.objects.list_keys(f"jobs/{job_id}/")) <= kept,
        20,
        0.1,
        "what the dead child published is deleted",
    )
    assert [event.event for event in service.store.jobs.events(job_id, after=None)].count("job.succeeded") == 1


def test_the_api_is_killed_between_storing_and_sending(service: Service) -> None:
    """The caller sees a broken connection, repeats the request with its idempotency key, and gets the existing job."""
    service.api.stop()
    service.start_api("tests.faults.dying_api")
    service.mend()
    with pytest.raises(httpx.TransportError):
        service.post(key="killed-1")
    service.api.wait()
    service.mend()
    again = service.post(key="killed-1")
    assert again.status_code == 202
    assert again.headers["idempotent-replayed"] == "true"
    check_outcomes(service, [again.json()["id"]])


def test_the_api_is_killed_during_an_upload(service: Service) -> None:
    """The first file was staged whole when the API died: no job will ever own it."""
    before = set(service.objects.list_keys("jobs/"))
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        head = 'Content-Disposition: form-data; name="{0}"; filename="{0}"\r\n\r\n'
        first = b"--x\r\n" + head.format("video").encode() + service.video.read_bytes()
        second = b"\r\n--x\r\n" + head.format("audio").encode() + service.audio.read_bytes()
        connection.sendall(
            b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 9999999\r\n\r\n" + first + second
        )
        wait_until(lambda: set(service.objects.list_keys("jobs/")) - before, what="the first file is staged")
        service.api.kill()
    (staged,) = {key.split("/")[1] for key in set(service.objects.list_keys("jobs/")) - before}
    service.mend()
    assert service.store.uploads.expired_arrivals() == []
    service.store.uploads.add_arrival(staged, 0.0)  # A day has passed
    wait_until(lambda: set(service.objects.list_keys("jobs/")) == before, 20, 0.1, "the staged file is removed")


def test_sigterm_during_a_render_hands_the_job_back(service: Service) -> None:
    """A short job is finished within the grace, a long one goes back to the queue without costing an attempt."""
    jobs = service.submit_many(2500, 0, 0)
    number = service.parent_of(service.child_of(service.wait_running(jobs[0])))
    service.workers[number].signal(signal.SIGTERM)
    service.workers[number].wait()
    service.start_worker(number)
    assert {job.attempt for job in check_outcomes(service, jobs)} == {1}


def test_a_job_that_kills_its_worker_every_time(service: Service) -> None:
    killer = service.submit(KILLER)
    others = service.submit_many(0, 0, 0, 0)
    jobs = check_outcomes(service, [killer, *others], failed={killer: "worker_lost"})
    assert jobs[0].attempt == jobs[0].max_attempts == 3


def test_a_job_that_takes_all_memory(service: Service) -> None:
    """Its allocation is refused and the job fails; its process is replaced before it takes another job."""
    glutton = service.submit(GLUTTON)
    wait_until(lambda: service.get(glutton).worker, 20)
    child = service.child_of(service.get(glutton))
    jobs = check_outcomes(service, [glutton, *service.submit_many(0, 0)], failed={glutton: "out_of_memory"})
    assert {job.attempt for job in jobs} == {1}
    wait_until(lambda: not is_running(child), 20, what="the process has been replaced")


def test_one_message_three_times_at_once(service: Service) -> None:
    celery = make_celery(service.settings)
    jobs = service.submit_many(1000, 1000)
    for job_id in jobs:
        threads = [
            threading.Thread(target=celery.send_task, args=(RENDER_TASK, [job_id]), kwargs={"queue": RENDER_QUEUE})
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for job in check_outcomes(service, jobs):
        starts = [event for event in service.store.jobs.events(job.id, after=None) if event.event == "job.started"]
        assert (job.attempt, len(starts)) == (1, 1)


def test_a_lease_that_expires_while_the_worker_still_runs(service: Service) -> None:
    """The child is frozen past its lease, another worker finishes the job, and the frozen one goes on: it must lose."""
    job_id = service.submit(1000)
    child = service.child_of(service.wait_running(job_id))
    os.kill(child, signal.SIGSTOP)
    try:
        wait_until(lambda: service.get(job_id).status.is_over, 30)
        settled = service.get(job_id)
    finally:
        os.kill(child, signal.SIGCONT)
    wait_until(lambda: str(child) not in _busy(service, job_id), 20, what="the late writer has let go")
    (job,) = check_outcomes(service, [job_id])
    assert (job, job.attempt) == (settled, 2)
    assert is_running(child)


def test_a_late_writer_that_has_already_published(service: Service) -> None:
    """As above, but frozen while its result is being uploaded."""
    with service.proxy.fault(r"PUT .*/result/lease-1", times=1, hold=threading.Event()) as held:
        job_id = service.submit()
        assert held.met_once.wait(30)
        child = service.child_of(service.get(job_id))
        os.kill(child, signal.SIGSTOP)
        try:
            wait_until(lambda: service.get(job_id).status.is_over, 30)
        finally:
            os.kill(child, signal.SIGCONT)
    (job,) = check_outcomes(service, [job_id])
    assert job.result.key.endswith("lease-2.mp4")


def _busy(service: Service, job_id: str) -> str:
    return " ".join(card.id for card in service.store.workers.live() if card.busy_with == job_id)
