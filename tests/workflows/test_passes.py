"""A pass whose partitions do not come to their end."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from replication.ids import partition_id
from replication.passes import BeginPassInput, Begun, EndPassInput, PartitionInput, PartitionResult, PassInput
from tests.poll import eventually
from workflows.passes import ReconcileRoute

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
            await asyncio.wait_for(handle.result(), 20)
        assert isinstance(failed.value.cause, ApplicationError)
        assert failed.value.cause.type == "partition-cancelled"
    assert [(one.route, one.state, one.reason) for one in ENDS] == [(route, "failed", "partition-cancelled")]
