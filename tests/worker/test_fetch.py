"""Inputs from addresses: followed three times at most, capped, retried where that can help, stored before the start."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from jobs.local_objects import LocalObjectStore
from jobs.messages import make_celery
from jobs.models import ErrorInfo, InputRef, Job, JobRequest, JobSpec, JobStatus
from jobs.names import fetched_input_key, input_key, new_job_id
from jobs.objects import ObjectStore
from jobs.opening import FreeSpace
from jobs.s3_objects import S3ObjectStore
from jobs.settings import Settings
from jobs.store import JobStore, Origin, ReceiverRules
from tests.services import free_port, own_database, wait_until
from tests.worker.receiver import Receiver, Reply, receiving
from worker.fetch import InputFetcher
from worker.janitor import Janitor
from worker.scratch import InputLoader
from worker.supervision import ShutdownNotice

# What the first bytes of a WebM file and of a WAV file look like; no more of them is read here.
FILM, SPEECH = b"\x1aE\xdf\xa3", b"RIFF\0\0\0\0WAVE"
RULES = ReceiverRules(slots=8, hold_s=30.0, per_untrusted=4)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@dataclass
class Bench:
    """A fetcher, and the stores that it works on. changes: of its settings."""

    store: JobStore
    objects: LocalObjectStore
    redis_url: str
    folder: Path
    notice: ShutdownNotice
    free_bytes: int = 0

    def add(self, video: str, audio: str | None = None, owner: str = "", **asked: Any) -> str:
        """A job whose video is an address. audio None: a file of 20 bytes that arrived with it."""
        job_id = new_job_id()
        self.store.uploads.add_arrival(job_id, 60.0)
        sound = InputRef(kind="object", key=input_key(job_id, "audio"), size_bytes=20)
        if audio is None:
            (self.folder / "speech").write_bytes(SPEECH + b"\0" * 8)
            self.objects.put_file(str(sound.key), self.folder / "speech", "audio/wav")
        else:
            sound = InputRef(kind="url", url=audio)
        spec = JobSpec(video=InputRef(kind="url", url=video), audio=sound, request=JobRequest(**asked))
        self.store.jobs.create(job_id, spec, max_attempts=3, origin=Origin(owner, 100), arrived=True)
        return job_id

    def fetcher(
        self, retry_pauses_s: tuple[float, ...] = (0.01, 0.01), objects: ObjectStore | None = None, **changes: Any
    ) -> InputFetcher:
        named = {
            "redis_url": self.redis_url,
            "allow_private_hosts": ["127.0.0.1"],
            "max_upload_bytes": 1024,
            "fetch_limit_s": 20.0,
            "lease_s": 2.0,
        } | changes
        settings = Settings(_env_file=None, **named)
        space = FreeSpace([self.folder], self.free_bytes)
        stores = (make_celery(settings), self.store, objects or self.objects, space, settings, self.notice)
        return InputFetcher(*stores, retry_pauses_s=retry_pauses_s, rate_window_s=0.5)

    def take(self, rules: ReceiverRules = RULES) -> Any:
        (fetch,) = self.store.fetches.take(1, rules)
        return fetch

    def make_due(self, job_id: str) -> None:
        """Its pause is over now."""
        client, key = self.store.redis.client, self.store.redis.key
        receiver = client.hget(key("job", job_id), "fetch_receiver")
        client.zadd(key("fetch_queue", receiver), {job_id: 0})
        client.zadd(key("fetch_receivers", ""), {receiver: 0})
        client.zadd(key("fetch_owners"), {"": 0})

    def fetch(self, video: str, audio: str | None = None, **changes: Any) -> Job:
        """The job after one fetch of its inputs."""
        job_id = self.add(video, audio)
        self.fetcher(**changes).fetch(self.take())
        return self.store.jobs.get(job_id)

    def refusal(self, video: str, audio: str | None = None, **changes: Any) -> ErrorInfo:
        job = self.fetch(video, audio, **changes)
        assert job.status is JobStatus.FAILED, job
        assert self.files(job.id) == ([] if audio else ["audio"])
        assert job.error is not None
        return job.error

    def files(self, job_id: str) -> list[str]:
        return sorted(key.rpartition("/")[2] for key in self.objects.list_keys(f"jobs/{job_id}/"))

    def content(self, job: Job, part: str) -> bytes:
        return b"".join(self.objects.read(str(job.inputs[part].key)))


@pytest.fixture
def bench(job_store: JobStore, redis_url: str, tmp_path: Path) -> Bench:
    objects = LocalObjectStore(tmp_path / "objects")
    return Bench(job_store, objects, own_database(redis_url), tmp_path, ShutdownNotice())


def test_a_fetched_job_joins_the_line_with_files_under_our_own_names(bench: Bench, receiver: Receiver) -> None:
    receiver.replies = [Reply(chunks=(FILM + b"a" * 400, b"b" * 400))]
    job_id = bench.add(f"{receiver.url}/../../etc/x?k=v", priority=2)
    assert bench.store.jobs.claim(job_id, "w1", 30.0) is None
    assert (bench.store.jobs.queue_position(job_id), bench.store.fetches.count()) == (None, 1)
    assert bench.store.jobs.unsent(0.0) == []
    bench.fetcher().fetch(bench.take())
    job = bench.store.jobs.get(job_id)
    assert (job.status, job.stage, job.awaits_inputs) == (JobStatus.QUEUED, None, False)
    assert bench.files(job_id) == ["audio", "video-1"]
    assert bench.content(job, "video") == FILM + b"a" * 400 + b"b" * 400
    assert (bench.store.jobs.queue_position(job_id), bench.store.fetches.count()) == (1, 0)
    assert bench.store.jobs.claim(job_id, "w1", 30.0) is not None
    told = [(event.event, event.status, event.stage) for event in bench.store.jobs.events(job_id, after=None)]
    assert told[:2] == [("job.queued", "queued", None), ("job.progress", "queued", "fetch")]


def test_a_worker_loads_what_was_fetched(bench: Bench, receiver: Receiver, tmp_path: Path) -> None:
    receiver.replies = [Reply(chunks=(FILM + b"a" * 400,))]
    job = bench.fetch(receiver.url)
    seen: list[object] = []
    loader = InputLoader(bench.objects, 1024, beat=lambda *told: seen.append(told), wait=time.sleep)
    inputs = loader.load(job, tmp_path)
    assert (inputs.video.read_bytes(), inputs.paths["audio"].read_bytes()) == (FILM + b"a" * 400, SPEECH + b"\0" * 8)
    assert seen == [("fetch", 0.0, "video"), ("fetch", 0.5, "audio"), ("fetch", 1.0, None)]


def test_three_redirects_are_followed_and_a_fourth_is_not(bench: Bench, receiver: Receiver) -> None:
    onward = [Reply(302, {"Location": f"/{number}"}) for number in range(3)]
    receiver.replies = [*onward, Reply(chunks=(FILM,))]
    assert bench.content(bench.fetch(receiver.url), "video") == FILM
    assert [call.path for call in receiver.calls] == ["/", "/0", "/1", "/2"]
    receiver.replies = [*onward, Reply(307, {"Location": "/4"})]
    fault = bench.refusal(receiver.url)
    assert fault.code == "input_unreachable"
    assert "redirects" in fault.message


@pytest.mark.parametrize("target", ["http://10.0.0.1/x", "http://169.254.169.254/x", "file:///etc/passwd"])
def test_a_redirect_is_checked_like_the_first_address(bench: Bench, receiver: Receiver, target: str) -> None:
    receiver.replies = [Reply(302, {"Location": target})]
    assert bench.refusal(receiver.url).code == "url_not_allowed"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(chunks=(FILM + b"x" * 1024,)),
        Reply(headers={"Content-Length": "99999999999"}, chunks=(b"",)),
        Reply(headers={"Content-Length": ""}, chunks=(FILM + b"x" * 600, b"x" * 600)),
    ],
)
def test_a_body_over_the_limit_is_refused(bench: Bench, receiver: Receiver, reply: Reply) -> None:
    receiver.replies = [reply]
    assert bench.refusal(receiver.url).code == "body_too_large"
    assert len(receiver.calls) == 1


@pytest.mark.parametrize(
    ("chunks", "code"),
    [
        ((b"<html>log in first</html>",), "container_unsupported"),
        ((SPEECH,), "container_unsupported"),
        ((), "file_empty"),
    ],
)
def test_what_is_no_video_is_refused_by_its_first_bytes(
    bench: Bench, receiver: Receiver, chunks: tuple[bytes, ...], code: str
) -> None:
    receiver.replies = [Reply(chunks=chunks)]
    assert bench.refusal(receiver.url).code == code


def test_a_fault_that_may_pass_is_tried_again(bench: Bench, receiver: Receiver) -> None:
    cut_short = Reply(headers={"Content-Length": "100"}, chunks=(FILM + b"half",))
    receiver.replies = [Reply(503), cut_short, Reply(chunks=(FILM + b"whole",))]
    assert bench.content(bench.fetch(receiver.url), "video") == FILM + b"whole"
    assert len(receiver.calls) == 3


def test_a_fault_that_stays_is_said(bench: Bench, receiver: Receiver) -> None:
    receiver.replies = [Reply(500)]
    fault = bench.refusal(f"{receiver.url}/?token=secret")
    assert fault.code == "input_unreachable"
    assert "500" in fault.message
    assert "secret" not in fault.message
    assert len(receiver.calls) == 3


def test_an_address_that_drips_is_given_up_by_name(bench: Bench, receiver: Receiver) -> None:
    """Once: a server that is slow today is slow in a second as well."""
    receiver.replies = [Reply(chunks=(b"x",) * 100, before_chunk=lambda: time.sleep(0.1))]
    fault = bench.refusal(f"{receiver.url}/?token=secret", fetch_min_bytes_per_s=100)
    assert fault.code == "input_too_slow"
    assert "100 bytes a second" in fault.message
    assert "secret" not in fault.message
    assert len(receiver.calls) == 1


def test_tries_and_redirects_share_one_deadline(bench: Bench, receiver: Receiver) -> None:
    """Three tries of four requests would take 12 times 0.3 s here."""
    receiver.replies = [Reply(302, {"Location": "/on"}, before_status=lambda: time.sleep(0.3))]
    fault = bench.refusal(receiver.url, fetch_limit_s=1.0, retry_pauses_s=(1.0, 4.0))
    assert fault.code == "input_too_slow"
    assert "1 s" in fault.message
    receiver.replies = [Reply(503)]
    fault = bench.refusal(receiver.url, fetch_limit_s=1.0, retry_pauses_s=(1.0, 4.0))
    assert fault.code == "input_too_slow"


def test_all_files_share_one_deadline(bench: Bench, receiver: Receiver) -> None:
    """And the first one, which was stored, goes with the second."""
    receiver.replies = [Reply(chunks=(FILM,), before_status=lambda: time.sleep(0.6))]
    fault = bench.refusal(receiver.url, receiver.url, fetch_limit_s=1.0)
    assert fault.code == "input_too_slow"
    assert "audio" in fault.message


def test_a_refusal_is_not_repeated(bench: Bench, receiver: Receiver) -> None:
    receiver.replies = [Reply(404)]
    fault = bench.refusal(receiver.url)
    assert fault.code == "input_unreachable"
    assert "404" in fault.message
    assert len(receiver.calls) == 1


@pytest.mark.parametrize("location", ["http://[", "//[", "http://[::1", "http://]/", "http://[v1.x]/", "http://a[b]/"])
def test_a_redirect_to_what_is_no_address(bench: Bench, receiver: Receiver, location: str) -> None:
    receiver.replies = [Reply(302, {"Location": location})]
    refused = bench.refusal(receiver.url)
    assert refused.code in ("input_unreachable", "url_not_allowed")
    assert location not in refused.message


# Storage


def test_fetched_bytes_count_against_the_owners_quota(bench: Bench, receiver: Receiver) -> None:
    receiver.replies = [Reply(headers={"Content-Length": ""}, chunks=(FILM + b"x" * 596,))]
    owner = "aa" * 8
    job_id = bench.add(receiver.url, owner=owner)
    bench.fetcher().fetch(bench.take())
    assert bench.store.uploads.stored_bytes(owner) == 600
    bench.store.jobs.request_cancel(job_id, retention_s=60)
    bench.store.jobs.delete(job_id)
    assert bench.store.uploads.stored_bytes(owner) == 0


def test_a_fetch_over_the_quota_fails_by_name_and_frees_what_it_took(bench: Bench, receiver: Receiver) -> None:
    """The first file fits, the second does not; speech may come from a film."""
    receiver.replies = [Reply(chunks=(FILM + b"x" * 900,))]
    owner = "bb" * 8
    job_id = bench.add(receiver.url, receiver.url, owner=owner)
    bench.fetcher(stored_bytes_per_key=1024).fetch(bench.take())
    assert bench.store.jobs.get(job_id).error.code == "storage_quota_exceeded"
    assert (bench.files(job_id), bench.store.uploads.stored_bytes(owner), bench.store.uploads.stored_bytes()) == (
        [],
        0,
        0,
    )


def test_a_full_disk_fails_the_fetch_by_name(bench: Bench, receiver: Receiver) -> None:
    receiver.replies = [Reply(chunks=(FILM,))]
    bench.free_bytes = 1 << 60
    fault = bench.refusal(receiver.url)
    assert (fault.code, fault.retryable) == ("storage_full", True)


def test_an_object_store_that_is_away_costs_an_attempt_and_not_the_job(bench: Bench, receiver: Receiver) -> None:
    receiver.replies = [Reply(chunks=(FILM,))]
    job_id = bench.add(receiver.url)
    away = S3ObjectStore(
        "bucket", endpoint=f"http://127.0.0.1:{free_port()}", access_key_id="id", secret_access_key="secret"
    )
    bench.fetcher(objects=away).fetch(bench.take())
    job = bench.store.jobs.get(job_id)
    assert (job.status, job.awaits_inputs) == (JobStatus.QUEUED, True)
    assert bench.store.fetches.take(1, RULES) == []  # after a pause
    bench.make_due(job_id)
    fetch = bench.take()
    assert (fetch.fence, fetch.attempt) == (2, 2)
    bench.fetcher().fetch(fetch)
    assert not bench.store.jobs.get(job_id).awaits_inputs
    assert bench.files(job_id) == ["audio", "video-2"]


# Ends while it runs


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def dripping(receiver: Receiver) -> None:
    """The first address answers at once; from the second on they drip for minutes."""
    slow = Reply(
        headers={"Content-Length": "1000"}, chunks=(SPEECH, *[b"x"] * 900), before_chunk=lambda: time.sleep(0.1)
    )
    receiver.replies = [Reply(chunks=(FILM,)), slow]


def test_a_cancel_stops_a_fetch_that_drips_and_no_file_is_left(bench: Bench, receiver: Receiver) -> None:
    dripping(receiver)
    job_id = bench.add(receiver.url, receiver.url)
    fetch = bench.take()
    fetching = in_thread(lambda: bench.fetcher(fetch_min_bytes_per_s=0).fetch(fetch))
    wait_until(lambda: bench.files(job_id) == ["video-1"])
    wait_until(lambda: len(receiver.calls) == 2)
    assert bench.store.jobs.request_cancel(job_id, retention_s=60).status is JobStatus.CANCELED
    fetching.join(20)
    assert not fetching.is_alive()
    assert bench.files(job_id) == []
    assert (bench.store.fetches.count(), bench.store.uploads.stored_bytes()) == (0, 0)


def test_a_silent_address_does_not_keep_a_cancel_waiting(bench: Bench, receiver: Receiver) -> None:
    """It may be silent for 30 s."""
    gate = threading.Event()
    receiver.replies = [Reply(chunks=(FILM,), before_status=lambda: gate.wait(60))]
    job_id = bench.add(receiver.url)
    fetch = bench.take()
    fetching = in_thread(lambda: bench.fetcher().fetch(fetch))
    wait_until(lambda: receiver.calls)
    bench.store.jobs.request_cancel(job_id, retention_s=60)
    fetching.join(20)
    assert not fetching.is_alive()
    assert bench.store.fetches.count() == 0
    gate.set()


def test_a_deadline_ends_a_fetch(bench: Bench, receiver: Receiver) -> None:
    dripping(receiver)
    job_id = bench.add(receiver.url, receiver.url, expires_in_s=1)
    fetch = bench.take()
    fetching = in_thread(lambda: bench.fetcher(fetch_min_bytes_per_s=0).fetch(fetch))
    wait_until(lambda: bench.store.jobs.fail_past_deadline(60))
    job = bench.store.jobs.get(job_id)
    assert (job.status, job.error.code) == (JobStatus.FAILED, "deadline_exceeded")
    fetching.join(20)
    assert not fetching.is_alive()
    assert bench.files(job_id) == []


def test_a_shutdown_hands_a_fetch_back_uncounted(bench: Bench, receiver: Receiver) -> None:
    dripping(receiver)
    job_id = bench.add(receiver.url, receiver.url)
    fetch = bench.take()
    fetching = in_thread(lambda: bench.fetcher(fetch_min_bytes_per_s=0).fetch(fetch))
    wait_until(lambda: len(receiver.calls) == 2)
    bench.notice.give(0.0)
    fetching.join(20)
    assert not fetching.is_alive()
    assert bench.files(job_id) == []
    again = bench.take()
    assert (again.job_id, again.fence, again.attempt) == (job_id, 2, 1)


def test_files_of_a_killed_fetch_go_with_the_next_one(bench: Bench, receiver: Receiver) -> None:
    """Also where the job was canceled meanwhile."""
    short = ReceiverRules(slots=8, hold_s=0.2, per_untrusted=4)
    receiver.replies = [Reply(chunks=(FILM,))]
    lives, canceled = bench.add(receiver.url), bench.add(receiver.url)
    for job_id in (lives, canceled):
        assert bench.take(short).job_id == job_id
        (bench.folder / "part").write_bytes(FILM)
        bench.objects.put_file(f"jobs/{job_id}/input/video-1", bench.folder / "part", "video/webm")
    bench.store.jobs.request_cancel(canceled, retention_s=60)
    time.sleep(0.3)
    for _ in range(2):
        bench.fetcher().fetch(bench.take())
    assert (bench.files(lives), bench.files(canceled)) == (["audio", "video-2"], ["audio"])
    assert bench.store.fetches.count() == 0


def test_a_file_that_a_killed_fetch_stored_for_a_deleted_job_is_deleted(bench: Bench) -> None:
    job_id = bench.add("http://a.example/")
    fetch = bench.take(ReceiverRules(slots=8, hold_s=1.0))
    bench.store.jobs.request_cancel(job_id, retention_s=60)
    bench.objects.delete_prefix(f"jobs/{job_id}/")
    bench.store.jobs.delete(job_id)
    (bench.folder / "film").write_bytes(FILM)
    bench.objects.put_file(fetched_input_key(job_id, "video", fetch.fence), bench.folder / "film", "video/mp4")
    settings = Settings(_env_file=None, redis_url=bench.redis_url)
    janitor = Janitor(make_celery(settings), bench.store, bench.objects, settings)

    def is_deleted() -> bool:
        janitor.delete_orphans()
        return not bench.files(job_id)

    wait_until(is_deleted, what="the file is deleted")
    assert bench.store.redis.client.zcard(bench.store.redis.key("arrivals")) == 0


def test_a_job_whose_fetchers_always_die_ends(bench: Bench, receiver: Receiver) -> None:
    job_id = bench.add(receiver.url)
    for _ in range(3):
        bench.take(ReceiverRules(slots=8, hold_s=0.05))
        time.sleep(0.1)
    bench.fetcher().fetch(bench.take())
    assert bench.store.jobs.get(job_id).error.code == "worker_lost"
    assert receiver.calls == []


def test_a_fetch_that_dies_after_a_failed_attempt_ends_with_the_error_of_that_attempt(
    bench: Bench, receiver: Receiver
) -> None:
    job_id = bench.add(receiver.url)
    away = S3ObjectStore(
        "bucket", endpoint=f"http://127.0.0.1:{free_port()}", access_key_id="id", secret_access_key="secret"
    )
    receiver.replies = [Reply(chunks=(FILM,))]
    bench.fetcher(objects=away).fetch(bench.take())
    bench.make_due(job_id)
    for _ in range(2):
        bench.take(ReceiverRules(slots=8, hold_s=0.05))
        time.sleep(0.1)
    bench.fetcher().fetch(bench.take())
    assert bench.store.jobs.get(job_id).error.code == "storage_failed"


def test_a_fetch_that_dies_between_two_tries_ends_with_the_error_of_the_first(bench: Bench, receiver: Receiver) -> None:
    class DeadlyStore(LocalObjectStore):
        def writer(self, key: str, content_type: str = "") -> NoReturn:
            raise SystemExit("the process dies here")

    job_id = bench.add(receiver.url)
    receiver.replies = [Reply(status=503), Reply(chunks=(FILM,))]
    deadly = DeadlyStore(bench.folder / "deadly")
    with pytest.raises(SystemExit):
        bench.fetcher(objects=deadly, lease_s=1.1).fetch(bench.take(ReceiverRules(slots=8, hold_s=0.2)))
    for pause_s in (1.2, 0.1):
        time.sleep(pause_s)
        bench.take(ReceiverRules(slots=8, hold_s=0.05))
    time.sleep(0.1)
    bench.fetcher().fetch(bench.take())
    error = bench.store.jobs.get(job_id).error
    assert error is not None
    assert error.code == "input_unreachable"
    assert "503" in error.message
