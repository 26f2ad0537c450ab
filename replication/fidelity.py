"""What a replica's attributes are to be, what the destination cannot hold of the source's, and whether the two agree.

Nothing is lost in silence: a property that the destination cannot hold either refuses the object
(`MetadataUnrepresentable`: the user's own data) or is named in the object's losses (properties with a substitute).
Values that an HTTP header cannot carry travel as one RFC 2047 word, as S3 itself shows them, and come back as they were.
"""

from __future__ import annotations

import base64
import quopri
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from replication.errors import MetadataUnrepresentable
from replication.limits import Limits
from replication.mark import MARK_RESERVE_BYTES, SOURCE_ETAG_KEY, without_mark
from replication.models import Attributes

Kind = Literal["s3", "gcs", "file", "memory"]

LOSSES = {
    "tags": "The destination has no tags and the route maps them to no metadata prefix.",
    "tags-dropped": "The route says `tags: drop`: the source's tags stay behind.",
    "tags-limit": "The tags exceed the destination's limits (10 tags, 128 characters a key, 256 a value); none is copied.",
    "tags-system": "Tags whose key starts with `aws:` belong to AWS and cannot be set.",
    "metadata-case": "The destination keeps metadata keys in lower case only.",
    "storage-class": "The source's storage class has no counterpart in the route; the destination's default is used.",
}
"""Everything that a replica can lack, by the name that stands in an object's losses."""

STANDARD_CLASSES = frozenset({"", "STANDARD", "MULTI_REGIONAL", "REGIONAL"})
"""Storage classes that are a store's default; the last two are Google's older names for it."""
UNTYPED = frozenset({"", "application/octet-stream", "binary/octet-stream"})
"""Content types that say nothing. Stores put a type of their own in their place (SeaweedFS guesses one from the key), so
wishing for one of them is not held against a replica: it would be set anew at every look."""
HEADER_FIELDS = ("content_type", "content_encoding", "content_disposition", "content_language", "cache_control", "expires")

MAX_TAGS = 10
MAX_TAG_KEY = 128
MAX_TAG_VALUE = 256

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_HEADER_VALUE = re.compile(r"(?:[!-~](?:[ -~\t]*[!-~])?)?")
"""Printable ASCII without blanks at either end: what a header delivers as it was sent."""
_ENCODED_WORD = re.compile(r"=\?([^?\s]+)\?([bBqQ])\?([^?\s]*)\?=")
_ENCODED_WORDS = re.compile(rf"{_ENCODED_WORD.pattern}(?:\s+{_ENCODED_WORD.pattern})*")


@dataclass(frozen=True, slots=True)
class Mapped:
    """What the replica should have, without a mark, and which of the source's properties it cannot have (`LOSSES`)."""

    attributes: Attributes
    losses: tuple[str, ...] = ()


def map_attributes(
    source: Attributes,
    *,
    source_kind: Kind,
    destination_kind: Kind,
    destination_limits: Limits,
    storage_class: str | None = None,
    storage_class_map: Mapping[str, str] | None = None,
    tags: Literal["copy", "drop"] = "copy",
    tag_metadata_prefix: str | None = None,
) -> Mapped:
    """The replica's attributes for a source's. Raises `MetadataUnrepresentable` rather than change the user's metadata.

    `tag_metadata_prefix` is where tags stand among the metadata on stores that have none; it maps back as well.
    """
    losses: list[str] = []
    metadata, mapped_tags = _map_tags(
        without_mark(source.metadata),
        _settable_tags(source.tags, losses),
        losses,
        policy=tags,
        prefix=tag_metadata_prefix,
        from_metadata=source_kind != "s3",
        limits=destination_limits,
        bounded=destination_kind == "s3",
    )
    if destination_limits.metadata_ascii:
        metadata = _header_metadata(metadata, losses)
    _check_size(metadata, destination_limits)
    attributes = replace(
        source,
        content_encoding=stored_encoding(source.content_encoding),
        storage_class=_map_class(source.storage_class, destination_kind, storage_class, storage_class_map or {}, losses),
        metadata=metadata,
        tags=mapped_tags,
    )
    if destination_limits.metadata_ascii:
        _check_headers(attributes)
    return Mapped(attributes, tuple(sorted(set(losses))))


def differences(
    wanted: Attributes,
    actual: Attributes,
    *,
    compare_tags: bool = True,
    compare_storage_class: bool = False,
    case_insensitive_metadata: bool = False,
) -> list[str]:
    """Names of the fields in which a replica's attributes, its mark aside, are not the wanted ones; [] if none.

    A wanted content type that says nothing (`UNTYPED`) is no wish: stores invent one. Tags that either side did not read are not compared.
    """
    found = [name for name in HEADER_FIELDS if _differs(name, getattr(wanted, name), getattr(actual, name))]
    if _user_metadata(wanted, wanted, case_insensitive_metadata) != _user_metadata(actual, wanted, case_insensitive_metadata):
        found.append("metadata")
    if compare_tags and wanted.tags is not None and actual.tags is not None and wanted.tags != actual.tags:
        found.append("tags")
    if compare_storage_class and _class_name(wanted.storage_class) != _class_name(actual.storage_class):
        found.append("storage_class")
    return found


def stored_encoding(content_encoding: str) -> str:
    """Content-Encoding without `aws-chunked`, which frames an upload and is no property of the object."""
    if "aws-chunked" not in content_encoding.lower():
        return content_encoding
    tokens = (token.strip() for token in content_encoding.split(","))
    return ", ".join(token for token in tokens if token and token.lower() != "aws-chunked")


def encode_header_value(value: str) -> str:
    """`value` as a header can carry it: itself, or one RFC 2047 word in base64 where a header would change or refuse it."""
    if _HEADER_VALUE.fullmatch(value):
        return value
    try:
        return f"=?utf-8?b?{base64.b64encode(value.encode()).decode()}?="
    except UnicodeEncodeError:
        raise MetadataUnrepresentable("a metadata value is not valid UTF-8") from None


def decode_header_value(text: str) -> str:
    """The inverse: RFC 2047 words are read if a header could not have carried their text plainly, and stand otherwise."""
    if not _ENCODED_WORDS.fullmatch(text):
        return text
    try:
        decoded = "".join(_decode_word(*match.groups()) for match in _ENCODED_WORD.finditer(text))
        decoded.encode()  # UTF-7 and Python's own charsets can spell halves of characters, which nothing can carry
    except (LookupError, ValueError):
        return text
    return text if _HEADER_VALUE.fullmatch(decoded) else decoded


# --- metadata --------------------------------------------------------------------------------------------------------


def _header_metadata(metadata: dict[str, str], losses: list[str]) -> dict[str, str]:
    """Lower-case keys that are legal in a header, with values that one can carry."""
    mapped: dict[str, str] = {}
    for key, value in metadata.items():
        name = key.lower() if key.isascii() else key
        if not _HEADER_NAME.fullmatch(name):
            raise MetadataUnrepresentable(f"the metadata key {key!r} cannot be part of an HTTP header's name")
        if name in mapped:
            raise MetadataUnrepresentable(f"two metadata keys are {name!r} in lower case, the only case that the destination keeps")
        mapped[name] = encode_header_value(value)
    if mapped.keys() != metadata.keys():
        losses.append("metadata-case")
    return mapped


def _check_size(metadata: Mapping[str, str], limits: Limits) -> None:
    try:
        used = sum(len(text.encode()) for pair in metadata.items() for text in pair)
    except UnicodeEncodeError:
        raise MetadataUnrepresentable("a metadata key or value is not valid Unicode") from None
    room = limits.max_metadata_bytes - MARK_RESERVE_BYTES
    if used > room:
        raise MetadataUnrepresentable(f"the metadata has {used} bytes, the destination has room for {room} beside the origin mark")


def _check_headers(attributes: Attributes) -> None:
    for name in HEADER_FIELDS:
        if not _HEADER_VALUE.fullmatch(getattr(attributes, name)):
            raise MetadataUnrepresentable(f"{name} holds characters that an HTTP header of the destination cannot carry")


def _user_metadata(attributes: Attributes, wanted: Attributes, case_insensitive: bool) -> dict[str, str]:
    """Metadata in a comparable form, without a mark: wanted values are encoded for the wire, actual ones may be.

    The source's ETag beside a mark is ours, unless the user wants one there too.
    """
    found = without_mark(attributes.metadata)
    if SOURCE_ETAG_KEY in wanted.metadata and SOURCE_ETAG_KEY in attributes.metadata:
        found[SOURCE_ETAG_KEY] = attributes.metadata[SOURCE_ETAG_KEY]
    return {(key.lower() if case_insensitive else key): decode_header_value(value) for key, value in found.items()}


def _decode_word(charset: str, form: str, text: str) -> str:
    if form in "bB":
        return base64.b64decode(text, validate=True).decode(charset)
    return quopri.decodestring(text.encode("ascii"), header=True).decode(charset)


# --- tags ------------------------------------------------------------------------------------------------------------


def _settable_tags(tags: dict[str, str] | None, losses: list[str]) -> dict[str, str] | None:
    settable = None if tags is None else {key: value for key, value in tags.items() if not key.startswith("aws:")}
    if settable != tags:
        losses.append("tags-system")
    return settable


def _map_tags(
    metadata: dict[str, str],
    tags: dict[str, str] | None,
    losses: list[str],
    *,
    policy: Literal["copy", "drop"],
    prefix: str | None,
    from_metadata: bool,
    limits: Limits,
    bounded: bool,
) -> tuple[dict[str, str], dict[str, str] | None]:
    """(metadata, tags) of the replica. Tags are None where they are none of our business: they are then left alone."""
    if policy == "drop":
        if tags:
            losses.append("tags-dropped")
        return metadata, None
    if not limits.tags:
        return _tags_to_metadata(metadata, tags or {}, prefix, losses), None
    if prefix and from_metadata:
        metadata, tags = _tags_from_metadata(metadata, tags or {}, prefix, bounded)
    if tags and bounded and not _tags_fit(tags):
        losses.append("tags-limit")
        return metadata, None
    return metadata, tags


def _tags_to_metadata(metadata: dict[str, str], tags: dict[str, str], prefix: str | None, losses: list[str]) -> dict[str, str]:
    if prefix is None:
        if tags:
            losses.append("tags")
        return metadata
    mapped = {prefix + key: value for key, value in tags.items()}
    if clash := next((key for key, value in mapped.items() if metadata.get(key, value) != value), None):
        raise MetadataUnrepresentable(f"a tag would become the metadata key {clash!r}, which the object has already")
    return {**metadata, **mapped}


def _tags_from_metadata(
    metadata: dict[str, str], tags: dict[str, str], prefix: str, bounded: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Metadata under the prefix becomes tags, all of it or, where that exceeds the destination's limits, none of it."""
    carried = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix) and key != prefix}
    merged = {**carried, **tags}
    if not carried or (bounded and not _tags_fit(merged)):
        return metadata, tags
    rest = {key: value for key, value in metadata.items() if not key.startswith(prefix) or key == prefix}
    return rest, merged


def _tags_fit(tags: Mapping[str, str]) -> bool:
    """S3's limits. A part of a tag set would read like the whole, so a set that does not fit is not copied at all."""
    short = all(0 < len(key) <= MAX_TAG_KEY and len(value) <= MAX_TAG_VALUE for key, value in tags.items())
    return short and len(tags) <= MAX_TAGS and not any(key.startswith("aws:") for key in tags)


# --- storage class ---------------------------------------------------------------------------------------------------


def _map_class(source: str, kind: Kind, chosen: str | None, table: Mapping[str, str], losses: list[str]) -> str:
    """The route's class, else the mapped one, else "" (the destination's default). File systems have no classes."""
    mapped = "" if kind == "file" else chosen or table.get(_class_name(source), "")
    if not mapped and source not in STANDARD_CLASSES:
        losses.append("storage-class")
    return mapped


def _class_name(storage_class: str) -> str:
    return storage_class or "STANDARD"


def _differs(name: str, wanted: str, actual: str) -> bool:
    if name == "content_type":
        return wanted not in UNTYPED and wanted != actual
    if name == "content_encoding":
        return stored_encoding(wanted) != stored_encoding(actual)
    return wanted != actual
