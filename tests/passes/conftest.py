"""Routes between real stores whose passes run in a worker of this process."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

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
from tests.proxy import Exchange, FaultProxy

__all__ = ["sides"]


@dataclass
class PassLab(Lab):
    """A lab that starts passes of its route, and looks into its ledger."""

    proxies: list[FaultProxy] = field(default_factory=list)

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

    def requests(self) -> Counter[str]:
        """What went through the proxies since the last call: `list`, or the method and the target of anything else."""
        made = Counter(_name(seen) for proxy in self.proxies for seen in proxy.log)
        for proxy in self.proxies:
            proxy.log.clear()
        return made


def _name(seen: Exchange) -> str:
    target = urlsplit(seen.target)
    query = parse_qs(target.query, keep_blank_values=True)
    of_s3, of_gcs = "list-type" in query, target.path.endswith("/o") and "prefix" in query
    return "list" if seen.method == "GET" and (of_s3 or of_gcs) else f"{seen.method} {seen.target}"


OpenPass = Callable[..., AbstractAsyncContextManager[PassLab]]


@pytest.fixture
def open_pass(temporal_client: Client) -> OpenPass:
    """`open_pass(source, destination, **route)`: a running worker with one route, from `in-<uuid>/` to `out-<uuid>/`; with
    `back` also the route that leads back, with `counted` through proxies that count the requests of S3 and GCS."""

    @asynccontextmanager
    async def opened(source: Side, destination: Side, *, back: bool = False, counted: bool = False, **route: Any) -> AsyncIterator[PassLab]:
        token = uuid.uuid4().hex[:12]
        ends = [
            {"store": side.name, "bucket": side.bucket, "prefix": f"{way}-{token}/"} for side, way in ((source, "in"), (destination, "out"))
        ]
        routes = [{"name": f"r-{token}", "source": ends[0], "destination": ends[1], **route}]
        routes += [{"name": f"b-{token}", "source": ends[1], "destination": ends[0], **route}] if back else []
        sections = {side.name: side.settings() for side in (source, destination)}
        async with AsyncExitStack() as stack:
            proxies = [
                await stack.enter_async_context(_before(section)) for section in sections.values() if counted and "endpoint" in section
            ]
            document = {
                "ledger": ledger_url(),
                "temporal": {"task_queue": f"q-{token}"},
                "stores": sections,
                "routes": routes,
                "worker": {"retries": FAST_RETRIES, "control_slots": 12, "transfer_slots": 4, "streams": 2},
            }
            settings = parse_settings(document)
            stores = Stores(settings, {**source.environ(), **destination.environ()})
            stack.push_async_callback(stores.close)
            lab = PassLab(temporal_client, settings, stores, proxies=proxies)
            async with lab.worker():
                yield lab

    return opened


@asynccontextmanager
async def _before(section: dict[str, Any]) -> AsyncIterator[FaultProxy]:
    """A proxy before a store, whose section leads to it from now on."""
    async with FaultProxy(section["endpoint"]) as proxy:
        section["endpoint"] = proxy.endpoint
        yield proxy
