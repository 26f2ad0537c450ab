"""Object resources of the GCS JSON API, to and from the values of `replication/models.py`. Pure."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote

from replication.errors import KeyInvalid, KeyUnrepresentable, ServerFault
from replication.keys import RESERVED_PREFIX, key_problem
from replication.models import Attributes, Checksums, ListedObject, ObjectInfo, OpenUpload, Version
from stores.checksum import decode_crc, encode_crc
from stores.mapping import in_utc

Resource = dict[str, Any]
"""One JSON object of the API."""

OBJECT_FIELDS = (
    "name,generation,metageneration,size,etag,crc32c,md5Hash,timeCreated,updated,storageClass,"
    "contentType,contentEncoding,contentDisposition,contentLanguage,cacheControl,metadata"
)
LISTING_FIELDS = "nextPageToken,items(name,generation,metageneration,size,etag,crc32c,md5Hash,timeCreated,timeDeleted,storageClass)"

EXPIRES_KEY = "drayage-expires"
"""Metadata key that keeps an `Expires` header's text: GCS has no field for it."""
KEY_KEY = "drayage-key"
"""Metadata key of a temporary part: the key it is for, percent-encoded."""
PARTS_PREFIX = f"{RESERVED_PREFIX}parts/"

_FIELDS = {
    "content_type": "contentType",
    "content_encoding": "contentEncoding",
    "content_disposition": "contentDisposition",
    "content_language": "contentLanguage",
    "cache_control": "cacheControl",
}

# --- names -----------------------------------------------------------------------------------------------------------


def name_problem(key: str) -> str | None:
    """Why GCS cannot hold `key`, or None (cloud.google.com/storage/docs/objects#naming)."""
    if "\r" in key or "\n" in key:
        return "GCS object names hold no carriage return and no line feed"
    if key in (".", ".."):
        return "GCS object names may not be '.' or '..'"
    if key.startswith(".well-known/acme-challenge/"):
        return "GCS object names may not start with '.well-known/acme-challenge/'"
    return None


def check_name(key: str) -> None:
    """Raises `KeyInvalid` or `KeyUnrepresentable`."""
    if problem := key_problem(key):
        raise KeyInvalid(problem)
    if problem := name_problem(key):
        raise KeyUnrepresentable(problem)


def object_path(bucket: str, name: str) -> str:
    """The path of an object below `/storage/v1`: every byte of the name outside RFC 3986's unreserved set is encoded."""
    return f"/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"


def upload_prefix(upload_id: str) -> str:
    return f"{PARTS_PREFIX}{upload_id}/"


def marker_name(upload_id: str) -> str:
    """The empty object that says that an upload is open, and for which key."""
    return f"{upload_prefix(upload_id)}upload"


def part_name(upload_id: str, number: int) -> str:
    return f"{upload_prefix(upload_id)}{number:06d}"


def part_number(name: str) -> int | None:
    """The number in a part's name; None for the intermediate composites that stand beside the parts."""
    last = name.rpartition("/")[2]
    return int(last) if last.isascii() and last.isdigit() else None


# --- writing ---------------------------------------------------------------------------------------------------------


def to_resource(attributes: Attributes) -> Resource:
    """The fields of a new object. What is not set is left out."""
    resource: Resource = {field: value for name, field in _FIELDS.items() if (value := getattr(attributes, name))}
    if attributes.storage_class:
        resource["storageClass"] = attributes.storage_class
    if metadata := stored_metadata(attributes):
        resource["metadata"] = metadata
    return resource


def temporary_resource(name: str, key: str, crc32c: int | None = None) -> Resource:
    """A temporary object that is for `key`, in the bucket's default storage class."""
    resource: Resource = {"name": name, "metadata": {KEY_KEY: quote(key)}}
    return resource if crc32c is None else resource | {"crc32c": encode_crc(crc32c)}


def to_patch(attributes: Attributes, current: Mapping[str, str]) -> Resource:
    """A merge patch that leaves exactly `attributes`: null removes a field, or a key of the `current` metadata."""
    patch: Resource = {field: getattr(attributes, name) or None for name, field in _FIELDS.items()}
    if not attributes.content_type:
        del patch["contentType"]  # an object always has one
    patch["metadata"] = dict.fromkeys(current) | stored_metadata(attributes)
    return patch


def stored_metadata(attributes: Attributes) -> dict[str, str]:
    extra = {EXPIRES_KEY: attributes.expires} if attributes.expires else {}
    return {**attributes.metadata, **extra}


def same_attributes(found: Attributes, wanted: Attributes) -> bool:
    """Whether all that can change without moving bytes is as wanted. An unset content type matches any."""
    names = [name for name in _FIELDS if name != "content_type" or wanted.content_type]
    return all(getattr(found, name) == getattr(wanted, name) for name in names) and stored_metadata(found) == stored_metadata(wanted)


# --- reading ---------------------------------------------------------------------------------------------------------


def to_version(resource: Mapping[str, Any]) -> Version:
    """`modified` is when the content was made; the API's `updated` moves with the metadata."""
    try:
        size_bytes = int(resource.get("size", 0))
        if size_bytes < 0:
            raise ValueError("negative size")
        return Version(
            size_bytes=size_bytes,
            etag=str(resource.get("etag", "")),
            id=str(int(resource["generation"])),
            revision=str(resource.get("metageneration", "")),
            modified=_time(resource.get("timeCreated")),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ServerFault(f"an object resource without a readable generation, size or time: {error!r}") from error


def to_checksums(resource: Mapping[str, Any]) -> Checksums:
    """Composite objects have no MD5."""
    crc32c, md5 = resource.get("crc32c"), resource.get("md5Hash")
    return Checksums(crc32c=decode_crc(str(crc32c or "")), md5=_md5(str(md5)) if md5 else None)


def to_attributes(resource: Mapping[str, Any]) -> Attributes:
    told = resource.get("metadata") or {}
    if not isinstance(told, dict):
        raise ServerFault("an object resource whose metadata is no JSON object")
    metadata = {name: str(value) for name, value in told.items()}
    expires = metadata.pop(EXPIRES_KEY, "")
    fields: dict[str, Any] = {name: str(resource.get(field) or "") for name, field in _FIELDS.items()}
    return Attributes(**fields, expires=expires, storage_class=str(resource.get("storageClass") or ""), metadata=metadata)


def to_info(resource: Mapping[str, Any]) -> ObjectInfo:
    return ObjectInfo(str(resource.get("name", "")), to_version(resource), to_attributes(resource), to_checksums(resource))


def to_listed(resource: Mapping[str, Any]) -> ListedObject:
    return ListedObject(_name(resource), to_version(resource), to_checksums(resource), str(resource.get("storageClass") or ""))


def upload_of(resource: Mapping[str, Any]) -> OpenUpload | None:
    """The upload that a temporary object belongs to; None for an object that is none of ours."""
    key, made = (resource.get("metadata") or {}).get(KEY_KEY), to_version(resource).modified
    if key is None or made is None:
        return None
    upload_id = _name(resource).removeprefix(PARTS_PREFIX).partition("/")[0]
    return OpenUpload(unquote(key), upload_id, made)


@dataclass(frozen=True, slots=True)
class Piece:
    """One generation of an object, with what must be known of it to compose it: its length and CRC32C."""

    name: str
    generation: str
    size_bytes: int
    crc32c: int
    storage_class: str = ""


def to_piece(resource: Mapping[str, Any]) -> Piece:
    version, crc32c = to_version(resource), to_checksums(resource).crc32c
    if crc32c is None:
        raise ServerFault("an object resource without a CRC32C")
    return Piece(_name(resource), version.id, version.size_bytes, crc32c, str(resource.get("storageClass") or ""))


def _name(resource: Mapping[str, Any]) -> str:
    name = resource.get("name")
    if not isinstance(name, str):
        raise ServerFault("an object resource without a name")
    return name


def _time(text: str | None) -> datetime | None:
    return in_utc(datetime.fromisoformat(text)) if text else None


def _md5(text: str) -> str | None:
    try:
        return b64decode(text, validate=True).hex()
    except ValueError:
        return None
