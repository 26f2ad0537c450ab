"""What a pass counted, in words."""

from __future__ import annotations

from replication.passes import Counters
from replication.units import format_size


def counted(counters: Counters, *, dry: bool) -> str:
    """What a pass did with how many objects, or would do."""
    told = [
        f"{counters.listed:,} listed",
        f"{counters.copied:,} {'to copy' if dry else 'copied'}",
        f"{counters.updated:,} {'to update' if dry else 'updated'}",
        f"{counters.skipped:,} in sync",
        f"{counters.deleted:,} {'to delete' if dry else 'deleted'}",
        f"{counters.failed + counters.blocked:,} failed",
    ]
    rest = (("kept", counters.kept), ("waiting", counters.waiting), ("left at the destination only", counters.left))
    return ", ".join(told + [f"{value:,} {name}" for name, value in rest if value])


def moved(counters: Counters, *, dry: bool) -> str:
    """How many bytes that took, or would take."""
    return f"{format_size(counters.bytes_copied)} {'to copy' if dry else 'copied'}"


def examined(counters: Counters) -> str:
    """What a verification looked at and found."""
    return (
        f"{counters.listed:,} listed, {counters.skipped:,} right, {counters.differing:,} with anomalies, "
        f"{counters.extra:,} at the destination only, {counters.kept:,} left alone"
    )


def pending_deletions(count: int) -> str:
    return f"{count:,} pending deletion{'' if count == 1 else 's'}"
