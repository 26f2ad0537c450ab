"""`verify` beside users who write: what is on its way is no anomaly."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from activities import examine
from activities.examine import GRACE_S, Verify
from tests.e2e.conftest import Sides
from tests.passes.conftest import OpenPass
from workflows.start import start_object


async def test_an_object_that_was_stored_a_moment_ago_is_given_time_to_arrive(
    sides: Sides, open_pass: OpenPass, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrives between the two looks, whatever time that takes here."""
    outcomes, look = list[str](), Verify._look

    async with open_pass(sides["files"], sides["s3"]) as lab:

        async def looked(self: Verify, key: str) -> Any:
            found = await look(self, key)
            if not outcomes:
                copying = await start_object(lab.client, lab.queue, lab.route, key, "event")
                outcomes.append((await copying.result()).outcome)
            return found

        monkeypatch.setattr(Verify, "_look", looked)
        monkeypatch.setattr(examine, "_grace_s", lambda modified: 0.01)
        await asyncio.to_thread(sides["files"].put, f"{lab.before}young", b"data")
        verified = await lab.reconcile(mode="verify")
    assert (outcomes, verified.state, verified.counters.differing, verified.counters.skipped) == (["copied"], "done", 0, 1)


@pytest.mark.parametrize(("age_s", "left_s"), [(0, GRACE_S), (GRACE_S - 1, 1), (GRACE_S, 0), (3600, 0), (-60, 0)])
def test_an_object_is_young_for_some_seconds_by_a_clock_that_is_right(age_s: float, left_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 1, 31, 8, tzinfo=UTC)
    monkeypatch.setattr(time, "time", now.timestamp)
    assert examine._grace_s(now - timedelta(seconds=age_s)) == pytest.approx(left_s)
    assert examine._grace_s(None) == 0


async def test_an_object_that_does_not_arrive_is_told(sides: Sides, open_pass: OpenPass) -> None:
    async with open_pass(sides["files"], sides["s3"]) as lab:
        await asyncio.to_thread(sides["files"].put, f"{lab.before}lost", b"data")
        verified = await lab.reconcile(mode="verify")
        await asyncio.sleep(GRACE_S)
        again = await lab.reconcile(mode="verify")
    assert [(one.state, one.counters.differing) for one in (verified, again)] == [("incomplete", 1)] * 2
    assert verified.seconds > GRACE_S / 2
    assert again.seconds < verified.seconds, "nobody waits for what is old"
