"""The ends of a replication as its users see them: written and read with the vendors' own libraries and `open`.

Nothing here imports a store of the product: what these say about a replica is an independent oracle.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.handlers import add_expect_header
from google.api_core.exceptions import NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from embedded.fake_gcs import FakeGcs
from embedded.moto import MotoServer
from embedded.rclone_serve import RcloneServe
from embedded.seaweedfs import SeaweedFS

MIB = 1 << 20
MARK = "drayage-"
EXPIRES = format_datetime(datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC), usegmt=True)


@dataclass(frozen=True)
class Properties:
    """What an owner sets on an object. "" and {} are not set."""

    content_type: str = ""
    content_encoding: str = ""
    content_disposition: str = ""
    content_language: str = ""
    cache_control: str = ""
    expires: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    storage_class: str = ""


@dataclass(frozen=True)
class Seen:
    """One object as the oracle reads it; `properties` are without the origin mark, which is `mark`.

    `stamp` changes with every write, whatever is written.
    """

    sha256: str
    size_bytes: int
    properties: Properties
    mark: dict[str, str]
    etag: str
    stamp: str


class Side(ABC):
    """One endpoint with a bucket of its own. Calls block; tests run them in threads."""

    kind: str
    part_size: int
    """A small part size that the kind of store allows."""
    keeps_properties = True
    """Whether `put` can set properties without the product."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bucket = f"e2e-{uuid.uuid4().hex[:16]}"

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The store's section of the configuration."""

    def environ(self) -> dict[str, str]:
        """The secrets that `settings` refers to."""
        return {}

    @abstractmethod
    def put(self, key: str, data: bytes, properties: Properties | None = None) -> None: ...

    @abstractmethod
    def delete(self, key: str) -> None:
        """Deletes an object that exists."""

    def backdate(self, key: str) -> None:  # noqa: B027 - only owners of files choose when they changed
        """Makes an object look years old."""

    @abstractmethod
    def see(self, key: str) -> Seen | None: ...

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """The bytes alone, in one request."""

    @abstractmethod
    def keys(self) -> set[str]:
        """Every name in the bucket, those of temporary parts included."""

    def close(self) -> None:  # noqa: B027 - files have nothing to close
        """Releases connections."""


class S3Side(Side):
    kind = "s3"
    part_size = 5 * MIB

    def __init__(self, name: str, server: SeaweedFS | MotoServer | RcloneServe) -> None:
        super().__init__(name)
        self._server = server
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name=server.region,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            config=Config(retries={"max_attempts": 2}, read_timeout=20, s3={"addressing_style": "path"}),
        )
        # A "100 Continue" that comes after botocore stopped waiting for it is taken for the answer.
        self.client.meta.events.unregister("before-call.s3", add_expect_header)
        self.client.create_bucket(Bucket=self.bucket)

    def settings(self) -> dict[str, Any]:
        keys = {"access_key_id": f"env:{self._variable}_KEY", "secret_access_key": f"env:{self._variable}_SECRET"}
        return {"type": "s3", "endpoint": self._server.endpoint, "region": self._server.region, **keys}

    def environ(self) -> dict[str, str]:
        return {f"{self._variable}_KEY": self._server.access_key, f"{self._variable}_SECRET": self._server.secret_key}

    @property
    def _variable(self) -> str:
        return self.name.upper().replace("-", "_")

    def put(self, key: str, data: bytes, properties: Properties | None = None) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data, ChecksumAlgorithm="CRC32C", **_s3_fields(properties))

    def put_in_parts(self, key: str, pieces: list[bytes]) -> None:
        """An object that some other program uploaded in parts, with its own composite ETag."""
        target = {"Bucket": self.bucket, "Key": key}
        upload = {**target, "UploadId": self.client.create_multipart_upload(**target)["UploadId"]}
        etags = [self.client.upload_part(**upload, PartNumber=n, Body=piece)["ETag"] for n, piece in enumerate(pieces, 1)]
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)]
        self.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)

    def see(self, key: str) -> Seen | None:
        """None also for an object that is deleted while it is looked at."""
        try:
            found = self.client.get_object(Bucket=self.bucket, Key=key)
            body = found["Body"].read()
            tags = self.client.get_object_tagging(Bucket=self.bucket, Key=key)["TagSet"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise
        user, mark = _apart(found["Metadata"])
        properties = Properties(
            content_type=found.get("ContentType", ""),
            content_encoding=found.get("ContentEncoding", ""),
            content_disposition=found.get("ContentDisposition", ""),
            content_language=found.get("ContentLanguage", ""),
            cache_control=found.get("CacheControl", ""),
            expires=found.get("ExpiresString", ""),
            metadata=user,
            tags={tag["Key"]: tag["Value"] for tag in tags},
            storage_class=_class(found.get("StorageClass")),
        )
        etag = found["ETag"].strip('"')
        return Seen(hashlib.sha256(body).hexdigest(), len(body), properties, mark, etag, f"{etag} {found['LastModified']} {mark}")

    def read(self, key: str) -> bytes | None:
        try:
            body: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise
        return body

    def keys(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return {entry["Key"] for page in pages for entry in page.get("Contents", [])}

    def uploads(self) -> list[str]:
        return [upload["Key"] for upload in self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])]

    def close(self) -> None:
        self.client.close()


class GcsSide(Side):
    kind = "gcs"
    part_size = MIB

    def __init__(self, name: str, server: FakeGcs) -> None:
        super().__init__(name)
        self._endpoint = server.endpoint
        library: Any = storage  # without types
        credentials: Any = AnonymousCredentials
        self._client = library.Client(project="e2e", credentials=credentials(), client_options={"api_endpoint": self._endpoint})
        self._bucket = self._client.create_bucket(self.bucket)

    def settings(self) -> dict[str, Any]:
        return {"type": "gcs", "endpoint": self._endpoint, "anonymous": True}

    def put(self, key: str, data: bytes, properties: Properties | None = None) -> None:
        wanted = properties or Properties()
        blob = self._bucket.blob(key)
        blob.content_encoding = wanted.content_encoding or None
        blob.content_disposition = wanted.content_disposition or None
        blob.content_language = wanted.content_language or None
        blob.cache_control = wanted.cache_control or None
        blob.metadata = wanted.metadata or None
        if wanted.storage_class:
            blob.storage_class = wanted.storage_class
        blob.upload_from_string(data, content_type=wanted.content_type or "application/octet-stream", checksum="crc32c")

    def patch(self, key: str, metadata: dict[str, str]) -> None:
        """Changes the metadata of an object and nothing else."""
        blob = self._bucket.blob(key)
        blob.metadata = metadata
        blob.patch()

    def delete(self, key: str) -> None:
        self._bucket.blob(key).delete()

    def see(self, key: str) -> Seen | None:
        blob = self._bucket.blob(key)
        try:
            blob.reload()
            body = blob.download_as_bytes(raw_download=True, checksum="crc32c")
        except NotFound:
            return None
        user, mark = _apart(blob.metadata or {})
        properties = Properties(
            content_type=blob.content_type or "",
            content_encoding=blob.content_encoding or "",
            content_disposition=blob.content_disposition or "",
            content_language=blob.content_language or "",
            cache_control=blob.cache_control or "",
            expires=mark.pop("drayage-expires", ""),
            metadata=user,
            storage_class=_class(blob.storage_class),
        )
        sha256 = hashlib.sha256(body).hexdigest()
        return Seen(sha256, len(body), properties, mark, (blob.etag or "").strip('"'), f"{blob.generation} {blob.metageneration}")

    def read(self, key: str) -> bytes | None:
        try:
            body: bytes = self._bucket.blob(key).download_as_bytes(raw_download=True, checksum="crc32c")
        except NotFound:
            return None
        return body

    def keys(self) -> set[str]:
        return {blob.name for blob in self._client.list_blobs(self.bucket)}

    def close(self) -> None:
        self._client.close()


class FileSide(Side):
    kind = "file"
    part_size = MIB
    keeps_properties = False

    def __init__(self, name: str, root: Path) -> None:
        super().__init__(name)
        self._root = root
        (root / self.bucket).mkdir(parents=True)

    def settings(self) -> dict[str, Any]:
        return {"type": "file", "root": str(self._root)}

    def put(self, key: str, data: bytes, properties: Properties | None = None) -> None:
        assert properties is None, "a plain file has no properties"
        path = self._path(key)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)

    def delete(self, key: str) -> None:
        os.unlink(self._path(key))

    def backdate(self, key: str) -> None:
        os.utime(self._path(key), (1_000_000_000, 1_000_000_000))

    def see(self, key: str) -> Seen | None:
        body = self.read(key)
        if body is None:
            return None
        attributes = self._record(key)
        user, mark = _apart(attributes.pop("metadata", {}))
        properties = Properties(metadata=user, tags=attributes.pop("tags", None) or {}, **attributes)
        file_stat = os.stat(self._path(key))
        stamp = f"{file_stat.st_ino} {file_stat.st_mtime_ns} {file_stat.st_ctime_ns}"
        return Seen(hashlib.sha256(body).hexdigest(), len(body), properties, mark, "", stamp)

    def read(self, key: str) -> bytes | None:
        try:
            with open(self._path(key), "rb") as file:
                return file.read()
        except OSError:
            return None

    def keys(self) -> set[str]:
        top = os.path.join(self._root, self.bucket)
        found = {os.path.relpath(os.path.join(folder, name), top) for folder, _, names in os.walk(top) for name in names}
        return found - {".drayage.lock"}

    def _path(self, key: str) -> str:
        """The name as it is: never joined or normalised, which would make another name of it."""
        return f"{self._root}/{self.bucket}/{key}"

    def _record(self, key: str) -> dict[str, Any]:
        try:
            text = os.getxattr(self._path(key), "user.drayage")
        except OSError:
            return {}
        found: dict[str, Any] = json.loads(text)["attributes"]
        return found


def _s3_fields(properties: Properties | None) -> dict[str, Any]:
    wanted = properties or Properties()
    fields: dict[str, Any] = {
        "ContentType": wanted.content_type,
        "ContentEncoding": wanted.content_encoding,
        "ContentDisposition": wanted.content_disposition,
        "ContentLanguage": wanted.content_language,
        "CacheControl": wanted.cache_control,
        "Expires": parsedate_to_datetime(wanted.expires) if wanted.expires else None,
        "Metadata": wanted.metadata,
        "Tagging": "&".join(f"{key}={value}" for key, value in wanted.tags.items()),
        "StorageClass": wanted.storage_class,
    }
    return {name: value for name, value in fields.items() if value}


def _class(name: str | None) -> str:
    """A default class is shown by some servers and not by others."""
    return "" if name is None or name == "STANDARD" else name


def _apart(metadata: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The user's metadata, and the product's own."""
    ours = {key: value for key, value in metadata.items() if key.startswith(MARK)}
    return {key: value for key, value in metadata.items() if key not in ours}, ours
