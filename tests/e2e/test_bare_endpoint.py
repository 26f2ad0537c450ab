"""An S3 endpoint that ignores conditions, pins and tags: rclone's server, whose objects are files of a folder."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from embedded.rclone_serve import RcloneServe
from embedded.s3admin import s3_client
from replication.models import ReplicateObjectResult
from replication.passes import PassResult
from replication.settings import parse_settings
from stores.registry import Stores
from tests.conftest import running
from tests.e2e.conftest import Sides
from tests.e2e.sides import MIB, Side
from tests.lab import FAST_RETRIES
from tests.passes.conftest import PassLab
from workflows.start import start_object

BUCKET = "bare"
OBJECTS = {"small": b"data", "deep/er": b"\0" * 70_000, "a b+c%20ü": b"odd", "large": bytes(range(256)) * (9 * MIB // 256)}


@pytest.fixture(scope="module")
def bare() -> Iterator[RcloneServe]:
    with running(RcloneServe()) as server:
        (server.data / BUCKET).mkdir()
        yield server


@asynccontextmanager
async def opened(client: Client, side: Side, bare: RcloneServe, folder: Path, *, back: bool = False) -> AsyncIterator[PassLab]:
    """A running worker with the route `there` to the bare endpoint, and `back` from it too."""
    token = uuid.uuid4().hex[:12]
    here = {"store": side.name, "bucket": side.bucket, "prefix": f"{token}/"}
    there = {"store": "bare", "bucket": BUCKET, "prefix": f"{token}/"}
    keys = {"access_key_id": "env:BARE_KEY", "secret_access_key": "env:BARE_SECRET"}
    routes = [{"name": f"there-{token}", "source": here, "destination": there}]
    routes += [{"name": f"back-{token}", "source": there, "destination": here}] if back else []
    document: dict[str, Any] = {
        "ledger": f"sqlite:///{folder}/ledger.db",
        "temporal": {"task_queue": f"q-{token}"},
        "stores": {side.name: side.settings(), "bare": {"type": "s3", "endpoint": bare.endpoint, "region": bare.region, **keys}},
        "routes": routes,
        "worker": {"retries": FAST_RETRIES},
    }
    settings = parse_settings(document)
    stores = Stores(settings, {**side.environ(), "BARE_KEY": bare.access_key, "BARE_SECRET": bare.secret_key})
    lab = PassLab(client, settings, stores)
    try:
        async with lab.worker():
            yield lab
    finally:
        await stores.close()


def put(bare: RcloneServe, key: str, data: bytes) -> None:
    client = s3_client(bare.endpoint, bare.access_key, bare.secret_key, bare.region)
    client.put_object(Bucket=BUCKET, Key=key, Body=data)
    client.close()


def sums(bare: RcloneServe, prefix: str) -> dict[str, str]:
    """The SHA-256 of each object below the prefix, by its file."""
    root = bare.data / BUCKET / prefix
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}


async def test_a_pass_copies_there_and_finds_nothing_to_do_afterwards(
    temporal_client: Client, sides: Sides, bare: RcloneServe, tmp_path: Path
) -> None:
    async with opened(temporal_client, sides["s3"], bare, tmp_path) as lab:
        for name, data in OBJECTS.items():
            await asyncio.to_thread(sides["s3"].put, lab.before + name, data)
        results: list[PassResult] = [await lab.reconcile() for _ in range(2)]
        found = await lab.stores.capabilities("bare", BUCKET, writable=True)
    assert [(one.state, one.counters.copied, one.counters.skipped) for one in results] == [("done", 4, 0), ("done", 0, 4)]
    assert sums(bare, lab.after) == {name: hashlib.sha256(data).hexdigest() for name, data in OBJECTS.items()}
    assert (found.fencing, found.conditional_writes, found.conditional_completes, found.pinned_reads) == ("none", False, False, False)


async def test_routes_back_and_forth_are_refused(temporal_client: Client, sides: Sides, bare: RcloneServe, tmp_path: Path) -> None:
    """The route back is fine: its destination has conditional writes."""
    async with opened(temporal_client, sides["s3"], bare, tmp_path, back=True) as lab:
        await asyncio.to_thread(sides["s3"].put, lab.before + "here", b"data")
        await asyncio.to_thread(put, bare, lab.before + "there", b"theirs")
        there, back = (route.name for route in lab.settings.routes)
        with pytest.raises(WorkflowFailureError) as refused:
            await (await start_object(temporal_client, lab.queue, there, lab.before + "here")).result()
        copied: ReplicateObjectResult = await (await start_object(temporal_client, lab.queue, back, lab.before + "there")).result()
        seen = await asyncio.to_thread(sides["s3"].see, lab.before + "there")

    assert isinstance(refused.value.cause, ApplicationError)
    assert (refused.value.cause.type, "no conditional writes" in refused.value.cause.message) == ("not-supported", True)
    assert copied.outcome == "copied"
    assert seen is not None
    assert seen.sha256 == hashlib.sha256(b"theirs").hexdigest()
    assert set(sums(bare, lab.before)) == {"there"}
