"""S3's headers: attributes, conditions and pins into a request; out of an answer an object, and whether it is the one asked for. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from replication.errors import IntegrityMismatch, MetadataUnrepresentable, ServerFault, SourceChanged
from replication.fidelity import decode_header_value, encode_header_value, stored_encoding
from replication.models import Attributes, Checksums, Condition, ObjectInfo, Version
from stores.checksum import decode_crc, encode_crc
from stores.mapping import in_utc
from stores.s3xml import unquote_etag
from stores.signing import encode_key

CRC32C = "x-amz-checksum-crc32c"
META = "x-amz-meta-"
FULL_OBJECT = {"x-amz-checksum-algorithm": "CRC32C", "x-amz-checksum-type": "FULL_OBJECT"}
ASKED = {"x-amz-sdk-checksum-algorithm": "CRC32C"}
"""Of a part without a checksum: asks some endpoints (SeaweedFS, versitygw) to compute it and to tell it. AWS refuses it."""

_STANDARD = (
    ("content_type", "content-type"),
    ("content_encoding", "content-encoding"),
    ("content_disposition", "content-disposition"),
    ("content_language", "content-language"),
    ("cache_control", "cache-control"),
    ("expires", "expires"),
    ("storage_class", "x-amz-storage-class"),
)
_PLAIN = re.compile(r"(?:[!-~](?:[ -~\t]*[!-~])?)?")
"""A header value that arrives as it was sent: printable ASCII without blanks at either end."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MD5 = re.compile(r"[0-9a-f]{32}")
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})


def whole_headers(crc32c: int, size_bytes: int) -> dict[str, str]:
    """Of a completion that the store is to refuse unless all parts together have this CRC32C."""
    return {CRC32C: encode_crc(crc32c), "x-amz-checksum-type": "FULL_OBJECT", "x-amz-mp-object-size": str(size_bytes)}


# --- into a request --------------------------------------------------------------------------------------------------


def attribute_headers(attributes: Attributes) -> dict[str, str]:
    """The headers that set `attributes`, tags included. `MetadataUnrepresentable` for what a header cannot carry.

    A metadata value that no header can carry is sent as an RFC 2047 word, the form in which S3 shows such values itself.
    """
    headers = {header: _plain(header, value) for field, header in _STANDARD if (value := getattr(attributes, field))}
    for name, value in attributes.metadata.items():
        header = META + name.lower()
        if not _TOKEN.fullmatch(name):
            raise MetadataUnrepresentable(f"metadata name {name!r} cannot be a header")
        if header in headers:
            raise MetadataUnrepresentable(f"metadata name {name!r} differs from another only in case")
        headers[header] = encode_header_value(value)
    if attributes.tags:
        headers["x-amz-tagging"] = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in attributes.tags.items())
    return headers


def _plain(header: str, value: str) -> str:
    if not _PLAIN.fullmatch(value):
        raise MetadataUnrepresentable(f"the value of {header} is not plain ASCII text, or begins or ends with a blank")
    return value


def condition_headers(condition: Condition) -> dict[str, str]:
    """The fence of a write at its destination."""
    if condition.kind == "absent":
        return {"if-none-match": "*"}
    if condition.kind == "match" and condition.version is not None:
        return {"if-match": quoted(condition.version)}
    return {}


def quoted(version: Version) -> str:
    return f'"{version.etag}"'


def source_headers(bucket: str, key: str, pin: Version) -> dict[str, str]:
    """The source of a server-side copy, pinned by versionId where there is one and by ETag."""
    source = f"/{bucket}/{encode_key(key)}" + (f"?versionId={quote(pin.id, safe='')}" if pin.id else "")
    return {"x-amz-copy-source": source, "x-amz-copy-source-if-match": quoted(pin)}


def replace_headers(attributes: Attributes) -> dict[str, str]:
    """Attributes of a copy, replacing the source's; tags stay the source's where they are None."""
    directives = {"x-amz-metadata-directive": "REPLACE"}
    if attributes.tags is not None:
        directives["x-amz-tagging-directive"] = "REPLACE"
    return attribute_headers(attributes) | directives


# --- out of an answer ------------------------------------------------------------------------------------------------


def object_info(key: str, headers: Mapping[str, str], *, tags: dict[str, str] | None = None) -> ObjectInfo:
    """The object that a HEAD describes, with its `tags` where they were read. `headers` ignores case.

    Raises `MetadataUnrepresentable` where S3 withholds metadata that no header can carry (`x-amz-missing-meta`).
    """
    if headers.get("x-amz-missing-meta", "0") != "0":
        raise MetadataUnrepresentable("S3 withholds metadata that a header cannot carry (x-amz-missing-meta)")
    try:
        size = int(headers["Content-Length"])
        modified = _parse_date(headers["Last-Modified"])
    except (KeyError, ValueError, OverflowError) as error:
        raise ServerFault("HEAD answered without a size or a time") from error
    version = Version(size, unquote_etag(headers.get("ETag", "")), version_id(headers), modified=modified)
    return ObjectInfo(key, version, _attributes(headers, tags), checksums(headers), _archived(headers))


def version_id(headers: Mapping[str, str]) -> str:
    """The versionId, or "" where there is none; the `null` version can be overwritten and so identifies nothing."""
    told = headers.get("x-amz-version-id", "")
    return "" if told == "null" else told


@lru_cache(maxsize=1024)
def _parse_date(text: str) -> datetime:
    """Objects that were written together have the same time."""
    return in_utc(parsedate_to_datetime(text))


def _attributes(headers: Mapping[str, str], tags: dict[str, str] | None) -> Attributes:
    values: dict[str, Any] = {field: headers[header] for field, header in _STANDARD if header in headers}
    values["content_encoding"] = stored_encoding(values.get("content_encoding", ""))
    metadata = {
        name[len(META) :].lower(): decode_header_value(value) for name, value in headers.items() if name[: len(META)].lower() == META
    }
    return Attributes(metadata=metadata, tags=tags, **values)


def checksums(headers: Mapping[str, str]) -> Checksums:
    """Full-object checksums of an answer: none of a composite one, MD5 only where the ETag is known to be it."""
    etag = unquote_etag(headers.get("ETag", ""))
    opaque = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    opaque = opaque or "x-amz-server-side-encryption-customer-algorithm" in headers
    md5 = etag if _MD5.fullmatch(etag) and not opaque else None
    if headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT":
        return Checksums(md5=md5)
    return Checksums(_crc(headers, "crc32c"), _crc(headers, "crc64nvme", 8), _crc(headers, "crc32"), md5)


def _crc(headers: Mapping[str, str], kind: str, width: int = 4) -> int | None:
    return decode_crc(headers.get(f"x-amz-checksum-{kind}", ""), width)


def _archived(headers: Mapping[str, str]) -> bool:
    if headers.get("x-amz-storage-class", "") not in _ARCHIVES and "x-amz-archive-status" not in headers:
        return False
    return 'ongoing-request="false"' not in headers.get("x-amz-restore", "")


def check_read(headers: Mapping[str, str], pin: Version, offset: int | None, length: int) -> None:
    """Raises unless the head of an answer promises exactly the bytes asked for, of exactly the pinned version."""
    etag = unquote_etag(headers.get("ETag", ""))
    told = version_id(headers)
    if (pin.etag and etag and etag != pin.etag) or (pin.id and told and told != pin.id):
        raise SourceChanged("the store gave another version than the one that was asked for")
    if headers.get("Content-Length") != str(length):
        raise IntegrityMismatch(f"the answer announces {headers.get('Content-Length')} bytes, {length} were asked for")
    if offset is None:
        return
    expected = f"bytes {offset}-{offset + length - 1}/{pin.size_bytes}"
    if headers.get("Content-Range") != expected:
        raise IntegrityMismatch(f"the answer holds {headers.get('Content-Range')}, asked for was {expected}")
