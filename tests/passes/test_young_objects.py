"""`verify` beside users who write: what is on its way is no anomaly."""

from __future__ import annotations

import asyncio
import time

from activities.examine import GRACE_S
from tests.e2e.conftest import Sides
from tests.passes.conftest import OpenPass
from workflows.start import start_object


async def test_an_object_that_was_stored_a_moment_ago_is_given_time_to_arrive(sides: Sides, open_pass: OpenPass) -> None:
    async with open_pass(sides["files"], sides["s3"]) as lab:
        await asyncio.to_thread(sides["files"].put, f"{lab.before}young", b"data")
        verifying = await lab.start_pass(mode="verify")
        await asyncio.sleep(GRACE_S / 3)
        copied = await (await start_object(lab.client, lab.queue, lab.route, f"{lab.before}young", "event")).result()
        copied_at = time.time()
        verified = await verifying.result()

    assert (copied.outcome, verified.state, verified.counters.differing, verified.counters.skipped) == ("copied", "done", 0, 1)
    assert time.time() - copied_at > GRACE_S / 3, "it was looked at before, and again"


async def test_an_object_that_does_not_arrive_is_told(sides: Sides, open_pass: OpenPass) -> None:
    async with open_pass(sides["files"], sides["s3"]) as lab:
        await asyncio.to_thread(sides["files"].put, f"{lab.before}lost", b"data")
        verified = await lab.reconcile(mode="verify")
        await asyncio.sleep(GRACE_S)
        again = await lab.reconcile(mode="verify")
    assert [(one.state, one.counters.differing) for one in (verified, again)] == [("incomplete", 1)] * 2
    assert verified.seconds > GRACE_S / 2
    assert again.seconds < verified.seconds, "nobody waits for what is old"
