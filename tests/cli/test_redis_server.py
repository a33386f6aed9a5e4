"""The embedded Redis: password, durability, one server per folder, clean stop."""

from __future__ import annotations

import re
import shutil
import stat
from pathlib import Path

import pytest
import redis

from cli.stack.redis_server import EmbeddedRedis, RedisServerError, redis_server_binary, server_version
from tests.services import free_port, is_listening

# Written by Redis 6.2.14, the server of earlier releases: keys of every type, a rewrite (from then on a binary part
# leads the file), more writes and a script, then SIGKILL.
OLD_FILE = Path(__file__).with_name("redis-6.2.aof")
OLD_LAST_COMMAND = b"*3\r\n$9\r\nPEXPIREAT\r\n"


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


def test_acknowledged_writes_survive_a_kill(tmp_path: Path) -> None:
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


def test_a_path_may_contain_special_characters(tmp_path: Path) -> None:
    folder = tmp_path / "a \"b\" $HOME; 'c' #"
    with EmbeddedRedis(folder) as server:
        redis.Redis.from_url(server.url).set("a", "b")
    assert list((folder / "appendonlydir").glob("appendonly.aof.*.incr.aof"))


def test_the_data_of_a_server_with_a_single_append_only_file_is_migrated(tmp_path: Path) -> None:
    shutil.copyfile(OLD_FILE, tmp_path / "appendonly.aof")
    for _ in range(2):  # the second start reads what the first one made of it
        with EmbeddedRedis(tmp_path) as server:
            assert_old_data(redis.Redis.from_url(server.url, decode_responses=True))
            redis.Redis.from_url(server.url).set("new", "too")
    with EmbeddedRedis(tmp_path) as server:
        client = redis.Redis.from_url(server.url, decode_responses=True)
        assert client.pexpiretime("later") == 7258118400000
        assert client.get("new") == "too"
        assert client.dbsize() == 11
    assert not (tmp_path / "appendonly.aof").exists()


def test_an_old_file_that_ends_within_a_command_loses_that_command_only(tmp_path: Path) -> None:
    """As a machine that lost its power leaves it: the last write was not answered."""
    whole = OLD_FILE.read_bytes()
    (tmp_path / "appendonly.aof").write_bytes(whole[: whole.rindex(OLD_LAST_COMMAND) + 12])
    for _ in range(2):
        with EmbeddedRedis(tmp_path) as server:
            client = redis.Redis.from_url(server.url, decode_responses=True)
            assert_old_data(client)
            assert client.pttl("later") == -1


def assert_old_data(client: redis.Redis) -> None:
    assert client.get("string") == "before the rewrite"
    assert client.hgetall("hash") == {"status": "running", "metadata": '{"title": "Füße"}'}
    assert client.lrange("list", 0, -1) == [str(number) for number in range(300)]
    assert client.smembers("set") == {"a", "b"}
    assert client.smembers("numbers") == {str(number) for number in range(20)}
    scores = [("one", 1.0), ("two", 2.5), ("script", 7.0), ("last", float("inf"))]
    assert client.zrange("zset", 0, -1, withscores=True) == scores
    assert client.zscore("large", "member-199") == 199.0
    assert client.zcard("large") == 200
    assert client.xrange("stream") == [("1-1", {"event": "created"}), ("2-1", {"event": "started"})]
    assert client.xinfo_groups("stream")[0]["name"] == "group"
    assert client.get("after") == "the rewrite"
    assert client.get("later") == "expires in 2200"


def test_the_server_states_its_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", server_version(redis_server_binary()))
