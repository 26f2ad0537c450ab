"""When the next start of a key is due, so that a hot key is signalled at most once an interval. Pure: time comes in.

An event of an idle key is due at once. One that comes within the interval after a start joins the one pending start at its
end; one that comes after a start was sent never joins that start, which may have looked already.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Coalescer(Generic[K]):
    """Times in seconds of one clock that never goes back. `len` counts the keys that are remembered: those with a pending
    start, and those whose last start was within the interval before the last call."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._pending: set[K] = set()
        self._next: dict[K, float] = {}
        """When a key that was started lately may be started again, the earliest first."""

    def note(self, key: K, now: float) -> float | None:
        """An event: when a new start is due, or None when it joins one that is pending."""
        self._forget(now)
        if key in self._pending:
            return None
        self._pending.add(key)
        return self._next.get(key, now)

    def sent(self, key: K, now: float) -> None:
        """The pending start goes out now: later events need another. Raises `KeyError` where none is pending."""
        self._pending.remove(key)
        self._next.pop(key, None)
        self._next[key] = now + self._interval_s
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Each start is forgotten once, so this costs little however many there are."""
        while self._next:
            key, due = next(iter(self._next.items()))
            if due > now:
                return
            del self._next[key]

    def __len__(self) -> int:
        return len(self._pending | self._next.keys())
