"""The sweep of unfinished uploads on a real store: what a finished copy left goes, everything else stays."""

from __future__ import annotations

import asyncio

from replication.models import Attributes, HousekeepingResult
from tests.e2e.sides import GcsSide, S3Side
from tests.faults.conftest import MakeRig
from tests.faults.rig import MIB, PART, Rig, failure, noise, sweep
from tests.lab import Lab
from tests.poll import eventually
from tests.proxy import Rule, Stall, Status


async def begin_upload(side: S3Side, key: str) -> None:
    """An upload with one part, as a program leaves it that never comes back."""

    def begin() -> None:
        target = {"Bucket": side.bucket, "Key": key}
        upload_id = side.client.create_multipart_upload(**target)["UploadId"]
        side.client.upload_part(**target, UploadId=upload_id, PartNumber=1, Body=b"left behind")

    await asyncio.to_thread(begin)


async def open_uploads(rig: Rig) -> list[str]:
    assert isinstance(rig.destination, S3Side)
    found = await asyncio.to_thread(rig.destination.uploads)
    return sorted(key.removeprefix(rig.after) for key in found if key.startswith(rig.after))


async def test_an_orphan_is_swept_while_an_upload_in_use_and_a_strangers_stay(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.writing is not None
    finished, busy = await rig.put("finished", noise(10)), await rig.put("busy", noise(2 * PART))
    held = rig.writing.add(Rule(Stall(), when="mid_request", at=MIB, method="PUT", path=rig.on("busy") + ".*partNumber=2"))
    async with rig.worker() as lab:
        await lab.replicate(finished)
        await begin_upload(s3b, rig.after + "finished")
        await begin_upload(s3b, rig.after + "strangers")
        handle = await lab.start(busy)
        await eventually(lambda: held.fired == 1, 20.0)
        before = await open_uploads(rig)
        # A workflow shows up in the visibility store a moment after it started.
        swept = await eventually(lambda: _swept_one(lab), 20.0)
        after = await open_uploads(rig)
        held.release()
        result = await handle.result()

    assert before == ["busy", "finished", "strangers"]
    assert (swept.aborted, swept.kept, swept.failed, swept.problems) == (1, 2, 0, [])
    assert after == ["busy", "strangers"]
    assert result.outcome == "copied"
    assert await open_uploads(rig) == ["strangers"]


async def _swept_one(lab: Lab) -> HousekeepingResult | None:
    swept = await sweep(lab)
    return swept if swept.aborted else None


async def test_uploads_that_twenty_crashes_left_are_swept_while_five_live_ones_stay(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    """R73: twenty copies die in a part with their worker, and their workflows are terminated, which cleans up nothing."""
    rig = await make_rig(s3, s3b, worker={"control_slots": 40, "transfer_slots": 40})
    assert rig.writing is not None
    for store in rig.document["stores"].values():
        store["limits"] = {"bandwidth": "100GiB"}  # parts of a store with a limit do not wait for each other
    data = noise(PART + 9)
    dying, living = [f"dying-{number:02d}" for number in range(20)], [f"living-{number}" for number in range(5)]
    keys = {name: await rig.put(name, data) for name in dying + living}
    held = rig.writing.add(Rule(Stall(), when="mid_request", at=MIB, method="PUT", path=rig.on("") + ".*partNumber=1&", times=25))
    killed = await rig.process()
    lost = [await rig.lab.start(keys[name]) for name in dying]
    await eventually(lambda: held.fired == len(dying), 8.0)
    killed.kill()
    for handle in lost:
        await handle.terminate()
    async with rig.worker() as lab:
        alive = [await lab.start(keys[name]) for name in living]
        await eventually(lambda: held.fired == len(dying + living), 20.0)
        before = await open_uploads(rig)
        young = await sweep(lab, older_than_s=3600.0)
        removed = 0

        async def swept_all() -> bool:
            nonlocal removed
            removed += (await sweep(lab)).aborted
            return removed >= len(dying)

        await eventually(swept_all, 20.0)
        after = await open_uploads(rig)
        held.release()
        results = [await handle.result() for handle in alive]

    assert before == dying + living
    assert (young.found, young.aborted, young.kept) == (25, 0, 25)
    assert (removed, after) == (len(dying), living)
    assert {result.outcome for result in results} == {"copied"}
    assert await rig.leftovers() == []
    for name in living:
        await rig.assert_settled(name, data)
    for name in living:
        sent = [seen for seen in rig.writing.requests("PUT", rig.on(name)) if "partNumber=1&" in seen.target]
        assert len(sent) == 1, "what was under way went on"


async def test_an_upload_that_could_not_be_aborted_is_swept_later(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.writing is not None
    key = await rig.put("k", noise(2 * PART))
    rig.writing.add(Rule(Status(403), method="PUT", path=rig.on("k") + ".*partNumber=2", times=100))
    rig.writing.add(Rule(Status(403), method="DELETE", path=rig.on("k") + r"\?uploadId="))
    async with rig.worker() as lab:
        handle = await lab.start(key)
        failed = await failure(handle)
        before = await open_uploads(rig)
        swept = await eventually(lambda: _swept_one(lab), 20.0)

    rig.writing.assert_fired()
    assert failed.outcome == "blocked"
    assert before == ["k"]
    assert swept.aborted == 1
    await rig.assert_settled("k", None, handle)


async def test_temporaries_of_gcs_that_nobody_owns_are_swept(make_rig: MakeRig, s3: S3Side, gcs: GcsSide) -> None:
    rig = await make_rig(s3, gcs)
    key = await rig.put("k", noise(10))
    async with rig.worker() as lab:
        await lab.replicate(key)
        store = lab.stores.get(gcs.name)
        await store.begin_upload(gcs.bucket, rig.after + "k", Attributes())
        before = await rig.leftovers()
        swept = await sweep(lab)

    assert before != []
    assert (swept.found, swept.aborted) == (1, 1)
    assert await rig.leftovers() == []
