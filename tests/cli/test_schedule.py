"""`schedule`: passes that begin by themselves, never two of a route at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from temporalio.client import Client, ScheduleOverlapPolicy, WorkflowExecutionStatus

from tests.cli.lane import Lane, make_lane
from tests.cli.site import Site
from tests.e2e.sides import S3Side
from tests.poll import eventually

MakeSite = Callable[..., Site]


@pytest.fixture
def lane(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> Lane:
    return make_lane(make_site, s3, s3b)


async def test_a_schedule_is_made_and_brought_up_to_date_and_removed(lane: Lane, temporal_client: Client) -> None:
    handle = temporal_client.get_schedule_handle(f"reconcile:{lane.name}")
    made = await lane.starter("schedule", "--every", "1h30m")
    await handle.pause(note="an operator says so")
    updated = await lane.starter("schedule", "--every", "20m")
    described = await handle.describe()
    schedule = described.schedule
    status = await lane.status()
    removed = await lane.starter("schedule", "--delete")
    again = await lane.starter("schedule", "--delete", json=False)

    assert (made.code, made.document["created"], made.document["every_s"]) == (0, True, 5400)
    assert (updated.code, updated.document["created"]) == (0, False)
    assert [every.every.total_seconds() for every in schedule.spec.intervals] == [1200]
    assert schedule.spec.jitter is not None
    assert schedule.spec.jitter.total_seconds() == 120
    assert schedule.policy.overlap == ScheduleOverlapPolicy.SKIP
    assert schedule.policy.catchup_window == timedelta(hours=1)
    assert (schedule.state.paused, schedule.state.note) == (True, "an operator says so")
    assert await described.memo() == {"route": lane.name, "mode": "repair"}
    assert [(found["mode"], found["paused"], found["at"]) for found in status["next_passes"]] == [("repair", True, None)]
    assert (removed.code, removed.document["deleted"]) == (0, True)
    assert (again.code, again.stdout) == (0, f"not scheduled  reconcile:{lane.name}\n")


async def test_a_scheduled_pass_copies_and_status_tells_it_and_the_next_one(lane: Lane) -> None:
    await lane.site.worker()
    await lane.put(1, 2)
    await lane.starter("schedule", "--every", "2s")
    try:
        await eventually(lambda: _last_is_done(lane), 30.0, interval_s=0.5)
        told = (await lane.starter("status", json=False)).stdout
    finally:
        await lane.starter("schedule", "--delete")
    assert await lane.replicas() == 2
    assert "  last pass: repair done: 2 listed, 2 " in told
    assert "  next pass: repair 2" in told


async def _last_is_done(lane: Lane) -> bool:
    status = await lane.status()
    last = status["last_pass"]
    return last is not None and last["state"] == "done" and status["in_sync"] == 2 and bool(status["next_passes"][0]["at"])


async def test_a_scheduled_pass_is_skipped_while_another_one_runs(lane: Lane, temporal_client: Client) -> None:
    await lane.site.worker()
    await lane.put(*range(40))
    await lane.starter("reconcile", "--requests", "1/s")
    await lane.starter("schedule", "--every", "1h")
    handle = temporal_client.get_schedule_handle(f"reconcile:{lane.name}")
    await handle.trigger()
    try:
        found = await eventually(lambda: _scheduled(temporal_client, lane), 20.0, interval_s=0.2)
        result = await temporal_client.get_workflow_handle(found).result()
        running = await temporal_client.get_workflow_handle(f"reconcile:{lane.name}").describe()
    finally:
        await lane.starter("schedule", "--delete")
        await lane.starter("cancel")

    assert found.startswith(f"reconcile:{lane.name}-")
    assert (result["state"], result["reason"]) == ("skipped", "already-running")
    assert running.status == WorkflowExecutionStatus.RUNNING


async def _scheduled(client: Client, lane: Lane) -> str | None:
    query = f'WorkflowType = "ReconcileRoute" AND DrayageRoute = "{lane.name}"'
    ids = [run.id async for run in client.list_workflows(query)]
    return next((found for found in ids if found != f"reconcile:{lane.name}"), None)


async def test_a_scheduled_verification_writes_nothing(lane: Lane, temporal_client: Client) -> None:
    await lane.site.worker()
    await lane.put(1)
    made = await lane.starter("schedule", "--every", "1h", "--verify")
    await temporal_client.get_schedule_handle(f"verify:{lane.name}").trigger()
    try:
        await eventually(lambda: _verified(lane), 30.0, interval_s=0.3)
    finally:
        removed = await lane.starter("schedule", "--verify", "--delete")

    assert made.document["schedule_id"] == f"verify:{lane.name}"
    assert removed.document["deleted"]
    assert await lane.replicas() == 0


async def _verified(lane: Lane) -> bool:
    last = (await lane.status())["last_pass"]
    assert last is not None
    assert (last["mode"], last["counters"]["listed"]) == ("verify", 1)
    return True
