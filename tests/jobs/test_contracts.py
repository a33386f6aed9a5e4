"""Implementations match the protocols of the object store, and settings select the right one."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.local_objects import LocalObjectStore, LocalObjectWriter
from jobs.objects import ObjectStore, ObjectWriter
from jobs.opening import open_objects, open_store
from jobs.s3_objects import S3ObjectStore, S3ObjectWriter
from jobs.settings import Settings
from tests.services import S3Endpoint


@pytest.mark.parametrize(
    ("protocol", "implementation"),
    [
        (ObjectStore, LocalObjectStore),
        (ObjectStore, S3ObjectStore),
        (ObjectWriter, LocalObjectWriter),
        (ObjectWriter, S3ObjectWriter),
    ],
)
def test_signatures_agree(protocol: type, implementation: type) -> None:
    promised = {name for name, member in vars(protocol).items() if inspect.isfunction(member)}
    promised -= {"__init__", "__subclasshook__"}  # made by typing.Protocol
    assert promised
    for name in promised:
        expected = inspect.signature(getattr(protocol, name)).parameters.values()
        given = inspect.signature(getattr(implementation, name)).parameters.values()
        assert [(p.name, p.kind, p.default) for p in given] == [(p.name, p.kind, p.default) for p in expected], name


def test_settings_open_the_stores(redis_url: str, s3: S3Endpoint, tmp_path: Path, monkeypatch) -> None:
    local = Settings(_env_file=None, redis_url=redis_url, data_dir=tmp_path, retention_s=77)
    store = open_store(local)
    store.ping()
    assert store.jobs.retention_s == 77
    assert isinstance(open_objects(local), LocalObjectStore)
    assert (tmp_path / "objects" / "files").is_dir()
    for name, value in s3.env().items():
        monkeypatch.setenv(name, value)
    bucket = open_objects(Settings(_env_file=None, data_dir=tmp_path))
    assert isinstance(bucket, S3ObjectStore)
    bucket.check()


def test_the_package_needs_no_server_framework_and_no_media() -> None:
    code = (
        "import sys, importlib, pkgutil, jobs\n"
        "for module in pkgutil.walk_packages(jobs.__path__, 'jobs.'): importlib.import_module(module.name)\n"
        "found = {'fastapi', 'starlette', 'torch', 'numpy', 'cv2', 'av', 'httpx'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
