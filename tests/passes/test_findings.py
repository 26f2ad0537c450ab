"""The lines of plans and verifications: each pass that begins drops those that are old."""

from __future__ import annotations

import time
from typing import Any, cast

from temporalio.testing import ActivityEnvironment

from activities.passes import PassActivities
from activities.turns import Turns
from ledger.ledger import Ledger
from replication.passes import BeginPassInput
from tests.passes.test_by_turns import Pair

DAY_S = 86_400.0


async def begin(pair: Pair, pass_id: str) -> None:
    nobody = cast(Any, None)
    activities = PassActivities(pair.settings, pair.stores, pair.ledger, nobody, nobody, Turns())
    asked = BeginPassInput(route="r", pass_id=pass_id, mode="plan", started_at=time.time())
    await ActivityEnvironment().run(activities.begin_pass, asked)


async def test_a_pass_that_begins_drops_findings_of_more_than_thirty_days_ago() -> None:
    pair = Pair()
    for days in (31, 29):
        earlier = Ledger(pair.settings.ledger, clock=lambda days=days: time.time() - days * DAY_S)  # type: ignore[misc]
        await earlier.add_findings(f"{days}", [(0, "k", {})])
        await earlier.close()
    await begin(pair, "now")
    assert [len(await pair.ledger.findings(pass_id)) for pass_id in ("31", "29")] == [0, 1]
    await pair.ledger.close()
