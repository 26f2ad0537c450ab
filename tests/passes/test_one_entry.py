"""A copy that another attempt of its activity finds in place is in the audit trail once, however the attempt before it ended."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from temporalio.testing import ActivityEnvironment

from activities.objects import ObjectActivities
from activities.settle import Settler
from activities.streams import Ways
from activities.turns import Turns
from ledger.rows import AuditEntry
from replication.errors import LedgerUnavailable
from replication.models import CopyObjectInput, CopyPlan, SettleInput, Settlement
from tests.passes.in_memory import Bench, away_once, bench
from tests.passes.test_by_turns import Steered


async def planned(made: Bench) -> CopyPlan:
    await made.put("k")
    settler = Settler(made.settings, made.stores, made.ledger, None, record=cast(Any, None), inline_max=0)
    settlement = await settler.settle(made.settings.route("r"), SettleInput(route="r", key="k"), lambda _: None)
    assert settlement.plan is not None
    return settlement.plan


async def attempt(made: Bench, plan: CopyPlan, number: int, scheduled_at: float) -> Settlement:
    nobody = cast(Any, None)
    objects = ObjectActivities(made.settings, made.stores, made.ledger, nobody, cast(Any, Steered()), Turns(), Ways(1), nobody)
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, attempt=number, scheduled_time=datetime.fromtimestamp(scheduled_at, UTC))
    return await environment.run(objects.copy_object, CopyObjectInput(route="r", key="k", plan=plan))


async def told(made: Bench) -> list[str]:
    return [entry.key for entry in await made.ledger.audit("r") if entry.action == "copied"]


async def test_of_an_attempt_that_was_lost_behind_its_record() -> None:
    async with bench() as made:
        began, plan = time.time(), await planned(made)
        for number in (1, 2):
            settlement = await attempt(made, plan, number, began)
            assert settlement.result is not None
            assert settlement.result.outcome == "copied"
        assert await told(made) == ["k"]
        assert await made.ledger.find("r", "k") is not None


async def test_of_an_attempt_whose_entry_the_ledger_took_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench() as made:
        began, plan = time.time(), await planned(made)
        fired = away_once(made.ledger, monkeypatch)
        with pytest.raises(LedgerUnavailable):
            await attempt(made, plan, 1, began)
        assert fired
        await made.ledger.record(audit=[AuditEntry("r", "other", "copied")])
        await attempt(made, plan, 2, began)
        assert await told(made) == ["k", "other"]


async def test_but_an_entry_of_an_earlier_copy_is_another() -> None:
    """Where a store's versions are its contents, both have the same."""
    async with bench() as made:
        plan = await planned(made)
        await attempt(made, plan, 1, time.time())
        await attempt(made, plan, 2, time.time() + 1)
        assert await told(made) == ["k", "k"]
