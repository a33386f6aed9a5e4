"""What a caller can do, by either client, against a real API."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import retalking_client
from cli.keys import make_key
from jobs.errors import ERROR_CODES
from jobs.store.keys import Scope
from retalking_client import (
    ApiError,
    EventsLostError,
    Progress,
    ServiceUnreachableError,
    UnexpectedAnswerError,
    WaitTimeoutError,
    codes,
)
from retalking_client.async_client import AsyncClient
from retalking_client.client import Client
from tests.api.running import RunningApi, run_api
from tests.client.breaking_proxy import BreakingProxy, Fault
from tests.client.conftest import QUICK, finish
from tests.services import own_database

VIDEO = bytes(range(256)) * 4000  # 1 MB


def test_a_lost_answer_makes_one_job(
    client: Any, proxy: BreakingProxy, api: RunningApi, face: Path, speech: Path
) -> None:
    proxy.will(Fault("POST", "/v1/jobs/upload", lose_answer=True, times=2))
    before = {job.id for job in client.jobs()}
    job = client.submit(face, speech, length_mode="loop", output={"crf": 20}, metadata={"title": "take 3"})
    made = {found.id for found in client.jobs()} - before
    assert made == {job.id}
    assert proxy.count("POST", "/v1/jobs/upload") == 3
    keys = {
        headers["idempotency-key"]
        for method, path, headers in proxy.asked
        if (method, path) == ("POST", "/v1/jobs/upload")
    }
    assert len(keys) == 1
    assert (job.status, job.options["length_mode"], job.options["output"]["crf"]) == ("queued", "loop", 20)
    assert job.metadata == {"title": "take 3"}


def test_the_service_says_when_to_come_back(client: Any, proxy: BreakingProxy, face: Path, speech: Path) -> None:
    proxy.will(Fault("POST", "/v1/jobs/upload", status=503, headers={"Retry-After": "1"}))
    began_s = time.monotonic()
    client.submit(face, speech)
    assert time.monotonic() - began_s > 1.0
    proxy.will(Fault("GET", "/v1/jobs", status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(UnexpectedAnswerError, match="answered 429"):
        next(client.jobs())


def test_what_is_refused_is_not_repeated(client: Any, proxy: BreakingProxy, face: Path, speech: Path) -> None:
    with pytest.raises(codes.InvalidOptionError, match="crf") as refused:
        client.submit(face, speech, output={"crf": 99})
    error = refused.value
    assert isinstance(error, ApiError)
    assert (error.code, error.status, error.retryable) == ("invalid_option", 422, False)
    assert error.faults[0].pointer == "#/output/crf"
    assert error.advice == ERROR_CODES["invalid_option"].advice
    assert error.request_id
    assert proxy.count("POST", "/v1/jobs/upload") == 1
    with pytest.raises(FileNotFoundError):
        client.submit(face, face.with_name("nothing.wav"))
    assert proxy.count("POST", "/v1/jobs/upload") == 1, "nothing was sent"


def test_an_upload_serves_jobs(client: Any, proxy: BreakingProxy, api: RunningApi, face: Path, speech: Path) -> None:
    upload = client.upload(face)
    first = client.submit(upload, speech)
    second = client.submit(upload, speech, idempotency_key=f"own-{first.id}")
    assert first.id != second.id
    assert client.submit(upload, speech, idempotency_key=f"own-{first.id}").id == second.id
    with pytest.raises(codes.UrlNotAllowedError):
        client.submit("http://127.0.0.1/face.mp4", speech)


def test_an_analysis_says_who_is_in_a_video(
    client: Any, proxy: BreakingProxy, api: RunningApi, face: Path, speech: Path
) -> None:
    proxy.will(Fault("POST", "/v1/videos/analyze/upload", lose_answer=True))
    job = client.analyze(face, metadata={"title": "take 3"})
    assert (job.kind, job.metadata, list(job.inputs)) == ("analyze", {"title": "take 3"}, ["video"])
    assert client.analyze(client.upload(face), idempotency_key=f"own-{job.id}").kind == "analyze"
    with pytest.raises(codes.ResultNotReadyError):
        client.analysis(job)
    api.finish_analysis(job.id)
    analysis = client.analysis(client.wait(job, timeout_s=60).raise_for_status())
    (person,) = analysis.people
    assert (person.track, person.boxes, person.speaking) == ("person_1", [(1, 2, 3, 4), None], [0.5, None])
    assert (analysis.shots[0].end_s, analysis.step_s, analysis.voice) == (0.4, 0.2, [1, 0])
    render = client.submit(face, speech, face={"track": person.track})
    assert (render.kind, render.options["face"]) == ("render", {"track": "person_1"})
    with pytest.raises(codes.UrlNotAllowedError):
        client.analyze("http://127.0.0.1/face.mp4")


def test_waiting_reports_every_step(client: Any, api: RunningApi, face: Path, speech: Path, tmp_path: Path) -> None:
    job = client.submit(face, speech)
    worker = threading.Timer(0.3, finish, (api, job.id, VIDEO))
    worker.start()
    told: list[Progress] = []
    done = client.wait(job, timeout_s=60, on_progress=told.append)
    worker.join()
    assert done.status == "succeeded"
    assert done.raise_for_status() is done
    assert [step.status for step in told][-1] == "succeeded"
    assert ("running", "synthesize", 0.5) in [(step.status, step.stage, step.fraction) for step in told]
    events = list(client.events(job))
    assert [event.event for event in events][::3][:1] == ["job.queued"]
    assert events[-1].event == "job.succeeded"
    assert [event.id for event in client.events(job, after=events[0].id)] == [event.id for event in events[1:]]
    assert client.evaluation(job).metrics == []
    (note,) = done.render.notes
    assert (note.code, note.sentence, note.ranges_s) == ("mouth_interior_painted", "Painted.", [(0.5, 1.0)])


def test_a_broken_stream_is_taken_up_after_the_last_event(
    client: Any, proxy: BreakingProxy, api: RunningApi, face: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retalking_client.events.PAUSE_S", 0.01)
    job = client.submit(face, speech)
    finish(api, job.id, VIDEO)
    whole = [event.id for event in client.events(job)]
    proxy.will(Fault("GET", "/events", cut_after=330), Fault("GET", "/events", cut_after=330))
    assert [event.id for event in client.events(job)] == whole, "each event once, in order"
    resumed = [headers.get("last-event-id") for _, path, headers in proxy.asked if path.endswith("/events")]
    assert resumed[1] is None
    assert whole[0] in resumed


def test_where_streams_are_cut_waiting_polls(
    client: Any, proxy: BreakingProxy, api: RunningApi, face: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retalking_client.events.PAUSE_S", 0.01)
    monkeypatch.setattr("retalking_client.events.POLL_FIRST_S", 0.05)
    proxy.will(Fault("GET", "/events", cut_after=0, times=100))
    job = client.submit(face, speech)
    with pytest.raises(EventsLostError, match="keeps ending early"):
        list(client.events(job))
    worker = threading.Timer(0.3, finish, (api, job.id, VIDEO))
    worker.start()
    assert client.wait(job, timeout_s=30).status == "succeeded"
    worker.join()


def test_waiting_has_an_end(client: Any, face: Path, speech: Path) -> None:
    job = client.submit(face, speech)
    began_s = time.monotonic()
    with pytest.raises(WaitTimeoutError, match="it continues") as late:
        client.wait(job, timeout_s=0.5)
    assert 0.4 < time.monotonic() - began_s < 5
    assert late.value.job_id == job.id
    assert client.cancel(job).status == "canceled"


def test_a_broken_download_resumes(
    client: Any, proxy: BreakingProxy, api: RunningApi, face: Path, speech: Path, tmp_path: Path
) -> None:
    job = client.submit(face, speech)
    with pytest.raises(codes.ResultNotReadyError, match="queued"):
        client.download(job, tmp_path / "early.mp4")
    finish(api, job.id, VIDEO)
    proxy.will(Fault("GET", "/result", cut_after=300_000), Fault("GET", "/result", cut_after=400_000))
    folder = tmp_path / "new"
    assert client.download(job, folder / "result.mp4") == folder / "result.mp4"
    assert (folder / "result.mp4").read_bytes() == VIDEO
    assert [path.name for path in folder.iterdir()] == ["result.mp4"]
    starts = [headers.get("range", "-") for _, path, headers in proxy.asked if path.endswith("/result")]
    assert starts[0] == "-"
    assert all(start.startswith("bytes=") and start != "bytes=0-" for start in starts[1:])
    assert len(starts) == 3


def test_a_later_call_resumes_an_earlier_download(
    client: Any, proxy: BreakingProxy, api: RunningApi, face: Path, speech: Path, tmp_path: Path
) -> None:
    job = client.submit(face, speech)
    finish(api, job.id, VIDEO)
    proxy.will(Fault("GET", "/result", cut_after=500_000), Fault("GET", "/result", status=500, body=b"broken"))
    with pytest.raises(UnexpectedAnswerError, match="answered 500"):
        client.download(job, tmp_path / "result.mp4")
    assert not (tmp_path / "result.mp4").exists()
    client.download(job, tmp_path / "result.mp4")
    assert (tmp_path / "result.mp4").read_bytes() == VIDEO
    last = [headers for _, path, headers in proxy.asked if path.endswith("/result")][-1]
    assert int(last["range"].removeprefix("bytes=").rstrip("-")) >= 400_000


def test_what_is_damaged_is_not_kept(client: Any, api: RunningApi, face: Path, speech: Path, tmp_path: Path) -> None:
    job = client.submit(face, speech)
    finish(api, job.id, VIDEO)
    part = tmp_path / f".result.mp4.{job.id}.part"
    part.write_bytes(b"x" * 1000)
    with pytest.raises(retalking_client.DownloadDamagedError):
        client.download(job, tmp_path / "result.mp4")
    assert not part.exists()
    client.download(job, tmp_path / "result.mp4")
    assert (tmp_path / "result.mp4").read_bytes() == VIDEO


def test_cancel_never_deletes_and_delete_never_cancels(
    client: Any, proxy: BreakingProxy, api: RunningApi, face: Path, speech: Path
) -> None:
    job = client.submit(face, speech)
    with pytest.raises(codes.JobNotFinishedError, match="cancel it"):
        client.delete(job)
    finish(api, job.id, VIDEO)
    assert client.cancel(job).status == "succeeded", "it came too late, and took nothing away"
    proxy.will(Fault("DELETE", job.id, lose_answer=True))
    client.delete(job)
    with pytest.raises(codes.JobNotFoundError):
        client.get(job)
    with pytest.raises(codes.JobNotFoundError):
        client.delete(job)


def test_a_failed_job_raises_its_own_exception(client: Any, api: RunningApi, face: Path, speech: Path) -> None:
    job = client.submit(face, speech)
    api.fail(job.id)
    done = client.wait(job)
    assert done.status == "failed"
    with pytest.raises(codes.FaceNotFoundError, match="No face") as failed:
        done.raise_for_status()
    assert failed.value.job is done
    assert "from the front" in failed.value.advice


def test_redelivery_is_not_repeated_when_it_may_have_been_heard(
    client: Any, proxy: BreakingProxy, face: Path, speech: Path
) -> None:
    job = client.submit(face, speech)
    with pytest.raises(codes.WebhookNotConfiguredError):
        client.redeliver(job)
    proxy.will(Fault("POST", "/redeliver", lose_answer=True))
    with pytest.raises(ServiceUnreachableError):
        client.redeliver(job)
    assert proxy.count("POST", "/redeliver") == 2


def test_pages_are_walked(client: Any, proxy: BreakingProxy, face: Path, speech: Path) -> None:
    made = [client.submit(face, speech).id for _ in range(3)]
    seen = [job.id for job, _ in zip(client.jobs(page_size=2), range(3), strict=False)]
    assert seen == made[::-1]
    asked = proxy.count("GET", "/v1/jobs")
    first = next(iter(client.jobs(status="queued", page_size=1)))
    assert first.id == made[-1]
    assert proxy.count("GET", "/v1/jobs") == asked + 1, "no page is fetched ahead of its need"
    with pytest.raises(ValueError, match="status is one of"):
        next(iter(client.jobs(status="done")))


def test_a_service_that_is_not_there_is_named(face: Path, speech: Path) -> None:
    with Client("http://127.0.0.1:9", retry=QUICK) as client, pytest.raises(ServiceUnreachableError) as nobody:
        client.submit(face, speech)
    assert nobody.value.message.startswith("http://127.0.0.1:9 does not respond")
    for address in ("ftp://example.org", "http://", "http://[::1", "nonsense"):
        with pytest.raises(ServiceUnreachableError):
            Client(address)


def test_the_key_goes_to_the_service_and_nowhere_else(
    proxy: BreakingProxy, api: RunningApi, face: Path, speech: Path, tmp_path: Path
) -> None:
    with Client(api.url) as direct, BreakingProxy(api.url) as elsewhere:
        job = direct.submit(face, speech)
        finish(api, job.id, VIDEO)
        away = {"Location": f"{elsewhere.url}/jobs/{job.id}/result"}
        proxy.will(Fault("GET", "/result", status=307, headers=away))
        with Client(proxy.url, api_key="a-secret", retry=QUICK) as client:
            client.download(job.id, tmp_path / "result.mp4")
            assert "a-secret" not in repr(client._connection)
        assert {headers.get("authorization") for *_, headers in proxy.asked} == {"Bearer a-secret"}
        assert [headers.get("authorization") for *_, headers in elsewhere.asked] == [None]
    assert (tmp_path / "result.mp4").read_bytes() == VIDEO


def test_a_service_that_wants_keys(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory, face: Path, speech: Path, tmp_path: Path
) -> None:
    with run_api(tmp_path_factory.mktemp("keys"), own_database(redis_url), REQUIRE_KEYS="true") as locked:
        with Client(locked.url, retry=QUICK) as nobody, pytest.raises(ApiError) as refused:
            nobody.submit(face, speech)
        assert refused.value.status == 401
        key = make_key(locked.store, "the test", frozenset({Scope.SUBMIT, Scope.READ}))
        with Client(locked.url, api_key=key) as client:
            job = client.submit(client.upload(face), speech)
            finish(locked, job.id, VIDEO)
            assert client.wait(job).status == "succeeded"
            assert client.download(job, tmp_path / "result.mp4").read_bytes() == VIDEO
            client.delete(job)


def test_keys_and_usage(redis_url: str, tmp_path_factory: pytest.TempPathFactory, face: Path, speech: Path) -> None:
    folder = tmp_path_factory.mktemp("accounts")
    with run_api(folder, own_database(redis_url), REQUIRE_KEYS="true") as locked:
        admin_key = make_key(locked.store, "ops", frozenset({Scope.ADMIN}))
        with Client(locked.url, api_key=admin_key) as admin:
            made = admin.create_key("studio", live_jobs=5)
            assert (made.account, made.scopes, made.max_priority) == (made.id, ["read", "submit"], 1)
            assert made.key not in repr(made)
            rotated = admin.rotate_key(made.id, overlap_s=0)
            assert [key.id for key in admin.keys(account=made.account)] == [made.id, rotated.id]
            with pytest.raises(codes.KeyRevokedError):
                admin.rotate_key(made.id)
            with Client(locked.url, api_key=rotated.key) as owner:
                finish(locked, owner.submit(face, speech).id, VIDEO)
                (mine,) = owner.usage(months=2)
                assert (mine.account, mine.name, len(mine.months)) == (made.account, "studio", 2)
                assert mine.months[0].jobs == {"succeeded": 1, "failed": 0, "canceled": 0}
                with pytest.raises(codes.ForbiddenError):
                    list(owner.keys())
            assert [used.name for used in admin.usage()] == ["ops", "studio"]
            assert admin.revoke_key(rotated.id).revoked_at is not None
            assert [key.name for key in list(admin.keys())] == ["ops", "studio", "studio"]

        async def same() -> None:
            async with AsyncClient(locked.url, api_key=admin_key) as admin:
                made = await admin.create_key("film", scopes=["read"], account=rotated.account)
                assert [key.id async for key in admin.keys(account=rotated.account)][-1] == made.id
                assert (await admin.rotate_key(made.id)).account == rotated.account
                assert (await admin.revoke_key(made.id)).id == made.id
                assert [used.account async for used in admin.usage(account=rotated.account)] == [rotated.account]

        asyncio.run(same())


def test_a_failed_job_is_retried_once(client: Any, api: RunningApi, face: Path, speech: Path) -> None:
    job = client.submit(face, speech, metadata={"take": 3, "title": "b"})
    assert (job.inputs["video"].kind, job.inputs["video"].filename) == ("file", "face.mp4")
    api.fail(job.id)
    made = client.retry(job, idempotency_key=f"again-{job.id}")
    assert (made.status, made.retry_of) == ("queued", job.id)
    assert client.retry(job, idempotency_key=f"again-{job.id}").id == made.id
    found = [each.id for each in client.jobs(metadata={"take": 3, "title": "b"}, status="queued")]
    assert made.id in found
    assert job.id not in found
    with pytest.raises(codes.RetryNotPossibleError):
        client.retry(made)
    client.cancel(made)


def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, proxy: BreakingProxy) -> None:
    monkeypatch.setenv("RETALKING_URL", f"{proxy.url}/")
    monkeypatch.setenv("RETALKING_API_KEY", "from-outside")
    with Client() as client:
        assert client.url == proxy.url
        assert client.offer()["workers"] == 0
    assert proxy.asked[0][2]["authorization"] == "Bearer from-outside"


def test_the_client_knows_every_code() -> None:
    assert all(ApiError.class_of(code).code == code for code in ERROR_CODES)
    assert {kind.code for kind in vars(codes).values() if isinstance(kind, type)} - {ApiError.code} == set(ERROR_CODES)
    assert ApiError.class_of("from_the_future") is ApiError
    assert (Path(retalking_client.__file__).parent / "py.typed").exists()
