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
from hypothesis import example, given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from jobs.local_objects import LocalObjectStore
from jobs.models import Delivery, ErrorInfo, InputRef, JobRequest, JobSpec, JobView
from jobs.names import new_job_id
from jobs.settings import Settings
from jobs.signing import WebhookSecrets, webhook_secret
from jobs.store import JobStore, Origin, ReceiverRules
from jobs.view import view_batch, view_job
from tests.worker.receiver import Call, Receiver, Reply, receiving
from worker.delivery import LONGEST_PAUSE_S, WebhookDeliverer, retry_after_s
from worker.egress import Egress

# Dates that are nearly right
RETRY_DATE = re.compile(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,6} \d{1,3}:\d{1,3}:\d{1,3} ?(GMT|[+-]\d{1,6})?")


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
        webhook_retries_s="100,200",
        webhook_timeout_s=1,
    )


class Sender:
    """Takes due deliveries from the store and sends them, one after the other."""

    def __init__(self, store: JobStore, settings: Settings, tmp_path: Path) -> None:
        self._store = store
        objects = LocalObjectStore(tmp_path / "objects")
        self.secrets = WebhookSecrets(settings, store.webhooks.secret_state)
        self._deliverer = WebhookDeliverer(
            store,
            settings,
            self.secrets,
            lambda job, at: view_job(job, store, objects, settings, at=at),
            lambda batch: view_batch(batch, store, settings),
        )

    def deliver(self, delivery_id: str) -> Delivery | None:
        """None: it could not be taken, or its job is gone."""
        taken = self._store.webhooks.take(1, ReceiverRules(4, 30.0))
        if not taken:
            return None
        assert [each.id for each in taken] == [delivery_id]
        return self._deliverer.deliver(taken[0])


@pytest.fixture
def sender(job_store: JobStore, settings: Settings, tmp_path: Path) -> Sender:
    return Sender(job_store, settings, tmp_path)


@pytest.fixture
def failed(job_store: JobStore, receiver: Receiver) -> Callable[..., Delivery]:
    """A job that failed, with its delivery due."""

    def make(url: str | None = None, owner: str = "", **asked: Any) -> Delivery:
        job_id = new_job_id()
        ref = InputRef(kind="url", url="http://inputs.example/?token=secret")
        request = JobRequest(webhook_url=url or f"{receiver.url}/hook?key=hush", **asked)
        spec = JobSpec(video=ref, audio=ref, request=request)
        job_store.jobs.create(job_id, spec, max_attempts=1, origin=Origin(owner, 100))
        (fetch,) = job_store.fetches.take(1, ReceiverRules(4, 30.0))
        job_store.fetches.finish(fetch, {"video": InputRef(kind="object", key=f"jobs/{job_id}/input/video-1")})
        lease = job_store.jobs.claim(job_id, "w", 30)
        assert lease is not None
        job_store.jobs.fail(lease, ErrorInfo(code="face_not_found", message="No face."), retention_s=600)
        return job_store.webhooks.deliveries(job_id)[-1]

    return make


def make_due(store: JobStore, delivery: Delivery) -> None:
    """End the pause, as the clock does in production."""
    receiver = store.redis.client.hget(store.redis.key("delivery", delivery.id), "receiver")
    owner = receiver.partition("@")[0]
    store.redis.client.zadd(store.redis.key("webhooks_due"), {delivery.id: 0})
    store.redis.client.zadd(store.redis.key("webhook_queue", receiver), {delivery.id: 0})
    store.redis.client.zadd(store.redis.key("webhook_receivers", owner), {receiver: 0})
    store.redis.client.zadd(store.redis.key("webhook_owners"), {owner: 0})


def verify(settings: Settings, call: Call) -> dict[str, Any]:
    return Webhook(webhook_secret(settings)).verify(call.body, call.headers)


def test_a_delivery_carries_the_job_signed(
    sender: Sender, settings: Settings, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    delivery = failed(metadata={"order": "ö-7"})
    done = sender.deliver(delivery.id)
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
    sender: Sender, settings: Settings, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    sender.deliver(failed().id)
    (call,) = receiver.calls
    with pytest.raises(WebhookVerificationError):
        verify(settings, Call(call.method, call.path, call.headers, call.body.replace(b"failed", b"passed")))


def test_a_failed_event_is_retried_under_the_same_id_until_it_is_given_up(
    sender: Sender, job_store: JobStore, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    receiver.replies = [Reply(500)]
    delivery = failed()
    for number, pause_s in ((1, 100), (2, 200)):
        done = sender.deliver(delivery.id)
        assert done is not None
        assert (done.state, len(done.attempts)) == ("pending", number)
        assert done.next_attempt_at is not None
        paused = done.next_attempt_at - done.attempts[-1].at
        assert timedelta(seconds=pause_s - 1) <= paused <= timedelta(seconds=1.1 * pause_s + 2)
        assert done.attempts[-1].error == "The address answered with status 500."
        make_due(job_store, delivery)
    done = sender.deliver(delivery.id)
    assert done is not None
    assert (done.state, len(done.attempts), done.next_attempt_at) == ("given_up", 3, None)
    assert sender.deliver(delivery.id) is None
    assert {call.headers["webhook-id"] for call in receiver.calls} == {delivery.id}

    receiver.replies = [Reply(204)]
    job_store.webhooks.redeliver(delivery.job_id)
    done = sender.deliver(delivery.id)
    assert done is not None
    assert (done.state, len(done.attempts)) == ("delivered", 4)
    assert receiver.calls[-1].headers["webhook-id"] == delivery.id


def test_a_delivered_event_can_be_redelivered(
    sender: Sender, job_store: JobStore, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    delivery = failed()
    sender.deliver(delivery.id)
    (again,) = job_store.webhooks.redeliver(delivery.job_id)
    sender.deliver(again.id)
    assert [call.headers["webhook-id"] for call in receiver.calls] == [delivery.id] * 2


def test_gone_gives_up_at_once(sender: Sender, receiver: Receiver, failed: Callable[..., Delivery]) -> None:
    receiver.replies = [Reply(410)]
    done = sender.deliver(failed().id)
    assert done is not None
    assert (done.state, len(done.attempts)) == ("given_up", 1)


@pytest.mark.parametrize(
    ("status", "asked", "least_s", "most_s"),
    [
        (429, "300", 299, 302),
        (503, "<date>", 200, 402),
        (429, "999999", LONGEST_PAUSE_S - 1, LONGEST_PAUSE_S + 2),
        (500, "300", 99, 112),
        (503, "soon", 99, 112),
        (429, "-5", 99, 112),
        (503, "\xb2", 99, 112),
        (503, "9" * 5000, LONGEST_PAUSE_S - 1, LONGEST_PAUSE_S + 2),
        (503, "Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_PAUSE_S - 1, LONGEST_PAUSE_S + 2),
        (503, "Mon, 01 Jan 1900 00:00:00 GMT", 99, 112),
        (503, "Mon, 32 Foo 99999999999999999999 99:99:99 +99999999", 99, 112),
    ],
)
def test_an_overloaded_receiver_sets_the_pause_within_the_cap(
    sender: Sender,
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
    done = sender.deliver(failed().id)
    assert done is not None
    assert done.next_attempt_at is not None
    pause_s = (done.next_attempt_at - done.attempts[-1].at).total_seconds()
    assert least_s <= pause_s <= most_s


def test_a_redirect_is_not_followed(sender: Sender, receiver: Receiver, failed: Callable[..., Delivery]) -> None:
    receiver.replies = [Reply(308, {"Location": f"{receiver.url}/elsewhere"})]
    done = sender.deliver(failed().id)
    assert done is not None
    assert done.state == "pending"
    assert "redirect" in str(done.attempts[-1].error)
    assert [call.path for call in receiver.calls] == ["/hook?key=hush"]


def test_a_private_address_is_refused_where_the_socket_is_opened(
    sender: Sender, failed: Callable[..., Delivery]
) -> None:
    """It was public when the job came in; the job store holds it, so only the connection can refuse it."""
    done = sender.deliver(failed(url="http://[::1]:1/").id)
    assert done is not None
    assert done.state == "given_up"
    assert done.attempts[-1].status_code is None
    assert "not public" in str(done.attempts[-1].error)


def test_a_receiver_that_does_not_answer_is_retried(
    sender: Sender, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    receiver.replies = [Reply(200, before_status=lambda: time.sleep(1.5))]
    done = sender.deliver(failed().id)
    assert done is not None
    assert (done.state, done.attempts[-1].status_code) == ("pending", None)
    assert "in time" in str(done.attempts[-1].error)
    assert done.attempts[-1].duration_ms < 2500


def test_a_slow_response_body_counts_as_an_answer(
    sender: Sender, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    receiver.replies = [Reply(200, chunks=(b"x",) * 40, before_chunk=lambda: time.sleep(0.1))]
    done = sender.deliver(failed().id)
    assert done is not None
    assert done.state == "delivered"
    assert done.attempts[-1].duration_ms < 2500


def test_a_large_response_body_is_not_read(sender: Sender, receiver: Receiver, failed: Callable[..., Delivery]) -> None:
    receiver.replies = [Reply(200, {"Content-Length": ""}, chunks=(b"x" * 65536,) * 2000)]
    done = sender.deliver(failed().id)
    assert done is not None
    assert done.state == "delivered"
    assert done.attempts[-1].duration_ms < 1000


def test_two_deliverers_do_not_deliver_one_event_twice(
    sender: Sender, job_store: JobStore, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    delivery = failed()
    assert [each.id for each in job_store.webhooks.take(9, ReceiverRules(9, 30))] == [delivery.id]
    assert sender.deliver(delivery.id) is None
    assert receiver.calls == []


def test_an_event_of_a_deleted_job_is_dropped(
    sender: Sender, job_store: JobStore, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    delivery = failed()
    job_store.jobs.delete(delivery.job_id)
    assert sender.deliver(delivery.id) is None
    assert receiver.calls == []


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, None), ("7", 7.0), ("-1", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)]
)
def test_retry_after_has_two_forms(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value) == seconds


def test_the_body_is_compact_json_in_utf8(sender: Sender, receiver: Receiver, failed: Callable[..., Delivery]) -> None:
    sender.deliver(failed().id)
    body = receiver.calls[0].body.decode()
    assert json.loads(body)
    assert not re.search(r'": |, "', body.partition('"message"')[0])


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")) | st.from_regex(RETRY_DATE))
@example("\xb2")
@example("9" * 400)
@example("9" * 5000)
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
def test_a_retry_after_of_any_bytes_never_raises_and_is_bounded(value: str) -> None:
    seconds = retry_after_s(value)
    assert seconds is None or 0 <= seconds <= LONGEST_PAUSE_S


@pytest.mark.parametrize("fault", [RuntimeError("surprise"), ValueError("bad"), OSError(5, "io"), MemoryError()])
def test_every_failed_request_counts_as_an_attempt_and_attempts_end(
    sender: Sender,
    job_store: JobStore,
    failed: Callable[..., Delivery],
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(Egress, "exchange", fail)
    delivery = failed()
    for number in (1, 2, 3):
        done = sender.deliver(delivery.id)
        assert done is not None
        assert len(done.attempts) == number
        assert type(fault).__name__ in str(done.attempts[-1].error)
        assert "surprise" not in str(done.attempts[-1].error)
        if number < 3:
            make_due(job_store, delivery)
    assert done.state == "given_up"


def test_a_redelivered_event_starts_the_schedule_again(
    sender: Sender, job_store: JobStore, receiver: Receiver, failed: Callable[..., Delivery]
) -> None:
    receiver.replies = [Reply(410), Reply(500)]
    delivery = failed()
    assert sender.deliver(delivery.id).state == "given_up"
    job_store.webhooks.redeliver(delivery.job_id, delivery.id)
    for number, state in ((2, "pending"), (3, "pending"), (4, "given_up")):
        done = sender.deliver(delivery.id)
        assert (len(done.attempts), done.state) == (number, state)
        if state == "pending":
            make_due(job_store, delivery)
            job_store.redis.client.delete(
                *job_store.redis.client.scan_iter(job_store.redis.key("webhook_receiver", "*"))
            )


def test_a_late_event_has_the_job_as_of_its_time(
    sender: Sender, job_store: JobStore, receiver: Receiver, settings: Settings
) -> None:
    job_id = new_job_id()
    ref = InputRef(kind="object", key="jobs/1/input/video")
    request = JobRequest(webhook_url=f"{receiver.url}/hook", webhook_events=["job.started", "job.progress"])
    job_store.jobs.create(job_id, JobSpec(video=ref, audio=ref, request=request), max_attempts=1)
    lease = job_store.jobs.claim(job_id, "w", 30)
    job_store.jobs.report(lease, stage="synthesize", progress=0.25, lease_s=30)
    job_store.jobs.fail(lease, ErrorInfo(code="face_not_found", message="No face."), retention_s=600)
    for delivery in job_store.webhooks.deliveries(job_id):
        assert sender.deliver(delivery.id).state == "delivered"
    started, progress = (verify(settings, call)["data"] for call in receiver.calls)
    assert (started["status"], started["progress"], started["error"]) == ("running", 0.0, None)
    assert (progress["status"], progress["stage"], progress["progress"]) == ("running", "synthesize", 0.25)
    for data in (started, progress):
        assert (data["finished_at"], data["delete_at"], data["error"]) == (None, None, None)


def test_each_key_signs_with_its_own_secret_and_with_two_while_it_rotates(
    sender: Sender, job_store: JobStore, receiver: Receiver, failed: Callable[..., Delivery], settings: Settings
) -> None:
    one, other = "a" * 16, "b" * 16

    def sent(owner: str) -> Call:
        sender.deliver(failed(owner=owner).id)
        return receiver.calls[-1]

    def verifies(call: Call, secret: str) -> bool:
        try:
            return bool(Webhook(secret).verify(call.body, call.headers))
        except WebhookVerificationError:
            return False

    (secret,) = sender.secrets.of(one)
    call = sent(one)
    assert json.loads(call.body)["owner"] == one
    assert verifies(call, secret)
    assert not verifies(call, webhook_secret(settings))
    assert not verifies(sent(other), secret)

    job_store.webhooks.rotate_secret(one, 3600)
    fresh, until_now = sender.secrets.of(one)
    assert until_now == secret != fresh
    call = sent(one)
    assert len(call.headers["webhook-signature"].split()) == 2
    assert verifies(call, secret)
    assert verifies(call, fresh)

    job_store.webhooks.rotate_secret(one, 0)
    call = sent(one)
    assert len(call.headers["webhook-signature"].split()) == 1
    assert not verifies(call, secret)
    assert not verifies(call, fresh)
    assert json.loads(sent("").body)["owner"] is None
    assert verifies(receiver.calls[-1], webhook_secret(settings))
