"""What the memory store adds to the contract: objects that are computed, and bytes that are verified and let go."""

from __future__ import annotations

import pytest

from replication.errors import IntegrityMismatch, NotSupported
from replication.models import ABSENT, Attributes
from stores.body import Body
from stores.checksum import crc32c
from stores.memory import MemoryStore
from stores.memory_buckets import PERIOD


def made(*, keep_bytes: bool = True) -> MemoryStore:
    store = MemoryStore("memory", keep_bytes=keep_bytes)
    store.create_bucket("bucket")
    return store


async def read(store: MemoryStore, key: str, offset: int, length: int) -> bytes:
    info = await store.head("bucket", key)
    async with store.read("bucket", key, pin=info.version, offset=offset, length=length) as chunks:
        return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize("size", [0, 1, PERIOD - 1, PERIOD, 2 * PERIOD + 17])
async def test_a_synthetic_object_has_the_checksum_of_its_bytes(size: int) -> None:
    store = made()
    info = store.put_synthetic("bucket", "key", size, seed=7)
    data = await read(store, "key", 0, size) if size else b""
    assert (len(data), crc32c(data)) == (size, info.checksums.crc32c)


async def test_a_range_of_a_synthetic_object_is_that_of_the_whole() -> None:
    store = made()
    store.put_synthetic("bucket", "key", 3 * PERIOD)
    whole = await read(store, "key", 0, 3 * PERIOD)
    for offset, length in ((PERIOD - 3, 7), (2 * PERIOD, PERIOD), (5, 2 * PERIOD + 1)):
        assert await read(store, "key", offset, length) == whole[offset : offset + length]


async def test_a_huge_object_costs_nothing_until_it_is_read() -> None:
    info = made().put_synthetic("bucket", "key", 100 << 30)
    assert (info.size_bytes, info.checksums.crc32c is not None) == (100 << 30, True)


async def test_a_store_that_keeps_no_bytes_still_verifies_them() -> None:
    store = made(keep_bytes=False)
    upload = await store.begin_upload("bucket", "key", Attributes())
    parts = [await store.put_part("bucket", "key", upload, n, at, Body.of(data)) for n, at, data in ((1, 0, b"one"), (2, 3, b"two"))]
    with pytest.raises(IntegrityMismatch):
        await store.complete_upload("bucket", "key", upload, parts, Attributes(), ABSENT, crc32c=1)
    info = await store.complete_upload("bucket", "key", upload, parts, Attributes(), ABSENT, crc32c=crc32c(b"onetwo"))
    assert (info.size_bytes, info.checksums.crc32c) == (6, crc32c(b"onetwo"))
    with pytest.raises(NotSupported):
        await read(store, "key", 0, 6)


async def test_parts_that_leave_a_gap_are_not_an_object() -> None:
    store = made()
    upload = await store.begin_upload("bucket", "key", Attributes())
    parts = [await store.put_part("bucket", "key", upload, n, at, Body.of(data)) for n, at, data in ((1, 0, b"one"), (2, 4, b"two"))]
    with pytest.raises(IntegrityMismatch):
        await store.complete_upload("bucket", "key", upload, parts, Attributes(), ABSENT, crc32c=None)


async def test_a_closed_store_answers_no_more() -> None:
    store = made()
    await store.close()
    with pytest.raises(RuntimeError):
        await store.head("bucket", "key")
