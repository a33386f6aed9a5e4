"""The broker's configuration, with a real Redis and a real worker."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cli.stack.redis_server import EmbeddedRedis
from jobs.messages import MessageNotSentError, make_celery, send_render, visibility_timeout_s
from jobs.names import RENDER_QUEUE, RENDER_TASK
from jobs.opening import connect_redis
from jobs.settings import Settings
from jobs.store import JobStore
from tests.jobs.making import add_job
from tests.services import free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
PROBE_KEY = "probe:ran"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A separate server, because queue names are global."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


def settings_of(url: str, **values: object) -> Settings:
    return Settings(_env_file=None, redis_url=url, **values)


def test_messages_are_a_task_name_and_an_id(broker: EmbeddedRedis) -> None:
    client = connect_redis(broker.url)
    store, celery = JobStore(client), make_celery(settings_of(broker.url))
    jobs = [add_job(store, priority=priority, metadata={"secret": "stays here"}) for priority in (0, 1, 2)]
    for job in jobs:
        send_render(celery, job)
    lists = [f"{RENDER_QUEUE}\x06\x166", f"{RENDER_QUEUE}\x06\x163", RENDER_QUEUE]
    for name, subject in zip(lists, [job.id for job in jobs], strict=True):
        (raw,) = client.lrange(name, 0, -1)
        message = json.loads(raw)
        assert message["headers"]["task"] == RENDER_TASK
        assert message["content-type"] == "application/json"
        assert message["headers"]["argsrepr"] == repr([subject])
        assert "stays here" not in raw


def test_an_unreachable_broker_is_reported_quickly(job_store: JobStore) -> None:
    celery = make_celery(settings_of(f"redis://127.0.0.1:{free_port()}/0"))
    begun = time.monotonic()
    with pytest.raises(MessageNotSentError):
        send_render(celery, add_job(job_store))
    assert time.monotonic() - begun < 10


def test_the_visibility_timeout_exceeds_the_longest_render() -> None:
    settings = settings_of("redis://h/0", render_limit_s=10_000)
    assert visibility_timeout_s(settings) > 10_000 * 1.2
    options = make_celery(settings).conf.broker_transport_options
    assert options["visibility_timeout"] == visibility_timeout_s(settings)


def test_make_celery_neither_connects_nor_becomes_the_default() -> None:
    from celery import current_app

    made = make_celery(settings_of("redis://host.invalid/0"))
    assert current_app._get_current_object() is not made
    assert made.conf.result_backend is None
    assert made.conf.accept_content == ["json"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h/0", None),
        ("rediss://h/0", {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("rediss://h/0?ssl_cert_reqs=none", None),
    ],
)
def test_tls_verifies_certificates_by_default(url: str, expected: dict | None) -> None:
    assert make_celery(settings_of(url)).conf.broker_use_ssl == expected


def test_a_worker_works_again_after_the_broker_was_restarted(tmp_path: Path) -> None:
    """Killed without warning and back after a second, first while the task's acknowledgement is on its way, then
    while the worker idles: what is sent afterwards is done."""
    data, port, log = tmp_path / "redis", free_port(), tmp_path / "worker.log"
    server = EmbeddedRedis(data, port=port)
    client = redis.Redis.from_url(server.url, decode_responses=True)
    celery = make_celery(settings_of(server.url))
    store = JobStore(connect_redis(server.url))
    environment = os.environ | {"RETALKING_REDIS_URL": server.url, "RETALKING_PROBE_KEY": PROBE_KEY}
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.probe_worker"],
            cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:

        def send() -> str:
            job = add_job(store)
            send_render(celery, job)
            return job.id

        def ran() -> list[str]:
            return client.lrange(PROBE_KEY, 0, -1)

        first = send()
        wait_until(lambda: first in ran(), 30, what=f"first task; {log.read_text()}")
        for pause_s in (0.0, 1.5):
            time.sleep(pause_s)
            server._process.kill()
            server.stop()
            time.sleep(1)
            server = EmbeddedRedis(data, port=port)
            again = send()
            wait_until(lambda job_id=again: job_id in ran(), 40, what="a task after the restart")
        assert worker.poll() is None
    finally:
        worker.terminate()
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        server.stop()
