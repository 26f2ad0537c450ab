"""Mapping of attributes between stores: what travels, what is refused, what is reported, what counts as a difference."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from replication.errors import MetadataUnrepresentable
from replication.fidelity import (
    HEADER_FIELDS,
    LOSSES,
    Mapped,
    decode_header_value,
    differences,
    encode_header_value,
    map_attributes,
    stored_encoding,
)
from replication.limits import FILE_LIMITS, GCS_LIMITS, S3_LIMITS
from replication.mark import MARK_RESERVE_BYTES, SOURCE_ETAG_KEY, Mark, with_mark
from replication.models import Attributes

MARK = Mark(route="r", source="s" * 16, replica="p" * 16, version="v")
FULL = Attributes(
    content_type="text/plain",
    content_encoding="gzip",
    content_disposition='attachment; filename="a.txt"',
    content_language="en",
    cache_control="max-age=60",
    expires="Wed, 21 Oct 2026 07:28:00 GMT",
    metadata={"colour": "blue"},
)
LIMITS = {"s3": S3_LIMITS, "gcs": GCS_LIMITS, "file": FILE_LIMITS}
HEADER_KEYS = st.text(st.characters(codec="ascii", categories=["Ll", "N"], include_characters="-_."), min_size=1, max_size=10)
TAGS = st.dictionaries(st.text(min_size=1, max_size=20).filter(lambda key: not key.startswith("aws:")), st.text(max_size=20), max_size=10)


def mapped(source: Attributes, path: str, **knobs: Any) -> Mapped:
    """`path` is "s3>gcs"."""
    source_kind, destination_kind = path.split(">")
    return map_attributes(
        source,
        source_kind=source_kind,  # type: ignore[arg-type]
        destination_kind=destination_kind,  # type: ignore[arg-type]
        destination_limits=LIMITS[destination_kind],
        **knobs,
    )


def having(attributes: Attributes, values: dict[str, Any]) -> Attributes:
    return replace(attributes, **values)


@pytest.mark.parametrize("path", [f"{one}>{other}" for one in LIMITS for other in LIMITS])
def test_header_fields_and_metadata_travel_between_all_kinds(path: str) -> None:
    assert mapped(FULL, path) == Mapped(FULL)


def test_every_attribute_is_mapped_and_compared() -> None:
    names = [field.name for field in fields(Attributes)]
    assert names == [*HEADER_FIELDS, "storage_class", "metadata", "tags"]
    changed = having(Attributes(metadata={"x": "x"}, tags={"x": "x"}, storage_class="x"), dict.fromkeys(HEADER_FIELDS, "x"))
    blank = Attributes(tags={})
    assert sorted(differences(changed, blank, compare_storage_class=True)) == sorted(names)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("aws-chunked", ""),
        ("aws-chunked,gzip", "gzip"),
        ("gzip, AWS-Chunked", "gzip"),
        ("gzip,br", "gzip,br"),
        ("", ""),
    ],
)
def test_aws_chunked_is_never_a_property_of_the_object(before: str, after: str) -> None:
    assert stored_encoding(before) == after
    assert mapped(Attributes(content_encoding=before), "s3>s3").attributes.content_encoding == after
    assert differences(Attributes(content_encoding=before), Attributes(content_encoding=after)) == []


def test_the_sources_own_mark_does_not_travel() -> None:
    marked = replace(FULL, metadata=with_mark(FULL.metadata, MARK, source_etag="e"))
    assert mapped(marked, "gcs>s3").attributes == FULL


# --- metadata --------------------------------------------------------------------------------------------------------


@given(st.text())
def test_any_text_survives_a_header(value: str) -> None:
    encoded = encode_header_value(value)
    assert encoded.isascii()
    assert encoded == encoded.strip()
    assert not {"\r", "\n", "\0"} & set(encoded)
    assert decode_header_value(encoded) == value


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("plain value", "plain value"),
        ("über", "=?utf-8?b?w7xiZXI=?="),
        (" padded", "=?utf-8?b?IHBhZGRlZA==?="),
        ("a\r\nx-evil: 1", "=?utf-8?b?YQ0KeC1ldmlsOiAx?="),
        ("a\tb", "a\tb"),
        ("=?utf-8?b?YWJj?=", "=?utf-8?b?YWJj?="),
    ],
)
def test_what_a_header_cannot_carry_is_encoded(value: str, encoded: str) -> None:
    assert encode_header_value(value) == encoded


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("=?UTF-8?B?w7xiZXI=?=", "über"),
        ("=?UTF-8?Q?=C3=BCber_alles?=", "über alles"),
        ("=?iso-8859-1?q?=FC?= =?utf-8?b?YmVy?=", "über"),
        ("=?utf-8?q?_padded?=", " padded"),
        ("=?utf-8?b?YWJj?=", "=?utf-8?b?YWJj?="),
        ("=?utf-8?b?!!?=", "=?utf-8?b?!!?="),
        ("=?no-such?b?YQ==?=", "=?no-such?b?YQ==?="),
        ("x =?utf-8?b?w7xiZXI=?=", "x =?utf-8?b?w7xiZXI=?="),
        ("=?utf-7?q?+2AA-?=", "=?utf-7?q?+2AA-?="),
    ],
)
def test_words_that_s3_shows_are_read(text: str, value: str) -> None:
    assert decode_header_value(text) == value


@given(st.text())
def test_decoding_anything_gives_text_and_leaves_what_is_not_encoded(text: str) -> None:
    for word in (f"=?{text}?=", f"=?utf-8?q?{text}?=", f"=?utf-8?b?{text}?="):
        assert isinstance(decode_header_value(word), str)
    if "=?" not in text:
        assert decode_header_value(text) == text


def test_keys_are_lower_case_on_s3_and_that_is_reported() -> None:
    result = mapped(Attributes(metadata={"CamelCase": "1"}), "gcs>s3")
    assert result == Mapped(Attributes(metadata={"camelcase": "1"}), ("metadata-case",))


@pytest.mark.parametrize(
    "metadata",
    [{"A": "1", "a": "2"}, {"ключ": "1"}, {"a b": "1"}, {"a:b": "1"}, {"a\r\nb": "1"}, {"": "1"}, {"a": "\ud800"}],
)
def test_metadata_that_s3_cannot_hold_is_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(MetadataUnrepresentable):
        mapped(Attributes(metadata=metadata), "gcs>s3")


@pytest.mark.parametrize("sides", ["gcs>s3", "gcs>gcs", "gcs>file"])
def test_metadata_that_is_no_unicode_text_is_refused_everywhere(sides: str) -> None:
    with pytest.raises(MetadataUnrepresentable):
        mapped(Attributes(metadata={"a": "\ud800"}), sides)


@pytest.mark.parametrize("field", ["content_type", "content_disposition", "cache_control"])
@pytest.mark.parametrize("value", ["a\r\nb", "naïve", "a\0"])
def test_header_fields_that_s3_cannot_hold_are_refused(field: str, value: str) -> None:
    with pytest.raises(MetadataUnrepresentable):
        mapped(having(FULL, {field: value}), "gcs>s3")
    assert getattr(mapped(having(FULL, {field: value}), "s3>gcs").attributes, field) == value


@pytest.mark.parametrize("path", ["gcs>s3", "s3>gcs", "s3>file"])
def test_metadata_fits_beside_the_mark_or_is_refused(path: str) -> None:
    room = LIMITS[path.split(">")[1]].max_metadata_bytes - MARK_RESERVE_BYTES
    assert mapped(Attributes(metadata={"key": "x" * (room - 3)}), path).losses == ()
    with pytest.raises(MetadataUnrepresentable):
        mapped(Attributes(metadata={"key": "x" * (room - 2)}), path)


def test_size_is_counted_as_it_is_stored() -> None:
    fits_on_gcs = Attributes(metadata={"key": "ü" * 600})
    assert mapped(fits_on_gcs, "s3>gcs").attributes == fits_on_gcs
    with pytest.raises(MetadataUnrepresentable):
        mapped(fits_on_gcs, "gcs>s3")


@given(st.dictionaries(HEADER_KEYS, st.text(max_size=30), max_size=5))
def test_metadata_from_gcs_through_s3_and_back_is_the_same(metadata: dict[str, str]) -> None:
    there = mapped(Attributes(metadata=metadata), "gcs>s3").attributes
    read = replace(there, metadata={key: decode_header_value(value) for key, value in there.metadata.items()})
    assert mapped(read, "s3>gcs") == Mapped(Attributes(metadata=metadata))


# --- tags ------------------------------------------------------------------------------------------------------------


def test_tags_are_copied_where_there_are_tags() -> None:
    for path in ("s3>s3", "s3>file", "file>s3"):
        assert mapped(Attributes(tags={"a": "1"}), path) == Mapped(Attributes(tags={"a": "1"}))
    assert mapped(Attributes(tags=None), "s3>s3").attributes.tags is None


def test_tags_without_a_home_are_a_loss() -> None:
    assert mapped(Attributes(tags={"a": "1"}), "s3>gcs") == Mapped(Attributes(), ("tags",))
    assert mapped(Attributes(tags={}), "s3>gcs") == Mapped(Attributes())


def test_tags_that_the_route_drops_are_a_loss() -> None:
    assert mapped(Attributes(tags={"a": "1"}), "s3>s3", tags="drop") == Mapped(Attributes(), ("tags-dropped",))


@given(TAGS, st.dictionaries(HEADER_KEYS, st.text(max_size=20), max_size=3))
def test_tags_through_a_metadata_prefix_and_back_are_the_same(tags: dict[str, str], metadata: dict[str, str]) -> None:
    assume(not any(key.startswith("t--") for key in metadata))
    source = Attributes(metadata=metadata, tags=tags)
    there = mapped(source, "s3>gcs", tag_metadata_prefix="t--").attributes
    assert there.tags is None
    assert there.metadata == {**metadata, **{f"t--{key}": value for key, value in tags.items()}}
    back = mapped(there, "gcs>s3", tag_metadata_prefix="t--").attributes
    assert back.tags == tags
    assert {key: decode_header_value(value) for key, value in back.metadata.items()} == metadata


def test_a_tag_never_replaces_metadata_of_the_same_name() -> None:
    clash = Attributes(metadata={"t-a": "theirs"}, tags={"a": "1"})
    with pytest.raises(MetadataUnrepresentable):
        mapped(clash, "s3>gcs", tag_metadata_prefix="t-")


@pytest.mark.parametrize("tags", [{str(n): "" for n in range(11)}, {"k" * 129: ""}, {"k": "v" * 257}])
def test_a_tag_set_that_s3_cannot_hold_is_left_whole(tags: dict[str, str]) -> None:
    assert mapped(Attributes(tags=tags), "file>s3") == Mapped(Attributes(), ("tags-limit",))


def test_metadata_that_makes_no_legal_tags_stays_metadata() -> None:
    metadata = {f"t-{n}": "" for n in range(11)}
    assert mapped(Attributes(metadata=metadata), "gcs>s3", tag_metadata_prefix="t-") == Mapped(Attributes(metadata=metadata, tags={}))


def test_metadata_named_like_the_prefix_alone_is_no_tag() -> None:
    result = mapped(Attributes(metadata={"t-": "x", "t-a": "1"}), "gcs>s3", tag_metadata_prefix="t-")
    assert result == Mapped(Attributes(metadata={"t-": "x"}, tags={"a": "1"}))


def test_system_tags_are_left_behind_and_reported() -> None:
    result = mapped(Attributes(tags={"aws:x": "1", "a": "1"}), "s3>s3")
    assert result == Mapped(Attributes(tags={"a": "1"}), ("tags-system",))


# --- storage class ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "source", "route", "table", "expected", "losses"),
    [
        ("s3>s3", "STANDARD_IA", None, {}, "", ("storage-class",)),
        ("s3>s3", "STANDARD", None, {}, "", ()),
        ("s3>s3", "", None, {}, "", ()),
        ("gcs>s3", "REGIONAL", None, {}, "", ()),
        ("s3>gcs", "STANDARD_IA", None, {"STANDARD_IA": "NEARLINE"}, "NEARLINE", ()),
        ("s3>gcs", "", None, {"STANDARD": "NEARLINE"}, "NEARLINE", ()),
        ("s3>s3", "STANDARD_IA", "GLACIER_IR", {"STANDARD_IA": "X"}, "GLACIER_IR", ()),
        ("s3>file", "STANDARD_IA", None, {"STANDARD_IA": "X"}, "", ("storage-class",)),
    ],
)
def test_a_storage_class_is_chosen_never_copied(
    path: str, source: str, route: str | None, table: dict[str, str], expected: str, losses: tuple[str, ...]
) -> None:
    result = mapped(Attributes(storage_class=source), path, storage_class=route, storage_class_map=table)
    assert result == Mapped(Attributes(storage_class=expected), losses)


# --- differences -----------------------------------------------------------------------------------------------------


def test_a_replica_with_a_mark_does_not_differ() -> None:
    assert differences(FULL, replace(FULL, metadata=with_mark(FULL.metadata, MARK, source_etag="e"))) == []


def test_the_users_own_source_etag_counts() -> None:
    theirs = Attributes(metadata={SOURCE_ETAG_KEY: "theirs"})
    assert differences(theirs, replace(theirs, metadata=with_mark(theirs.metadata, MARK, source_etag="ours"))) == []
    assert differences(theirs, Attributes(metadata=with_mark({}, MARK, source_etag="ours"))) == ["metadata"]


def test_an_invented_content_type_is_no_difference() -> None:
    assert differences(Attributes(), Attributes(content_type="binary/octet-stream")) == []
    assert differences(Attributes(content_type="text/css"), Attributes(content_type="binary/octet-stream")) == ["content_type"]


def test_a_value_that_travelled_encoded_is_no_difference() -> None:
    for actual in ("über", "=?UTF-8?Q?=C3=BCber?="):
        assert differences(Attributes(metadata={"a": encode_header_value("über")}), Attributes(metadata={"a": actual})) == []


def test_the_case_of_metadata_keys_counts_where_the_store_keeps_it() -> None:
    one, other = Attributes(metadata={"camelcase": "1"}), Attributes(metadata={"Camelcase": "1"})
    assert differences(one, other) == ["metadata"]
    assert differences(one, other, case_insensitive_metadata=True) == []


def test_tags_that_were_not_read_are_not_compared() -> None:
    tagged, plain, unread = Attributes(tags={"a": "1"}), Attributes(tags={}), Attributes(tags=None)
    assert differences(tagged, plain) == ["tags"]
    assert differences(tagged, plain, compare_tags=False) == []
    assert differences(tagged, unread) == differences(unread, tagged) == []


def test_a_storage_class_is_compared_on_request() -> None:
    cold, standard = Attributes(storage_class="NEARLINE"), Attributes(storage_class="")
    assert differences(cold, standard) == []
    assert differences(cold, standard, compare_storage_class=True) == ["storage_class"]
    assert differences(Attributes(storage_class="STANDARD"), standard, compare_storage_class=True) == []


ATTRIBUTES = st.builds(
    Attributes,
    content_type=st.sampled_from(["", "text/plain"]),
    content_encoding=st.sampled_from(["", "gzip", "aws-chunked,gzip"]),
    expires=st.sampled_from(["", "0"]),
    storage_class=st.sampled_from(["", "STANDARD", "NEARLINE"]),
    metadata=st.dictionaries(st.text(max_size=6), st.text(max_size=6), max_size=3),
    tags=st.none() | st.dictionaries(st.text(max_size=6), st.text(max_size=6), max_size=12),
)


@given(ATTRIBUTES, st.sampled_from([f"{one}>{other}" for one in LIMITS for other in LIMITS]), st.sampled_from([None, "t-"]))
def test_mapping_is_refused_or_settles(source: Attributes, path: str, prefix: str | None) -> None:
    """What was written reads back as no difference, and every loss is one of the documented ones."""
    try:
        result = mapped(source, path, tag_metadata_prefix=prefix)
    except MetadataUnrepresentable:
        return
    assert set(result.losses) <= LOSSES.keys()
    stored = replace(result.attributes, metadata=with_mark(result.attributes.metadata, MARK))
    assert differences(result.attributes, stored, compare_storage_class=True) == []
