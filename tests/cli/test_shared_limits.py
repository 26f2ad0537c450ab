"""What a store may take is shared by the worker processes and the passes that use it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable

from activities.shares import LIFE_S
from tests.cli.conftest import route
from tests.cli.site import Site
from tests.e2e.sides import S3Side
from tests.poll import eventually

MakeSite = Callable[..., Site]
OBJECTS = 600
REQUESTS_PER_S = 40
PER_S = REQUESTS_PER_S / 2
"""Objects that this allows: one without a replica takes two requests."""
WATCHED_S = 5.0


async def test_passes_in_two_processes_share_what_their_store_may_take(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    """Each process has one slot for scans, so that each has one of the passes; one is killed, and the other takes over its part."""
    names = [f"shared-{uuid.uuid4().hex[:8]}-{number}" for number in range(2)]
    limited = {side.name: side.settings() for side in (s3, s3b)}
    limited[s3.name]["limits"] = {"requests": REQUESTS_PER_S}
    routes = [route(name, s3, s3b.name, s3b.bucket, before=f"{name}/", after=f"{name}/") for name in names]
    site = make_site(routes=routes, stores=limited)
    for name in names:
        await asyncio.gather(*(asyncio.to_thread(s3.put, f"{name}/{number:04}", b"x") for number in range(OBJECTS)))
    workers = [await site.worker(bulk_slots=1) for _ in range(2)]
    for name in names:
        await site.starter("reconcile", name, "--json")

    def count(name: str) -> int:
        pages = s3b.client.get_paginator("list_objects_v2").paginate(Bucket=s3b.bucket, Prefix=f"{name}/")
        return sum(page["KeyCount"] for page in pages)

    async def replicas() -> list[int]:
        return [await asyncio.to_thread(count, name) for name in names]

    async def both() -> bool:
        return all(await replicas())

    async def rates() -> list[float]:
        before, began = await replicas(), time.monotonic()
        await asyncio.sleep(WATCHED_S)
        after, took_s = await replicas(), time.monotonic() - began
        return [(now - then) / took_s for now, then in zip(after, before, strict=True)]

    await eventually(both, 30.0)
    await asyncio.sleep(2.0)
    shared = await rates()
    assert all(0.2 * PER_S <= rate <= 0.8 * PER_S for rate in shared), shared
    assert sum(shared) <= 1.25 * PER_S

    workers[0].kill()
    await asyncio.sleep(LIFE_S + 4.0)
    alone = await rates()
    assert 0.65 * PER_S <= max(alone) <= 1.25 * PER_S, alone
    assert min(alone) == 0, "the slot of the one that lives is taken"
