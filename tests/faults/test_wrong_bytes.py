"""Bytes that are cut, flipped, misplaced or never come: nothing of them is ever committed, and what can heal does."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.e2e.sides import GcsSide, S3Side
from tests.faults.conftest import MakeRig
from tests.faults.rig import MIB, PART, Rig, failure, noise
from tests.proxy import Flip, Reset, Rule, Stall, Status, Truncate, TruncateFixLength, When

ALWAYS = 1000
SIZES = pytest.mark.parametrize("size", [MIB, 2 * PART + 1], ids=["whole", "in-parts"])


def commits(rig: Rig, name: str) -> int:
    """Requests that could have made the replica visible and were answered with success."""
    assert rig.writing is not None
    puts = [seen for seen in rig.writing.requests("PUT", rig.on(name)) if "partNumber" not in seen.target]
    completions = rig.writing.requests("POST", rig.on(name) + r"\?uploadId=")
    return sum(seen.status == 200 for seen in puts + completions)


@SIZES
@pytest.mark.parametrize("fault", [Truncate(), TruncateFixLength(), Flip()], ids=["cut", "cut-and-relabelled", "flipped"])
async def test_a_read_that_goes_wrong_once_is_read_again_before_anything_is_visible(
    make_rig: MakeRig, s3: S3Side, s3b: S3Side, fault: Truncate | TruncateFixLength | Flip, size: int
) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.reading is not None
    data = noise(size)
    key = await rig.put("k", data)
    rig.reading.add(Rule(fault, when="mid_response", at=1000, method="GET", path=rig.of("k")))
    async with rig.worker() as lab:
        handle = await lab.start(key)
        result = await handle.result()

    rig.reading.assert_fired()
    assert (result.outcome, result.verification) == ("copied", "end-to-end")
    assert commits(rig, "k") == 1
    await rig.assert_settled("k", data, handle)


@pytest.mark.parametrize(("size", "reason"), [(MIB, "integrity-mismatch"), (PART + 1, "upload-corrupt")])
async def test_a_source_that_always_reads_wrong_fails_by_name_and_shows_nothing(
    make_rig: MakeRig, s3: S3Side, s3b: S3Side, size: int, reason: str
) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.reading is not None
    key = await rig.put("k", noise(size))
    rig.reading.add(Rule(Flip(), when="mid_response", at=1000, method="GET", path=rig.of("k"), times=ALWAYS))
    async with rig.worker() as lab:
        handle = await lab.start(key)
        result = await failure(handle)

    rig.reading.assert_fired()
    assert (result.outcome, result.reason) == ("failed", reason)
    assert commits(rig, "k") == 0
    await rig.assert_settled("k", None, handle)


@SIZES
async def test_a_byte_that_flips_on_the_way_in_is_found_and_sent_again(make_rig: MakeRig, s3: S3Side, s3b: S3Side, size: int) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.writing is not None
    data = noise(size)
    key = await rig.put("k", data)
    rig.writing.add(Rule(Flip(), when="mid_request", at=2000, method="PUT", path=rig.on("k")))
    async with rig.worker() as lab:
        handle = await lab.start(key)
        result = await handle.result()

    rig.writing.assert_fired()
    puts = rig.writing.requests("PUT", rig.on("k"))
    if size == MIB:
        assert [seen.status for seen in puts].count(400) == 1
    else:
        assert max(Counter(seen.target for seen in puts).values()) == 2
    assert result.outcome == "copied"
    assert commits(rig, "k") == 1
    await rig.assert_settled("k", data, handle)


async def test_a_byte_that_flips_on_the_way_to_gcs_never_becomes_the_object(make_rig: MakeRig, s3: S3Side, gcs: GcsSide) -> None:
    rig = await make_rig(s3, gcs)
    assert rig.writing is not None
    data = noise(MIB)
    key = await rig.put("k", data)
    async with rig.worker() as lab:
        await lab.stores.capabilities(gcs.name, gcs.bucket)
        rig.writing.add(Rule(Flip(), when="mid_request", at=500_000, method="POST", path="^/upload/"))
        handle = await lab.start(key)
        result = await handle.result()

    rig.writing.assert_fired()
    assert result.outcome == "copied"
    await rig.assert_settled("k", data, handle)


async def test_an_answer_that_ignores_the_range_is_rejected(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.reading is not None
    data = noise(2 * PART)
    key = await rig.put("k", data)
    rig.reading.add(Rule(Status(200, data, (("ETag", '"whatever"'),)), method="GET", path=rig.of("k")))
    async with rig.worker() as lab:
        handle = await lab.start(key)
        result = await handle.result()

    rig.reading.assert_fired()
    assert result.outcome == "copied"
    assert commits(rig, "k") == 1
    await rig.assert_settled("k", data, handle)


async def test_a_source_that_never_honours_the_range_fails_by_name(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.reading is not None
    data = noise(PART + 1)
    key = await rig.put("k", data)
    rig.reading.add(Rule(Status(200, data), method="GET", path=rig.of("k"), times=ALWAYS))
    async with rig.worker() as lab:
        handle = await lab.start(key)
        result = await failure(handle)

    rig.reading.assert_fired()
    assert (result.outcome, result.reason) == ("failed", "integrity-mismatch")
    await rig.assert_settled("k", None, handle)


async def test_a_socket_that_falls_silent_is_given_up_and_the_read_repeated(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.reading is not None
    data = noise(MIB)
    key = await rig.put("k", data)
    rig.reading.add(Rule(Stall(), when="mid_response", at=500_000, method="GET", path=rig.of("k")))
    async with rig.worker() as lab:
        handle = await lab.start(key)
        result = await handle.result()

    rig.reading.assert_fired()
    assert result.outcome == "copied"
    assert len(rig.reading.requests("GET", rig.of("k"))) == 2
    await rig.assert_settled("k", data, handle)


@SIZES
@pytest.mark.parametrize("when", ["before_upstream", "mid_request", "after_upstream"])
async def test_a_write_whose_connection_is_reset_is_repeated_or_recognised(
    make_rig: MakeRig, s3: S3Side, s3b: S3Side, when: When, size: int
) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.writing is not None
    data = noise(size)
    key = await rig.put("k", data)
    rig.writing.add(Rule(Reset(), when=when, at=50_000, method="PUT", path=rig.on("k")))
    async with rig.worker() as lab:
        handle = await lab.start(key)
        result = await handle.result()

    rig.writing.assert_fired()
    assert result.outcome == "copied"
    await rig.assert_settled("k", data, handle)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("when", ["before_upstream", "after_upstream"])
async def test_a_read_whose_connection_is_reset_is_repeated(make_rig: MakeRig, s3: S3Side, s3b: S3Side, when: When, method: str) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.reading is not None
    data = noise(PART + 1)
    key = await rig.put("k", data)
    rig.reading.add(Rule(Reset(), when=when, method=method, path=rig.of("k")))
    async with rig.worker() as lab:
        handle = await lab.start(key)
        result = await handle.result()

    rig.reading.assert_fired()
    assert result.outcome == "copied"
    await rig.assert_settled("k", data, handle)
