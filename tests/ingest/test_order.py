"""Events that come twice, in any order, or years late: the replica follows the source, not the events."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from replication.ids import object_workflow_id
from tests.ingest.conftest import Rig
from tests.ingest.test_events import s3_body, s3_record
from tests.poll import eventually
from tests.proxy import FaultProxy

DUPLICATES = 50
HISTORY = ("ObjectCreated:Put", "ObjectCreated:Put", "ObjectRemoved:Delete", "ObjectCreated:Put")
"""v1, v2, gone, v3."""
ORDERS = {f"order-{''.join(map(str, order))}": order for order in itertools.permutations(range(len(HISTORY)))}
LOOK_S = 0.02


def old_event(rig: Rig, key: str, what: int) -> dict[str, Any]:
    """An event of `HISTORY` as moto sends it: format 2.1, without a sequencer."""
    record = s3_record(key, HISTORY[what], version="2.1", bucket=rig.source.bucket)
    del record["s3"]["object"]["sequencer"]
    return {**record, "eventTime": f"2020-01-01T00:00:{what:02}.000Z"}


async def settled(rig: Rig, timeout_s: float = 60) -> None:
    """Every message is deleted and no workflow of the route runs."""
    await eventually(lambda: rig.queue.left() == 0, timeout_s, interval_s=0.05)

    handles = [rig.client.get_workflow_handle(object_workflow_id(rig.route, key)) for key in rig.source.keys()]

    async def is_idle() -> bool:
        found = await asyncio.gather(*(handle.describe() for handle in handles))
        return all(workflow.close_time for workflow in found)

    await eventually(is_idle, 60, interval_s=0.1)


def writes(replica: FaultProxy) -> list[str]:
    """What was asked of the replica's bucket, besides the probe of the store's abilities."""
    found = replica.requests("PUT|POST|DELETE", r"^(?!.*/\.drayage/probe/)")
    return [f"{exchange.method} {exchange.target.rpartition('/')[2]}" for exchange in found]


async def test_fifty_duplicates_make_one_copy(rig: Rig) -> None:
    rig.source.put("k", b"once")
    async with rig.through() as (seen, _, replica):
        ingestor = seen.ingestor()
        rig.queue.send_many([rig.event("k")] * DUPLICATES)
        async with seen.worker(), seen.ingest(ingestor):
            await settled(rig)
            assert rig.is_replicated("k", b"once")
        assert writes(replica) == ["PUT k"]
    assert rig.queue.left() == 0


async def test_every_order_of_deliveries_ends_in_the_newest_version_and_never_goes_back(rig: Rig) -> None:
    for key in ORDERS:
        rig.source.put(key, b"v1")
    ingestor = rig.ingestor()
    async with rig.worker(), rig.ingest(ingestor):
        rig.queue.send_many([rig.event(key) for key in ORDERS])
        await settled(rig)
        assert all(rig.is_replicated(key, b"v1") for key in ORDERS)
        for key in ORDERS:
            rig.source.put(key, b"v3")
        async with watched(rig) as seen:
            for position in range(len(HISTORY)):
                rig.queue.send_many([s3_body(old_event(rig, key, order[position])) for key, order in ORDERS.items()])
                await settled(rig)
    assert all(rig.is_replicated(key, b"v3") for key in ORDERS)
    assert seen == {key: [b"v1", b"v3"] for key in ORDERS}
    assert ingestor.counts["started"] >= (1 + len(HISTORY)) * len(ORDERS), "every delivery was looked at"


@contextlib.asynccontextmanager
async def watched(rig: Rig) -> AsyncIterator[dict[str, list[bytes]]]:
    """What a reader sees at each key, in order, repetitions left out."""
    seen: dict[str, list[bytes]] = {key: [b"v1"] for key in ORDERS}

    def look() -> None:
        for key, versions in seen.items():
            found = rig.replica.client.get_object(Bucket=rig.replica.bucket, Key=key)["Body"].read()
            if found != versions[-1]:
                versions.append(found)

    async def read() -> None:
        while True:
            await asyncio.to_thread(look)
            await asyncio.sleep(LOOK_S)

    reader = asyncio.create_task(read())
    try:
        yield seen
        assert not reader.done(), "no replica was missing at any time"
        await asyncio.to_thread(look)
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def test_delete_event_after_recreate_leaves_the_replica(rig: Rig) -> None:
    rig.source.put("k", b"recreated")
    async with rig.through() as (seen, _, replica):
        async with seen.worker(), seen.ingest(seen.ingestor()):
            rig.queue.send(rig.event("k"))
            await rig.replicated("k", b"recreated")
            handle = rig.client.get_workflow_handle(object_workflow_id(rig.route, "k"))
            await handle.result()
            before, first = rig.replica.see("k"), (await handle.describe()).run_id
            rig.queue.send(rig.event("k", "ObjectRemoved:Delete"))
            await eventually(lambda: rig.queue.left() == 0, 10, interval_s=0.1)
            assert (await handle.describe()).run_id != first, "the delete event was looked at"
            assert (await handle.result())["outcome"] == "in_sync"
            assert rig.replica.see("k") == before
        assert writes(replica) == ["PUT k"]


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
async def test_a_redrive_of_old_events_writes_nothing(rig: Rig, count: int) -> None:
    keys = [f"k{number}" for number in range(20)]
    for key in keys:
        rig.source.put(key, key.encode())
    async with rig.through() as (seen, source, replica):
        ingestor = seen.ingestor(coalesce_s=0.5)
        async with seen.worker(), seen.ingest(ingestor):
            rig.queue.send_many([rig.event(key) for key in keys])
            await settled(rig)
            before, looks = writes(replica), len(source.log)
            assert sorted(before) == sorted(f"PUT {key}" for key in keys)
            events = [old_event(rig, keys[number % len(keys)], number // len(keys) % len(HISTORY)) for number in range(count)]
            rig.queue.send_many([s3_body(*events[at : at + 10]) for at in range(0, len(events), 10)])
            await settled(rig, 200)
        assert len(source.log) > looks, "the events were looked at"
        assert writes(replica) == before
    assert all(rig.is_replicated(key, key.encode()) for key in keys)
