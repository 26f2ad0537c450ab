"""Continue-as-new, wake-ups that must not get lost, and the one writer of a key."""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from embedded.temporal import TemporalServer
from replication.models import ANY, Attributes, Condition, ObjectInfo, Part
from stores.body import Body
from stores.memory import MemoryStore
from tests.conftest import running
from tests.lab import make_lab
from tests.poll import eventually
from tests.replay.scenarios import SHORT_HISTORIES, Faulty, chain, on_phase
from workflows.visibility import PHASE

KIB = 1 << 10


class Watched(MemoryStore):
    """Counts what is written, and how many writes to one key overlap. `gate` holds parts back while it is clear."""

    def __init__(self, name: str, bucket: str) -> None:
        super().__init__(name)
        self.create_bucket(bucket)
        self.parts: Counter[int] = Counter()
        self.puts: list[bytes] = []
        self.most_at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.hold_after: int | None = None
        self._writing = 0

    async def put(self, bucket: str, key: str, body: Body, attributes: Attributes, condition: Condition) -> ObjectInfo:
        if key.startswith(".drayage/"):
            return await super().put(bucket, key, body, attributes, condition)
        self._writing += 1
        self.most_at_once = max(self.most_at_once, self._writing)
        try:
            await asyncio.sleep(0.005)  # long enough for another writer to be seen
            info = await super().put(bucket, key, body, attributes, condition)
        finally:
            self._writing -= 1
        self.puts.append(await self.content(key, bucket))
        return info

    async def put_part(self, bucket: str, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        self.parts[number] += 1
        await asyncio.sleep(0.02 * (number % 4))  # so that the runs in flight do not end together
        if self.hold_after is not None and self.parts.total() > self.hold_after:
            await self.gate.wait()
        return await super().put_part(bucket, key, upload_id, number, offset, body)

    async def content(self, key: str, bucket: str) -> bytes:
        info = await self.head(bucket, key)
        if not info.size_bytes:
            return b""
        async with self.read(bucket, key, pin=info.version, offset=0, length=info.size_bytes) as chunks:
            return b"".join([chunk async for chunk in chunks])


def watched_stores() -> tuple[Watched, Watched]:
    return Watched("a", "src"), Watched("b", "dst")


async def write(store: MemoryStore, data: bytes, key: str = "k") -> None:
    await store.put("src", key, Body.of(data), Attributes(), ANY)


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def short_history_client() -> AsyncIterator[Client]:
    """A server that suggests continue-as-new after 50 events."""
    with running(TemporalServer(headless=True, dynamic_config=SHORT_HISTORIES)) as server:
        yield await Client.connect(server.address, namespace=server.namespace, data_converter=pydantic_data_converter)


MANY_RUNS: dict[str, Any] = {"parts": {"part_size": "4KiB", "one_shot_max": "1KiB", "concurrency": 4}, "worker": {"streams": 1}}


async def test_an_object_of_many_runs_continues_as_new_and_sends_no_part_twice(short_history_client: Client) -> None:
    source, destination = watched_stores()
    data = os.urandom(60 * 4 * KIB - 3)
    await write(source, data)
    lab = make_lab(short_history_client, source, destination, **MANY_RUNS)
    async with lab.worker():
        handle = await lab.start("k")
        result = await handle.result()
    runs = await chain(short_history_client, handle.id)
    types = Counter([kind for run in runs for kind in await event_types(short_history_client, handle.id, run)])

    assert len(runs) >= 3
    assert types[EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED] == 1 + 60 + 1
    assert types[EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED] == 0
    assert (result.outcome, result.bytes_copied, result.verification) == ("copied", len(data), "end-to-end")
    assert await destination.content("k", "dst") == data
    assert destination.parts == Counter(dict.fromkeys(range(1, 61), 1))
    assert [upload async for upload in destination.list_uploads("dst")] == []


async def event_types(client: Client, workflow_id: str, run_id: str) -> list[int]:
    return [event.event_type async for event in client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history_events()]


async def test_a_write_and_signals_during_continue_as_new_are_not_lost(short_history_client: Client) -> None:
    source, destination = watched_stores()
    destination.hold_after = 20
    destination.gate.clear()
    await write(source, os.urandom(40 * 4 * KIB))
    lab = make_lab(short_history_client, source, destination, **MANY_RUNS)
    async with lab.worker():
        handle = await lab.start("k")
        await eventually(lambda: destination.parts.total() > 20)
        await write(source, b"the last write")
        for number in range(5):
            await handle.signal("check", f"event {number}")
        destination.gate.set()
        await handle.result()

    assert len(await chain(short_history_client, handle.id)) >= 2
    assert await destination.content("k", "dst") == b"the last write"


async def test_a_pause_outlives_continue_as_new(short_history_client: Client) -> None:
    source, destination = watched_stores()
    destination.hold_after = 25
    destination.gate.clear()
    await write(source, os.urandom(40 * 4 * KIB))
    lab = make_lab(short_history_client, source, destination, **MANY_RUNS)
    async with lab.worker():
        handle = await lab.start("k")
        await eventually(lambda: destination.parts.total() > 25)
        latest = short_history_client.get_workflow_handle(handle.id)
        await latest.execute_update("pause")
        destination.gate.set()
        await eventually(lambda: _paused_phase(latest))
        stored = destination.parts.total()
        assert stored < 40
        await latest.execute_update("resume")
        assert (await handle.result()).outcome == "copied"

    assert set(destination.parts.values()) == {1}


async def test_an_object_that_waited_in_a_run_before_is_found_as_done(short_history_client: Client) -> None:
    """The phase that operators search for goes on with the runs; nothing but the last of them takes it away."""
    source, destination = Faulty("a", "src"), Faulty("b", "dst")
    await write(source, b"hello")
    source.unreachable = True
    lab = make_lab(short_history_client, source, destination)
    async with lab.worker():
        handle = await lab.start("k")
        await eventually(lambda: on_phase(lab, handle, "waiting"), 20)
        await asyncio.gather(*(handle.signal("noise") for _ in range(60)))
        source.unreachable = False
        await handle.signal("check", "cured")
        assert (await handle.result()).outcome == "copied"
        described = await short_history_client.get_workflow_handle(handle.id).describe()
        assert len(await chain(short_history_client, handle.id)) == 2
    assert described.typed_search_attributes.get(PHASE) == "done"


async def _paused_phase(handle: Any) -> bool:
    found: dict[str, Any] = await handle.query("progress")
    return bool(found["phase"] == "paused")


@pytest.mark.parametrize("seed", range(4))
async def test_the_replica_is_the_last_write_whenever_the_signals_come(temporal_client: Client, seed: int) -> None:
    """R30, bounded: writes with signal-with-start at random moments around completion; none of them may get lost."""
    rng = random.Random(seed)
    source, destination = watched_stores()
    lab = make_lab(temporal_client, source, destination)
    async with lab.worker():
        for number in range(60):
            await write(source, f"write {number} of seed {seed}".encode())
            handle = await lab.start("k", signal=True)
            if rng.random() < 0.3:
                await handle.result()
            else:
                await asyncio.sleep(rng.random() * 0.06)  # not a wait: the moment itself is what varies
        final = await handle.result()

    assert await destination.content("k", "dst") == f"write 59 of seed {seed}".encode()
    assert final.outcome in ("copied", "in_sync")
    assert destination.most_at_once == 1
    assert destination.puts == sorted(destination.puts, key=lambda data: int(data.split()[1]))


async def test_a_hundred_triggers_at_once_make_one_version_and_one_writer(temporal_client: Client) -> None:
    """R66: events, a reconciliation and commands on one key at the same moment."""
    source, destination = watched_stores()
    lab = make_lab(temporal_client, source, destination)
    key = f"k-{uuid.uuid4().hex}"
    await write(source, b"content", key)
    async with lab.worker():
        handles = await asyncio.gather(*(lab.start(key, signal=number % 2 == 0) for number in range(100)))
        results = await asyncio.gather(*(handle.result() for handle in handles))

    assert {result.outcome for result in results} <= {"copied", "in_sync"}
    assert destination.puts == [b"content"]
    assert destination.most_at_once == 1


async def test_a_paused_object_takes_any_number_of_signals(short_history_client: Client) -> None:
    """A run takes 10,000 signals. The history is kept short all the same, and the pause goes on."""
    source, destination = watched_stores()
    destination.hold_after = 0
    destination.gate.clear()
    await write(source, os.urandom(8 * 4 * KIB))
    lab = make_lab(short_history_client, source, destination, **MANY_RUNS)
    async with lab.worker():
        handle = await lab.start("k")
        await eventually(lambda: destination.parts.total() > 0)
        latest = short_history_client.get_workflow_handle(handle.id)
        await latest.execute_update("pause")
        destination.gate.set()
        await eventually(lambda: _paused_phase(latest))
        for number in range(200):
            await latest.signal("check", f"event {number}")
        await eventually(lambda: _paused_phase(latest))
        runs = await chain(short_history_client, handle.id)
        longest = [len(await event_types(short_history_client, handle.id, run)) for run in runs]
        await latest.execute_update("resume")
        assert (await handle.result()).outcome == "copied"

    assert len(runs) >= 3
    assert max(longest) < 150
    assert set(destination.parts.values()) == {1}
