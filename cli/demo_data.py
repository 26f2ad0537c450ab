"""The objects of the demo: what is written into the sources, and how both sides are read back, by the vendors' libraries
alone. Nothing here uses the product's own stores, so that the demo's verdict is independent of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

MIB = 1 << 20
_BLOCK = random.Random(11).randbytes(MIB)  # noqa: S311 - sample bytes, the same in every run


@dataclass(frozen=True)
class Sample:
    """One object of a source. Its bytes follow from its size and key."""

    key: str
    size_bytes: int
    content_type: str = "application/octet-stream"
    metadata: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def data(self) -> bytes:
        name = self.key.encode()
        body = (_BLOCK * (self.size_bytes // MIB + 1))[: self.size_bytes]
        return name[: self.size_bytes] + body[len(name) :] if self.size_bytes else b""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data()).hexdigest()


SAMPLES = (
    Sample("empty", 0),
    Sample("one-byte", 1),
    Sample("photos/2026/summer day.jpg", 48_211, "image/jpeg", {"camera": "M10", "place": "Lisbon"}, {"album": "summer", "rating": "5"}),
    Sample("odd/100%25 + a=b&c?d#e 'quoted' \"twice\".txt", 1_234, "text/plain"),
    Sample("odd/\u00fcn\u00efc\u00f6d\u00e9 \u65e5\u672c\u8a9e \U0001f4e6.txt", 5_678, "text/plain; charset=utf-8"),
    Sample("odd/nfc-\u00e9 and nfd-e\u0301", 99),
    Sample("large/64-MiB-and-1-byte.bin", 64 * MIB + 1),
    Sample("large/200-MiB.bin", 200 * MIB, metadata={"purpose": "demo"}),
)


class Shelf(Protocol):
    """A bucket that the demo fills or reads back."""

    def fill(self, samples: tuple[Sample, ...]) -> None: ...

    def sha256(self, key: str) -> str: ...


class S3Shelf:
    """A bucket of an S3 endpoint, by boto3."""

    def __init__(self, server: Any, bucket: str) -> None:
        import boto3
        from botocore.config import Config
        from botocore.handlers import add_expect_header

        self._bucket = bucket
        self._client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name=server.region,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )
        # After an empty object, botocore takes SeaweedFS's "100 Continue" for the next answer, and waits a minute.
        self._client.meta.events.unregister("before-call.s3", add_expect_header)
        server.create_bucket(bucket)

    def fill(self, samples: tuple[Sample, ...]) -> None:
        from urllib.parse import urlencode

        for sample in samples:
            self._client.put_object(
                Bucket=self._bucket,
                Key=sample.key,
                Body=sample.data(),
                ContentType=sample.content_type,
                Metadata=sample.metadata,
                Tagging=urlencode(sample.tags),
            )

    def sha256(self, key: str) -> str:
        body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
        return _digest(body.iter_chunks(MIB))


class GcsShelf:
    """A bucket of a GCS endpoint, by google-cloud-storage."""

    def __init__(self, server: Any, bucket: str) -> None:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        server.create_bucket(bucket)
        untyped: Any = storage.Client
        anonymous: Any = AnonymousCredentials
        client = untyped(project="demo", credentials=anonymous(), client_options={"api_endpoint": server.endpoint})
        self._bucket = client.bucket(bucket)

    def fill(self, samples: tuple[Sample, ...]) -> None:
        for sample in samples:
            blob = self._bucket.blob(sample.key)
            blob.metadata = sample.metadata
            blob.upload_from_string(sample.data(), content_type=sample.content_type)

    def sha256(self, key: str) -> str:
        return _digest(iter([self._bucket.blob(key).download_as_bytes(raw_download=True)]))


class FolderShelf:
    """A bucket that is a folder."""

    def __init__(self, root: Path, bucket: str) -> None:
        self._folder = root / bucket
        self._folder.mkdir(parents=True)

    def fill(self, samples: tuple[Sample, ...]) -> None:
        for sample in samples:
            path = self._folder / sample.key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sample.data())

    def sha256(self, key: str) -> str:
        with (self._folder / key).open("rb") as file:
            return _digest(iter(lambda: file.read(MIB), b""))


def _digest(chunks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
