"""Running instances of the API, one for each kind of configuration, shared by the suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.running import RunningApi, run_api
from tests.services import S3Endpoint, own_database


@pytest.fixture(scope="session")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Default settings."""
    with run_api(tmp_path_factory.mktemp("api"), own_database(redis_url)) as running:
        yield running


@pytest.fixture(scope="session")
def tight_api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Small limits, and private addresses allowed by name."""
    limits = {
        "MAX_UPLOAD_BYTES": "200000",
        "MAX_JSON_BYTES": "40000",
        "UPLOAD_IDLE_S": "1.0",
        "ALLOW_PRIVATE_HOSTS": "127.0.0.1,localhost",
    }
    with run_api(tmp_path_factory.mktemp("tight"), own_database(redis_url), **limits) as running:
        yield running


@pytest.fixture(scope="session")
def s3_api(redis_url: str, s3: S3Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Objects in a real S3 endpoint."""
    env = {name.removeprefix("RETALKING_"): value for name, value in s3.env().items()}
    with run_api(tmp_path_factory.mktemp("s3-api"), own_database(redis_url), **env) as running:
        yield running
