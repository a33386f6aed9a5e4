"""No key fills the disk: bytes a key and in all, and a floor under which nothing new is taken."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.keys import make_key
from jobs.names import upload_key
from jobs.store.keys import Scope, key_id_of
from tests.api.running import MP4, WAV, RunningApi, check_problem, input_files, run_api
from tests.api.test_streaming import open_socket, read_answer, send_head
from tests.services import S3Endpoint, own_database

MB = 1_000_000
EACH, TOTAL = 3 * MB, 5 * MB
SCOPES = frozenset({Scope.SUBMIT, Scope.READ})


@pytest.fixture(scope="module")
def locked(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    env = {
        "REQUIRE_KEYS": "true",
        "STORED_BYTES_PER_KEY": str(EACH),
        "STORED_BYTES": str(TOTAL),
        "ALLOW_PRIVATE_HOSTS": "127.0.0.1",
    }
    with run_api(tmp_path_factory.mktemp("storage"), own_database(redis_url), **env) as running:
        yield running


@dataclass(frozen=True)
class User:
    api: RunningApi
    key: str

    @property
    def owner(self) -> str:
        return str(key_id_of(self.key))

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        return self.api.client.request(method, path, headers={"Authorization": f"Bearer {self.key}"}, **request)

    def submit(self, size_bytes: int) -> httpx.Response:
        return self.ask("POST", "/jobs", files=input_files(video=MP4 + bytes(size_bytes - len(MP4))))

    def put(self, size_bytes: int, chunked: bool = False) -> httpx.Response:
        link = self.ask("POST", "/uploads").json()["url"]
        content = MP4 + bytes(size_bytes - len(MP4))
        return httpx.put(link, content=iter([content]) if chunked else content, timeout=60)

    def delete_jobs(self) -> None:
        for job in self.ask("GET", "/jobs").json()["jobs"]:
            self.ask("POST", f"/jobs/{job['id']}/cancel")
            assert self.ask("DELETE", f"/jobs/{job['id']}").status_code == 204

    @property
    def stored(self) -> int:
        return self.api.store.uploads.stored_bytes(self.owner)


@pytest.fixture
def user(locked: RunningApi) -> Iterator[User]:
    user = User(locked, make_key(locked.store, "someone", SCOPES))
    yield user
    user.delete_jobs()


def files_of(api: RunningApi) -> set[str]:
    return set(api.objects.list_keys("jobs/")) | set(api.objects.list_keys("uploads/"))


def test_a_key_stores_as_many_bytes_as_it_may(user: User) -> None:
    assert user.submit(2 * MB).status_code == 202
    assert user.stored == 2 * MB + len(WAV), "the files, exactly: no framing, no reservation"
    before = files_of(user.api)
    problem = check_problem(user.submit(MB), 429, "storage_quota_exceeded")
    assert problem["retryable"]
    assert (files_of(user.api), user.stored) == (before, 2 * MB + len(WAV))
    user.delete_jobs()
    assert user.stored == 0
    assert user.submit(MB).status_code == 202, "at once, without a restart"


def test_results_count(user: User) -> None:
    job_id = user.submit(MB).json()["id"]
    user.api.finish(job_id, bytes(1_900_000))
    assert user.stored == MB + len(WAV) + 1_900_000
    check_problem(user.submit(MB), 429, "storage_quota_exceeded")


@pytest.mark.parametrize("chunked", [False, True])
def test_uploads_count(locked: RunningApi, chunked: bool) -> None:
    """With a length, before the first byte; without one, where it passes the limit."""
    user = User(locked, make_key(locked.store, "uploader", SCOPES))
    first = user.put(2 * MB, chunked)
    assert first.status_code == 200, first.text
    assert user.stored == 2 * MB
    before = files_of(locked)
    check_problem(user.put(2 * MB, chunked), 429, "storage_quota_exceeded")
    assert (files_of(locked), user.stored) == (before, 2 * MB)
    body = {"video_upload_id": first.json()["id"], "audio_url": "http://127.0.0.1:9/a.wav"}
    check_problem(user.ask("POST", "/jobs", json=body), 429, "storage_quota_exceeded")
    assert user.ask("GET", "/jobs").json()["jobs"] == []
    locked.objects.delete(upload_key(first.json()["id"]))
    locked.store.uploads.drop(first.json()["id"])


def test_all_keys_together(locked: RunningApi, user: User) -> None:
    other = User(locked, make_key(locked.store, "other", SCOPES))
    assert other.submit(2_900_000).status_code == 202
    assert user.submit(2 * MB).status_code == 202
    check_problem(user.submit(MB // 2), 507, "storage_full")
    other.delete_jobs()
    assert user.submit(MB // 2).status_code == 202


def test_a_key_may_have_a_limit_of_its_own(locked: RunningApi) -> None:
    small = User(locked, make_key(locked.store, "small", SCOPES, stored_bytes=MB))
    check_problem(small.submit(MB), 429, "storage_quota_exceeded")
    assert small.submit(MB // 2).status_code == 202
    small.delete_jobs()


def test_what_is_refused_for_another_reason_holds_nothing(user: User) -> None:
    check_problem(user.ask("POST", "/jobs", files=input_files(audio=b"no sound")), 422, "container_unsupported")
    link = user.ask("POST", "/uploads").json()["url"]
    check_problem(httpx.put(link, content=b"just text"), 422, "container_unsupported")
    assert user.stored == 0


class TestPresigned:
    def test_the_largest_file_is_reserved_for_each_link(
        self, redis_url: str, s3: S3Endpoint, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        env = {name.removeprefix("RETALKING_"): value for name, value in s3.with_bucket("quota").env().items()}
        env |= {"REQUIRE_KEYS": "true", "MAX_UPLOAD_BYTES": str(MB), "STORED_BYTES_PER_KEY": str(2 * MB)}
        with run_api(tmp_path_factory.mktemp("presigned"), own_database(redis_url), **env) as api:
            user = User(api, make_key(api.store, "someone", SCOPES))
            links = [user.ask("POST", "/uploads") for _ in range(3)]
            assert [link.status_code for link in links[:2]] == [201, 201]
            check_problem(links[2], 429, "storage_quota_exceeded")
            assert user.stored == 2 * MB


@pytest.fixture(scope="module")
def small(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Its data folder is a file system of 40 MB that only it sees, of which 10 are to stay free."""
    folder = tmp_path_factory.mktemp("small")
    data = folder / "data"
    data.mkdir()
    mount = 'mount -t tmpfs -o size=40000k none "$0" && exec "$@"'
    prefix = ("unshare", "--mount", "--map-root-user", "sh", "-c", mount, str(data))
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a file system of his own, so there is no disk to fill")
    with run_api(folder, own_database(redis_url), prefix, MIN_FREE_BYTES=str(10 * MB)) as running:
        yield running


def inside(api: RunningApi) -> Path:
    """The data folder as the API sees it."""
    return Path(f"/proc/{api.process.pid}/root{api.settings.data_dir}")


def test_below_the_floor_nothing_new_is_taken_and_the_rest_lives_on(small: RunningApi) -> None:
    link = small.client.post("/uploads").json()["url"]
    job_id = small.new_job()
    filler = inside(small) / "filler"
    filler.write_bytes(bytes(32 * MB))
    try:
        for refused in (
            small.submit(),
            small.client.post("/jobs", json={"video_url": "http://203.0.113.1/a", "audio_url": "http://203.0.113.1/b"}),
            small.client.post("/uploads"),
            httpx.put(link, content=MP4),
        ):
            assert check_problem(refused, 507, "storage_full")["retryable"]
        assert small.client.get(f"/jobs/{job_id}").json()["status"] == "queued"
        assert small.client.get("/jobs").status_code == 200
        assert small.client.post(f"/jobs/{job_id}/cancel").status_code == 202
        assert small.client.delete(f"/jobs/{job_id}").status_code == 204
    finally:
        filler.unlink()
    assert small.submit().status_code == 202, "at once, without a restart"


def test_a_body_without_a_length_ends_at_the_floor(small: RunningApi) -> None:
    def endless() -> Iterator[bytes]:
        yield MP4
        for _ in range(60):
            yield bytes(MB)

    link = small.client.post("/uploads").json()["url"]
    with suppress(httpx.WriteError, httpx.ReadError):  # the answer may come while the body is still being sent
        check_problem(httpx.put(link, content=endless(), timeout=60), 507, "storage_full")
    disk = inside(small)
    assert not list((disk / "objects" / "new").iterdir())
    assert small.store.uploads.stored_bytes() < MB


def test_a_length_that_would_pass_the_floor_is_refused_before_the_body(small: RunningApi) -> None:
    path = small.client.post("/uploads").json()["url"].removeprefix(small.url.rstrip("/"))
    with open_socket(small) as connection:
        send_head(connection, path, f"Content-Length: {35 * MB}", method="PUT")
        status, problem = read_answer(connection)
    assert (status, problem["code"]) == (507, "storage_full")
