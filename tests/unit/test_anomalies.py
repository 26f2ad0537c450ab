"""What a verification says about a key, as a table over pairs of sides and the decisions that they lead to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replication.anomalies import (
    ANOMALIES,
    LEFT_ALONE,
    Anomaly,
    Compared,
    anomalies_of,
    bytes_differ,
    digest_of,
    digest_text,
    extra_anomaly,
    missing_references,
    unreadable,
    unresolved,
    verified_level,
)
from replication.decide import REASONS, Observation, decide
from replication.errors import DependencyCycle, PermissionRefused
from replication.mark import Mark, place_digest, version_token, with_mark
from replication.models import Attributes, Checksums, ObjectInfo, Version

SOURCE_PLACE, REPLICA_PLACE = place_digest("loc-a", "k"), place_digest("loc-b", "k")
V1, V2 = Version(3, etag="v1"), Version(3, etag="v2")
STORED = Version(3, etag="stored")
NONE, ONE, TWO = Checksums(), Checksums(crc32c=1), Checksums(crc32c=2)
ATTRIBUTES = Attributes(content_type="text/plain", metadata={"colour": "blue"}, tags={"team": "a"}, storage_class="NEARLINE")
MARK = Mark(route="ab", source=SOURCE_PLACE, replica=REPLICA_PLACE, version=version_token(V1), hops=("loc-a",))
RED: dict[str, Any] = {"metadata": {"colour": "red", "shape": "round"}}


def source(version: Version = V1, checksums: Checksums = NONE, **more: Any) -> ObjectInfo:
    return ObjectInfo("k", version, ATTRIBUTES, checksums, **more)


def replica(mark: Mark | None = MARK, checksums: Checksums = NONE, version: Version = STORED, **changed: Any) -> ObjectInfo:
    attributes = replace(ATTRIBUTES, **changed)
    metadata = attributes.metadata if mark is None else with_mark(attributes.metadata, mark)
    return ObjectInfo("k", version, replace(attributes, metadata=metadata), checksums)


def compared(one: ObjectInfo, other: ObjectInfo | None, **more: Any) -> Compared:
    """With the decision that the product takes."""
    rules = {name: more.pop(name) for name in ("overwrite", "foreign") if name in more}
    observation = Observation(
        source=one,
        replica=other,
        route="ab",
        source_place=SOURCE_PLACE,
        replica_place=REPLICA_PLACE,
        destination_id="loc-b",
        wanted=ATTRIBUTES,
        paired=more.get("paired", False),
        **rules,
    )
    places: dict[str, Any] = {"source_place": SOURCE_PLACE, "replica_place": REPLICA_PLACE}
    return Compared(decision=decide(observation), source=one, replica=other, route="ab", wanted=ATTRIBUTES, **places, **more)


OTHER_ROUTE = replace(MARK, route="zz")
COPIED_BY_USER = replace(MARK, replica=place_digest("loc-b", "elsewhere"))
LOOPED = ObjectInfo("k", V1, replace(ATTRIBUTES, metadata=with_mark({}, Mark(route="ba", source="x", replica=SOURCE_PLACE, version="1",
                                                                            hops=("loc-b",)))))  # fmt: skip
LONG = Version(4, etag="stored")

TABLE: list[tuple[str, Compared, list[str]]] = [
    ("right by its mark", compared(source(), replica()), []),
    ("right by checksums, without a mark", compared(source(checksums=ONE), replica(None, ONE)), []),
    ("absent", compared(source(), None), ["missing-at-destination"]),
    ("absent, its source archived", compared(source(archived=True), None), ["missing-at-destination"]),
    ("longer", compared(source(), replica(version=LONG)), ["size"]),
    ("longer, and not ours", compared(source(), replica(None, version=LONG)), ["size", "foreign"]),
    ("other content", compared(source(checksums=ONE), replica(checksums=TWO)), ["checksum"]),
    ("other content of another route", compared(source(checksums=ONE), replica(OTHER_ROUTE, TWO)), ["checksum", "foreign"]),
    ("a user's copy of another replica", compared(source(checksums=ONE), replica(COPIED_BY_USER, TWO)), ["checksum", "foreign"]),
    ("of another version, with nothing to compare", compared(source(V2), replica()), ["checksum"]),
    ("of another version, every byte equal", compared(source(V2), replica(), bytes_crc32c=7), []),
    ("not marked, with nothing to compare", compared(source(), replica(None)), ["checksum", "foreign"]),
    ("not marked, on a route that leads back", compared(source(), replica(None), paired=True), ["checksum"]),
    ("a header", compared(source(), replica(content_type="text/html")), ["metadata"]),
    ("metadata", compared(source(), replica(**RED)), ["metadata"]),
    ("tags", compared(source(), replica(tags={})), ["tags"]),
    ("tags that the route drops", compared(source(), replica(tags={}), compare_tags=False), []),
    ("storage class", compared(source(), replica(storage_class="")), ["storage-class"]),
    ("all attributes", compared(source(), replica(tags={}, storage_class="", **RED)), ["metadata", "tags", "storage-class"]),
    ("attributes of other content say nothing", compared(source(checksums=ONE), replica(checksums=TWO, tags={})), ["checksum"]),
    ("attributes, the source archived", compared(source(archived=True), replica(tags={})), ["tags"]),
    ("of another version, the source archived", compared(source(V2, archived=True), replica()), ["checksum"]),
    ("only created", compared(source(checksums=ONE), replica(checksums=TWO), overwrite="never"), []),
    ("somebody else's, which the route keeps", compared(source(checksums=ONE), replica(None, TWO), foreign="keep"), []),
    ("somebody else's, in conflict", compared(source(checksums=ONE), replica(None, TWO), foreign="conflict"), ["checksum", "foreign"]),
    ("tags of somebody else's, in conflict", compared(source(checksums=ONE), replica(None, ONE, tags={}), foreign="conflict"),
     ["tags", "foreign"]),
    ("attributes of another route's", compared(source(checksums=ONE), replica(OTHER_ROUTE, ONE, **RED)), ["metadata", "foreign"]),
    ("a copy from the destination", compared(LOOPED, replica(checksums=TWO)), []),
    ("not what was copied", compared(source(), replica(checksums=TWO), receipt=(1, "t")), ["checksum"]),
    ("what was copied", compared(source(), replica(checksums=TWO), receipt=(2, "t")), []),
    ("written anew since", compared(source(), replica(), receipt=(1, "t")), ["checksum"]),
    ("written anew, every byte equal", compared(source(), replica(), receipt=(1, "t"), bytes_crc32c=7), []),
    ("not written since", compared(source(), replica(), receipt=(1, STORED.token)), []),
]  # fmt: skip


@pytest.mark.parametrize(("seen", "wanted"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_a_pair_has_these_anomalies(seen: Compared, wanted: list[str]) -> None:
    found = anomalies_of(seen)
    assert [anomaly.name for anomaly in found] == wanted
    assert all(anomaly.message and anomaly.name in ANOMALIES for anomaly in found)


def test_every_anomaly_is_found_somewhere() -> None:
    told = {name for _, _, wanted in TABLE for name in wanted}
    told |= {
        unreadable(PermissionRefused("no")).name,
        missing_references(["a"], 1).name,
        bytes_differ(0, 1, 2, 3).name,
        "missing-at-source",
    }
    assert told == set(ANOMALIES)
    assert set(REASONS) >= LEFT_ALONE


def test_a_replica_without_a_source_is_ours_by_its_mark_only() -> None:
    def of(info: ObjectInfo) -> str:
        seen = Observation(source=None, replica=info, route="ab", source_place=SOURCE_PLACE, replica_place=REPLICA_PLACE,
                           destination_id="loc-b")  # fmt: skip
        return extra_anomaly(decide(seen), info, "ab", SOURCE_PLACE, REPLICA_PLACE).name

    damaged = replica(replace(MARK, crc32c=1), TWO)
    assert of(replica()) == "missing-at-source"
    assert [of(info) for info in (replica(None), replica(OTHER_ROUTE), replica(COPIED_BY_USER), damaged)] == ["foreign"] * 4


def test_the_two_values_and_the_fields_are_named() -> None:
    (found,) = anomalies_of(compared(source(), replica(content_type="text/html", **RED)))
    assert found.document("ab", "k") == {
        "route": "ab",
        "key": "k",
        "anomaly": "metadata",
        "message": "differs: content_type, metadata.colour, metadata.shape",
        "source": {"content_type": "text/plain", "metadata.colour": "blue"},
        "replica": {"content_type": "text/html", "metadata.colour": "red", "metadata.shape": "round"},
        "fields": ["content_type", "metadata.colour", "metadata.shape"],
    }
    (checksum,) = anomalies_of(compared(source(checksums=ONE), replica(checksums=TWO)))
    assert (checksum.source, checksum.replica) == ("crc32c:00000001", "crc32c:00000002")


def test_metadata_in_another_case_is_the_same_where_the_destination_folds_it() -> None:
    folded = replica(metadata={"COLOUR": "blue"})
    assert anomalies_of(compared(source(), folded, case_insensitive_metadata=True))[1:] == []
    other = replica(metadata={"COLOUR": "red"})
    seen = replace(compared(source(), other), case_insensitive_metadata=True)
    assert [anomaly.more["fields"] for anomaly in anomalies_of(seen)] == [["metadata.colour"]]


def test_missing_references_are_named_up_to_a_limit() -> None:
    found = missing_references([f"k{number}" for number in range(20)], 1_000)
    assert found.message == "does not stand at the destination: k0, k1, k2, and 997 more"
    assert (len(found.more["missing"]), found.more["missing_count"]) == (20, 1_000)
    assert unresolved(DependencyCycle("a -> a")) == Anomaly(name="missing-reference", message="a -> a", more={"reason": "dependency-cycle"})


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        (source(checksums=Checksums(crc32c=0x1A, md5="m")), None, "crc32c:0000001a"),
        (source(checksums=Checksums(md5="m")), replica(checksums=ONE), "crc32c:00000001"),
        (source(checksums=Checksums(md5="m")), replica(), "md5:m"),
        (source(), replica(), "etag:v1"),
        (source(Version(3, id="file-identity")), None, "etag:file-identity"),
    ],
)
def test_a_leaf_has_the_strongest_checksum_that_is_known(one: ObjectInfo, other: ObjectInfo | None, wanted: str) -> None:
    assert digest_text(one, other) == wanted


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        (compared(source(checksums=Checksums(md5="m")), replica(), receipt=(2, "t"), bytes_crc32c=2), "md5:m"),
        (compared(source(), replica(), receipt=(2, "t")), "crc32c:00000002"),
        (compared(source(), replica(), bytes_crc32c=2), "crc32c:00000002"),
        (compared(source(), replica()), "etag:v1"),
    ],
)
def test_a_leaf_is_the_same_whether_bytes_were_read_or_not(seen: Compared, wanted: str) -> None:
    assert digest_of(seen) == wanted


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        (compared(source(checksums=ONE), replica(checksums=ONE)), "end-to-end"),
        (compared(source(), replica(), bytes_crc32c=7), "end-to-end"),
        (compared(source(), replica(replace(MARK, crc32c=1), ONE)), "dest-verified"),
        (compared(source(), replica(checksums=ONE), receipt=(1, "t")), "dest-verified"),
        (compared(source(), replica(checksums=ONE)), "size-only"),
        (compared(source(), replica()), "size-only"),
    ],
)
def test_the_level_is_never_more_than_was_compared(seen: Compared, wanted: str) -> None:
    assert verified_level(seen) == wanted
