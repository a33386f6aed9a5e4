"""Object store in an S3-compatible bucket."""

from __future__ import annotations

import logging
import mimetypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

from jobs.objects import (
    ObjectInfo,
    ObjectNotFoundError,
    ObjectStore,
    ObjectStoreError,
    ObjectStoreFullError,
    attachment_header,
    checked_folder,
    checked_key,
    checked_prefix,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_log = logging.getLogger(__name__)

# S3 takes parts from 5 MiB and 10,000 of them: 8 MiB parts reach 78 GiB in 8 MiB of memory
PART_BYTES = 8 << 20
# An interrupted body is resumed where it stopped; botocore retries only before the first byte
READ_ATTEMPTS = 4
_NOT_FOUND = {"404", "NoSuchKey", "NotFound"}
# S3 itself is never full, so each implementation has its own code: MinIO's disk and quota, Ceph's quota, others.
# Answers without a code are identified by their status.
_FULL = {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientStorage", "507"}
_INSUFFICIENT_STORAGE = 507


@contextmanager
def _s3_errors_named(key: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _NOT_FOUND:
            raise ObjectNotFoundError(f"There is no object {key}") from None
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code in _FULL or status == _INSUFFICIENT_STORAGE:
            raise ObjectStoreFullError(f"{key}: the object store is full ({code or status})") from error
        raise ObjectStoreError(f"{key}: the object store refused with {code or 'no code'}") from error
    except BotoCoreError as error:
        raise ObjectStoreError(f"{key}: the object store is unreachable ({type(error).__name__})") from error


class S3ObjectWriter:
    """Buffers one part. A small object is one PUT, a larger one a multipart upload, aborted unless committed."""

    def __init__(self, client: S3Client, bucket: str, key: str, content_type: str) -> None:
        self._client, self._bucket, self._key = client, bucket, key
        self._content_type = content_type
        self._buffer = bytearray()
        self._size_bytes = 0
        self._upload_id: str | None = None
        self._parts: list[CompletedPartTypeDef] = []
        self._is_open = True

    def write(self, chunk: bytes) -> None:
        if not self._is_open:
            raise ValueError("The writer is closed")
        self._size_bytes += len(chunk)
        view = memoryview(chunk)
        while view:
            taken = min(len(view), PART_BYTES - len(self._buffer))
            self._buffer += view[:taken]
            view = view[taken:]
            if len(self._buffer) == PART_BYTES:
                self._send_part()

    def _send_part(self) -> None:
        with _s3_errors_named(self._key):
            if self._upload_id is None:
                upload = self._client.create_multipart_upload(
                    Bucket=self._bucket, Key=self._key, ContentType=self._content_type
                )
                self._upload_id = upload["UploadId"]
            number = len(self._parts) + 1
            reply = self._client.upload_part(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._upload_id,
                PartNumber=number,
                Body=bytes(self._buffer),
            )
            self._parts.append({"PartNumber": number, "ETag": reply["ETag"]})
            self._buffer.clear()

    def commit(self) -> ObjectInfo:
        if not self._is_open:
            raise ValueError("The writer is closed")
        with _s3_errors_named(self._key):
            if self._upload_id is None:
                self._client.put_object(
                    Bucket=self._bucket, Key=self._key, Body=bytes(self._buffer), ContentType=self._content_type
                )
            else:
                if self._buffer:
                    self._send_part()
                self._client.complete_multipart_upload(
                    Bucket=self._bucket, Key=self._key, UploadId=self._upload_id, MultipartUpload={"Parts": self._parts}
                )
                self._upload_id = None
        self._is_open = False
        return ObjectInfo(self._size_bytes, self._content_type)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_open = False
        self._buffer.clear()
        if self._upload_id is not None:
            upload_id, self._upload_id = self._upload_id, None
            try:
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=upload_id)
            except (ClientError, BotoCoreError) as error:
                # Nothing is visible either way, and the exception that led here matters more
                _log.warning("%s: parts of an aborted upload are left: %s", self._key, type(error).__name__)


class S3ObjectStore(ObjectStore):
    """Implements jobs.objects.ObjectStore on a bucket. Thread-safe; keep one per process."""

    def __init__(
        self,
        bucket: str,
        *,
        endpoint: str = "",
        public_endpoint: str = "",
        region: str = "us-east-1",
        access_key_id: str = "",
        secret_access_key: str = "",
    ) -> None:
        """endpoint: empty: AWS. public_endpoint: for presigned links, if callers reach the store at another address.
        access_key_id: empty: the standard AWS credential chain."""
        session = boto3.session.Session(
            aws_access_key_id=access_key_id or None,
            aws_secret_access_key=secret_access_key or None,
            region_name=region,
        )
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"mode": "standard", "max_attempts": 4},
            connect_timeout=5,
            read_timeout=30,
            max_pool_connections=32,
            # The newer default checksums are trailers that many S3-compatible stores do not support
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        self._bucket = bucket
        self._client = session.client("s3", endpoint_url=endpoint or None, config=config)
        self._signer = (
            session.client("s3", endpoint_url=public_endpoint, config=config) if public_endpoint else self._client
        )

    def writer(self, key: str, content_type: str = "application/octet-stream") -> S3ObjectWriter:
        return S3ObjectWriter(self._client, self._bucket, checked_key(key), content_type)

    def read(self, key: str, start: int = 0, end: int | None = None, chunk_bytes: int = 1 << 18) -> Iterator[bytes]:
        """Requests the object at once: ObjectNotFoundError is raised here, not at the first chunk."""
        with _s3_errors_named(key):
            head = self._client.head_object(Bucket=self._bucket, Key=checked_key(key))
            end = head["ContentLength"] if end is None else min(end, head["ContentLength"])
        return self._stream(key, head["ETag"], start, end, chunk_bytes)

    def _stream(self, key: str, etag: str, start: int, end: int, chunk_bytes: int) -> Iterator[bytes]:
        """Bytes start..end of exactly this version of the object, resumed if the connection breaks."""
        attempts_left = READ_ATTEMPTS
        while start < end:
            attempts_left -= 1
            with _s3_errors_named(key):
                reply = self._client.get_object(
                    Bucket=self._bucket, Key=checked_key(key), Range=f"bytes={start}-{end - 1}", IfMatch=etag
                )
                try:
                    for chunk in reply["Body"].iter_chunks(chunk_bytes):
                        start += len(chunk)
                        yield chunk
                except (HTTPClientError, IncompleteReadError):
                    if attempts_left <= 0:
                        raise
                finally:
                    reply["Body"].close()

    def info(self, key: str) -> ObjectInfo:
        with _s3_errors_named(key):
            head = self._client.head_object(Bucket=self._bucket, Key=checked_key(key))
        return ObjectInfo(head["ContentLength"], head.get("ContentType", "application/octet-stream"))

    def copy(self, source: str, target: str) -> ObjectInfo:
        """Copies inside the store. One request copies up to 5 GiB; above 4 GiB boto3 copies in parts."""
        whole = TransferConfig(multipart_threshold=4 << 30, use_threads=False)
        with _s3_errors_named(source):
            self._client.copy(
                {"Bucket": self._bucket, "Key": checked_key(source)}, self._bucket, checked_key(target), Config=whole
            )
        return self.info(target)

    def delete(self, key: str) -> None:
        with _s3_errors_named(key):
            self._client.delete_object(Bucket=self._bucket, Key=checked_key(key))

    def delete_prefix(self, prefix: str) -> int:
        checked_folder(prefix)
        deleted = 0
        # Always list the first page: its keys are gone in the next round, and no listing runs during deletion
        while page := next(self._pages(prefix), None):
            with _s3_errors_named(prefix):
                reply = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in page], "Quiet": True}
                )
            if errors := reply.get("Errors"):
                raise ObjectStoreError(f"{errors[0].get('Key')}: not deleted, {errors[0].get('Code')}")
            deleted += len(page)
        self._abort_uploads(prefix)
        return deleted

    def _abort_uploads(self, prefix: str) -> None:
        """Parts of unfinished uploads of a process that died: no listing shows them, but they are stored and billed."""
        with _s3_errors_named(prefix):
            try:
                reply = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=prefix)
            except ClientError as error:
                # rclone replies this if the bucket never had any; small stores may not support the request
                if error.response["Error"]["Code"] in {"NoSuchUpload", "NotImplemented"}:
                    return
                raise
            for row in reply.get("Uploads", []):
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=row["Key"], UploadId=row["UploadId"])

    def list_keys(self, prefix: str) -> Iterator[str]:
        for page in self._pages(checked_prefix(prefix)):
            yield from page

    def _pages(self, prefix: str) -> Iterator[list[str]]:
        """At most 1000 keys each."""
        with _s3_errors_named(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                if keys := [row["Key"] for row in page.get("Contents", [])]:
                    yield keys

    def presign_get(self, key: str, expires_s: int, download_name: str) -> str | None:
        answer = {
            "ResponseContentDisposition": attachment_header(download_name),
            "ResponseContentType": mimetypes.guess_type(download_name)[0] or "application/octet-stream",
        }
        return self._signer.generate_presigned_url(
            "get_object", Params={"Bucket": self._bucket, "Key": checked_key(key), **answer}, ExpiresIn=expires_s
        )

    def presign_put(self, key: str, expires_s: int) -> str | None:
        return self._signer.generate_presigned_url(
            "put_object", Params={"Bucket": self._bucket, "Key": checked_key(key)}, ExpiresIn=expires_s
        )

    def check(self) -> None:
        """Writes one small object, always the same: a readable bucket may still refuse writes."""
        with _s3_errors_named("The bucket"):
            self._client.put_object(Bucket=self._bucket, Key="health/probe", Body=b"probe")
