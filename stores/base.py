"""The contract of a store. This file is the specification; `tests/stores/test_conformance.py` holds every store to it.

General promises:

- Keys are opaque: what goes in as `key` is the object's name, byte for byte (UTF-8). A key that the store cannot hold
  raises `KeyUnrepresentable` before any request; one that would overwrite another key raises `KeyCollision`.
- Every call may be repeated. A cancelled call makes no further modification after it has unwound.
- Errors are those of `replication/errors.py`, mapped by vendor code (`stores/mapping.py`), never by message text.
- No call retries a write. Reads and metadata calls may retry a connection that failed before an answer began.
- Nothing under `RESERVED_PREFIX` ever appears in `list_objects`; it holds temporary parts and probe objects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal

from replication.errors import NotSupported, ObjectNotFound, SourceChanged
from replication.keys import check_key
from replication.limits import Capabilities, Limits
from replication.models import (
    Attributes,
    Condition,
    ListedObject,
    ObjectInfo,
    OpenUpload,
    Part,
    Version,
)
from stores.body import Body
from stores.chunks import Chunks


class Store(ABC):
    """One configured endpoint. Made once per process, closed once, safe for any number of concurrent calls."""

    name: str
    """The store's name in the settings."""
    kind: Literal["s3", "gcs", "file", "memory"]
    identity: str
    """Two stores of equal identity are one endpoint with one set of credentials: server-side copies work between them."""
    limits: Limits

    def check_key(self, key: str) -> None:
        """Raises `KeyInvalid`, or `KeyUnrepresentable` for a key that this kind of store cannot hold. Asks nobody."""
        check_key(key)

    # --- looking -----------------------------------------------------------------------------------------------------

    @abstractmethod
    async def probe(self, bucket: str, *, writable: bool) -> Capabilities:
        """Finds out what the endpoint does. Read-only unless `writable`: then with objects under `RESERVED_PREFIX` that
        it removes again. Raises `BucketNotFound`, `PermissionRefused`, `EndpointUnreachable`, …"""

    @abstractmethod
    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        """The object as it is now, with its tags where the store has them and `tags` is set.

        Raises `ObjectNotFound` only on positive evidence: the store said that this key does not exist *and* the bucket
        is there and readable. 403 is `PermissionRefused`, a missing bucket is `BucketNotFound`, never absence."""

    @abstractmethod
    def list_objects(
        self, bucket: str, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> AsyncIterator[Sequence[ListedObject]]:
        """Pages of the keys under `prefix` that are greater than `start_after`, in UTF-8 byte order, without
        duplicates and without reserved names. What a file system names with bytes that are no key comes escaped, in the
        place of that text, with a `problem`. Raises `ServerFault` when the store breaks that order."""

    @abstractmethod
    def read(self, bucket: str, key: str, *, pin: Version, offset: int, length: int) -> AbstractAsyncContextManager[Chunks]:
        """Exactly `length` > 0 bytes from `offset` of exactly the version `pin`, as stored (never decoded).

        Raises `SourceChanged` if that version is no longer the one to be read, `IntegrityMismatch` on a short, long or
        misplaced answer (status, Content-Range and length are checked), `SourceArchived` if it must be restored."""

    async def fetch(self, bucket: str, key: str, *, pin: Version) -> tuple[ObjectInfo, bytes]:
        """A small object with its attributes and tags, in as few requests as the store can. `pin` may come from a listing,
        which shows less than a HEAD does. Raises as `read`, and `SourceChanged` where the object is gone."""
        try:
            info = await self.head(bucket, key)
        except ObjectNotFound as error:
            raise SourceChanged(str(error)) from error
        if (info.size_bytes, info.version.etag) != (pin.size_bytes, pin.etag) or (pin.id and info.version.id != pin.id):
            raise SourceChanged("the source is not what its listing showed")
        if not info.size_bytes:
            return info, b""
        async with self.read(bucket, key, pin=info.version, offset=0, length=info.size_bytes) as chunks:
            return info, b"".join([chunk async for chunk in chunks])

    # --- writing -----------------------------------------------------------------------------------------------------

    @abstractmethod
    async def put(self, bucket: str, key: str, body: Body, attributes: Attributes, condition: Condition) -> ObjectInfo:
        """Stores `body` in one commit with its attributes, or nothing at all: an error raised by the body (a failed
        check, a cut source) leaves what was there. What is returned names the new version and every checksum the store
        told; `PreconditionFailed` when `condition` does not hold. Where the store verifies nothing, the caller does."""

    @abstractmethod
    async def copy(
        self,
        source_bucket: str,
        source_key: str,
        pin: Version,
        bucket: str,
        key: str,
        attributes: Attributes,
        condition: Condition,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> ObjectInfo:
        """Server-side copy within this endpoint of at most `limits.max_copy_size` bytes, the source pinned
        (`SourceChanged`), attributes replaced, the write conditional. `progress` gets bytes done so far, if known."""

    @abstractmethod
    async def update_attributes(self, bucket: str, key: str, version: Version, attributes: Attributes) -> ObjectInfo:
        """Replaces the attributes (tags too, unless None) of exactly `version` without sending bytes.
        `PreconditionFailed` if it is no longer current, `NotSupported` where only a full copy could do it."""

    @abstractmethod
    async def delete(self, bucket: str, key: str, version: Version) -> None:
        """Deletes the key if `version` is still current, else `PreconditionFailed`. Deleting an absent key succeeds."""

    async def request_restore(self, bucket: str, key: str, version: Version, *, days: int) -> None:
        """Asks for a readable copy of an archived object for so many days. Asking again while that is under way succeeds.

        Raises `NotSupported` where nothing is archived."""
        raise NotSupported("the store restores no objects from an archive")

    # --- uploads of parts --------------------------------------------------------------------------------------------

    @abstractmethod
    async def begin_upload(self, bucket: str, key: str, attributes: Attributes) -> str:
        """Opens an upload and returns its id. Nothing is visible under `key` until it completes."""

    @abstractmethod
    async def put_part(self, bucket: str, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        """Stores part `number` (1-based), whose bytes stand at `offset` of the object. Sending a part again replaces
        it. `UploadLost` if the store does not know the upload; `IntegrityMismatch` if other bytes arrived than were sent:
        then they stand in the upload, unless wrong parts are refused there (`Capabilities`)."""

    @abstractmethod
    async def copy_part(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        source_bucket: str,
        source_key: str,
        pin: Version,
        offset: int,
        length: int,
    ) -> Part:
        """Part `number` from a range of a pinned object of this endpoint, server-side."""

    @abstractmethod
    async def list_parts(self, bucket: str, key: str, upload_id: str) -> list[Part]:
        """Every stored part by number, all pages read. `UploadLost` if the store does not know the upload."""

    @abstractmethod
    async def complete_upload(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        attributes: Attributes,
        condition: Condition,
        *,
        crc32c: int | None,
    ) -> ObjectInfo:
        """Publishes the upload as one object if `condition` holds. `crc32c`, of the whole object, is enforced by the
        store where it can be. `UploadLost` when the upload is gone: the caller looks whether it was this commit."""

    @abstractmethod
    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        """Removes the upload and every part of it, late ones included. Aborting an unknown upload succeeds."""

    @abstractmethod
    def list_uploads(self, bucket: str, prefix: str = "") -> AsyncIterator[OpenUpload]:
        """Unfinished uploads (or leftovers of them) whose key starts with `prefix`."""

    @abstractmethod
    async def close(self) -> None:
        """Releases connections. Further calls are errors."""
