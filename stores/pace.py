"""How fast something may go: token buckets, and the one that the bytes read in a context are counted against."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar

SLICE_S = 0.2
"""Longest sleep before a changed limit is noticed."""


class Pace:
    """A token bucket with a second's worth of tokens. An amount above that goes through, and is paid for afterwards.

    `on_wait` is called before each sleep.
    """

    def __init__(self, *, on_wait: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._on_wait = on_wait
        self._rate: float | None = None
        self._tokens = 0.0
        self._filled_at = clock()
        self.paused = False
        """Nothing goes through, however many tokens there are."""

    def set_rate(self, per_s: float | None) -> None:
        """None lets everything through."""
        self._fill()
        if self._rate is None:
            self._tokens = 0.0
        self._rate = per_s

    @property
    def is_limited(self) -> bool:
        return self._rate is not None

    async def take(self, amount: float, *, under_way: bool = False) -> None:
        """What is `under_way` already goes on through a pause, at the rate."""
        while self._waits(under_way):
            self._on_wait()
            owed_s = -self._tokens / self._rate if self._rate and not self.paused else SLICE_S
            await asyncio.sleep(min(SLICE_S, max(0.005, owed_s)))
        self._tokens -= amount

    def _waits(self, under_way: bool) -> bool:
        self._fill()
        return (self.paused and not under_way) or (self._rate is not None and self._tokens <= 0)

    def _fill(self) -> None:
        now = self._clock()
        if self._rate is not None:
            self._tokens = min(self._rate, self._tokens + self._rate * (now - self._filled_at))
        self._filled_at = now


read_paces: ContextVar[Sequence[Pace]] = ContextVar("drayage_read_paces", default=())
"""What every chunk that `stores/transfer.py` reads has to wait for."""


def is_paced() -> bool:
    """True if what is read in this context is held to a rate."""
    return any(pace.is_limited for pace in read_paces.get())
