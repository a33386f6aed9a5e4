"""POST /batches and what follows it: accepted as a whole or refused by item, read, listed, canceled, deleted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.submission import MAX_ITEMS
from cli.keys import make_key
from jobs.models import ErrorInfo
from jobs.store.keys import Scope
from tests.api.running import MP4, RunningApi, api_in_both_forms, check_problem, run_api
from tests.services import own_database

api = api_in_both_forms


def upload(api: RunningApi, content: bytes = MP4) -> str:
    link = api.client.post("/uploads").json()
    answer = httpx.put(link["url"], content=content)
    assert answer.status_code == 200, answer.text
    return link["id"]


def item(upload_id: str, **more: Any) -> dict[str, Any]:
    return {"video_upload_id": upload_id, "audio_upload_id": upload_id, **more}


def test_a_batch_is_accepted_and_read(api: RunningApi) -> None:
    face = upload(api)
    asked = {"jobs": [item(face, metadata={"line": line}) for line in range(3)], "metadata": {"order": 7}}
    answer = api.client.post("/batches", json=asked, headers={"Idempotency-Key": f"b{api.base}"})
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert answer.headers["location"] == f"{api.base}/batches/{body['id']}"
    assert (body["status"], body["total"], body["counts"]["waiting"]) == ("running", 3, 3)
    assert (body["metadata"], body["failures"], body["webhook"]) == ({"order": 7}, [], None)
    assert api.client.get(f"/batches/{body['id']}").json() == body
    again = api.client.post("/batches", json=asked, headers={"Idempotency-Key": f"b{api.base}"})
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (body["id"], "true")
    other = {"jobs": asked["jobs"][:2]}
    refused = api.client.post("/batches", json=other, headers={"Idempotency-Key": f"b{api.base}"})
    check_problem(refused, 422, "idempotency_conflict")
    spec = api.store.batches.items(api.store.batches.get(body["id"]), 3)[2]
    assert (spec.video.upload_id, spec.video.key, spec.request.metadata) == (face, None, {"line": 2})


def test_items_have_segments(api: RunningApi) -> None:
    face, speech = upload(api), upload(api)
    segments = [
        {"start_s": 0, "audio": f"upload:{speech}", "face": "left_most"},
        {"start_s": 2, "audio": "http://93.184.215.14/b.wav", "expression": "smile"},
    ]
    job = {"video_upload_id": face, "segments": segments}
    headers = {"Idempotency-Key": f"segments{api.base}"}
    answer = api.client.post("/batches", json={"jobs": [job]}, headers=headers)
    assert answer.status_code == 202, answer.text
    (spec,) = api.store.batches.items(api.store.batches.get(answer.json()["id"]), 1)
    assert {part: ref.upload_id or ref.url for part, ref in spec.inputs.items()} == {
        "video": face,
        "audio_1": speech,
        "audio_2": "http://93.184.215.14/b.wav",
    }
    assert [(each.audio, each.face, each.expression) for each in spec.segments] == [
        ("audio_1", "left_most", None),
        ("audio_2", None, "smile"),
    ]
    # The same files under other upload ids are the same batch
    once_more = json.loads(json.dumps(job).replace(face, upload(api)).replace(speech, upload(api)))
    again = api.client.post("/batches", json={"jobs": [once_more]}, headers=headers)
    assert again.json()["id"] == answer.json()["id"]


def test_a_list_that_was_uploaded(api: RunningApi) -> None:
    face = upload(api)
    lines = b"\n".join(json.dumps(item(face, seed=seed)).encode() for seed in range(MAX_ITEMS)) + b"\n\n"
    answer = api.client.post("/batches", json={"jobs_upload_id": upload(api, lines)})
    assert answer.status_code == 202, answer.text
    assert answer.json()["total"] == MAX_ITEMS
    assert api.client.post(f"/batches/{answer.json()['id']}/cancel").json()["counts"]["canceled"] == MAX_ITEMS
    broken = api.client.post("/batches", json={"jobs_upload_id": upload(api, b'{"seed": 1}\n{"seed": \n')})
    assert "Line 2" in check_problem(broken, 400, "malformed_json")["detail"]
    wrong = upload(api, json.dumps(item(face)).encode() + b'\n{"seed": "1"}')
    refused = check_problem(api.client.post("/batches", json={"jobs_upload_id": wrong}), 422, "invalid_request")
    assert [each["pointer"] for each in refused["errors"]] == ["#/jobs/1/seed"]
    long = upload(api, b"\n".join([json.dumps(item(face)).encode()] * (MAX_ITEMS + 1)))
    assert (
        "501 jobs"
        in check_problem(api.client.post("/batches", json={"jobs_upload_id": long}), 422, "invalid_request")["detail"]
    )
    wide = upload(api, b"\n" + json.dumps(item(face, transcript="a" * 2**20)).encode())
    refused = check_problem(api.client.post("/batches", json={"jobs_upload_id": wide}), 413, "body_too_large")
    assert "line 2 of the list" in refused["detail"], "blank lines count"
    values = {str(number): number for number in range(900)}
    many = upload(api, b"\n".join([json.dumps(item(face, metadata=values)).encode()] * 200))
    check_problem(api.client.post("/batches", json={"jobs_upload_id": many}), 422, "value_out_of_bounds")
    gone = "up_" + "0" * 32
    check_problem(api.client.post("/batches", json={"jobs_upload_id": gone}), 404, "upload_not_found")


@pytest.mark.parametrize(
    ("wrong", "status", "code", "pointer"),
    [
        ({"output": {"crf": 99}}, 422, "invalid_request", "#/jobs/1/output/crf"),
        ({"crf": 18}, 422, "invalid_request", "#/jobs/1/crf"),
        ({"video_url": "https://example.com/v.mp4"}, 422, "invalid_request", "#/jobs/1/video"),
        ({"metadata": {"a": "\u0000"}}, 422, "value_out_of_bounds", "#/jobs/1/metadata"),
        ({"expression": "image"}, 422, "invalid_request", "#/jobs/1/expression"),
        ({"webhook_url": "http://10.0.0.1/"}, 422, "url_not_allowed", "#/jobs/1/webhook_url"),
        ({"audio_upload_id": "up_" + "0" * 32}, 404, "upload_not_found", "#/jobs/1/audio_upload_id"),
        ({"audio_upload_id": None, "segments": []}, 422, "invalid_request", "#/jobs/1/segments"),
        (
            {"audio_upload_id": None, "segments": [{"start_s": 0, "audio": "anna"}]},
            422,
            "segment_audio_missing",
            "#/jobs/1/segments/0/audio",
        ),
        (
            {"audio_upload_id": None, "segments": [{"start_s": 0, "audio": "upload:up_" + "0" * 32}]},
            404,
            "upload_not_found",
            "#/jobs/1/segments/0/audio",
        ),
        (
            {"audio_upload_id": None, "segments": [{"start_s": 0, "audio": "http://10.0.0.1/a.wav"}]},
            422,
            "url_not_allowed",
            "#/jobs/1/segments/0/audio",
        ),
    ],
)
def test_one_wrong_item_refuses_the_batch(
    api: RunningApi, wrong: dict[str, Any], status: int, code: str, pointer: str
) -> None:
    face, before = upload(api), api.store.batches.open("")
    answer = api.client.post("/batches", json={"jobs": [item(face), item(face, **wrong)]})
    body = check_problem(answer, status, code)
    assert [each["pointer"] for each in body["errors"]] == [pointer]
    assert api.store.batches.open("") == before


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid_request"),
        ({"jobs": []}, 422, "invalid_request"),
        ({"jobs": [{}], "jobs_upload_id": "up_" + "0" * 32}, 422, "invalid_request"),
        ({"jobs": [{}], "name": "x"}, 422, "invalid_request"),
        ([], 422, "invalid_request"),
        ({"jobs": [{}] * (MAX_ITEMS + 1)}, 422, "invalid_request"),
    ],
)
def test_bodies_that_are_no_batch(api: RunningApi, body: Any, status: int, code: str) -> None:
    check_problem(api.client.post("/batches", json=body), status, code)


def test_its_jobs_are_listed_and_it_is_canceled_and_deleted(api: RunningApi) -> None:
    face = upload(api)
    batch_id = api.client.post("/batches", json={"jobs": [item(face)] * 3}).json()["id"]
    batch = api.store.batches.get(batch_id)
    specs = api.store.batches.items(batch, 2)
    ids = [f"job_{index}{api.base.replace('/v', 'f') or 'ee'}".ljust(36, "a") for index in range(2)]
    for job_id, spec in zip(ids, specs, strict=True):
        api.store.jobs.create(job_id, spec, max_attempts=3)
    api.fail(ids[0])
    page = api.client.get("/jobs", params={"batch": batch_id}).json()
    assert [job["id"] for job in page["jobs"]] == ids[::-1]
    assert page["jobs"][0]["batch"] == {"id": batch_id, "index": 1}
    assert batch_id in page["links"]["self"]
    failed = api.client.get("/jobs", params={"batch": batch_id, "status": "failed"}).json()["jobs"]
    assert [job["id"] for job in failed] == [ids[0]]
    body = api.client.get(f"/batches/{batch_id}").json()
    assert body["counts"] | {"canceled": 0} == {
        "waiting": 1, "queued": 1, "running": 0, "succeeded": 0, "failed": 1, "canceled": 0
    }  # fmt: skip
    assert [(each["index"], each["job_id"], each["code"]) for each in body["failures"]] == [
        (0, ids[0], "face_not_found")
    ]
    answer = api.client.delete(f"/batches/{batch_id}")
    assert (answer.status_code, answer.json()["status"], answer.json()["counts"]["canceled"]) == (202, "canceled", 2)
    assert api.client.delete(f"/batches/{batch_id}").status_code == 204
    check_problem(api.client.get(f"/batches/{batch_id}"), 404, "batch_not_found")
    check_problem(api.client.get("/jobs", params={"batch": batch_id}), 404, "batch_not_found")
    assert api.client.get(f"/jobs/{ids[0]}").status_code == 200
    check_problem(api.client.get("/batches/1"), 404, "batch_not_found")


def test_batches_are_listed_newest_first(api: RunningApi) -> None:
    face = upload(api)
    ids = [api.client.post("/batches", json={"jobs": [item(face)] * 2}).json()["id"] for _ in range(3)]
    first = api.client.get("/batches", params={"limit": 2}).json()
    assert [each["id"] for each in first["batches"]] == ids[:0:-1]
    rest = api.client.get("/batches", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert rest["batches"][0]["id"] == ids[0]
    full = api.client.get(f"/batches/{ids[0]}").json()
    assert rest["batches"][0] == {name: full[name] for name in full.keys() - {"failures", "webhook"}}
    for expected in (202, 204):
        assert api.client.delete(f"/batches/{ids[1]}").status_code == expected
    listed = api.client.get("/batches").json()["batches"]
    assert [each["id"] for each in listed[:2]] == [ids[2], ids[0]]
    # A record that cannot be read hides no other one
    api.store.redis.client.hset(api.store.redis.key("batch", ids[2]), "total", "many")
    assert api.client.get("/batches").json()["batches"][0]["id"] == ids[0]
    for query in ("limit=0", "limit=101", "cursor=1", "limit=1&limit=2", "status=running"):
        check_problem(api.client.get(f"/batches?{query}"), 422, "invalid_request")


def test_accounts_see_their_own_batches(redis_url: str, tmp_path: Path) -> None:
    with run_api(tmp_path, own_database(redis_url), REQUIRE_KEYS="true") as locked:
        scopes = frozenset({Scope.SUBMIT, Scope.READ})
        keys = [make_key(locked.store, name, scopes, max_priority=1) for name in ("one", "two")]
        one, two = ({"Authorization": f"Bearer {key}"} for key in keys)
        admin = {"Authorization": f"Bearer {make_key(locked.store, 'ops', frozenset({Scope.ADMIN}))}"}
        link = locked.client.post("/uploads", headers=one).json()
        assert httpx.put(link["url"], content=MP4).status_code == 200
        made = [
            locked.client.post("/batches", json={"jobs": [item(link["id"])]}, headers=one | {"Idempotency-Key": key})
            for key in ("a", "a", "b")
        ]
        assert [each.status_code for each in made] == [202, 202, 202]
        ids = [each.json()["id"] for each in made]
        assert ids[0] == ids[1] != ids[2]
        own, others, all_of = (
            [each["id"] for each in locked.client.get("/batches", headers=who).json()["batches"]]
            for who in (one, two, admin)
        )
        assert (own, others, all_of) == ([ids[2], ids[0]], [], [ids[2], ids[0]])
        for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
            refused = locked.client.request(method, f"/batches/{ids[0]}{path}", headers=two)
            check_problem(refused, 404, "batch_not_found")
        check_problem(locked.client.get("/jobs", params={"batch": ids[0]}, headers=two), 404, "batch_not_found")
        # The file of another account, and a priority above the key's ceiling, are refused by item
        stolen = locked.client.post("/batches", json={"jobs": [item(link["id"])]}, headers=two)
        check_problem(stolen, 404, "upload_not_found")
        urgent = {"jobs": [item(link["id"]), item(link["id"], priority=2)]}
        refused = locked.client.post("/batches", json=urgent, headers=one)
        body = check_problem(refused, 403, "priority_not_allowed")
        assert [each["pointer"] for each in body["errors"]] == ["#/jobs/1/priority"]
        # One account's idempotency key is not another's
        link = locked.client.post("/uploads", headers=two).json()
        assert httpx.put(link["url"], content=MP4).status_code == 200
        third = locked.client.post(
            "/batches", json={"jobs": [item(link["id"])]}, headers=two | {"Idempotency-Key": "a"}
        )
        assert third.status_code == 202
        assert third.json()["id"] not in ids


def test_an_item_without_its_file_is_retried_from_its_upload(api: RunningApi) -> None:
    face = upload(api)
    batch_id = api.client.post("/batches", json={"jobs": [item(face)]}).json()["id"]
    (spec,) = api.store.batches.items(api.store.batches.get(batch_id), 1)
    job_id = f"job_{'b' if api.base else 'c'}".ljust(36, "d")
    error = ErrorInfo(code="storage_full", message="Full.")
    api.store.jobs.create(job_id, spec, max_attempts=3, error=error)
    assert api.client.get(f"/jobs/{job_id}").json()["error"]["code"] == "storage_full"
    answer = api.client.post(f"/jobs/{job_id}/retry")
    assert answer.status_code == 202, answer.text
    assert (answer.json()["retry_of"], answer.json()["batch"]) == (job_id, None)
    assert answer.json()["inputs"]["video"]["size_bytes"] == len(MP4)
