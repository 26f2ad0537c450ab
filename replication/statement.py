"""What a certificate states about a route, and how two of them compare."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from replication.tree_diff import Change

MAX_EXCEPTIONS = 1000
MAX_CHANGES = 1000

_NAMED = 3
"""How many exceptions a sentence names."""


class Excepted(NamedTuple):
    """A key that the statement does not vouch for, and why."""

    key: str
    anomaly: str


@dataclass(frozen=True, slots=True)
class Statement:
    """At `time` (RFC 3339, UTC) the route held this many objects and bytes, with this root, except for these keys.

    `root` is 64 hex digits. `exceptions` are the first 1,000 of `exceptions_count`. `levels` counts objects by how they were
    verified.
    """

    route: str
    time: str
    objects: int
    size_bytes: int
    root: str
    exceptions: tuple[Excepted, ...] = ()
    exceptions_count: int = 0
    levels: dict[str, int] = field(default_factory=dict)

    def sentence(self) -> str:
        """The statement as one line of English."""
        held = f"{_count(self.objects, 'object')}, {_count(self.size_bytes, 'byte')}, digest root {self.root}"
        return f"At {self.time}, route {self.route}: {held}, {self._except()}."

    def _except(self) -> str:
        if not self.exceptions_count:
            return "without exception"
        named = [f"{json.dumps(key)} ({anomaly})" for key, anomaly in self.exceptions[:_NAMED]]
        more = self.exceptions_count - len(named)
        return "except " + ", ".join([*named, f"and {more:,} more"] if more else named)

    def encode(self) -> dict[str, object]:
        """As JSON has it."""
        return {**asdict(self), "exceptions": [{"key": key, "anomaly": anomaly} for key, anomaly in self.exceptions]}


def decode_statement(document: dict[str, object]) -> Statement:
    """The reverse of `Statement.encode`. Raises TypeError for other fields or types."""
    exceptions = document.get("exceptions")
    if not isinstance(exceptions, list):
        raise TypeError("exceptions are not a list")
    statement = Statement(**{**document, "exceptions": tuple(Excepted(**one) for one in exceptions)})  # type: ignore[arg-type]
    numbers = (statement.objects, statement.size_bytes, statement.exceptions_count)
    texts = (statement.route, statement.time, statement.root)
    if not all(isinstance(n, int) for n in numbers) or not all(isinstance(t, str) for t in texts) or not isinstance(statement.levels, dict):
        raise TypeError("a field is of another type")
    return statement


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def utc_time(at: float) -> str:
    """Seconds since 1970 as RFC 3339, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Keys that changed, came and went between two certificates: the first 1,000 of each kind, and how many there are.

    `leaves_read` counts the leaves of certificates that had to be read for it, on both sides.
    """

    changed: tuple[Change, ...] = ()
    added: tuple[Change, ...] = ()
    removed: tuple[Change, ...] = ()
    changed_count: int = 0
    added_count: int = 0
    removed_count: int = 0
    leaves_read: int = 0

    @property
    def same(self) -> bool:
        return not (self.changed_count or self.added_count or self.removed_count)


def tally(changes: Iterable[Change], limit: int = MAX_CHANGES) -> Comparison:
    """Goes through all of `changes` and keeps the first of each kind; `leaves_read` is left at 0."""
    kinds: tuple[list[Change], list[Change], list[Change]] = ([], [], [])
    counts = [0, 0, 0]
    for change in changes:
        kind = 1 if change.old is None else 2 if change.new is None else 0
        counts[kind] += 1
        if len(kinds[kind]) < limit:
            kinds[kind].append(change)
    changed, added, removed = (tuple(kind) for kind in kinds)
    return Comparison(changed, added, removed, *counts)
