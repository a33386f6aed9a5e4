"""Forms of a path: with and without the version, with a trailing slash, and HEAD."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from api.paths import VERSION
from tests.api.running import RunningApi, check_problem

MP4_FILE = ("face.mp4", b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(1000), "video/mp4")
WAV_FILE = ("speech.wav", b"RIFF\x24\x08\0\0WAVEfmt " + bytes(1000), "audio/wav")


@pytest.mark.parametrize("base", ["", VERSION])
def test_links_keep_the_form_of_the_call(api: RunningApi, base: str) -> None:
    answer = api.client.post(f"{base}/jobs", files={"video": MP4_FILE, "audio": WAV_FILE})
    job_id = answer.json()["id"]
    assert answer.headers["location"] == f"{base}/jobs/{job_id}"
    api.finish(job_id)
    job = api.client.get(answer.headers["location"]).json()
    assert job["result"]["url"] == f"{api.url.rstrip('/')}{base}/jobs/{job_id}/result"
    page = api.client.get(f"{base}/jobs?limit=1").json()
    assert page["links"]["self"] == f"{base}/jobs?limit=1"
    media = api.client.get(f"{base}/jobs/{job_id}/media").json()
    upload = api.client.post(f"{base}/uploads").json()
    assert media["video"]["url"].startswith(f"{base}/jobs/")
    assert upload["url"].startswith(f"{api.url.rstrip('/')}{base}/uploads/")
    assert api.client.get(media["video"]["url"]).content == MP4_FILE[1]
    assert api.client.put(upload["url"], content=MP4_FILE[1]).status_code == 200
    problem = check_problem(api.client.get(f"{base}/jobs/nope"), 404, "job_not_found")
    assert problem["instance"] == f"{base}/jobs/nope"


@pytest.mark.parametrize("path", ["/jobs", "/v1/jobs", "/jobs/upload", "/v1/jobs/upload"])
def test_both_submissions_take_files(api: RunningApi, path: str) -> None:
    assert api.client.post(path, files={"video": MP4_FILE, "audio": WAV_FILE}).status_code == 202


@pytest.mark.parametrize("path", ["/jobs/upload", "/v1/jobs/upload"])
def test_the_path_of_forms_takes_no_json(api: RunningApi, path: str) -> None:
    check_problem(api.client.post(path, json={}), 415, "unsupported_media_type")


@pytest.mark.parametrize("path", ["/jobs", "/v1/jobs", "/engines", "/v1/errors"])
def test_a_trailing_slash_changes_nothing(api: RunningApi, path: str) -> None:
    answer = api.client.get(f"{path}/")
    assert answer.status_code == 200
    assert type(answer.json()) is type(api.client.get(path).json())


def test_a_submission_with_a_trailing_slash(api: RunningApi) -> None:
    answer = api.client.post("/jobs/", files={"video": MP4_FILE, "audio": WAV_FILE})
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"


def head_and_get(api: RunningApi, path: str) -> tuple[httpx.Response, httpx.Response]:
    return api.client.head(path), api.client.get(path)


def comparable(answer: httpx.Response) -> dict[str, Any]:
    names = ("content-type", "content-length", "etag", "accept-ranges", "retry-after", "cache-control")
    return {name: answer.headers.get(name) for name in names}


@pytest.mark.parametrize(
    "path",
    ["/jobs", "/v1/jobs", "/v1/engines", "/v1/errors", "/healthz", "/openapi.json", "/v1/jobs/nope", "/", "/docs"],
)
def test_head_has_the_headers_of_get(api: RunningApi, path: str) -> None:
    head, got = head_and_get(api, path)
    assert head.status_code == got.status_code
    assert head.content == b""
    assert comparable(head) == comparable(got)


def test_head_of_a_job_its_media_and_its_events(api: RunningApi) -> None:
    job_id = api.new_job()
    head, got = head_and_get(api, f"/v1/jobs/{job_id}")
    assert (head.status_code, comparable(head)) == (200, comparable(got))
    link = api.client.get(f"/v1/jobs/{job_id}/media").json()["video"]["url"]
    head, got = head_and_get(api, link)
    assert (head.status_code, head.content, comparable(head)) == (200, b"", comparable(got))
    events = api.client.head(f"/v1/jobs/{job_id}/events", timeout=10)  # the job waits: GET would stay open
    assert events.status_code == 200
    assert events.headers["content-type"].startswith("text/event-stream")
    assert "Traceback" not in api.log.read_text()
