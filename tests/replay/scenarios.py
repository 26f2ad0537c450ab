"""What `ReplicateObject`, passes and `Housekeeping` can live through, each as a run on a real server between memory stores.

Faults are made by stores that refuse on purpose: a real server cannot be made to fail at exactly one call.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from replication.errors import EndpointUnreachable, PreconditionFailed, ServerFault
from replication.ids import partition_id, reconcile_id
from replication.models import ANY, Attributes, HousekeepingInput, ObjectInfo, Part, Version
from replication.passes import LimitUpdate, PassInput, PassResult
from stores.body import Body
from stores.memory import MemoryStore
from tests.lab import Lab, make_lab
from tests.poll import eventually
from workflows.housekeeping import Housekeeping

MIB = 1 << 20
PARTS = {"part_size": "1MiB", "one_shot_max": "1MiB", "concurrency": 1}
Handles = list[WorkflowHandle[Any, Any]]
Scenario = Callable[[Client], Awaitable[Handles]]


class Faulty(MemoryStore):
    """Raises `errors` in turn, one for each write; `unreachable` heads fail; `held` parts wait for `release`."""

    def __init__(self, name: str, bucket: str) -> None:
        super().__init__(name)
        self.create_bucket(bucket)
        self.errors: list[Exception] = []
        self.unreachable = False
        self.held = False
        self.waiting = 0

    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        if self.unreachable:
            raise EndpointUnreachable("no route to the endpoint")
        return await super().head(bucket, key, tags=tags)

    async def put(self, bucket: str, key: str, body: Body, attributes: Attributes, condition: Any) -> ObjectInfo:
        if self.errors and not key.startswith(".drayage/"):
            raise self.errors.pop(0)
        return await super().put(bucket, key, body, attributes, condition)

    async def put_part(self, bucket: str, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        if self.held:
            self.waiting += 1
            await eventually(lambda: not self.held, 30.0)
        return await super().put_part(bucket, key, upload_id, number, offset, body)


def stores() -> tuple[Faulty, Faulty]:
    return Faulty("a", "src"), Faulty("b", "dst")


async def seed(store: MemoryStore, data: bytes, key: str = "k") -> Version:
    return (await store.put("src", key, Body.of(data), Attributes(), ANY)).version


async def small(client: Client) -> Handles:
    source, destination = stores()
    lab = make_lab(client, source, destination)
    await seed(source, b"hello")
    async with lab.worker():
        handle = await lab.start("k")
        await handle.result()
    return [handle]


async def multi_part(client: Client) -> Handles:
    source, destination = stores()
    lab = make_lab(client, source, destination, parts={**PARTS, "concurrency": 3}, worker={"streams": 2})
    await seed(source, os.urandom(7 * MIB + 1))
    async with lab.worker():
        handle = await lab.start("k")
        await handle.result()
    return [handle]


async def retried(client: Client) -> Handles:
    source, destination = stores()
    destination.errors = [ServerFault("500"), ServerFault("503")]
    lab = make_lab(client, source, destination)
    await seed(source, b"hello")
    async with lab.worker():
        handle = await lab.start("k")
        assert (await handle.result()).outcome == "copied"
    return [handle]


async def failed(client: Client) -> Handles:
    source, destination = stores()
    destination.errors = [ServerFault("500")] * 20
    lab = make_lab(client, source, destination)
    await seed(source, b"hello")
    async with lab.worker():
        handle = await lab.start("k")
        with suppress(WorkflowFailureError):
            await handle.result()
    return [handle]


async def waiting(client: Client) -> Handles:
    source, destination = stores()
    await seed(source, b"hello")
    source.unreachable = True
    lab = make_lab(client, source, destination)
    async with lab.worker():
        handle = await lab.start("k")
        await eventually(lambda: on_phase(lab, handle, "waiting"), 20.0)
        source.unreachable = False
        await handle.signal("check", "cured")
        assert (await handle.result()).outcome == "copied"
    return [handle]


async def fenced(client: Client) -> Handles:
    """The fence holds through one settling and its looks, and gives way after it."""
    source, destination = stores()
    destination.errors = [PreconditionFailed("412")] * 4
    lab = make_lab(client, source, destination)
    await seed(source, b"hello")
    async with lab.worker():
        handle = await lab.start("k")
        assert (await handle.result()).outcome == "copied"
    return [handle]


async def conflict(client: Client) -> Handles:
    source, destination = stores()
    destination.errors = [PreconditionFailed("412")] * 100
    lab = make_lab(client, source, destination)
    await seed(source, b"hello")
    async with lab.worker():
        handle = await lab.start("k")
        assert (await handle.result()).outcome == "conflict"
    return [handle]


async def cancelled(client: Client) -> Handles:
    source, destination = stores()
    destination.held = True
    lab = make_lab(client, source, destination, parts=PARTS)
    await seed(source, os.urandom(3 * MIB))
    async with lab.worker():
        handle = await lab.start("k")
        await eventually(lambda: destination.waiting > 0)
        await handle.cancel()
        with suppress(WorkflowFailureError):
            await handle.result()
    return [handle]


async def paused(client: Client) -> Handles:
    source, destination = stores()
    destination.held = True
    lab = make_lab(client, source, destination, parts=PARTS, worker={"streams": 1})
    await seed(source, os.urandom(2 * MIB))
    async with lab.worker():
        handle = await lab.start("k")
        await eventually(lambda: destination.waiting > 0)
        await handle.execute_update("pause")
        destination.held = False
        await eventually(lambda: on_phase(lab, handle, "paused"))
        await handle.execute_update("resume")
        await handle.result()
    return [handle]


async def signalled(client: Client) -> Handles:
    """The source is written again while its parts are on their way, and an event says so."""
    source, destination = stores()
    destination.held = True
    lab = make_lab(client, source, destination, parts=PARTS)
    await seed(source, os.urandom(2 * MIB))
    async with lab.worker():
        handle = await lab.start("k")
        await eventually(lambda: destination.waiting > 0)
        await seed(source, b"newer")
        await handle.signal("check", "event")
        destination.held = False
        await handle.result()
    return [handle]


async def blocked(client: Client) -> Handles:
    source, destination = stores()
    lab = make_lab(client, source, destination, buckets=("src", "missing"))
    await seed(source, b"hello")
    async with lab.worker():
        handle = await lab.start("k")
        with suppress(WorkflowFailureError):
            await handle.result()
    return [handle]


async def quarantined(client: Client) -> Handles:
    """The same, by code that keeps what rests in the ledger's quarantine."""
    return await blocked(client)


async def continued(client: Client) -> Handles:
    """More part runs than one history takes; every run of the chain."""
    source, destination = stores()
    lab = make_lab(client, source, destination, parts=PARTS | {"part_size": "4KiB", "one_shot_max": "1KiB"}, worker={"streams": 1})
    await seed(source, os.urandom(30 * 4096))
    async with lab.worker():
        handle = await lab.start("k")
        await handle.result()
    return [client.get_workflow_handle(handle.id, run_id=run) for run in await chain(client, handle.id)]


async def housekeeping(client: Client) -> Handles:
    source, destination = stores()
    await destination.begin_upload("dst", "k", Attributes())
    lab = make_lab(client, source, destination)
    async with lab.worker():
        handle = await client.start_workflow(
            Housekeeping.run, HousekeepingInput(older_than_s=0), id=f"housekeeping-{uuid.uuid4().hex}", task_queue=lab.queue
        )
        await handle.result()
    return [handle]


async def a_pass(client: Client) -> Handles:
    """Small objects, one that needs a workflow, one that fails, and one whose source is gone; paused and limited on the way."""
    source, destination = stores()
    lab = make_lab(client, source, destination, deletes="mirror", parts=PARTS)
    for number in range(3):
        await seed(source, b"small", f"k{number}")
    await seed(source, os.urandom(9 * MIB), "large")
    async with lab.worker():
        first = await start_pass(lab)
        await first.execute_update("pause")
        await first.execute_update("limit", LimitUpdate(requests_per_s=1000))
        await first.execute_update("resume")
        await first.result()
        await source.delete("src", "k1", (await source.head("src", "k1")).version)
        second = await start_pass(lab)
        await second.result()
    runs = [client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id) for handle in (first, second)]
    return [*runs, client.get_workflow_handle(partition_id("repair", lab.route, 0))]


async def start_pass(lab: Lab) -> WorkflowHandle[Any, PassResult]:
    return await lab.client.start_workflow(
        "ReconcileRoute", PassInput(route=lab.route), id=reconcile_id(lab.route), task_queue=lab.queue, result_type=PassResult
    )


async def on_phase(lab: Lab, handle: Any, phase: str) -> bool:
    return await lab.phase(handle) == phase


async def chain(client: Client, workflow_id: str) -> list[str]:
    """The ids of a workflow's runs, oldest first, read from the histories themselves."""
    newest = (await client.get_workflow_handle(workflow_id).describe()).run_id
    history = await client.get_workflow_handle(workflow_id, run_id=newest).fetch_history()
    first = history.events[0].workflow_execution_started_event_attributes.first_execution_run_id
    runs = [first]
    while runs[-1] != newest:
        events = (await client.get_workflow_handle(workflow_id, run_id=runs[-1]).fetch_history()).events
        runs.append(events[-1].workflow_execution_continued_as_new_event_attributes.new_execution_run_id)
    return runs


SCENARIOS: dict[str, tuple[Scenario, str]] = {
    "small": (small, "WORKFLOW_EXECUTION_COMPLETED"),
    "multi-part": (multi_part, "WORKFLOW_EXECUTION_COMPLETED"),
    "retried": (retried, "WORKFLOW_EXECUTION_COMPLETED"),
    "failed": (failed, "WORKFLOW_EXECUTION_FAILED"),
    "waiting": (waiting, "TIMER_STARTED"),
    "fenced": (fenced, "ACTIVITY_TASK_FAILED"),
    "conflict": (conflict, "ACTIVITY_TASK_FAILED"),
    "cancelled": (cancelled, "WORKFLOW_EXECUTION_CANCELED"),
    "paused": (paused, "WORKFLOW_EXECUTION_UPDATE_COMPLETED"),
    "signalled": (signalled, "WORKFLOW_EXECUTION_SIGNALED"),
    "blocked": (blocked, "WORKFLOW_EXECUTION_FAILED"),
    "quarantined": (quarantined, "MARKER_RECORDED"),
    "continued": (continued, "WORKFLOW_EXECUTION_CONTINUED_AS_NEW"),
    "pass": (a_pass, "WORKFLOW_EXECUTION_COMPLETED"),
    "housekeeping": (housekeeping, "WORKFLOW_EXECUTION_COMPLETED"),
}
"""Name -> (the run, an event that its first history must hold)."""

SHORT_HISTORIES = {"limit.historyCount.suggestContinueAsNew": 50}
"""Dynamic configuration of the server that `continued` needs."""
