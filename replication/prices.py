"""What a plan would cost at the stores, from the prices in their settings."""

from __future__ import annotations

from replication.limits import GIB
from replication.passes import Counters
from replication.store_settings import StorePrices

KEYS_PER_LISTING = 1_000


def estimate(counters: Counters, source: StorePrices | None, destination: StorePrices | None) -> dict[str, float]:
    """The cost at either side, in the currency of the prices; a side without prices is left out.

    Listings, one read and one write for each copy, a look at both sides for each change, and the bytes that leave the source.
    Parts of large objects are counted as one write: that is less than they cost.
    """
    found: dict[str, float] = {}
    looks = counters.updated + counters.deleted + counters.kept + counters.waiting + counters.blocked
    if source is not None:
        reads = counters.listed / KEYS_PER_LISTING + counters.copied + looks
        found["source"] = reads / 1000 * source.reads + counters.bytes_copied / GIB * source.egress
    if destination is not None:
        reads, writes = counters.replicas / KEYS_PER_LISTING + looks, counters.copied + counters.updated + counters.deleted
        found["destination"] = reads / 1000 * destination.reads + writes / 1000 * destination.writes
    return {side: round(cost, 6) for side, cost in found.items()}
