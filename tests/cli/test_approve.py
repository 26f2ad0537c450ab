"""`approve`: a mass deletion that was stopped goes on, and nothing else does."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

from tests.cli.conftest import route
from tests.cli.lane import Lane, make_lane
from tests.cli.site import Site
from tests.e2e.sides import S3Side
from tests.poll import eventually


async def test_a_stopped_deletion_goes_on_after_approve_and_not_before(make_site: Callable[..., Site], s3: S3Side, s3b: S3Side) -> None:
    token = uuid.uuid4().hex
    keys = [f"{token}/{number}" for number in range(3)]
    guarded = route(
        "guarded", s3, s3b.name, s3b.bucket, before=f"{token}/", after=f"{token}/", deletes={"mode": "mirror", "max_objects": 1}
    )
    site = make_site(routes=[guarded])
    await site.worker()
    for key in keys:
        await asyncio.to_thread(s3.put, key, b"x")
    assert (await site.starter("copy", "guarded", *keys, "--wait", "--json")).code == 0
    for key in keys:
        await asyncio.to_thread(s3.delete, key)

    before = await site.starter("copy", "guarded", *keys, "--wait", "--json")
    outcomes = sorted(line["outcome"] for line in before.documents)
    assert outcomes == ["deleted", "waiting", "waiting"]
    assert {line["reason"] for line in before.documents} == {"source-deleted", "deletions-held"}
    assert sum(s3b.see(key) is not None for key in keys) == 2

    approved = await site.starter("approve", "guarded", "--json")
    assert approved.code == 0
    assert approved.document["woken"] == 2
    assert set(approved.document["held"]["first"]) <= set(keys)
    await eventually(lambda: sum(s3b.see(key) is not None for key in keys) == 1, 30, interval_s=0.2)
    again = await site.starter("approve", "guarded")
    await eventually(lambda: all(s3b.see(key) is None for key in keys), 30, interval_s=0.2)
    assert again.code == 0


async def test_nothing_held_is_said_and_is_no_error(site: Site) -> None:
    said = await site.starter("approve", "pair")
    assert (said.code, said.stdout.strip()) == (0, "nothing is held")
    unknown = await site.starter("approve", "no-such-route")
    assert unknown.code == 2
    assert "no-such-route" in unknown.stderr


async def test_a_held_pass_goes_on_after_approve_which_tells_what_was_held(make_site: Callable[..., Site], s3: S3Side, s3b: S3Side) -> None:
    lane = make_lane(make_site, s3, s3b, deletes={"mode": "mirror", "max_objects": 1})
    await lane.site.worker()
    await lane.put(1, 2, 3)
    await lane.starter("reconcile", "--wait")
    await lane.remove(1, 2)
    held = await lane.starter("reconcile", "--wait")
    explained = await lane.starter("explain", lane.key(1))
    status = await lane.status()
    await lane.starter("pause")
    await lane.starter("resume")
    resumed = await lane.status()
    approved = await lane.starter("approve")
    await eventually(lambda: _left(lane, 1), 30.0, interval_s=0.2)

    assert (held.code, held.document["state"]) == (1, "held")
    assert explained.document["next"]["what"].startswith("the pass waits for `approve` (2 deletions, more than 1); its replica goes then")
    (running,) = status["passes"]
    assert (running["state"], running["held"]) == ("held", "2 deletions, more than 1")
    assert resumed["passes"][0]["state"] == "held"
    assert status["pending_deletions"] == 2
    assert approved.document["passes"] == {f"reconcile:{lane.name}": "2 deletions, more than 1"}


async def _left(lane: Lane, count: int) -> bool:
    return await lane.replicas() == count
