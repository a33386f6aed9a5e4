"""One contract suite over both object stores: a folder, and a bucket behind a real S3 endpoint."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import re
import secrets
import threading
import tracemalloc
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from jobs.local_objects import LocalObjectStore
from jobs.objects import (
    InvalidKeyError,
    ObjectInfo,
    ObjectNotFoundError,
    ObjectStore,
    ObjectStoreError,
    ObjectStoreFullError,
    ObjectTooLargeError,
)
from jobs.s3_objects import PART_BYTES, S3ObjectStore
from tests.services import S3Endpoint, free_port


def open_s3(s3: S3Endpoint, **changes: str) -> S3ObjectStore:
    settings = {
        "endpoint": s3.endpoint,
        "region": s3.region,
        "access_key_id": s3.access_key_id,
        "secret_access_key": s3.secret_access_key,
    }
    return S3ObjectStore(s3.bucket, **(settings | changes))


@pytest.fixture(scope="session")
def s3_objects(s3: S3Endpoint) -> S3ObjectStore:
    return open_s3(s3)


@pytest.fixture(params=["local", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "local":
        return LocalObjectStore(tmp_path / "objects")
    return request.getfixturevalue("s3_objects")


@pytest.fixture
def folder() -> str:
    """A key prefix per test: the bucket is shared."""
    return f"t{secrets.token_hex(6)}/"


def put(objects: ObjectStore, key: str, data: bytes, content_type: str = "video/mp4") -> ObjectInfo:
    with objects.writer(key, content_type) as writer:
        writer.write(data)
        return writer.commit()


def read(objects: ObjectStore, key: str, *bounds: int) -> bytes:
    return b"".join(objects.read(key, *bounds))


def test_written_bytes_are_read_back(objects: ObjectStore, folder: str) -> None:
    info = put(objects, folder + "a", b"hello world")
    assert info == objects.info(folder + "a") == ObjectInfo(11, "video/mp4")
    assert read(objects, folder + "a") == b"hello world"
    assert read(objects, folder + "a", 6) == b"world"
    assert read(objects, folder + "a", 2, 5) == b"llo"
    assert read(objects, folder + "a", 6, 99) == b"world"
    assert read(objects, folder + "a", 11) == b""
    assert [len(chunk) for chunk in objects.read(folder + "a", chunk_bytes=4)] == [4, 4, 3]


def test_an_empty_object_exists(objects: ObjectStore, folder: str) -> None:
    assert put(objects, folder + "empty", b"").size_bytes == 0
    assert objects.info(folder + "empty").size_bytes == 0
    assert read(objects, folder + "empty") == b""


@pytest.mark.parametrize("size", [PART_BYTES, 2 * PART_BYTES + 12345])
def test_large_objects_are_read_back_completely(objects: ObjectStore, folder: str, tmp_path: Path, size: int) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(secrets.token_bytes(size))
    assert objects.put_file(folder + "big", source, "video/mp4").size_bytes == size
    assert objects.fetch(folder + "big", back) == ObjectInfo(size, "video/mp4")
    assert back.read_bytes() == source.read_bytes()
    assert (
        read(objects, folder + "big", PART_BYTES - 5, PART_BYTES + 5)
        == source.read_bytes()[PART_BYTES - 5 : PART_BYTES + 5]
    )
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["back", "source"]


def test_writing_needs_constant_memory(objects: ObjectStore, folder: str) -> None:
    """64 MiB in 1 MiB chunks: the peak stays near one part (and its copy), far from the size of the object."""
    chunk = secrets.token_bytes(1 << 20)
    put(objects, folder + "warm", chunk)
    tracemalloc.start()
    try:
        with objects.writer(folder + "big", "video/mp4") as writer:
            for _ in range(64):
                writer.write(chunk)
            assert writer.commit().size_bytes == 64 << 20
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * PART_BYTES, peak_bytes
    digest = hashlib.sha256()
    for part in objects.read(folder + "big"):
        digest.update(part)
    assert digest.hexdigest() == hashlib.sha256(chunk * 64).hexdigest()


@pytest.mark.parametrize("size", [100, PART_BYTES + 100])
def test_uncommitted_writes_are_invisible_and_discarded(objects: ObjectStore, folder: str, size: int) -> None:
    with objects.writer(folder + "a") as writer:
        writer.write(b"x" * size)
        with pytest.raises(ObjectNotFoundError):
            objects.info(folder + "a")
    with pytest.raises(ObjectNotFoundError):
        objects.info(folder + "a")
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"late")
    with contextlib.suppress(RuntimeError), objects.writer(folder + "b") as writer:
        writer.write(b"x" * size)
        raise RuntimeError("the source broke off")
    assert list(objects.list_keys(folder)) == []


def test_an_object_is_replaced_atomically(objects: ObjectStore, folder: str) -> None:
    put(objects, folder + "a", b"first, and longer")
    put(objects, folder + "a", b"second")
    assert read(objects, folder + "a") == b"second"


def test_missing_objects_raise_not_found(objects: ObjectStore, folder: str, tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFoundError):
        objects.info(folder + "nothing")
    with pytest.raises(ObjectNotFoundError):
        objects.read(folder + "nothing")
    with pytest.raises(ObjectNotFoundError):
        objects.fetch(folder + "nothing", tmp_path / "out")
    with pytest.raises(ObjectNotFoundError):
        objects.copy(folder + "nothing", folder + "b")
    objects.delete(folder + "nothing")
    assert objects.delete_prefix(folder) == 0
    assert not (tmp_path / "out").exists()


def test_fetch_refuses_objects_that_are_too_large(objects: ObjectStore, folder: str, tmp_path: Path) -> None:
    put(objects, folder + "a", b"x" * 101)
    with pytest.raises(ObjectTooLargeError, match="101 bytes; 100 are allowed"):
        objects.fetch(folder + "a", tmp_path / "out", max_bytes=100)
    assert not (tmp_path / "out").exists()
    assert objects.fetch(folder + "a", tmp_path / "out", max_bytes=101).size_bytes == 101


def test_copies_are_independent(objects: ObjectStore, folder: str) -> None:
    put(objects, folder + "a", b"original", "audio/wav")
    assert objects.copy(folder + "a", folder + "sub/b") == ObjectInfo(8, "audio/wav")
    assert objects.copy(folder + "a", folder + "sub/b").size_bytes == 8
    put(objects, folder + "a", b"changed")
    assert read(objects, folder + "sub/b") == b"original"
    objects.delete(folder + "a")
    assert read(objects, folder + "sub/b") == b"original"


def test_listing_and_deleting_by_prefix(objects: ObjectStore, folder: str) -> None:
    keys = [f"{folder}jobs/j1/a", f"{folder}jobs/j1/deep/b", f"{folder}jobs/j12/c", f"{folder}other"]
    for key in keys:
        put(objects, key, b"x")
    assert sorted(objects.list_keys(folder)) == keys
    assert sorted(objects.list_keys(f"{folder}jobs/j1")) == keys[:3]
    assert objects.delete_prefix(f"{folder}jobs/j1/") == 2
    assert sorted(objects.list_keys(folder)) == keys[2:]
    objects.delete(keys[2])
    assert sorted(objects.list_keys(folder)) == keys[3:]


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "../a", "a/../b", "a/..", ".", "a/.hidden", "a\\b", "a b", "a\x00b", "a\nb", "ä", "a:b",
     "~a", "a%2e", "C:/a", "a" * 513],
)  # fmt: skip
def test_hostile_keys_are_refused_everywhere(objects: ObjectStore, tmp_path: Path, key: str) -> None:
    (tmp_path / "source").write_bytes(b"x")
    for use in (
        lambda: objects.writer(key),
        lambda: objects.put_file(key, tmp_path / "source", "a/b"),
        lambda: objects.fetch(key, tmp_path / "out"),
        lambda: objects.read(key),
        lambda: objects.info(key),
        lambda: objects.copy("good", key),
        lambda: objects.copy(key, "good"),
        lambda: objects.delete(key),
    ):
        with pytest.raises(InvalidKeyError):
            use()


def test_the_whole_store_cannot_be_deleted_at_once(objects: ObjectStore) -> None:
    for prefix in ("", "/", "jobs", "../"):
        with pytest.raises(InvalidKeyError):
            objects.delete_prefix(prefix)


def test_check_passes_for_a_writable_store(objects: ObjectStore) -> None:
    objects.check()


def test_presigned_links_serve_without_us(s3: S3Endpoint, folder: str) -> None:
    objects = open_s3(s3)
    put(objects, folder + "a", b"0123456789")
    link = objects.presign_get(folder + "a", 60, "job_1.mp4")
    request = urllib.request.Request(link, headers={"Range": "bytes=2-4"})
    with urllib.request.urlopen(request) as answer:
        assert answer.read() == b"234"
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"0123456789"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(link.replace("X-Amz-Signature=", "X-Amz-Signature=0"))
    with refused.value:  # it holds the connection
        assert refused.value.code == 403
    assert "response-content-disposition=attachment%3B%20filename%3D%22job_1.mp4%22" in link
    assert "response-content-type=video%2Fmp4" in link

    put_link = objects.presign_put(folder + "up", 60)
    request = urllib.request.Request(put_link, data=b"uploaded", method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    assert read(objects, folder + "up") == b"uploaded"


def test_presigned_links_expire_and_cannot_be_altered(s3: S3Endpoint, folder: str) -> None:
    objects = open_s3(s3)
    for name in ("mine", "other"):
        put(objects, folder + name, b"0123456789")
    link, put_link = objects.presign_get(folder + "mine", 60, "a.mp4"), objects.presign_put(folder + "mine", 60)
    brief = objects.presign_get(folder + "mine", 1, "a.mp4")

    def status(url: str, method: str = "GET") -> int:
        request = urllib.request.Request(url, method=method, data=b"changed" if method == "PUT" else None)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status
        except urllib.error.HTTPError as refused:
            with refused:  # it holds the connection
                return refused.code

    assert status(link) == status(brief) == 200
    for altered in (
        link.replace("/mine?", "/other?"),
        link.replace("X-Amz-Expires=60", "X-Amz-Expires=6000"),
        re.sub(r"X-Amz-Date=\d{8}", "X-Amz-Date=20380101", link),
        link.replace("a.mp4", "b.mp4"),
    ):
        assert altered != link
        assert status(altered) == 403, altered
    assert status(link.partition("?")[0]) in (400, 403), "without any signature"
    assert status(link, "PUT") == status(put_link) == 403, "each is good for one method"
    assert status(put_link.replace("/mine?", "/other?"), "PUT") == 403
    assert read(objects, folder + "mine") == read(objects, folder + "other") == b"0123456789"
    # rclone's server goes on serving a link past its end: that it ends is the store's part, that it says when is ours
    assert "X-Amz-Expires=1&" in brief


def test_presigned_links_carry_the_public_address(s3: S3Endpoint) -> None:
    objects = open_s3(s3, public_endpoint="https://files.example.com")
    assert objects.presign_get("a/b", 60, "x.mp4").startswith(f"https://files.example.com/{s3.bucket}/a/b?")
    assert objects.presign_put("a/b", 60).startswith(f"https://files.example.com/{s3.bucket}/a/b?")


def test_the_folder_has_no_presigned_links(tmp_path: Path) -> None:
    objects = LocalObjectStore(tmp_path)
    assert objects.presign_get("a", 60, "a.mp4") is None
    assert objects.presign_put("a", 60) is None


def test_deleting_a_folder_aborts_its_unfinished_uploads(s3: S3Endpoint) -> None:
    """A process died during a large upload: its parts are stored, but not listed."""
    objects, client = open_s3(s3), s3.client()
    ids = {}
    for key in ("jobs/dead/input/video", "jobs/alive/input/video"):
        ids[key] = client.create_multipart_upload(Bucket=s3.bucket, Key=key)["UploadId"]
        client.upload_part(Bucket=s3.bucket, Key=key, UploadId=ids[key], PartNumber=1, Body=b"x" * 100)
    objects.delete_prefix("jobs/dead/")
    left = [row["Key"] for row in client.list_multipart_uploads(Bucket=s3.bucket)["Uploads"]]
    assert left == ["jobs/alive/input/video"]
    client.abort_multipart_upload(
        Bucket=s3.bucket, Key="jobs/alive/input/video", UploadId=ids["jobs/alive/input/video"]
    )
    objects.delete_prefix("jobs/alive/")


def test_an_unreachable_or_refusing_bucket_is_reported(s3: S3Endpoint, tmp_path: Path) -> None:
    for objects in (
        open_s3(s3, endpoint=f"http://127.0.0.1:{free_port()}"),
        open_s3(s3, secret_access_key="wrong"),
    ):
        with pytest.raises(ObjectStoreError):
            objects.check()
        with pytest.raises(ObjectStoreError):
            put(objects, "a/b", b"x")


def test_a_read_only_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("a file in the way")
    with pytest.raises((ObjectStoreError, ObjectNotFoundError)):
        LocalObjectStore(tmp_path / "objects")


def test_leftovers_of_dead_writers_are_removed(tmp_path: Path) -> None:
    LocalObjectStore(tmp_path)
    old, fresh = tmp_path / "new" / "old", tmp_path / "new" / "fresh"
    old.write_bytes(b"x")
    fresh.write_bytes(b"x")
    os.utime(old, (1, 1))
    LocalObjectStore(tmp_path)
    assert not old.exists()
    assert fresh.exists()


@pytest.mark.parametrize(
    ("status", "code"),
    [(507, "XMinioStorageFull"), (507, ""), (403, "QuotaExceeded"), (400, "XMinioAdminBucketQuotaExceeded")],
)
def test_a_full_bucket_is_reported(tmp_path: Path, status: int, code: str) -> None:
    """Servers report it in different ways: S3 itself defines none."""

    class Full(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = f"<Error><Code>{code}</Code><Message>no room</Message></Error>".encode() if code else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Full) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            endpoint = f"http://127.0.0.1:{server.server_address[1]}"
            objects = S3ObjectStore("b", endpoint=endpoint, access_key_id="a", secret_access_key="b")
            with pytest.raises(ObjectStoreFullError):
                put(objects, "k", b"data")
            with pytest.raises(ObjectStoreFullError):
                objects.check()
        finally:
            server.shutdown()
            thread.join()
