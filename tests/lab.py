"""A route between two stores on a real Temporal server, with a worker in this process: what workflow and fault tests share."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy

from ledger.ledger import Ledger
from replication.ids import object_workflow_id
from replication.models import Progress, ReplicateObjectInput, ReplicateObjectResult
from replication.settings import Settings, parse_settings
from stores.base import Store
from stores.registry import Stores
from tests.ledgers import ledger_url
from worker import build_workers, running
from workflows.object import ReplicateObject
from workflows.visibility import object_attributes

FAST_RETRIES = {"error_delay": 0.05, "timeout_delay": 0.05}
"""The schedule of PARITY F49 in fast motion: the same counts, other delays."""

Handle = WorkflowHandle[ReplicateObject, ReplicateObjectResult]


@dataclass
class Lab:
    """One Temporal client, one task queue of its own, and the stores `a` (source) and `b` (destination)."""

    client: Client
    settings: Settings
    stores: Stores
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def queue(self) -> str:
        return self.settings.temporal.control_queue

    @property
    def route(self) -> str:
        return self.settings.routes[0].name

    @contextlib.asynccontextmanager
    async def worker(self, role: str = "all") -> AsyncIterator[None]:
        """Runs the workers of a role while the block runs."""
        async with contextlib.AsyncExitStack() as stack:
            ledger = Ledger(self.settings.ledger)
            stack.push_async_callback(ledger.close)
            await stack.enter_async_context(running(build_workers(self.client, self.settings, self.stores, ledger, role)))
            yield

    async def start(self, key: str, *, signal: bool = False, attributes: bool = True) -> Handle:
        """Starts or joins the object workflow of `key`."""
        return await self.client.start_workflow(
            ReplicateObject.run,
            ReplicateObjectInput(route=self.route, key=key),
            id=object_workflow_id(self.route, key),
            task_queue=self.queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            search_attributes=object_attributes(self.route, key) if attributes else None,
            start_signal="check" if signal else None,
        )

    async def replicate(self, key: str) -> ReplicateObjectResult:
        return await (await self.start(key)).result()

    async def progress(self, handle: Handle) -> Progress:
        return await handle.query(ReplicateObject.progress)

    async def phase(self, handle: Handle) -> str:
        return (await self.progress(handle)).phase


def make_lab(
    client: Client, source: Store, destination: Store, *, buckets: tuple[str, str] = ("src", "dst"), worker: Any = None, **route: Any
) -> Lab:
    """A lab with one route `r-<uuid>` from `source` to `destination`; `route` overrides the route's settings."""
    name = f"r-{uuid.uuid4().hex[:12]}"
    document = {
        "ledger": ledger_url(),
        "temporal": {"task_queue": f"q-{uuid.uuid4().hex}"},
        "stores": {store.name: {"type": "file", "root": f"/stores/{store.name}"} for store in (source, destination)},
        "routes": [
            {
                "name": name,
                "source": {"store": source.name, "bucket": buckets[0]},
                "destination": {"store": destination.name, "bucket": buckets[1]},
                **route,
            }
        ],
        "worker": {"retries": FAST_RETRIES, "control_slots": 20, **(worker or {})},
    }
    settings = parse_settings(document)
    stores = Stores(settings, {})
    stores.add(source)
    stores.add(destination)
    return Lab(client, settings, stores)
