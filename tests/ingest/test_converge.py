"""Any order, any repetition and any delay of events ends in the newest state of the source; and a long random history too."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ingest.sqs import SqsIngestor
from tests.e2e.sides import Properties, Seen, Side
from tests.ingest.conftest import Rig
from tests.ingest.test_events import s3_body, s3_record
from tests.poll import eventually, within

PUT, DELETE = "ObjectCreated:Put", "ObjectRemoved:Delete"


@asynccontextmanager
async def following(rig: Rig) -> AsyncIterator[SqsIngestor]:
    ingestor, stop = rig.ingestor(), asyncio.Event()
    async with rig.worker():
        task = asyncio.create_task(ingestor.run(stop))
        try:
            yield ingestor
        finally:
            stop.set()
            await within(task, 15)
            await ingestor.dispatcher.close()


async def quiet(rig: Rig, timeout_s: float = 60.0) -> None:
    """The queue is empty and no object workflow of the route is open."""
    await eventually(lambda: rig.queue.left() == 0, timeout_s, interval_s=0.1)

    async def closed() -> bool:
        query = f'WorkflowType = "ReplicateObject" AND DrayageRoute = "{rig.route}" AND ExecutionStatus = "Running"'
        return not [run async for run in rig.client.list_workflows(query)]

    await eventually(closed, timeout_s, interval_s=0.1)


def event(rig: Rig, key: str, name: str) -> str:
    return s3_body(s3_record(key, name, bucket=rig.source.bucket))


async def test_events_that_come_while_the_source_changes_end_in_its_last_state(rig: Rig) -> None:
    """Each change is followed by an event of another change of the same key."""
    async with following(rig):
        for turn in range(12):
            names = [PUT, DELETE]
            if turn % 4 == 2:
                await asyncio.to_thread(rig.source.delete, "k")
            else:
                await asyncio.to_thread(rig.source.put, "k", b"v%d" % turn)
            rig.queue.send(event(rig, "k", names[turn % 2]))
        await quiet(rig)
    assert rig.is_replicated("k", b"v11")


async def test_a_hot_key_ends_right(rig: Rig) -> None:
    """How seldom it is signalled is counted in `test_burst.py`."""
    crowd = s3_body(*[s3_record("hot", PUT, bucket=rig.source.bucket)] * 20)
    await asyncio.to_thread(rig.source.put, "hot", b"first")
    async with following(rig) as ingestor:
        await asyncio.to_thread(rig.queue.send_many, [crowd] * 40)
        await asyncio.to_thread(rig.source.put, "hot", b"last")
        rig.queue.send(event(rig, "hot", PUT))
        await quiet(rig, 120)
        assert ingestor.counts["received"] >= 41
    assert rig.is_replicated("hot", b"last")


# --- a long random history of one bucket -------------------------------------------------------------------------------


class Driver:
    """Creates, overwrites, retags and deletes objects at random, as their owners would."""

    def __init__(self, side: Side, seed: int, keys: int) -> None:
        self._side = side
        self._random = random.Random(seed)
        self._keys = [f"dir {number % 7}/é+{number}" for number in range(keys)]

    def run(self, operations: int) -> None:
        present: set[str] = set()
        for number in range(operations):
            key = self._random.choice(self._keys)
            act = self._random.random()
            if key in present and act < 0.2:
                self._side.delete(key)
                present.discard(key)
                continue
            kind = "text/plain" if act < 0.6 else "application/json"
            data = b"same" if act < 0.4 else b"content %d" % number
            self._side.put(key, data, Properties(content_type=kind, metadata={"turn": str(number)}))
            present.add(key)


def equal(source: Seen | None, replica: Seen | None) -> bool:
    """The test's own comparison: content, and the properties that both sides hold."""
    if source is None or replica is None:
        return source is replica
    return (source.sha256, source.properties.content_type, source.properties.metadata) == (
        replica.sha256,
        replica.properties.content_type,
        replica.properties.metadata,
    )


def compared(source: Side, replica: Side) -> list[Any]:
    """Every key that differs."""
    keys = sorted(source.keys() | replica.keys())
    return [(key, source.see(key), replica.see(key)) for key in keys if not equal(source.see(key), replica.see(key))]


async def test_a_random_history_ends_equal_object_by_object(rig: Rig) -> None:
    rig.notify()
    async with following(rig):
        await asyncio.to_thread(Driver(rig.source, 7, keys=60).run, 500)
        await quiet(rig, 150)
    assert await asyncio.to_thread(compared, rig.source, rig.replica) == []
    assert len(rig.source.keys()) > 20
