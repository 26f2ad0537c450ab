"""What two listings and a receipt tell about one key, without asking a store for anything more.

Listings are a hint like events are: what they settle is only that nothing has to be done. Whatever may need a change is
looked at again, point by point, before anything is written over or deleted.
"""

from __future__ import annotations

from typing import Literal

from replication.models import ListedObject, Version
from replication.verify import listed_equal

Verdict = Literal["equal", "adopt", "missing", "look", "refused", "extra", "vanished"]
"""`equal`: a receipt for exactly these two versions. `adopt`: the listings prove equal content, no receipt says so yet.
`missing`: no replica. `look`: only a closer look can tell. `refused`: the source holds what has no key. `extra`: a replica
without a source. `vanished`: the ledger knows an object that neither side has any more."""

ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects may have to be restored first; a listing does not tell whether they are."""


def source_token(version: Version, kind: str) -> str:
    """What a listing of the source shows of a version. It moves with the attributes too, where the store lets that be seen.

    S3 lists no version ids, and rewriting an object's attributes moves only its time, which HEAD tells in whole seconds.
    """
    if kind != "s3":
        return f"{version.id}-{version.revision}"
    seconds = int(version.modified.timestamp()) if version.modified else 0
    return f"{version.etag}-{version.size_bytes}-{seconds}"


def replica_token(version: Version, kind: str) -> str:
    """What a listing of the destination shows of a version, as far as the answer to the write that made it told."""
    return f"{version.etag}-{version.size_bytes}" if kind == "s3" else f"{version.id}-{version.revision}"


def compare(
    source: ListedObject | None, replica: ListedObject | None, receipt: tuple[str, str] | None, source_kind: str, replica_kind: str
) -> Verdict:
    """`receipt` is the pair of listing tokens that were last known to be equal. Never raises."""
    if source is None:
        return "extra" if replica is not None else "vanished"
    if source.problem:
        return "refused"
    if replica is None:
        return "look" if source.storage_class in ARCHIVES else "missing"
    if receipt is None:
        return "adopt" if listed_equal(source, replica) else "look"
    now = (source_token(source.version, source_kind), replica_token(replica.version, replica_kind))
    return "equal" if receipt == now else "look"
