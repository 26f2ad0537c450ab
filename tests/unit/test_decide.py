"""The decision: a table for each rule, and properties over whatever two sides can look like."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.decide import REASONS, Observation, came_from, decide, stands
from replication.mark import Mark, make_mark, own_mark, parse_mark, place_digest, version_token, with_mark
from replication.models import ABSENT, Action, Attributes, Checksums, Condition, Decision, ObjectInfo, Version

SOURCE_PLACE, REPLICA_PLACE = place_digest("loc-a", "k"), place_digest("loc-b", "k")
V1, V2 = Version(3, etag="v1"), Version(3, etag="v2")
STORED = Version(3, id="77")
NONE, ONE, TWO = Checksums(), Checksums(crc32c=1), Checksums(crc32c=2)
ATTRIBUTES = Attributes(content_type="text/plain", metadata={"colour": "blue"})
MARK = Mark(route="ab", source=SOURCE_PLACE, replica=REPLICA_PLACE, version=version_token(V1), hops=("loc-a",))


def source(version: Version = V1, checksums: Checksums = NONE, **more: Any) -> ObjectInfo:
    return ObjectInfo("k", version, more.pop("attributes", ATTRIBUTES), checksums, **more)


def replica(mark: Mark | None = MARK, checksums: Checksums = NONE, version: Version = STORED, **more: Any) -> ObjectInfo:
    attributes = more.pop("attributes", ATTRIBUTES)
    metadata = attributes.metadata if mark is None else with_mark(attributes.metadata, mark)
    return ObjectInfo("k", version, replace(attributes, metadata=metadata), checksums, **more)


def look(source: ObjectInfo | None, replica: ObjectInfo | None, **rules: Any) -> Decision:
    known: dict[str, Any] = {
        "route": "ab",
        "source_place": SOURCE_PLACE,
        "replica_place": REPLICA_PLACE,
        "destination_id": "loc-b",
        "wanted": ATTRIBUTES,
    }
    return decide(Observation(source=source, replica=replica, **{**known, **rules}))


EARLIER = Version(3, id="78", modified=datetime(2026, 1, 1, tzinfo=UTC))
LATER = Version(3, id="79", modified=datetime(2026, 1, 2, tzinfo=UTC))
LONGER = Version(4, id="80", modified=EARLIER.modified)
OTHER_ROUTE = replace(MARK, route="zz")
OTHER_SOURCE = replace(MARK, source=place_digest("loc-x", "k"))
COPIED_BY_USER = replace(MARK, replica=place_digest("loc-b", "elsewhere"))
SHORT = Version(2, id="77")
RED = replace(ATTRIBUTES, metadata={"colour": "red"})
CAPITAL = replace(ATTRIBUTES, metadata={"Colour": "blue"})
TAGGED = replace(ATTRIBUTES, tags={"a": "1"})
FROM_B = Mark(route="ba", source=REPLICA_PLACE, replica=SOURCE_PLACE, version="9-3", hops=("loc-b",))
RECEIPT = {"receipt": (V1.token, STORED.token)}

TABLE: list[tuple[str, ObjectInfo | None, ObjectInfo | None, dict[str, Any], str]] = [
    # the source is absent
    ("neither side has it", None, None, {"deletes": "mirror"}, "both-absent"),
    ("deletions are ignored", None, replica(), {}, "source-absent-deletes-ignored"),
    ("our replica is deleted", None, replica(), {"deletes": "mirror"}, "source-deleted"),
    ("an unmarked object is not ours to delete", None, replica(None), {"deletes": "mirror"}, "source-absent-replica-foreign"),
    ("another route's replica is not", None, replica(OTHER_ROUTE), {"deletes": "mirror"}, "source-absent-replica-foreign"),
    ("another source's replica is not", None, replica(OTHER_SOURCE), {"deletes": "mirror"}, "source-absent-replica-foreign"),
    ("a user's copy of a replica is not", None, replica(COPIED_BY_USER), {"deletes": "mirror"}, "source-absent-replica-foreign"),
    (
        "other content under our mark is not",
        None,
        replica(replace(MARK, crc32c=1), TWO),
        {"deletes": "mirror"},
        "source-absent-replica-foreign",
    ),
    # nothing at the destination
    ("a new object is copied", source(), None, {}, "replica-absent"),
    ("also where objects are only created", source(), None, {"overwrite": "never"}, "replica-absent"),
    ("an archived source must be restored", source(archived=True), None, {}, "source-archived"),
    ("an archived source that is replicated rests", source(archived=True), replica(), {}, "mark-matches"),
    # loops
    ("a copy does not go back", source(attributes=replica(FROM_B).attributes), None, {}, "would-loop"),
    (
        "not over a newer write either",
        source(attributes=replica(FROM_B).attributes),
        replica(None, TWO),
        {},
        "would-loop",
    ),
    ("a copy of elsewhere travels on", source(attributes=replica(replace(FROM_B, hops=("loc-c",))).attributes), None, {}, "replica-absent"),
    (
        "a user's copy of a copy travels",
        source(attributes=replica(replace(FROM_B, replica="0" * 16)).attributes),
        None,
        {},
        "replica-absent",
    ),
    (
        "a user's write over a copy travels",
        source(checksums=TWO, attributes=replica(replace(FROM_B, crc32c=1)).attributes),
        None,
        {},
        "replica-absent",
    ),
    # users write on both sides
    ("only the source changed", source(V2), replica(None), {"paired": True, "common": ("other", STORED.token)}, "source-newer"),
    ("only the destination changed", source(), replica(None), {"paired": True, "common": (V1.token, "other")}, "counterpart-newer"),
    (
        "both changed, the source later",
        source(LATER),
        replica(None, version=EARLIER),
        {"paired": True, "common": ("x", "y")},
        "conflict-won",
    ),
    ("both changed, the source earlier", source(EARLIER), replica(None, version=LATER), {"paired": True}, "conflict-lost"),
    ("both changed at one time, the source larger", source(LONGER), replica(None, version=EARLIER), {"paired": True}, "conflict-won"),
    ("both changed at one time, the source smaller", source(EARLIER), replica(None, version=LONGER), {"paired": True}, "conflict-lost"),
    (
        "the source that won is in an archive",
        source(LATER, archived=True),
        replica(None, version=EARLIER),
        {"paired": True},
        "source-archived",
    ),
    ("a pair goes on where only it wrote", source(V2), replica(), {"paired": True}, "source-newer"),
    # equal content
    ("checksums agree", source(checksums=ONE), replica(checksums=ONE), {}, "checksum-equal"),
    ("also under a mark of another version", source(V2, ONE), replica(checksums=ONE), {}, "checksum-equal"),
    ("also where objects are only created", source(checksums=ONE), replica(checksums=ONE), {"overwrite": "never"}, "checksum-equal"),
    ("a receipt for these versions", source(), replica(None), RECEIPT, "receipt-matches"),
    ("a receipt goes before checksums that agree", source(checksums=ONE), replica(checksums=ONE), RECEIPT, "receipt-matches"),
    ("our mark names this version", source(), replica(), {}, "mark-matches"),
    ("our mark names this content", source(V2, ONE), replica(replace(MARK, crc32c=1)), {}, "mark-matches"),
    ("one kind in common suffices", source(checksums=Checksums(1, md5="m")), replica(checksums=Checksums(md5="m")), {}, "checksum-equal"),
    ("an equal stranger is adopted", source(checksums=ONE), replica(None, ONE), {"foreign": "conflict"}, "adopted-equal"),
    ("another route's equal object is fine", source(checksums=ONE), replica(OTHER_ROUTE, ONE), {}, "checksum-equal"),
    # attributes
    ("attributes are brought up to date", source(), replica(attributes=RED), {}, "attributes-differ"),
    ("tags are attributes", source(), replica(attributes=TAGGED), {"wanted": replace(TAGGED, tags={"a": "2"})}, "attributes-differ"),
    (
        "not where they do not travel",
        source(),
        replica(attributes=TAGGED),
        {"wanted": replace(TAGGED, tags={"a": "2"}), "compare_tags": False},
        "mark-matches",
    ),
    ("the case of metadata counts", source(), replica(attributes=CAPITAL), {}, "attributes-differ"),
    ("not where the store keeps none", source(), replica(attributes=CAPITAL), {"case_insensitive_metadata": True}, "mark-matches"),
    ("not compared where nothing is wanted", source(), replica(attributes=RED), {"wanted": None}, "mark-matches"),
    ("not where objects are only created", source(), replica(attributes=RED), {"overwrite": "never"}, "overwrite-never"),
    ("an archived replica is written anew", source(), replica(attributes=RED, archived=True), {}, "replica-archived"),
    ("for which the source must be readable", source(archived=True), replica(attributes=RED, archived=True), {}, "source-archived"),
    ("an archived source's attributes travel", source(archived=True), replica(attributes=RED), {}, "attributes-differ"),
    ("a stranger's are changed", source(checksums=ONE), replica(None, ONE, attributes=RED), {}, "attributes-differ"),
    (
        "but not where strangers are kept",
        source(checksums=ONE),
        replica(None, ONE, attributes=RED),
        {"foreign": "keep"},
        "foreign-kept",
    ),
    ("nor another route's", source(checksums=ONE), replica(OTHER_ROUTE, ONE, attributes=RED), {}, "destination-foreign"),
    # different content
    ("existence is not enough", source(), replica(None), {}, "replica-foreign"),
    ("a stranger is kept", source(), replica(None), {"foreign": "keep"}, "foreign-kept"),
    ("a stranger is a conflict", source(), replica(None), {"foreign": "conflict"}, "foreign-conflict"),
    ("create only", source(V2), replica(), {"overwrite": "never"}, "overwrite-never"),
    ("a newer source", source(V2), replica(), {}, "source-newer"),
    ("a newer source is no conflict", source(V2), replica(), {"foreign": "conflict"}, "source-newer"),
    ("a newer source in an archive", source(V2, archived=True), replica(), {}, "source-archived"),
    ("a stale receipt proves nothing", source(V2), replica(), RECEIPT, "source-newer"),
    ("a mark of other content proves nothing", source(checksums=ONE), replica(replace(MARK, crc32c=2)), {}, "replica-damaged"),
    ("another size is damage", source(), replica(version=SHORT), {}, "replica-damaged"),
    ("also with a receipt", source(), replica(version=SHORT), {"receipt": (V1.token, SHORT.token)}, "replica-damaged"),
    ("checksums that differ win over the mark", source(checksums=ONE), replica(checksums=TWO), {}, "replica-damaged"),
    ("and over a receipt", source(checksums=ONE), replica(checksums=TWO), RECEIPT, "replica-damaged"),
    ("checksums of different kinds prove nothing", source(checksums=ONE), replica(None, Checksums(md5="m")), {}, "replica-foreign"),
    (
        "one kind that differs outweighs one that agrees",
        source(checksums=Checksums(1, crc64nvme=1)),
        replica(checksums=Checksums(1, crc64nvme=2)),
        {},
        "replica-damaged",
    ),
    ("two routes to one object", source(), replica(OTHER_ROUTE), {}, "destination-foreign"),
    ("another source's replica is a stranger", source(), replica(OTHER_SOURCE), {"foreign": "conflict"}, "foreign-conflict"),
    ("a user's copy of a replica is a stranger", source(), replica(COPIED_BY_USER), {"foreign": "conflict"}, "foreign-conflict"),
    (
        "also of another route's",
        source(),
        replica(replace(OTHER_ROUTE, replica="0" * 16)),
        {"foreign": "keep"},
        "foreign-kept",
    ),
    ("a user's write under our mark is a stranger", source(), replica(replace(MARK, crc32c=1), TWO), {"foreign": "keep"}, "foreign-kept"),
]


@pytest.mark.parametrize(("case", "source", "replica", "rules", "reason"), TABLE, ids=[f"{row[0]} ({row[4]})" for row in TABLE])
def test_each_case_has_its_reason(
    case: str, source: ObjectInfo | None, replica: ObjectInfo | None, rules: dict[str, Any], reason: str
) -> None:
    decision = look(source, replica, **rules)
    assert decision.reason == reason
    assert decision.action == REASONS[reason][0]
    if decision.action in ("update", "delete") or (decision.action == "copy" and replica is not None):
        assert replica is not None
        assert decision.condition == Condition.match(replica.version)
    else:
        assert decision.condition == ABSENT


def test_every_reason_and_every_action_occurs_in_the_table() -> None:
    assert {row[4] for row in TABLE} == REASONS.keys()
    assert {action for action, _ in REASONS.values()} == set(get_args(Action))


STANDING = {reason for reason, (action, _) in REASONS.items() if action == "in_sync"} | {
    "attributes-differ",
    "replica-archived",
    "would-loop",
    "overwrite-never",
    "source-absent-deletes-ignored",
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_a_manifest_names_stands_when_its_replica_is_right_or_the_last_that_is_made(reason: str) -> None:
    decision = Decision(REASONS[reason][0], reason, "")
    assert stands(decision, replica()) == (reason in STANDING)
    assert not stands(decision, None)


def test_what_lost_is_kept_beside_only_what_is_written() -> None:
    rules: dict[str, Any] = {"paired": True, "conflict": "keep-both"}
    assert look(source(LATER), replica(None, version=EARLIER), **rules).keep_beside
    assert not look(source(LATER, archived=True), replica(None, version=EARLIER), **rules).keep_beside


def test_reasons_are_kebab_case_and_explained_in_one_line() -> None:
    for reason, (_, text) in REASONS.items():
        assert reason == reason.lower().replace("_", "-").replace(" ", "-")
        assert text.endswith(".")
        assert "\n" not in text


def test_differing_attributes_are_named_and_their_values_are_not() -> None:
    message = look(source(), replica(attributes=replace(RED, content_type="x/y"))).message
    assert "content_type, metadata" in message
    assert "red" not in message
    assert "x/y" not in message


def test_a_storage_class_counts_when_the_route_sets_one() -> None:
    assert look(source(), replica(attributes=replace(ATTRIBUTES, storage_class="NEARLINE"))).reason == "mark-matches"
    assert look(source(), replica(), wanted=replace(ATTRIBUTES, storage_class="NEARLINE")).reason == "attributes-differ"


# --- properties ------------------------------------------------------------------------------------------------------

VERSIONS = st.builds(Version, size_bytes=st.integers(0, 2), etag=st.sampled_from(["", "v1", "v2", "\udcff"]), id=st.sampled_from(["", "1"]))
CHECKSUMS = st.builds(
    Checksums,
    crc32c=st.sampled_from([None, 1, 2]),
    crc64nvme=st.sampled_from([None, 1, 2]),
    crc32=st.sampled_from([None, 1]),
    md5=st.sampled_from([None, "m", "n"]),
)
MARKS = st.builds(
    Mark,
    route=st.sampled_from(["ab", "ba"]),
    source=st.sampled_from([SOURCE_PLACE, REPLICA_PLACE, "x"]),
    replica=st.sampled_from([SOURCE_PLACE, REPLICA_PLACE, "x"]),
    version=st.sampled_from(["v1-1", "v2-2", "1"]),
    crc32c=st.sampled_from([None, 1, 2]),
    hops=st.sampled_from([(), ("loc-a",), ("loc-b",), ("loc-a", "loc-b"), ("loc-c",)]),
)
METADATA = st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2)
OBJECTS = st.builds(
    lambda version, checksums, mark, metadata, archived: ObjectInfo(
        "k", version, Attributes(metadata=with_mark(metadata, mark) if mark else metadata), checksums, archived
    ),
    VERSIONS,
    CHECKSUMS,
    st.none() | MARKS,
    METADATA,
    st.booleans(),
)
OBSERVATIONS = st.builds(
    Observation,
    source=st.none() | OBJECTS,
    replica=st.none() | OBJECTS,
    route=st.just("ab"),
    source_place=st.just(SOURCE_PLACE),
    replica_place=st.just(REPLICA_PLACE),
    destination_id=st.just("loc-b"),
    overwrite=st.sampled_from(["latest", "never"]),
    deletes=st.sampled_from(["ignore", "mirror"]),
    foreign=st.sampled_from(["overwrite", "keep", "conflict"]),
    wanted=st.none() | st.builds(Attributes, metadata=METADATA, storage_class=st.sampled_from(["", "COLD"])),
    receipt=st.none() | st.tuples(st.sampled_from(["v1-1", "1"]), st.sampled_from(["v1-1", "1"])),
)


@given(OBSERVATIONS)
def test_there_is_one_documented_answer_to_everything(seen: Observation) -> None:
    decision = decide(seen)
    assert decision == decide(replace(seen))
    assert decision.action == REASONS[decision.reason][0]
    assert decision.message


@given(OBSERVATIONS)
def test_every_write_is_fenced_by_what_was_seen(seen: Observation) -> None:
    decision = decide(seen)
    if decision.action in ("copy", "update", "delete"):
        expected = ABSENT if seen.replica is None else Condition.match(seen.replica.version)
        assert decision.condition == expected
    if decision.action in ("update", "delete"):
        assert seen.replica is not None


@given(OBSERVATIONS)
def test_only_our_own_replica_of_an_absent_source_is_deleted(seen: Observation) -> None:
    if decide(seen).action == "delete":
        assert seen.source is None
        assert seen.deletes == "mirror"
        assert seen.replica is not None
        mark = parse_mark(seen.replica.attributes.metadata)
        assert mark is not None
        assert (mark.route, mark.source, mark.replica) == ("ab", SOURCE_PLACE, REPLICA_PLACE)
        assert mark.crc32c in (None, seen.replica.checksums.crc32c) or seen.replica.checksums.crc32c is None


@given(OBSERVATIONS)
def test_in_sync_needs_equal_sizes_and_evidence(seen: Observation) -> None:
    if decide(seen).action in ("in_sync", "update") and seen.source is not None:
        assert seen.replica is not None
        assert seen.source.size_bytes == seen.replica.size_bytes
        pairs = zip(_kinds(seen.source), _kinds(seen.replica), strict=True)
        assert not any(one != other for one, other in pairs if one is not None and other is not None)


@given(OBSERVATIONS)
def test_create_only_never_touches_what_is_there(seen: Observation) -> None:
    if seen.replica is not None and seen.source is not None:
        assert decide(replace(seen, overwrite="never")).action in ("in_sync", "keep")


def _kinds(info: ObjectInfo) -> tuple[object, ...]:
    known = info.checksums
    return known.crc32c, known.crc64nvme, known.crc32, known.md5


def perform(seen: Observation, decision: Decision, version: Version, *, vouching: bool) -> ObjectInfo | None:
    """The replica after the decision was carried out. A store that is not `vouching` tells no checksums."""
    if decision.action == "delete":
        return None
    assert seen.source is not None
    mark = make_mark(
        route=seen.route,
        source=seen.source,
        source_id="loc-a" if seen.destination_id == "loc-b" else "loc-b",
        source_place=seen.source_place,
        replica_place=seen.replica_place,
        copy_id="c",
    )
    wanted = seen.wanted or Attributes()
    attributes = replace(wanted, metadata=with_mark(wanted.metadata, mark))
    checksums = seen.source.checksums if vouching else Checksums()
    return ObjectInfo("k", replace(version, size_bytes=seen.source.size_bytes), attributes, checksums)


@given(OBSERVATIONS, VERSIONS, st.booleans())
def test_what_was_done_needs_no_doing_again(seen: Observation, version: Version, vouching: bool) -> None:
    decision = decide(seen)
    if decision.action not in ("copy", "update", "delete"):
        return
    after = replace(seen, replica=perform(seen, decision, version, vouching=vouching), receipt=None)
    assert decide(after).action == "in_sync"


# --- two routes, there and back --------------------------------------------------------------------------------------

Site = Literal["a", "b"]
PLACES = {"a": SOURCE_PLACE, "b": REPLICA_PLACE}


@dataclass
class TwoSites:
    """Two locations with a route each way. Without `vouching`, no store tells any checksum."""

    vouching: bool
    objects: dict[str, ObjectInfo | None] = field(default_factory=lambda: {"a": None, "b": None})
    clock: int = 0
    copies: int = 0

    def write(self, site: str, content: int) -> None:
        """A user's write. Content is told by its checksum alone; versions are always new."""
        checksums = Checksums(crc32c=content) if self.vouching else Checksums()
        self.objects[site] = ObjectInfo("k", self._version(), Attributes(metadata={"by": str(content)}), checksums)

    def replicate(self, origin: str) -> Decision:
        target = "b" if origin == "a" else "a"
        found = self.objects[origin]
        seen = Observation(
            source=found,
            replica=self.objects[target],
            route=origin + target,
            source_place=PLACES[origin],
            replica_place=PLACES[target],
            destination_id=f"loc-{target}",
            wanted=None if found is None else replace(found.attributes, metadata={"by": found.attributes.metadata["by"]}),
        )
        decision = decide(seen)
        if decision.action in ("copy", "update"):
            self.copies += 1
            self.objects[target] = perform(seen, decision, self._version(), vouching=self.vouching)
        return decision

    def contents(self) -> list[str | None]:
        return [None if found is None else found.attributes.metadata["by"] for found in self.objects.values()]

    def _version(self) -> Version:
        self.clock += 1
        return Version(3, id=str(self.clock))


DATED = st.builds(
    Version, st.integers(0, 3), id=st.sampled_from(["1", "2"]), modified=st.sampled_from([None, EARLIER.modified, LATER.modified])
)


@given(DATED, DATED, st.sampled_from(["newest", "keep-both"]))
def test_both_routes_of_a_pair_agree_who_wins_a_conflict(here: Version, there: Version, policy: Literal["newest", "keep-both"]) -> None:
    def seen_from(route: str, source: Version, replica: Version, places: tuple[str, str]) -> Decision:
        return decide(
            Observation(
                source=ObjectInfo("k", source),
                replica=ObjectInfo("k", replica),
                route=route,
                source_place=places[0],
                replica_place=places[1],
                destination_id="loc-a" if route == "ba" else "loc-b",
                paired=True,
                conflict=policy,
            )
        )

    one = seen_from("ab", here, there, (SOURCE_PLACE, REPLICA_PLACE))
    other = seen_from("ba", there, here, (REPLICA_PLACE, SOURCE_PLACE))
    assert {one.reason, other.reason} == {"conflict-won", "conflict-lost"}
    won = one if one.reason == "conflict-won" else other
    assert won.keep_beside == (policy == "keep-both")
    assert won.condition == Condition.match(there if won is one else here)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 3)), min_size=1, max_size=8), st.booleans())
def test_two_routes_settle_after_one_copy_of_each_write(writes: list[tuple[Site, int]], vouching: bool) -> None:
    sites = TwoSites(vouching)
    for site, content in writes:
        sites.write(site, content)
        before = sites.copies
        sites.replicate(site)
        for origin in ("b", "a", "a", "b"):
            assert sites.replicate(origin).action in ("keep", "in_sync")
        assert sites.copies <= before + 1
        assert sites.contents() == [str(content)] * 2


def test_an_object_overwritten_on_alternating_sides_never_goes_in_circles() -> None:
    sites = TwoSites(vouching=False)
    sites.write("a", 1)
    assert [sites.replicate(site).reason for site in "aba"] == ["replica-absent", "would-loop", "mark-matches"]
    sites.write("b", 2)
    assert [sites.replicate(site).reason for site in "bab"] == ["replica-foreign", "would-loop", "mark-matches"]
    sites.write("a", 3)
    assert [sites.replicate(site).reason for site in "aba"] == ["replica-foreign", "would-loop", "mark-matches"]
    sites.write("a", 4)
    assert [sites.replicate(site).reason for site in "aba"] == ["source-newer", "would-loop", "mark-matches"]
    assert sites.copies == 4


def test_a_ring_of_three_stops_where_it_began() -> None:
    places = {site: place_digest(f"loc-{site}", "k") for site in "abc"}
    content = source()
    for origin, target in ("ab", "bc"):
        mark = make_mark(
            route=origin + target,
            source=content,
            source_id=f"loc-{origin}",
            source_place=places[origin],
            replica_place=places[target],
            copy_id="c",
        )
        content = replica(mark)
    assert own_mark(content, places["c"]) is not None
    assert came_from(content, places["c"], "loc-a")
    seen = Observation(
        source=content, replica=None, route="ca", source_place=places["c"], replica_place=places["a"], destination_id="loc-a"
    )
    assert decide(seen).reason == "would-loop"
