"""An object that a pass may not overwrite, where somebody has to choose: it is named until that is done."""

from __future__ import annotations

from typing import Any, cast

from temporalio.testing import ActivityEnvironment

from activities.objects import ObjectActivities
from activities.streams import Ways
from activities.turns import Turns
from replication.models import ABSENT, Attributes, SettleInput
from stores.body import Body
from tests.passes.in_memory import bench


async def test_a_conflict_is_in_quarantine_until_somebody_has_chosen() -> None:
    async with bench(foreign="conflict") as made:
        await made.put("k", b"ours")
        theirs = await made.destination.put("two", "k", Body.of(b"theirs"), Attributes(), ABSENT)
        for attempts in (1, 2):
            assert (await made.scan()).counters.blocked == 1
            (resting,) = await made.ledger.quarantine("r")
            assert (resting.key, resting.reason, resting.attempts) == ("k", "foreign-conflict", attempts)
        await made.destination.delete("two", "k", theirs.version)
        assert (await made.scan()).counters.copied == 1
        assert await made.ledger.quarantine("r") == []


async def test_so_is_one_that_a_workflow_of_its_own_looked_at() -> None:
    async with bench(foreign="conflict") as made:
        await made.put("k", b"ours")
        await made.destination.put("two", "k", Body.of(b"theirs"), Attributes(), ABSENT)
        nobody = cast(Any, None)
        objects = ObjectActivities(made.settings, made.stores, made.ledger, nobody, nobody, Turns(), Ways(1), nobody)
        settlement = await ActivityEnvironment().run(objects.settle_object, SettleInput(route="r", key="k", cause="pass"))
        assert settlement.result is not None
        assert settlement.result.outcome == "conflict"
        assert [resting.reason for resting in await made.ledger.quarantine("r")] == ["foreign-conflict"]
