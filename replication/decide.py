"""What to do about one key, decided from the present state of both sides and nothing else.

Events, listings and history never come in: they only say where to look. So a late, repeated or reordered event cannot
make the answer wrong. Whether a replica is right already is answered by the strongest evidence there is, in this order:
comparable checksums that differ; a receipt for exactly these two versions; comparable checksums that agree; our origin
mark. That an object exists proves nothing.

A mark counts only where it was written and on the content it was written for (`replication/mark.py`): a user who copies
a replica elsewhere, or writes over it, has made an object of their own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from replication.fidelity import differences
from replication.mark import Mark, own_mark
from replication.models import ABSENT, Action, Attributes, Condition, Decision, ObjectInfo
from replication.verify import same_checksums

REASONS: dict[str, tuple[Action, str]] = {
    "both-absent": ("in_sync", "Neither side has the object."),
    "source-absent-deletes-ignored": ("keep", "The source is gone; the route does not propagate deletions."),
    "source-absent-replica-foreign": ("keep", "The source is gone, but what stands at the destination is not this route's replica of it."),
    "source-deleted": ("delete", "The source is gone and the destination holds this route's replica of it."),
    "would-loop": ("keep", "The source object is itself a copy that came from the destination."),
    "source-archived": ("wait", "A copy is needed, and the source must be restored from its archive first."),
    "replica-absent": ("copy", "The destination has no such object."),
    "receipt-matches": ("in_sync", "A receipt records that exactly these two versions were compared and equal."),
    "checksum-equal": ("in_sync", "Both sides vouch for equal full-object checksums."),
    "mark-matches": ("in_sync", "The replica's origin mark names this source version or its checksum, and the sizes are equal."),
    "adopted-equal": ("in_sync", "The object at the destination was not written by this route, and its content is equal."),
    "attributes-differ": ("update", "The content is equal, the attributes are not."),
    "replica-archived": ("copy", "The attributes differ and the replica is archived, so that only writing it anew can change them."),
    "overwrite-never": ("keep", "The destination differs; the route creates objects and never changes them."),
    "destination-foreign": ("block", "The object at the destination is the replica of another route."),
    "replica-foreign": ("copy", "The destination holds different content that this route did not write, and the route overwrites it."),
    "foreign-kept": ("keep", "The destination holds a different object that this route did not write, and the route keeps it."),
    "foreign-conflict": ("conflict", "The destination holds a different object that this route did not write; somebody has to choose."),
    "replica-damaged": ("copy", "The replica's origin mark names this source version, but what is stored is not its content."),
    "counterpart-newer": ("keep", "The destination changed since both sides were equal, and the source did not: the route back copies it."),
    "conflict-won": ("copy", "Both sides changed since they were last equal, and the source's change is the newer one."),
    "conflict-lost": ("keep", "Both sides changed since they were last equal, and the destination's change is the newer one."),
    "source-newer": ("copy", "The replica is a copy of another version of the source."),
}
"""Every reason of a decision: the action it stands for and what it means. Names are stable: alerts are built on them."""

_CONFLICTS = {"overwrite": "replica-foreign", "keep": "foreign-kept", "conflict": "foreign-conflict"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Both sides of one key as they are now, and the rules of its route.

    `source` and `replica` are None only on positive evidence of absence. `source_place` and `replica_place` are the
    `place_digest`s of the two sides. `wanted` are the replica's attributes after mapping, without a mark; None leaves
    attributes uncompared. `receipt` is the (source token, replica token) pair of the last verified copy, if any.
    """

    source: ObjectInfo | None
    replica: ObjectInfo | None
    route: str
    source_place: str
    replica_place: str
    destination_id: str
    overwrite: Literal["latest", "never"] = "latest"
    deletes: Literal["ignore", "mirror"] = "ignore"
    foreign: Literal["overwrite", "keep", "conflict"] = "overwrite"
    wanted: Attributes | None = None
    compare_tags: bool = True
    case_insensitive_metadata: bool = False
    receipt: tuple[str, str] | None = None
    paired: bool = False
    """Another route leads back, so that users write on both sides."""
    common: tuple[str, str] | None = None
    """The (source token, replica token) pair at which both sides of a paired route were last known to be equal."""
    conflict: Literal["newest", "keep-both"] = "newest"


def decide(seen: Observation) -> Decision:
    """The one action that brings this key closer to its rule; never raises."""
    if seen.source is None:
        return _decide_absent(seen)
    if came_from(seen.source, seen.source_place, seen.destination_id):
        return _decision("would-loop")
    if seen.replica is None:
        return _copy(seen.source, "replica-absent", ABSENT)
    mark = own_mark(seen.replica, seen.replica_place)
    if evidence := _equality(seen, seen.source, seen.replica, mark):
        return _decide_equal(seen, seen.source, seen.replica, mark, evidence)
    return _decide_different(seen, seen.source, seen.replica, mark)


_STANDING = frozenset({"attributes-differ", "replica-archived", "would-loop", "overwrite-never", "source-absent-deletes-ignored"})


def stands(decision: Decision, replica: ObjectInfo | None) -> bool:
    """True if what the key names is at the destination, so that a manifest that refers to it may be published.

    The replica is right, or it is the last that this route will make of it. Existence alone is not enough.
    """
    return replica is not None and (decision.action == "in_sync" or decision.reason in _STANDING)


def came_from(info: ObjectInfo, place: str, location_id: str) -> bool:
    """True if the object is a replica whose content has been in that location."""
    mark = own_mark(info, place)
    return mark is not None and location_id in mark.hops


def _decide_absent(seen: Observation) -> Decision:
    if seen.replica is None:
        return _decision("both-absent")
    if seen.deletes == "ignore":
        return _decision("source-absent-deletes-ignored")
    if not _is_ours(seen, own_mark(seen.replica, seen.replica_place)):
        return _decision("source-absent-replica-foreign")
    return _decision("source-deleted", Condition.match(seen.replica.version))


def _decide_equal(seen: Observation, source: ObjectInfo, replica: ObjectInfo, mark: Mark | None, evidence: str) -> Decision:
    found = _attribute_differences(seen, replica)
    if not found:
        return _decision("adopted-equal" if evidence == "checksum-equal" and mark is None else evidence)
    message = f"the content is equal; these attributes differ: {', '.join(found)}"
    if denied := _denied(seen, mark):
        return _decision(denied, message=message)
    if replica.archived:
        return _copy(source, "replica-archived", Condition.match(replica.version))
    return _decision("attributes-differ", Condition.match(replica.version), message)


def _decide_different(seen: Observation, source: ObjectInfo, replica: ObjectInfo, mark: Mark | None) -> Decision:
    if denied := _denied(seen, mark):
        return _decision(denied)
    if seen.paired and not _is_ours(seen, mark):
        return _decide_between(seen, source, replica)
    return _copy(source, _why_different(seen, source, mark), Condition.match(replica.version))


def _decide_between(seen: Observation, source: ObjectInfo, replica: ObjectInfo) -> Decision:
    """Users wrote on either side or on both; the route back sees the same two objects and must come to the same end."""
    common_source, common_replica = seen.common or (None, None)
    fence = Condition.match(replica.version)
    if replica.version.token == common_replica:
        return _copy(source, "source-newer", fence)
    if source.version.token == common_source:
        return _decision("counterpart-newer")
    if _rank(source, seen.source_place) < _rank(replica, seen.replica_place):
        return _decision("conflict-lost")
    won = _copy(source, "conflict-won", fence)
    return dataclasses.replace(won, keep_beside=won.action == "copy" and seen.conflict == "keep-both")


def _rank(info: ObjectInfo, place: str) -> tuple[float, int, str]:
    """An order that is the same seen from either route: newest, then largest, then any fixed one."""
    modified = info.version.modified
    return (modified.timestamp() if modified else 0.0, info.size_bytes, place)


def _why_different(seen: Observation, source: ObjectInfo, mark: Mark | None) -> str:
    if mark is None or not _is_ours(seen, mark):
        return "replica-foreign"
    return "replica-damaged" if mark.names(source.version) else "source-newer"


def _equality(seen: Observation, source: ObjectInfo, replica: ObjectInfo, mark: Mark | None) -> str | None:
    """The reason to believe that the contents are equal, or None."""
    agree = same_checksums(source.checksums, replica.checksums)
    if source.size_bytes != replica.size_bytes or agree is False:
        return None
    if seen.receipt == (source.version.token, replica.version.token):
        return "receipt-matches"
    if agree:
        return "checksum-equal"
    return "mark-matches" if mark is not None and _is_ours(seen, mark) and _mark_matches(mark, source) else None


def _mark_matches(mark: Mark, source: ObjectInfo) -> bool:
    """A checksum decides where both sides of the comparison have one: equal content in a new version is equal."""
    if mark.crc32c is not None and source.checksums.crc32c is not None:
        return mark.crc32c == source.checksums.crc32c
    return mark.names(source.version)


def _is_ours(seen: Observation, mark: Mark | None) -> bool:
    return mark is not None and mark.route == seen.route and mark.source == seen.source_place


def _denied(seen: Observation, mark: Mark | None) -> str | None:
    """The reason why this route may not change what stands at the destination, or None."""
    if seen.overwrite == "never":
        return "overwrite-never"
    if mark is not None and mark.route != seen.route:
        return "destination-foreign"
    if not _is_ours(seen, mark) and seen.foreign != "overwrite":
        return _CONFLICTS[seen.foreign]
    return None


def _attribute_differences(seen: Observation, replica: ObjectInfo) -> list[str]:
    if seen.wanted is None:
        return []
    return differences(
        seen.wanted,
        replica.attributes,
        compare_tags=seen.compare_tags,
        compare_storage_class=bool(seen.wanted.storage_class),
        case_insensitive_metadata=seen.case_insensitive_metadata,
    )


def _copy(source: ObjectInfo, reason: str, condition: Condition) -> Decision:
    return _decision("source-archived") if source.archived else _decision(reason, condition)


def _decision(reason: str, condition: Condition = ABSENT, message: str = "") -> Decision:
    action, text = REASONS[reason]
    return Decision(action, reason, message or text, condition)
