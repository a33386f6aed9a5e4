"""`retalking doctor` on healthy services, on broken ones, and without a service."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.doctor import NEED_REDIS, check_clock, check_kernels
from cli.keys import make_key
from cli.stack.redis_server import EmbeddedRedis
from jobs.opening import open_store
from jobs.settings import Settings
from jobs.store.keys import Scope
from tests.api.running import PREVIEW
from tests.cli.conftest import Ended
from tests.jobs.making import add_job, worker_info
from tests.services import S3Endpoint, free_port, own_database

Call = Callable[..., Ended]
NOT_REACHABLE = [("warning", "not reachable without Redis")]
Set = Callable[..., None]


@pytest.fixture
def configure(call: Call, monkeypatch: pytest.MonkeyPatch) -> Set:
    def configure(**settings: str) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(f"RETALKING_{name}", value)

    return configure


def look(call: Call, code: int) -> dict[str, list[dict[str, Any]]]:
    ended = call("doctor", "--json")
    assert ended.code == code, ended.out + ended.err
    findings: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(ended.out):
        findings.setdefault(row["subject"], []).append(row)
        assert row["remedy"] or row["state"] != "error", row
    return findings


def test_a_healthy_service(call: Call, configure: Set, redis_url: str, s3: S3Endpoint) -> None:
    url, s3 = own_database(redis_url), s3.with_bucket("doctor-ok")
    store = open_store(Settings(_env_file=None, redis_url=url))
    store.workers.report(worker_info("w").model_copy(update={"engines": [PREVIEW]}), 60)
    make_key(store, "someone", frozenset({Scope.READ}))
    s3_settings = {name.removeprefix("RETALKING_"): value for name, value in s3.env().items()}
    secret = "whsec_" + "A" * 44
    configure(REDIS_URL=url, REQUIRE_KEYS="true", LINK_SECRET="x" * 32, WEBHOOK_SECRET=secret, **s3_settings)
    findings = look(call, 0)
    for subject in ("redis", "redis persistence", "redis eviction", "clock", "objects", "presigned links", "keys"):
        assert [row["state"] for row in findings[subject]] == ["ok"], findings[subject]
    assert findings["objects"][0]["found"] == "can write, read, list, copy, delete"
    assert findings["workers"][0]["found"] == "1 live, offering preview"
    assert findings["weights"][0]["state"] == "warning"
    assert not s3.client().list_objects_v2(Bucket=s3.bucket, Prefix="health/").get("Contents")
    shown = call("doctor").out
    assert "redis persistence" in shown
    for hidden in (secret, s3.secret_access_key, url.split(":")[2].partition("@")[0]):
        assert hidden not in shown


def test_a_redis_that_loses_data(call: Call, configure: Set, tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server, redis.Redis.from_url(server.url) as client:
        configure(REDIS_URL=server.url)
        client.config_set("appendfsync", "everysec")
        assert look(call, 1)["redis persistence"][0]["state"] == "warning"
        client.config_set("appendonly", "no")
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", "3mb")
        findings = look(call, 1)
        assert findings["redis"][0]["found"].startswith("Valkey 9.")
        assert findings["redis persistence"][0]["state"] == "error"
        assert "appendonly yes" in findings["redis persistence"][0]["remedy"]
        assert findings["redis eviction"][0]["state"] == "error"
        assert "allkeys-lru" in findings["redis eviction"][0]["found"]


def test_what_is_missing_is_named(call: Call, configure: Set, redis_url: str, tmp_path: Path) -> None:
    url = own_database(redis_url)
    configure(
        REDIS_URL=url,
        REQUIRE_KEYS="true",
        ENGINE="videoretalking",
        LINK_SECRET="short",
        S3_BUCKET="nowhere",
        S3_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        S3_ACCESS_KEY_ID="id",
        S3_SECRET_ACCESS_KEY="very-hidden",
    )
    findings = look(call, 1)
    errors = {subject for subject, rows in findings.items() if any(row["state"] == "error" for row in rows)}
    assert errors >= {"keys", "workers", "link secret", "objects", "weights"}
    assert "retalking keys create" in findings["keys"][0]["remedy"]
    assert "cannot write" in findings["objects"][0]["found"]
    assert "very-hidden" not in json.dumps(findings)

    store = open_store(Settings(_env_file=None, redis_url=url))
    silent = datetime.now(UTC) - timedelta(minutes=5)
    store.workers.report(worker_info("w").model_copy(update={"polled_at": silent}), 60)
    assert "does not poll for jobs" in look(call, 1)["workers"][0]["found"]


def test_an_engine_that_the_workers_could_not_load(call: Call, configure: Set, redis_url: str) -> None:
    url = own_database(redis_url)
    store = open_store(Settings(_env_file=None, redis_url=url))
    card = worker_info("w").model_copy(update={"engines": [PREVIEW], "unavailable": {"another": "No sun."}})
    store.workers.report(card, 60)
    configure(REDIS_URL=url, ENGINE="another")
    findings = look(call, 1)
    (row,) = findings["workers"]
    assert (row["state"], row["remedy"]) == ("error", "No sun.")
    assert row["found"] == "1 live, and none offers the engine another; offered: preview"
    (row,) = findings["engine another"]
    assert row["state"] == "error"
    assert "No installed package declares" in row["remedy"]


def test_records_in_quarantine_are_listed(call: Call, configure: Set, redis_url: str) -> None:
    url = own_database(redis_url)
    configure(REDIS_URL=url)
    assert look(call, 1)["records"][0]["state"] == "ok"
    store = open_store(Settings(_env_file=None, redis_url=url))
    job = add_job(store, metadata={"secret": "of the caller"})
    store.redis.client.hset(f"{{retalking}}:job:{job.id}", "spec", "{")
    assert store.jobs.unsent(0.0) == []
    (finding,) = look(call, 1)["records"]
    assert finding["state"] == "warning"
    assert finding["found"] == f"1 in quarantine: job {job.id} (JobSpec: json_invalid)"
    assert "DELETE /quarantine" in finding["remedy"]


def test_no_redis_at_all(call: Call, configure: Set) -> None:
    configure(REDIS_URL=f"redis://:hidden@127.0.0.1:{free_port()}/0")
    findings = look(call, 1)
    assert findings["redis"][0]["found"] == "does not answer (ConnectionError)"
    for subject in NEED_REDIS:
        assert [(row["state"], row["found"]) for row in findings[subject]] == NOT_REACHABLE
    assert findings["objects"][0]["state"] == "ok", "the other checks run all the same"
    assert "hidden" not in json.dumps(findings)


def test_without_a_service_it_names_what_it_could_not_reach(call: Call, tmp_path: Path) -> None:
    findings = look(call, 1)
    assert findings["redis"][0]["found"].startswith("not reachable: RETALKING_REDIS_URL is not set, and no `retalking")
    assert "retalking up" in findings["redis"][0]["remedy"]
    for subject in NEED_REDIS:
        assert [(row["state"], row["found"]) for row in findings[subject]] == NOT_REACHABLE
    assert findings["objects"][0]["found"] == "not reachable: there is no data folder data"
    for subject in ("link secret", "webhook secret", "disk", "weights", "cuda"):
        assert findings[subject], "needs no service"
    assert list(tmp_path.iterdir()) == [], "looking leaves nothing behind"


def test_one_line_says_whether_the_neural_engine_would_run(call: Call, tmp_path: Path, configure: Set) -> None:
    from retalking_core.weights.table import ENGINE_WEIGHTS, WEIGHT_FILES

    for name in ENGINE_WEIGHTS[1:]:
        (tmp_path / WEIGHT_FILES[name].file).touch()
    configure(MODELS_DIR=str(tmp_path))
    (row,) = look(call, 1)["engine videoretalking"]
    assert WEIGHT_FILES[ENGINE_WEIGHTS[0]].file in row["remedy"]
    assert not any(WEIGHT_FILES[name].file in row["remedy"] for name in ENGINE_WEIGHTS[1:])
    import torch

    assert ("CUDA" in row["remedy"]) != torch.cuda.is_available(), "everything that is missing, not the first thing"


def test_the_objects_of_a_stopped_service_are_checked(call: Call, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    ended = call("doctor", "--json", "--data", str(tmp_path / "kept"))
    assert ended.code == 1, ended.err
    findings = {row["subject"]: row for row in json.loads(ended.out)}
    assert str(tmp_path / "kept") in findings["redis"]["found"]
    assert findings["objects"]["found"] == "can write, read, list, copy, delete"


@pytest.mark.parametrize(("hours", "state"), [(0, "ok"), (1, "error")])
def test_the_clock(redis_url: str, monkeypatch: pytest.MonkeyPatch, hours: int, state: str) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600 * hours)
    with redis.Redis.from_url(redis_url) as client:
        assert check_clock(client).state == state


def test_a_broken_engine_plug_in_is_named(
    call: Call, configure: Set, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "installed" / "wrong-2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[retalking.engines]\nbroken = no_such_module_of_test:PLUGIN\n")
    monkeypatch.syspath_prepend(str(info.parent))
    configure(REDIS_URL=own_database(redis_url))
    findings = look(call, 1)
    (row,) = findings["engine broken"]
    assert row["state"] == "error"
    assert "wrong 2.0" in row["found"]
    assert "no_such_module_of_test" in row["found"]
    assert findings["engine preview"][0]["state"] == "ok"
    assert findings["engine videoretalking"][0]["state"] == "warning"


def test_the_state_of_compiled_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from retalking_core.networks import kernels

    cache = kernels.KernelCache(tmp_path / "compiled", torch.device("cpu"), 16)
    settings = Settings(_env_file=None)
    monkeypatch.setattr(kernels, "missing_build_tools", lambda: None)
    assert check_kernels(settings, cache).state == "ok"
    monkeypatch.setattr(kernels, "missing_build_tools", lambda: "There is no C compiler.")
    found = check_kernels(settings, cache)
    assert (found.state, found.remedy.startswith("There is no C compiler.")) == ("warning", True)
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "broken.zip").write_bytes(b"PK")
    found = check_kernels(settings.model_copy(update={"kernels_dir": tmp_path / "bundles"}), cache)
    assert found.state == "warning"
    assert "broken.zip is damaged" in found.remedy
    for name in kernels.compiled_names():
        cache.mark(name)
    cache.write_bundle(tmp_path / "bundles", kernels.compiled_names())
    assert check_kernels(settings, cache).state == "ok"
    other = kernels.KernelCache(tmp_path / "other", torch.device("cpu"), 16)
    found = check_kernels(settings.model_copy(update={"kernels_dir": tmp_path / "bundles"}), other)
    assert found.state == "ok"
    assert cache.bundle_name in found.found
