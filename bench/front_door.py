"""What strangers can make the API hold before it knows who they are. Prints a table.

    python -m bench.front_door [--parser httptools]

Starts one API with keys required, sends it pipelined requests, endless heads and idle connections over loopback, and
reads the resident memory of the process. `--parser httptools` measures uvicorn's other parser, for comparison.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from cli.stack.redis_server import EmbeddedRedis
from tests.services import free_port, is_listening, wait_until

MB = 1_000_000
REQUEST = b"GET /jobs HTTP/1.1\r\nHost: a\r\n\r\n"
CONNECTIONS = 64


class FrontDoor:
    """peak_growth_mb: of the API's resident memory while `attack` runs, and for two seconds after it."""

    def __init__(self, port: int, pid: int) -> None:
        self._port = port
        self._process = psutil.Process(pid)

    def peak_growth_mb(self, attack: Callable[[FrontDoor], None]) -> float:
        self._before = self._peak = self._process.memory_info().rss
        attack(self)
        ends_at = time.monotonic() + 2.0
        while time.monotonic() < ends_at:
            self.look()
            time.sleep(0.02)
        return (self._peak - self._before) / MB

    def look(self) -> None:
        self._peak = max(self._peak, self._process.memory_info().rss)

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=5)
        connection.setblocking(False)
        return connection

    def pour(self, connections: list[socket.socket], blocks: list[bytes], total_bytes: int) -> None:
        """The blocks into each connection, the last one again and again, as fast as they are taken: up to total_bytes,
        or for 5 s."""
        sent, ends_at = 0, time.monotonic() + 5.0
        open_ones = {connection: memoryview(blocks[0]) for connection in connections}
        turns = dict.fromkeys(connections, 0)
        while open_ones and sent < total_bytes and time.monotonic() < ends_at:
            for connection, left in list(open_ones.items()):
                try:
                    count = connection.send(left[:65536])
                except BlockingIOError:
                    continue
                except OSError:
                    del open_ones[connection]
                    continue
                sent += count
                turns[connection] += not left[count:]
                open_ones[connection] = left[count:] or memoryview(blocks[min(turns[connection], len(blocks) - 1)])
            self.look()


def pipelined_requests(door: FrontDoor) -> None:
    """16 MB of whole requests, whose answers nobody reads."""
    with ExitStack() as stack:
        connections = [stack.enter_context(door.connect()) for _ in range(CONNECTIONS)]
        door.pour(connections, [REQUEST * 8192], 16 * MB)


def endless_heads(door: FrontDoor) -> None:
    """95 MB of header lines, over as many connections as it takes."""
    with ExitStack() as stack:
        connections = [stack.enter_context(door.connect()) for _ in range(CONNECTIONS)]
        line = b"x-filler: " + b"y" * 1000 + b"\r\n"
        door.pour(connections, [b"GET /jobs HTTP/1.1\r\nHost: a\r\n" + line * 60, line * 60], 95 * MB)


def idle_connections(door: FrontDoor) -> None:
    """4,000 connections that send the beginning of a request."""
    with ExitStack() as stack:
        for _ in range(4000):
            with suppress(OSError):
                connection = stack.enter_context(door.connect())
                connection.send(b"GET /jobs HTTP/1.1\r\nx: " + b"y" * 4000)
        door.look()


ATTACKS = {
    "16 MB of pipelined requests": pipelined_requests,
    "95 MB of headers": endless_heads,
    "4,000 idle connections": idle_connections,
}


def measure(parser: str) -> dict[str, float]:
    """MB by attack; a fresh API for each."""
    return {name: _measure_one(attack, parser) for name, attack in ATTACKS.items()}


def _measure_one(attack: Callable[[FrontDoor], None], parser: str) -> float:
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder) / "redis") as redis:
        port = free_port()
        uvicorn = ["uvicorn", "--factory", "api.server:app", "--http", parser]
        command = ["api.server"] if parser == "h11" else uvicorn
        environment = {"RETALKING_REDIS_URL": redis.url, "RETALKING_DATA_DIR": f"{folder}/data"}
        environment |= {"RETALKING_REQUIRE_KEYS": "true"}
        with (Path(folder) / "api.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command, "--port", str(port), "--log-level", "critical"],
                env=psutil.Process().environ() | environment,
                stdout=log,
                stderr=log,
            )
            try:
                wait_until(lambda: is_listening(port), 60, what="the API listens")
                return FrontDoor(port, process.pid).peak_growth_mb(attack)
            finally:
                process.kill()
                process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parser", choices=["h11", "httptools"], default="h11", help="h11: as the service runs")
    chosen = parser.parse_args().parser
    print(f"growth of the API's memory, {chosen}")
    for name, grown_mb in measure(chosen).items():
        print(f"  {name:30s} {grown_mb:8.1f} MB")


if __name__ == "__main__":
    main()
