"""Requests to addresses that strangers named: checked where the socket is opened, bounded in time, no redirects."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import pytest

from jobs import egress as addresses
from jobs.errors import ServiceError
from tests.services import free_port
from tests.worker.receiver import Receiver, Reply, receiving
from worker.egress import Egress, GuardedBackend, TooSlowError, UnreachableError

OPEN = Egress(("127.0.0.1",), idle_s=2.0, total_s=5.0)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def fetch(egress: Egress, url: str) -> tuple[int, bytes]:
    with egress.exchange("GET", url) as answer:
        return answer.status, b"".join(answer.iter_stream())


def test_an_allowed_address_is_reached(receiver: Receiver) -> None:
    receiver.replies = [Reply(chunks=(b"one", b"two"))]
    assert fetch(OPEN, f"{receiver.url}/a%20b?c=d") == (200, b"onetwo")
    (call,) = receiver.calls
    assert call.path == "/a%20b?c=d"
    assert call.headers["host"] == receiver.url.removeprefix("http://")
    assert call.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://2130706433:{port}/",
        "http://0x7f.1:{port}/",
        "http://user:pass@127.0.0.1:{port}/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:{port}/",
    ],
)
def test_private_addresses_are_refused(receiver: Receiver, url: str) -> None:
    port = receiver.url.rpartition(":")[2]
    with pytest.raises(ServiceError) as refusal:
        fetch(Egress((), idle_s=2.0, total_s=5.0), url.format(port=port))
    assert refusal.value.code == "url_not_allowed"
    assert receiver.calls == []


def test_a_name_that_changes_its_answer_is_refused_at_connect_time(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when it is checked, loopback when the socket is opened."""
    port = int(receiver.url.rpartition(":")[2])
    answers = iter(["93.184.215.14", "127.0.0.1", "127.0.0.1"])
    asked: list[str] = []

    def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", resolve)
    with pytest.raises(ServiceError) as refusal:
        fetch(Egress((), idle_s=2.0, total_s=5.0), f"http://rebinding.example:{port}/")
    assert refusal.value.code == "url_not_allowed"
    assert asked == ["rebinding.example"] * 2
    assert receiver.calls == []


def test_the_socket_is_opened_to_the_address_that_was_checked(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is resolved by the guard alone: whatever the resolver would say afterwards does not matter."""
    port = int(receiver.url.rpartition(":")[2])
    resolved: list[str] = []

    def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
        resolved.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]

    backend = GuardedBackend(lambda host, port: [(socket.AF_INET, "127.0.0.1")], total_s=5.0)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with httpcore.ConnectionPool(network_backend=backend) as pool:
        assert pool.request("GET", f"http://no-such-name.invalid:{port}/").status == 200
    assert set(resolved) <= {"127.0.0.1"}
    assert receiver.calls[0].headers["host"] == f"no-such-name.invalid:{port}"


def test_every_address_of_a_name_is_tried(receiver: Receiver) -> None:
    port = int(receiver.url.rpartition(":")[2])
    dead_and_alive = [(socket.AF_INET, "127.0.0.2"), (socket.AF_INET, "127.0.0.1")]
    backend = GuardedBackend(lambda *_: dead_and_alive, total_s=5.0)
    with httpcore.ConnectionPool(network_backend=backend) as pool:
        assert pool.request("GET", f"http://two.example:{port}/").status == 200


def test_proxies_of_the_environment_are_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert fetch(OPEN, receiver.url)[0] == 200


def test_a_peer_that_drips_ends_at_the_deadline(receiver: Receiver) -> None:
    """Each byte comes well within the idle limit; the whole would take ten seconds."""
    receiver.replies = [Reply(chunks=(b"x",) * 100, before_chunk=lambda: time.sleep(0.1))]
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="in time"):
        fetch(Egress(("127.0.0.1",), idle_s=2.0, total_s=0.8), receiver.url)
    assert time.monotonic() - began < 3


@contextmanager
def dripping(head: bytes) -> Iterator[str]:
    """A server that answers one connection with `head` and then with a byte every 50 ms, for 20 s at most."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                try:
                    connection.sendall(head)
                    for _ in range(400):
                        time.sleep(0.05)
                        connection.sendall(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        thread.join(30)


PACED = Egress(("127.0.0.1",), idle_s=2.0, total_s=15.0, min_bytes_per_s=1000, rate_window_s=0.5)
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "head",
    [
        OK + b"Content-Length: 100000\r\n\r\n",
        OK + b"Connection: close\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1;",
    ],
    ids=["length", "to the end", "in the framing of a chunk"],
)
def test_a_body_below_the_slowest_rate_is_given_up(head: bytes) -> None:
    with dripping(head) as url, pytest.raises(TooSlowError, match="1000 bytes a second"):
        fetch(PACED, url)


def test_a_head_that_drips_ends_after_the_longest_silence() -> None:
    """Each byte of the header comes within the silence that is allowed; the exchange as a whole might take 15 s."""
    with dripping(OK + b"X-Filler: ") as url:
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="in time"):
            fetch(PACED, url)
        assert time.monotonic() - began < 10


def test_the_pace_is_that_of_the_peer(receiver: Receiver) -> None:
    """A reader that stands still, as on a slow disk, is not taken for a slow sender."""
    receiver.replies = [Reply(chunks=(b"x" * 200_000,))]
    with PACED.exchange("GET", receiver.url) as answer:
        size = 0
        for chunk in answer.iter_stream():
            size += len(chunk)
            time.sleep(0.6 if size < 150_000 else 0)
    assert size == 200_000


@pytest.mark.parametrize(
    ("url", "reason"),
    [("http://127.0.0.1:{port}/", "refused"), ("http://no-such-name.invalid/", "name is not known")],
)
def test_what_does_not_answer_is_said_without_the_address(url: str, reason: str) -> None:
    with pytest.raises(UnreachableError, match=reason) as fault:
        fetch(OPEN, url.format(port=free_port()))
    assert "127.0.0.1" not in str(fault.value)


def test_plain_http_on_a_tls_address_is_said(receiver: Receiver) -> None:
    with pytest.raises(UnreachableError):
        fetch(OPEN, receiver.url.replace("http://", "https://"))
