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
from tests.poll import SLACK

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
    # Only a file's type comes from its extension. (SeaweedFS shows `application/octet-stream` as the extension's type.)
    extension = "bin" if source.keeps_properties else "csv"
    plain = [Thing(f"size-{size}.{extension}", noise.randbytes(size)) for size in sizes]
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
    async with asyncio.timeout(60 * SLACK):
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

    for thing, original, replica, result in zip(things, originals, replicas, results, strict=True):
        where = f"{thing.name}: {result}"
        assert (result.outcome, result.destination_key) == ("copied", after + thing.name), where
        assert replica.sha256 == original.sha256 == hashlib.sha256(thing.data).hexdigest(), where
        assert replica.properties == expected_properties(original, source, destination), where
        assert replica.mark["drayage-route"] == lab.route
        assert result.bytes_copied == (0 if source is destination else len(thing.data)), where
        assert result.verification == expected_level(source, destination), where
        assert result.losses == [], where
    assert {(result.outcome, result.bytes_copied) for result in again} == {("in_sync", 0)}
    assert [one.stamp for one in untouched] == [one.stamp for one in replicas]
    assert await below(destination, after) == {after + thing.name for thing in things}


def expected_level(source: Side, destination: Side) -> str:
    """A plain file has no checksum of its own to compare with; copied by its own store, nothing passes through here."""
    if source.keeps_properties:
        return "end-to-end"
    return "size-only" if source is destination else "dest-verified"


def expected_properties(original: Seen, source: Side, destination: Side) -> Properties:
    """The original's, in the destination's words."""
    wanted = original.properties
    metadata = {key: value for key, value in wanted.metadata.items() if key != "x-goog-source-etag"}
    if destination.kind == "gcs" and original.etag:
        metadata["x-goog-source-etag"] = original.etag
    return replace(wanted, metadata=metadata, content_type=wanted.content_type if source.keeps_properties else "text/csv")


async def below(side: Side, prefix: str) -> set[str]:
    """Every name of the bucket under the prefix, and those of temporary parts and files."""
    keys: set[str] = await asyncio.to_thread(side.keys)
    return {key for key in keys if key.startswith(prefix) or ".drayage" in key}


# --- parts -----------------------------------------------------------------------------------------------------------


def multipart_etag(data: bytes, part_size: int) -> str:
    """S3's ETag of an upload in parts: the MD5 of the parts' MD5s, and their number."""
    digests = [hashlib.md5(data[i : i + part_size], usedforsecurity=False).digest() for i in range(0, len(data), part_size)]
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


@pytest.mark.parametrize("source_name", ["s3b", "gcs", "files"])
async def test_the_etag_at_s3_is_that_of_the_configured_part_size(sides: Sides, open_route: OpenRoute, source_name: str) -> None:
    source, destination = sides[source_name], sides["s3"]
    data = random.Random(14).randbytes(3 * destination.part_size + 11)
    async with open_route(source, destination) as lab:
        before, after = prefixes(lab)
        await seed(source, before, [Thing("k", data)])
        result = await lab.replicate(before + "k")
        (replica,) = await seen(destination, [after + "k"])

    assert isinstance(destination, S3Side)
    assert result.outcome == "copied"
    assert replica.etag == multipart_etag(data, destination.part_size)
    assert after + "k" not in await asyncio.to_thread(destination.uploads)


@pytest.mark.parametrize("destination_name", ["s3", "s3b", "gcs", "files"])
async def test_an_object_that_another_program_uploaded_in_parts_arrives_whole(
    sides: Sides, open_route: OpenRoute, destination_name: str
) -> None:
    source, destination = sides["s3"], sides[destination_name]
    assert isinstance(source, S3Side)
    pieces = [random.Random(n).randbytes(size) for n, size in enumerate((6 * MIB, 5 * MIB, 17))]
    async with open_route(source, destination) as lab:
        before, after = prefixes(lab)
        await asyncio.to_thread(source.put_in_parts, before + "k", pieces)
        result = await lab.replicate(before + "k")
        (replica,) = await seen(destination, [after + "k"])
        again = await lab.replicate(before + "k")

    assert replica.sha256 == hashlib.sha256(b"".join(pieces)).hexdigest()
    assert (result.outcome, again.outcome) == ("copied", "in_sync")


# --- properties ------------------------------------------------------------------------------------------------------


async def test_properties_survive_a_file_system_on_their_way_to_another_endpoint(sides: Sides, open_route: OpenRoute) -> None:
    source, between, destination = sides["s3"], sides["files"], sides["s3b"]
    thing = Thing("rich.html", b"<p>hello</p>", replace(RICH, expires=EXPIRES, tags={"team": "ops", "tier": "1"}))
    async with open_route(source, between) as first:
        before, middle = prefixes(first)
        await seed(source, before, [thing])
        await first.replicate(before + thing.name)
    async with open_route(between, destination, prefixes=(middle, middle)) as second:
        result = await second.replicate(middle + thing.name)
    (original,), (replica,) = await seen(source, [before + thing.name]), await seen(destination, [middle + thing.name])

    assert replica.properties == original.properties
    assert (replica.sha256, result.losses, result.verification) == (original.sha256, [], "end-to-end")
    assert len(replica.mark["drayage-hops"].split(",")) == 2


@pytest.mark.parametrize("source_name", ["s3", "s3b"])
async def test_tags_go_from_s3_to_s3(sides: Sides, open_route: OpenRoute, source_name: str) -> None:
    source, destination = sides[source_name], sides["s3"]
    tags = {"team": "ops", "tier": "1", "empty": ""}
    small, large = Thing("small", b"x", Properties(tags=tags)), Thing("large", bytes(6 * MIB), Properties(tags=tags))
    async with open_route(source, destination) as lab:
        before, after = prefixes(lab)
        await seed(source, before, [small, large])
        await replicate_all(lab, [before + "small", before + "large"])
        replicas = await seen(destination, [after + "small", after + "large"])

    assert [replica.properties.tags for replica in replicas] == [tags, tags]


async def test_tags_stand_among_the_metadata_on_gcs_and_come_back_as_tags(sides: Sides, open_route: OpenRoute) -> None:
    source, between, destination = sides["s3"], sides["gcs"], sides["s3b"]
    thing = Thing("k", b"tagged", Properties(metadata={"owner": "me"}, tags={"team": "ops", "tier": "1"}))
    async with open_route(source, between, tag_metadata_prefix="tag-") as there:
        before, middle = prefixes(there)
        await seed(source, before, [thing])
        first = await there.replicate(before + "k")
        (on_gcs,) = await seen(between, [middle + "k"])
    async with open_route(between, destination, prefixes=(middle, middle), tag_metadata_prefix="tag-") as back:
        second = await back.replicate(middle + "k")
        (returned,) = await seen(destination, [middle + "k"])

    assert {key: on_gcs.properties.metadata[key] for key in ("owner", "tag-team", "tag-tier")} == {
        "owner": "me",
        "tag-team": "ops",
        "tag-tier": "1",
    }
    assert returned.properties.tags == {"team": "ops", "tier": "1"}
    assert returned.properties.metadata == {"owner": "me"}
    assert (first.losses, second.losses) == ([], [])


async def test_what_the_destination_cannot_hold_is_on_the_loss_list(sides: Sides, open_route: OpenRoute) -> None:
    source, destination = sides["s3"], sides["gcs"]
    thing = Thing("k", b"x", Properties(tags={"team": "ops"}, storage_class="STANDARD_IA"))
    async with open_route(source, destination) as lab:
        before, after = prefixes(lab)
        await seed(source, before, [thing])
        result = await lab.replicate(before + "k")
        (replica,) = await seen(destination, [after + "k"])

    assert result.losses == ["storage-class", "tags"]
    assert replica.properties.storage_class == ""


async def test_the_storage_class_is_what_the_route_says(sides: Sides, open_route: OpenRoute) -> None:
    source, destination = sides["gcs"], sides["s3"]
    things = [
        Thing("cold", b"x", Properties(storage_class="NEARLINE")),
        Thing("cold-parts", bytes(6 * MIB), Properties(storage_class="NEARLINE")),
    ]
    async with open_route(source, destination, storage_class_map={"NEARLINE": "STANDARD_IA"}) as lab:
        before, after = prefixes(lab)
        await seed(source, before, things)
        results = await replicate_all(lab, [before + thing.name for thing in things])
        replicas = await seen(destination, [after + thing.name for thing in things])

    assert [replica.properties.storage_class for replica in replicas] == ["STANDARD_IA", "STANDARD_IA"]
    assert [result.losses for result in results] == [[], []]
