"""Every directed pair of stores on real servers, judged by reading both sides with other programs' libraries."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import random
from dataclasses import dataclass, replace

import pytest

from replication.models import ReplicateObjectResult
from tests.e2e.conftest import OpenRoute, Sides
from tests.e2e.sides import EXPIRES, MIB, Properties, S3Side, Seen, Side
from tests.lab import Lab

PAIRS = [(a, b) for a in ("s3", "s3b", "gcs", "files") for b in ("s3", "s3b", "gcs", "files") if (a, b) != ("s3b", "s3b")]
"""Every way between the four, and within one endpoint where the store copies by itself."""

RICH = Properties(
    content_type="text/html; charset=utf-8",
    content_disposition='attachment; filename="a b.html"',
    content_language="de",
    cache_control="max-age=60, private",
    metadata={"owner": "lab 7", "tricky": "a=b;c, d%20e", "digits": "007"},
)


@dataclass(frozen=True)
class Thing:
    """One object of a pair's source."""

    name: str
    data: bytes
    properties: Properties | None = None


def things_for(source: Side, part_size: int) -> list[Thing]:
    """Sizes around the part boundary and beyond it, with the properties that the source can have by itself."""
    noise = random.Random(part_size)
    sizes = sorted({0, 1, MIB, part_size - 1, part_size, part_size + 1, 2 * part_size + 7})
    plain = [Thing(f"size-{size}.bin", noise.randbytes(size)) for size in sizes]
    if not source.keeps_properties:
        return plain
    rich = replace(RICH, expires=EXPIRES if source.kind == "s3" else "")
    packed = Properties(content_type="text/plain", content_encoding="gzip")
    return [
        *plain,
        Thing("rich.html", b"<p>hello</p>", rich),
        Thing("rich-in-parts.html", noise.randbytes(part_size + 1), rich),
        Thing("packed.txt.gz", gzip.compress(b"hello " * 1000), packed),
    ]


async def seed(source: Side, prefix: str, things: list[Thing]) -> None:
    await asyncio.gather(*(asyncio.to_thread(source.put, prefix + thing.name, thing.data, thing.properties) for thing in things))


async def replicate_all(lab: Lab, keys: list[str]) -> list[ReplicateObjectResult]:
    return list(await asyncio.gather(*(lab.replicate(key) for key in keys)))


async def seen(side: Side, keys: list[str]) -> list[Seen]:
    found = await asyncio.gather(*(asyncio.to_thread(side.see, key) for key in keys))
    assert None not in found, f"missing: {[key for key, one in zip(keys, found, strict=True) if one is None]}"
    return [one for one in found if one is not None]


def prefixes(lab: Lab) -> tuple[str, str]:
    route = lab.settings.routes[0]
    return route.source.prefix, route.destination.prefix


@pytest.mark.parametrize(("source_name", "destination_name"), PAIRS)
async def test_every_size_and_property_arrives_and_a_second_pass_writes_nothing(
    sides: Sides, open_route: OpenRoute, source_name: str, destination_name: str
) -> None:
    source, destination = sides[source_name], sides[destination_name]
    things = things_for(source, destination.part_size)
    async with open_route(source, destination) as lab:
        before, after = prefixes(lab)
        await seed(source, before, things)
        originals = await seen(source, [before + thing.name for thing in things])
        results = await replicate_all(lab, [before + thing.name for thing in things])
        replicas = await seen(destination, [after + thing.name for thing in things])
        again = await replicate_all(lab, [before + thing.name for thing in things])
        untouched = await seen(destination, [after + thing.name for thing in things])

    within = source is destination
    for thing, original, replica, result in zip(things, originals, replicas, results, strict=True):
        where = f"{thing.name}: {result}"
        assert (result.outcome, result.destination_key) == ("copied", after + thing.name), where
        assert result.bytes_copied == (0 if within and source.kind != "file" else len(thing.data)), where
        assert replica.sha256 == original.sha256 == hashlib.sha256(thing.data).hexdigest(), where
        assert replica.properties == expected_properties(original, destination), where
        assert replica.mark["drayage-route"] == lab.route
        assert result.verification == ("dest-verified" if source.kind == "file" else "end-to-end"), where
        assert result.losses == [], where
    assert {(result.outcome, result.bytes_copied) for result in again} == {("in_sync", 0)}
    assert [one.stamp for one in untouched] == [one.stamp for one in replicas]
    assert {key for key in await asyncio.to_thread(destination.keys) if "drayage" in key} == set()


def expected_properties(original: Seen, destination: Side) -> Properties:
    """The original's, in the destination's words."""
    wanted = original.properties
    extra = {"x-goog-source-etag": original.etag} if destination.kind == "gcs" and original.etag else {}
    default = {"gcs": "STANDARD", "file": ""}.get(destination.kind, wanted.storage_class)
    metadata = {key: value for key, value in wanted.metadata.items() if key != "x-goog-source-etag"}
    return replace(wanted, metadata={**metadata, **extra}, storage_class=default)
