"""What a pass has under way at once: small objects read and written by turns, and parts that share streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar, cast

import pytest
from temporalio.testing import ActivityEnvironment

from activities import settle
from activities.gate import Gate
from activities.objects import ObjectActivities
from activities.outcomes import Repair
from activities.passes import nothing_recorded
from activities.scan import Scan
from activities.settle import Settler
from activities.streams import Ways
from activities.tide import SIDE_AT_ONCE, SMALL, STRAGGLERS, Tide
from activities.turns import SMALL_AT_ONCE, Turns
from ledger.ledger import Ledger
from replication.limits import MIB
from replication.models import ABSENT, Attributes, Condition, ObjectInfo, PartRunInput, SettleInput, Version
from replication.passes import ScanInput
from replication.routes import Route
from stores.body import Body
from stores.memory import MemoryStore
from stores.registry import Stores
from tests.passes.in_memory import settings_of

OBJECTS = 1000
T = TypeVar("T")


class Slow(MemoryStore):
    """A store whose answers take 5 ms; `seen` is told, as each request begins, how many reads and writes are under way."""

    under_way: dict[str, int]
    seen: set[tuple[int, int]]

    async def fetch(self, bucket: str, key: str, *, pin: Version) -> tuple[ObjectInfo, bytes]:
        return await self._answered("reads", lambda: super(Slow, self).fetch(bucket, key, pin=pin))

    async def put(self, bucket: str, key: str, body: Body, attributes: Attributes, condition: Condition) -> ObjectInfo:
        return await self._answered("writes", lambda: super(Slow, self).put(bucket, key, body, attributes, condition))

    async def _answered(self, kind: str, ask: Callable[[], Awaitable[T]]) -> T:
        self.under_way[kind] += 1
        self.seen.add((self.under_way["reads"], self.under_way["writes"]))
        try:
            await asyncio.sleep(0.005)
            return await ask()
        finally:
            self.under_way[kind] -= 1


class Pair:
    """Two memory stores and a route between them."""

    def __init__(self) -> None:
        self.settings = settings_of(parts={"one_shot_max": "8MiB", "part_size": "5MiB"})
        self.source, self.destination = Slow("a"), Slow("b")
        self.source.create_bucket("one")
        self.destination.create_bucket("two")
        self.source.under_way = self.destination.under_way = {"reads": 0, "writes": 0}
        self.source.seen = self.destination.seen = set()
        self.stores, self.ledger = Stores(self.settings, {}), Ledger(self.settings.ledger)
        self.stores.add(self.source)
        self.stores.add(self.destination)
        self.settler = Settler(self.settings, self.stores, self.ledger, None, record=nothing_recorded, collects=True)

    @property
    def route(self) -> Route:
        return self.settings.route("r")

    async def fill(self, count: int, size: int) -> None:
        for number in range(count):
            await MemoryStore.put(self.source, "one", f"k{number:04d}", Body.of(bytes(size)), Attributes(), ABSENT)

    async def copied(self) -> int:
        asked = ScanInput(route="r", pass_id="p")
        outcomes = Repair(asked, self.route, self.stores, self.settler, paired=False, workflow="")
        result = await Scan(asked, self.route, self.stores, self.ledger, outcomes, Gate(0, Turns())).run()
        await self.ledger.close()
        return result.counters.copied


async def test_small_objects_are_read_many_at_a_time_and_then_written_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is: patience is for slow answers, and has a test of its own."""
    monkeypatch.setattr(settle, "Tide", partial(Tide, patience_s=60))
    pair = Pair()
    await pair.fill(OBJECTS, 10)
    assert await pair.copied() == OBJECTS
    reads, writes = ({counts[side] for counts in pair.source.seen} for side in (0, 1))
    assert (max(reads), max(writes)) == (SIDE_AT_ONCE, SIDE_AT_ONCE)
    assert {min(counts) for counts in pair.source.seen} <= set(range(STRAGGLERS + 1))
    assert SMALL_AT_ONCE > SIDE_AT_ONCE


async def test_larger_objects_are_read_and_written_side_by_side() -> None:
    pair = Pair()
    await pair.fill(400, SMALL + 1)
    assert await pair.copied() == 400
    assert max(min(counts) for counts in pair.source.seen) > STRAGGLERS


class Steered:
    """Stands for the steering of a pass, which needs a Temporal server: a pass without limits."""

    @asynccontextmanager
    async def paced(self, workflow_id: str, route: Route) -> AsyncIterator[None]:
        yield


@pytest.mark.parametrize("of_pass", [True, False])
@pytest.mark.parametrize(
    ("taken", "waits"),
    [(("a", "b", True), True), (("a", "b", False), False), (("a", "c", True), False), (("c", "b", True), False)],
)
async def test_parts_wait_only_for_those_of_their_kind_between_the_same_stores(
    taken: tuple[str, str, bool], waits: bool, of_pass: bool
) -> None:
    pair, ways = Pair(), Ways(most=1)
    await pair.fill(1, 12 * MIB)
    settlement = await pair.settler.settle(pair.route, SettleInput(route="r", key="k0000"), lambda size: None)
    assert settlement.plan is not None
    nobody = cast(Any, None)
    objects = ObjectActivities(pair.settings, pair.stores, pair.ledger, nobody, cast(Any, Steered()), Turns(), ways, nobody)
    paced_by = "reconcile:r" if of_pass else ""
    asked = PartRunInput(route="r", key="k0000", plan=settlement.plan, first=1, last=3, paced_by=paced_by)
    source, destination, same_kind = taken
    async with ways.streams(source, destination, of_pass=of_pass is same_kind).stream():
        copying = asyncio.create_task(ActivityEnvironment().run(objects.copy_part_run, asked))
        done, _ = await asyncio.wait([copying], timeout=0.5 if waits else 30)
        assert bool(done) is not waits
    assert (await copying).bytes_copied == 12 * MIB
    await pair.ledger.close()
