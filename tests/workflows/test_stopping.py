"""A worker that stops gives everything that runs in it the same time to finish."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from temporalio.client import Client

from replication.ids import reconcile_id
from replication.limits import MIB
from replication.models import ABSENT, Attributes, ObjectInfo, Part, Version
from replication.passes import PassInput
from stores.body import Body
from stores.memory import MemoryStore
from tests.lab import make_lab
from tests.poll import eventually

GRACE_S = 3.0


class Stuck(MemoryStore):
    """Answers nothing that concerns the content, or the key `looked-at`."""

    def __init__(self, name: str, bucket: str) -> None:
        super().__init__(name)
        self.create_bucket(bucket)
        self.asked = set[str]()

    async def _hang(self, what: str) -> None:
        self.asked.add(what)
        await asyncio.sleep(300)

    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        if key == "looked-at":
            await self._hang("head")
        return await super().head(bucket, key, tags=tags)

    async def fetch(self, bucket: str, key: str, *, pin: Version) -> tuple[ObjectInfo, bytes]:
        await self._hang("fetch")
        return await super().fetch(bucket, key, pin=pin)

    async def put_part(self, bucket: str, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        await self._hang("part")
        return await super().put_part(bucket, key, upload_id, number, offset, body)


async def test_all_task_queues_are_left_at_once(temporal_client: Client) -> None:
    """An activity of each of the three is stuck: of the control queue, that of transfers and that of scans."""
    source, destination = Stuck("a", "src"), Stuck("b", "dst")
    parts: dict[str, Any] = {"part_size": "1MiB", "one_shot_max": "1MiB"}
    lab = make_lab(temporal_client, source, destination, worker={"graceful_stop": f"{GRACE_S:g}s"}, parts=parts)
    source.put_synthetic("src", "large", 9 * MIB)
    await source.put("src", "small", Body.of(b"x"), Attributes(), ABSENT)
    async with lab.worker():
        await lab.start("looked-at")
        await lab.start("large")
        scanning = PassInput(route=lab.route)
        await temporal_client.start_workflow("ReconcileRoute", scanning, id=reconcile_id(lab.route), task_queue=lab.queue)
        await eventually(lambda: source.asked | destination.asked == {"head", "fetch", "part"}, 20.0)
        began = time.monotonic()
    assert time.monotonic() - began < 2 * GRACE_S
