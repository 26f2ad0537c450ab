"""Deletions by a pass: only replicas of this route, only on proof, never too many at once without an operator."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from embedded.seaweedfs import SeaweedFS
from tests.e2e.conftest import Sides
from tests.e2e.sides import S3Side, Side
from tests.passes.conftest import OpenPass, PassLab
from tests.passes.test_pairs import put_all
from tests.poll import eventually


async def seeded(lab: PassLab, source: Side, count: int) -> list[str]:
    keys = [f"{lab.before}{number:03d}" for number in range(count)]
    await put_all(source, {key: key.encode() for key in keys})
    assert (await lab.reconcile()).counters.copied == count
    return keys


async def gone(source: Side, keys: list[str]) -> None:
    await asyncio.gather(*(asyncio.to_thread(source.delete, key) for key in keys))


async def replicas(lab: PassLab, side: Side) -> set[str]:
    return {key.removeprefix(lab.after) for key in await asyncio.to_thread(side.keys) if key.startswith(lab.after)}


@pytest.mark.parametrize(("source_name", "destination_name"), [("s3", "s3b"), ("s3", "gcs"), ("files", "s3"), ("gcs", "files")])
async def test_a_pass_deletes_its_own_replicas_and_nothing_else(
    sides: Sides, open_pass: OpenPass, source_name: str, destination_name: str
) -> None:
    source, destination = sides[source_name], sides[destination_name]
    async with open_pass(source, destination, deletes="mirror") as lab:
        keys = await seeded(lab, source, 30)
        await put_all(destination, {lab.after + "somebody's": b"own"})
        await gone(source, keys[:8])
        plan = await lab.reconcile(mode="plan")
        assert (plan.counters.extra, plan.counters.deleted, len(await replicas(lab, destination))) == (9, 8, 31)
        async with lab.ledger() as ledger:
            told = {finding.key: finding.document["action"] for finding in await ledger.findings(plan.pass_id)}
        assert told == {**dict.fromkeys(keys[:8], "delete"), lab.before + "somebody's": "keep"}

        result = await lab.reconcile()
        assert (result.counters.extra, result.counters.deleted, result.state) == (9, 8, "done")
        left = await replicas(lab, destination)
        assert left == {key.removeprefix(lab.before) for key in keys[8:]} | {"somebody's"}
        async with lab.ledger() as ledger:
            deleted = [entry.key for entry in await ledger.audit(lab.route) if entry.action == "deleted"]
            assert sorted(deleted) == keys[:8]
            assert await ledger.find(lab.route, keys[0]) is None
            assert await ledger.pending_count(lab.route) == 0
            assert (await ledger.verify_chain(lab.route)).intact


async def test_deletions_are_ignored_unless_the_route_mirrors_them(sides: Sides, open_pass: OpenPass) -> None:
    source, destination = sides["s3"], sides["s3b"]
    async with open_pass(source, destination) as lab:
        keys = await seeded(lab, source, 5)
        await gone(source, keys[:2])
        result = await lab.reconcile()
        assert (result.counters.extra, result.counters.deleted) == (2, 0)
        assert len(await replicas(lab, destination)) == 5


@pytest.mark.parametrize("lost", [80, 100], ids=["80 of 100", "all"])
async def test_a_mass_deletion_waits_for_an_operator_and_deletes_nothing_before(sides: Sides, open_pass: OpenPass, lost: int) -> None:
    source, destination = sides["s3"], sides["s3b"]
    async with open_pass(source, destination, deletes="mirror") as lab:
        keys = await seeded(lab, source, 100)
        await gone(source, keys[:lost])
        handle = await lab.start_pass()
        await eventually(lambda: _is_held(lab), 30)
        held = (await lab.pass_progress()).held
        assert str(lost) in held
        assert len(await replicas(lab, destination)) == 100

        assert await handle.execute_update("approve") == held
        result = await handle.result()
        assert result.counters.deleted == lost
        assert len(await replicas(lab, destination)) == 100 - lost


async def _is_held(lab: PassLab) -> bool:
    return (await lab.pass_progress()).state == "held"


async def test_more_than_the_route_allows_is_held_whatever_the_share(sides: Sides, open_pass: OpenPass) -> None:
    source, destination = sides["s3"], sides["s3b"]
    async with open_pass(source, destination, deletes={"mode": "mirror", "max_objects": 3, "max_percent": 100}) as lab:
        keys = await seeded(lab, source, 40)
        await gone(source, keys[:4])
        handle = await lab.start_pass()
        await eventually(lambda: _is_held(lab), 30)
        assert len(await replicas(lab, destination)) == 40
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        async with lab.ledger() as ledger:
            assert (await ledger.passes(lab.route))[0].state == "cancelled"
        assert len(await replicas(lab, destination)) == 40


async def test_an_object_must_be_absent_for_as_long_as_the_route_holds(sides: Sides, open_pass: OpenPass) -> None:
    source, destination = sides["s3"], sides["s3b"]
    async with open_pass(source, destination, deletes={"mode": "mirror", "hold": "4s"}) as lab:
        keys = await seeded(lab, source, 12)
        await gone(source, keys[:3])
        early = await lab.reconcile()
        assert (early.counters.extra, early.counters.deleted) == (3, 0)
        await put_all(source, {keys[0]: b"it is back"})
        await asyncio.sleep(4.5)
        late = await lab.reconcile()
        assert (late.counters.extra, late.counters.deleted) == (2, 2)
        assert len(await replicas(lab, destination)) == 10


async def test_a_source_that_is_not_there_deletes_nothing(sides: Sides, open_pass: OpenPass, seaweed: SeaweedFS) -> None:
    source, destination = S3Side("own", seaweed), sides["s3b"]
    async with open_pass(source, destination, deletes="mirror") as lab:
        keys = await seeded(lab, source, 5)
        await gone(source, keys)
        await asyncio.to_thread(source.client.delete_bucket, Bucket=source.bucket)
        with pytest.raises(WorkflowFailureError) as caught:
            await lab.reconcile()
        assert isinstance(caught.value.cause, ApplicationError)
        assert caught.value.cause.type == "bucket-not-found"
        assert len(await replicas(lab, destination)) == 5
        async with lab.ledger() as ledger:
            newest = (await ledger.passes(lab.route))[0]
            assert (newest.state, newest.reason) == ("failed", "bucket-not-found")
    source.close()


@pytest.mark.parametrize(("asked", "why"), [({"min_size": 2}, "by size"), ({"modified_before": 1.0}, "by time")])
async def test_choosing_by_what_a_source_object_is_finds_no_replicas_without_one(
    sides: Sides, open_pass: OpenPass, asked: dict[str, Any], why: str
) -> None:
    source, destination = sides["s3"], sides["s3b"]
    async with open_pass(source, destination, deletes="mirror") as lab:
        keys = await seeded(lab, source, 12)
        await gone(source, keys[:2])
        result = await lab.reconcile(filters=asked)
        assert (result.counters.extra, result.counters.deleted) == (0, 0), why
