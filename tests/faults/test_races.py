"""The source changes, disappears or is shadowed while it is copied; a watcher of the target never sees a mixture."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.e2e.sides import S3Side
from tests.faults.conftest import MakeRig
from tests.faults.rig import MIB, PART, Rig, noise, sha256
from tests.poll import eventually
from tests.proxy import Rule, Stall


@contextlib.asynccontextmanager
async def watched(rig: Rig, name: str) -> AsyncIterator[set[str | None]]:
    """What a reader of the target sees all the while: digests, None for an absent object."""
    seen: set[str | None] = set()
    stop = asyncio.Event()

    async def look() -> None:
        while not stop.is_set():
            seen.add(await rig.digest(name))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.05)

    looking = asyncio.create_task(look())
    try:
        yield seen
    finally:
        stop.set()
        await looking


def hold_part(rig: Rig, name: str, number: int) -> Rule:
    """Holds back the answer to a part, so that the copy stands in its middle."""
    assert rig.writing is not None
    return rig.writing.add(Rule(Stall(), when="mid_request", at=MIB, method="PUT", path=rig.on(name) + f".*partNumber={number}&"))


async def test_a_source_overwritten_in_a_copy_leaves_the_new_version_and_nothing_mixed(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.reading is not None
    assert rig.writing is not None
    old, new = noise(6 * PART), noise(6 * PART)
    key = await rig.put("k", old)
    held = hold_part(rig, "k", 2)
    async with rig.worker() as lab, watched(rig, "k") as seen:
        handle = await lab.start(key)
        await eventually(lambda: held.fired == 1, 20.0)
        await rig.put("k", new)
        held.release()
        result = await handle.result()

    assert 412 in {answer.status for answer in rig.reading.requests("GET", rig.of("k"))}, "no read ever met its pin"
    assert [answer.status for answer in rig.writing.requests("DELETE", rig.on("k") + r"\?uploadId=")] == [204]
    assert seen <= {None, sha256(new)}
    assert result.outcome == "copied"
    await rig.assert_settled("k", new, handle)


async def test_a_replica_stays_the_old_one_until_the_new_one_is_whole(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b)
    first, second, third = (noise(2 * PART + extra) for extra in range(3))
    key = await rig.put("k", first)
    async with rig.worker() as lab, watched(rig, "k") as seen:
        await lab.replicate(key)
        await rig.put("k", second)
        held = hold_part(rig, "k", 2)
        handle = await lab.start(key)
        await eventually(lambda: held.fired == 1, 20.0)
        await rig.put("k", third)
        held.release()
        result = await handle.result()

    assert seen <= {None, *map(sha256, (first, second, third))}
    assert result.outcome == "copied"
    await rig.assert_settled("k", third, handle)


async def test_a_source_deleted_in_a_copy_is_not_resurrected(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b, deletes="mirror")
    assert rig.reading is not None
    key = await rig.put("k", noise(6 * PART))
    held = hold_part(rig, "k", 2)
    async with rig.worker() as lab, watched(rig, "k") as seen:
        handle = await lab.start(key)
        await eventually(lambda: held.fired == 1, 20.0)
        await rig.remove("k")
        held.release()
        result = await handle.result()

    assert 404 in {answer.status for answer in rig.reading.requests("GET", rig.of("k"))}, "no read ever missed its source"
    assert seen == {None}
    assert (result.outcome, result.reason) == ("in_sync", "both-absent")
    await rig.assert_settled("k", None, handle)


async def test_a_source_deleted_while_its_last_copy_commits_takes_the_replica_along(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b, deletes="mirror")
    assert rig.writing is not None
    key = await rig.put("k", noise(PART + 1))
    held = rig.writing.add(Rule(Stall(), when="before_upstream", method="POST", path=rig.on("k") + r"\?uploadId="))
    async with rig.worker() as lab:
        handle = await lab.start(key)
        await eventually(lambda: held.fired == 1, 20.0)
        await rig.remove("k")
        held.release()
        result = await handle.result()

    assert result.outcome == "deleted"
    await rig.assert_settled("k", None, handle)


async def test_an_upload_aborted_by_someone_else_is_begun_again(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.writing is not None
    data = noise(4 * PART)
    key = await rig.put("k", data)
    held = hold_part(rig, "k", 3)
    async with rig.worker() as lab:
        handle = await lab.start(key)
        await eventually(lambda: held.fired == 1, 20.0)
        upload_id = (await lab.progress(handle)).upload_id
        target = {"Bucket": s3b.bucket, "Key": rig.after + "k", "UploadId": upload_id}
        await asyncio.to_thread(lambda: s3b.client.abort_multipart_upload(**target))
        held.release()
        result = await handle.result()

    begun = rig.writing.requests("POST", rig.on("k") + r"\?uploads")
    assert len(begun) == 2
    assert result.outcome == "copied"
    await rig.assert_settled("k", data, handle)
