"""Redis, broker and job store, is killed, restarted, frozen, or cuts all connections, with jobs in flight."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from jobs.opening import connect_redis
from tests.faults.outcome import check_outcomes
from tests.faults.service import Service
from tests.services import wait_until

pytestmark = pytest.mark.faults


def _submit_and_start(service: Service) -> list[str]:
    jobs = service.submit_many(2500, 500, 500, 500, 0, 0)
    service.wait_running(jobs[0])
    return jobs


@pytest.mark.faults_long
def test_redis_is_restarted(service: Service) -> None:
    jobs = _submit_and_start(service)
    os.kill(service.redis.pid, signal.SIGTERM)
    time.sleep(1.0)
    wait_until(service.redis.revive, 10, 0.1, "Redis is gone, and started again")
    check_outcomes(service, [*jobs, service.submit()])


def test_redis_is_killed_and_reads_its_append_only_file(service: Service) -> None:
    jobs = _submit_and_start(service)
    os.kill(service.redis.pid, signal.SIGKILL)
    time.sleep(1.0)
    wait_until(service.redis.revive, 10, 0.1, "Redis is gone, and started again")
    check_outcomes(service, [*jobs, service.submit()])


def test_connections_to_redis_are_cut_again_and_again(service: Service) -> None:
    jobs = _submit_and_start(service)
    with connect_redis(service.redis.url) as client:
        for _ in range(8):
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            time.sleep(0.3)
    check_outcomes(service, [*jobs, service.submit()])


@pytest.mark.parametrize("seconds", [11, pytest.param(60, marks=pytest.mark.faults_long)])
def test_redis_is_frozen(service: Service, seconds: int) -> None:
    """11 s is more than a socket's timeout and many leases; 60 s is more than every retry. Callers get 503
    or wait meanwhile, and no accepted job is lost."""
    jobs = _submit_and_start(service)
    os.kill(service.redis.pid, signal.SIGSTOP)
    answers: list[int] = []
    caller = threading.Thread(target=lambda: answers.append(service.client.get(f"/jobs/{jobs[0]}").status_code))
    caller.start()
    try:
        time.sleep(seconds)
    finally:
        os.kill(service.redis.pid, signal.SIGCONT)
    caller.join(90)
    assert answers in ([200], [503])
    check_outcomes(service, [*jobs, service.submit()], timeout_s=120)
