"""Passes that go on as new runs, and passes whose partitions do not come to their end."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError
from temporalio.worker import Worker

from embedded.temporal import TemporalServer
from ledger.ledger import Ledger
from replication.ids import object_workflow_id, partition_id, pass_workflow_id
from replication.limits import MIB
from replication.models import ANY, Attributes, Part
from replication.passes import (
    BeginPassInput,
    Begun,
    Counters,
    EndPassInput,
    ExtraInput,
    ExtraResult,
    KeyRange,
    LimitUpdate,
    PartitionInput,
    PartitionResult,
    PassInput,
    PassProgress,
    PassResult,
    PassSoFar,
    SplitInput,
    Steering,
    WeighInput,
)
from stores.body import Body
from stores.memory import MemoryStore
from tests.conftest import running
from tests.lab import Lab, make_lab
from tests.poll import eventually, within
from tests.replay.scenarios import SHORT_HISTORIES
from workflows.options import BULK_SUFFIX, UPDATES_PER_RUN
from workflows.passes import ReconcileRoute
from workflows.visibility import PHASE

ENDS: list[EndPassInput] = []


@workflow.defn(name="ReconcilePartition", sandboxed=False)
class Endless:
    """Ends as a partition does that is cancelled before its first step: without a result."""

    @workflow.run
    async def run(self, input: PartitionInput) -> PartitionResult:
        await asyncio.sleep(3600)
        return PartitionResult()


@activity.defn(name="begin_pass")
async def begin(input: BeginPassInput) -> Begun:
    return Begun()


@activity.defn(name="end_pass")
async def end(input: EndPassInput) -> None:
    ENDS.append(input)


async def test_a_partition_that_was_cancelled_by_itself_ends_the_pass_and_is_named(temporal_client: Client) -> None:
    queue, route = f"q-{uuid.uuid4()}", f"r{uuid.uuid4().hex[:8]}"
    async with Worker(temporal_client, task_queue=queue, workflows=[ReconcileRoute, Endless], activities=[begin, end]):
        handle = await temporal_client.start_workflow(ReconcileRoute.run, PassInput(route=route), id=f"reconcile:{route}", task_queue=queue)
        partition = temporal_client.get_workflow_handle(partition_id("repair", route, 0))

        async def running() -> bool:
            return (await handle.query(ReconcileRoute.progress)).partitions_open == 1

        await eventually(running, 20)
        await partition.cancel()
        with pytest.raises(WorkflowFailureError) as failed:
            await within(handle.result(), 20)
        assert isinstance(failed.value.cause, ApplicationError)
        assert failed.value.cause.type == "partition-cancelled"
    assert [(one.route, one.state, one.reason) for one in ENDS if one.route == route] == [(route, "failed", "partition-cancelled")]


@workflow.defn(name="ReconcilePartition", sandboxed=False)
class Empty:
    @workflow.run
    async def run(self, input: PartitionInput) -> PartitionResult:
        return PartitionResult()


class Deletions:
    """Weighs, or looks at a page, until `ends` is set; what it tells then is that the deletions are held, or where it `rests` first
    that the page is to be looked at again, and then that there is no other."""

    rests = False

    def __init__(self, *, weighs: bool) -> None:
        self._weighs = weighs
        self.begun, self.ends = asyncio.Event(), asyncio.Event()

    @activity.defn(name="begin_pass")
    async def begin(self, input: BeginPassInput) -> Begun:
        return Begun(mirror=True)

    @activity.defn(name="weigh_deletions")
    async def weigh(self, input: WeighInput) -> str:
        return await self._held() if self._weighs else ""

    @activity.defn(name="delete_extra")
    async def delete(self, input: ExtraInput) -> ExtraResult:
        held = await self._held()
        return ExtraResult(ended=bool(input.after), cursor="k") if self.rests else ExtraResult(held=held)

    @activity.defn(name="end_pass")
    async def end(self, input: EndPassInput) -> None:
        pass

    async def _held(self) -> str:
        self.begun.set()
        await self.ends.wait()
        return "too many"


async def has_asked_to_cancel(handle: WorkflowHandle[Any, Any]) -> bool:
    """Whether the workflow knows of its cancellation, and has handed it on to the activity under way."""
    events = (await handle.fetch_history()).events
    return any(event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED for event in events)


@pytest.mark.parametrize("weighs", [True, False])
@pytest.mark.parametrize("paused", [True, False])
async def test_a_pass_whose_last_step_before_a_wait_ends_well_is_cancelled_all_the_same(
    temporal_client: Client, weighs: bool, paused: bool
) -> None:
    """The activity is over before it hears of the cancellation, and gives its result."""
    queue, route, made = f"q-{uuid.uuid4()}", f"r{uuid.uuid4().hex[:8]}", Deletions(weighs=weighs)
    small = Worker(temporal_client, task_queue=queue, workflows=[ReconcileRoute, Empty], activities=[made.begin, made.weigh, made.end])
    async with small, Worker(temporal_client, task_queue=queue + BULK_SUFFIX, activities=[made.delete]):
        handle = await temporal_client.start_workflow(ReconcileRoute.run, PassInput(route=route), id=f"reconcile:{route}", task_queue=queue)
        await within(made.begun.wait(), 20)
        if paused:
            await handle.execute_update("pause")
        await handle.cancel()
        await eventually(lambda: has_asked_to_cancel(handle), 20)
        made.ends.set()
        with pytest.raises(WorkflowFailureError) as failed:
            await within(handle.result(), 10)
        assert isinstance(failed.value.cause, CancelledError)


async def test_a_run_that_finds_nothing_to_hold_any_more_does_not_say_that_it_is_held(temporal_client: Client) -> None:
    queue, route, made = f"q-{uuid.uuid4()}", f"r{uuid.uuid4().hex[:8]}", Deletions(weighs=False)
    held = PassProgress(route=route, state="held", held="too many", pass_id="p")
    asked = PassInput(route=route, so_far=PassSoFar(progress=held, begun=Begun(mirror=True), phase="deletions"))
    small = Worker(temporal_client, task_queue=queue, workflows=[ReconcileRoute, Empty], activities=[made.weigh, made.end])
    async with small, Worker(temporal_client, task_queue=queue + BULK_SUFFIX, activities=[made.delete]):
        handle = await temporal_client.start_workflow(ReconcileRoute.run, asked, id=f"reconcile:{route}", task_queue=queue)
        await within(made.begun.wait(), 20)
        progress = await handle.query(ReconcileRoute.progress)
        assert (progress.state, progress.held) == ("running", "")
        assert (await handle.describe()).typed_search_attributes.get(PHASE) == "settling"
        made.rests = True
        made.ends.set()
        assert (await within(handle.result(), 20)).state == "done"


class Unsplittable:
    """Leaves a rest that cannot be split while another partition is open, and counts where it is asked to end."""

    @activity.defn(name="split_range")
    async def split(self, input: SplitInput) -> list[KeyRange]:
        if input.keys.after == "1":
            return [KeyRange(after="1", up_to="2"), KeyRange(after="2")]
        raise ApplicationError("no", type="bucket-not-found", non_retryable=True)


@workflow.defn(name="ReconcilePartition", sandboxed=False)
class Counting:
    @workflow.run
    async def run(self, input: PartitionInput) -> PartitionResult:
        number = input.scan.number
        if number < 2:
            return PartitionResult(counters=Counters(copied=1), rest=KeyRange(after=str(number + 1)))
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        return PartitionResult(counters=Counters(copied=100), problem="partition-cancelled: asked to end")


async def test_a_pass_that_cannot_split_a_range_ends_its_partitions_and_counts_what_they_did(temporal_client: Client) -> None:
    queue, route = f"q-{uuid.uuid4()}", f"r{uuid.uuid4().hex[:8]}"
    split = Unsplittable().split
    async with Worker(temporal_client, task_queue=queue, workflows=[ReconcileRoute, Counting], activities=[begin, end, split]):
        handle = await temporal_client.start_workflow(ReconcileRoute.run, PassInput(route=route), id=f"reconcile:{route}", task_queue=queue)
        with pytest.raises(WorkflowFailureError):
            await within(handle.result(), 20)
    (ended,) = [one for one in ENDS if one.route == route]
    assert (ended.state, ended.reason, ended.counters.copied) == ("failed", "bucket-not-found", 102)


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def short_history_client() -> AsyncIterator[Client]:
    """A server that suggests continue-as-new after 50 events."""
    with running(TemporalServer(headless=True, dynamic_config=SHORT_HISTORIES)) as server:
        yield await Client.connect(server.address, namespace=server.namespace, data_converter=pydantic_data_converter)


async def test_a_pass_that_is_paused_before_its_deletions_takes_updates_without_end(short_history_client: Client) -> None:
    queue, route, made = f"q-{uuid.uuid4()}", f"r{uuid.uuid4().hex[:8]}", Deletions(weighs=False)
    name = f"reconcile:{route}"
    small = Worker(short_history_client, task_queue=queue, workflows=[ReconcileRoute, Empty], activities=[made.begin, made.weigh, made.end])
    async with small, Worker(short_history_client, task_queue=queue + BULK_SUFFIX, activities=[made.delete]):
        await short_history_client.start_workflow(ReconcileRoute.run, PassInput(route=route), id=name, task_queue=queue)
        handle = short_history_client.get_workflow_handle(name)
        await within(made.begun.wait(), 20)
        await handle.execute_update("pause")
        made.rests = True
        made.ends.set()
        for number in range(30):
            await handle.execute_update("limit", LimitUpdate(requests_per_s=1 + number))

        async def suspended() -> bool:
            query = f"WorkflowId = '{name}' AND ExecutionStatus = 'ContinuedAsNew'"
            return bool([run async for run in short_history_client.list_workflows(query)])

        await eventually(suspended, 20)
        assert (await handle.query("progress"))["state"] == "paused"
        await handle.execute_update("resume")
        result = await within(short_history_client.get_workflow_handle(name, result_type=PassResult).result(), 20)
    assert result.state == "done"


@pytest.fixture
def stores() -> tuple[MemoryStore, MemoryStore]:
    source, destination = MemoryStore("a"), MemoryStore("b")
    source.create_bucket("src")
    destination.create_bucket("dst")
    return source, destination


async def put(store: MemoryStore, bucket: str, keys: list[str]) -> None:
    for key in keys:
        await store.put(bucket, key, Body.of(key.encode()), Attributes(), ANY)


async def keys_of(store: MemoryStore, bucket: str) -> list[str]:
    return [entry.key async for page in store.list_objects(bucket) for entry in page if not entry.key.startswith(".drayage/")]


async def start(lab: Lab, **asked: Any) -> WorkflowHandle[Any, PassResult]:
    wanted, name = PassInput(route=lab.route, **asked), pass_workflow_id("repair", lab.route)
    return await lab.client.start_workflow(ReconcileRoute.run, wanted, id=name, task_queue=lab.queue)


async def runs_of(lab: Lab) -> list[WorkflowExecutionStatus | None]:
    query = f"WorkflowId = '{pass_workflow_id('repair', lab.route)}'"
    return [run.status async for run in lab.client.list_workflows(query)]


async def test_a_long_pass_goes_on_in_runs_that_count_and_remember_as_one(
    short_history_client: Client, stores: tuple[MemoryStore, MemoryStore]
) -> None:
    source, destination = stores
    lab = make_lab(short_history_client, source, destination, deletes={"mode": "mirror", "max_objects": 10, "max_percent": 100})
    keys, gone = [f"k{number:04}" for number in range(1_200)], [f"k{number:04}-old" for number in range(0, 1_200, 30)]
    await put(source, "src", [*keys, *gone])
    async with lab.worker():
        first = await (await start(lab)).result()
        assert (first.counters.copied, first.state) == (1_240, "done")
        for key in gone:
            await source.delete("src", key, (await source.head("src", key)).version)
        await put(source, "src", [f"new{number:04}" for number in range(900)])
        handle = await start(lab, stretch=20, limits=LimitUpdate(requests_per_s=5_000))

        async def held() -> bool:
            return bool((await handle.query(ReconcileRoute.progress)).held)

        await eventually(held, 60)
        assert await handle.execute_update(ReconcileRoute.approve) == "40 deletions, more than 10"
        result = await within(handle.result(), 60)
        progress = await lab.client.get_workflow_handle(handle.id).query("progress", result_type=dict)
    counters = result.counters
    assert (counters.listed, counters.copied, counters.skipped, counters.deleted, counters.extra) == (2_100, 900, 1_200, 40, 40)
    assert result.state == "done"
    assert progress["steering"] == Steering(requests_per_s=5_000).model_dump(), "limits hold for all runs"
    assert await keys_of(destination, "dst") == await keys_of(source, "src")
    statuses = await runs_of(lab)
    assert statuses.count(WorkflowExecutionStatus.CONTINUED_AS_NEW) > 1, "it was long enough to prove something"
    ledger = Ledger(lab.settings.ledger)
    recorded = [(one.pass_id, one.state, one.counters["copied"]) for one in await ledger.passes(lab.route)]
    await ledger.close()
    assert (result.pass_id, "done", 900) in recorded
    assert len(recorded) == 2, "one entry for each pass, however many runs it had"


async def test_a_pass_takes_more_updates_than_a_run_may_have(temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]) -> None:
    source, destination = stores
    lab = make_lab(temporal_client, source, destination)
    await put(source, "src", [f"k{number:03}" for number in range(300)])
    async with lab.worker():
        handle = await start(lab, stretch=50, limits=LimitUpdate(concurrency=1, requests_per_s=1))
        latest = lab.client.get_workflow_handle(handle.id)
        for number in range(UPDATES_PER_RUN + 20):
            await latest.execute_update("limit", LimitUpdate(requests_per_s=1 + number / UPDATES_PER_RUN))

        async def again() -> bool:
            return (await runs_of(lab)).count(WorkflowExecutionStatus.CONTINUED_AS_NEW) == 1

        await latest.execute_update("limit", LimitUpdate(requests_per_s=0, concurrency=0))
        await eventually(again, 60)
        result = await within(handle.result(), 60)
    assert (result.counters.copied, result.state) == (300, "done")


class Slow(MemoryStore):
    """Parts wait until `may_go` is set."""

    may_go: asyncio.Event

    async def put_part(self, bucket: str, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        await self.may_go.wait()
        return await super().put_part(bucket, key, upload_id, number, offset, body)


async def test_a_pass_that_is_cancelled_while_its_last_large_object_is_under_way_counts_the_others(temporal_client: Client) -> None:
    source, destination = MemoryStore("a"), Slow("b")
    source.create_bucket("src")
    destination.create_bucket("dst")
    destination.may_go = asyncio.Event()
    await put(source, "src", [f"k{number:02}" for number in range(30)])
    source.put_synthetic("src", "large", 9 * MIB)
    lab = make_lab(temporal_client, source, destination, parts={"part_size": "5MiB", "one_shot_max": "5MiB"})
    async with lab.worker():
        handle = await start(lab)
        partition = temporal_client.get_workflow_handle(partition_id("repair", lab.route, 0))

        async def scanned() -> bool:
            with suppress(RPCError):  # it has not begun yet
                return bool((await partition.query("progress"))["counters"]["copied"] == 30)
            return False

        await eventually(scanned, 20)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        progress = await handle.query("progress")
        destination.may_go.set()
        await temporal_client.get_workflow_handle(object_workflow_id(lab.route, "large")).result()
    assert (progress["state"], progress["counters"]["copied"]) == ("cancelled", 30)


async def test_a_pass_that_is_reset_is_the_same_pass(temporal_client: Client, stores: tuple[MemoryStore, MemoryStore]) -> None:
    """Its deletions, findings and leaves go by its id, and some are from before the point that it was reset to."""
    source, destination = stores
    lab = make_lab(temporal_client, source, destination, deletes={"mode": "mirror", "max_objects": 1})
    await put(source, "src", [f"k{number:02}" for number in range(30)])
    async with lab.worker():
        await (await start(lab)).result()
        for key in ("k00", "k01"):
            await source.delete("src", key, (await source.head("src", key)).version)
        begun = await start(lab)
        handle = lab.client.get_workflow_handle(begun.id, result_type=PassResult)

        async def held() -> bool:
            return bool((await handle.query(ReconcileRoute.progress)).held)

        await eventually(held, 20)
        await reset(lab.client, begun.id, before="weigh_deletions")
        await eventually(held, 20)
        await handle.execute_update(ReconcileRoute.approve)
        result = await handle.result()
    assert (result.pass_id, result.state, result.counters.deleted) == (begun.first_execution_run_id, "done", 2)
    assert await keys_of(destination, "dst") == await keys_of(source, "src")
    ledger = Ledger(lab.settings.ledger)
    recorded = await ledger.find_pass(result.pass_id)
    await ledger.close()
    assert recorded is not None
    assert recorded.state == "done"


async def reset(client: Client, workflow_id: str, *, before: str) -> None:
    """To the end of the last workflow task before the one that scheduled an activity."""
    history = await client.get_workflow_handle(workflow_id).fetch_history()
    scheduled = next(event for event in history.events if event.activity_task_scheduled_event_attributes.activity_type.name == before)
    wanted = scheduled.activity_task_scheduled_event_attributes.workflow_task_completed_event_id
    execution = WorkflowExecution(workflow_id=workflow_id, run_id=history.run_id)
    request = ResetWorkflowExecutionRequest(
        namespace=client.namespace,
        workflow_execution=execution,
        reason="test",
        workflow_task_finish_event_id=wanted,
        request_id=uuid.uuid4().hex,
    )
    await client.workflow_service.reset_workflow_execution(request)
