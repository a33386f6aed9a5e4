"""Files that arrive before their job."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from jobs.messages import make_celery
from jobs.names import input_key, new_upload_id, upload_key
from tests.api.hasty_app import UPLOAD_TTL_S
from tests.api.running import MP4, PNG, WAV, RunningApi, check_problem, run_api
from tests.api.test_streaming import HEAD, open_socket, read_answer, send_head
from tests.services import own_database, wait_until
from worker.janitor import Janitor


def put(api: RunningApi, content: bytes) -> str:
    """An upload with this content; its id."""
    link = api.client.post("/uploads").json()
    assert httpx.put(link["url"], content=content).is_success
    return link["id"]


def test_a_job_made_of_uploads(api: RunningApi) -> None:
    made = api.client.post("/uploads")
    assert made.status_code == 201
    link = made.json()
    assert link["method"] == "PUT"
    assert link["max_bytes"] == api.settings.max_upload_bytes
    assert datetime.fromisoformat(link["url_expires_at"]) <= datetime.fromisoformat(link["expires_at"])
    answer = httpx.put(link["url"], content=MP4)
    assert answer.json() == {"id": link["id"], "size_bytes": len(MP4), "sha256": hashlib.sha256(MP4).hexdigest()}
    body = {"video_upload_id": link["id"], "audio_upload_id": put(api, WAV), "expression": f"upload:{put(api, PNG)}"}
    jobs = [api.client.post("/jobs", json=body) for _ in range(2)]
    assert [job.status_code for job in jobs] == [202, 202], jobs[0].text
    for job in jobs:  # an upload serves many jobs; each has a copy of its own
        job_id = job.json()["id"]
        assert b"".join(api.objects.read(input_key(job_id, "video"))) == MP4
        assert b"".join(api.objects.read(input_key(job_id, "expression"))) == PNG
        assert job.json()["options"]["expression"] == body["expression"]


def test_an_upload_in_a_form(api: RunningApi) -> None:
    files = {"audio": ("a.wav", WAV)}
    answer = api.client.post("/jobs", files=files, data={"video_upload_id": put(api, MP4)})
    assert answer.status_code == 202, answer.text


def test_the_same_key_and_upload_is_the_same_job(api: RunningApi) -> None:
    body = {"video_upload_id": put(api, MP4), "audio_upload_id": put(api, WAV)}
    headers = {"Idempotency-Key": f"upload-{time.time()}"}
    first, again = (api.client.post("/jobs", json=body, headers=headers) for _ in range(2))
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("change", ["signature", "expires", "id", "none"])
def test_links_that_were_altered(api: RunningApi, change: str) -> None:
    link = api.client.post("/uploads").json()["url"]
    query = {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}
    path = urlsplit(link).path
    if change == "signature":
        query["signature"] = query["signature"][:-1] + ("0" if query["signature"][-1] != "0" else "1")
    elif change == "expires":
        query["expires"] = str(int(query["expires"]) + 1)
    elif change == "id":
        path = f"/uploads/{new_upload_id()}/content"
    answer = api.client.put(path, params=query, content=MP4)
    if change == "none":
        assert answer.status_code == 200
    else:
        check_problem(answer, 403, "link_invalid")


def test_a_link_that_expired(api: RunningApi) -> None:
    """Signed with the service's own key, so that only its age is wrong."""
    from jobs.signing import link_secret, sign_link

    upload_id, expires = api.client.post("/uploads").json()["id"], int(time.time()) - 1
    signature = sign_link(link_secret(api.settings), "PUT", f"uploads/{upload_id}", expires)
    params = {"expires": str(expires), "signature": signature}
    check_problem(api.client.put(f"/uploads/{upload_id}/content", params=params, content=MP4), 403, "link_invalid")


def test_an_upload_that_was_forgotten(api: RunningApi) -> None:
    link = api.client.post("/uploads").json()
    api.store.uploads.drop(link["id"])
    check_problem(httpx.put(link["url"], content=MP4), 404, "upload_not_found")


def test_a_link_without_its_signature(api: RunningApi) -> None:
    problem = check_problem(api.client.put(f"/uploads/{new_upload_id()}/content"), 422, "invalid_request")
    assert {error["pointer"] for error in problem["errors"]} == {"expires", "signature"}


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "file_empty"),
        (b"just text", 422, "container_unsupported"),
        (MP4 + bytes(200_000), 413, "body_too_large"),
    ],
)
def test_contents_that_are_refused(tight_api: RunningApi, content: bytes, status: int, code: str) -> None:
    link = tight_api.client.post("/uploads").json()
    check_problem(httpx.put(link["url"], content=content), status, code)
    assert not list(tight_api.objects.list_keys(upload_key(link["id"])))
    body = {"video_upload_id": link["id"], "audio_url": "http://127.0.0.1:9/a.wav"}
    check_problem(tight_api.client.post("/jobs", json=body), 404, "upload_not_found")


def test_a_link_takes_one_file(api: RunningApi) -> None:
    link = api.client.post("/uploads").json()
    check_problem(httpx.put(link["url"], content=b"no media"), 422, "container_unsupported")
    assert httpx.put(link["url"], content=MP4).status_code == 200, "the first one failed, so there was none"
    check_problem(httpx.put(link["url"], content=WAV), 409, "upload_complete")
    assert b"".join(api.objects.read(upload_key(link["id"]))) == MP4


def test_of_puts_at_once_one_is_kept(api: RunningApi) -> None:
    link = api.client.post("/uploads").json()
    contents = [MP4 + bytes([number]) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda content: httpx.put(link["url"], content=content), contents))
    kept = [content for content, answer in zip(contents, answers, strict=True) if answer.status_code == 200]
    assert len(kept) == 1
    for answer in answers:
        if answer.status_code != 200:
            check_problem(answer, 409, "upload_complete")
    assert b"".join(api.objects.read(upload_key(link["id"]))) == kept[0]


def test_a_part_of_a_file_is_refused(api: RunningApi) -> None:
    link = api.client.post("/uploads").json()
    headers = {"Content-Range": f"bytes 0-{len(MP4) - 1}/{2 * len(MP4)}"}
    check_problem(httpx.put(link["url"], content=MP4, headers=headers), 400, "content_range_not_supported")
    assert not list(api.objects.list_keys(upload_key(link["id"])))
    assert httpx.put(link["url"], content=MP4).status_code == 200


def test_an_upload_of_the_wrong_kind(api: RunningApi) -> None:
    before = api.input_keys()
    body = {"video_upload_id": put(api, WAV), "audio_upload_id": put(api, WAV)}
    check_problem(api.client.post("/jobs", json=body), 422, "container_unsupported")
    assert api.input_keys() == before


class TestS3:
    """Presigned links: the file never passes the service."""

    def test_a_job_made_of_uploads(self, s3_api: RunningApi) -> None:
        link = s3_api.client.post("/uploads").json()
        assert not link["url"].startswith(s3_api.url)
        assert httpx.put(link["url"], content=MP4).is_success
        body = {"video_upload_id": link["id"], "audio_upload_id": put(s3_api, WAV)}
        answer = s3_api.client.post("/jobs", json=body)
        assert answer.status_code == 202, answer.text
        assert b"".join(s3_api.objects.read(input_key(answer.json()["id"], "video"))) == MP4

    def test_nothing_was_put(self, s3_api: RunningApi) -> None:
        body = {"video_upload_id": s3_api.client.post("/uploads").json()["id"], "audio_upload_id": put(s3_api, WAV)}
        check_problem(s3_api.client.post("/jobs", json=body), 404, "upload_not_found")

    def test_what_was_put_is_looked_at(self, s3_api: RunningApi) -> None:
        audio = put(s3_api, WAV)
        for content, code in ((b"", "file_empty"), (b"#EXTM3U\n", "container_unsupported")):
            body = {"video_upload_id": put(s3_api, content), "audio_upload_id": audio}
            check_problem(s3_api.client.post("/jobs", json=body), 422, code)


@pytest.fixture(scope="module")
def hasty(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Uploads expire after a minute, the shortest allowed time."""
    with run_api(tmp_path_factory.mktemp("hasty"), own_database(redis_url), UPLOAD_TTL_S="60") as running:
        yield running


class TestSlowCallers:
    """Uploads and submissions slower than the lifetime of uploads."""

    def test_a_put_that_ends_after_its_upload_expired_leaves_no_file(self, hasty: RunningApi) -> None:
        link = hasty.client.post("/uploads").json()
        path = link["url"].removeprefix(hasty.url.rstrip("/"))
        with open_socket(hasty) as connection:
            send_head(connection, path, f"Content-Length: {len(MP4)}", method="PUT")
            connection.sendall(MP4[:-1])
            wait_until(lambda: hasty.store.uploads.stored_bytes() > 0, what="the upload is being received")
            hasty.store.uploads.add(link["id"], datetime.now(UTC) - timedelta(seconds=1))
            run_janitor(hasty)
            connection.sendall(MP4[-1:])
            status, problem = read_answer(connection)
        assert (status, problem["code"]) == (404, "upload_not_found")
        assert list(hasty.objects.list_keys("uploads/")) == []
        assert hasty.store.uploads.stored_bytes() == 0

    def test_an_upload_that_was_just_put_can_be_used(self, hasty: RunningApi) -> None:
        link = hasty.client.post("/uploads").json()
        hasty.store.uploads.add(link["id"], datetime.now(UTC) + timedelta(seconds=2))
        assert httpx.put(link["url"], content=MP4).status_code == 200
        time.sleep(2.1)
        run_janitor(hasty)
        body = {"video_upload_id": link["id"], "audio_upload_id": put(hasty, WAV)}
        assert hasty.client.post("/jobs", json=body).status_code == 202

    def test_a_submission_slower_than_uploads_live_keeps_its_files(self, redis_url: str, tmp_path: Path) -> None:
        """The first file is stored for longer than the lifetime of uploads before the second one is complete."""
        with run_api(tmp_path, own_database(redis_url), module="tests.api.hasty_app") as api:
            with half_submission(api) as (connection, coming):
                rest = memoryview(coming)
                ends_at = time.monotonic() + UPLOAD_TTL_S + 3
                while time.monotonic() < ends_at:
                    run_janitor(api)
                    time.sleep(0.5)
                    connection.sendall(rest[:8192])  # never slower than bodies may be
                    rest = rest[8192:]
                connection.sendall(rest)
                status, job = read_answer(connection)
            assert status == 202, job
            run_janitor(api)
            files = {key.rpartition("/")[2] for key in api.objects.list_keys(f"jobs/{job['id']}/")}
            assert files == {"video", "audio"}

    def test_a_submission_that_was_given_up_is_not_accepted(self, hasty: RunningApi) -> None:
        """The renewal failed for too long, and the janitor took the files away."""
        with half_submission(hasty) as (connection, rest):
            (staged,) = {key.split("/")[1] for key in hasty.input_keys() if is_no_job(hasty, key.split("/")[1])}
            hasty.store.uploads.add_arrival(staged, 0.0)
            run_janitor(hasty)
            connection.sendall(rest)
            status, problem = read_answer(connection)
        assert (status, problem["code"], problem["retryable"]) == (408, "request_timeout", True)
        assert is_no_job(hasty, staged)


def is_no_job(api: RunningApi, job_id: str) -> bool:
    return api.client.get(f"/jobs/{job_id}").status_code == 404


def run_janitor(api: RunningApi) -> None:
    """Run the steps that remove expired uploads and abandoned arrivals."""
    janitor = Janitor(make_celery(api.settings), api.store, api.objects, api.settings)
    janitor.delete_uploads()
    janitor.delete_orphans()


@contextmanager
def half_submission(api: RunningApi) -> Iterator[tuple[socket.socket, bytes]]:
    """A form whose first file is staged, and the bytes that are to come."""
    before = api.input_keys()
    speech = WAV + bytes(800_000)
    first = b"--x\r\n" + HEAD.format("video", "a.mp4").encode() + MP4
    first += b"\r\n--x\r\n" + HEAD.format("audio", "a.wav").encode() + WAV
    rest = speech[len(WAV) :] + b"\r\n--x--\r\n"
    with open_socket(api) as connection:
        length = f"Content-Length: {len(first) + len(rest)}"
        send_head(connection, "/jobs", "Content-Type: multipart/form-data; boundary=x", length)
        connection.sendall(first)
        wait_until(lambda: api.input_keys() - before, what="the whole first file is staged")
        yield connection, rest
