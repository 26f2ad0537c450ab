"""Scans that may begin nothing do not keep the slots of a worker from those that may."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle

from replication.ids import reconcile_id
from replication.models import ABSENT, Attributes
from replication.passes import LimitUpdate, PassInput, PassResult
from replication.settings import parse_settings
from stores.body import Body
from stores.memory import MemoryStore
from stores.registry import Stores
from tests.lab import FAST_RETRIES, Lab
from tests.ledgers import ledger_url
from tests.poll import eventually

OBJECTS = 600


class TwoRoutes(Lab):
    """Two routes, and slots for two scans."""

    async def begin(self, number: int, **asked: Any) -> WorkflowHandle[Any, PassResult]:
        route = self.settings.routes[number].name
        wanted = PassInput(route=route, stretch=50, **asked)
        return await self.client.start_workflow(
            "ReconcileRoute", wanted, id=reconcile_id(route), task_queue=self.queue, result_type=PassResult
        )


@asynccontextmanager
async def two_routes(client: Client) -> AsyncIterator[TwoRoutes]:
    token, source, destination = uuid.uuid4().hex[:12], MemoryStore("a"), MemoryStore("b")
    for number in range(2):
        source.create_bucket(f"src{number}")
        destination.create_bucket(f"dst{number}")
        for key in range(OBJECTS):
            await source.put(f"src{number}", f"{key % 16:x}/{key}", Body.of(b"x"), Attributes(), ABSENT)
    routes = [
        {"name": f"r{n}-{token}", "source": {"store": "a", "bucket": f"src{n}"}, "destination": {"store": "b", "bucket": f"dst{n}"}}
        for n in range(2)
    ]
    settings = parse_settings(
        {
            "ledger": ledger_url(),
            "temporal": {"task_queue": f"q-{token}"},
            "stores": {name: {"type": "file", "root": f"/{name}"} for name in ("a", "b")},
            "routes": routes,
            "worker": {"retries": FAST_RETRIES, "bulk_slots": 2},
        }
    )
    stores = Stores(settings, {})
    stores.add(source)
    stores.add(destination)
    lab = TwoRoutes(client, settings, stores)
    async with lab.worker():
        yield lab


async def test_a_paused_pass_keeps_no_other_route_waiting(temporal_client: Client) -> None:
    async with two_routes(temporal_client) as lab:
        paused = await lab.begin(0, limits=LimitUpdate(requests_per_s=20))

        async def is_shared() -> bool:
            return bool((await paused.query("progress"))["partitions_open"] > 2)

        await eventually(is_shared, 30.0)
        await paused.execute_update("pause")
        other = await (await lab.begin(1)).result()
        assert (other.state, other.counters.copied) == ("done", OBJECTS)
        assert (await paused.query("progress"))["state"] == "paused"

        await paused.execute_update("limit", LimitUpdate(requests_per_s=0))
        await paused.execute_update("resume")
        result = await paused.result()
        assert (result.state, result.counters.copied) == ("done", OBJECTS)
        assert result.counters.listed == OBJECTS


@pytest.mark.parametrize("at_once", [1, 3])
async def test_the_few_objects_that_may_be_under_way_find_a_slot(temporal_client: Client, at_once: int) -> None:
    async with two_routes(temporal_client) as lab:
        handle = await lab.begin(0, limits=LimitUpdate(concurrency=at_once))
        result = await handle.result()
        assert (result.state, result.counters.copied, result.counters.listed) == ("done", OBJECTS, OBJECTS)
        assert result.partitions > 2
