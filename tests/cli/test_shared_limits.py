"""What a store may be asked for is shared by the worker processes, the passes and the changes that use it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from activities.objects import SETTLING
from activities.shares import LIFE_S
from replication.limits import MIB
from tests.cli.conftest import route
from tests.cli.site import Site
from tests.e2e.sides import S3Side
from tests.poll import eventually

MakeSite = Callable[..., Site]
OBJECTS = 300
REQUESTS_PER_S = 12
PER_S = REQUESTS_PER_S / 2
"""Objects that this allows: one without a replica takes two requests."""
WATCHED_S = 5.0
CHANGES = 40
CHANGES_PER_S = REQUESTS_PER_S / SETTLING


def limited_site(make_site: MakeSite, s3: S3Side, s3b: S3Side, names: Sequence[str], limits: dict[str, Any], **more: Any) -> Site:
    """A site with one route for each name, and a source that may be asked for little."""
    stores = {side.name: side.settings() for side in (s3, s3b)}
    stores[s3.name]["limits"] = limits
    return make_site(
        routes=[route(name, s3, s3b.name, s3b.bucket, before=f"{name}/", after=f"{name}/", **more) for name in names], stores=stores
    )


async def filled_site(make_site: MakeSite, s3: S3Side, s3b: S3Side, counts: dict[str, int]) -> Site:
    """So many source objects for each route; the source may be asked for few requests."""
    site = limited_site(make_site, s3, s3b, list(counts), {"requests": REQUESTS_PER_S})
    for name, count in counts.items():
        await asyncio.gather(*(asyncio.to_thread(s3.put, f"{name}/{number:04}", b"x") for number in range(count)))
    return site


async def replicas(side: S3Side, names: Sequence[str]) -> list[int]:
    def count(name: str) -> int:
        pages = side.client.get_paginator("list_objects_v2").paginate(Bucket=side.bucket, Prefix=f"{name}/")
        return sum(page["KeyCount"] for page in pages)

    return [await asyncio.to_thread(count, name) for name in names]


async def rates(counted: Callable[[], Awaitable[list[int]]]) -> list[float]:
    """How much came in each second, over the next few."""
    before, began = await counted(), time.monotonic()
    await asyncio.sleep(WATCHED_S)
    after, took_s = await counted(), time.monotonic() - began
    return [(now - then) / took_s for now, then in zip(after, before, strict=True)]


async def test_changes_go_before_a_pass_and_at_the_rate_of_their_store(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    passing, changing = names = [f"shared-{uuid.uuid4().hex[:8]}-{kind}" for kind in ("pass", "changes")]
    site = await filled_site(make_site, s3, s3b, {passing: OBJECTS, changing: CHANGES})

    async def counted() -> list[int]:
        return await replicas(s3b, names)

    async def begun() -> bool:
        return all(await counted())

    worker = await site.worker()
    await site.starter("reconcile", passing, "--json")
    await eventually(lambda: _some(s3b, passing), 30.0)
    keys = [f"{changing}/{number:04}" for number in range(CHANGES)]
    copying = asyncio.create_task(site.starter("copy", changing, *keys, "--wait", "--json"))
    await eventually(begun, 30.0)
    of_pass, of_changes = await rates(counted)
    copied = await copying
    await asyncio.sleep(2.0)
    alone = (await rates(counted))[0]

    assert of_changes <= 1.25 * CHANGES_PER_S
    assert of_changes >= 0.6 * CHANGES_PER_S
    left = max(0.0, 1 - of_changes / CHANGES_PER_S)
    assert of_pass <= (left + 0.25) * PER_S, "a pass takes what changes leave"
    assert alone >= 0.65 * PER_S
    assert copied.code == 0
    assert {line["outcome"] for line in copied.documents} == {"copied"}
    assert len(copied.documents) == CHANGES
    assert "over-budget" in worker.log.read_text(), "changes gave their slots back until their turn came"


async def test_a_change_reads_no_faster_than_its_store_allows(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    """Neither in parts nor in one request. A second's worth is there at the start, and one more is lent to changes."""
    name, per_s = f"shared-{uuid.uuid4().hex[:8]}-bytes", 2 * MIB
    site = limited_site(make_site, s3, s3b, [name], {"bandwidth": per_s}, parts={"part_size": 5 * MIB, "one_shot_max": 10 * MIB})
    await site.worker()
    for size in (20 * MIB, 10 * MIB):
        await asyncio.to_thread(s3.put, f"{name}/{size}", bytes(size))
        began = time.monotonic()
        copied = await site.starter("copy", name, f"{name}/{size}", "--wait", "--json")
        assert [line["outcome"] for line in copied.documents] == ["copied"]
        assert time.monotonic() - began >= (size - 2 * per_s - MIB) / per_s


async def _some(side: S3Side, name: str) -> bool:
    return (await replicas(side, [name])) > [0]


async def test_passes_in_two_processes_share_what_their_store_may_take(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    """Each process has one slot for scans, so that each has one of the passes; one is killed, and the other takes over its part."""
    names = [f"shared-{uuid.uuid4().hex[:8]}-{number}" for number in range(2)]
    site = await filled_site(make_site, s3, s3b, dict.fromkeys(names, OBJECTS))
    workers = [await site.worker(bulk_slots=1) for _ in range(2)]
    for name in names:
        await site.starter("reconcile", name, "--json")

    async def counted() -> list[int]:
        return await replicas(s3b, names)

    async def both() -> bool:
        return all(await counted())

    await eventually(both, 30.0)
    await asyncio.sleep(2.0)
    shared = await rates(counted)
    assert all(0.2 * PER_S <= rate <= 0.8 * PER_S for rate in shared), shared
    assert sum(shared) <= 1.25 * PER_S

    workers[0].kill()
    await asyncio.sleep(LIFE_S + 4.0)
    alone = await rates(counted)
    assert 0.65 * PER_S <= max(alone) <= 1.25 * PER_S, alone
    assert min(alone) == 0, "the slot of the one that lives is taken"
