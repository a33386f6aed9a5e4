"""Bodies on the wire: constant memory, limits at once, silence, clients that leave. Raw sockets where a client library
would be too polite."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import psutil

from jobs.names import input_key
from tests.api.running import MP4, WAV, RunningApi, check_problem, input_files
from tests.services import wait_until

MIB = 1 << 20
HEAD = 'Content-Disposition: form-data; name="{}"; filename="{}"\r\n\r\n'


def form(megabytes: int) -> Iterator[bytes]:
    """A form with a video of that size, a megabyte at a time."""
    yield b"--x\r\n" + HEAD.format("video", "long.mp4").encode() + MP4
    block = bytes(range(256)) * (MIB // 256)
    for _ in range(megabytes):
        yield block
    yield b"\r\n--x\r\n" + HEAD.format("audio", "a.wav").encode() + WAV + b"\r\n--x--\r\n"


def open_socket(api: RunningApi) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2].strip("/"))), timeout=10)


def send_head(connection: socket.socket, path: str, *lines: str, method: str = "POST") -> None:
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", *lines]
    connection.sendall(("\r\n".join(head) + "\r\n\r\n").encode())


def read_answer(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Status and problem body of one answer."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += connection.recv(65536)
    head, _, body = raw.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields[b"content-length"]):
        body += connection.recv(65536)
    return int(head.split()[1]), json.loads(body)


def test_300_mb_in_constant_memory(api: RunningApi) -> None:
    """Measured: growth of 0.5 to 3 MB; a buffered body would show 300."""
    process = psutil.Process(api.process.pid)
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert api.client.post("/jobs", content=form(8), headers=headers).status_code == 202
    before = process.memory_info().rss
    peak = before
    job_id = ""

    def watched() -> Iterator[bytes]:
        nonlocal peak
        for block in form(300):
            peak = max(peak, process.memory_info().rss)
            yield block

    started_s = time.monotonic()
    answer = api.client.post("/jobs", content=watched(), headers=headers)
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    print(f"grew {(peak - before) / MIB:.1f} MiB in {time.monotonic() - started_s:.1f} s")
    assert peak - before < 60 * MIB
    assert api.objects.info(input_key(job_id, "video")).size_bytes == 300 * MIB + len(MP4)
    api.client.delete(f"/jobs/{job_id}")
    assert api.client.delete(f"/jobs/{job_id}").status_code == 204


def test_a_file_over_the_limit(tight_api: RunningApi) -> None:
    before = tight_api.input_keys()
    answer = tight_api.client.post("/jobs", files=input_files(video=MP4 + bytes(200_001)))
    problem = check_problem(answer, 413, "body_too_large")
    assert "200000" in problem["detail"]
    assert tight_api.input_keys() == before


def test_a_length_over_the_limit_is_refused_before_the_body(tight_api: RunningApi) -> None:
    with open_socket(tight_api) as connection:
        send_head(connection, "/jobs", "Content-Type: multipart/form-data; boundary=x", "Content-Length: 10000000000")
        status, problem = read_answer(connection)
    assert (status, problem["code"]) == (413, "body_too_large")


def test_a_body_without_a_length_is_refused_where_it_passes_the_limit(tight_api: RunningApi) -> None:
    """The answer comes while the client could still go on for ever."""
    with open_socket(tight_api) as connection:
        send_head(connection, "/jobs", "Content-Type: multipart/form-data; boundary=x", "Transfer-Encoding: chunked")
        first = b"--x\r\n" + HEAD.format("video", "long.mp4").encode() + MP4
        for block in (first, bytes(100_000), bytes(100_000)):
            connection.sendall(b"%x\r\n%s\r\n" % (len(block), block))
        status, problem = read_answer(connection)
    assert (status, problem["code"]) == (413, "body_too_large")


def test_too_much_text(tight_api: RunningApi) -> None:
    check_problem(tight_api.submit(metadata="x" * 40_001), 413, "body_too_large")
    answer = tight_api.client.post("/jobs", content=b" " * 40_001, headers={"content-type": "application/json"})
    check_problem(answer, 413, "body_too_large")


def test_a_client_that_leaves_takes_its_files_with_it(tight_api: RunningApi) -> None:
    before = tight_api.input_keys()
    connection = open_socket(tight_api)
    send_head(connection, "/jobs", "Content-Type: multipart/form-data; boundary=x", "Content-Length: 150000")
    connection.sendall(b"--x\r\n" + HEAD.format("video", "a.mp4").encode() + MP4)
    connection.sendall(b"\r\n--x\r\n" + HEAD.format("audio", "a.wav").encode() + WAV)
    wait_until(lambda: tight_api.input_keys() - before, what="the whole first file is staged")
    connection.close()
    wait_until(lambda: tight_api.input_keys() == before, what="the staged file is removed")
    unfinished = tight_api.settings.data_dir / "objects" / "new"
    wait_until(lambda: not list(unfinished.iterdir()), what="the file in work is removed")


def test_a_client_that_falls_silent(tight_api: RunningApi) -> None:
    before = tight_api.input_keys()
    with open_socket(tight_api) as connection:
        send_head(connection, "/jobs", "Content-Type: multipart/form-data; boundary=x", "Content-Length: 150000")
        connection.sendall(b"--x\r\n" + HEAD.format("video", "a.mp4").encode() + MP4)
        status, problem = read_answer(connection)
    assert (status, problem["code"], problem["retryable"]) == (408, "request_timeout", True)
    assert tight_api.input_keys() == before


def test_a_slow_upload_does_not_keep_others_waiting(tight_api: RunningApi) -> None:
    """Forty half-sent bodies, as many as the default thread pool has threads."""
    waiting = [open_socket(tight_api) for _ in range(40)]
    try:
        for connection in waiting:
            send_head(connection, "/jobs", "Content-Type: multipart/form-data; boundary=x", "Content-Length: 150000")
            connection.sendall(b"--x\r\n" + HEAD.format("video", "a.mp4").encode() + MP4)
        started_s = time.monotonic()
        assert tight_api.client.get("/jobs").status_code == 200
        assert time.monotonic() - started_s < 0.9, "less than the time after which the slow ones are given up"
    finally:
        for connection in waiting:
            connection.close()
