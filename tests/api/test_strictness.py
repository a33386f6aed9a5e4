"""What a call does not take is refused by name, and preconditions hold or are refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from cli.keys import make_key
from jobs.settings import Settings
from jobs.store.keys import Scope
from tests.api.running import MP4, RunningApi, check_problem, input_files, run_api
from tests.services import own_database

NOBODY = "job_" + "0" * 32


def only_error(answer: httpx.Response, location: str, pointer: str) -> str:
    (error,) = check_problem(answer, 422, "invalid_request")["errors"]
    assert (error["location"], error["pointer"]) == (location, pointer)
    return str(error["message"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/jobs?staus=queued"),
        ("POST", "/v1/jobs?staus=queued"),
        ("GET", f"/jobs/{NOBODY}?staus=1"),
        ("DELETE", f"/v1/jobs/{NOBODY}?staus=1"),
        ("GET", "/v1/engines?staus=1"),
        ("GET", "/v1/errors?staus=1"),
        ("GET", "/v1/quarantine?staus=1"),
        ("GET", f"/v1/jobs/{NOBODY}/result?staus=1"),
        ("POST", "/v1/uploads?staus=1"),
    ],
)
def test_unknown_parameters(api: RunningApi, method: str, path: str) -> None:
    assert "no such parameter" in only_error(api.client.request(method, path), "query", "staus")


def test_parameters_that_are_repeated(api: RunningApi) -> None:
    assert "more than once" in only_error(api.client.get("/v1/jobs?limit=1&limit=2"), "query", "limit")


def test_a_second_idempotency_key(api: RunningApi) -> None:
    headers = [("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    answer = api.client.post("/v1/jobs/upload", files=input_files(), headers=headers)
    assert "more than once" in only_error(answer, "header", "idempotency-key")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/jobs"),
        ("GET", "/v1/engines"),
        ("DELETE", f"/v1/jobs/{NOBODY}"),
        ("POST", f"/v1/jobs/{NOBODY}/cancel"),
        ("POST", "/v1/uploads"),
        ("GET", f"/v1/jobs/{NOBODY}/result"),
    ],
)
def test_bodies_where_none_belongs(api: RunningApi, method: str, path: str) -> None:
    assert "no body" in only_error(api.client.request(method, path, content=b"{}"), "body", "")
    streamed = api.client.request(method, path, content=iter([b"{", b"}"]))
    assert "no body" in only_error(streamed, "body", "")


def test_webhook_events_without_a_receiver(api: RunningApi) -> None:
    by_reference = {"video_url": "http://127.0.0.1:9/a.mp4", "audio_url": "http://127.0.0.1:9/a.wav"}
    answer = api.client.post("/v1/jobs", json=by_reference | {"webhook_events": ["job.started"]})
    assert "webhook_url" in only_error(answer, "body", "#/webhook_events")
    only_error(api.submit(webhook_events="job.started"), "body", "#/webhook_events")


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"Content-Encoding": "gzip"}, "gzip"),
        ({"Content-Encoding": "identity, br"}, "br"),
        ({"Content-Type": "application/json; charset=utf-16"}, "utf-16"),
    ],
)
def test_encodings_that_are_not_understood(api: RunningApi, headers: dict[str, str], named: str) -> None:
    body = gzip.compress(json.dumps({}).encode())
    answer = api.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"} | headers)
    assert named in check_problem(answer, 415, "unsupported_media_type")["detail"]


def test_uploads_are_not_decoded(api: RunningApi) -> None:
    link = api.client.post("/v1/uploads").json()["url"]
    answer = api.client.put(link, content=gzip.compress(MP4), headers={"Content-Encoding": "gzip"})
    check_problem(answer, 415, "unsupported_media_type")
    assert answer.headers["accept-encoding"] == "identity"
    assert api.client.put(link, content=MP4, headers={"Content-Encoding": "identity"}).status_code == 200


def test_if_match(api: RunningApi) -> None:
    job_id = api.new_job()
    api.finish(job_id)
    path = f"/v1/jobs/{job_id}/result"
    etag = api.client.get(path).headers["etag"]
    for method in ("GET", "HEAD"):
        for held in (etag, "*", f'"other", {etag}'):
            assert api.client.request(method, path, headers={"If-Match": held}).status_code == 200
        for stale in ('"other"', f"W/{etag}"):
            answer = api.client.request(method, path, headers={"If-Match": stale})
            assert answer.status_code == 412
    check_problem(api.client.get(path, headers={"If-Match": '"other"'}), 412, "precondition_failed")
    assert api.client.head(path, headers={"If-None-Match": etag}).status_code == 304
    # A job has no ETag: deleting it in spite of the condition would be wrong
    check_problem(api.client.delete(f"/v1/jobs/{job_id}", headers={"If-Match": '"x"'}), 412, "precondition_failed")
    assert api.client.get(f"/v1/jobs/{job_id}").status_code == 200
    assert api.client.delete(f"/v1/jobs/{job_id}", headers={"If-Match": "*"}).status_code == 204


def test_probes_take_what_orchestrators_add(api: RunningApi) -> None:
    assert api.client.get("/healthz?probe=1").status_code == 200
    assert api.client.get("/metrics?name[]=x").status_code == 200


ORIGIN = "https://app.example"


@pytest.fixture(scope="module", params=["false", "true"], ids=["open", "keys"])
def shared(
    request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningApi]:
    env = {"REQUIRE_KEYS": request.param, "CORS_ORIGINS": f"{ORIGIN}, https://other.example"}
    with run_api(tmp_path_factory.mktemp("cors"), own_database(redis_url), **env) as running:
        yield running


def test_pages_of_named_origins_may_call(shared: RunningApi) -> None:
    key = make_key(shared.store, "page", frozenset({Scope.SUBMIT, Scope.READ}))
    auth = {"Authorization": f"Bearer {key}", "Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}
    answer = shared.client.post("/v1/jobs/upload", files=input_files(), headers=auth)
    assert answer.status_code == 202
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert {"Location", "Idempotent-Replayed"} <= set(answer.headers["access-control-expose-headers"].split(", "))
    refused = shared.client.get(f"/v1/jobs/{NOBODY}", headers=auth)
    assert refused.headers["access-control-allow-origin"] == ORIGIN, "a page must be able to read refusals"
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, prefer"}
    preflight = shared.client.options("/v1/jobs", headers={"Origin": ORIGIN} | asked)
    assert preflight.status_code == 200
    assert "POST" in preflight.headers["access-control-allow-methods"]


def test_pages_of_other_origins_may_not(shared: RunningApi, api: RunningApi) -> None:
    evil = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert shared.client.options("/v1/jobs", headers=evil).status_code == 400
    assert "access-control-allow-origin" not in shared.client.get("/v1/jobs", headers=evil).headers
    answer = api.client.options("/v1/jobs", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"})
    assert answer.status_code == 405, "off by default"


@pytest.mark.parametrize("origins", ["*", "app.example", "https://app.example/page", "null"])
def test_origins_that_are_none(origins: str) -> None:
    with pytest.raises(ValidationError, match="RETALKING_CORS_ORIGINS"):
        Settings(_env_file=None, cors_origins=origins)
    if origins == "*":
        assert Settings(_env_file=None, cors_origins=origins, require_keys=True).cors_origins == ["*"]


def events(api: RunningApi, path: str, **headers: str) -> tuple[int, list[dict[str, Any]]]:
    answer = api.client.get(path, headers=headers)
    blocks = [block.splitlines() for block in answer.text.split("\n\n") if "data:" in block]
    return answer.status_code, [dict(line.split(": ", 1) for line in block) for block in blocks]


def test_a_finished_job_ends_reconnecting(api: RunningApi) -> None:
    job_id = api.new_job()
    api.finish(job_id)
    for base in ("", "/v1"):
        status, found = events(api, f"{base}/jobs/{job_id}/events")
        assert status == 200
        assert events(api, f"{base}/jobs/{job_id}/events", **{"Last-Event-ID": found[-1]["id"]}) == (204, [])
        status, rest = events(api, f"{base}/jobs/{job_id}/events", **{"Last-Event-ID": found[-2]["id"]})
        assert (status, len(rest)) == (200, 1)


def test_events_without_a_name_reach_onmessage(api: RunningApi) -> None:
    job_id = api.new_job()
    api.finish(job_id)
    for path, is_named in (("/jobs", True), ("/v1/jobs", False)):
        assert all(("event" in each) is is_named for each in events(api, f"{path}/{job_id}/events")[1])
    for value, is_named in (("true", True), ("false", False)):
        for base in ("", "/v1"):
            _, found = events(api, f"{base}/jobs/{job_id}/events?named={value}")
            assert found
            assert all(("event" in each) is is_named for each in found)
            assert json.loads(found[-1]["data"])["event"] == "job.succeeded"
