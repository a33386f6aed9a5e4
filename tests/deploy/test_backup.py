"""docs/backup.md, run as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

from cli.keys import make_key
from cli.stack.redis_server import EmbeddedRedis
from jobs.models import JobStatus
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from jobs.store.keys import Scope, key_id_of
from tests.jobs.making import HOOK, add_job, claim, result_of, start_job, succeed
from tests.services import wait_until

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backup.md"


def run_block(number: int, data: Path, backup: Path, path: str = os.environ["PATH"]) -> None:
    script = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[number]
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
    assert backup.joinpath("redis", "appendonlydir").stat().st_mode & 0o077 == 0

    restored.mkdir()
    run_block(1, restored, backup)
    for _ in range(2):  # and it is on the disk as it should be: a second start finds the same
        with EmbeddedRedis(restored / "redis") as redis:
            settings = settings_of(restored, redis)
            store, objects = open_store(settings), open_objects(settings)
            jobs = store.jobs.page(status=None, cursor=None, limit=10).jobs
            assert {job.id for job in jobs} == {*waiting, done.id, in_work}
            assert store.jobs.queue_position(waiting[1]) == 1
            assert store.jobs.get(done.id).result == done.result
            assert b"".join(objects.read(done.result.key)) == b"a result"
            assert store.keys.find(str(key_id_of(key))).matches(key)
            assert store.webhooks.due()
            assert redis._client().config_get("appendonly")["appendonly"] == "yes"
    assert (restored / "secrets" / "link_secret").read_text() == "s" * 64
    with EmbeddedRedis(restored / "redis") as redis:
        store = open_store(settings_of(restored, redis))
        assert [job.id for job in store.jobs.requeue_lost()] == [in_work]
        assert claim(store, waiting[1]).attempt == 1
        assert store.jobs.get(in_work).status is JobStatus.QUEUED


def test_a_backup_while_the_file_is_rewritten_is_made_again(tmp_path: Path) -> None:
    """`cp` is held until Redis has rewritten its file: what the first copy took belongs to two generations."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    for folder in (data / "objects", data / "secrets", backup, tmp_path / "bin"):
        folder.mkdir(parents=True)
    with EmbeddedRedis(data / "redis") as redis:
        client = redis._client()
        for number in range(100):
            client.set(f"key-{number}", "x" * 1000)
        manifest = data / "redis" / "appendonlydir" / "appendonly.aof.manifest"
        before = manifest.read_text()
        waited = tmp_path / "waited"
        slow_cp = tmp_path / "bin" / "cp"
        slow_cp.write_text(
            f"#!/bin/sh\nset -e\nPATH={os.environ['PATH']}\n"
            f"case $1 in -a) [ -e {waited} ] || {{ touch {waited}; while cmp -s {manifest} {backup}/redis/before; "
            'do sleep 0.05; done; };; esac\nexec cp "$@"\n'
        )
        slow_cp.chmod(0o755)
        rewrite = threading.Thread(target=lambda: (wait_until(waited.exists, 20), client.bgrewriteaof()))
        rewrite.start()
        run_block(0, data, backup, f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        rewrite.join()
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], 20)
        assert manifest.read_text() != before
    assert not (backup / "redis" / "before").exists()
    run_block(1, tmp_path / "restored", backup)
    with EmbeddedRedis(tmp_path / "restored" / "redis") as redis:
        assert redis._client().dbsize() == 100


def test_a_dump_of_earlier_backups_is_taken_over(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "old") as redis:
        redis._client().mset({f"key-{number}": "kept" for number in range(100)})
        redis._client().save()
    (tmp_path / "new").mkdir()
    shutil.copyfile(tmp_path / "old" / "dump.rdb", tmp_path / "new" / "appendonly.aof")
    for _ in range(2):
        with EmbeddedRedis(tmp_path / "new") as redis:
            assert redis._client().dbsize() == 100
            assert redis._client().get("key-99") == b"kept"
