"""Fixtures for every suite: the real parts, started once a run."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from hypothesis import settings

from cli.stack.redis_server import EmbeddedRedis
from jobs.opening import connect_redis
from jobs.store import JobStore
from tests.services import DATABASES, S3Endpoint, start_s3

ROOT = Path(__file__).resolve().parents[1]

# One for every process of the run: what numba compiles for librosa takes 20 s of CPU time in a new folder.
os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".pytest_cache" / "numba"))


# No bound by the clock: a busy machine may take seconds for any example.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def media_dir() -> Path:
    """Real clips, which are not part of the repository."""
    folder = Path(os.environ.get("RETALKING_MEDIA_DIR", ROOT.parent / "shared" / "media"))
    if not (folder / "1.mp4").exists():
        pytest.skip(f"the shared clips are not at {folder}; set RETALKING_MEDIA_DIR")
    return folder


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Closes at the end of a test what it enters."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis server. Suites share it: use own key prefixes, or `services.own_database`."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis"), databases=DATABASES) as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with connect_redis(redis_url) as client:
        yield client


@pytest.fixture
def job_store(redis_client: redis.Redis) -> JobStore:
    """An empty job store of its own for each test."""
    return JobStore(redis_client, prefix=f"{{test-{secrets.token_hex(6)}}}:")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    """A real S3 endpoint with a bucket."""
    folder: Path = tmp_path_factory.mktemp("s3")
    server = start_s3(folder)
    try:
        yield server.s3
    finally:
        server.stop()
