"""A pass over a million keys that exist on paper: bounded memory, history and payloads (soak)."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from temporalio.client import Client

from replication.errors import ObjectNotFound
from replication.ids import partition_id, reconcile_id
from replication.models import Attributes, Checksums, Condition, ListedObject, ObjectInfo, Version
from replication.passes import PassInput, PassResult
from replication.settings import parse_settings
from stores.body import Body
from stores.checksum import crc32c
from stores.memory import MemoryStore
from stores.registry import Stores
from tests.lab import FAST_RETRIES, Lab
from tests.ledgers import ledger_url

KEYS = 1_000_000
PAGE = 1000
BODY = b"the same for all"
AT = datetime(2026, 1, 1, tzinfo=UTC)
MAX_MEMORY = 512 << 20
MAX_EVENTS = 10_240
MAX_PAYLOAD = 256 << 10


class Paper(MemoryStore):
    """Lists keys from `start` to `end` that are made as they are asked for, and takes objects without keeping them."""

    def __init__(self, name: str, start: int, end: int) -> None:
        super().__init__(name)
        self.start, self.end, self.written = start, end, 0

    async def list_objects(
        self, bucket: str, prefix: str = "", *, start_after: str = "", page_size: int = PAGE
    ) -> AsyncIterator[Sequence[ListedObject]]:
        first = self.start
        if start_after:
            shown = start_after[: len(_key(0))].ljust(len(_key(0)), "\0")
            digits = "".join(c if c.isdigit() else ("0" if c < "0" else "9") for c in shown[4:])
            first = max(first, int(digits) - 1)
            while first < self.end and _key(first) <= start_after:
                first += 1
        for at in range(first, self.end, PAGE):
            await asyncio.sleep(0)
            yield [ListedObject(_key(n), _version(n), Checksums(crc32c=crc32c(BODY))) for n in range(at, min(at + PAGE, self.end))]

    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        raise ObjectNotFound("only listed")

    async def fetch(self, bucket: str, key: str, *, pin: Version) -> tuple[ObjectInfo, bytes]:
        return ObjectInfo(key, pin, checksums=Checksums(crc32c=crc32c(BODY))), BODY

    async def put(self, bucket: str, key: str, body: Body, attributes: Attributes, condition: Condition) -> ObjectInfo:
        data = await body.gather()
        self.written += 1
        return ObjectInfo(key, Version(len(data), id=f"w{self.written}", revision="1"), attributes, Checksums(crc32c=crc32c(data)))


def _key(number: int) -> str:
    return f"key/{number:07d}"


def _version(number: int) -> Version:
    return Version(len(BODY), id=str(number), revision="1", modified=AT)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_million_keys_in_bounded_memory_history_and_payloads(temporal_client: Client) -> None:
    """Nine of ten replicas are there already; a tenth is copied."""
    settings = parse_settings(
        {
            "ledger": ledger_url(),
            "temporal": {"task_queue": f"q-{uuid.uuid4().hex}"},
            "stores": {"a": {"type": "file", "root": "/a"}, "b": {"type": "file", "root": "/b"}},
            "routes": [{"name": "million", "source": {"store": "a", "bucket": "one"}, "destination": {"store": "b", "bucket": "two"}}],
            "worker": {"retries": FAST_RETRIES},
        }
    )
    source, destination = Paper("a", 0, KEYS), Paper("b", KEYS // 10, KEYS)
    source.create_bucket("one")
    destination.create_bucket("two")
    stores = Stores(settings, {})
    stores.add(source)
    stores.add(destination)
    lab = Lab(temporal_client, settings, stores)
    before, peak = _resident(), 0
    async with lab.worker():
        handle = await temporal_client.start_workflow(
            "ReconcileRoute", PassInput(route="million"), id=reconcile_id("million"), task_queue=lab.queue, result_type=PassResult
        )
        ending = asyncio.create_task(handle.result())
        while not ending.done():
            await asyncio.wait({ending}, timeout=1)
            peak = max(peak, _resident())
        result = await ending

    counters = result.counters
    assert (counters.listed, counters.copied, counters.skipped) == (KEYS, KEYS // 10, KEYS - KEYS // 10)
    assert destination.written == KEYS // 10
    assert peak - before < MAX_MEMORY, f"{(peak - before) >> 20} MiB"
    for workflow_id in [reconcile_id("million"), *(partition_id("repair", "million", number) for number in range(result.partitions))]:
        events = (await temporal_client.get_workflow_handle(workflow_id).fetch_history()).events
        assert len(events) < MAX_EVENTS
        assert max(event.ByteSize() for event in events) < MAX_PAYLOAD


def _resident() -> int:
    """Bytes of this process in memory, the worker's among them."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
