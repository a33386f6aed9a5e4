"""The embedded Redis: behind a password, durable, alone on its folder, gone when stopped."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import redis

from cli.redis_server import EmbeddedRedis, RedisServerError
from tests.services import free_port, is_listening


def test_it_needs_its_password_and_keeps_it_from_the_command_line(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server:
        assert redis.Redis.from_url(server.url).ping()
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=server.port, retry=None).ping()
        password = server.url.partition(":")[2].partition("@")[0].rpartition(":")[2]
        command = Path(f"/proc/{server.pid}/cmdline")
        if command.exists():
            assert password.encode() not in command.read_bytes()
        assert stat.S_IMODE((tmp_path / "secrets" / "redis_password").stat().st_mode) == 0o600


def test_a_restart_keeps_data_and_address(tmp_path: Path) -> None:
    port = free_port()
    first = EmbeddedRedis(tmp_path, port=port)
    client = redis.Redis.from_url(first.url)
    client.set("a", "kept")
    first.stop()
    first.stop()
    assert not is_listening(port)
    with EmbeddedRedis(tmp_path, port=port) as second:
        assert second.url == first.url
        assert client.get("a") == b"kept"


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    redis.Redis.from_url(server.url).set("a", "kept")
    server._process.kill()
    server._process.wait()
    server.stop()
    with EmbeddedRedis(tmp_path) as second:
        assert redis.Redis.from_url(second.url).get("a") == b"kept"


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, pytest.raises(RedisServerError, match=f"process {server.pid}"):
        EmbeddedRedis(tmp_path)
    EmbeddedRedis(tmp_path).stop()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "a") as server:
        with pytest.raises(RedisServerError, match="in use"):
            EmbeddedRedis(tmp_path / "b", port=server.port)
        EmbeddedRedis(tmp_path / "b").stop()


def test_a_path_with_odd_characters_is_only_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "a \"b\" $HOME; 'c' #"
    with EmbeddedRedis(folder) as server:
        redis.Redis.from_url(server.url).set("a", "b")
    assert list((folder / "appendonlydir").glob("appendonly.aof.*.incr.aof"))
