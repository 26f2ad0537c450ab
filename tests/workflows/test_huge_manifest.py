"""A manifest of a million references. The two stores are made of arithmetic, because a million real objects take longer to
make than to check: what is under test is reading, comparing and remembering, not a store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import pytest
from temporalio.client import Client

from replication.models import ANY, Attributes, Checksums, ListedObject, ObjectInfo, Version
from stores.body import Body
from stores.memory import MemoryStore
from tests.lab import make_lab
from tests.poll import eventually

COUNT = 1_000_000
PREFIX = "data/"
LAST = f"{PREFIX}{COUNT - 1:07}"


class Countless(MemoryStore):
    """`data/0000000` to `data/0999999` exist, but for `without`; everything else is kept as usual. Counts pages and looks."""

    def __init__(self, name: str, bucket: str) -> None:
        super().__init__(name)
        self.create_bucket(bucket)
        self.without: set[str] = set()
        self.pages = self.looks = 0

    def list_objects(
        self, bucket: str, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> AsyncIterator[Sequence[ListedObject]]:
        if not prefix.startswith(PREFIX):
            return super().list_objects(bucket, prefix, start_after=start_after, page_size=page_size)
        return self._computed(prefix, start_after, page_size)

    async def _computed(self, prefix: str, start_after: str, page_size: int) -> AsyncIterator[Sequence[ListedObject]]:
        digits = start_after.removeprefix(PREFIX)[:7]
        first = int(digits.ljust(7, "0")) if digits else 0
        for start in range(first, COUNT, page_size):
            keys = [f"{PREFIX}{number:07}" for number in range(start, min(COUNT, start + page_size))]
            self.pages += 1
            yield [_listed(key) for key in keys if key.startswith(prefix) and key > start_after and key not in self.without]
            await asyncio.sleep(0)

    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        self.looks += 1
        if key.startswith(PREFIX) and key not in self.without:
            listed = _listed(key)
            return ObjectInfo(key, listed.version, checksums=listed.checksums)
        return await super().head(bucket, key, tags=tags)


def _listed(key: str) -> ListedObject:
    return ListedObject(key, Version(7, etag=key, id=key), Checksums(crc32c=int(key[-7:])))


@pytest.mark.soak
async def test_a_million_references_are_checked_and_a_second_look_costs_only_what_is_missing(temporal_client: Client) -> None:
    source, destination = Countless("a", "src"), Countless("b", "dst")
    content = json.dumps({"parts": [f"{PREFIX}{number:07}" for number in range(COUNT)]}).encode()
    await source.put("src", "m.json", Body.of(content), Attributes(), ANY)
    source.without.add(LAST)
    destination.without.add(LAST)
    rule, wait = [{"match": "m.json", "references": "$.parts[*]"}], {"poll": "1h", "poll_max": "1h"}
    lab = make_lab(temporal_client, source, destination, dependencies=rule, dependency_wait=wait)
    async with lab.worker():
        handle = await lab.start("m.json")

        async def waits() -> bool:
            return "1 of 1,000,000" in (await lab.progress(handle)).waiting_for

        await eventually(waits, 600, interval_s=0.5)
        pages = destination.pages
        await handle.signal("stands", LAST)  # a word that is not true: only that key is looked at
        await eventually(waits, 60, interval_s=0.5)
        assert destination.pages == pages
        source.without.clear()
        destination.without.clear()
        await handle.signal("stands", LAST)
        assert (await asyncio.wait_for(handle.result(), 600)).outcome == "copied"
    history = await handle.fetch_history()
    assert max(len(event.SerializeToString()) for event in history.events) < 256 * 1024
    assert destination.looks < 100
