"""The store changes an object or deletes it, and its answer never arrives: that is on record all the same, and no failure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from activities.plans import SmallPlan
from activities.settle import Settler
from activities.unsure import MOST, Unsure
from replication.errors import EndpointUnreachable, ObjectError, ServerFault, StoreTimeout
from replication.models import (
    ABSENT,
    ANY,
    Attributes,
    Checksums,
    Condition,
    ObjectInfo,
    ReplicateObjectResult,
    SettleInput,
    Version,
)
from stores.body import Body
from stores.memory import MemoryStore
from stores.memory_buckets import Stored
from tests.passes.in_memory import Bench, bench

LOST = [ServerFault, StoreTimeout]


class Mute(MemoryStore):
    """Does what it is asked for, and says that it failed. `does` nothing at all when it is told so."""

    error: type[ObjectError] = ServerFault
    does = True

    async def delete(self, bucket: str, key: str, version: Version) -> None:
        if self.does:
            await super().delete(bucket, key, version)
        raise self.error("no answer")

    async def update_attributes(self, bucket: str, key: str, version: Version, attributes: Attributes) -> ObjectInfo:
        if self.does:
            await super().update_attributes(bucket, key, version, attributes)
        raise self.error("no answer")


async def settled(made: Bench) -> ReplicateObjectResult:
    """What the look at `k` has recorded."""
    recorded: list[ReplicateObjectResult] = []

    async def record(result: ReplicateObjectResult) -> None:
        recorded.append(result)

    settler = Settler(made.settings, made.stores, made.ledger, None, record=record)
    await settler.settle(made.settings.route("r"), SettleInput(route="r", key="k"), lambda _: None)
    (result,) = recorded
    return result


async def copied(made: Bench, error: type[ObjectError], *, does: bool = True) -> Stored:
    await made.put("k")
    await made.scan()
    made.destination.__class__ = Mute
    made.destination.error, made.destination.does = error, does  # type: ignore[attr-defined]
    return made.source._buckets["one"].objects["k"]


@pytest.mark.parametrize("error", LOST)
async def test_a_deletion_whose_answer_is_lost_is_one(error: type[ObjectError]) -> None:
    async with bench(deletes="mirror") as made:
        source = await copied(made, error)
        await made.source.delete("one", "k", source.info.version)
        assert (await settled(made)).outcome == "deleted"
        assert await made.replicas() == []


@pytest.mark.parametrize("error", LOST)
async def test_an_update_whose_answer_is_lost_is_one(error: type[ObjectError]) -> None:
    async with bench() as made:
        source = await copied(made, error)
        await made.source.update_attributes("one", "k", source.info.version, replace(source.info.attributes, content_type="image/png"))
        result = await settled(made)
        assert result.outcome == "updated"
        replica = await made.destination.head("two", "k")
        assert (replica.attributes.content_type, result.destination_listed) == (
            "image/png",
            f"{replica.version.id}-{replica.version.revision}",
        )


async def test_what_the_store_did_not_do_is_a_failure() -> None:
    async with bench(deletes="mirror") as made:
        source = await copied(made, ServerFault, does=False)
        await made.source.update_attributes("one", "k", source.info.version, replace(source.info.attributes, content_type="image/png"))
        with pytest.raises(ServerFault):
            await settled(made)
        await made.source.delete("one", "k", (await made.source.head("one", "k")).version)
        with pytest.raises(ServerFault):
            await settled(made)
        assert await made.replicas() == ["k"]


class Deaf(MemoryStore):
    """Writes and says that it failed, and so do the `looks` after that; the others are answered."""

    error: type[ObjectError] = ServerFault
    looks = 1

    async def put(self, bucket: str, key: str, body: Body, attributes: Attributes, condition: Condition) -> ObjectInfo:
        await super().put(bucket, key, body, attributes, condition)
        raise ServerFault("no answer")

    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        if self.looks and (bucket, key) == ("two", "k") and key in self._buckets["two"].objects:
            self.looks -= 1
            raise self.error("no answer")
        return await super().head(bucket, key, tags=tags)


def deafened(made: Bench, error: type[ObjectError], looks: int = 1) -> None:
    made.destination.__class__ = Deaf
    made.destination.error, made.destination.looks = error, looks  # type: ignore[attr-defined]


async def entries(made: Bench) -> list[tuple[str, str]]:
    return [(entry.action, entry.destination_version) for entry in await made.ledger.history("r", "k")]


@pytest.mark.parametrize("error", LOST)
async def test_a_copy_of_a_pass_is_one_where_neither_write_nor_look_is_answered(error: type[ObjectError]) -> None:
    async with bench() as made:
        await made.put("k")
        deafened(made, error)
        assert (await made.scan()).counters.copied == 1
        assert await entries(made) == [("copied", (await made.destination.head("two", "k")).version.token)]
        assert (await made.scan()).counters.skipped == 1
        assert len(await entries(made)) == 1


async def test_so_is_one_that_the_next_scan_finds_in_place() -> None:
    """The listings prove by then that the contents are equal, and not who made them so."""
    async with bench() as made:
        await made.put("k")
        deafened(made, EndpointUnreachable)
        with pytest.raises(EndpointUnreachable):
            await made.scan()
        assert (await made.scan()).counters.copied == 1
        assert len(await entries(made)) == 1
        assert await made.ledger.find("r", "k") is not None


@pytest.mark.parametrize("is_recorded", [True, False])
async def test_so_is_one_of_a_change_unless_somebody_else_has_recorded_it(is_recorded: bool) -> None:
    async with bench() as made:
        await made.put("k")
        deafened(made, ServerFault)
        results: list[ReplicateObjectResult] = []

        async def record(result: ReplicateObjectResult) -> None:
            results.append(result)

        settler = Settler(made.settings, made.stores, made.ledger, None, record=record)
        asked = SettleInput(route="r", key="k")
        with pytest.raises(ServerFault):
            await settler.settle(made.settings.route("r"), asked, lambda _: None)
        if is_recorded:
            assert (await made.scan()).counters.skipped == 1
        await settler.settle(made.settings.route("r"), asked, lambda _: None)
        await settler.settle(made.settings.route("r"), asked, lambda _: None)
        assert [result.outcome for result in results] == ["in_sync" if is_recorded else "copied", "in_sync"]


async def test_what_another_wrote_meanwhile_is_no_copy() -> None:
    async with bench() as made:
        await made.put("k")
        deafened(made, EndpointUnreachable)
        with pytest.raises(EndpointUnreachable):
            await made.scan()
        made.destination.__class__ = MemoryStore
        await made.destination.put("two", "k", Body.of(b"x"), Attributes(), ANY)
        assert (await made.scan()).counters.skipped == 1
        assert await entries(made) == []


def test_of_many_copies_the_last_are_known() -> None:
    unsure, version = Unsure(), Version(id="1", size_bytes=1)
    plan = SmallPlan(version, Checksums(), ABSENT, Attributes(), [], "c", "r")
    for number in range(MOST + 1):
        unsure.keep("r", f"{number}", plan)
    assert ("r", "0") not in unsure
    assert unsure.copy_of("r", f"{MOST}", version) is plan
    assert unsure.copy_of("r", f"{MOST}", Version(id="2", size_bytes=1)) is None
