"""Heartbeat details on a real worker: what one attempt leaves for the next."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from activities._progress import PartRecord, Pulse, PulseDetails
from replication.errors import IntegrityMismatch, ServerFault, StoreTimeout
from replication.limits import Capabilities
from replication.models import Checksums, ObjectInfo, Part, PartRunResult
from stores.body import Body
from stores.memory import MemoryStore
from tests.lab import Handle, make_lab
from tests.poll import eventually
from tests.replay.scenarios import Faulty, seed

MIB = 1 << 20


class Forgetful(MemoryStore):
    """Like SeaweedFS: lists parts without their checksums, so that only a record can vouch for one."""

    def __init__(self) -> None:
        super().__init__("b")
        self.create_bucket("dst")
        self.sent: Counter[int] = Counter()
        self.gate = asyncio.Event()

    async def put_part(self, bucket: str, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        self.sent[number] += 1
        if number > 3:
            await self.gate.wait()
        return await super().put_part(bucket, key, upload_id, number, offset, body)

    async def list_parts(self, bucket: str, key: str, upload_id: str) -> list[Part]:
        return [replace(part, crc32c=None) for part in await super().list_parts(bucket, key, upload_id)]


async def test_a_worker_that_stops_leaves_its_finished_parts_to_the_next(temporal_client: Client) -> None:
    source, destination = Faulty("a", "src"), Forgetful()
    data = os.urandom(6 * MIB)
    await seed(source, data)
    parts = {"part_size": "1MiB", "one_shot_max": "1MiB", "concurrency": 1}
    lab = make_lab(temporal_client, source, destination, parts=parts, worker={"streams": 6, "graceful_stop": "10ms"})
    async with lab.worker():
        handle = await lab.start("k")
        await eventually(lambda: destination.sent.total() == 6)
    destination.gate.set()
    async with lab.worker():
        result = await handle.result()

    runs = [run async for run in part_runs(handle)]
    assert result.outcome == "copied"
    assert result.verification == "end-to-end"
    assert destination.sent == Counter({1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 2})
    assert [(run.resumed_parts, run.bytes_copied) for run in runs] == [(3, 3 * MIB)]


class Untold(Faulty):
    """Publishes no checksums."""

    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        return replace(await super().head(bucket, key, tags=tags), checksums=Checksums())


class Unrefusing(MemoryStore):
    """Takes any bytes for a part and tells their checksum; the first answer is lost, and a byte of what it was for."""

    def __init__(self) -> None:
        super().__init__("b")
        self.create_bucket("dst")
        self.stored_wrong: list[Part] = []

    async def probe(self, bucket: str, *, writable: bool) -> Capabilities:
        return replace(await super().probe(bucket, writable=writable), part_checksum="response")

    async def put_part(self, bucket: str, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        if self.stored_wrong:
            return await super().put_part(bucket, key, upload_id, number, offset, body)
        data = await body.gather()
        flipped = Body.of(data[:-1] + bytes([data[-1] ^ 1]))
        self.stored_wrong.append(await super().put_part(bucket, key, upload_id, number, offset, flipped))
        raise StoreTimeout("the answer is lost")


async def test_a_part_that_a_store_took_wrong_is_sent_again_though_the_store_lists_it_with_a_checksum(temporal_client: Client) -> None:
    source, destination = Untold("a", "src"), Unrefusing()
    data = os.urandom(2 * MIB)
    await seed(source, data)
    lab = make_lab(temporal_client, source, destination, parts={"part_size": "1MiB", "one_shot_max": "1MiB"}, worker={"streams": 1})
    async with lab.worker():
        result = await lab.replicate("k")

    assert len(destination.stored_wrong) == 1
    assert (result.outcome, result.bytes_copied) == ("copied", len(data))
    info = await destination.head("dst", "k")
    async with destination.read("dst", "k", pin=info.version, offset=0, length=info.size_bytes) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == data


class Refusing(Faulty):
    """Refuses the first upload as a whole, as a store does that was given wrong parts."""

    refused = 0

    async def complete_upload(self, *args: Any, **kwargs: Any) -> ObjectInfo:
        if not self.refused:
            self.refused += 1
            raise IntegrityMismatch("BadDigest")
        return await super().complete_upload(*args, **kwargs)


async def test_an_upload_that_the_store_refuses_as_a_whole_is_begun_anew(temporal_client: Client) -> None:
    source, destination = Faulty("a", "src"), Refusing("b", "dst")
    data = os.urandom(2 * MIB)
    await seed(source, data)
    lab = make_lab(temporal_client, source, destination, parts={"part_size": "1MiB", "one_shot_max": "1MiB"})
    async with lab.worker():
        result = await lab.replicate("k")

    assert (destination.refused, result.outcome, result.verification) == (1, "copied", "end-to-end")
    assert [upload async for upload in destination.list_uploads("dst")] == []


async def part_runs(handle: Handle) -> AsyncIterator[PartRunResult]:
    """The results of the part runs, from the history."""
    async for event in handle.fetch_history_events():
        if event.HasField("activity_task_completed_event_attributes"):
            payloads = event.activity_task_completed_event_attributes.result.payloads
            if payloads and b"resumed_parts" in payloads[0].data:
                yield PartRunResult.model_validate_json(payloads[0].data)


async def test_failure_counts_survive_attempts_and_are_kept_apart(temporal_client: Client) -> None:
    """Five errors and three timeouts are all that F49 allows: the ninth attempt is the first that may succeed."""
    source, destination = Faulty("a", "src"), Faulty("b", "dst")
    destination.errors = [*[StoreTimeout("silence"), ServerFault("500")] * 3, *[ServerFault("500")] * 2]
    await seed(source, b"hello")
    lab = make_lab(temporal_client, source, destination)
    async with lab.worker():
        result = await lab.replicate("k")

    assert result.outcome == "copied"
    assert destination.errors == []


async def test_one_failure_more_than_the_schedule_allows_ends_the_retries(temporal_client: Client) -> None:
    source, destination = Faulty("a", "src"), Faulty("b", "dst")
    destination.errors = [ServerFault("500")] * 7
    await seed(source, b"hello")
    lab = make_lab(temporal_client, source, destination)
    async with lab.worker():
        with pytest.raises(WorkflowFailureError) as caught:
            await lab.replicate("k")

    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "server-fault"
    assert len(destination.errors) == 1


@pytest.mark.parametrize("recorded", [[], ["text"], [{"errors": "many"}], [None], None, [{"parts": [{}]}]])
def test_details_that_cannot_be_read_mean_a_start_from_zero(recorded: object) -> None:
    assert Pulse.resume(recorded).details == PulseDetails()


def test_details_come_back_as_they_were() -> None:
    details = PulseDetails(errors=2, timeouts=1, bytes_done=7, parts=[PartRecord(number=1, size_bytes=5, etag="e", crc32c=9)])
    assert Pulse.resume([details.model_dump(mode="json")]).details == details
