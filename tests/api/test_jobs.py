"""Looking at jobs, cancelling, deleting, delivering again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from jobs.models import DeliveryAttempt, JobStatus
from tests.api.running import RunningApi, api_in_both_forms, check_problem

api = api_in_both_forms

ROUTES = [
    ("GET", ""),
    ("DELETE", ""),
    ("GET", "/result"),
    ("HEAD", "/result"),
    ("GET", "/evaluation"),
    ("GET", "/events"),
    ("POST", "/cancel"),
    ("POST", "/webhook/redeliver"),
]


@pytest.mark.parametrize(("method", "rest"), ROUTES)
@pytest.mark.parametrize("job_id", ["job_" + "0" * 32, "nonsense", "job_" + "0" * 31 + "G", "..%2f..%2fetc"])
def test_jobs_that_are_not_there(api: RunningApi, method: str, rest: str, job_id: str) -> None:
    answer = api.client.request(method, f"/jobs/{job_id}{rest}")
    if method == "HEAD":
        assert answer.status_code == 404
    else:
        check_problem(answer, 404, "not_found" if "%2f" in job_id else "job_not_found")


def test_a_job_through_its_life(api: RunningApi) -> None:
    job_id = api.new_job()
    waiting = api.client.get(f"/jobs/{job_id}")
    assert waiting.json()["status"] == "queued"
    assert "retry-after" in waiting.headers
    api.finish(job_id)
    over = api.client.get(f"/jobs/{job_id}")
    body = over.json()
    assert "retry-after" not in over.headers
    assert (body["status"], body["progress"], body["engine"]) == ("succeeded", 1.0, "preview")
    assert body["result"]["url"] == f"{api.url.rstrip('/')}{api.base}/jobs/{job_id}/result"
    assert body["evaluation"][0]["name"] == "sync_offset_frames"
    assert body["delete_at"] is not None


def test_cancel_never_deletes(api: RunningApi) -> None:
    job_id = api.new_job()
    api.finish(job_id)
    late = api.client.post(f"/jobs/{job_id}/cancel")
    assert (late.status_code, late.json()["status"]) == (202, "succeeded")
    other = api.new_job()
    assert api.client.post(f"/jobs/{other}/cancel").json()["status"] == "canceled"
    assert api.client.post(f"/jobs/{other}/cancel").json()["status"] == "canceled"
    assert api.client.get(f"/jobs/{other}").status_code == 200


def test_a_failed_job_has_its_code(api: RunningApi) -> None:
    job_id = api.new_job()
    api.fail(job_id)
    body = api.client.get(f"/jobs/{job_id}").json()
    assert (body["status"], body["error"]["code"]) == ("failed", "face_not_found")
    assert "failed" in check_problem(api.client.get(f"/jobs/{job_id}/result"), 409, "result_not_ready")["detail"]
    check_problem(api.client.get(f"/jobs/{job_id}/evaluation"), 409, "evaluation_not_ready")


def test_pages_go_through_all_jobs_newest_first(tight_api: RunningApi) -> None:
    made = [tight_api.new_job() for _ in range(5)]
    path, seen = "/jobs?limit=2", []
    while path:
        page = tight_api.client.get(path).json()
        assert len(page["jobs"]) <= 2
        seen += [job["id"] for job in page["jobs"]]
        path = page["links"]["next"]
    assert seen[:5] == made[::-1]
    assert len(seen) == len(set(seen)) == sum(tight_api.store.jobs.count_by_status().values())


def test_the_list_by_status(api: RunningApi) -> None:
    job_id = api.new_job()
    api.fail(job_id)
    page = api.client.get("/jobs", params={"status": "failed"}).json()
    assert job_id in [job["id"] for job in page["jobs"]]
    assert {job["status"] for job in page["jobs"]} == {"failed"}
    assert "status=failed" in page["links"]["self"]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "status=lost", "cursor=nonsense", "cursor="])
def test_queries_that_make_no_sense(api: RunningApi, query: str) -> None:
    problem = check_problem(api.client.get(f"/jobs?{query}"), 422, "invalid_request")
    assert problem["errors"][0]["location"] == "query"
    assert problem["errors"][0]["pointer"] == query.partition("=")[0]


def test_delete_cancels_a_waiting_job_then_deletes_it(api: RunningApi) -> None:
    job_id = api.new_job()
    canceled = api.client.delete(f"/jobs/{job_id}")
    assert (canceled.status_code, canceled.json()["status"]) == (202, "canceled")
    assert list(api.objects.list_keys(f"jobs/{job_id}/"))
    gone = api.client.delete(f"/jobs/{job_id}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert not list(api.objects.list_keys(f"jobs/{job_id}/"))
    check_problem(api.client.get(f"/jobs/{job_id}"), 404, "job_not_found")


def test_delete_asks_a_running_job_to_stop(api: RunningApi) -> None:
    job_id = api.new_job()
    lease = api.store.jobs.claim(job_id, "worker-of-the-test", 30)
    assert lease is not None
    answer = api.client.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json()["status"], answer.json()["cancel_requested"]) == (202, "running", True)
    assert api.store.jobs.report(lease, stage="synthesize", progress=0.1, lease_s=30)
    assert api.store.jobs.cancel(lease, retention_s=60).status is JobStatus.CANCELED


class TestRedelivery:
    """POST /jobs/{id}/webhook/redeliver."""

    def test_once_more_under_the_same_id(self, tight_api: RunningApi) -> None:
        job_id = tight_api.new_job(webhook_url="http://127.0.0.1:9/hook?token=secret", webhook_events='["job.failed"]')
        tight_api.fail(job_id)
        before = tight_api.client.get(f"/jobs/{job_id}").json()["webhook"]["deliveries"]
        refused = DeliveryAttempt(at=datetime.now(UTC), status_code=410)
        tight_api.store.webhooks.record_attempt(before[0]["id"], refused, state="given_up", retry_in_s=None)
        assert before[0]["id"] not in tight_api.store.webhooks.due()
        answer = tight_api.client.post(f"/jobs/{job_id}/webhook/redeliver")
        assert answer.status_code == 202
        after = answer.json()["webhook"]["deliveries"]
        assert [row["id"] for row in after] == [row["id"] for row in before]
        assert after[0]["event"] == "job.failed"
        assert after[0]["state"] == "pending"
        assert "secret" not in answer.text
        assert before[0]["id"] in tight_api.store.webhooks.due(), "the dispatcher takes what is due"

    def test_a_job_without_a_webhook(self, api: RunningApi) -> None:
        answer = api.client.post(f"/jobs/{api.new_job()}/webhook/redeliver")
        check_problem(answer, 409, "webhook_not_configured")

    def test_a_job_that_waits(self, tight_api: RunningApi) -> None:
        job_id = tight_api.new_job(webhook_url="http://127.0.0.1:9/hook")
        check_problem(tight_api.client.post(f"/jobs/{job_id}/webhook/redeliver"), 409, "job_not_finished")

    def test_a_job_that_ended_with_an_event_not_subscribed_to(self, tight_api: RunningApi) -> None:
        job_id = tight_api.new_job(webhook_url="http://127.0.0.1:9/hook", webhook_events='["job.started"]')
        tight_api.client.delete(f"/jobs/{job_id}")
        check_problem(tight_api.client.post(f"/jobs/{job_id}/webhook/redeliver"), 409, "webhook_not_configured")
