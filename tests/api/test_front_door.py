"""Memory and connections are bounded before any key is read."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.server import MAX_HEAD_BYTES
from bench import front_door
from bench.front_door import FrontDoor
from tests.api.running import RunningApi, run_api
from tests.services import own_database, wait_until

MAX_CONNECTIONS = 64


@pytest.fixture(scope="module")
def locked(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    env = {"REQUIRE_KEYS": "true", "MAX_CONNECTIONS": str(MAX_CONNECTIONS)}
    with run_api(tmp_path_factory.mktemp("front-door"), own_database(redis_url), **env) as running:
        yield running


def port_of(api: RunningApi) -> int:
    return int(api.url.rpartition(":")[2].strip("/"))


def connect(api: RunningApi) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(api)), timeout=10)


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(65536) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize("attack", [front_door.pipelined_requests, front_door.endless_heads])
def test_memory_stays_flat(locked: RunningApi, attack: object) -> None:
    """Measured with h11: 1 to 5 MB; with httptools, which holds all that arrives: 95 to 280."""
    grown_mb = FrontDoor(port_of(locked), locked.process.pid).peak_growth_mb(attack)
    print(f"{attack.__name__}: {grown_mb:.1f} MB")
    assert grown_mb < 40
    assert locked.client.get("/healthz").status_code == 200


def test_a_head_that_is_too_long_is_refused(locked: RunningApi) -> None:
    """Refused while it could still grow without end."""
    with connect(locked) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 2 * MAX_HEAD_BYTES)
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_heads_of_a_usual_size_pass(locked: RunningApi) -> None:
    assert locked.client.get("/healthz", headers={"x": "y" * 16_000}).status_code == 200


def test_idle_connections_do_not_keep_new_ones_out(locked: RunningApi) -> None:
    """Twice the limit: the oldest are closed, and a caller with a request gets a response."""
    idle = []
    try:
        for number in range(2 * MAX_CONNECTIONS):
            idle.append(connect(locked))
            if number % 16 == 0:
                assert locked.client.get("/healthz").status_code == 200
        wait_until(lambda: sum(map(is_closed, idle)) >= MAX_CONNECTIONS, what="as many are left as there may be")
        assert is_closed(idle[0])
        assert not is_closed(idle[-1])
    finally:
        for each in idle:
            each.close()


def test_pipelined_requests_are_answered_in_turn(locked: RunningApi) -> None:
    with connect(locked) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        received = b""
        while received.count(b"HTTP/1.1 200") < 100:
            received += connection.recv(65536)


def test_a_head_that_drips_is_given_up(redis_url: str, tmp_path: Path) -> None:
    """A line every few seconds would hold a connection for ever."""
    with (
        run_api(tmp_path, own_database(redis_url), module="tests.api.hasty_app") as api,
        connect(api) as connection,
    ):
        began_s = time.monotonic()
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        while not is_closed(connection):
            assert time.monotonic() - began_s < 60
            time.sleep(0.3)
            try:
                connection.send(b"x: y\r\n")
            except OSError:
                break
