"""What the ledger holds, as plain values. Every time is in seconds since 1970; versions are opaque tokens of their store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal["copied", "updated", "deleted", "kept-beside"]
"""`kept-beside`: what lost a conflict was copied to a key of its own; `source_version` is what it was."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """`source_version` stood at the destination as `destination_version` (tokens of `replication.models.Version`).

    `source_listed` and `destination_listed` are what a listing shows of these versions.
    """

    route: str
    key: str
    source_version: str
    destination_version: str
    source_listed: str = ""
    destination_listed: str = ""
    size_bytes: int = 0
    crc32c: int | None = None
    verification: str = ""
    losses: tuple[str, ...] = ()
    workflow: str = ""
    recorded_at: float = 0.0


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change at a destination. `sequence` counts from 1 without a gap in each route; the ledger gives it."""

    route: str
    key: str
    action: Action
    source_version: str = ""
    destination_version: str = ""
    size_bytes: int = 0
    crc32c: int | None = None
    reason: str = ""
    workflow: str = ""
    at: float = 0.0
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An object that rests after a failure. `attempts` and `first_at` are the ledger's: how often it was recorded, since when."""

    route: str
    key: str
    reason: str
    message: str
    attempts: int = 1
    first_at: float = 0.0
    last_at: float = 0.0
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class PassRecord:
    """One pass over a route; `mode` and `state` are those of `replication.passes`."""

    pass_id: str
    route: str
    mode: str
    state: str
    reason: str = ""
    started_at: float = 0.0
    ended_at: float | None = None
    counters: dict[str, int] = field(default_factory=dict)
    workflow: str = ""
    scope: str = ""
    """`route` for a pass that no filter keeps from any key."""


def last_ended(records: Iterable[PassRecord]) -> PassRecord | None:
    """A pass that was held or paused may end after others that began later."""
    ended = [(record.ended_at, record) for record in records if record.ended_at is not None]
    return max(ended, key=lambda item: item[0], default=(None, None))[1]


@dataclass(frozen=True, slots=True)
class VerifiedLeaf:
    """An object that a pass found right, as a certificate states it: `digest` and `level` are those of its leaf."""

    key: str
    size_bytes: int
    digest: str
    level: str = ""


@dataclass(frozen=True, slots=True)
class PendingDeletion:
    """A replica without a source, last seen by `pass_id` and first seen at `since`."""

    route: str
    key: str
    pass_id: str
    destination_version: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a plan or of a verification."""

    pass_id: str
    sequence: int
    key: str
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BudgetUser:
    """What one process has under way on a budget; `beat` moves while the process lives."""

    budget: str
    process: str
    users: int
    beat: int


@dataclass(frozen=True, slots=True)
class ChainReport:
    """How a route's audit chain stands up. `head` is the hash of its last entry in hex, "" of an empty chain.

    `entries` were read and are as they were written; `broken_at` is the first sequence number that is not, None where that
    is not known: of a chain that is another one than that of a head which was kept.
    """

    route: str
    entries: int
    head: str
    intact: bool
    broken_at: int | None = None
    problem: str = ""
