"""A route at work: which keys it takes, what they are called at the destination, and the digests that identify it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Literal

from replication.globs import compile_globs
from replication.keys import is_reserved
from replication.manifests.rules import Rules, build_rules
from replication.mark import place_digest
from replication.route_settings import LocationSettings, RouteSettings
from replication.store_settings import StoreSettings

SkipReason = Literal["outside-prefix", "reserved", "internal", "excluded", "not-included"]
SKIP_REASONS: dict[SkipReason, str] = {
    "outside-prefix": "the key does not start with the prefix of the route's source",
    "reserved": "the key stands, here or at the destination, where temporary parts and probe objects do",
    "internal": "the key belongs to the inner workings of the source and is no object of its own",
    "excluded": "the key matches a pattern of the route's exclude list",
    "not-included": "the route has an include list and the key matches none of its patterns",
}

_DSS_PART = re.compile(r".+\.part(?:[0-9]+|[A-Za-z])", re.DOTALL)
"""Parts of a composite upload, and composites of its first stage."""
_DSS_BLOB = re.compile(r"blobs/[a-z0-9]{64}\.[a-z0-9]{40}\.[a-z0-9]{32}(?:-([0-9]{1,5}))?\.[a-z0-9]{8}")
"""SHA-256, SHA-1, S3 ETag (with its number of parts, 2 to 10,000) and CRC32C."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route with its patterns compiled. `source_id` and `destination_id` are location ids, `epoch` is the digest of
    every setting that changes what a copy does; all are hex and hold nothing secret. The bucket ids leave the prefix
    out: a key's place in its bucket stays the same whichever route looks at it."""

    settings: RouteSettings
    source_id: str
    destination_id: str
    source_bucket_id: str
    destination_bucket_id: str
    epoch: str
    rules: Rules | None
    """The rules of its manifests; None where the order of objects does not matter."""
    _include: re.Pattern[str] | None
    _exclude: re.Pattern[str] | None

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def source(self) -> LocationSettings:
        return self.settings.source

    @property
    def destination(self) -> LocationSettings:
        return self.settings.destination

    def source_place(self, source_key: str) -> str:
        """The `place_digest` of a key of the source's bucket."""
        return place_digest(self.source_bucket_id, source_key)

    def replica_place(self, source_key: str) -> str:
        """The `place_digest` of the replica of a source key."""
        return place_digest(self.destination_bucket_id, self.destination_key(source_key))

    def destination_key(self, source_key: str) -> str:
        """The replica's key: the prefix swapped, the rest byte for byte. ValueError for a key outside the source's prefix."""
        return _swap(source_key, self.source.prefix, self.destination.prefix)

    def source_key(self, destination_key: str) -> str:
        """The key whose replica stands at `destination_key`. ValueError for a key outside the destination's prefix."""
        return _swap(destination_key, self.destination.prefix, self.source.prefix)

    @property
    def takes_every_key(self) -> bool:
        """Whether nothing but reserved names, which no listing holds, is left out below the prefix."""
        return (
            self._include is None and self._exclude is None and not self.settings.internal_prefixes and self.settings.dependencies != "dss"
        )

    def skip_reason(self, source_key: str) -> SkipReason | None:
        """Why this key is no business of the route, or None. Every way in asks here, events and listings alike."""
        if not source_key.startswith(self.source.prefix):
            return "outside-prefix"
        if is_reserved(source_key) or is_reserved(self.destination_key(source_key)):
            return "reserved"
        below = source_key[len(self.source.prefix) :]
        if self._is_internal(below):
            return "internal"
        if self._exclude is not None and self._exclude.fullmatch(below):
            return "excluded"
        if self._include is not None and not self._include.fullmatch(below):
            return "not-included"
        return None

    def _is_internal(self, below: str) -> bool:
        if below.startswith(self.settings.internal_prefixes):
            return True
        return self.settings.dependencies == "dss" and _is_dss_internal(below)


def build_route(settings: RouteSettings, source: StoreSettings, destination: StoreSettings) -> Route:
    """The route of `settings`, whose two stores are given."""
    source_id, destination_id = location_id(source, settings.source), location_id(destination, settings.destination)
    return Route(
        settings=settings,
        source_id=source_id,
        destination_id=destination_id,
        source_bucket_id=_bucket_id(source, settings.source),
        destination_bucket_id=_bucket_id(destination, settings.destination),
        epoch=_epoch(settings, source_id, destination_id),
        rules=build_rules(settings.dependencies, settings.source.bucket, settings.source.prefix),
        _include=compile_globs(settings.include),
        _exclude=compile_globs(settings.exclude),
    )


def location_id(store: StoreSettings, location: LocationSettings) -> str:
    """16 hex digits for a place: the same whatever the store is called and whoever signs in to it."""
    return _digest(store.identity, store.address(location.bucket, location.prefix))


def _bucket_id(store: StoreSettings, location: LocationSettings) -> str:
    return location_id(store, location.model_copy(update={"prefix": ""}))


def _epoch(settings: RouteSettings, source_id: str, destination_id: str) -> str:
    """Settings that change only how fast a copy goes, or what becomes of deletions, are left out: editing them does not
    interrupt copies in flight. Defaults are left out too, so that a release that adds a setting changes no epoch."""
    without = {"name", "source", "destination", "deletes", "dependency_wait", "parts", "restore"}
    policies = settings.model_dump(mode="json", exclude=without, exclude_defaults=True)
    sizes = settings.parts.model_dump(mode="json", exclude={"concurrency"}, exclude_defaults=True)
    return _digest(settings.name, source_id, destination_id, json.dumps([policies, sizes], sort_keys=True))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _swap(key: str, old: str, new: str) -> str:
    if not key.startswith(old):
        raise ValueError("the key does not start with the route's prefix")
    return new + key[len(old) :]


def _is_dss_internal(key: str) -> bool:
    if _DSS_PART.fullmatch(key):
        return True
    if not key.startswith("blobs/"):
        return False
    blob = _DSS_BLOB.fullmatch(key)
    return blob is None or (blob[1] is not None and not 2 <= int(blob[1]) <= 10_000)
