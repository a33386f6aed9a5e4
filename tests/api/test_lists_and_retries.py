"""Inputs in the view of a job, filters of the list, and retries."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from cli.keys import make_key
from jobs.names import input_key
from jobs.store.keys import Scope
from tests.api.running import MP4, PNG, WAV, RunningApi, api_in_both_forms, check_problem, input_files, run_api
from tests.services import own_database

api = api_in_both_forms


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_inputs_of_a_job(tight_api: RunningApi) -> None:
    link = tight_api.client.post("/v1/uploads").json()
    assert tight_api.client.put(link["url"], content=WAV).status_code == 200
    fields = {"audio_upload_id": link["id"], "video_url": "http://127.0.0.1:9/face.mp4?token=secret"}
    answer = tight_api.client.post("/v1/jobs/upload", data=fields, files={"expression": ("smile.png", PNG)})
    unknown = dict.fromkeys(("duration_s", "width", "height", "fps", "audio_track"))
    assert answer.json()["inputs"] == {
        "video": {"kind": "url", "filename": None, "upload_id": None, "size_bytes": None, "sha256": None, **unknown},
        "audio": {
            "kind": "upload",
            "filename": None,
            "upload_id": link["id"],
            "size_bytes": len(WAV),
            "sha256": sha256(WAV),
            **unknown,
        },
        "expression": {
            "kind": "file",
            "filename": "smile.png",
            "upload_id": None,
            "size_bytes": len(PNG),
            "sha256": sha256(PNG),
            **unknown,
        },
    }
    assert "secret" not in answer.text


@pytest.fixture(scope="module")
def shelf(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """A service with ten jobs."""
    env = {"ALLOW_PRIVATE_HOSTS": "127.0.0.1"}
    with run_api(tmp_path_factory.mktemp("shelf"), own_database(redis_url), **env) as running:
        yield running


@pytest.fixture(scope="module")
def ids(shelf: RunningApi) -> list[str]:
    made = []
    for number in range(10):
        fields = {"metadata": f'{{"order": {number % 3}, "name": "n{number % 2}"}}'}
        if number >= 8:
            fields["webhook_url"] = "http://127.0.0.1:9/hook"
        made.append(shelf.new_job(**fields))
    shelf.finish(made[0])
    shelf.fail(made[1])
    shelf.client.post(f"/v1/jobs/{made[2]}/cancel")
    shelf.fail(made[8])
    return made


def listed(shelf: RunningApi, *filters: tuple[str, str], limit: int = 3) -> list[str]:
    """Ids of all pages, oldest first."""
    path, found = str(httpx.URL("/v1/jobs", params=[*filters, ("limit", str(limit))])), []
    while path:
        page = shelf.client.get(path).raise_for_status().json()
        assert len(page["jobs"]) <= limit
        found += [job["id"] for job in page["jobs"]]
        path = page["links"]["next"]
    return found[::-1]


def test_several_statuses(shelf: RunningApi, ids: list[str]) -> None:
    assert listed(shelf, ("status", "failed"), ("status", "canceled")) == [ids[1], ids[2], ids[8]]
    assert listed(shelf, ("status", "failed")) == [ids[1], ids[8]]
    assert listed(shelf) == ids


def test_metadata(shelf: RunningApi, ids: list[str]) -> None:
    assert listed(shelf, ("metadata", "order=1")) == [ids[1], ids[4], ids[7]]
    assert listed(shelf, ("metadata", "order=1"), ("metadata", "name=n1")) == [ids[1], ids[7]]
    assert listed(shelf, ("metadata", "order=1"), ("status", "queued")) == [ids[4], ids[7]]
    assert listed(shelf, ("metadata", "order=")) == []
    check_problem(shelf.client.get("/v1/jobs?metadata=order"), 422, "invalid_request")


def test_times(shelf: RunningApi, ids: list[str]) -> None:
    at = shelf.client.get(f"/v1/jobs/{ids[5]}").json()["created_at"]
    assert listed(shelf, ("created_after", at)) == ids[5:]
    assert listed(shelf, ("created_before", at)) == ids[:5]
    assert listed(shelf, ("created_after", at), ("created_before", datetime.now(UTC).isoformat())) == ids[5:]
    for text in ("yesterday", "0.5", "1735689600", "2025-01-01T00:00:00"):
        check_problem(shelf.client.get(f"/v1/jobs?created_after={text}"), 422, "invalid_request")


def test_engine_and_webhook(shelf: RunningApi, ids: list[str]) -> None:
    assert listed(shelf, ("engine", "preview")) == [ids[0]]
    assert listed(shelf, ("webhook", "undelivered")) == [ids[8]], "the other has no event yet"
    check_problem(shelf.client.get("/v1/jobs?webhook=delivered"), 422, "invalid_request")


def test_a_page_reads_a_bounded_number_of_jobs(shelf: RunningApi, ids: list[str], monkeypatch: object) -> None:
    import jobs.store.jobs as module

    monkeypatch.setattr(module, "MAX_PAGE", 2)
    monkeypatch.setattr(module, "MAX_SCAN", 4)
    page = shelf.store.jobs.page(status=None, cursor=None, limit=2, matches=lambda job: job.id == ids[0])
    assert (page.jobs, page.next_cursor is None) == ([], False)
    seen = []
    while page.next_cursor:
        page = shelf.store.jobs.page(
            status=None, cursor=page.next_cursor, limit=2, matches=lambda job: job.id == ids[0]
        )
        seen += [job.id for job in page.jobs]
    assert seen == [ids[0]]


def test_a_failed_job_is_retried(api: RunningApi) -> None:
    failed = api.new_job(**{"output.crf": "21", "metadata": '{"order": 7}'})
    api.fail(failed)
    answer = api.client.post(f"/jobs/{failed}/retry", headers={"Idempotency-Key": f"again-{failed}"})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"{api.base}/jobs/{job['id']}"
    assert job["id"] != failed
    assert (job["status"], job["retry_of"], job["metadata"]) == ("queued", failed, {"order": 7})
    assert job["options"]["output"]["crf"] == 21
    assert job["inputs"]["video"]["sha256"] == sha256(MP4)
    again = api.client.post(f"/jobs/{failed}/retry", headers={"Idempotency-Key": f"again-{failed}"})
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (job["id"], "true")
    # It has its own files
    assert api.client.delete(f"/jobs/{failed}").status_code == 204
    assert b"".join(api.objects.read(input_key(job["id"], "video"))) == MP4
    api.finish(job["id"])
    assert api.client.get(f"/jobs/{job['id']}").json()["status"] == "succeeded"


def test_what_is_not_retried(api: RunningApi) -> None:
    live, over = api.new_job(), api.new_job()
    api.finish(over)
    for job_id in (live, over):
        check_problem(api.client.post(f"/jobs/{job_id}/retry"), 409, "retry_not_possible")
    api.client.post(f"/jobs/{live}/cancel")
    assert api.client.post(f"/jobs/{live}/retry").status_code == 202, "canceled"
    gone = api.new_job()
    api.fail(gone)
    api.objects.delete(input_key(gone, "video"))
    before = api.input_keys()
    check_problem(api.client.post(f"/jobs/{gone}/retry"), 503, "storage_failed")
    assert api.input_keys() == before, "nothing is left behind"
    check_problem(api.client.post(f"/jobs/job_{'0' * 32}/retry"), 404, "job_not_found")


def test_a_retry_needs_the_right_and_the_room(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("retry-keys")
    with run_api(folder, own_database(redis_url), REQUIRE_KEYS="true") as locked:
        scopes = frozenset({Scope.SUBMIT, Scope.READ})
        mine, other = (make_key(locked.store, name, scopes, live_jobs=1) for name in ("mine", "other"))
        auth = {"Authorization": f"Bearer {mine}"}
        job_id = locked.client.post("/v1/jobs/upload", files=input_files(), headers=auth).json()["id"]
        locked.fail(job_id)
        path = f"/v1/jobs/{job_id}/retry"
        check_problem(locked.client.post(path, headers={"Authorization": f"Bearer {other}"}), 404, "job_not_found")
        assert locked.client.post(path, headers=auth).status_code == 202
        check_problem(locked.client.post(path, headers=auth), 429, "quota_exceeded")
