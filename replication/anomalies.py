"""What a verification finds wrong with one key, from a fresh look at both sides; each anomaly has a stable name.

The decision (`replication/decide.py`) says whether the content is right and what the route's policy leaves alone; here
that becomes words about the object. Content comes first: the attributes of an object with other content say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from replication.errors import ObjectError
from replication.fidelity import decode_header_value, differences
from replication.mark import own_mark, parse_mark, without_mark
from replication.models import Attributes, Decision, ObjectInfo, Verification
from replication.verify import KINDS, same_checksums

ANOMALIES: dict[str, str] = {
    "missing-at-destination": "The source has the object, the destination does not.",
    "missing-at-source": "The destination has this route's replica of an object that the source does not have.",
    "size": "The replica has another length than the source.",
    "checksum": "The replica has other content than the source, or nothing proves that it has the same.",
    "metadata": "The content is equal; headers or user metadata are not what the route makes of the source's.",
    "tags": "The content is equal; the tags are not.",
    "storage-class": "The content is equal; the storage class is not the one that the route asks for.",
    "foreign": "This route did not write what the destination holds: it has no mark, or that of another route or place.",
    "missing-reference": "What a manifest names, or what that names in turn, does not stand at the destination.",
    "unreadable": "The object could not be looked at; the error's reason says why.",
}
"""Every anomaly and what it means. Names are stable: alerts are built on them."""

LEFT_ALONE = frozenset({"would-loop", "overwrite-never", "foreign-kept"})
"""Decisions by which the route's own policy keeps a difference."""
MAX_NAMED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """One thing that is wrong. `source` and `replica` are the two values where there are two; `more` are further members."""

    name: str
    message: str
    source: Any = None
    replica: Any = None
    more: dict[str, Any] = field(default_factory=dict)

    def document(self, route: str, key: str) -> dict[str, Any]:
        """As a program reads it: at least `route`, `key`, `anomaly` and `message`."""
        values = {name: value for name, value in (("source", self.source), ("replica", self.replica)) if value is not None}
        return {"route": route, "key": key, "anomaly": self.name, "message": self.message, **values, **self.more}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Both sides of a key whose source exists, and what was decided about it. The fields are those of `Observation`.

    `bytes_crc32c` is that of the bytes, where all of both sides were read and are equal. `receipt` is the CRC32C of the last
    verified copy of this source version, and the token of the replica that it made.
    """

    decision: Decision
    source: ObjectInfo
    replica: ObjectInfo | None
    route: str
    source_place: str
    replica_place: str
    wanted: Attributes
    compare_tags: bool = True
    case_insensitive_metadata: bool = False
    paired: bool = False
    bytes_crc32c: int | None = None
    receipt: tuple[int, str] | None = None

    @property
    def bytes_equal(self) -> bool:
        return self.bytes_crc32c is not None


def anomalies_of(seen: Compared) -> list[Anomaly]:
    """Everything that is wrong with the key; [] where it is right, and where the route leaves it as it is."""
    if seen.decision.reason in LEFT_ALONE:
        return []
    if seen.replica is None:
        return [Anomaly(name="missing-at-destination", message=seen.decision.message, source=seen.source.size_bytes)]
    if told := _told_difference(seen.source, seen.replica) or _receipt_difference(seen, seen.replica):
        return [told, *_foreign(seen, seen.replica)]
    found = _attributes(seen, seen.replica)
    if content_is_proved(seen) or (found and seen.decision.reason == "source-archived"):
        return [*found, *_foreign(seen, seen.replica)] if seen.decision.action in ("block", "conflict") else found
    return [_unproved(seen, seen.replica), *_foreign(seen, seen.replica)]


def content_is_proved(seen: Compared) -> bool:
    """Whether there is evidence that the contents are equal, also where the route may not change what else differs."""
    if seen.bytes_equal or seen.decision.action in ("in_sync", "update") or seen.decision.reason == "replica-archived":
        return True
    return seen.replica is not None and same_checksums(seen.source.checksums, seen.replica.checksums) is True


def differs_by_word(source: ObjectInfo, replica: ObjectInfo) -> bool:
    """Whether sizes or checksums tell already that the contents differ, so that no byte has to be read."""
    return _told_difference(source, replica) is not None


def extra_anomaly(decision: Decision, replica: ObjectInfo, route: str, source_place: str, replica_place: str) -> Anomaly:
    """Of a replica without a source."""
    mark = own_mark(replica, replica_place)
    if mark is not None and (mark.route, mark.source) == (route, source_place):
        return Anomaly(name="missing-at-source", message=decision.message, replica=replica.size_bytes)
    message = "the source has no such object, and what stands at the destination is no replica of this route"
    return Anomaly(name="foreign", message=message, replica=replica.size_bytes)


def unreadable(error: ObjectError) -> Anomaly:
    return Anomaly(name="unreadable", message=str(error), more={"reason": error.reason})


def unresolved(error: ObjectError) -> Anomaly:
    """Of a manifest that names what can never stand."""
    return Anomaly(name="missing-reference", message=str(error), more={"reason": error.reason})


def missing_references(keys: Sequence[str], count: int) -> Anomaly:
    """`keys` are the first of the `count` that are missing."""
    named = ", ".join(keys[:3]) + (f", and {count - 3:,} more" if count > 3 else "")
    return Anomaly(
        name="missing-reference",
        message=f"does not stand at the destination: {named}",
        more={"missing": list(keys[:MAX_NAMED]), "missing_count": count},
    )


def bytes_differ(offset: int, length: int, source_crc32c: int, replica_crc32c: int) -> Anomaly:
    """`offset` and `length` are those of the first stretch that differs, the CRCs are of that stretch."""
    return Anomaly(
        name="checksum",
        message=f"bytes differ between {offset:,} and {offset + length:,}",
        source=f"crc32c:{source_crc32c:08x}",
        replica=f"crc32c:{replica_crc32c:08x}",
        more={"offset": offset},
    )


def digest_of(seen: Compared) -> str:
    """The content of an object without anomaly in one word: a CRC32C or MD5 that a store publishes, else the CRC32C of the
    receipt or of the bytes that were read, else the source's ETag. So it is the same, whether bytes were read or not."""
    known = digest_text(seen.source, seen.replica)
    crc32c = seen.receipt[0] if seen.receipt is not None else seen.bytes_crc32c
    return f"crc32c:{crc32c:08x}" if known.startswith("etag:") and crc32c is not None else known


def digest_text(source: ObjectInfo, replica: ObjectInfo | None = None) -> str:
    """The content in one word: the strongest checksum that a store tells of either of two equal objects, else the source's ETag."""
    sides = [source.checksums, replica.checksums] if replica is not None else [source.checksums]
    for checksums in sides:
        if checksums.crc32c is not None:
            return f"crc32c:{checksums.crc32c:08x}"
    md5 = next((checksums.md5 for checksums in sides if checksums.md5), None)
    return f"md5:{md5}" if md5 else f"etag:{source.version.etag or source.version.id}"


def verified_level(seen: Compared) -> Verification:
    """How sure it is that the replica, which has no anomaly, is its source."""
    assert seen.replica is not None
    if seen.bytes_equal or same_checksums(seen.source.checksums, seen.replica.checksums):
        return "end-to-end"
    stored = seen.replica.checksums.crc32c
    if stored is None:
        return "size-only"
    mark = own_mark(seen.replica, seen.replica_place)
    vouched = (mark.crc32c if mark is not None else None, seen.receipt[0] if seen.receipt is not None else None)
    return "dest-verified" if stored in vouched else "size-only"


# --- content ---------------------------------------------------------------------------------------------------------


def _told_difference(source: ObjectInfo, replica: ObjectInfo) -> Anomaly | None:
    if source.size_bytes != replica.size_bytes:
        message = f"the source has {source.size_bytes:,} bytes, the replica {replica.size_bytes:,}"
        return Anomaly(name="size", message=message, source=source.size_bytes, replica=replica.size_bytes)
    if same_checksums(source.checksums, replica.checksums) is not False:
        return None
    here, there = _differing_checksums(source, replica)
    return Anomaly(name="checksum", message=f"the source has {here}, the replica {there}", source=here, replica=there)


def _receipt_difference(seen: Compared, replica: ObjectInfo) -> Anomaly | None:
    """What a receipt tells of a replica that no checksum of the source can be compared with. A mark alone can be copied."""
    comparable = same_checksums(seen.source.checksums, replica.checksums) is not None
    if seen.receipt is None or seen.bytes_equal or comparable:
        return None
    copied, token = seen.receipt
    values: dict[str, Any] = {"source": f"crc32c:{copied:08x}", "replica": digest_text(replica)}
    if replica.checksums.crc32c is None:
        message = "the replica was written anew after it was verified, and no checksum tells whether it is the same"
        return Anomaly(name="checksum", message=message, **values) if replica.version.token != token else None
    message = "the replica is not what was copied and verified"
    return Anomaly(name="checksum", message=message, **values) if replica.checksums.crc32c != copied else None


def _differing_checksums(source: ObjectInfo, replica: ObjectInfo) -> tuple[str, str]:
    widths = {"crc32c": 8, "crc32": 8, "crc64nvme": 16}
    for kind in KINDS:
        here, there = getattr(source.checksums, kind), getattr(replica.checksums, kind)
        if here is not None and there is not None and here != there:
            return tuple(f"{kind}:{one if kind == 'md5' else format(one, f'0{widths[kind]}x')}" for one in (here, there))  # type: ignore[return-value]
    raise AssertionError("unreachable")


def _unproved(seen: Compared, replica: ObjectInfo) -> Anomaly:
    mark = own_mark(replica, seen.replica_place)
    ours = mark is not None and (mark.route, mark.source) == (seen.route, seen.source_place)
    why = "the replica is a copy of another version of the source" if ours else "the replica has no mark that says what it is a copy of"
    message = f"the sizes are equal, and nothing proves equal content: {why}"
    return Anomaly(name="checksum", message=message, source=digest_text(seen.source), replica=digest_text(replica))


def _foreign(seen: Compared, replica: ObjectInfo) -> list[Anomaly]:
    """Beside differing content. On a route that another leads back from, users write at the destination too."""
    mark = parse_mark(replica.attributes.metadata)
    if mark is None:
        return [] if seen.paired else [Anomaly(name="foreign", message="what stands at the destination has no mark of this route")]
    if (mark.route, mark.source, mark.replica) == (seen.route, seen.source_place, seen.replica_place):
        return []
    whose = f"of route {mark.route!r}" if mark.route != seen.route else "of another object"
    return [Anomaly(name="foreign", message=f"what stands at the destination has the mark {whose}", more={"marked_by": mark.route})]


# --- attributes ------------------------------------------------------------------------------------------------------


def _attributes(seen: Compared, replica: ObjectInfo) -> list[Anomaly]:
    wanted, actual = seen.wanted, replica.attributes
    names = differences(
        wanted,
        actual,
        compare_tags=seen.compare_tags,
        compare_storage_class=bool(wanted.storage_class),
        case_insensitive_metadata=seen.case_insensitive_metadata,
    )
    found = []
    if of_metadata := [name for name in names if name not in ("tags", "storage_class")]:
        found.append(_metadata(wanted, actual, of_metadata, seen.case_insensitive_metadata))
    if "tags" in names:
        found.append(Anomaly(name="tags", message="the tags differ", source=wanted.tags, replica=actual.tags))
    if "storage_class" in names:
        here, there = wanted.storage_class, actual.storage_class or "STANDARD"
        message = f"the route asks for {here}, the replica is {there}"
        found.append(Anomaly(name="storage-class", message=message, source=here, replica=there))
    return found


def _metadata(wanted: Attributes, actual: Attributes, names: list[str], fold: bool) -> Anomaly:
    """User metadata is named key by key."""
    here = {name: getattr(wanted, name) for name in names if name != "metadata"}
    there = {name: getattr(actual, name) for name in here}
    if "metadata" in names:
        ours, theirs = _readable(wanted, fold), _readable(actual, fold)
        differing = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
        here |= {f"metadata.{key}": ours[key] for key in differing if key in ours}
        there |= {f"metadata.{key}": theirs[key] for key in differing if key in theirs}
    fields = sorted({*here, *there}) or names
    return Anomaly(name="metadata", message=f"differs: {', '.join(fields)}", source=here, replica=there, more={"fields": fields})


def _readable(attributes: Attributes, fold: bool) -> dict[str, str]:
    metadata = without_mark(attributes.metadata)
    return {(key.lower() if fold else key): decode_header_value(value) for key, value in metadata.items()}
