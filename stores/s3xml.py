"""S3's XML documents: bounded and safe parsing into values, and the two bodies that S3 wants to be sent.

The peer is not trusted: no entity, document type or network reference is honoured, and the caller bounds the size. A
document that is not what it should be is a `ServerFault`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote_plus

from lxml import etree

from replication.errors import ServerFault
from replication.models import NO_CHECKSUMS, ListedObject, OpenUpload, Part, Version
from stores.checksum import decode_crc, encode_crc
from stores.mapping import in_utc
from stores.s3quick import quick_entries

MAX_DOCUMENT = 16 << 20
"""Bytes. 1,000 keys of 1,024 bytes, each byte percent-encoded, are 3 MiB."""

MAX_TAGS = 400_000
"""Of a document: some 30 for each of 1,000 entries are usual. Every element costs a parser a hundred bytes, however short it is."""

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
MAX_DIGITS = 18
"""Of a number: what is longer counts nothing that a store can hold."""
Fields = dict[str, str]


@dataclass(frozen=True, slots=True)
class ListingPage:
    """One page of a listing; `prefixes` are the common prefixes, `token` continues it where it is truncated."""

    objects: list[ListedObject]
    prefixes: list[str]
    truncated: bool
    token: str


@dataclass(frozen=True, slots=True)
class PartsPage:
    """One page of stored parts, each with its time: an endpoint may list replaced parts too."""

    parts: list[tuple[datetime, Part]]
    truncated: bool
    marker: str


@dataclass(frozen=True, slots=True)
class UploadsPage:
    uploads: list[OpenUpload]
    truncated: bool
    key_marker: str
    id_marker: str


def _parse(body: bytes, name: str | None) -> etree._Element:
    """The root of a document that must be a `name`, if one is given. A few endpoints say `…Response`
    for `…Result`, or leave it away."""
    if len(body) > MAX_DOCUMENT:
        raise ServerFault(f"{name}: the answer is larger than {MAX_DOCUMENT} bytes")
    if body.count(b"<") > MAX_TAGS:
        raise ServerFault(f"{name}: the answer has more than {MAX_TAGS} tags")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, huge_tree=False, load_dtd=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(body.strip(), parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise ServerFault(f"{name}: the answer is not XML") from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise ServerFault(f"{name}: the answer declares a document type")
    if name is not None and _local(root.tag) not in (name, name.replace("Result", "Response"), name.removesuffix("Result")):
        raise ServerFault(f"expected a {name}, the answer is a {_local(root.tag)}")
    return root


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _fields(node: etree._Element) -> Fields:
    """The text of a node's children by local name, the last of each."""
    return {child.tag.rpartition("}")[2]: child.text or "" for child in node}


def _named(root: etree._Element, name: str) -> Iterator[Fields]:
    return (_fields(child) for child in root if _local(child.tag) == name)


def _time(text: str) -> datetime:
    try:
        return in_utc(datetime.fromisoformat(text))
    except ValueError as error:
        raise ServerFault(f"not a time: {text[:40]!r}") from error


def _truncated(top: Fields, *markers: str) -> bool:
    """Whether an answer is one page of several; one that does not say so is, where a marker leads on. What is no truth value is
    never taken for the end: whatever is not listed counts as absent."""
    told = top.get("IsTruncated", str(any(top.get(marker) for marker in markers))).strip().lower()
    if told not in _TRUTH:
        raise ServerFault(f"not a truth value: {told[:40]!r}")
    return _TRUTH[told]


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS:
        raise ServerFault(f"not a number: {text[:40]!r}")
    return int(text)


def unquote_etag(etag: str) -> str:
    """An ETag without its quotation marks."""
    return etag.strip('"')


# --- answers ---------------------------------------------------------------------------------------------------------


def parse_error(body: bytes) -> Fields:
    """The fields of an `<Error>` (`Code`, `Message`, `Region`, …); {} for anything that is not one."""
    try:
        return _fields(_parse(body, "Error"))
    except ServerFault:
        return {}


def is_error(body: bytes) -> bool:
    """True for an `<Error>` document, which CopyObject and CompleteMultipartUpload also send with status 200."""
    return bool(body) and bool(parse_error(body))


def parse_listing(body: bytes) -> ListingPage:
    """A ListObjectsV2 answer. Keys are decoded only where the answer says that they are encoded: S3 then writes a
    space as `+`."""
    quick = quick_entries(body) if len(body) <= MAX_DOCUMENT else None
    root = _parse(body if quick is None else quick[2], "ListBucketResult")
    top = _fields(root)
    encoded = top.get("EncodingType") == "url"
    if quick is None:
        objects = [_listed(fields, encoded) for fields in _named(root, "Contents")]
    else:
        objects = _listed_quickly(*quick[:2], encoded)
    prefixes = [_text(fields["Prefix"], encoded) for fields in _named(root, "CommonPrefixes") if "Prefix" in fields]
    return ListingPage(objects, prefixes, _truncated(top, "NextContinuationToken"), top.get("NextContinuationToken", ""))


def _listed_quickly(entries: list[tuple[str, ...]], names: tuple[str, ...], encoded: bool) -> list[ListedObject]:
    """As `_listed` of each entry, whose values are those of `names`."""
    key, size, modified = (names.index(name) for name in ("Key", "Size", "LastModified"))
    etag, storage = (names.index(name) if name in names else len(names) for name in ("ETag", "StorageClass"))
    listed = []
    for values in entries:
        values += ("",)
        name = values[key]
        if encoded and ("%" in name or "+" in name):
            name = _text(name, encoded)
        version = Version(int(values[size]), values[etag], "", "", _time(values[modified]))
        listed.append(ListedObject(name, version, NO_CHECKSUMS, values[storage]))
    return listed


def _listed(fields: Fields, encoded: bool) -> ListedObject:
    try:
        key = _text(fields["Key"], encoded)
        version = Version(_number(fields["Size"]), unquote_etag(fields.get("ETag", "")), modified=_time(fields["LastModified"]))
    except KeyError as error:
        raise ServerFault(f"an entry of the listing lacks its {error}") from error
    return ListedObject(key, version, storage_class=fields.get("StorageClass", ""))


def _text(text: str, encoded: bool) -> str:
    if not encoded:
        return text
    try:
        return unquote_plus(text, errors="strict")
    except UnicodeDecodeError as error:
        raise ServerFault("the listing holds a key that is not UTF-8") from error


def parse_parts(body: bytes) -> PartsPage:
    root = _parse(body, "ListPartsResult")
    top = _fields(root)
    parts = [
        (
            _time(fields.get("LastModified", "")),
            Part(
                _number(fields.get("PartNumber", "")),
                _number(fields.get("Size", "")),
                unquote_etag(fields.get("ETag", "")),
                decode_crc(fields.get("ChecksumCRC32C", "")),
            ),
        )
        for fields in _named(root, "Part")
    ]
    return PartsPage(parts, _truncated(top), top.get("NextPartNumberMarker", ""))


def parse_uploads(body: bytes) -> UploadsPage:
    root = _parse(body, "ListMultipartUploadsResult")
    top = _fields(root)
    encoded = top.get("EncodingType") == "url"
    uploads = [
        OpenUpload(_text(fields.get("Key", ""), encoded), fields.get("UploadId", ""), _time(fields.get("Initiated", "")))
        for fields in _named(root, "Upload")
    ]
    key_marker = _text(top.get("NextKeyMarker", ""), encoded)
    return UploadsPage(uploads, _truncated(top), key_marker, top.get("NextUploadIdMarker", ""))


def parse_result(body: bytes, name: str) -> Fields:
    """The fields of a flat result such as `CopyObjectResult` or `CompleteMultipartUploadResult`."""
    return _fields(_parse(body, name))


def parse_versioning(body: bytes) -> bool:
    """True if the bucket keeps versions. Only `Status` counts: the root's name differs between endpoints."""
    return _fields(_parse(body, None)).get("Status") == "Enabled"


def parse_tags(body: bytes) -> dict[str, str]:
    root = _parse(body, "Tagging")
    tags = (_fields(tag) for group in root if _local(group.tag) == "TagSet" for tag in group)
    return {fields.get("Key", ""): fields.get("Value", "") for fields in tags}


# --- requests --------------------------------------------------------------------------------------------------------


def restore_document(days: int) -> bytes:
    """The body of RestoreObject: a readable copy for so many days, at the usual pace and price."""
    root = etree.Element("RestoreRequest", xmlns=_NAMESPACE)
    etree.SubElement(root, "Days").text = str(days)
    parameters = etree.SubElement(root, "GlacierJobParameters")
    etree.SubElement(parameters, "Tier").text = "Standard"
    return etree.tostring(root)


def complete_document(parts: Sequence[Part], *, checksums: bool) -> bytes:
    """The body of CompleteMultipartUpload, with each part's CRC32C where it is known and `checksums` is set."""
    root = etree.Element("CompleteMultipartUpload", xmlns=_NAMESPACE)
    for part in parts:
        node = etree.SubElement(root, "Part")
        etree.SubElement(node, "PartNumber").text = str(part.number)
        etree.SubElement(node, "ETag").text = f'"{part.etag}"'
        if checksums and part.crc32c is not None:
            etree.SubElement(node, "ChecksumCRC32C").text = encode_crc(part.crc32c)
    return etree.tostring(root)
