"""The four sides of every pair, and routes between them that are configured as a user would."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from embedded.fake_gcs import FakeGcs
from embedded.seaweedfs import SeaweedFS
from replication.settings import parse_settings
from stores.registry import Stores
from tests.e2e.sides import FileSide, GcsSide, S3Side, Side
from tests.lab import FAST_RETRIES, Lab
from tests.ledgers import ledger_url

Sides = dict[str, Side]
OpenRoute = Callable[..., AbstractAsyncContextManager[Lab]]


@pytest.fixture(scope="session")
def sides(seaweed: SeaweedFS, seaweed_b: SeaweedFS, fake_gcs: FakeGcs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    found: list[Side] = [S3Side("s3", seaweed), S3Side("s3b", seaweed_b), GcsSide("gcs", fake_gcs), _files(tmp_path_factory)]
    yield {side.name: side for side in found}
    for side in found:
        side.close()


def _files(factory: pytest.TempPathFactory) -> FileSide:
    root: Path = factory.mktemp("sides")
    return FileSide("files", root)


@pytest.fixture
def open_route(temporal_client: Client) -> OpenRoute:
    """`open_route(source, destination, **route)`: a running worker with one route, from `in-<uuid>/` to `out-<uuid>/`."""

    @asynccontextmanager
    async def opened(source: Side, destination: Side, *, prefixes: tuple[str, str] | None = None, **route: Any) -> AsyncIterator[Lab]:
        token = uuid.uuid4().hex[:12]
        before, after = (f"in-{token}/", f"out-{token}/") if prefixes is None else prefixes
        size = destination.part_size
        document = {
            "ledger": ledger_url(),
            "temporal": {"task_queue": f"q-{token}"},
            "stores": {side.name: side.settings() for side in (source, destination)},
            "routes": [
                {
                    "name": f"r-{token}",
                    "source": {"store": source.name, "bucket": source.bucket, "prefix": before},
                    "destination": {"store": destination.name, "bucket": destination.bucket, "prefix": after},
                    "parts": {"part_size": size, "one_shot_max": size, "concurrency": 2},
                    **route,
                }
            ],
            "worker": {"retries": FAST_RETRIES, "control_slots": 12, "transfer_slots": 4, "streams": 2},
        }
        settings = parse_settings(document)
        stores = Stores(settings, {**source.environ(), **destination.environ()})
        lab = Lab(temporal_client, settings, stores)
        try:
            async with lab.worker():
                yield lab
        finally:
            await stores.close()

    return opened
