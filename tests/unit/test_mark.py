"""The origin mark: what it carries, what it survives, and where it counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replication.mark import (
    MARK_KEYS,
    MARK_RESERVE_BYTES,
    MAX_HOPS,
    SOURCE_ETAG_KEY,
    Mark,
    make_mark,
    own_mark,
    parse_mark,
    place_digest,
    version_token,
    with_mark,
    without_mark,
)
from replication.models import Attributes, Checksums, ObjectInfo, Version

HERE = place_digest("b", "k")
MARK = Mark(route="photos", source=place_digest("a", "k"), replica=HERE, version="abc-3", crc32c=0xBEEF, copy="c1", hops=("a",))
VERSIONS = st.builds(Version, size_bytes=st.integers(0, 1 << 50), etag=st.text(max_size=40), id=st.text(max_size=1024))
MARKS = st.builds(
    Mark,
    route=st.text(min_size=1, max_size=30),
    source=st.text(min_size=1, max_size=16),
    replica=st.text(min_size=1, max_size=16),
    version=st.text(min_size=1, max_size=80),
    crc32c=st.none() | st.integers(0, 2**32 - 1),
    copy=st.text(max_size=32),
    hops=st.lists(st.text(st.characters(categories=["L", "N"], include_characters=",% "), min_size=1), max_size=4).map(tuple),
)


def info(metadata: dict[str, str], *, crc32c: int | None = None, size: int = 3, etag: str = "abc") -> ObjectInfo:
    return ObjectInfo("k", Version(size, etag=etag), Attributes(metadata=metadata), Checksums(crc32c=crc32c))


@given(MARKS)
def test_a_mark_comes_back_as_it_went(mark: Mark) -> None:
    assert parse_mark(mark.to_metadata()) == mark


@given(MARKS)
def test_a_mark_is_header_safe_and_shouting_stores_do_not_hurt_it(mark: Mark) -> None:
    metadata = mark.to_metadata()
    assert metadata.keys() <= MARK_KEYS
    assert all(value.isascii() and value.isprintable() and " " not in value for value in metadata.values())
    assert parse_mark({key.title(): value for key, value in metadata.items()}) == mark


@given(st.dictionaries(st.text(max_size=20) | st.sampled_from(sorted(MARK_KEYS)), st.text(max_size=20)))
def test_any_metadata_parses_without_raising(metadata: dict[str, str]) -> None:
    parse_mark(metadata)
    assert not MARK_KEYS & {key.lower() for key in without_mark(metadata)}


def test_the_metadata_of_a_mark_reads_so() -> None:
    assert MARK.to_metadata() == {
        "drayage-route": "photos",
        "drayage-source": place_digest("a", "k"),
        "drayage-replica": HERE,
        "drayage-version": "abc-3",
        "drayage-crc32c": "0000beef",
        "drayage-copy": "c1",
        "drayage-hops": "a",
    }


def test_a_mark_that_is_not_whole_is_none() -> None:
    whole = MARK.to_metadata()
    for key in ("drayage-route", "drayage-source", "drayage-replica", "drayage-version"):
        assert parse_mark({name: value for name, value in whole.items() if name != key}) is None


def test_a_checksum_that_is_not_hex_is_unknown() -> None:
    for text in ("", "beef", "zzzzzzzz", "0000beef0"):
        found = parse_mark({**MARK.to_metadata(), "drayage-crc32c": text})
        assert found is not None
        assert found.crc32c is None


@given(VERSIONS)
def test_every_version_has_a_token_that_a_mark_can_carry(version: Version) -> None:
    mark = Mark(route="r", source="s", replica="p", version=version_token(version))
    assert parse_mark(mark.to_metadata()) == mark
    assert mark.names(version)
    assert not mark.names(Version(version.size_bytes, etag=version.etag + "x", id=version.id and version.id + "x"))


def test_a_token_that_is_not_unicode_is_digested() -> None:
    version = Version(1, etag="\udcff")
    assert version_token(version).startswith("sha256~")
    assert version_token(version) != version_token(Version(1, etag="\udcfe"))


def test_the_longest_mark_fits_its_reserve() -> None:
    longest = Mark(
        route="r" * 63,
        source="0" * 16,
        replica="0" * 16,
        version="v" * 80,
        crc32c=0,
        copy="c" * 32,
        hops=tuple(f"{n:016x}" for n in range(MAX_HOPS)),
    )
    assert sum(len(key) + len(value) for key, value in longest.to_metadata().items()) <= MARK_RESERVE_BYTES


def test_the_source_etag_goes_with_the_mark_and_stays_without_one() -> None:
    user = {"a": "1", SOURCE_ETAG_KEY: "theirs"}
    assert without_mark(user) == user
    assert with_mark({"a": "1"}, MARK, source_etag="e") == {"a": "1", SOURCE_ETAG_KEY: "e", **MARK.to_metadata()}
    assert without_mark(with_mark({"a": "1"}, MARK, source_etag="e")) == {"a": "1"}


def test_the_source_etag_never_replaces_the_users_own() -> None:
    assert with_mark({SOURCE_ETAG_KEY: "theirs"}, MARK, source_etag="ours")[SOURCE_ETAG_KEY] == "theirs"


def test_a_mark_counts_where_it_was_written() -> None:
    assert own_mark(info(MARK.to_metadata()), HERE) == MARK


def test_a_mark_that_a_user_copied_to_another_key_does_not_count() -> None:
    assert own_mark(info(MARK.to_metadata()), place_digest("b", "other")) is None


def test_a_mark_on_other_content_does_not_count() -> None:
    assert own_mark(info(MARK.to_metadata(), crc32c=0xBEEF), HERE) == MARK
    assert own_mark(info(MARK.to_metadata(), crc32c=0xBEEE), HERE) is None


def test_hops_grow_along_a_chain_and_start_anew_with_a_users_write() -> None:
    first = make_mark(route="ab", source=info({}), source_id="a", source_place="pa", replica_place="pb", copy_id="1")
    second = make_mark(route="bc", source=info(first.to_metadata()), source_id="b", source_place="pb", replica_place="pc", copy_id="2")
    elsewhere = make_mark(route="bc", source=info(first.to_metadata()), source_id="b", source_place="px", replica_place="pc", copy_id="3")
    assert (first.hops, second.hops, elsewhere.hops) == (("a",), ("a", "b"), ("b",))


def test_hops_are_bounded_and_keep_the_newest() -> None:
    mark = Mark(route="r", source="s", replica="p", version="abc-3", hops=tuple(f"h{n}" for n in range(MAX_HOPS)))
    later = make_mark(route="q", source=info(mark.to_metadata()), source_id="new", source_place="p", replica_place="x", copy_id="1")
    assert later.hops == (*mark.hops[1:], "new")


def test_a_place_is_a_location_and_a_key() -> None:
    places = {place_digest("a", "k"), place_digest("b", "k"), place_digest("a", "k2"), place_digest("ak", "")}
    assert len(places) == 4
    assert all(len(place) == 16 for place in places)
