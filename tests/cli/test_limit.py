"""`limit`, `pause`, `resume` and `cancel` of a running pass: at once, and past the death of its worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest_asyncio

from tests.cli.lane import Lane, make_lane
from tests.cli.site import Site
from tests.e2e.sides import S3Side
from tests.poll import eventually

EFFECT_S = 2.0
OBJECTS = 300
SLOW = "40"
"""Requests a second, of which an object without a replica takes two: the whole pass takes 15 s."""

MakeSite = Callable[..., Site]


@pytest_asyncio.fixture
async def lane(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> Lane:
    """A slow pass is under way."""
    found = make_lane(make_site, s3, s3b)
    await found.site.worker()
    await found.put(*range(OBJECTS))
    started = await found.starter("reconcile", "--requests", SLOW)
    assert (started.code, started.document["started"]) == (0, True)
    await eventually(lambda: _some(found), 20.0)
    return found


async def _some(lane: Lane) -> bool:
    return 0 < await lane.replicas() < OBJECTS


async def _all(lane: Lane) -> bool:
    return await lane.replicas() == OBJECTS


async def _counted(lane: Lane) -> dict[str, Any] | None:
    """The running pass in `status`, once a heartbeat has told what it has copied."""
    (running,) = (await lane.status())["passes"]
    return running if running["counters"]["copied"] else None


async def _after(lane: Lane, seconds: float) -> int:
    """Replicas once that time has passed: that nothing more begins shows only by waiting."""
    await asyncio.sleep(seconds)
    return await lane.replicas()


async def test_a_lower_limit_takes_effect_within_two_seconds(lane: Lane) -> None:
    limited = await lane.starter("limit", "--requests", "1/s", "--bandwidth", "1MiB/s", "--concurrency", "3")
    then = await _after(lane, EFFECT_S)
    later = await _after(lane, 4.0)

    assert (limited.code, limited.stderr) == (0, "")
    assert limited.document == {
        "route": lane.name,
        "workflow_id": f"reconcile:{lane.name}",
        "concurrency": 3,
        "bytes_per_s": 1 << 20,
        "requests_per_s": 1.0,
    }
    assert then < OBJECTS
    assert later - then <= 5
    running = await eventually(lambda: _counted(lane), 20.0)
    assert running["limits"] == {"concurrency": 3, "bytes_per_s": 1 << 20, "requests_per_s": 1.0}
    assert running["state"] == "running"
    assert running["counters"]["copied"] <= await lane.replicas()
    await lane.starter("cancel")


async def test_lifting_the_limit_lets_the_pass_run_at_full_speed(lane: Lane) -> None:
    await lane.starter("limit", "--requests", "1")
    lifted = await lane.starter("limit", "--requests", "off", json=False)
    assert (lifted.code, lifted.stdout) == (0, f"limited  reconcile:{lane.name}: no limits\n")
    await eventually(lambda: _all(lane), EFFECT_S + 5.0, interval_s=0.1)


async def test_a_paused_pass_stands_still_also_past_the_death_of_its_worker(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    lane = make_lane(make_site, s3, s3b)
    worker = await lane.site.worker()
    await lane.put(*range(OBJECTS))
    await lane.starter("reconcile", "--requests", SLOW)
    await eventually(lambda: _some(lane), 20.0)
    paused = await lane.starter("pause")
    then = await _after(lane, EFFECT_S)
    assert (paused.code, paused.stderr) == (0, "")
    assert paused.document == {"pass": "repair", "route": lane.name, "workflow_id": f"reconcile:{lane.name}", "pause": True}
    assert await _after(lane, 2.0) == then < OBJECTS

    worker.kill()
    await lane.site.worker()
    running = await eventually(lambda: _answered(lane), 40.0, interval_s=0.2)
    assert (running["state"], running["limits"]["requests_per_s"]) == ("paused", float(SLOW))
    await lane.starter("limit", "--requests", "1")
    resumed = await lane.starter("resume", json=False)
    assert resumed.stdout.splitlines() == [f"resumed  reconcile:{lane.name}", f"0 objects of route {lane.name}"]

    await eventually(lambda: _more(lane, then), 60.0, interval_s=0.2)  # the dead worker's scan is missed after its heartbeat timeout
    slow = await lane.replicas()
    assert await _after(lane, 2.0) - slow <= 3
    await lane.starter("limit", "--requests", "0")
    await eventually(lambda: _all(lane), 15.0, interval_s=0.2)


async def _answered(lane: Lane) -> dict[str, Any] | None:
    """The running pass, once the new worker has taken it over."""
    (running,) = (await lane.status())["passes"]
    return running if running["state"] else None


async def _more(lane: Lane, than: int) -> bool:
    return await lane.replicas() > than


async def test_a_paused_pass_begins_no_workflows_of_large_objects(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    """It is paused before any worker takes it up."""
    lane = make_lane(make_site, s3, s3b)
    await lane.put(1, data=bytes(9 << 20))
    await lane.starter("reconcile")
    pausing = asyncio.create_task(lane.starter("pause"))
    await lane.site.worker()
    assert (await pausing).document["pause"] is True
    assert await _after(lane, 3.0) == 0
    assert (await lane.status())["open"] == {}
    await lane.starter("resume")
    await eventually(lambda: _more(lane, 0), 30.0, interval_s=0.2)


async def test_a_cancelled_pass_ends_and_the_next_one_does_only_the_rest(lane: Lane) -> None:
    cancelled = await lane.starter("cancel")
    there = await lane.replicas()
    rest = await lane.starter("reconcile", "--wait")

    assert (cancelled.code, cancelled.stderr) == (0, "")
    assert cancelled.document == {"route": lane.name, "workflow_id": f"reconcile:{lane.name}", "ended": True}
    assert 0 < there < OBJECTS
    assert (rest.code, rest.document["state"], rest.document["listed"]) == (0, "done", OBJECTS)
    assert rest.document["copied"] <= OBJECTS - there + 5
    assert await _all(lane)


async def test_without_a_running_pass_there_is_nothing_to_limit_or_cancel(site: Site) -> None:
    told = "no pass of route pair is running"
    for arguments in (["limit", "pair", "--requests", "5"], ["cancel", "pair"]):
        ended = await site.starter(*arguments)
        assert (ended.code, ended.stdout, ended.problems) == (1, "", [told])
