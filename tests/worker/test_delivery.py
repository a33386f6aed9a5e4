"""Webhooks: signed, retried on the store's schedule, given up when that is due, and never sent elsewhere."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from jobs.ids import new_job_id
from jobs.keyring import webhook_secret
from jobs.local_objects import LocalObjectStore
from jobs.models import Delivery, ErrorInfo, InputRef, JobRequest, JobSpec, JobView
from jobs.redis_store import RedisJobStore
from jobs.settings import Settings
from jobs.view import view_job
from tests.worker.receiver import Call, Receiver, Reply, receiving
from worker.delivery import Courier, retry_after_s


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        data_dir=tmp_path,
        allow_private_hosts="127.0.0.1",
        webhook_backoff_s=100,
        webhook_backoff_cap_s=1000,
        webhook_max_attempts=3,
        webhook_timeout_s=1,
    )


@pytest.fixture
def courier(job_store: RedisJobStore, settings: Settings, tmp_path: Path) -> Courier:
    objects = LocalObjectStore(tmp_path / "objects")
    signer = Webhook(webhook_secret(settings))
    return Courier(job_store, settings, signer, lambda job: view_job(job, job_store, objects, settings))


@pytest.fixture
def failed(job_store: RedisJobStore, receiver: Receiver) -> Callable[..., Delivery]:
    """A job that failed, with its delivery due."""

    def make(url: str | None = None, **asked: Any) -> Delivery:
        job_id = new_job_id()
        ref = InputRef(kind="url", url="http://inputs.example/?token=secret")
        request = JobRequest(webhook_url=url or f"{receiver.url}/hook?key=hush", **asked)
        job_store.create(job_id, JobSpec(video=ref, audio=ref, request=request), max_attempts=1)
        lease = job_store.claim(job_id, "w", 30)
        assert lease is not None
        job_store.fail(lease, ErrorInfo(code="face_not_found", message="No face."), retention_s=600)
        return job_store.deliveries(job_id)[-1]

    return make


def make_due(store: RedisJobStore, delivery: Delivery) -> None:
    """The pause is over: what the clock does in earnest."""
    store._client.zadd(store._key("webhooks_due"), {delivery.id: 0})


def verify(settings: Settings, call: Call) -> dict[str, Any]:
    return Webhook(webhook_secret(settings)).verify(call.body, call.headers)


def test_a_delivery_carries_the_job_signed(
    courier: Courier, settings: Settings, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    delivery = failed(metadata={"order": "ö-7"})
    done = courier.deliver(delivery.id)
    assert done is not None
    assert (done.state, [attempt.status_code for attempt in done.attempts]) == ("delivered", [200])
    (call,) = receiver.calls
    assert (call.method, call.path) == ("POST", "/hook?key=hush")
    assert call.headers["content-type"] == "application/json"
    assert call.headers["webhook-id"] == delivery.id
    assert abs(int(call.headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60
    event = verify(settings, call)
    assert event["type"] == "job.failed"
    assert datetime.fromisoformat(event["timestamp"]) == delivery.created_at
    view = JobView.model_validate(event["data"])
    assert (view.id, view.status, view.metadata) == (delivery.job_id, "failed", {"order": "ö-7"})
    assert view.error is not None
    assert view.error.code == "face_not_found"
    assert b"secret" not in call.body
    assert b"hush" not in call.body


def test_a_changed_body_does_not_verify(
    courier: Courier, settings: Settings, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    courier.deliver(failed().id)
    (call,) = receiver.calls
    with pytest.raises(WebhookVerificationError):
        verify(settings, Call(call.method, call.path, call.headers, call.body.replace(b"failed", b"passed")))


def test_what_fails_is_tried_again_under_the_same_id_until_it_is_given_up(
    courier: Courier, job_store: RedisJobStore, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    receiver.replies = [Reply(500)]
    delivery = failed()
    for number, ceiling_s in ((1, 100), (2, 200)):
        done = courier.deliver(delivery.id)
        assert done is not None
        assert (done.state, len(done.attempts)) == ("pending", number)
        assert done.next_attempt_at is not None
        assert timedelta(0) <= done.next_attempt_at - done.attempts[-1].at <= timedelta(seconds=ceiling_s + 2)
        assert done.attempts[-1].error == "The address answered with status 500."
        make_due(job_store, delivery)
    done = courier.deliver(delivery.id)
    assert done is not None
    assert (done.state, len(done.attempts), done.next_attempt_at) == ("given_up", 3, None)
    assert courier.deliver(delivery.id) is None
    assert {call.headers["webhook-id"] for call in receiver.calls} == {delivery.id}

    receiver.replies = [Reply(204)]
    job_store.redeliver(delivery.job_id)
    done = courier.deliver(delivery.id)
    assert done is not None
    assert (done.state, len(done.attempts)) == ("delivered", 4)
    assert receiver.calls[-1].headers["webhook-id"] == delivery.id


def test_a_delivered_event_can_be_sent_once_more(
    courier: Courier, job_store: RedisJobStore, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    delivery = failed()
    courier.deliver(delivery.id)
    (again,) = job_store.redeliver(delivery.job_id)
    courier.deliver(again.id)
    assert [call.headers["webhook-id"] for call in receiver.calls] == [delivery.id] * 2


def test_gone_gives_up_at_once(courier: Courier, receiver: Receiver, failed: Callable[..., Delivery]) -> None:
    receiver.replies = [Reply(410)]
    done = courier.deliver(failed().id)
    assert done is not None
    assert (done.state, len(done.attempts)) == ("given_up", 1)


@pytest.mark.parametrize(
    ("status", "asked", "least_s", "most_s"),
    [
        (429, "300", 299, 302),
        (503, "<date>", 200, 402),
        (429, "999999", 999, 1002),
        (500, "300", 0, 102),
        (503, "soon", 0, 102),
    ],
)
def test_an_overloaded_receiver_sets_the_pause_within_the_cap(
    courier: Courier,
    receiver: Receiver,
    failed: Callable[..., Delivery],
    status: int,
    asked: str,
    least_s: int,
    most_s: int,
) -> None:
    # The date form of the header is made here: written at collection it would be over when a long run gets to it.
    asked = asked.replace("<date>", format_datetime(datetime.now(UTC) + timedelta(seconds=400)))
    receiver.replies = [Reply(status, {"Retry-After": asked})]
    done = courier.deliver(failed().id)
    assert done is not None
    assert done.next_attempt_at is not None
    pause_s = (done.next_attempt_at - done.attempts[-1].at).total_seconds()
    assert least_s <= pause_s <= most_s


def test_a_redirect_is_not_followed(courier: Courier, receiver: Receiver, failed: Callable[..., Delivery]) -> None:
    receiver.replies = [Reply(308, {"Location": f"{receiver.url}/elsewhere"})]
    done = courier.deliver(failed().id)
    assert done is not None
    assert done.state == "pending"
    assert "redirect" in str(done.attempts[-1].error)
    assert [call.path for call in receiver.calls] == ["/hook?key=hush"]


def test_a_private_address_is_refused_where_the_socket_is_opened(
    courier: Courier, failed: Callable[..., Delivery]
) -> None:
    """It was public when the job came in; the job store holds it, so only the connection can refuse it."""
    done = courier.deliver(failed(url="http://[::1]:1/").id)
    assert done is not None
    assert done.state == "given_up"
    assert done.attempts[-1].status_code is None
    assert "not public" in str(done.attempts[-1].error)


def test_a_receiver_that_does_not_answer_is_tried_again(
    courier: Courier, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    receiver.replies = [Reply(200, before_status=lambda: time.sleep(1.5))]
    done = courier.deliver(failed().id)
    assert done is not None
    assert (done.state, done.attempts[-1].status_code) == ("pending", None)
    assert "in time" in str(done.attempts[-1].error)
    assert done.attempts[-1].duration_ms < 2500


def test_an_answer_that_drips_is_an_answer(
    courier: Courier, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    receiver.replies = [Reply(200, chunks=(b"x",) * 40, before_chunk=lambda: time.sleep(0.1))]
    done = courier.deliver(failed().id)
    assert done is not None
    assert done.state == "delivered"
    assert done.attempts[-1].duration_ms < 2500


def test_a_flood_in_the_answer_is_not_read(
    courier: Courier, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    receiver.replies = [Reply(200, {"Content-Length": ""}, chunks=(b"x" * 65536,) * 2000)]
    done = courier.deliver(failed().id)
    assert done is not None
    assert done.state == "delivered"
    assert done.attempts[-1].duration_ms < 1000


def test_two_couriers_do_not_deliver_one_event_twice(
    courier: Courier, job_store: RedisJobStore, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    delivery = failed()
    held = job_store.claim_delivery(delivery.id, 30)
    assert held is not None
    assert courier.deliver(delivery.id) is None
    assert receiver.calls == []


def test_an_event_of_a_deleted_job_is_dropped(
    courier: Courier, job_store: RedisJobStore, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    delivery = failed()
    job_store.delete(delivery.job_id)
    assert courier.deliver(delivery.id) is None
    assert receiver.calls == []


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, None), ("7", 7.0), ("-1", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)]
)
def test_retry_after_has_two_forms(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value) == seconds


def test_the_body_is_compact_json_in_utf8(
    courier: Courier, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    courier.deliver(failed().id)
    body = receiver.calls[0].body.decode()
    assert json.loads(body)
    assert not re.search(r'": |, "', body.partition('"message"')[0])
