"""Routes between real stores whose passes run in a worker of this process."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle

from ledger.ledger import Ledger
from replication.ids import pass_workflow_id
from replication.passes import PassInput, PassProgress, PassResult
from replication.settings import parse_settings
from stores.registry import Stores
from tests.e2e.conftest import sides
from tests.e2e.sides import Side
from tests.lab import FAST_RETRIES, Lab
from tests.ledgers import ledger_url

__all__ = ["sides"]


@dataclass
class PassLab(Lab):
    """A lab that starts passes of its route, and looks into its ledger."""

    @property
    def before(self) -> str:
        return self.settings.routes[0].source.prefix

    @property
    def after(self) -> str:
        return self.settings.routes[0].destination.prefix

    async def start_pass(self, **asked: Any) -> WorkflowHandle[Any, PassResult]:
        wanted = PassInput(route=self.route, **asked)
        kind = "VerifyRoute" if wanted.mode == "verify" else "ReconcileRoute"
        return await self.client.start_workflow(
            kind, wanted, id=pass_workflow_id(wanted.mode, self.route), task_queue=self.queue, result_type=PassResult
        )

    async def reconcile(self, **asked: Any) -> PassResult:
        return await (await self.start_pass(**asked)).result()

    async def pass_progress(self) -> PassProgress:
        handle = self.client.get_workflow_handle(pass_workflow_id("repair", self.route))
        progress: PassProgress = await handle.query("progress", result_type=PassProgress)
        return progress

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[Ledger]:
        opened = Ledger(self.settings.ledger)
        try:
            yield opened
        finally:
            await opened.close()


OpenPass = Callable[..., AbstractAsyncContextManager[PassLab]]


@pytest.fixture
def open_pass(temporal_client: Client) -> OpenPass:
    """`open_pass(source, destination, **route)`: a running worker with one route, from `in-<uuid>/` to `out-<uuid>/`; with
    `back` also the route that leads back."""

    @asynccontextmanager
    async def opened(source: Side, destination: Side, *, back: bool = False, **route: Any) -> AsyncIterator[PassLab]:
        token = uuid.uuid4().hex[:12]
        ends = [
            {"store": side.name, "bucket": side.bucket, "prefix": f"{way}-{token}/"} for side, way in ((source, "in"), (destination, "out"))
        ]
        routes = [{"name": f"r-{token}", "source": ends[0], "destination": ends[1], **route}]
        routes += [{"name": f"b-{token}", "source": ends[1], "destination": ends[0], **route}] if back else []
        document = {
            "ledger": ledger_url(),
            "temporal": {"task_queue": f"q-{token}"},
            "stores": {side.name: side.settings() for side in (source, destination)},
            "routes": routes,
            "worker": {"retries": FAST_RETRIES, "control_slots": 12, "transfer_slots": 4, "streams": 2},
        }
        settings = parse_settings(document)
        stores = Stores(settings, {**source.environ(), **destination.environ()})
        lab = PassLab(temporal_client, settings, stores)
        try:
            async with lab.worker():
                yield lab
        finally:
            await stores.close()

    return opened
