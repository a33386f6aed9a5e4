"""The HTTP client of the commands, against a server that misbehaves on purpose."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cli.client import ServiceClient
from cli.failures import CommandError
from tests.cli.conftest import Ended

Call = Callable[..., Ended]

_RESULT = b"0123456789" * 1000


class _Handler(BaseHTTPRequestHandler):
    """Breaks every event stream after two events; remembers what it was asked."""

    asked: list[str]

    def do_GET(self) -> None:
        if self.path.endswith("/events"):
            self._send_events()
        elif self.path.endswith("/result"):
            self._send(200, "video/mp4", _RESULT)
        else:
            self._send(404, "application/problem+json", b'{"code": "job_not_found", "detail": "No such job."}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._send(502, "text/html", b"<h1>Bad gateway</h1>")

    def _send_events(self) -> None:
        last = self.headers.get("Last-Event-ID")
        self.asked.append(last or "")
        first = int(last) + 1 if last else 1
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number in range(first, min(first + 2, 6)):
            kind = "job.succeeded" if number == 5 else "job.progress"
            data = json.dumps({"status": "running", "stage": "synthesise", "progress": number / 5})
            self.wfile.write(f": a comment\n\nid: {number}\nevent: {kind}\ndata: {data}\n\n".encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (_Handler,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield http
        http.shutdown()
        thread.join()


@pytest.fixture
def client(server: ThreadingHTTPServer) -> Iterator[ServiceClient]:
    with ServiceClient(f"http://127.0.0.1:{server.server_port}", direct=True) as client:
        yield client


def test_a_broken_stream_is_taken_up_where_it_broke_off(
    client: ServiceClient, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.client._RECONNECT_PAUSE_S", 0.01)
    events = list(client.follow("job_1"))
    assert [event["progress"] for event in events] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert server.RequestHandlerClass.asked == ["", "2", "4"]


def test_a_refusal_keeps_the_service_s_code(client: ServiceClient) -> None:
    with pytest.raises(CommandError, match=r"No such job\.") as caught:
        client.job("job_1")
    assert caught.value.code == "job_not_found"


def test_an_answer_that_is_no_problem_is_named_by_its_status(client: ServiceClient) -> None:
    with pytest.raises(CommandError, match="answered 502") as caught:
        client.submit({}, {"video_url": "https://example.org/v.mp4"})
    assert caught.value.code == "http_502"


def test_a_download_is_whole_or_not_at_all(client: ServiceClient, tmp_path: Path) -> None:
    job = {"id": "job_1", "result": {"sha256": hashlib.sha256(_RESULT).hexdigest()}}
    client.download(job, tmp_path / "new" / "result.mp4")
    assert (tmp_path / "new" / "result.mp4").read_bytes() == _RESULT

    with pytest.raises(CommandError, match="damaged"):
        client.download({"id": "job_1", "result": {"sha256": "0" * 64}}, tmp_path / "other" / "result.mp4")
    assert list((tmp_path / "other").iterdir()) == []


def test_a_service_that_is_not_there_is_said_in_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    done = call("submit", "a.mp4", "a.mp4", "--url", "http://127.0.0.1:9")
    assert done.code == 3
    assert done.err.startswith("error: service_unreachable: http://127.0.0.1:9 does not answer")
    assert len(done.err.splitlines()) == 1
    assert done.out == ""


def test_what_is_wrong_with_the_call_is_said_before_anything_is_sent(call: Call) -> None:
    missing = call("submit", "no.mp4", "no.wav")
    assert (missing.code, missing.err) == (2, "error: file_not_found: There is no file no.mp4.\n")
    option = call("submit", "no.mp4", "no.wav", "--option", "length_mode=stretch")
    assert option.code == 2
    assert option.err.startswith("error: invalid_option: length_mode: ")


def test_the_version(call: Call) -> None:
    from retalking_core import __version__

    assert call("--version").out == f"retalking {__version__}\n"
