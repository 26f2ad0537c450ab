"""What a pass may have under way, and ask of the stores, where it says so from its beginning."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.client import WorkflowExecution

from replication.passes import LimitUpdate
from tests.e2e.conftest import Sides
from tests.e2e.sides import MIB
from tests.passes.conftest import OpenPass, PassLab
from tests.poll import eventually

LARGE = 9 * MIB
OBJECTS = 6


async def test_large_objects_are_held_to_the_objects_at_once(sides: Sides, open_pass: OpenPass) -> None:
    async with open_pass(sides["s3"], sides["s3b"]) as lab:
        for number in range(OBJECTS):
            await asyncio.to_thread(sides["s3"].put, f"{lab.before}{number}", bytes(LARGE))
        result = await lab.reconcile(limits=LimitUpdate(concurrency=2, bytes_per_s=4 * LARGE))
        assert (result.state, result.counters.copied) == ("done", OBJECTS)
        assert most_at_once(await all_objects(lab)) == 2


async def test_the_objects_at_once_change_while_large_ones_are_under_way(sides: Sides, open_pass: OpenPass) -> None:
    async with open_pass(sides["s3"], sides["s3b"]) as lab:
        for number in range(OBJECTS):
            await asyncio.to_thread(sides["s3"].put, f"{lab.before}{number}", bytes(LARGE))
        handle = await lab.start_pass(limits=LimitUpdate(concurrency=1, bytes_per_s=LARGE))
        await eventually(lambda: closed_objects(lab), 30.0)
        await handle.execute_update("limit", LimitUpdate(concurrency=5, bytes_per_s=0))
        result = await handle.result()
        assert (result.state, result.counters.copied) == ("done", OBJECTS)
        assert most_at_once(await all_objects(lab)) >= 3


async def test_what_goes_from_folder_to_folder_is_held_to_the_bandwidth(sides: Sides, open_pass: OpenPass) -> None:
    async with open_pass(sides["files"], sides["files"]) as lab:
        for number in range(4):
            await asyncio.to_thread(sides["files"].put, f"{lab.before}{number}", bytes(LARGE))
        result = await lab.reconcile(limits=LimitUpdate(bytes_per_s=LARGE))
        assert (result.state, result.counters.copied) == ("done", 4)
        assert result.seconds > 4 - 1.5


async def test_pages_of_listings_count_as_requests(sides: Sides, open_pass: OpenPass) -> None:
    """Nothing is to be copied: the listings are all that the second pass asks for, a page of either side for each of six stretches."""
    async with open_pass(sides["files"], sides["files"]) as lab:
        for number in range(60):
            await asyncio.to_thread(sides["files"].put, f"{lab.before}{number:02}", b"x")
        assert (await lab.reconcile(stretch=10)).counters.copied == 60
        held = await lab.reconcile(stretch=10, limits=LimitUpdate(requests_per_s=4))
    assert held.counters.skipped == 60
    assert held.seconds > (12 - 1) / 4


async def closed_objects(lab: PassLab) -> list[WorkflowExecution]:
    query = f"WorkflowType = 'ReplicateObject' AND DrayageRoute = '{lab.route}' AND ExecutionStatus = 'Completed'"
    return [one async for one in lab.client.list_workflows(query)]


async def all_objects(lab: PassLab) -> list[WorkflowExecution]:
    """The workflows of the route's objects, once the visibility store knows that they have ended."""

    async def known() -> list[WorkflowExecution] | None:
        found = await closed_objects(lab)
        return found if len(found) == OBJECTS else None

    return await eventually(known, 20.0)


def most_at_once(objects: list[WorkflowExecution]) -> int:
    """The largest number that ran at one moment."""
    spans = [(one.start_time, one.close_time) for one in objects if one.close_time is not None]
    return max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans)


@pytest.mark.parametrize("change", [{"concurrency": -1}, {"bytes_per_s": -0.5}, {"requests_per_s": float("nan")}])
def test_a_limit_that_lets_nothing_through_is_refused(change: dict[str, Any]) -> None:
    """As it may come from the Web UI or the command line of Temporal."""
    with pytest.raises(ValueError, match=r"greater than or equal to 0|finite number"):
        LimitUpdate.model_validate(change)
