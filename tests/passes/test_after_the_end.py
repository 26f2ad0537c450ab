"""What a pass leaves open when it ends goes on by itself."""

from __future__ import annotations

from contextlib import suppress

from temporalio.client import Client, WorkflowFailureError

from replication.ids import object_workflow_id, reconcile_id
from replication.limits import MIB
from replication.models import ABSENT, Attributes
from replication.passes import LimitUpdate, PassInput, PassResult
from stores.body import Body
from stores.memory import MemoryStore
from tests.lab import make_lab
from tests.poll import eventually


async def test_the_limits_of_a_pass_end_with_it(temporal_client: Client) -> None:
    """Nobody could change them any more. At this rate the object takes ten minutes."""
    source, destination = MemoryStore("a"), MemoryStore("b")
    source.create_bucket("src")
    destination.create_bucket("dst")
    source.put_synthetic("src", "large", 10 * MIB)
    lab = make_lab(temporal_client, source, destination)
    handle = temporal_client.get_workflow_handle(object_workflow_id(lab.route, "large"))
    asked = PassInput(route=lab.route, limits=LimitUpdate(bytes_per_s=MIB / 60))
    async with lab.worker():
        begun = await temporal_client.start_workflow("ReconcileRoute", asked, id=reconcile_id(lab.route), task_queue=lab.queue)

        async def copies() -> bool:
            with suppress(Exception):
                return bool((await handle.query("progress"))["phase"] == "copying")
            return False

        await eventually(copies, 20.0)
        await begun.cancel()
        with suppress(WorkflowFailureError):
            await begun.result()
        assert (await handle.describe()).close_time is None

        async def has_ended() -> bool:
            return (await handle.describe()).close_time is not None

        await eventually(has_ended, 20.0)
        assert (await handle.result())["outcome"] == "copied"


async def test_a_pass_after_one_that_was_terminated_waits_for_the_end_of_its_partitions(temporal_client: Client) -> None:
    source, destination = MemoryStore("a"), MemoryStore("b")
    source.create_bucket("src")
    destination.create_bucket("dst")
    for number in range(100):
        await source.put("src", str(number), Body.of(b"x"), Attributes(), ABSENT)
    lab = make_lab(temporal_client, source, destination)
    asked, workflow_id = PassInput(route=lab.route, limits=LimitUpdate(requests_per_s=5)), reconcile_id(lab.route)
    async with lab.worker():
        first = await temporal_client.start_workflow("ReconcileRoute", asked, id=workflow_id, task_queue=lab.queue)

        async def scans() -> bool:
            return bool((await first.query("progress"))["partitions_open"])

        await eventually(scans, 20.0)
        await first.terminate()
        again = PassInput(route=lab.route)
        second = await temporal_client.start_workflow("ReconcileRoute", again, id=workflow_id, task_queue=lab.queue, result_type=PassResult)
        result: PassResult = await second.result()
        assert (result.state, result.counters.listed) == ("done", 100)
