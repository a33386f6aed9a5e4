"""One service for the whole suite; before each test, killed processes are restarted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.service import Service
from tests.services import S3Endpoint


@pytest.fixture(scope="session")
def fault_service(s3: S3Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("faults"), s3.with_bucket("faults"))
    try:
        yield service.start()
    finally:
        service.stop()


@pytest.fixture
def service(fault_service: Service) -> Service:
    fault_service.mend()
    return fault_service
