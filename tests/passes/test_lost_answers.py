"""The store changes an object or deletes it, and its answer never arrives: that is on record all the same, and no failure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from activities.settle import Settler
from replication.errors import ObjectError, ServerFault, StoreTimeout
from replication.models import Attributes, ObjectInfo, ReplicateObjectResult, SettleInput, Version
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
