"""The store as a model: everything in one process, every promise of `stores/base.py` kept strictly.

It is the reference of the conformance suite and the store of fast tests. Two things make very large objects cheap: an
object may be synthetic (`put_synthetic`: its bytes are computed from their position), and a store made with
`keep_bytes=False` verifies and counts what it is sent but keeps sizes and checksums only.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

from replication.errors import (
    BucketNotFound,
    IntegrityMismatch,
    MetadataUnrepresentable,
    ObjectNotFound,
    ObjectTooLarge,
    PreconditionFailed,
    SourceChanged,
    UploadLost,
)
from replication.keys import check_key, is_reserved
from replication.limits import FILE_LIMITS, Capabilities, Limits
from replication.models import Attributes, Checksums, Condition, ListedObject, ObjectInfo, OpenUpload, Part, Version
from stores.base import Store
from stores.body import Body
from stores.chunks import Chunks
from stores.memory_buckets import Bucket, Content, Counted, Held, Joined, Stored, Synthetic, Upload, holds, same_content, same_version


class MemoryStore(Store):
    """Buckets in memory, for one event loop. `clock` gives the time of modifications; buckets are made by `create_bucket`.

    Contents are named by a generation (`Version.id`) that never comes twice, attributes by `Version.revision`.
    """

    def __init__(
        self, name: str, *, limits: Limits = FILE_LIMITS, clock: Callable[[], datetime] | None = None, keep_bytes: bool = True
    ) -> None:
        self.name = name
        self.kind = "memory"
        self.identity = f"memory:{id(self)}"
        self.limits = limits
        self._clock = clock or (lambda: datetime.now(UTC))
        self._keep_bytes = keep_bytes
        self._buckets: dict[str, Bucket] = {}
        self._numbers = itertools.count(1)
        self._closed = False

    def create_bucket(self, bucket: str) -> None:
        self._buckets.setdefault(bucket, Bucket())

    def put_synthetic(self, bucket: str, key: str, size: int, seed: int = 0) -> ObjectInfo:
        """An object of `size` computed bytes, the same for the same `seed`. It has a CRC32C like any other."""
        check_key(key)
        return self._commit(bucket, key, Synthetic(size, seed), Attributes(), Condition("any"))

    async def probe(self, bucket: str, *, writable: bool) -> Capabilities:
        self._bucket(bucket)
        return Capabilities(
            conditional_writes=True,
            conditional_completes=True,
            conditional_deletes=True,
            pinned_reads=True,
            server_side_copy=True,
            upload_checksum="header",
            part_checksum="header",
        )

    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        info = self._stored(bucket, key).info
        return info if tags else replace(info, attributes=replace(info.attributes, tags=None))

    async def list_objects(
        self, bucket: str, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> AsyncIterator[Sequence[ListedObject]]:
        keys = self._bucket(bucket).keys
        last = start_after
        # A page is taken from the bucket as it is then: between two pages, objects come and go as in any store.
        while page := _page(keys, prefix, last, page_size):
            last = page[-1]
            if listed := [self._listed(bucket, key) for key in page if not is_reserved(key)]:
                yield listed

    @asynccontextmanager
    async def read(self, bucket: str, key: str, *, pin: Version, offset: int, length: int) -> AsyncIterator[Chunks]:
        content = self._pinned(bucket, key, pin, offset, length)

        async def chunks() -> Chunks:
            for chunk in content.slices(offset, length):
                yield chunk

        yield chunks()

    async def put(self, bucket: str, key: str, body: Body, attributes: Attributes, condition: Condition) -> ObjectInfo:
        self._check_write(bucket, key, attributes)
        if body.size_bytes > self.limits.max_put_size:
            raise ObjectTooLarge(f"{body.size_bytes} bytes, one put holds {self.limits.max_put_size}")
        return self._commit(bucket, key, await self._receive(body), attributes, condition)

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
        self._check_write(bucket, key, attributes)
        content = self._pinned(source_bucket, source_key, pin, 0, pin.size_bytes)
        if content.size_bytes > self.limits.max_copy_size:
            raise ObjectTooLarge(f"{content.size_bytes} bytes, one copy holds {self.limits.max_copy_size}")
        info = self._commit(bucket, key, content, attributes, condition)
        if progress:
            progress(content.size_bytes)
        return info

    async def update_attributes(self, bucket: str, key: str, version: Version, attributes: Attributes) -> ObjectInfo:
        self._check_write(bucket, key, attributes)
        stored = self._bucket(bucket).objects.get(key)
        if stored is None or not same_version(stored.info.version, version):
            raise PreconditionFailed("the object is no longer the version whose attributes were to be replaced")
        tags = stored.info.attributes.tags if attributes.tags is None else dict(attributes.tags)
        info = replace(
            stored.info,
            version=replace(stored.info.version, revision=str(next(self._numbers)), modified=self._clock()),
            attributes=replace(attributes, metadata=dict(attributes.metadata), tags=tags),
        )
        self._bucket(bucket).set(Stored(info, stored.content))
        return info

    async def delete(self, bucket: str, key: str, version: Version) -> None:
        stored = self._bucket(bucket).objects.get(key)
        if stored is None:
            return
        if not same_version(stored.info.version, version):
            raise PreconditionFailed("the object is no longer the version that was to be deleted")
        self._bucket(bucket).remove(key)

    # --- uploads of parts --------------------------------------------------------------------------------------------

    async def begin_upload(self, bucket: str, key: str, attributes: Attributes) -> str:
        self._check_write(bucket, key, attributes)
        upload_id = f"upload-{next(self._numbers)}"
        self._bucket(bucket).uploads[upload_id] = Upload(key, self._clock())
        return upload_id

    async def put_part(self, bucket: str, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        self._upload(bucket, key, upload_id)
        if body.size_bytes > self.limits.max_part_size or not 1 <= number <= self.limits.max_parts:
            raise ObjectTooLarge(f"part {number} of {body.size_bytes} bytes is beyond what an upload holds")
        return self._keep_part(bucket, key, upload_id, number, offset, await self._receive(body))

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
        content = self._pinned(source_bucket, source_key, pin, offset, length)
        return self._keep_part(bucket, key, upload_id, number, offset, Held(b"".join(content.slices(offset, length))))

    async def list_parts(self, bucket: str, key: str, upload_id: str) -> list[Part]:
        parts = self._upload(bucket, key, upload_id).parts
        return [parts[number][0] for number in sorted(parts)]

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
        content = Joined(tuple(self._ordered(self._upload(bucket, key, upload_id), parts)))
        if crc32c is not None and content.crc32c != crc32c:
            raise IntegrityMismatch(f"the parts have CRC32C {content.crc32c:08x}, expected {crc32c:08x}")
        info = self._commit(bucket, key, content, attributes, condition)
        del self._bucket(bucket).uploads[upload_id]
        return info

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        self._bucket(bucket).uploads.pop(upload_id, None)

    async def list_uploads(self, bucket: str, prefix: str = "") -> AsyncIterator[OpenUpload]:
        for upload_id, upload in list(self._bucket(bucket).uploads.items()):
            if upload.key.startswith(prefix):
                yield OpenUpload(upload.key, upload_id, upload.started)

    async def close(self) -> None:
        self._closed = True

    # --- inside ------------------------------------------------------------------------------------------------------

    def _bucket(self, bucket: str) -> Bucket:
        if self._closed:
            raise RuntimeError(f"the store {self.name} is closed")
        if bucket not in self._buckets:
            raise BucketNotFound(f"no bucket {bucket!r}")
        return self._buckets[bucket]

    def _stored(self, bucket: str, key: str) -> Stored:
        stored = self._bucket(bucket).objects.get(key)
        if stored is None:
            raise ObjectNotFound(f"no object {key!r}")
        return stored

    def _listed(self, bucket: str, key: str) -> ListedObject:
        info = self._stored(bucket, key).info
        return ListedObject(key, info.version, info.checksums, info.attributes.storage_class)

    def _pinned(self, bucket: str, key: str, pin: Version, offset: int, length: int) -> Content:
        stored = self._bucket(bucket).objects.get(key)
        if stored is None or not same_content(stored.info.version, pin):
            raise SourceChanged(f"the version {pin.token} is gone")
        if offset < 0 or offset + length > stored.content.size_bytes:
            raise IntegrityMismatch(f"bytes {offset}..{offset + length} of an object of {stored.content.size_bytes}")
        return stored.content

    def _upload(self, bucket: str, key: str, upload_id: str) -> Upload:
        upload = self._bucket(bucket).uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise UploadLost(f"no upload {upload_id!r} of this key")
        return upload

    def _check_write(self, bucket: str, key: str, attributes: Attributes) -> None:
        check_key(key)
        self._bucket(bucket)
        texts = [text for pair in attributes.metadata.items() for text in pair]
        if sum(len(text.encode()) for text in texts) > self.limits.max_metadata_bytes:
            raise MetadataUnrepresentable(f"more than {self.limits.max_metadata_bytes} bytes of metadata")
        if self.limits.metadata_ascii and not all(text.isascii() for text in texts):
            raise MetadataUnrepresentable("metadata must be ASCII")

    async def _receive(self, body: Body) -> Content:
        """The whole body, checked against the checksum that it announced."""
        kept = [chunk if self._keep_bytes else b"" async for chunk in body]
        if body.known_crc32c is not None and body.digest.crc32c != body.known_crc32c:
            raise IntegrityMismatch(f"received CRC32C {body.digest.crc32c:08x}, announced {body.known_crc32c:08x}")
        return Held(b"".join(kept)) if self._keep_bytes else Counted(body.size_bytes, body.digest.crc32c)

    def _keep_part(self, bucket: str, key: str, upload_id: str, number: int, offset: int, content: Content) -> Part:
        part = Part(number, content.size_bytes, f"{content.crc32c:08x}", content.crc32c)
        # Looked up only now: an upload that was aborted while the part was on its way is lost, and keeps nothing.
        kept = content if self._keep_bytes else Counted(content.size_bytes, content.crc32c)
        self._upload(bucket, key, upload_id).parts[number] = (part, offset, kept)
        return part

    def _ordered(self, upload: Upload, parts: Sequence[Part]) -> Iterator[Content]:
        """The contents of `parts`, which must be stored ones, ascending, and stand end to end from byte 0."""
        end = 0
        for before, part in zip([None, *parts], parts, strict=False):
            stored, offset, content = upload.parts.get(part.number, (None, -1, None))
            if content is None or stored is None or stored.etag != part.etag or offset != end:
                raise IntegrityMismatch(f"part {part.number} is not stored as it was named")
            if before is not None and before.number >= part.number:
                raise IntegrityMismatch("the parts are not in ascending order")
            if part is not parts[-1] and content.size_bytes < self.limits.min_part_size:
                raise IntegrityMismatch(f"part {part.number} is smaller than {self.limits.min_part_size} bytes")
            end += content.size_bytes
            yield content

    def _commit(self, bucket: str, key: str, content: Content, attributes: Attributes, condition: Condition) -> ObjectInfo:
        """The one place where an object changes: no await stands between looking and replacing."""
        home = self._bucket(bucket)
        current = home.objects.get(key)
        if not holds(condition, current.info.version if current else None):
            raise PreconditionFailed(f"{'present' if current else 'absent'}, but the condition is {condition.kind}")
        info = ObjectInfo(
            key,
            Version(content.size_bytes, id=str(next(self._numbers)), revision="1", modified=self._clock()),
            replace(attributes, metadata=dict(attributes.metadata), tags=dict(attributes.tags or {})),
            Checksums(crc32c=content.crc32c),
        )
        home.set(Stored(info, content))
        return info


def _page(keys: list[str], prefix: str, start_after: str, page_size: int) -> list[str]:
    """Up to `page_size` of the sorted `keys` that start with `prefix` and are greater than `start_after`."""
    first = max(bisect_right(keys, start_after), bisect_left(keys, prefix))
    return list(itertools.takewhile(lambda key: key.startswith(prefix), keys[first : first + page_size]))
