"""Requests that stay open: limits per key, in total, and of slowness."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import psutil
import pytest

from cli.keys import make_key
from jobs.store.keys import Scope
from tests.api.running import MP4, RunningApi, check_problem, input_files, run_api
from tests.api.test_streaming import HEAD, open_socket, read_answer, send_head
from tests.services import own_database, wait_until

EACH, TOTAL = 3, 5
DOWNLOAD_BYTES = 50_000_000


@pytest.fixture(scope="module")
def narrow(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Low limits of every kind, with keys."""
    kinds = {
        "SUBMISSIONS_OPEN": TOTAL,
        "SUBMISSIONS_OPEN_PER_KEY": EACH,
        "EVENT_STREAMS": TOTAL,
        "EVENT_STREAMS_PER_KEY": EACH,
        "DOWNLOADS_OPEN": TOTAL,
        "DOWNLOADS_OPEN_PER_KEY": EACH,
    }
    env = {"REQUIRE_KEYS": "true"} | {name: str(number) for name, number in kinds.items()}
    with run_api(tmp_path_factory.mktemp("narrow"), own_database(redis_url), **env) as running:
        yield running


@pytest.fixture(scope="module")
def slow(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    env = {"UPLOAD_IDLE_S": "1", "UPLOAD_MIN_BYTES_PER_S": "100000", "UNREAD_RESPONSE_S": "1"}
    with run_api(tmp_path_factory.mktemp("slow"), own_database(redis_url), **env) as running:
        yield running


def new_key(api: RunningApi) -> dict[str, str]:
    key = make_key(api.store, "someone", frozenset({Scope.SUBMIT, Scope.READ}))
    return {"Authorization": f"Bearer {key}"}


@contextmanager
def half_sent(api: RunningApi, headers: dict[str, str]) -> Iterator[socket.socket]:
    """A submission that is partly received and so occupies a slot: the server has requested the body by then."""
    with open_socket(api) as connection:
        lines = [f"{name}: {value}" for name, value in headers.items()]
        form = "Content-Type: multipart/form-data; boundary=x"
        send_head(connection, "/jobs", form, "Content-Length: 150000", "Expect: 100-continue", *lines)
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"--x\r\n" + HEAD.format("video", "a.mp4").encode() + MP4)
        yield connection


def submit(api: RunningApi, headers: dict[str, str]) -> httpx.Response:
    return api.client.post("/jobs", files=input_files(), headers=headers)


def test_submissions_of_one_key_and_of_all(narrow: RunningApi) -> None:
    mine, others = new_key(narrow), new_key(narrow)
    with ExitStack() as stack:
        for _ in range(EACH):
            stack.enter_context(half_sent(narrow, mine))
        problem = check_problem(submit(narrow, mine), 429, "too_many_open")
        assert problem["retryable"]
        assert "Retry-After" in submit(narrow, mine).headers
        link = narrow.client.post("/uploads", headers=mine).json()["url"]
        check_problem(httpx.put(link, content=MP4), 429, "too_many_open")
        assert submit(narrow, others).status_code == 202, "another key has its own"
        for _ in range(TOTAL - EACH):
            stack.enter_context(half_sent(narrow, others))
        check_problem(submit(narrow, others), 429, "too_many_open")
        assert narrow.client.get("/jobs", headers=mine).status_code == 200
    wait_until(lambda: submit(narrow, mine).status_code == 202, what="who leaves makes room")


def test_event_streams_of_one_key_and_of_all(narrow: RunningApi) -> None:
    mine, others = new_key(narrow), new_key(narrow)
    jobs = {id(headers): submit(narrow, headers).json()["id"] for headers in (mine, others)}

    def follow(stack: ExitStack, headers: dict[str, str]) -> httpx.Response:
        path = f"/jobs/{jobs[id(headers)]}/events"
        answer = stack.enter_context(narrow.client.stream("GET", path, headers=headers))
        if answer.status_code != 200:
            answer.read()
        return answer

    with ExitStack() as stack:
        assert [follow(stack, mine).status_code for _ in range(EACH)] == [200] * EACH
        check_problem(follow(stack, mine), 429, "too_many_open")
        assert [follow(stack, others).status_code for _ in range(TOTAL - EACH)] == [200] * (TOTAL - EACH)
        check_problem(follow(stack, others), 429, "too_many_open")
    with ExitStack() as stack:
        wait_until(lambda: follow(stack, mine).status_code == 200, what="who leaves makes room")


def test_downloads_of_one_key(narrow: RunningApi) -> None:
    """By key and by signed link, which can be shared. The open downloads are not read."""
    mine, others = new_key(narrow), new_key(narrow)
    job_id = submit(narrow, mine).json()["id"]
    narrow.finish(job_id, bytes(30_000_000))
    link = narrow.client.get(f"/jobs/{job_id}/media", headers=mine).json()["result"]["url"]

    def ask(path: str, headers: dict[str, str]) -> httpx.Response:
        with narrow.client.stream("GET", path, headers=headers) as answer:
            if answer.status_code != 200:
                answer.read()
            return answer

    with ExitStack() as stack:
        for _ in range(EACH):
            answer = stack.enter_context(narrow.client.stream("GET", link))
            assert answer.status_code == 200
        check_problem(ask(link, {}), 429, "too_many_open")
        check_problem(ask(f"/jobs/{job_id}/result", mine), 429, "too_many_open")
        assert narrow.client.head(f"/jobs/{job_id}/result", headers=mine).status_code == 200
        small = submit(narrow, others).json()["id"]
        narrow.finish(small, b"0123456789")
        assert ask(f"/jobs/{small}/result", others).status_code == 200
    wait_until(lambda: ask(link, {}).status_code == 200, what="who leaves makes room")


@pytest.mark.parametrize("path", ["/jobs", "upload"])
def test_a_body_that_drips_is_given_up(slow: RunningApi, path: str) -> None:
    """One byte at a time is never idle."""
    method, lines = "POST", ["Content-Type: multipart/form-data; boundary=x"]
    begin = b"--x\r\n" + HEAD.format("video", "a.mp4").encode() + MP4
    if path == "upload":
        link = slow.client.post("/uploads").json()["url"]
        method, lines, begin, path = "PUT", [], MP4, link.removeprefix(slow.url.rstrip("/"))
    with open_socket(slow) as connection:
        send_head(connection, path, "Content-Length: 150000", *lines, method=method)
        connection.sendall(begin)
        connection.settimeout(0.3)
        began_s, answer = time.monotonic(), b""
        while not answer:
            assert time.monotonic() - began_s < 30
            try:
                connection.send(b"x")
                answer = connection.recv(1, socket.MSG_PEEK)
            except TimeoutError:
                continue
        connection.settimeout(10)
        status, problem = read_answer(connection)
    assert (status, problem["code"], problem["retryable"]) == (408, "request_timeout", True)
    assert "100000 bytes/s" in str(problem["detail"])


def test_a_body_of_the_pace_passes(slow: RunningApi) -> None:
    """For longer than a body may be idle."""
    link = slow.client.post("/uploads").json()["url"]

    def steady() -> Iterator[bytes]:
        yield MP4
        for _ in range(8):
            time.sleep(0.25)
            yield bytes(100_000)

    assert httpx.put(link, content=steady(), timeout=30).status_code == 200


@contextmanager
def open_download(api: RunningApi) -> Iterator[socket.socket]:
    """A download of 50 MB that has begun, more than the kernel buffers, with none of its body read."""
    job_id = api.new_job()
    api.finish(job_id, bytes(DOWNLOAD_BYTES))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", httpx.URL(api.url).port))
        connection.sendall(f"GET /jobs/{job_id}/result HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 200"
        yield connection


def is_connected(api: RunningApi, port: int) -> bool:
    return any(each.raddr and each.raddr.port == port for each in psutil.Process(api.process.pid).net_connections())


def read_all(connection: socket.socket) -> int:
    """Bytes until the service closes the connection."""
    size = 0
    while data := connection.recv(1 << 20):
        size += len(data)
        if size > DOWNLOAD_BYTES:
            break
    return size


def test_a_caller_who_does_not_read_the_response_is_disconnected(slow: RunningApi) -> None:
    with open_download(slow) as connection:
        port = connection.getsockname()[1]
        assert is_connected(slow, port)
        wait_until(lambda: not is_connected(slow, port), what="the service closes the connection")
        assert read_all(connection) < DOWNLOAD_BYTES, "the rest of the response is dropped"
    assert slow.client.get("/healthz").status_code == 200


def test_a_caller_who_reads_slowly_gets_the_whole_response(slow: RunningApi) -> None:
    """For longer than a response may stay unread."""
    with open_download(slow) as connection:
        ends_at, size = time.monotonic() + 3, 0
        while time.monotonic() < ends_at:
            size += len(connection.recv(1 << 20))
            time.sleep(0.05)
        assert size + read_all(connection) > DOWNLOAD_BYTES
