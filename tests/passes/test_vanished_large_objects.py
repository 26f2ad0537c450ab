"""A large object that goes after a pass has listed it: the pass does not wait for as long as its deletion does."""

from __future__ import annotations

from typing import Any

from temporalio.client import Client

from replication.ids import pass_workflow_id
from replication.limits import MIB
from replication.models import ObjectInfo
from replication.passes import PassInput, PassResult
from stores.memory import MemoryStore
from tests.lab import Lab, make_lab
from tests.poll import within


class Vanishing(MemoryStore):
    """Lists an object that is gone when somebody looks at it."""

    gone = ""

    async def head(self, bucket: str, key: str, **how: Any) -> ObjectInfo:
        if key == self.gone:
            self._bucket(bucket).remove(key)
            self.gone = ""
        return await super().head(bucket, key, **how)


async def passed(lab: Lab) -> PassResult:
    wanted = PassInput(route=lab.route)
    handle = await lab.client.start_workflow(
        "ReconcileRoute", wanted, id=pass_workflow_id("repair", lab.route), task_queue=lab.queue, result_type=PassResult
    )
    return await within(handle.result(), 60)


async def test_a_pass_does_not_wait_for_the_hold_of_an_object_that_went_while_it_ran(temporal_client: Client) -> None:
    source, destination = Vanishing("a"), MemoryStore("b")
    source.create_bucket("src")
    destination.create_bucket("dst")
    lab = make_lab(temporal_client, source, destination, deletes={"mode": "mirror", "hold": "1h"})
    async with lab.worker():
        source.put_synthetic("src", "large", 9 * MIB)
        source.put_synthetic("src", "other", 1)
        assert (await passed(lab)).counters.copied == 2
        source.put_synthetic("src", "large", 9 * MIB, seed=1)
        source.gone = "large"
        unsettled = await passed(lab)
        assert (unsettled.state, unsettled.counters.listed, unsettled.counters.waiting) == ("done", 2, 1)
        held = await passed(lab)
    assert (held.counters.extra, held.counters.deleted) == (1, 0)
