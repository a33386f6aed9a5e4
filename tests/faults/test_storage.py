"""The bucket is down, slow, answers with errors, or breaks off: at submission, at fetch, at publish."""

from __future__ import annotations

import threading
import time

import pytest

from tests.faults.outcome import check_outcomes
from tests.faults.service import Service
from tests.services import wait_until

pytestmark = pytest.mark.faults

FETCH = r"^(GET|HEAD) .*/input/"
PUBLISH = r"^PUT .*/result/"
# What happens to a request, and how often: the client asks up to four times by itself
FAULTS = {
    "refused": {"refuse": True, "times": 3},
    "500": {"status": 500, "times": 3},
    "503": {"status": 503, "times": 3},
}


@pytest.mark.parametrize("place", [FETCH, PUBLISH])
@pytest.mark.parametrize("name", FAULTS)
def test_the_bucket_stumbles(service: Service, place: str, name: str) -> None:
    with service.proxy.fault(place, **FAULTS[name]) as fault:
        jobs = check_outcomes(service, service.submit_many(0, 0))
    assert fault.met == 3
    assert {job.attempt for job in jobs} == {1}


@pytest.mark.faults_long
@pytest.mark.parametrize("place", [FETCH, PUBLISH])
def test_the_bucket_is_down_for_a_while(service: Service, place: str) -> None:
    """Longer than the client's own retries. It costs no attempt: a render is expensive."""
    with service.proxy.fault(place, refuse=True) as fault:
        jobs = service.submit_many(0, 0, 0)
        assert fault.met_once.wait(20)
        time.sleep(5)
    assert {job.attempt for job in check_outcomes(service, jobs)} == {1}


def test_downloads_break_off_in_the_middle(service: Service) -> None:
    with service.proxy.fault(r"^GET .*/input/", truncate=True, times=3) as fault:
        check_outcomes(service, service.submit_many(0, 0))
    assert fault.met == 3


def test_uploads_of_results_break_off_in_the_middle(service: Service) -> None:
    """Half of the result reaches the bucket, repeatedly: it never appears under the key."""
    with service.proxy.fault(PUBLISH, cut_upload=True, times=3) as fault:
        check_outcomes(service, service.submit_many(0, 0))
    assert fault.met == 3


def test_the_bucket_is_slow(service: Service) -> None:
    """Every answer drips for longer than a lease: the heartbeat keeps the job."""
    with service.proxy.fault(r"^GET .*/input/", drip_s=0.25, times=2):
        (job,) = check_outcomes(service, [service.submit()])
    assert job.attempt == 1


@pytest.mark.faults_long
def test_the_answer_to_a_result_is_slow(service: Service) -> None:
    with service.proxy.fault(PUBLISH, hold=threading.Event()) as held:
        job_id = service.submit()
        assert held.met_once.wait(30)
        time.sleep(4)
    (job,) = check_outcomes(service, [job_id])
    assert job.attempt == 1


@pytest.mark.faults_long
@pytest.mark.parametrize("place", [FETCH, PUBLISH])
def test_the_bucket_stays_down(service: Service, place: str) -> None:
    """Every attempt retries for half a minute; then the job fails as `storage_failed`, and other jobs succeed."""
    with service.proxy.fault(place, refuse=True):
        jobs = service.submit_many(0)
        check_outcomes(service, jobs, failed={jobs[0]: "storage_failed"}, timeout_s=300)
    check_outcomes(service, service.submit_many(0))


def test_a_submission_is_refused_whole_while_the_bucket_is_down(service: Service) -> None:
    before = set(service.objects.list_keys("jobs/"))
    with service.proxy.fault(r"^PUT .*/input/", refuse=True):
        answer = service.post()
    assert answer.status_code == 503
    assert (answer.json()["code"], answer.json()["retryable"]) == ("service_unavailable", True)
    assert set(service.objects.list_keys("jobs/")) == before


def test_a_submission_whose_second_file_fails_leaves_no_first_one(service: Service) -> None:
    """The bucket is down for good from the second file on, so that even the clean-up fails; the janitor does it."""
    before = set(service.objects.list_keys("jobs/"))
    with service.proxy.fault(r"^(PUT .*/input/audio|POST|DELETE|GET)", refuse=True):
        assert service.post().status_code == 503
    (left,) = {key.split("/")[1] for key in set(service.objects.list_keys("jobs/")) - before}
    service.store.uploads.add_arrival(left, 0.0)  # A day has passed
    wait_until(lambda: set(service.objects.list_keys("jobs/")) == before, 20, what="the janitor finds the file")
