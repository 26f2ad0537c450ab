"""Whole contents at every size around the part boundary, and gzip-encoded objects as they are stored, in both directions."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from tests.e2e.sides import GcsSide, Properties, S3Side
from tests.faults.conftest import MakeRig
from tests.faults.rig import MIB, PART, noise, sha256

PACKED = Properties(content_type="text/plain", content_encoding="gzip")


@pytest.mark.parametrize("size", [1000, 2 * PART + MIB], ids=["whole", "in-parts"])
async def test_a_gzip_object_goes_from_gcs_to_s3_and_back_byte_for_byte(make_rig: MakeRig, gcs: GcsSide, s3: S3Side, size: int) -> None:
    there = await make_rig(gcs, s3)
    back = await make_rig(s3, gcs)
    packed = gzip.compress(noise(size), 1)
    await asyncio.to_thread(gcs.put, there.before + "k", packed, PACKED)
    async with there.worker() as lab:
        first = await lab.replicate(there.before + "k")
    back.document["routes"][0]["source"]["prefix"] = there.after
    async with back.worker() as lab:
        second = await lab.replicate(there.after + "k")

    assert [(one.outcome, one.verification) for one in (first, second)] == [("copied", "end-to-end")] * 2
    for side, prefix in ((s3, there.after), (gcs, back.after)):
        seen = await asyncio.to_thread(side.see, prefix + "k")
        assert seen is not None
        assert (seen.sha256, seen.properties.content_encoding) == (sha256(packed), "gzip")
    assert await there.leftovers() == await back.leftovers() == []


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART - 1, 3 * PART, 3 * PART + 1])
@pytest.mark.parametrize("kind", ["s3", "gcs"])
async def test_sizes_around_the_part_boundary_arrive_whole(
    make_rig: MakeRig, s3: S3Side, s3b: S3Side, gcs: GcsSide, kind: str, size: int
) -> None:
    rig = await make_rig(s3, gcs if kind == "gcs" else s3b)
    data = noise(size)
    key = await rig.put("k", data)
    async with rig.worker() as lab:
        handle = await lab.start(key)
        result = await handle.result()

    assert (result.outcome, result.bytes_copied, result.size_bytes) == ("copied", size, size)
    await rig.assert_settled("k", data, handle)
