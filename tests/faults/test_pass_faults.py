"""Passes against what goes wrong around them: lost events, throttling, races, archives, changes of attributes alone."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import Any

import pytest
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError

from embedded.moto import MotoServer
from replication.ids import object_workflow_id, reconcile_id
from replication.models import ReplicateObjectInput, ReplicateObjectResult
from replication.passes import PassInput, PassResult
from tests.e2e.sides import FileSide, S3Side
from tests.faults.conftest import MakeRig
from tests.faults.rig import Rig, noise
from tests.passes.test_pairs import put_all
from tests.poll import eventually, within
from tests.proxy import Rule, Stall, Status
from workflows.object import ReplicateObject

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


async def reconcile(rig: Rig) -> PassResult:
    return await (await start(rig)).result()


async def start(rig: Rig, route: str = "") -> WorkflowHandle[Any, PassResult]:
    """Of the first route, where none is named."""
    route = route or rig.settings.routes[0].name
    return await rig.client.start_workflow(
        "ReconcileRoute",
        PassInput(route=route),
        id=reconcile_id(route),
        task_queue=rig.settings.temporal.control_queue,
        result_type=PassResult,
    )


async def follow(rig: Rig, route: str, key: str) -> ReplicateObjectResult:
    """What an event leads to."""
    return await rig.client.execute_workflow(
        ReplicateObject.run,
        ReplicateObjectInput(route=route, key=key),
        id=object_workflow_id(route, key),
        task_queue=rig.settings.temporal.control_queue,
    )


async def test_one_pass_converges_when_every_notification_was_lost(s3: S3Side, s3b: S3Side, make_rig: MakeRig) -> None:
    """R16: creates, overwrites and deletes that nobody was told of."""
    rig, chance = await make_rig(s3, s3b, deletes={"mode": "mirror", "max_percent": 100}), random.Random(16)
    truth = {f"{rig.before}{number:03d}": noise(100 + number) for number in range(200)}
    async with rig.worker():
        await put_all(s3, truth)
        assert (await reconcile(rig)).counters.copied == 200
        lost = Counter[str]()
        for _ in range(300):
            key = f"{rig.before}{chance.randrange(250):03d}"
            if key in truth and chance.random() < 0.3:
                await asyncio.to_thread(s3.delete, key)
                del truth[key]
                lost["deletes"] += 1
            else:
                lost["overwrites" if key in truth else "creates"] += 1
                truth[key] = noise(chance.randrange(1, 300))
                await asyncio.to_thread(s3.put, key, truth[key])
        result = await reconcile(rig)
    assert min(lost["deletes"], lost["overwrites"], lost["creates"]) > 20, "every kind of change took place"
    assert (result.state, result.counters.listed) == ("done", len(truth))
    there = {key for key in await asyncio.to_thread(s3b.keys) if key.startswith(rig.after)}
    assert there == {rig.after + key.removeprefix(rig.before) for key in truth}
    for key, data in truth.items():
        assert await rig.holds(key.removeprefix(rig.before), data), key


async def test_a_pass_without_changes_needs_nothing_but_listings(s3: S3Side, s3b: S3Side, make_rig: MakeRig) -> None:
    """Counted at both ends: no HEAD, no GET of an object, no write."""
    rig = await make_rig(s3, s3b)
    assert rig.reading is not None
    assert rig.writing is not None
    await put_all(s3, {f"{rig.before}{number:03d}": noise(100) for number in range(120)})
    async with rig.worker():
        assert (await reconcile(rig)).counters.copied == 120
        rig.reading.log.clear()
        rig.writing.log.clear()
        result = await reconcile(rig)
    assert (result.counters.copied, result.counters.skipped) == (0, 120)
    for proxy in (rig.reading, rig.writing):
        others = [seen for seen in proxy.log if "list-type=2" not in seen.target]
        assert others == [], others[:3]
        assert len(proxy.log) > 0


FAULTS = {503: SLOW_DOWN, 500: b"<Error><Code>InternalError</Code></Error>", 502: b"<html>Bad Gateway</html>", 504: b""}


@pytest.mark.parametrize("status", FAULTS)
async def test_faults_of_writes_slow_a_pass_down_and_stop_nothing(s3: S3Side, s3b: S3Side, make_rig: MakeRig, status: int) -> None:
    """R34: three of ten writes fail; each object costs two writes at most on average."""
    rig, chance = await make_rig(s3, s3b), random.Random(34)
    assert rig.writing is not None
    truth = {f"{rig.before}{number:03d}": noise(500) for number in range(150)}
    await put_all(s3, truth)
    refused = [
        rig.writing.add(Rule(Status(status, FAULTS[status]), method="PUT", path=f"/{s3b.bucket}/{rig.after}", nth=nth))
        for nth in range(1, 200)
        if chance.random() < 0.3
    ]
    async with rig.worker():
        result = await reconcile(rig)
    assert sum(rule.fired for rule in refused) > 30
    assert (result.state, result.counters.copied, result.counters.failed) == ("done", 150, 0)
    puts = rig.writing.requests("PUT", f"/{s3b.bucket}/{rig.after}")
    assert len(puts) <= 2 * len(truth)
    assert {put.status for put in puts} == {200, status}


@pytest.mark.parametrize("status", [503, 500])
async def test_a_destination_that_refuses_every_write_holds_up_no_other_route(
    s3: S3Side, s3b: S3Side, files: FileSide, make_rig: MakeRig, status: int
) -> None:
    """R34: the other route of the same worker, by passes and by events, ends before the first write is taken."""
    rig = await make_rig(s3, s3b)
    assert rig.writing is not None
    other = {**rig.document["routes"][0], "name": f"{rig.document['routes'][0]['name']}-other"}
    other["destination"] = {"store": files.name, "bucket": files.bucket, "prefix": "other/"}
    rig.document["routes"].append(other)
    rig.document["stores"][files.name] = files.settings()
    truth = {f"{rig.before}{number:03d}": noise(500) for number in range(60)}
    await put_all(s3, truth)
    refused = rig.writing.add(Rule(Status(status, FAULTS[status]), method="PUT", path=f"/{s3b.bucket}/{rig.after}", times=1_000_000))
    async with rig.worker():
        first = await start(rig)
        await eventually(lambda: refused.fired >= 10, 30)
        result = await (await start(rig, other["name"])).result()
        assert (result.state, result.counters.copied, result.counters.failed) == ("done", 60, 0)
        truth[f"{rig.before}new"] = noise(500)
        await put_all(s3, {f"{rig.before}new": truth[f"{rig.before}new"]})
        assert (await follow(rig, other["name"], f"{rig.before}new")).outcome == "copied"
        assert rig.writing.requests("PUT", f"/{s3b.bucket}/{rig.after}") != []
        assert {put.status for put in rig.writing.requests("PUT", f"/{s3b.bucket}/{rig.after}")} <= {status, None}
        rig.writing.rules.remove(refused)
        await first.result()
        assert (await reconcile(rig)).state == "done", "what failed too often meanwhile is for the next pass"
    for key, data in truth.items():
        assert await rig.holds(key.removeprefix(rig.before), data), key


@pytest.mark.parametrize("late", ["pass", "event"])
async def test_events_and_a_pass_that_write_one_key_at_once_commit_it_once(s3: S3Side, s3b: S3Side, make_rig: MakeRig, late: str) -> None:
    """R66: a hundred signals while a pass wants the same object. Both have decided to copy it before either commits."""
    rig = await make_rig(s3, s3b)
    assert rig.writing is not None
    key = await rig.put("k", noise(5_000))
    held = rig.writing.add(Rule(Stall(), when="before_upstream", method="PUT", path=rig.on("k")))
    async with rig.worker() as lab:

        async def signalled() -> WorkflowHandle[Any, Any]:
            first, *_ = await asyncio.gather(*(lab.start(key, signal=True) for _ in range(100)))
            return first

        if late == "pass":
            passing = await start(rig)
            await eventually(lambda: held.fired == 1, 20.0)
            event = await signalled()
            copied = (await event.result()).outcome
            held.release()
            result = await passing.result()
            assert (copied, result.counters.copied, result.counters.skipped) == ("copied", 0, 1)
        else:
            event = await signalled()
            await eventually(lambda: held.fired == 1, 20.0)
            result = await reconcile(rig)
            held.release()
            assert (result.counters.copied, (await event.result()).outcome) == (1, "in_sync")
    assert result.state == "done"
    commits = [put.status for put in rig.writing.requests("PUT", f"/{s3b.bucket}/{rig.after}k")]
    assert sorted(status or 0 for status in commits) == [200, 412]


async def test_a_change_of_attributes_alone_moves_no_bytes(s3: S3Side, s3b: S3Side, make_rig: MakeRig) -> None:
    """R84 on S3, where attributes change by a copy onto itself, of which a listing shows only the time.

    fake-gcs-server does not count metagenerations, so that GCS is tested with `compare` alone.
    """
    rig = await make_rig(s3, s3b)
    data = noise(3_000)
    key = await rig.put("k", data)
    async with rig.worker():
        assert (await reconcile(rig)).counters.copied == 1
        await asyncio.sleep(1.1)  # listings tell times in seconds
        await asyncio.to_thread(
            s3.client.copy_object,
            Bucket=s3.bucket,
            Key=key,
            CopySource={"Bucket": s3.bucket, "Key": key},
            MetadataDirective="REPLACE",
            Metadata={"colour": "red"},
        )
        result = await reconcile(rig)
    assert (result.counters.updated, result.counters.copied, result.counters.bytes_copied) == (1, 0, 0)
    seen = await asyncio.to_thread(s3b.see, rig.after + "k")
    assert seen is not None
    assert seen.properties.metadata.get("colour") == "red"
    assert await rig.holds("k", data)


@pytest.fixture
def archive(moto_s3: MotoServer) -> Any:
    with contextlib.closing(S3Side("archive", moto_s3)) as side:
        yield side


async def test_an_archived_object_is_asked_for_and_copied_when_it_can_be_read(archive: S3Side, s3b: S3Side, make_rig: MakeRig) -> None:
    """R85. moto restores at once, so the wait itself is short here."""
    rig = await make_rig(archive, s3b, restore=True)
    assert rig.reading is not None
    key, data = rig.before + "cold", noise(700)
    await asyncio.to_thread(archive.client.put_object, Bucket=archive.bucket, Key=key, Body=data, StorageClass="GLACIER")
    async with rig.worker() as lab:
        result = await reconcile(rig)
        assert (result.counters.waiting, result.counters.copied) == (1, 0)
        handle = lab.client.get_workflow_handle(object_workflow_id(lab.route, key))
        asked = rig.reading.requests("POST", r"\?restore")
        assert [seen.status for seen in asked] != []
        await eventually(lambda: _waits(handle), 30)
        with contextlib.suppress(RPCError):  # moto restores at once: the object may be there already
            await handle.signal("check", "restored")
        await within(handle.result(), 60)
    assert await rig.holds("cold", data)


async def _waits(handle: WorkflowHandle[Any, Any]) -> bool:
    progress = await handle.query("progress")
    return progress["phase"] in ("waiting", "done")
