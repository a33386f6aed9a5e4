"""How long an answer takes on a kept connection: `python -m bench.keep_alive`, a few seconds.

The API as `retalking up` starts it (on a socket that was bound before, `--fd`) and as the images start it (on a port).
One client, one connection, one call after the other, so nothing waits for anything but the answer. Ends with 1 when a
median is not below LIMIT_MS: a packet held back by Nagle's algorithm costs 40 ms.

`--cpu`: microseconds of processor time of the API per call and per layer, without sockets of its own: the app is called
in this process, against a real Redis. On a busy machine these say more than latencies.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path

import uvloop
from starlette.types import ASGIApp, Message

from api.main import create_app
from cli.stack.processes import Child, StackAddress, api_spec, child_environment, listening_socket
from cli.stack.redis_server import EmbeddedRedis
from jobs.messages import make_celery
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from jobs.store.keys import Scope
from jobs.telemetry import configure_logging
from jobs.view import view_job
from tests.jobs.making import add_job
from tests.services import free_port, wait_until

CALLS = 500
CPU_ROUNDS = 8
LIMIT_MS = 2.0


@contextmanager
def api_process(folder: Path, redis_url: str, by_descriptor: bool) -> Iterator[StackAddress]:
    (folder / "logs").mkdir(parents=True)
    with listening_socket(StackAddress("127.0.0.1", 0)) as listener:
        spec = api_spec(folder, listener.fileno())
        port = listener.getsockname()[1] if by_descriptor else free_port()
        if not by_descriptor:
            at = spec.arguments.index("--fd")
            arguments = (*spec.arguments[:at], "--host", "127.0.0.1", "--port", str(port), *spec.arguments[at + 2 :])
            spec = replace(spec, arguments=arguments, keep_fds=())
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


async def _call_app(app: ASGIApp, path: str, key: str, calls: int) -> None:
    """GET of a path, as uvicorn calls the app. key: empty for none."""
    headers = [(b"host", b"127.0.0.1:8000")] + ([(b"authorization", f"Bearer {key}".encode())] if key else [])
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http"}
    scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers}
    scope |= {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000)}

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message.get("status", 200) != 200:
            raise RuntimeError(f"GET {path}: {message['status']}")

    for _ in range(calls):
        await app({**scope, "state": {}}, receive, send)


def _least_cpu_us(layers: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Per call. Each function makes CALLS calls; they take turns, and the cheapest turn counts."""
    least = dict.fromkeys(layers, float("inf"))
    for _ in range(CPU_ROUNDS):
        for name, run in layers.items():
            started_s = time.process_time()
            run()
            least[name] = min(least[name], 1e6 * (time.process_time() - started_s) / CALLS)
    return least


def print_cpu() -> None:
    with (
        Path(os.devnull).open("w") as nowhere,
        redirect_stderr(nowhere),
        tempfile.TemporaryDirectory() as name,
        EmbeddedRedis(Path(name) / "redis") as redis,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        configure_logging("json")
        open_to_all = Settings(_env_file=None, redis_url=redis.url, data_dir=Path(name))
        locked = open_to_all.model_copy(update={"require_keys": True, "requests_per_minute": 60_000})
        store, objects, celery = open_store(open_to_all), open_objects(open_to_all), make_celery(open_to_all)
        job = add_job(store)
        _, key = store.keys.create("bench", frozenset({Scope.ADMIN}))
        app, locked_app = (create_app(settings, store, objects, celery) for settings in (open_to_all, locked))
        found, estimate = store.jobs.get_with_estimate(job.id)

        def call(app: ASGIApp, path: str, key: str = "") -> Callable[[], object]:
            return lambda: runner.run(_call_app(app, path, key, CALLS))

        def repeat(layer: Callable[[], object]) -> Callable[[], object]:
            return lambda: [layer() for _ in range(CALLS)]

        layers = {
            "routing, middleware, metrics and log line: GET /healthz": call(app, "/healthz"),
            "record and queue from Redis": repeat(lambda: store.jobs.get_with_estimate(job.id)),
            "view and JSON": repeat(
                lambda: view_job(found, store, objects, open_to_all, estimate=estimate).model_dump_json()
            ),
            "GET /jobs/ID": call(app, f"/jobs/{job.id}"),
            "GET /jobs/ID with a key": call(locked_app, f"/jobs/{job.id}", key),
        }
        print("| layer or call | CPU, us |")
        print("|---|---|")
        for layer, cpu_us in _least_cpu_us(layers).items():
            print(f"| {layer} | {cpu_us:.0f} |")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.keep_alive", description="Cost of an answer of the API.")
    parser.add_argument("--cpu", action="store_true", help="processor time per layer instead of latencies")
    if parser.parse_args().cpu:
        print_cpu()
        return 0
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
