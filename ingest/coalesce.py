"""When the next start of a target is due, so that a hot key is signalled at most once an interval. Pure: time comes in.

An event of an idle key is due at once. One that comes within the interval after a start joins the one pending start at its
end; one that comes after a start was sent never joins that start, which may have looked already.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

TIMER_S = 0.01

K = TypeVar("K", bound=Hashable)


class Coalescer(Generic[K]):
    """Times in seconds of one clock that never goes back."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._pending: dict[K, float] = {}
        self._sent: dict[K, float] = {}

    def note(self, key: K, now: float) -> float | None:
        """An event: when a new start is due, or None when it joins one that is pending."""
        if key in self._pending:
            return None
        due = max(now, self._sent.get(key, now - self._interval_s) + self._interval_s)
        self._pending[key] = due
        return due

    def sent(self, key: K, now: float) -> None:
        """The pending start goes out now: later events need another."""
        del self._pending[key]
        self._sent[key] = now

    def forget(self, key: K, now: float) -> None:
        """Lets go of a key whose interval has passed, or has but for a timer's inaccuracy; keeps any other."""
        sent = self._sent.get(key)
        if sent is not None and now - sent >= self._interval_s - TIMER_S:
            del self._sent[key]

    def __len__(self) -> int:
        return len(self._pending.keys() | self._sent.keys())
