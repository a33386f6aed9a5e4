"""Results put where their callers want them: streamed, repeated, bounded, named if that fails, deleted with the job."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from jobs.local_objects import LocalObjectStore
from jobs.messages import make_celery
from jobs.models import ErrorInfo, InputRef, Job, JobRequest, JobSpec
from jobs.names import export_key, new_job_id, result_key
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from jobs.store import JobStore, Origin, ReceiverRules
from jobs.view import view_job
from tests.api.running import render_info, result_info
from tests.jobs.making import claim
from tests.services import S3Endpoint, own_database, wait_until
from tests.worker.receiver import Receiver, Reply, receiving
from worker.egress import Pace, TooSlowError
from worker.export import ResultExporter
from worker.janitor import Janitor

CONTENT = bytes(range(256)) * 4096
RULES = ReceiverRules(8, hold_s=60.0)


class Bench:
    def __init__(self, store: JobStore, folder: Path, **settings: Any) -> None:
        self.store = store
        self.settings = Settings(
            _env_file=None,
            data_dir=folder,
            allow_private_hosts=["127.0.0.1"],
            export_retries_s=[0, 0],
            output_prefixes=["exports"],
            **settings,
        )
        self.objects = LocalObjectStore(folder / "objects")
        self.exporter = ResultExporter(store, self.objects, self.settings, rate_window_s=0.5)

    def succeed(self, owner: str = "", **output: Any) -> Job:
        ref = InputRef(kind="object", key="jobs/1/input/video")
        request = JobRequest(output=output, webhook_url="https://hooks.example.com/in")
        spec = JobSpec(video=ref, audio=ref, request=request)
        job = self.store.jobs.create(new_job_id(), spec, max_attempts=3, origin=Origin(owner, 100)).job
        return succeed(self.store, self.objects, job)

    def attempt(self) -> bool:
        """False: nothing is due."""
        taken = self.store.exports.take(8, RULES)
        for export in taken:
            self.exporter.export(export)
        return bool(taken)

    def view(self, job: Job) -> dict[str, Any]:
        view = view_job(self.store.jobs.get(job.id), self.store, self.objects, self.settings)
        return json.loads(view.model_dump_json())


def succeed(store: JobStore, objects: Any, job: Job) -> Job:
    lease = claim(store, job.id)
    key = result_key(job.id, lease.fence, "mp4")
    with objects.writer(key, "video/mp4") as writer:
        writer.write(CONTENT)
        writer.commit()
    result = result_info(key, len(CONTENT))
    return store.jobs.succeed(lease, result=result, render=render_info(), evaluation=None, retention_s=3600)


@pytest.fixture
def bench(job_store: JobStore, tmp_path: Path) -> Bench:
    return Bench(job_store, tmp_path)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def test_a_result_is_put_to_its_url(bench: Bench, receiver: Receiver) -> None:
    job = bench.succeed(put_url=f"{receiver.url}/bucket/a.mp4?X-Amz-Signature=s3cret")
    assert bench.view(job)["export"]["state"] == "pending"
    assert bench.attempt()
    (call,) = receiver.calls
    assert (call.method, call.path, call.body) == ("PUT", "/bucket/a.mp4?X-Amz-Signature=s3cret", CONTENT)
    assert (call.headers["content-type"], call.headers["content-length"]) == ("video/mp4", str(len(CONTENT)))
    assert "transfer-encoding" not in call.headers
    view = bench.view(job)
    assert (view["status"], view["export"]["state"], view["export"]["error"]) == ("succeeded", "done", None)
    assert [each["status_code"] for each in view["export"]["attempts"]] == [200]
    assert view["export"]["finished_at"]
    assert "s3cret" not in json.dumps(view)
    assert "put_url" not in view["options"]["output"]
    assert not bench.attempt()
    events = [each.event for each in bench.store.webhooks.deliveries(job.id)]
    assert events == ["job.succeeded", "job.exported"]


def test_a_passing_failure_is_retried_and_then_named(bench: Bench, receiver: Receiver) -> None:
    receiver.replies = [Reply(503)]
    job = bench.succeed(put_url=receiver.url)
    assert [bench.attempt() for _ in range(4)] == [True, True, True, False]
    export = bench.view(job)["export"]
    assert (export["state"], export["error"]["code"], len(export["attempts"])) == ("failed", "export_unreachable", 3)
    assert bench.view(job)["status"] == "succeeded"
    assert bench.store.webhooks.deliveries(job.id)[-1].event == "job.exported"


def test_a_failure_that_passes(bench: Bench, receiver: Receiver) -> None:
    receiver.replies = [Reply(500), Reply(200)]
    job = bench.succeed(put_url=receiver.url)
    bench.attempt()
    assert (bench.view(job)["export"]["state"], bench.view(job)["export"]["error"]["code"]) == (
        "pending",
        "export_unreachable",
    )
    bench.attempt()
    assert (bench.view(job)["export"]["state"], bench.view(job)["export"]["error"]) == ("done", None)


@pytest.mark.parametrize(("status", "code"), [(403, "export_refused"), (307, "export_refused")])
def test_a_refusal_is_final(bench: Bench, receiver: Receiver, status: int, code: str) -> None:
    receiver.replies = [Reply(status, {"Location": "http://127.0.0.1:1/"})]
    job = bench.succeed(put_url=receiver.url)
    bench.attempt()
    assert (bench.view(job)["export"]["state"], bench.view(job)["export"]["error"]["code"]) == ("failed", code)
    assert len(receiver.calls) == 1


def test_an_address_that_became_private_is_not_reached(bench: Bench, receiver: Receiver) -> None:
    job = bench.succeed(put_url=receiver.url)
    settings = bench.settings.model_copy(update={"allow_private_hosts": []})
    bench.exporter = ResultExporter(bench.store, bench.objects, settings)
    bench.attempt()
    assert bench.view(job)["export"]["error"]["code"] == "url_not_allowed"
    assert receiver.calls == []


def test_a_receiver_that_takes_nothing_is_left(job_store: JobStore, tmp_path: Path) -> None:
    """It accepts the connection and never reads: the attempt ends at its limit, and the result is still here."""
    bench = Bench(job_store, tmp_path, export_limit_s=1.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        job = bench.succeed(put_url=f"http://127.0.0.1:{server.getsockname()[1]}/")
        bench.attempt()
    export = bench.view(job)["export"]
    assert (export["state"], export["error"]["code"]) == ("pending", "export_unreachable")
    assert b"".join(bench.objects.read(bench.store.jobs.get(job.id).result.key)) == CONTENT


def test_the_pace_of_a_body_that_is_sent() -> None:
    pace = Pace(1000, 1.0)
    pace.note(100, 0.5)
    with pytest.raises(TooSlowError):
        pace.note(100, 0.6)


def test_a_copy_below_an_allowed_folder_is_deleted_with_the_job(bench: Bench) -> None:
    job = bench.succeed(owner="aa", prefix="exports/campaign-7")
    before = bench.store.uploads.stored_bytes("aa")
    bench.attempt()
    key = f"exports/aa/campaign-7/{job.id}.mp4"
    export = bench.view(job)["export"]
    assert (export["state"], export["key"], export["url"]) == ("done", key, None)
    assert b"".join(bench.objects.read(key)) == CONTENT
    assert bench.store.uploads.stored_bytes("aa") == before + len(CONTENT)
    bench.store.jobs.delete(job.id)
    Janitor(make_celery(bench.settings), bench.store, bench.objects, bench.settings).delete_exported()
    assert list(bench.objects.list_keys("exports/")) == []
    assert bench.store.uploads.stored_bytes("aa") == 0
    assert [name for name in bench.store.redis.client.keys(f"{bench.store.redis.prefix}*") if job.id in name] == []


def test_nobody_writes_into_the_folder_of_another() -> None:
    assert export_key("exports/aa", ["exports"], "bb", "job_1", "mp4") == "exports/bb/aa/job_1.mp4"
    assert export_key("exports", ["exports"], "", "job_1", "mp4") == "exports/public/job_1.mp4"
    assert export_key("exports/a/b", ["exports", "exports/a"], "bb", "job_1", "mkv") == "exports/a/bb/b/job_1.mkv"
    assert export_key("exportsx", ["exports"], "bb", "job_1", "mp4") is None


def test_a_job_without_a_result_is_skipped_and_a_live_one_waits(bench: Bench) -> None:
    ref = InputRef(kind="object", key="jobs/1/input/video")
    spec = JobSpec(video=ref, audio=ref, request=JobRequest(output={"put_url": "https://example.com/x"}))
    job = bench.store.jobs.create(new_job_id(), spec, max_attempts=3).job
    assert bench.view(job)["export"]["state"] == "waiting"
    error = ErrorInfo(code="face_not_found", message="No face.")
    bench.store.jobs.fail(claim(bench.store, job.id), error, retention_s=3600)
    assert bench.view(job)["export"]["state"] == "skipped"
    assert bench.store.exports.count() == 0


def test_a_deleted_job_is_not_exported(bench: Bench, receiver: Receiver) -> None:
    job = bench.succeed(put_url=receiver.url)
    bench.store.jobs.delete(job.id)
    assert not bench.attempt()
    assert bench.store.exports.count() == 0


def test_another_owner_does_not_wait_for_a_silent_receiver(bench: Bench) -> None:
    for _ in range(12):
        bench.succeed(owner="aa", put_url="https://silent.example/x")
    other = bench.succeed(owner="bb", put_url="https://quick.example/x")
    taken = [export.job_id for export in bench.store.exports.take(8, RULES)]
    assert other.id in taken
    assert len(taken) <= 2


def test_a_killed_exporter_is_replaced_and_a_real_bucket_has_the_result(
    redis_url: str, s3: S3Endpoint, tmp_path: Path
) -> None:
    """The process is killed in the middle of a PUT to a presigned URL; the next one puts the whole file."""
    bucket = s3.with_bucket("their-bucket")
    link = presigned(bucket)
    env = {
        "RETALKING_REDIS_URL": own_database(redis_url),
        "RETALKING_DATA_DIR": str(tmp_path),
        "RETALKING_ALLOW_PRIVATE_HOSTS": "127.0.0.1",
        "RETALKING_LEASE_S": "2",
    }
    settings = Settings(
        _env_file=None, **{name.removeprefix("RETALKING_").lower(): value for name, value in env.items()}
    )
    store, objects = open_store(settings), open_objects(settings)
    is_open, is_met = threading.Event(), threading.Event()

    def wait() -> None:
        is_met.set()
        is_open.wait(20)

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / f"log-{time.monotonic_ns()}").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "worker.webhooks"], env={**os.environ, **env}, stdout=log, stderr=log
            )

    with receiving() as stalling:
        stalling.replies = [Reply(before_status=wait)]
        ref = InputRef(kind="object", key="jobs/1/input/video")
        spec = JobSpec(video=ref, audio=ref, request=JobRequest(output={"put_url": stalling.url}))
        stalled = store.jobs.create(new_job_id(), spec, max_attempts=3).job
        first = start()
        try:
            succeed(store, objects, stalled)
            assert is_met.wait(30)
            first.send_signal(signal.SIGKILL)
            first.wait()
            is_open.set()
            second = start()
            try:
                asked = spec.model_copy(update={"request": JobRequest(output={"put_url": link})})
                job = succeed(store, objects, store.jobs.create(new_job_id(), asked, max_attempts=3).job)
                for each in (stalled, job):
                    wait_until(lambda each=each: store.exports.find(each.id).state != "pending", 30, 0.1)
                    assert store.exports.find(each.id).error is None
            finally:
                second.terminate()
                second.wait(20)
        finally:
            if first.poll() is None:
                first.kill()
    assert {call.body for call in stalling.calls} == {CONTENT}
    assert bucket.client().get_object(Bucket=bucket.bucket, Key="out.mp4")["Body"].read() == CONTENT


def presigned(bucket: S3Endpoint) -> str:
    """A link as a caller makes it."""
    client = boto3.client(
        "s3",
        endpoint_url=bucket.endpoint,
        region_name=bucket.region,
        aws_access_key_id=bucket.access_key_id,
        aws_secret_access_key=bucket.secret_access_key,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    return client.generate_presigned_url(
        "put_object", Params={"Bucket": bucket.bucket, "Key": "out.mp4"}, ExpiresIn=600
    )


def test_links_that_sign_an_empty_type_get_none(bench: Bench, receiver: Receiver) -> None:
    """Signature version 2, which boto3 uses by default in us-east-1: the type is part of what is signed."""
    bench.succeed(put_url=f"{receiver.url}/a?AWSAccessKeyId=a&Signature=b&Expires=1")
    bench.attempt()
    assert "content-type" not in receiver.calls[0].headers
