"""Both clients against a running API, straight and through a connection that breaks on purpose."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.names import result_key
from retalking_client import AsyncClient, Client, RetryPolicy
from tests.api.running import MP4, WAV, RunningApi, render_info, result_info, run_api
from tests.client.breaking_proxy import BreakingProxy
from tests.services import own_database

QUICK = RetryPolicy(retries=4, first_pause_s=0.01, longest_pause_s=0.05)


class Blocking:
    """An AsyncClient that is called like a Client: every test below speaks to both."""

    def __init__(self, url: str, **more: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, **more)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            made = method(*arguments, **options)
            return self._steps(made) if hasattr(made, "__anext__") else self._runner.run(made)

        return call

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def _steps(self, made: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._runner.run(made.__anext__())
            except StopAsyncIteration:
                return


@pytest.fixture(scope="session")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with run_api(tmp_path_factory.mktemp("client-api"), own_database(redis_url)) as running:
        yield running


@pytest.fixture
def proxy(api: RunningApi) -> Iterator[BreakingProxy]:
    with BreakingProxy(api.url) as standing_between:
        yield standing_between


@pytest.fixture(params=[Client, Blocking], ids=["sync", "async"])
def client(request: pytest.FixtureRequest, proxy: BreakingProxy) -> Iterator[Any]:
    """Speaks to the API through the proxy."""
    made = request.param(proxy.url, retry=QUICK)
    yield made
    made.close()


@pytest.fixture
def face(tmp_path: Path) -> Path:
    path = tmp_path / "face.mp4"
    path.write_bytes(MP4)
    return path


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    path.write_bytes(WAV)
    return path


def finish(api: RunningApi, job_id: str, content: bytes) -> None:
    """What a worker does with a job, less the render."""
    lease = api.store.jobs.claim(job_id, "worker-of-the-test", 30)
    assert lease is not None
    api.store.jobs.report(lease, stage="synthesize", progress=0.5, lease_s=30)
    key = result_key(job_id, lease.fence, "mp4")
    with api.objects.writer(key, "video/mp4") as writer:
        writer.write(content)
        writer.commit()
    result = result_info(key, len(content)).model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    api.store.jobs.succeed(lease, result=result, render=render_info(), evaluation=[], retention_s=3600)
