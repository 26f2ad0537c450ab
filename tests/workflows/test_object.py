"""`ReplicateObject` on a real Temporal server, between two memory stores (the reference model of a strict store)."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import NamedTuple

import pytest
import pytest_asyncio
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowHistory
from temporalio.exceptions import ApplicationError, CancelledError

from ledger.ledger import Ledger
from replication.errors import PreconditionFailed
from replication.limits import Capabilities
from replication.mark import parse_mark
from replication.models import Attributes, Condition, ObjectInfo, ReplicateObjectResult
from stores.body import Body
from stores.memory import MemoryStore
from tests.lab import Handle, Lab, make_lab
from tests.poll import eventually, within
from workflows.options import CONFLICT_LOOKS

MIB = 1 << 20


@pytest.fixture
def stores() -> tuple[MemoryStore, MemoryStore]:
    source, destination = MemoryStore("a"), MemoryStore("b")
    source.create_bucket("src")
    destination.create_bucket("dst")
    return source, destination


async def seed(store: MemoryStore, key: str, data: bytes, **attributes: object) -> ObjectInfo:
    return await store.put("src", key, Body.of(data), Attributes(**attributes), Condition("any"))  # type: ignore[arg-type]


async def content(store: MemoryStore, key: str, bucket: str = "dst") -> bytes:
    info = await store.head(bucket, key)
    if not info.size_bytes:
        return b""
    async with store.read(bucket, key, pin=info.version, offset=0, length=info.size_bytes) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def failure(handle: Handle) -> tuple[str, ReplicateObjectResult]:
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    cause = caught.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type is not None
    return cause.type, ReplicateObjectResult.model_validate(cause.details[0])


async def history(handle: Handle) -> WorkflowHistory:
    return await handle.fetch_history()


async def test_a_small_object_is_copied_in_at_most_12_events(temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]) -> None:
    lab = make_lab(temporal_client, *stores)
    await seed(stores[0], "k", b"hello", content_type="text/plain", metadata={"owner": "me"})
    async with lab.worker():
        started_by_hand = await lab.start("k", attributes=False)
        result = await started_by_hand.result()

    assert (result.outcome, result.reason, result.bytes_copied, result.verification) == ("copied", "replica-absent", 5, "end-to-end")
    assert await content(stores[1], "k") == b"hello"
    stored = await stores[1].head("dst", "k")
    assert stored.attributes.content_type == "text/plain"
    assert stored.attributes.metadata["owner"] == "me"
    mark = parse_mark(stored.attributes.metadata)
    assert mark is not None
    assert mark.route == lab.route
    assert len((await history(started_by_hand)).events) <= 12


async def test_a_second_look_finds_the_replica_in_sync(temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]) -> None:
    lab = make_lab(temporal_client, *stores)
    await seed(stores[0], "k", b"hello")
    async with lab.worker():
        await lab.replicate("k")
        before = await stores[1].head("dst", "k")
        result = await lab.replicate("k")

    assert (result.outcome, result.bytes_copied) == ("in_sync", 0)
    assert (await stores[1].head("dst", "k")).version == before.version


@pytest.mark.parametrize("size", [0, 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 10 * MIB, 10 * MIB + 7])
async def test_sizes_around_the_part_boundaries_arrive_whole(
    temporal_client: Client, stores: tuple[MemoryStore, MemoryStore], size: int
) -> None:
    lab = make_lab(temporal_client, *stores, parts={"part_size": "5MiB", "one_shot_max": "5MiB", "concurrency": 2})
    data = os.urandom(size)
    await seed(stores[0], "k", data)
    async with lab.worker():
        result = await lab.replicate("k")

    assert (result.outcome, result.bytes_copied, result.verification) == ("copied", size, "end-to-end")
    assert await content(stores[1], "k") == data
    assert [upload async for upload in stores[1].list_uploads("dst")] == []


async def test_a_changed_source_replaces_the_replica(temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]) -> None:
    lab = make_lab(temporal_client, *stores)
    await seed(stores[0], "k", b"one")
    async with lab.worker():
        await lab.replicate("k")
        await seed(stores[0], "k", b"two!")
        result = await lab.replicate("k")

    assert (result.outcome, result.reason) == ("copied", "source-newer")
    assert await content(stores[1], "k") == b"two!"


async def test_changed_attributes_travel_without_the_bytes(temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]) -> None:
    lab = make_lab(temporal_client, *stores)
    await seed(stores[0], "k", b"one", metadata={"a": "1"}, tags={"t": "1"})
    async with lab.worker():
        await lab.replicate("k")
        info = await stores[0].head("src", "k")
        await stores[0].update_attributes("src", "k", info.version, Attributes(metadata={"a": "2"}, tags={"t": "2"}))
        result = await lab.replicate("k")

    assert (result.outcome, result.bytes_copied) == ("updated", 0)
    stored = await stores[1].head("dst", "k")
    assert stored.attributes.metadata["a"] == "2"
    assert stored.attributes.tags == {"t": "2"}


async def test_a_signal_causes_one_more_look_and_never_a_second_writer(
    temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]
) -> None:
    lab = make_lab(temporal_client, *stores)
    await seed(stores[0], "k", b"one")
    handles = [await lab.start("k", signal=True) for _ in range(5)]
    async with lab.worker():
        results = await asyncio.gather(*(handle.result() for handle in handles))

    assert {result.outcome for result in results} == {"copied"}
    assert len({handle.result_run_id or handle.first_execution_run_id for handle in handles}) <= 2


async def test_an_absent_source_and_replica_are_in_sync(temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]) -> None:
    lab = make_lab(temporal_client, *stores)
    async with lab.worker():
        result = await lab.replicate("nothing-here")

    assert (result.outcome, result.reason) == ("in_sync", "both-absent")


async def test_a_missing_bucket_blocks_and_is_cured_by_the_next_start(
    temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]
) -> None:
    lab = make_lab(temporal_client, *stores, buckets=("src", "later"))
    await seed(stores[0], "k", b"hello")
    async with lab.worker():
        blocked = await lab.start("k")
        reason, result = await failure(blocked)
        stores[1].create_bucket("later")
        cured = await lab.replicate("k")

    assert (reason, result.outcome) == ("bucket-not-found", "blocked")
    assert cured.outcome == "copied"


@pytest.mark.parametrize(("key", "reason"), [("", "key-invalid"), ("x" * 1025, "key-invalid")])
async def test_a_key_that_no_store_can_hold_blocks(
    temporal_client: Client, stores: tuple[MemoryStore, MemoryStore], key: str, reason: str
) -> None:
    lab = make_lab(temporal_client, *stores)
    async with lab.worker():
        assert (await failure(await lab.start(key)))[0] == reason


async def test_an_unknown_route_blocks(temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]) -> None:
    lab = make_lab(temporal_client, *stores)
    async with lab.worker():
        handle = await temporal_client.start_workflow(
            "ReplicateObject", {"route": "nowhere", "key": "k"}, id=f"object:nowhere:{uuid.uuid4()}", task_queue=lab.queue
        )
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()

    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "route-unknown"


async def test_input_that_does_not_validate_fails_instead_of_hanging(
    temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]
) -> None:
    lab = make_lab(temporal_client, *stores)
    async with lab.worker():
        handle = await temporal_client.start_workflow("ReplicateObject", {"rout": 7}, id=f"bad-{uuid.uuid4()}", task_queue=lab.queue)
        with pytest.raises(WorkflowFailureError):
            await handle.result()


@pytest_asyncio.fixture(loop_scope="session")
async def paused(temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]) -> AsyncIterator[Paused]:
    """An object of three parts that was paused while its first part is under way."""
    source, destination = stores
    held = GatedStore(destination)
    parts = {"part_size": "1MiB", "one_shot_max": "1MiB", "concurrency": 1}
    lab = make_lab(temporal_client, source, held, parts=parts, worker={"streams": 1})
    await seed(source, "k", os.urandom(3 * MIB))
    async with lab.worker():
        handle = await lab.start("k")
        await eventually(lambda: held.waiting == 1)
        await handle.execute_update("pause")
        yield Paused(lab, handle, held)


async def test_pause_holds_the_next_step_until_resume(paused: Paused) -> None:
    lab, handle, held = paused
    held.gate.set()
    await eventually(lambda: on_phase(lab, handle, "paused"))
    started = held.waiting
    await handle.execute_update("resume")
    result = await handle.result()

    assert started == 1
    assert held.waiting == 3
    assert result.outcome == "copied"


async def on_phase(lab: Lab, handle: Handle, phase: str) -> bool:
    return await lab.phase(handle) == phase


async def test_cancellation_cleans_up_before_it_closes(temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]) -> None:
    source, destination = stores
    held = GatedStore(destination)
    lab = make_lab(temporal_client, source, held, parts={"part_size": "5MiB", "one_shot_max": "5MiB"})
    await seed(source, "k", os.urandom(12 * MIB))
    async with lab.worker():
        handle = await lab.start("k")
        await eventually(lambda: held.waiting > 0)
        assert [upload async for upload in destination.list_uploads("dst")] != []
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        left = [upload async for upload in destination.list_uploads("dst")]

    assert left == []
    assert (await handle.describe()).status is not None


async def test_a_cancellation_holds_though_the_step_under_way_ends_well(
    temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]
) -> None:
    """The run of parts is over before its activity hears of the cancellation, and gives its result."""
    source, destination = stores
    held = GatedStore(destination)
    lab = make_lab(
        temporal_client, source, held, parts={"part_size": "1MiB", "one_shot_max": "1MiB", "concurrency": 1}, worker={"streams": 1}
    )
    await seed(source, "k", os.urandom(3 * MIB))
    async with lab.worker():
        handle = await lab.start("k")
        await eventually(lambda: held.waiting == 1)
        await handle.cancel()
        held.gate.set()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        history = await handle.fetch_history()

    ended = [event.event_type for event in history.events]
    assert EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED not in ended, "the step under way ended well"
    assert ended[-1] == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED
    assert held.waiting == 1
    assert [upload async for upload in destination.list_uploads("dst")] == []


async def test_an_object_is_cancelled_though_it_was_paused_and_the_step_under_way_ends_well(paused: Paused) -> None:
    _, handle, held = paused
    await handle.cancel()
    await eventually(lambda: has_asked_to_cancel(handle))
    held.gate.set()
    with pytest.raises(WorkflowFailureError) as failed:
        await within(handle.result(), 20)

    assert isinstance(failed.value.cause, CancelledError)
    assert [upload async for upload in held.list_uploads("dst")] == []


async def has_asked_to_cancel(handle: Handle) -> bool:
    """Whether the workflow knows of its cancellation, and has handed it on to the activity under way."""
    events = (await handle.fetch_history()).events
    return any(event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED for event in events)


class GatedStore(MemoryStore):
    """A memory store that shares another's content and holds every part back until its gate opens."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner.name)
        self.__dict__.update(inner.__dict__)
        self.gate = asyncio.Event()
        self.waiting = 0

    async def put_part(self, bucket, key, upload_id, number, offset, body):  # type: ignore[no-untyped-def]
        self.waiting += 1
        await self.gate.wait()
        return await super().put_part(bucket, key, upload_id, number, offset, body)


class UnfencedStore(MemoryStore):
    """A store that ignores every condition without a word, as some endpoints do. A stranger may write just before us."""

    stranger: bytes | None = None
    late_stranger: bytes | None = None

    async def probe(self, bucket: str, *, writable: bool) -> Capabilities:
        found = await super().probe(bucket, writable=writable)
        return replace(found, conditional_writes=False, conditional_completes=False, conditional_deletes=False)

    async def put(self, bucket: str, key: str, body: Body, attributes: Attributes, condition: Condition) -> ObjectInfo:
        info = await super().put(bucket, key, body, attributes, Condition("any"))
        if self.late_stranger is not None:
            data, self.late_stranger = self.late_stranger, None
            await super().put(bucket, key, Body.of(data), Attributes(), Condition("any"))
        return info

    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        if not tags and self.stranger is not None:  # the last look before the write
            data, self.stranger = self.stranger, None
            await super().put(bucket, key, Body.of(data), Attributes(), Condition("any"))
        return await super().head(bucket, key, tags=tags)


@pytest.mark.parametrize("when", ["stranger", "late_stranger"])
async def test_a_store_without_conditional_writes_is_looked_at_before_and_after(temporal_client: Client, when: str) -> None:
    source, destination = MemoryStore("a"), UnfencedStore("b")
    source.create_bucket("src")
    destination.create_bucket("dst")
    await seed(source, "k", b"ours")
    lab = make_lab(temporal_client, source, destination, foreign="conflict")
    setattr(destination, when, b"a stranger's")
    async with lab.worker():
        result = await lab.replicate("k")

    assert getattr(destination, when) is None  # the stranger did write
    assert result.outcome == "conflict"
    assert await content(destination, "k") == b"a stranger's"


class RestlessStore(MemoryStore):
    """A destination that somebody changes just before each of our writes."""

    lost = 0

    async def put(self, bucket: str, key: str, body: Body, attributes: Attributes, condition: Condition) -> ObjectInfo:
        if key == "k":
            self.lost += 1
            raise PreconditionFailed("somebody was faster")
        return await super().put(bucket, key, body, attributes, condition)


async def test_an_object_whose_destination_never_rests_is_in_conflict_and_in_quarantine(temporal_client: Client) -> None:
    source, destination = MemoryStore("a"), RestlessStore("b")
    source.create_bucket("src")
    destination.create_bucket("dst")
    await seed(source, "k", b"ours")
    lab = make_lab(temporal_client, source, destination)
    async with lab.worker():
        result = await lab.replicate("k")
    assert (result.outcome, result.reason) == ("conflict", "precondition-failed")
    assert destination.lost >= CONFLICT_LOOKS
    ledger = Ledger(lab.settings.ledger)
    resting = await ledger.find_quarantined(lab.route, "k")
    await ledger.close()
    assert resting is not None
    assert resting.reason == "precondition-failed"


async def test_ten_thousand_parts_stay_within_every_limit(temporal_client: Client) -> None:
    source, destination = MemoryStore("a"), MemoryStore("b", keep_bytes=False)
    source.create_bucket("src")
    destination.create_bucket("dst")
    small = replace(destination.limits, min_part_size=1)
    destination.limits = small
    info = source.put_synthetic("src", "k", 10_000 * 4096 - 5, seed=7)
    lab = make_lab(temporal_client, source, destination, parts={"part_size": "4KiB", "one_shot_max": "1KiB", "concurrency": 8})
    async with lab.worker():
        handle = await lab.start("k")
        result = await handle.result()

    assert result.outcome == "copied"
    assert result.bytes_copied == info.size_bytes
    assert result.crc32c == info.checksums.crc32c
    events = (await history(handle)).to_json_dict()["events"]
    assert len(events) < 1_500
    assert max(len(json.dumps(event)) for event in events) < 256 * 1024


class Paused(NamedTuple):
    lab: Lab
    handle: Handle
    held: GatedStore
