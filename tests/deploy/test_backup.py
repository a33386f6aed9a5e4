"""docs/backup.md, run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from cli.keys import make_key
from cli.redis_server import EmbeddedRedis, redis_server_binary
from jobs.api_keys import Scope, key_id_of
from jobs.models import JobStatus
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from tests.jobs.making import HOOK, add_job, claim, result_of, start_job, succeed

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backup.md"


def run_block(number: int, data: Path, backup: Path) -> None:
    script = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[number]
    path = f"{redis_server_binary().parent}:{os.environ['PATH']}"
    variables = {"PATH": path, "DATA": str(data), "BACKUP": str(backup), "TMPDIR": "/tmp"}
    done = subprocess.run(
        ["sh", "-eu", "-c", script], env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def settings_of(data: Path, redis: EmbeddedRedis) -> Settings:
    return Settings(_env_file=None, redis_url=redis.url, data_dir=data)


def test_what_was_there_is_there_again(tmp_path: Path) -> None:
    data, backup, restored = tmp_path / "data", tmp_path / "backup", tmp_path / "restored"
    backup.mkdir()
    (data / "secrets").mkdir(parents=True)
    (data / "secrets" / "link_secret").write_text("s" * 64)
    with EmbeddedRedis(data / "redis") as redis:
        settings = settings_of(data, redis)
        store, objects = open_store(settings), open_objects(settings)
        waiting = [add_job(store, priority=priority).id for priority in (0, 2)]
        lease = start_job(store, webhook_url=HOOK)
        done = succeed(store, lease)
        with objects.writer(result_of(lease).key, "video/mp4") as writer:
            writer.write(b"a result")
            writer.commit()
        in_work = start_job(store, lease_s=0.01).job_id
        key = make_key(store, "someone", frozenset({Scope.READ}))
        run_block(0, data, backup)
        add_job(store)  # after the backup
    assert backup.joinpath("dump.rdb").stat().st_mode & 0o077 == 0

    restored.mkdir()
    run_block(1, restored, backup)
    for _ in range(2):  # and it is on the disk as it should be: a second start finds the same
        with EmbeddedRedis(restored / "redis") as redis:
            settings = settings_of(restored, redis)
            store, objects = open_store(settings), open_objects(settings)
            jobs = store.list_jobs(status=None, cursor=None, limit=10).jobs
            assert {job.id for job in jobs} == {*waiting, done.id, in_work}
            assert store.queue_position(waiting[1]) == 1
            assert store.get(done.id).result == done.result
            assert b"".join(objects.read(done.result.key)) == b"a result"
            assert store.find_key(str(key_id_of(key))).matches(key)
            assert store.due_deliveries()
            assert redis._client().config_get("appendonly")["appendonly"] == "yes"
    assert (restored / "secrets" / "link_secret").read_text() == "s" * 64
    with EmbeddedRedis(restored / "redis") as redis:
        store = open_store(settings_of(restored, redis))
        assert [job.id for job in store.requeue_lost()] == [in_work]
        assert claim(store, waiting[1]).attempt == 1
        assert store.get(in_work).status is JobStatus.QUEUED
