"""Every byte of two objects, compared range by range."""

from __future__ import annotations

import pytest

from replication.errors import SourceChanged
from replication.models import ABSENT, Attributes, ObjectInfo
from stores import compare_bytes
from stores.body import Body
from stores.checksum import crc32c
from stores.compare_bytes import Range, first_difference
from stores.memory import MemoryStore
from stores.transfer import Place


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    monkeypatch.setattr(compare_bytes, "RANGE", 10)
    store = MemoryStore("memory")
    store.create_bucket("b")
    return store


async def stored(store: MemoryStore, key: str, data: bytes) -> tuple[Place, ObjectInfo]:
    return Place(store, "b", key), await store.put("b", key, Body.of(data), Attributes(), ABSENT)


@pytest.mark.parametrize("size", [0, 1, 10, 25])
async def test_equal_objects_have_the_checksum_of_all_their_bytes(store: MemoryStore, size: int) -> None:
    data, seen = bytes(range(size)), list[int]()
    one, other = await stored(store, "one", data), await stored(store, "other", data)
    assert await first_difference(*one, *other, seen.append) == (None, crc32c(data))
    assert sum(seen) == 2 * size


@pytest.mark.parametrize("at", [0, 9, 10, 24])
async def test_the_first_range_that_differs_is_told(store: MemoryStore, at: int) -> None:
    data = bytearray(25)
    one = await stored(store, "one", bytes(data))
    data[at] = 1
    other = await stored(store, "other", bytes(data))
    found, _ = await first_difference(*one, *other, lambda _: None)
    start, length = at // 10 * 10, 5 if at >= 20 else 10
    assert found == Range(start, length, crc32c(bytes(length)), crc32c(bytes(data[start : start + length])))


async def test_an_object_that_changes_meanwhile_is_not_compared(store: MemoryStore) -> None:
    one, other = await stored(store, "one", b"data"), await stored(store, "other", b"data")
    await store.delete("b", "other", other[1].version)
    await stored(store, "other", b"DATA")
    with pytest.raises(SourceChanged):
        await first_difference(*one, *other, lambda _: None)
