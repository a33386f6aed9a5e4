"""Accounts over HTTP: keys that come and go without their jobs, limits, usage, and isolation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from jobs.models import JobStatus
from jobs.signing import account_holder, link_query, link_secret
from jobs.store.keys import Scope, digest_of, key_id_of, new_key_text
from jobs.view import view_job
from tests.api.running import MP4, RunningApi, check_problem, input_files, run_api
from tests.api.test_access import User, user
from tests.services import own_database


@pytest.fixture(scope="module")
def locked(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    folder = tmp_path_factory.mktemp("accounts")
    with run_api(folder, own_database(redis_url), REQUIRE_KEYS="true") as running:
        yield running


@pytest.fixture(scope="module")
def admin(locked: RunningApi) -> User:
    return user(locked, Scope.ADMIN, requests_per_minute=60000)


def create(admin: User, **fields: Any) -> tuple[User, dict[str, Any]]:
    answer = admin.ask("POST", "/v1/keys", json={"name": "studio"} | fields)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    return User(admin.api, body["key"]), body


def test_a_key_is_shown_once(locked: RunningApi, admin: User) -> None:
    made, body = create(admin, scopes=["read", "submit"], max_priority=2, live_jobs=3)
    assert body["id"] == body["account"] == key_id_of(made.key)
    assert made.ask("GET", "/v1/jobs").status_code == 200
    secret, digest = made.key.split("_")[2], digest_of(made.key)
    texts = [admin.ask("GET", path).text for path in ("/v1/keys?limit=1000", "/v1/accounts", "/v1/usage", "/metrics")]
    (listed,) = [key for key in json.loads(texts[0])["keys"] if key["id"] == body["id"]]
    assert listed == {name: value for name, value in body.items() if name != "key"}
    assert (listed["scopes"], listed["max_priority"], listed["revoked_at"]) == (["read", "submit"], 2, None)
    for text in (*texts, locked.log.read_text()):
        assert secret not in text
        assert digest not in text


def test_rotating_and_revoking_keep_the_jobs(admin: User) -> None:
    """Also the idempotency keys, the webhook secret, the uploads and the quota."""
    first, body = create(admin, live_jobs=2)
    named = {"headers": {"Idempotency-Key": "the-same"}}
    job_id = first.new_job(**named)
    upload = first.ask("POST", "/v1/uploads").json()
    assert httpx.put(upload["url"], content=MP4).status_code == 200
    secret = first.ask("GET", "/v1/webhooks/secret").json()

    answer = admin.ask("POST", f"/v1/keys/{body['id']}/rotate?overlap_s=600")
    assert answer.status_code == 201
    second = User(admin.api, answer.json()["key"])
    assert answer.json()["account"] == body["account"]
    assert first.ask("GET", f"/v1/jobs/{job_id}").status_code == 200, "both are valid for a while"
    assert admin.ask("POST", f"/v1/keys/{body['id']}/revoke").json()["revoked_at"] is not None
    check_problem(first.ask("GET", f"/v1/jobs/{job_id}"), 401, "unauthorized")

    assert second.ask("GET", f"/v1/jobs/{job_id}").status_code == 200
    assert [job["id"] for job in second.ask("GET", "/v1/jobs").json()["jobs"]] == [job_id]
    assert second.new_job(**named) == job_id
    assert second.ask("GET", "/v1/webhooks/secret").json() == secret
    by_upload = {"video_upload_id": upload["id"], "audio_upload_id": upload["id"]}
    assert second.ask("POST", "/v1/jobs", json=by_upload).status_code == 202
    check_problem(second.ask("POST", "/v1/jobs", json=by_upload), 429, "quota_exceeded")
    third, _ = create(admin, account=body["account"], scopes=["submit"])
    check_problem(third.ask("POST", "/v1/jobs", json=by_upload), 429, "quota_exceeded")
    listed = admin.ask("GET", f"/v1/keys?account={body['account']}").json()["keys"]
    assert [key["revoked_at"] is None for key in listed] == [False, True, True]


def test_the_rate_belongs_to_the_account(admin: User) -> None:
    first, body = create(admin, requests_per_minute=4)
    second, _ = create(admin, account=body["account"])
    codes = [who.ask("GET", "/v1/jobs").status_code for who in (first, second, first, second, first)]
    assert codes == [200] * 4 + [429]


def test_a_record_of_an_earlier_version_works_on(locked: RunningApi, admin: User) -> None:
    text = new_key_text()
    key_id = str(key_id_of(text))
    now = datetime.now(UTC)
    record = {"id": key_id, "name": "old", "digest": digest_of(text), "scopes": ["submit", "read"], "live_jobs": 1}
    record |= {"max_priority": 0, "created_at": now.isoformat(), "revoked_at": None, "stored_bytes": None}
    client, name = locked.store.redis.client, locked.store.redis.key
    client.set(name("api_key", key_id), json.dumps(record))
    client.zadd(name("api_keys"), {key_id: int(now.timestamp() * 1000)})
    old = User(locked, text)
    check_problem(old.ask("POST", "/v1/jobs", files=input_files()), 403, "priority_not_allowed")
    job_id = old.new_job(data={"priority": "0"})
    assert locked.store.jobs.get(job_id).owner == key_id
    check_problem(old.ask("POST", "/v1/jobs", files=input_files(), data={"priority": "0"}), 429, "quota_exceeded")
    assert admin.ask("PATCH", f"/v1/accounts/{key_id}", json={"live_jobs": 2}).json()["live_jobs"] == 2
    new = User(locked, admin.ask("POST", f"/v1/keys/{key_id}/rotate?overlap_s=0").json()["key"])
    assert new.ask("GET", f"/v1/jobs/{job_id}").status_code == 200
    assert new.ask("POST", "/v1/jobs", files=input_files(), data={"priority": "0"}).status_code == 202


def test_links_of_webhooks_end_with_the_last_key(locked: RunningApi, admin: User) -> None:
    """What a webhook carries outlives the key that submitted, and not the account's last one."""
    first, body = create(admin)
    job_id = first.new_job()
    job = locked.finish(job_id)
    view = view_job(job, locked.store, locked.objects, locked.settings, link_secret(locked.settings))
    assert view.result is not None
    link = view.result.url
    assert f"key={account_holder(body['account'])}" in link
    own = first.ask("GET", f"/v1/jobs/{job_id}").json()["result"]["url"]
    second = admin.ask("POST", f"/v1/keys/{body['id']}/rotate?overlap_s=0").json()
    assert httpx.get(link).status_code == 200
    check_problem(httpx.get(own), 403, "link_invalid")
    admin.ask("POST", f"/v1/keys/{second['id']}/revoke")
    check_problem(httpx.get(link), 403, "link_invalid")
    query = link_query(link_secret(locked.settings), "GET", f"jobs/{job_id}/result", 4 * 10**9, "account.nobody")
    check_problem(locked.client.get(f"/jobs/{job_id}/result?{query}"), 403, "link_invalid")


def test_changing_an_account(admin: User) -> None:
    _, body = create(admin, live_jobs=5)
    address = f"/v1/accounts/{body['account']}"
    changed = admin.ask("PATCH", address, json={"name": "film", "stored_bytes": 2048}).json()
    assert (changed["name"], changed["live_jobs"], changed["stored_bytes"]) == ("film", 5, 2048)
    changed = admin.ask("PATCH", address, json={"live_jobs": None}).json()
    assert (changed["name"], changed["live_jobs"], changed["stored_bytes"]) == ("film", 100, 2048)
    assert changed in admin.ask("GET", "/v1/accounts?limit=1000").json()["accounts"]
    assert admin.ask("PATCH", address, json={"name": None}).json() == changed


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/keys", {"name": ""}, 422, "invalid_request"),
        ("POST", "/v1/keys", {"name": "two\nlines"}, 422, "invalid_request"),
        ("POST", "/v1/keys", {"name": "\ud800"}, 400, "malformed_json"),
        ("POST", "/v1/keys", {"name": "x", "scopes": ["root"]}, 422, "invalid_request"),
        ("POST", "/v1/keys", {"name": "x", "scopes": []}, 422, "invalid_request"),
        ("POST", "/v1/keys", {"name": "x", "scopes": ["read", "read"]}, 422, "invalid_request"),
        ("POST", "/v1/keys", {"name": "x", "max_priority": 3}, 422, "invalid_request"),
        ("POST", "/v1/keys", {"name": "x", "id": "0" * 16}, 422, "invalid_request"),
        ("POST", "/v1/keys", {"name": "x", "account": "0" * 16}, 404, "account_not_found"),
        ("POST", "/v1/keys", {"name": "x", "account": "0" * 16, "live_jobs": 5}, 422, "invalid_request"),
        ("POST", "/v1/keys", [], 422, "invalid_request"),
        ("POST", "/v1/keys", {"name": "x" * 70_000}, 413, "body_too_large"),
        ("PATCH", "/v1/accounts/nobody", {}, 404, "account_not_found"),
        ("PATCH", "/v1/accounts/" + "0" * 16, {"live_jobs": 0}, 422, "invalid_request"),
        ("POST", "/v1/keys/nobody/rotate", None, 404, "key_not_found"),
        ("POST", "/v1/keys/nobody/revoke", None, 404, "key_not_found"),
        ("GET", "/v1/keys?account=nobody", None, 404, "account_not_found"),
        ("GET", "/v1/keys?cursor=" + "0" * 16, None, 404, "key_not_found"),
        ("GET", "/v1/accounts?cursor=" + "0" * 16, None, 404, "account_not_found"),
        ("GET", "/v1/usage?account=nobody", None, 404, "account_not_found"),
        ("GET", "/v1/usage?months=25", None, 422, "invalid_request"),
    ],
)
def test_refusals(admin: User, method: str, path: str, body: Any, status: int, code: str) -> None:
    sent = {} if body is None else {"content": json.dumps(body), "headers": {"Content-Type": "application/json"}}
    check_problem(admin.ask(method, path, **sent), status, code)


def test_a_revoked_key_cannot_be_rotated(admin: User) -> None:
    _, body = create(admin)
    for _ in range(2):
        assert admin.ask("POST", f"/v1/keys/{body['id']}/revoke").status_code == 200
    check_problem(admin.ask("POST", f"/v1/keys/{body['id']}/rotate"), 409, "key_revoked")


def test_a_body_of_another_type_is_refused(admin: User) -> None:
    check_problem(admin.ask("POST", "/v1/keys", data={"name": "x"}), 415, "unsupported_media_type")


def test_only_admins_manage(locked: RunningApi, admin: User) -> None:
    usual = user(locked)
    key_id = key_id_of(usual.key)
    for method, path in (
        ("GET", "/v1/keys"),
        ("POST", "/v1/keys"),
        ("POST", f"/v1/keys/{key_id}/rotate"),
        ("POST", f"/v1/keys/{key_id}/revoke"),
        ("GET", "/v1/accounts"),
        ("PATCH", f"/v1/accounts/{key_id}"),
    ):
        check_problem(usual.ask(method, path), 403, "forbidden")
    check_problem(user(locked, Scope.SUBMIT).ask("GET", "/v1/usage"), 403, "forbidden")


def test_usage(locked: RunningApi, admin: User) -> None:
    one, body = create(admin)
    second, _ = create(admin, account=body["account"])
    locked.finish(one.new_job())
    locked.fail(second.new_job())
    one.new_job()
    answer = second.ask("GET", "/v1/usage?months=3").json()
    (mine,) = answer["accounts"]
    assert answer["next_cursor"] is None
    assert (mine["account"], mine["name"], mine["live_jobs"]) == (body["account"], "studio", 1)
    assert mine["stored_bytes"] > 10000
    assert mine["months"][0]["jobs"] == {"succeeded": 1, "failed": 1, "canceled": 0}
    assert (mine["months"][0]["video_s"], mine["months"][0]["result_bytes"]) == (1.0, 10000)
    assert [month["jobs"]["succeeded"] for month in mine["months"][1:]] == [0, 0]
    pages, cursor = [], ""
    while cursor is not None:
        page = admin.ask("GET", f"/v1/usage?months=3&limit=2{cursor and '&cursor=' + cursor}").json()
        pages += page["accounts"]
        cursor = page["next_cursor"]
    assert mine in pages
    assert len({row["account"] for row in pages}) == len(pages) > 2
    assert admin.ask("GET", f"/v1/usage?account={body['account']}&months=3").json()["accounts"] == [mine]


def test_an_account_learns_nothing_of_another(locked: RunningApi, admin: User) -> None:
    """Two keys of one account share everything; a third of another account sees none of it."""
    one, body = create(admin)
    same, _ = create(admin, account=body["account"])
    stranger, theirs = create(admin, name="stranger")
    hook = {"webhook_url": "http://93.184.216.34/x", "webhook_events": ["job.failed"]}
    job_id = one.new_job(data={"webhook_url": hook["webhook_url"], "webhook_events": "job.failed"})
    locked.fail(job_id)
    (delivery,) = locked.store.webhooks.deliveries(job_id)
    upload = one.ask("POST", "/v1/uploads").json()
    assert httpx.put(upload["url"], content=MP4).status_code == 200

    def sees(who: User) -> dict[str, Any]:
        return {
            "jobs": [job["id"] for job in who.ask("GET", "/v1/jobs").json()["jobs"]],
            "job": who.ask("GET", f"/v1/jobs/{job_id}").status_code,
            "events": who.ask("GET", f"/v1/jobs/{job_id}/events").status_code,
            "files": who.ask("GET", f"/v1/jobs/{job_id}/media").status_code,
            "result": who.ask("GET", f"/v1/jobs/{job_id}/result").status_code,
            "deliveries": _ids(who.ask("GET", "/v1/webhooks/deliveries?state=pending").json()["deliveries"]),
            "upload": who.ask(
                "POST", "/v1/jobs", json={"video_upload_id": upload["id"], "audio_upload_id": upload["id"]}
            ).status_code,
            "secret": who.ask("GET", f"/v1/webhooks/secret?key_id={body['id']}").status_code,
            "usage": who.ask("GET", f"/v1/usage?account={body['account']}").status_code,
            "metrics": who.ask("GET", "/metrics").status_code,
            "redeliver": who.ask("POST", f"/v1/webhooks/deliveries/{delivery.id}/redeliver").status_code,
        }

    shared = {"job": 200, "events": 200, "files": 200, "result": 409, "upload": 202, "secret": 200, "usage": 200}
    assert sees(same) == {"jobs": [job_id], "deliveries": [delivery.id], "metrics": 403, "redeliver": 202} | shared
    assert sees(stranger) == {
        "jobs": [],
        "deliveries": [],
        "job": 404,
        "events": 404,
        "files": 404,
        "result": 404,
        "upload": 404,
        "secret": 403,
        "usage": 403,
        "metrics": 403,
        "redeliver": 404,
    }
    nobodys = stranger.ask("GET", f"/v1/usage?account={'0' * 16}").json()["detail"]
    assert stranger.ask("GET", f"/v1/usage?account={body['account']}").json()["detail"] == nobodys
    (used,) = stranger.ask("GET", "/v1/usage").json()["accounts"]
    assert (used["account"], used["stored_bytes"]) == (theirs["account"], 0)
    assert set(used["months"][0]["jobs"].values()) == {0}
    locked.store.jobs.request_cancel(same.new_job(), retention_s=60)


def _ids(deliveries: list[dict[str, Any]]) -> list[str]:
    return [each["id"] for each in deliveries]


def test_without_keys_none_are_made_and_usage_is_of_all(api: RunningApi) -> None:
    check_problem(api.client.post("/v1/keys", json={"name": "x"}), 409, "keys_not_required")
    check_problem(api.client.post(f"/v1/keys/{'0' * 16}/rotate"), 409, "keys_not_required")
    assert api.client.get("/v1/keys").json()["keys"] == []
    before = api.client.get("/v1/usage").json()["accounts"]
    api.finish(api.new_job())
    (after,) = api.client.get("/v1/usage").json()["accounts"]
    assert (after["account"], len(before)) == (None, 1)
    assert after["months"][0]["jobs"]["succeeded"] == before[0]["months"][0]["jobs"]["succeeded"] + 1
    assert api.store.jobs.count_by_status()[JobStatus.SUCCEEDED] >= 1
