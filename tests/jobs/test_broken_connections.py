"""Connections that break in use: downloads are resumed, calls to Redis are repeated."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cli.stack.redis_server import EmbeddedRedis
from jobs.objects import ObjectStoreError
from jobs.opening import connect_redis
from jobs.store import JobStore
from tests.jobs.making import add_job, claim, succeed
from tests.jobs.test_objects import open_s3
from tests.services import S3Endpoint, free_port

SIZE = 3 << 20


class CuttingProxy:
    """TCP proxy that cuts each of the first `cuts` large answers after `limit_bytes`."""

    def __init__(self, target_port: int, cuts: int, limit_bytes: int = 1 << 20) -> None:
        self._target_port, self.cuts_left, self._limit = target_port, cuts, limit_bytes
        self._server = socket.create_server(("127.0.0.1", 0))
        self._users: dict[socket.socket, int] = {}
        self._guard = threading.Lock()
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            upstream = socket.create_connection(("127.0.0.1", self._target_port))
            self._users |= {client: 2, upstream: 2}
            threading.Thread(target=self._pass, args=(client, upstream, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(upstream, client, True), daemon=True).start()

    def _ended(self, end: socket.socket) -> None:
        with self._guard:
            self._users[end] -= 1
            if not self._users[end]:
                end.close()

    def _pass(self, source: socket.socket, target: socket.socket, may_cut: bool) -> None:
        passed = 0
        try:
            while chunk := source.recv(65536):
                passed += len(chunk)
                if may_cut and passed > self._limit and self.cuts_left > 0:
                    self.cuts_left -= 1
                    break
                target.sendall(chunk)
        except OSError:
            return
        finally:
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                # The other direction may still read from it; a socket that was shut down gives it the end.
                self._ended(end)


@pytest.fixture
def data(s3: S3Endpoint) -> Iterator[tuple[str, bytes]]:
    objects, key, content = open_s3(s3), f"cut/{secrets.token_hex(6)}", secrets.token_bytes(SIZE)
    with objects.writer(key) as writer:
        writer.write(content)
        writer.commit()
    yield key, content
    objects.delete(key)


def through(s3: S3Endpoint, proxy: CuttingProxy):
    return open_s3(s3, endpoint=f"http://127.0.0.1:{proxy.port}")


def test_an_interrupted_download_is_resumed(s3: S3Endpoint, data: tuple[str, bytes], tmp_path: Path) -> None:
    key, content = data
    proxy = CuttingProxy(int(s3.endpoint.rpartition(":")[2]), cuts=2)
    try:
        assert through(s3, proxy).fetch(key, tmp_path / "out").size_bytes == SIZE
    finally:
        proxy.close()
    assert proxy.cuts_left == 0
    assert (tmp_path / "out").read_bytes() == content


def test_a_download_that_keeps_breaking_fails_and_leaves_no_file(
    s3: S3Endpoint, data: tuple[str, bytes], tmp_path: Path
) -> None:
    proxy = CuttingProxy(int(s3.endpoint.rpartition(":")[2]), cuts=1000, limit_bytes=100_000)
    try:
        with pytest.raises(ObjectStoreError):
            through(s3, proxy).fetch(data[0], tmp_path / "out")
    finally:
        proxy.close()
    assert list(tmp_path.iterdir()) == []


def test_a_transition_during_a_redis_restart_is_applied_once(tmp_path: Path) -> None:
    port = free_port()
    server = EmbeddedRedis(tmp_path, port=port)
    try:
        store = JobStore(connect_redis(server.url))
        job = add_job(store)
        lease = claim(store, job.id)
        server._process.kill()
        server.stop()

        restarted: list[EmbeddedRedis] = []

        def restart() -> None:
            time.sleep(0.7)
            restarted.append(EmbeddedRedis(tmp_path, port=port))

        thread = threading.Thread(target=restart)
        thread.start()
        begun = time.monotonic()
        done = succeed(store, lease)
        waited_s = time.monotonic() - begun
        thread.join()
        (server,) = restarted
        assert done.status == "succeeded"
        assert 0.5 < waited_s < 5
        names = [event.event for event in store.jobs.events(job.id, after=None)]
        assert names == ["job.queued", "job.started", "job.succeeded"]
    finally:
        server.stop()
