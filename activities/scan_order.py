"""Objects are worked on side by side and accounted for in key order: a cursor that stands for everything up to it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ledger.rows import AuditEntry, PendingDeletion, Quarantined, Receipt, VerifiedLeaf

MAX_AHEAD = 10_000
"""Slots that may be taken beyond the oldest one that is not done."""


@dataclass(slots=True)
class Done:
    """What is to be recorded of one key, or of a run of keys that needed nothing."""

    counters: dict[str, int] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)
    audit: list[AuditEntry] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    released: list[tuple[str, str]] = field(default_factory=list)
    forgotten: list[tuple[str, str]] = field(default_factory=list)
    pending: list[PendingDeletion] = field(default_factory=list)
    findings: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    large: list[str] = field(default_factory=list)
    parked: list[str] = field(default_factory=list)
    leaves: list[VerifiedLeaf] = field(default_factory=list)

    def count(self, **numbers: int) -> Done:
        for name, number in numbers.items():
            self.counters[name] = self.counters.get(name, 0) + number
        return self

    def skip(self, size_bytes: int) -> None:
        """Counts an object that is right already."""
        counters = self.counters
        for name, number in (("listed", 1), ("bytes_listed", size_bytes), ("replicas", 1), ("skipped", 1)):
            counters[name] = counters.get(name, 0) + number

    @property
    def is_empty(self) -> bool:
        return not self.counters and not (self.pending or self.forgotten or self.findings or self.large or self.parked or self.receipts)

    def add(self, other: Done) -> None:
        self.count(**other.counters)
        for name in ("receipts", "audit", "quarantined", "released", "forgotten", "pending", "findings", "large", "parked", "leaves"):
            getattr(self, name).extend(getattr(other, name))


@dataclass(slots=True)
class Slot:
    """One place in the order; `key` is below the route's prefix. `seen` is counted together with what is done."""

    key: str
    seen: dict[str, int] = field(default_factory=dict)
    done: Done | None = None


class Order:
    """Slots in key order, taken when work begins and given back when it is done, in any order."""

    def __init__(self) -> None:
        self._slots: deque[Slot] = deque()

    def take(self, key: str, seen: dict[str, int] | None = None) -> Slot:
        slot = Slot(key, seen or {})
        self._slots.append(slot)
        return slot

    @property
    def is_full(self) -> bool:
        return len(self._slots) >= MAX_AHEAD

    @property
    def is_empty(self) -> bool:
        return not self._slots

    @property
    def is_ready(self) -> bool:
        return bool(self._slots) and self._slots[0].done is not None

    def early(self) -> Done:
        """What done slots behind one that is not done left to be recorded, and is not recorded yet: receipts and audit entries."""
        total = Done()
        for slot in self._slots:
            if slot.done is not None and slot.done.audit:
                total.receipts += slot.done.receipts
                total.audit += slot.done.audit
                slot.done.receipts, slot.done.audit = [], []
        return total

    def ready(self) -> tuple[str, Done] | None:
        """The last key of the unbroken run of done slots at the front, and all that they left to record; removes them."""
        total, last = Done(), None
        while self._slots and self._slots[0].done is not None:
            slot = self._slots.popleft()
            assert slot.done is not None
            total.add(slot.done.count(**slot.seen))
            last = slot.key
        return (last, total) if last is not None else None


@dataclass(slots=True)
class Names:
    """How many keys a result names, and their bytes as JSON, which has up to six for one of a key."""

    count: int = 0
    size_bytes: int = 0

    def add(self, keys: Sequence[str]) -> None:
        self.count += len(keys)
        self.size_bytes += _json_bytes(keys)

    def remove(self, keys: Sequence[str]) -> None:
        self.count -= len(keys)
        self.size_bytes -= _json_bytes(keys)

    def __add__(self, other: Names) -> Names:
        return Names(self.count + other.count, self.size_bytes + other.size_bytes)

    def exceed(self, count: int, size_bytes: int) -> bool:
        return self.count >= count or self.size_bytes >= size_bytes


def _json_bytes(keys: Sequence[str]) -> int:
    return sum(len(json.dumps(key, ensure_ascii=False).encode("utf-8", "surrogatepass")) for key in keys)
