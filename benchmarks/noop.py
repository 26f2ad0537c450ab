"""A worker whose workflow has one activity that does nothing: what the Temporal server itself can do here."""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import timedelta

import uvloop
from pydantic import BaseModel
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker


class NoopInput(BaseModel):
    route: str
    key: str


class NoopResult(BaseModel):
    key: str


@activity.defn
async def do_nothing(input: NoopInput) -> NoopResult:
    return NoopResult(key=input.key)


@workflow.defn(name="Noop")
class Noop:
    @workflow.run
    async def run(self, input: NoopInput) -> NoopResult:
        return await workflow.execute_activity(do_nothing, input, start_to_close_timeout=timedelta(minutes=1))


async def serve(address: str, queue: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    client = await Client.connect(address, data_converter=pydantic_data_converter)
    async with Worker(
        client,
        task_queue=queue,
        workflows=[Noop],
        activities=[do_nothing],
        max_concurrent_activities=100,
        max_concurrent_workflow_tasks=100,
    ):
        await stop.wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2]))
