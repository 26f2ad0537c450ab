"""The origin mark: user metadata on a replica that says which source version it is, who put it there, and where it has been.

It commits with the bytes, in the same request, so it is never ahead of them. What it is for: an answer lost on the way
is recognised (`copy`), deletes reach only our own replicas (`route`, `source`), copies do not run in circles (`hops`),
and a replica is known to be right where no checksum can be compared (`version`, `crc32c`).

S3's CopyObject copies metadata by default, so a user's copy of a replica carries the replica's mark to another key. The
mark therefore names the place it was written for (`replica`); anywhere else, or on other content, it says nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

from replication.models import ObjectInfo, Version

_ROUTE = "drayage-route"
_SOURCE = "drayage-source"
_REPLICA = "drayage-replica"
_VERSION = "drayage-version"
_CRC32C = "drayage-crc32c"
_COPY = "drayage-copy"
_HOPS = "drayage-hops"

MARK_KEYS = frozenset({_ROUTE, _SOURCE, _REPLICA, _VERSION, _CRC32C, _COPY, _HOPS})
SOURCE_ETAG_KEY = "x-goog-source-etag"
"""Where replicas on GCS also keep the source's ETag, beside the user's metadata and never instead of it."""
MARK_RESERVE_BYTES = 512
"""Room that a mark may take from a store's limit for metadata; S3 has 2 KiB in all."""
MAX_TOKEN_BYTES = 80
MAX_HOPS = 8

_SAFE = "!#$&'()*+-./:;=?@^_`{|}~"
_PLAIN = re.compile("[A-Za-z0-9" + re.escape(_SAFE) + "]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One origin mark. `crc32c` is None when it was not known as the replica was created.

    `source` and `replica` are `place_digest`s. `version` is `version_token` of the source version. `hops` are the ids
    of the locations that the content has visited, oldest first; the replica's own location is not among them.
    """

    route: str
    source: str
    replica: str
    version: str
    crc32c: int | None = None
    copy: str = ""
    hops: tuple[str, ...] = ()

    def to_metadata(self) -> dict[str, str]:
        """Printable ASCII without spaces or commas in values, lower-case keys: the same text on every store."""
        found = {
            _ROUTE: _quote(self.route),
            _SOURCE: _quote(self.source),
            _REPLICA: _quote(self.replica),
            _VERSION: _quote(self.version),
            _CRC32C: "" if self.crc32c is None else f"{self.crc32c:08x}",
            _COPY: _quote(self.copy),
            _HOPS: ",".join(_quote(hop) for hop in self.hops),
        }
        return {key: value for key, value in found.items() if value}

    def names(self, version: Version) -> bool:
        """True if this is the mark of a copy of exactly that source version."""
        return self.version == version_token(version)


def parse_mark(metadata: Mapping[str, str]) -> Mark | None:
    """The mark in an object's metadata, whatever the case of its keys; None if there is none or it is not whole."""
    found = {key.lower(): value for key, value in metadata.items() if key.lower() in MARK_KEYS}
    if not all(found.get(key) for key in (_ROUTE, _SOURCE, _REPLICA, _VERSION)):
        return None
    return Mark(
        route=unquote(found[_ROUTE]),
        source=unquote(found[_SOURCE]),
        replica=unquote(found[_REPLICA]),
        version=unquote(found[_VERSION]),
        crc32c=_parse_crc(found.get(_CRC32C, "")),
        copy=unquote(found.get(_COPY, "")),
        hops=tuple(unquote(hop.strip()) for hop in found.get(_HOPS, "").split(",") if hop.strip()),
    )


def without_mark(metadata: Mapping[str, str]) -> dict[str, str]:
    """The user's own metadata. On a marked object `x-goog-source-etag` is ours too and goes with the mark."""
    ours = MARK_KEYS | {SOURCE_ETAG_KEY} if parse_mark(metadata) else MARK_KEYS
    return {key: value for key, value in metadata.items() if key.lower() not in ours}


def with_mark(metadata: Mapping[str, str], mark: Mark, *, source_etag: str = "") -> dict[str, str]:
    """A replica's metadata: the user's, the mark, and on GCS the source's ETag unless the user's own stands there."""
    marked = {**without_mark(metadata), **mark.to_metadata()}
    if source_etag:
        marked.setdefault(SOURCE_ETAG_KEY, source_etag)
    return marked


def own_mark(info: ObjectInfo, place: str) -> Mark | None:
    """The object's mark if it was written for this place (a `place_digest`) and for the content that stands there now."""
    mark = parse_mark(info.attributes.metadata)
    if mark is None or mark.replica != place:
        return None
    stored = info.checksums.crc32c
    if stored is not None and mark.crc32c is not None and stored != mark.crc32c:
        return None
    return mark


def make_mark(*, route: str, source: ObjectInfo, source_id: str, source_place: str, replica_place: str, copy_id: str) -> Mark:
    """The mark for a copy of `source`, which stands in the location `source_id`."""
    before = own_mark(source, source_place)
    return Mark(
        route=route,
        source=source_place,
        replica=replica_place,
        version=version_token(source.version),
        crc32c=source.checksums.crc32c,
        copy=copy_id,
        hops=_append_hop(before.hops if before else (), source_id),
    )


def place_digest(location_id: str, key: str) -> str:
    """16 hex digits for one key of one location; `key` is the full object name."""
    return hashlib.sha256(f"{location_id}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def version_token(version: Version) -> str:
    """The version's token as marks carry it: itself, or a digest where a store's tokens are too long or not Unicode."""
    token = version.token
    if len(quoted := _quote(token)) <= MAX_TOKEN_BYTES and unquote(quoted) == token:
        return token
    return "sha256~" + hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _append_hop(hops: tuple[str, ...], location_id: str) -> tuple[str, ...]:
    """The newest `MAX_HOPS` locations, each once."""
    return (*(hop for hop in hops if hop != location_id), location_id)[-MAX_HOPS:]


def _quote(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else quote(text, safe=_SAFE, errors="replace")


def _parse_crc(text: str) -> int | None:
    try:
        return int(text, 16) if len(text) == 8 else None
    except ValueError:
        return None
