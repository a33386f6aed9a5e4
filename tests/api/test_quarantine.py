"""Unreadable records, as seen by callers, scrapers and an admin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from jobs.names import new_job_id
from jobs.store.keys import Scope
from tests.api.running import RunningApi, check_problem, run_api
from tests.api.test_access import User, user
from tests.services import own_database


@pytest.fixture(scope="module")
def locked(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    folder = tmp_path_factory.mktemp("quarantine")
    with run_api(folder, own_database(redis_url), REQUIRE_KEYS="true") as running:
        yield running


def spoil(api: RunningApi, job_id: str) -> None:
    """As a `metadata` nested 199 deep did that older versions accepted."""
    client: Any = api.store.redis.client  # type: ignore[attr-defined]
    deep = '{"a":' * 199 + "1" + "}" * 199
    name = f"{{retalking}}:job:{job_id}"
    spec = client.hget(name, "spec")
    client.hset(name, "spec", spec.replace('"metadata":{}', f'"metadata":{deep}'))
    assert client.hget(name, "spec") != spec


def listed(who: User) -> list[str]:
    answer = who.ask("GET", "/jobs")
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["jobs"]]


def test_an_unreadable_record_affects_no_other_key(locked: RunningApi) -> None:
    owner, other, admin = user(locked), user(locked), user(locked, Scope.ADMIN)
    broken, mine, theirs = owner.new_job(), owner.new_job(), other.new_job()
    spoil(locked, broken)
    assert (listed(owner), listed(other)) == ([mine], [theirs])
    assert {mine, theirs} <= set(listed(admin))
    for who in (owner, admin):
        for method, path in (
            ("GET", ""),
            ("POST", "/cancel"),
            ("GET", "/events"),
            ("GET", "/media"),
            ("GET", "/result"),
        ):
            check_problem(who.ask(method, f"/jobs/{broken}{path}"), 410, "record_unreadable")
    theirs_said = check_problem(other.ask("GET", f"/jobs/{broken}"), 404, "job_not_found")["detail"]
    assert theirs_said == check_problem(other.ask("GET", f"/jobs/{new_job_id()}"), 404, "job_not_found")["detail"]
    metrics = admin.ask("GET", "/metrics").text
    assert 'retalking_records_quarantined_total{kind="job"} 1.0' in metrics
    assert "retalking_quarantine_records 1.0" in metrics
    assert "retalking_store_up 1.0" in metrics
    for job_id, who in ((mine, owner), (theirs, other)):
        assert who.ask("POST", f"/jobs/{job_id}/cancel").status_code == 202

    check_problem(owner.ask("GET", "/quarantine"), 403, "forbidden")
    check_problem(owner.ask("DELETE", f"/quarantine/job/{broken}"), 403, "forbidden")
    found = admin.ask("GET", "/quarantine").json()
    assert (found["total"], [each["id"] for each in found["records"]]) == (1, [broken])
    assert found["records"][0]["kind"] == "job"
    assert found["records"][0]["owner"] == owner.key.split("_")[1]
    assert any(broken in key for key in locked.input_keys())
    assert admin.ask("DELETE", f"/quarantine/job/{broken}").status_code == 204
    assert not any(broken in key for key in locked.input_keys())
    check_problem(admin.ask("DELETE", f"/quarantine/job/{broken}"), 404, "record_not_found")
    check_problem(owner.ask("GET", f"/jobs/{broken}"), 404, "job_not_found")


def test_its_owner_may_delete_it(locked: RunningApi) -> None:
    owner, other = user(locked), user(locked)
    broken = owner.new_job()
    spoil(locked, broken)
    check_problem(other.ask("DELETE", f"/jobs/{broken}"), 404, "job_not_found")
    assert owner.ask("DELETE", f"/jobs/{broken}").status_code == 204
    assert not any(broken in key for key in locked.input_keys())
    check_problem(owner.ask("GET", f"/jobs/{broken}"), 404, "job_not_found")


def test_broken_keys_and_workers(locked: RunningApi) -> None:
    owner, lost, admin = user(locked), user(locked), user(locked, Scope.ADMIN)
    client: Any = locked.store.redis.client  # type: ignore[attr-defined]
    key_id = lost.key.split("_")[1]
    client.set(f"{{retalking}}:api_key:{key_id}", "{")
    client.set("{retalking}:worker:w", "{")
    client.zadd("{retalking}:workers", {"w": 10**15})
    check_problem(lost.ask("GET", "/jobs"), 401, "unauthorized")
    assert owner.ask("GET", "/engines").json()["workers"] == 0
    owner.new_job()
    found = {(each["kind"], each["id"]) for each in admin.ask("GET", "/quarantine").json()["records"]}
    assert found == {("api_key", key_id), ("worker", "w")}
    for kind, record_id in found:
        assert admin.ask("DELETE", f"/quarantine/{kind}/{record_id}").status_code == 204
    assert admin.ask("GET", "/quarantine").json() == {"records": [], "total": 0}
