"""The finished video over HTTP, and the numbers about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from jobs.names import poster_key, preview_key
from tests.api.running import RunningApi, api_in_both_forms, check_problem

api = api_in_both_forms

CONTENT = bytes(range(256)) * 40
ETAG = f'"{"ab" * 32}"'


@pytest.fixture(scope="module")
def path(api: RunningApi) -> Iterator[str]:
    job_id = api.new_job()
    api.finish(job_id, CONTENT)
    return f"/jobs/{job_id}/result"


def test_the_whole_file(api: RunningApi, path: str) -> None:
    answer = api.client.get(path)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["etag"] == ETAG
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"] == f'attachment; filename="{path.split("/")[2]}.mp4"'


def test_head(api: RunningApi, path: str) -> None:
    answer = api.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["etag"] == ETAG


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=10000-", 10000, 10240),
        ("bytes=-5", 10235, 10240),
        ("bytes=-99999", 0, 10240),
        ("bytes=10239-99999", 10239, 10240),
        ("BYTES=1-2", 1, 3),
    ],
)
def test_a_range(api: RunningApi, path: str, asked: str, start: int, end: int) -> None:
    answer = api.client.get(path, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, CONTENT[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("asked", ["bytes=10240-", "bytes=99999-100000", "bytes=-0"])
def test_a_range_outside(api: RunningApi, path: str, asked: str) -> None:
    answer = api.client.get(path, headers={"Range": asked})
    check_problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=a-b", "bytes=-", "lines=1-2", "bytes=0-1,4-5"])
def test_ranges_that_are_ignored(api: RunningApi, path: str, asked: str) -> None:
    answer = api.client.get(path, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_validators(api: RunningApi, path: str) -> None:
    for tag in (ETAG, f'"other", {ETAG}', f"W/{ETAG}", "*"):
        answer = api.client.get(path, headers={"If-None-Match": tag})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == ETAG
    assert api.client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    assert api.client.get(path, headers={"Range": "bytes=0-1", "If-Range": ETAG}).status_code == 206
    assert api.client.get(path, headers={"Range": "bytes=0-1", "If-Range": '"other"'}).status_code == 200


def test_the_numbers(api: RunningApi, path: str) -> None:
    body = api.client.get(path.replace("result", "evaluation")).json()
    assert body["engine"] == "preview"
    assert body["synthetic_weights"] is False
    assert [(row["name"], row["value"]) for row in body["metrics"]] == [("sync_offset_frames", 0.5)]


def test_not_ready(api: RunningApi) -> None:
    job_id = api.new_job()
    assert "queued" in check_problem(api.client.get(f"/jobs/{job_id}/result"), 409, "result_not_ready")["detail"]
    assert api.client.head(f"/jobs/{job_id}/result").status_code == 409
    check_problem(api.client.get(f"/jobs/{job_id}/evaluation"), 409, "evaluation_not_ready")


def test_a_file_that_vanished(api: RunningApi) -> None:
    job_id = api.new_job()
    job = api.finish(job_id)
    assert job.result is not None
    api.objects.delete(job.result.key)
    check_problem(api.client.get(f"/jobs/{job_id}/result"), 503, "storage_failed")


def test_s3_serves_the_file_itself(s3_api: RunningApi) -> None:
    job_id = s3_api.new_job()
    s3_api.finish(job_id, CONTENT)
    answer = s3_api.client.get(f"/jobs/{job_id}/result")
    assert answer.status_code == 307
    direct = httpx.get(answer.headers["location"], headers={"Range": "bytes=10-19"})
    # rclone sends the right bytes, but says 200 and not 206.
    assert (direct.is_success, direct.content) == (True, CONTENT[10:20])
    assert f"{job_id}.mp4" in direct.headers["content-disposition"]
    assert s3_api.client.head(f"/jobs/{job_id}/result").headers["content-length"] == str(len(CONTENT))
    view = s3_api.client.get(f"/jobs/{job_id}").json()["result"]
    assert view["expires_at"] is not None
    assert httpx.get(view["url"]).content == CONTENT


def test_s3_takes_a_submission_and_gives_it_up_again(s3_api: RunningApi) -> None:
    before = s3_api.input_keys()
    check_problem(s3_api.submit(upper_face="bored"), 422, "invalid_option")
    assert s3_api.input_keys() == before
    job_id = s3_api.new_job()
    assert len(s3_api.input_keys() - before) == 2
    s3_api.client.delete(f"/jobs/{job_id}")
    assert s3_api.client.delete(f"/jobs/{job_id}").status_code == 204
    assert s3_api.input_keys() == before


@pytest.mark.parametrize(
    ("name", "content_type", "make_key"),
    [("poster.jpg", "image/jpeg", poster_key), ("preview.mp4", "video/mp4", preview_key)],
)
def test_poster_and_preview(api: RunningApi, name: str, content_type: str, make_key: Callable[[str], str]) -> None:
    job_id = api.new_job()
    path, kind = f"/jobs/{job_id}/{name}", name.partition(".")[0]
    check_problem(api.client.get(path), 409, "result_not_ready")
    job = api.finish(job_id)
    assert job.result is not None
    check_problem(api.client.get(path), 409, "result_not_ready")
    assert api.client.get(f"/jobs/{job_id}/media").json()[kind] is None
    with api.objects.writer(make_key(job.result.key), content_type) as writer:
        writer.write(CONTENT)
        writer.commit()
    whole = api.client.get(path)
    assert (whole.status_code, whole.content) == (200, CONTENT)
    assert whole.headers["content-type"] == content_type
    assert api.client.head(path).headers["content-length"] == str(len(CONTENT))
    assert api.client.get(path, headers={"Range": "bytes=0-9"}).content == CONTENT[:10]
    assert api.client.head(path, headers={"Range": "bytes=0-9"}).status_code == 200, "a range of HEAD is ignored"
    assert api.client.get(path, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    link = api.client.get(f"/jobs/{job_id}/media").json()[kind]
    assert link["content_type"] == content_type
    assert api.client.get(link["url"]).content == CONTENT
