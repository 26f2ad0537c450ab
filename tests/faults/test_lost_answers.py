"""The store commits and its answer never arrives: the copy recognises its own commit, and there is one version of it."""

from __future__ import annotations

import pytest

from stores.gcs_compose import FAN_IN
from tests.e2e.sides import GcsSide, S3Side
from tests.faults.conftest import MakeRig
from tests.faults.rig import PART, Rig, noise, sweep
from tests.proxy import DropResponse, Reset, Rule, Status

KIB = 1 << 10
LOST = [DropResponse(), Reset()]


def writes(rig: Rig, method: str, path: str) -> int:
    assert rig.writing is not None
    return len(rig.writing.requests(method, path))


@pytest.mark.parametrize("fault", LOST, ids=["dropped", "reset"])
async def test_a_put_whose_answer_is_lost_is_recognised_on_s3(
    make_rig: MakeRig, s3: S3Side, s3b: S3Side, fault: DropResponse | Reset
) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.writing is not None
    data = noise(10 * KIB)
    key = await rig.put("k", data)
    rig.writing.add(Rule(fault, when="after_upstream", method="PUT", path=rig.on("k")))
    async with rig.worker() as lab:
        handle = await lab.start(key)
        result = await handle.result()

    rig.writing.assert_fired()
    assert (result.outcome, result.verification) == ("copied", "end-to-end")
    assert writes(rig, "PUT", rig.on("k")) == 1, "the object was written twice"
    await rig.assert_settled("k", data, handle)


@pytest.mark.parametrize("fault", LOST, ids=["dropped", "reset"])
async def test_a_completion_whose_answer_is_lost_is_recognised_on_s3(
    make_rig: MakeRig, s3: S3Side, s3b: S3Side, fault: DropResponse | Reset
) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.writing is not None
    data = noise(PART + 1)
    key = await rig.put("k", data)
    rig.writing.add(Rule(fault, when="after_upstream", method="POST", path=rig.on("k") + r"\?uploadId="))
    async with rig.worker() as lab:
        handle = await lab.start(key)
        result = await handle.result()

    rig.writing.assert_fired()
    assert (result.outcome, result.bytes_copied) == ("copied", len(data))
    assert writes(rig, "PUT", rig.on("k") + ".*partNumber=") == 2, "a part was sent twice"
    assert writes(rig, "POST", rig.on("k") + r"\?uploads") == 1, "a second upload was begun"
    await rig.assert_settled("k", data, handle)


async def test_an_insert_whose_answer_is_lost_is_recognised_on_gcs(make_rig: MakeRig, s3: S3Side, gcs: GcsSide) -> None:
    rig = await make_rig(s3, gcs)
    assert rig.writing is not None
    data = noise(10 * KIB)
    key = await rig.put("k", data)
    async with rig.worker() as lab:
        await lab.stores.capabilities(gcs.name, gcs.bucket)
        rig.writing.add(Rule(DropResponse(), when="after_upstream", method="POST", path="^/upload/"))
        sent = writes(rig, "POST", "^/upload/")
        handle = await lab.start(key)
        result = await handle.result()
        sent = writes(rig, "POST", "^/upload/") - sent

    rig.writing.assert_fired()
    assert (result.outcome, sent) == ("copied", 1)
    await rig.assert_settled("k", data, handle)


async def test_a_compose_whose_answer_is_lost_is_recognised_on_gcs(make_rig: MakeRig, s3: S3Side, gcs: GcsSide) -> None:
    rig, data, compose = await many_parts(make_rig, s3, gcs)
    assert rig.writing is not None
    rig.writing.add(Rule(DropResponse(), when="after_upstream", method="POST", path=compose))
    key = await rig.put("k", data)
    async with rig.worker() as lab:
        handle = await lab.start(key)
        result = await handle.result()

    rig.writing.assert_fired()
    assert (result.outcome, result.bytes_copied) == ("copied", len(data))
    assert writes(rig, "POST", compose) == 1, "the object was composed twice"
    await rig.assert_settled("k", data, handle)


async def test_more_than_32_parts_are_composed_whole(make_rig: MakeRig, s3: S3Side, gcs: GcsSide) -> None:
    rig, data, compose = await many_parts(make_rig, s3, gcs)
    key = await rig.put("k", data)
    async with rig.worker() as lab:
        handle = await lab.start(key)
        result = await handle.result()

    assert (result.outcome, result.bytes_copied, result.verification) == ("copied", len(data), "end-to-end")
    assert writes(rig, "POST", "/compose") > writes(rig, "POST", compose) == 1, "one round of compose was enough"
    await rig.assert_settled("k", data, handle)


async def test_temporaries_that_could_not_be_deleted_after_a_compose_are_swept(make_rig: MakeRig, s3: S3Side, gcs: GcsSide) -> None:
    rig, data, _ = await many_parts(make_rig, s3, gcs)
    assert rig.writing is not None
    key = await rig.put("k", data)
    async with rig.worker() as lab:
        await lab.stores.capabilities(gcs.name, gcs.bucket)  # its probe removes objects of its own
        rig.writing.add(Rule(Status(503), method="DELETE", path=r"/o/\.drayage"))
        handle = await lab.start(key)
        result = await handle.result()
        left = await rig.leftovers()
        swept = await sweep(lab)

    rig.writing.assert_fired()
    assert result.outcome == "copied"
    assert left != [], "a failed deletion left nothing: the sweep proves nothing"
    assert (swept.aborted, swept.failed) == (1, 0)
    await rig.assert_settled("k", data, handle)


async def many_parts(make_rig: MakeRig, s3: S3Side, gcs: GcsSide) -> tuple[Rig, bytes, str]:
    """A route in parts of 64 KiB, an object of more parts than one compose takes, the pattern of the last compose."""
    size = 64 * KIB
    rig = await make_rig(s3, gcs, parts={"part_size": size, "one_shot_max": size, "concurrency": 2}, worker={"streams": 4})
    return rig, noise((FAN_IN + 4) * size - 5), f"/o/{rig.after.replace('/', '%2F')}k/compose"
