"""Deletions that passes collect, page by page: what failed attempts did counts, and a filtered pass leaves the others alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
from temporalio.testing import ActivityEnvironment

from activities._progress import Pulse, current_pulse
from activities.deletions import Permit, Permits
from activities.gate import Gate
from activities.passes import PassActivities
from activities.steering import Steerings
from activities.turns import Turns
from replication.errors import ObjectNotFound, PermissionRefused, Throttled
from replication.limits import MIB
from replication.models import ABSENT, Attributes, ObjectInfo
from replication.passes import ExtraInput, ExtraResult, Filters, KeyRange, Steering, SteeringShare, WeighInput
from replication.routes import Route
from stores.body import Body
from stores.memory import MemoryStore
from tests.passes.in_memory import Bench, Throttling, bench
from tests.poll import within


class Steered:
    """Stands for a pass that is steered like this from the beginning to the end."""

    def __init__(self, steering: Steering) -> None:
        self._share = SteeringShare(steering=steering)

    @asynccontextmanager
    async def gate(self, workflow_id: str, partition: int, route: Route, turns: Turns) -> AsyncIterator[Gate]:
        gate = Gate(partition, turns)
        gate.steer(self._share)
        yield gate


class Granting:
    """Holds the deletion of `held`, and grants every other."""

    def __init__(self, held: str) -> None:
        self._held = held

    async def ask(self, route: str, key: str) -> Permit:
        return Permit(key != self._held, "too many", held=True)


def activities_of(made: Bench, *, steering: Steering | None = None, held: str = "") -> PassActivities:
    permits, steerings = cast(Permits, Granting(held)), cast(Steerings, Steered(steering or Steering()))
    return PassActivities(made.settings, made.stores, made.ledger, permits, steerings, Turns())


async def passed(made: Bench, pass_id: str, **filters: Any) -> ExtraResult:
    keys = KeyRange(after=filters.get("start_after", ""))
    result = await made.scan(pass_id=pass_id, filters=Filters(**filters), keys=keys)
    weigh = WeighInput(route="r", pass_id=pass_id, filters=Filters(**filters), counters=result.counters)
    await ActivityEnvironment().run(activities_of(made).weigh_deletions, weigh)
    return await ActivityEnvironment().run(activities_of(made).delete_extra, ExtraInput(route="r", pass_id=pass_id))


async def vanish(made: Bench, *keys: str) -> None:
    for key in keys:
        await made.source.delete("one", key, (await made.source.head("one", key)).version)


async def three_are_gone(made: Bench) -> list[str]:
    keys = [f"a/{number:02d}" for number in range(20)]
    for key in [*keys, "b/0"]:
        await made.put(key)
    await passed(made, "p0")
    await vanish(made, *keys[:3])
    return keys


HOLD_S = 3_600.0
HELD = {"mode": "mirror", "hold": f"{HOLD_S:g}s", "max_percent": 100}


async def let_hold_pass(made: Bench) -> None:
    """What waits has waited for as long as the route holds."""
    pending = await made.ledger.pending_deletions("r")
    await made.ledger.drop_deletions("r", [one.key for one in pending])
    await made.ledger.hold_deletions([replace(one, since=one.since - HOLD_S) for one in pending])


@pytest.mark.parametrize(
    "filters", [{"prefix": "b/"}, {"include": ["b/**"]}, {"exclude": ["a/**"]}, {"start_after": "a/19"}, {"min_size": 1}]
)
async def test_a_pass_that_does_not_look_at_a_key_leaves_its_hold_alone(filters: dict[str, Any]) -> None:
    async with bench(deletes=HELD) as made:
        await three_are_gone(made)
        assert (await passed(made, "p1")).waiting == 3
        await let_hold_pass(made)
        await passed(made, "p2", **filters)
        assert (await passed(made, "p3")).deleted == 3


async def test_a_filtered_pass_forgets_what_it_found_again() -> None:
    async with bench(deletes=HELD) as made:
        keys = await three_are_gone(made)
        await passed(made, "p1")
        await made.put(keys[0])
        await passed(made, "p2", prefix="a/")
        assert [one.key for one in await made.ledger.pending_deletions("r")] == keys[1:3]


class Busy(MemoryStore):
    """Refuses its tenth deletion."""

    deletions = 0

    async def delete(self, *what: Any, **how: Any) -> None:
        self.deletions += 1
        number = self.deletions
        await asyncio.sleep(0.01 * (number % 7))
        if number == 10:
            raise Throttled("slow down")
        await super().delete(*what, **how)


async def test_what_a_failed_attempt_deleted_counts_and_nothing_goes_on_behind_it() -> None:
    async with bench(deletes={"mode": "mirror", "max_percent": 100}) as made:
        keys = await three_are_gone(made)
        await vanish(made, *keys[3:])
        await made.scan(pass_id="p1")
        made.destination.__class__ = Busy
        pulse = Pulse()
        token = current_pulse.set(pulse)
        try:
            with pytest.raises(Throttled):
                await ActivityEnvironment().run(activities_of(made).delete_extra, ExtraInput(route="r", pass_id="p1"))
            left = await made.replicas()
            assert 1 < len(left) < 21
            await asyncio.sleep(0.2)
            assert await made.replicas() == left
            told = pulse.so_far()
            assert isinstance(told, ExtraResult), "what counts where the retries are spent with this attempt"
            assert (told.cursor, told.ended, told.deleted) == ("", False, 21 - len(left))
            ended = await ActivityEnvironment().run(activities_of(made).delete_extra, ExtraInput(route="r", pass_id="p1"))
        finally:
            current_pulse.reset(token)
        assert (ended.deleted, await made.replicas()) == (20, ["b/0"])


async def test_the_deletions_of_a_paused_pass_keep_no_slot_and_are_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activities.gate.REST_S", 0.1)
    async with bench(deletes={"mode": "mirror", "max_percent": 100}) as made:
        await three_are_gone(made)
        await made.scan(pass_id="p1")
        paused, asked = activities_of(made, steering=Steering(paused=True)), ExtraInput(route="r", pass_id="p1")
        rested = await within(ActivityEnvironment().run(paused.delete_extra, asked), 20)
        assert (rested.cursor, rested.ended, rested.deleted, len(await made.replicas())) == ("", False, 0, 21)
        done = await ActivityEnvironment().run(activities_of(made).delete_extra, asked)
        assert (done.ended, done.deleted, len(await made.replicas())) == (True, 3, 18)


class Returning(Throttling):
    """An object that is put back when somebody has found it absent."""

    returns = ""

    async def head(self, bucket: str, key: str, **how: Any) -> ObjectInfo:
        try:
            return await super().head(bucket, key, **how)
        except ObjectNotFound:
            if key == self.returns:
                self.returns = ""
                await super().put(bucket, key, Body.of(b"x"), Attributes(), ABSENT)
            raise


async def test_a_source_that_comes_back_between_two_looks_keeps_its_replica() -> None:
    async with bench(deletes={"mode": "mirror", "max_percent": 100}) as made:
        await three_are_gone(made)
        await made.scan(pass_id="p1")
        before = await made.destination.head("two", "a/01")
        made.source.__class__ = Returning
        made.source.returns = "a/01"  # type: ignore[attr-defined]
        result = await ActivityEnvironment().run(activities_of(made).delete_extra, ExtraInput(route="r", pass_id="p1"))
        assert made.source.returns == "", "it did come back"  # type: ignore[attr-defined]
        assert (result.deleted, result.kept) == (2, 1)
        assert (await made.destination.head("two", "a/01")).version == before.version


class Denying(MemoryStore):
    """Lets nobody delete, or nobody delete `protected`."""

    protected = ""

    async def delete(self, bucket: str, key: str, *what: Any, **how: Any) -> None:
        if key == self.protected or not self.protected:
            raise PermissionRefused("403")
        await super().delete(bucket, key, *what, **how)


async def test_a_page_of_which_some_are_held_is_counted_when_it_is_looked_at_again() -> None:
    async with bench(deletes={"mode": "mirror", "max_percent": 100}) as made:
        await three_are_gone(made)
        await made.scan(pass_id="p1")
        made.destination.__class__ = Denying
        made.destination.protected = "a/01"  # type: ignore[attr-defined]
        asked = ExtraInput(route="r", pass_id="p1")
        held = await ActivityEnvironment().run(activities_of(made, held="a/02").delete_extra, asked)
        assert (held.held, held.cursor, held.ended, held.deleted, held.failed) == ("too many", "", False, 1, 0)
        done = await ActivityEnvironment().run(activities_of(made).delete_extra, asked)
        assert (done.held, done.ended, done.deleted, done.failed) == ("", True, 1, 1)


async def test_a_deletion_that_fails_is_in_quarantine_until_it_is_made() -> None:
    async with bench(deletes={"mode": "mirror", "max_percent": 100}) as made:
        keys = await three_are_gone(made)
        made.destination.__class__ = Denying
        assert (await passed(made, "p1")).failed == 3
        assert [(one.key, one.reason) for one in await made.ledger.quarantine("r")] == [(key, "permission-refused") for key in keys[:3]]
        made.destination.__class__ = MemoryStore
        assert (await passed(made, "p2")).deleted == 3
        assert await made.ledger.quarantine("r") == []


async def test_a_small_object_that_came_back_before_its_deletion_is_copied_and_has_its_receipt() -> None:
    async with bench(deletes={"mode": "mirror", "max_percent": 100}) as made:
        await three_are_gone(made)
        await made.scan(pass_id="p1")
        await made.put("a/00", b"new")
        result = await ActivityEnvironment().run(activities_of(made).delete_extra, ExtraInput(route="r", pass_id="p1"))
        assert (result.deleted, result.kept) == (2, 1)
        receipt = await made.ledger.find("r", "a/00")
        assert receipt is not None
        assert receipt.size_bytes == 3
        assert [entry.action for entry in await made.ledger.history("r", "a/00")] == ["copied", "copied"]
        again = await made.scan(pass_id="p2")
        assert (again.counters.skipped, again.counters.copied) == (19, 0)


async def test_a_large_object_that_came_back_before_its_deletion_leaves_no_upload() -> None:
    async with bench(deletes={"mode": "mirror", "max_percent": 100}, parts={"one_shot_max": "8MiB", "part_size": "8MiB"}) as made:
        await three_are_gone(made)
        await made.scan(pass_id="p1")
        made.source.put_synthetic("one", "a/00", 9 * MIB)
        result = await ActivityEnvironment().run(activities_of(made).delete_extra, ExtraInput(route="r", pass_id="p1"))
        assert (result.deleted, result.kept) == (2, 1)
        assert [one async for one in made.destination.list_uploads("two")] == []


class Lingering(MemoryStore):
    """Says `begun` before each deletion, and takes its time over it."""

    begun: asyncio.Event

    async def delete(self, *what: Any, **how: Any) -> None:
        self.begun.set()
        await super().delete(*what, **how)
        await asyncio.sleep(0.3)


async def test_a_cancelled_page_makes_an_end_of_what_it_began_and_tells_it() -> None:
    async with bench(deletes={"mode": "mirror", "max_percent": 100}) as made:
        keys = await three_are_gone(made)
        await vanish(made, *keys[3:])
        await made.scan(pass_id="p1")
        made.destination.__class__ = Lingering
        made.destination.begun = asyncio.Event()  # type: ignore[attr-defined]
        environment = ActivityEnvironment()
        running = asyncio.create_task(environment.run(activities_of(made).delete_extra, ExtraInput(route="r", pass_id="p1")))
        await made.destination.begun.wait()  # type: ignore[attr-defined]
        environment.cancel()
        told = await running
        gone = 21 - len(await made.replicas())
        deleted = [key for key in keys if [entry.action for entry in await made.ledger.history("r", key)] == ["copied", "deleted"]]
        assert 0 < gone < 20, "some were under way, and no other began"
        assert (told.cursor, told.ended, told.deleted, len(deleted)) == ("", False, gone, gone)
        assert len(await made.ledger.pending_deletions("r", pass_id="p1")) == 20 - gone


async def test_without_a_hold_no_clock_of_another_worker_delays_a_deletion() -> None:
    async with bench(deletes={"mode": "mirror", "max_percent": 100}) as made:
        await three_are_gone(made)
        made.ledger._clock = lambda: time.time() + 60
        result = await passed(made, "p1")
        assert (result.deleted, result.waiting) == (3, 0)
