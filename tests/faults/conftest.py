"""The stores of the fault tests, and `make_rig`: a route between two of them with a proxy where one is wanted."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client

from embedded.fake_gcs import FakeGcs
from embedded.seaweedfs import SeaweedFS
from tests.e2e.sides import FileSide, GcsSide, S3Side, Side
from tests.faults.rig import PART, RETRIES, Rig
from tests.ledgers import ledger_url
from tests.proxy import FaultProxy

MakeRig = Callable[..., Awaitable[Rig]]


@pytest.fixture(scope="session")
def s3(seaweed: SeaweedFS) -> Iterator[S3Side]:
    with contextlib.closing(S3Side("s3", seaweed)) as side:
        yield side


@pytest.fixture(scope="session")
def s3b(seaweed: SeaweedFS) -> Iterator[S3Side]:
    """Another bucket of the same server; behind a proxy it is another endpoint, so bytes pass through the worker."""
    with contextlib.closing(S3Side("s3b", seaweed)) as side:
        yield side


@pytest.fixture
def gcs(fake_gcs: FakeGcs) -> Iterator[GcsSide]:
    with contextlib.closing(GcsSide("gcs", fake_gcs)) as side:
        yield side


@pytest.fixture
def files(tmp_path: Path) -> FileSide:
    return FileSide("files", tmp_path / "files")


@pytest_asyncio.fixture(loop_scope="session")
async def make_rig(temporal_client: Client, tmp_path: Path) -> AsyncIterator[MakeRig]:
    """`make_rig(source, destination, worker=…, **route)`: S3 and GCS sides are reached through proxies of their own."""
    async with contextlib.AsyncExitStack() as stack:

        async def proxied(side: Side) -> tuple[dict[str, Any], FaultProxy | None]:
            settings = side.settings()
            if "endpoint" not in settings:
                return settings, None
            proxy = await stack.enter_async_context(FaultProxy(settings["endpoint"]))
            return {**settings, "endpoint": proxy.endpoint}, proxy

        async def make(
            source: Side, destination: Side, *, worker: dict[str, Any] | None = None, client: Client | None = None, **route: Any
        ) -> Rig:
            token = uuid.uuid4().hex[:12]
            (here, reading), (there, writing) = await proxied(source), await proxied(destination)
            before, after = f"in-{token}/", f"out-{token}/"
            document = {
                "ledger": ledger_url(),
                "temporal": {"task_queue": f"q-{token}"},
                "stores": {source.name: here, destination.name: there},
                "routes": [
                    {
                        "name": f"r-{token}",
                        "source": {"store": source.name, "bucket": source.bucket, "prefix": before},
                        "destination": {"store": destination.name, "bucket": destination.bucket, "prefix": after},
                        "parts": {"part_size": PART, "one_shot_max": PART, "concurrency": 1},
                        **route,
                    }
                ],
                "worker": {"retries": RETRIES, "control_slots": 12, "transfer_slots": 4, "streams": 2, **(worker or {})},
            }
            rig = Rig(client or temporal_client, source, destination, tmp_path, document, before, after, reading, writing)
            stack.callback(rig.close)
            return rig

        yield make
