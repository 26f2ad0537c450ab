"""A pass between every directed pair of stores: exact counts, exact result, and a second pass that asks for listings alone."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from replication.passes import PassResult
from tests.e2e.conftest import Sides
from tests.e2e.sides import MIB, Side
from tests.passes.conftest import OpenPass, PassLab

PAIRS = [(a, b) for a in ("s3", "gcs", "files") for b in ("s3", "gcs", "files")] + [("s3", "s3b")]
ODD = ["a b", "ä/ö", "plus+and%20", "deep/er/and/deeper", "per%cent", "a-b", "a/b", "a.b", "tilde~", "q?x=1&y", "emoji-\N{ROCKET}"]
SIZES = [0, 1, 100, 4096, 70_000]
LARGE = 9 * MIB
EXTRA = 2
FULL = pytest.param(20_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])


async def put_all(side: Side, objects: dict[str, bytes]) -> None:
    def put() -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda item: side.put(*item), objects.items()))

    await asyncio.to_thread(put)


async def contents(side: Side, keys: list[str]) -> dict[str, str | None]:
    """The SHA-256 of each object, None for an absent one."""

    def look() -> dict[str, str | None]:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(side.read, keys))
        return {key: None if data is None else sha256(data).hexdigest() for key, data in zip(keys, found, strict=True)}

    return await asyncio.to_thread(look)


def objects_for(prefix: str, seed: str, count: int) -> dict[str, bytes]:
    noise = random.Random(seed)
    plain = {f"{prefix}o/{number:05d}": noise.randbytes(SIZES[number % len(SIZES)]) for number in range(count)}
    odd = {f"{prefix}odd/{name}": noise.randbytes(33) for name in ODD}
    return {**plain, **odd, f"{prefix}large": noise.randbytes(LARGE)}


def as_long(data: bytes, step: int) -> bytes:
    """Other bytes, and surely other ones: of random ones every 256th single byte would be the same again."""
    return bytes((byte + step) % 256 for byte in data)


@pytest.mark.parametrize("count", [250, FULL])
@pytest.mark.parametrize(("source_name", "destination_name"), PAIRS)
async def test_a_pass_repairs_exactly_what_is_not_right(
    sides: Sides, open_pass: OpenPass, source_name: str, destination_name: str, count: int
) -> None:
    source, destination = sides[source_name], sides[destination_name]
    async with open_pass(source, destination, counted=True) as lab:
        wanted = objects_for(lab.before, lab.route, count)
        await put_all(source, wanted)
        right = await stand_there_before(lab, source, destination, wanted)
        first = await lab.reconcile()
        if "file" in (source.kind, destination.kind):
            right = set()  # plain files have no checksum that a listing could show
        needed = {key: data for key, data in wanted.items() if key not in right}
        assert_counts(first, listed=len(wanted), copied=len(needed), skipped=len(right), bytes_copied=moved(needed, source, destination))
        await assert_equal(lab, source, destination, wanted, extra=EXTRA)

        asked = lab.requests()
        assert asked.total() - asked["list"] >= len(needed) * len(lab.proxies), "the proxies see every request"

        second = await lab.reconcile()
        assert_counts(second, listed=len(wanted), copied=0, skipped=len(wanted), bytes_copied=0)
        assert set(lab.requests()) == ({"list"} if lab.proxies else set())

        changed = await disturb(lab, source, destination, wanted)
        third = await lab.reconcile()
        assert_counts(third, listed=len(wanted), copied=len(changed), skipped=len(wanted) - len(changed))
        assert third.counters.extra == 2 * EXTRA
        await assert_equal(lab, source, destination, wanted, extra=2 * EXTRA)


async def test_a_second_pass_over_several_pages_asks_for_listings_alone(sides: Sides, open_pass: OpenPass) -> None:
    async with open_pass(sides["s3"], sides["s3b"], counted=True) as lab:
        await put_all(sides["s3"], {f"{lab.before}{number:04d}": b"small" for number in range(1_200)})
        assert (await lab.reconcile()).counters.copied == 1_200
        assert lab.requests().total() >= 2 * 1_200, "the proxies see every request"
        assert (await lab.reconcile()).counters.skipped == 1_200
        asked = lab.requests()
        assert set(asked) == {"list"}
        assert asked["list"] >= 4, "two pages of each side"


def moved(objects: dict[str, bytes], source: Side, destination: Side) -> int | None:
    """Bytes that pass through the worker; None where the store may copy by itself."""
    return None if source is destination else sum(map(len, objects.values()))


def assert_counts(result: PassResult, **expected: int | None) -> None:
    told = result.counters.model_dump()
    assert {name: told[name] for name, value in expected.items() if value is not None} == {
        name: value for name, value in expected.items() if value is not None
    }, result
    assert (result.state, told["failed"], told["blocked"], told["deleted"]) == ("done", 0, 0, 0), result


async def stand_there_before(lab: PassLab, source: Side, destination: Side, wanted: dict[str, bytes]) -> set[str]:
    """Replicas of somebody else: some right, which are returned, some as long as they should be and younger but wrong, and
    extra ones."""
    keys = [key for key in sorted(wanted) if "/o/" in key and wanted[key]]
    right, wrong = keys[50:60], keys[60:75]
    await put_all(destination, {replica_of(lab, key): wanted[key] for key in right})
    await put_all(destination, {replica_of(lab, key): as_long(wanted[key], 1) for key in wrong})
    for key in wrong:
        await asyncio.to_thread(source.backdate, key)
    await put_all(destination, {f"{lab.after}extra/{number}": b"not from here" for number in range(EXTRA)})
    return set(right)


async def disturb(lab: PassLab, source: Side, destination: Side, wanted: dict[str, bytes]) -> set[str]:
    """Some changed at the source, some replicas gone, some written over by somebody, all as long as before; two more extra ones."""
    keys = [key for key in sorted(wanted) if "/o/" in key and wanted[key]]
    rewritten, lost, spoilt = keys[3:13], keys[20:30], keys[40:45]
    for key in rewritten:
        wanted[key] = as_long(wanted[key], 2)
    await put_all(source, {key: wanted[key] for key in rewritten})
    for key in lost:
        await asyncio.to_thread(destination.delete, replica_of(lab, key))
    await put_all(destination, {replica_of(lab, key): as_long(wanted[key], 3) for key in spoilt})
    await put_all(destination, {f"{lab.after}more/{number}": b"not from here" for number in range(EXTRA)})
    return {*rewritten, *lost, *spoilt}


def replica_of(lab: PassLab, key: str) -> str:
    return lab.after + key.removeprefix(lab.before)


async def assert_equal(lab: PassLab, source: Side, destination: Side, wanted: dict[str, bytes], extra: int = 0) -> None:
    left = await contents(source, sorted(wanted))
    right = await contents(destination, [replica_of(lab, key) for key in sorted(wanted)])
    assert list(right.values()) == list(left.values())
    assert None not in left.values()
    there = {key for key in await asyncio.to_thread(destination.keys) if key.startswith(lab.after)}
    assert len(there) == len(wanted) + extra
