"""What a change has written when its activity is cancelled is on record, as far as the store answers in time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest
from temporalio.testing import ActivityEnvironment

from activities.deletions import Permit
from activities.objects import ObjectActivities
from activities.streams import Ways
from activities.turns import Turns
from replication.errors import NotSupported
from replication.models import Attributes, Condition, ObjectInfo, SettleInput, Settlement, Version
from stores.body import Body
from stores.memory import MemoryStore
from tests.passes.in_memory import Bench, bench
from tests.poll import eventually, within


class Answering(MemoryStore):
    """Answers to a write, or to the look at the source after it, only when it is told to."""

    began: asyncio.Event
    answers: asyncio.Event

    async def _done(self) -> None:
        self.began.set()
        await self.answers.wait()

    async def put(self, bucket: str, key: str, body: Body, attributes: Attributes, condition: Condition) -> ObjectInfo:
        info = await super().put(bucket, key, body, attributes, condition)
        await self._done()
        return info

    async def update_attributes(self, bucket: str, key: str, version: Version, attributes: Attributes) -> ObjectInfo:
        info = await super().update_attributes(bucket, key, version, attributes)
        await self._done()
        return info

    async def delete(self, bucket: str, key: str, version: Version) -> None:
        await super().delete(bucket, key, version)
        await self._done()


class Granting:
    """Stands for the workflow that counts the deletions of a route."""

    async def ask(self, route: str, key: str) -> Permit:
        return Permit(granted=True)


async def settle(made: Bench) -> Settlement:
    nobody = cast(Any, None)
    permits = cast(Any, Granting())
    objects = ObjectActivities(made.settings, made.stores, made.ledger, permits, nobody, Turns(), Ways(1), nobody)
    return await ActivityEnvironment().run(objects.settle_object, SettleInput(route="r", key="k", cause="pass", absent_for_s=1.0))


async def change(made: Bench, action: str) -> None:
    """What the source has to look like, so that `action` is due."""
    await made.put("k")
    if action == "copied":
        return
    await settle(made)
    info = await made.source.head("one", "k")
    if action == "updated":
        await made.source.update_attributes("one", "k", info.version, replace(info.attributes, content_type="image/png"))
    else:
        await made.source.delete("one", "k", info.version)


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("action", ["copied", "updated", "deleted"])
async def test_a_write_is_on_record_though_it_is_cancelled_before_its_answer(action: str, answers: bool) -> None:
    async with bench(deletes="mirror") as made:
        await change(made, action)
        before = await made.ledger.history("r", "k")
        made.destination.__class__ = Answering
        store = cast(Answering, made.destination)
        store.began, store.answers = asyncio.Event(), asyncio.Event()
        settling = asyncio.create_task(settle(made))
        await within(store.began.wait(), 20)
        settling.cancel()
        if answers:
            await asyncio.sleep(0)
            store.answers.set()
        with pytest.raises(asyncio.CancelledError):
            await within(settling, 20)
        entries = [entry.action for entry in await made.ledger.history("r", "k")][len(before) :]
        assert entries == ([action] if answers else []), "what never answers holds up nobody for long"


class Looking(MemoryStore):
    """A source that answers no look after the first."""

    looks = 0

    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        self.looks += 1
        if self.looks > 1:
            await asyncio.sleep(60)
        return await super().head(bucket, key, tags=tags)


async def test_a_copy_is_on_record_before_its_source_is_looked_at_once_more() -> None:
    async with bench() as made:
        await change(made, "copied")
        made.source.__class__ = Looking  # type: ignore[assignment]
        settling = asyncio.create_task(settle(made))
        await eventually(lambda: cast(Looking, made.source).looks > 1, 20)
        settling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await settling
        assert [entry.action for entry in await made.ledger.history("r", "k")] == ["copied"]


class Unable(MemoryStore):
    async def update_attributes(self, bucket: str, key: str, version: Version, attributes: Attributes) -> ObjectInfo:
        raise NotSupported("only by writing it anew")


async def test_an_update_that_takes_a_copy_is_one_entry() -> None:
    async with bench() as made:
        await change(made, "updated")
        made.destination.__class__ = Unable
        settlement = await settle(made)
        assert settlement.result is not None
        assert settlement.result.outcome == "copied"
        assert [entry.action for entry in await made.ledger.history("r", "k")] == ["copied", "copied"]
