"""How long an answer takes on a kept connection: `python -m bench.keep_alive`, a few seconds.

The API as `retalking up` starts it (on a socket that was bound before, `--fd`) and as the images start it (on a port).
One client, one connection, one call after the other, so nothing waits for anything but the answer. Ends with 1 when a
median is not below LIMIT_MS: a packet held back by Nagle's algorithm costs 40 ms.
"""

from __future__ import annotations

import http.client
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from cli.stack.processes import Child, StackAddress, api_spec, child_environment, listening_socket
from cli.stack.redis_server import EmbeddedRedis
from jobs.opening import open_store
from jobs.settings import Settings
from tests.jobs.making import add_job
from tests.services import free_port, wait_until

CALLS = 500
LIMIT_MS = 2.0


@contextmanager
def api_process(folder: Path, redis_url: str, by_descriptor: bool) -> Iterator[StackAddress]:
    (folder / "logs").mkdir(parents=True)
    with listening_socket(StackAddress("127.0.0.1", 0)) as listener:
        spec = api_spec(folder, listener.fileno())
        port = listener.getsockname()[1] if by_descriptor else free_port()
        if not by_descriptor:
            at = spec.command.index("--fd")
            command = (*spec.command[:at], "--host", "127.0.0.1", "--port", str(port), *spec.command[at + 2 :])
            spec = replace(spec, command=command, keep_fds=())
        address = StackAddress("127.0.0.1", port)
        api = Child(spec, child_environment(Settings(_env_file=None), folder, redis_url, address), folder)
        api.start()
        try:
            yield address
        finally:
            api.ask_to_stop()
            api.finish()


def latencies_ms(address: StackAddress, path: str) -> list[float]:
    with closing(http.client.HTTPConnection(address.host, address.port, timeout=30)) as connection:
        return [_call_ms(connection, path) for _ in range(CALLS)]


def _call_ms(connection: http.client.HTTPConnection, path: str) -> float:
    started = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    took_ms = 1000 * (time.perf_counter() - started)
    if answer.status != 200:
        raise RuntimeError(f"GET {path}: {answer.status}")
    return took_ms


def _answers(address: StackAddress) -> bool:
    try:
        with closing(http.client.HTTPConnection(address.host, address.port, timeout=30)) as connection:
            _call_ms(connection, "/healthz")
    except OSError:
        return False
    return True


def main() -> int:
    slow = False
    print("| started with | call | p50, ms | p99, ms |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, EmbeddedRedis(Path(name) / "redis") as redis:
        job = add_job(open_store(Settings(_env_file=None, redis_url=redis.url)))
        for how, by_descriptor in (("--fd", True), ("--port", False)):
            with api_process(Path(name) / how.strip("-"), redis.url, by_descriptor) as address:
                wait_until(lambda address=address: _answers(address), 60, what="the API answers")
                for what, path in (("GET /healthz", "/healthz"), ("GET /jobs/ID", f"/jobs/{job.id}")):
                    taken = latencies_ms(address, path)
                    cuts = statistics.quantiles(taken, n=100, method="inclusive")
                    slow |= cuts[49] >= LIMIT_MS
                    print(f"| {how} | {what} | {cuts[49]:.2f} | {cuts[98]:.2f} |", flush=True)
    print(f"\nEvery median is to be below {LIMIT_MS} ms: {'NO' if slow else 'yes'}")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
