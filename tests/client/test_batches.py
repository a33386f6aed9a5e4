"""Batches by either client and by the command, against a real API."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from jobs.models import ErrorInfo
from jobs.names import new_job_id
from jobs.view import view_batch
from retalking_client import Batch, Client, WaitTimeoutError, codes, verify_webhook
from tests.api.running import RunningApi
from worker.delivery import event_body


def play_feeder(api: RunningApi, batch_id: str) -> None:
    """Every item becomes a job that has failed; what a feeder and a worker do is tested elsewhere."""
    batch = api.store.batches.get(batch_id)
    for spec in api.store.batches.items(batch, batch.total):
        error = ErrorInfo(code="face_not_found", message="No face.")
        api.store.jobs.create(new_job_id(), spec, max_attempts=3, error=error)


def test_a_batch_of_files_and_addresses(client: Any, api: RunningApi, face: Path, speech: Path) -> None:
    jobs = [{"video": face, "audio": speech, "seed": seed, "metadata": {"line": seed}} for seed in range(3)]
    uploads = api.store.redis.client.zcard(api.store.redis.key("uploads"))
    batch = client.submit_batch(jobs, metadata={"order": 7})
    assert (batch.total, batch.counts.waiting, batch.is_over, batch.metadata) == (3, 3, False, {"order": 7})
    assert api.store.redis.client.zcard(api.store.redis.key("uploads")) - uploads == 2, "each file is sent once"
    with pytest.raises(WaitTimeoutError):
        client.wait_batch(batch, timeout_s=0)
    play_feeder(api, batch.id)
    seen: list[int] = []
    over = client.wait_batch(batch, on_progress=lambda now: seen.append(now.done))
    assert (over.status, over.counts.failed, seen) == ("completed", 3, [3])
    assert [(each.index, each.code) for each in over.failures] == [(index, "face_not_found") for index in range(3)]
    listed = list(client.jobs(batch=batch, page_size=2))
    assert [(job.batch.index, job.metadata) for job in listed] == [(i, {"line": i}) for i in (2, 1, 0)]


def test_files_of_segments_are_uploaded(client: Any, api: RunningApi, face: Path, speech: Path) -> None:
    link = "http://93.184.215.14/speech.wav"
    segments = [{"start_s": 0.0, "audio": speech, "face": "left_most"}, {"start_s": 0.5, "audio": speech}]
    batch = client.submit_batch(
        [{"video": face, "segments": segments}, {"video": face, "segments": [{"start_s": 0.0, "audio": link}]}]
    )
    first, second = api.store.batches.items(api.store.batches.get(batch.id), 2)
    assert [(each.audio, each.face) for each in first.segments] == [("audio_1", "left_most"), ("audio_1", None)]
    assert str(first.inputs["audio_1"].upload_id).startswith("up_")
    assert second.inputs["audio_1"].url == link
    with pytest.raises(TypeError):
        client.submit_batch([{"video": face}])


def test_a_long_list_is_uploaded(client: Any, face: Path, speech: Path, api: RunningApi) -> None:
    upload = client.upload(face)
    job = {"video": upload, "audio": upload, "transcript": "long " * 900}
    batch = client.submit_batch([job] * 300)
    assert batch.total == 300
    canceled = client.cancel_batch(batch)
    assert (canceled.status, canceled.counts.canceled) == ("canceled", 300)


def test_items_to_correct_are_named(client: Any, face: Path, speech: Path) -> None:
    good = {"video": face, "audio": speech}
    with pytest.raises(codes.InvalidRequestError) as refusal:
        client.submit_batch([good, good | {"output": {"crf": 99}}])
    assert [fault.pointer for fault in refusal.value.faults] == ["#/jobs/1/output/crf"]
    with pytest.raises(FileNotFoundError):
        client.submit_batch([{"video": "missing.mp4", "audio": speech}])
    with pytest.raises(codes.BatchNotFoundError):
        client.batch("batch_" + "0" * 32)


def test_the_event_of_a_batch_is_read(client: Any, api: RunningApi, face: Path, speech: Path) -> None:
    batch = client.submit_batch([{"video": face, "audio": speech}], webhook_url="https://93.184.215.14/hook")
    play_feeder(api, batch.id)
    (delivery,) = api.store.webhooks.deliveries(batch.id)
    body = event_body(delivery, "", view_batch(api.store.batches.get(batch.id), api.store, api.settings))
    secret, now = "whsec_" + "a2V5" * 8, datetime.now(UTC)
    signature = Webhook(secret).sign(delivery.id, now, body)
    headers = {
        "webhook-id": delivery.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }
    event = verify_webhook(body, headers, secret)
    assert (event.type, type(event.data), event.data.id) == ("batch.completed", Batch, batch.id)


def test_the_command(api: RunningApi, face: Path, speech: Path, tmp_path: Path) -> None:
    (tmp_path / "face.mp4").write_bytes(face.read_bytes())
    (tmp_path / "speech.wav").write_bytes(speech.read_bytes())
    file = tmp_path / "jobs.jsonl"
    line = {"video": "face.mp4", "audio": "speech.wav", "engine": "auto"}
    file.write_text(f"{json.dumps(line)}\n\n{json.dumps(line | {'seed': 2})}\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        start = "from retalking_client.cli.main import main; main()"
        command = [sys.executable, "-c", start, "batch", str(file), "--url", api.url, *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    done = run("--quiet", "--idempotency-key", "once")
    assert done.returncode == 0, done.stderr
    batch_id = done.stdout.strip()
    assert api.store.batches.get(batch_id).total == 2
    play_feeder(api, batch_id)
    over = run("--wait", "--idempotency-key", "once")  # uploads the same files again, and finds the batch
    assert (over.returncode, over.stdout.split()[0]) == (1, batch_id), over.stderr
    assert "job 2: face_not_found" in over.stderr
    segments = [{"start_s": 0, "audio": "speech.wav"}]
    file.write_text(json.dumps({"video": "face.mp4", "segments": segments}))
    with_segments = run("--quiet")
    assert with_segments.returncode == 0, with_segments.stderr
    (spec,) = api.store.batches.items(api.store.batches.get(with_segments.stdout.strip()), 1)
    assert spec.inputs["audio_1"].upload_id
    file.write_text('{"video": "face.mp4"}')
    assert "line 1" in run().stderr


def test_the_commands_about_batches(api: RunningApi, face: Path, speech: Path) -> None:
    with Client(api.url) as client:
        first, second = (client.submit_batch([{"video": face, "audio": speech}] * 2) for _ in range(2))
    play_feeder(api, first.id)

    def run(*arguments: str) -> tuple[int, str, str]:
        start = "from retalking_client.cli.main import main; main()"
        command = [sys.executable, "-c", start, *arguments, "--url", api.url]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    lines = [line.split("\t")[:3] for line in run("batches", "-L", "2")[1].splitlines()]
    assert lines == [[second.id, "running", "0/2"], [first.id, "completed", "2/2"]]
    listed = run("jobs", "--batch", first.id)[1].splitlines()
    assert len(listed) == 2
    for command in ("show", "wait"):
        code, out, err = run("batches", command, first.id)
        assert (code, out.split()[:2]) == (1, [first.id, "completed,"]), err
        assert "job 2: face_not_found" in err
    code, _, err = run("batches", "delete", second.id)
    assert (code, "job_not_finished" in err) == (1, True)
    assert run("batches", "cancel", second.id)[1].startswith(f"{second.id}  canceled, 2 of 2 done")
    assert json.loads(run("batches", "list", "--json")[1])[0]["counts"]["canceled"] == 2
    assert run("batches", "delete", second.id)[:2] == (0, f"{second.id}  deleted\n")
    code, _, err = run("batches", "show", second.id)
    assert (code, "batch_not_found" in err) == (1, True)
