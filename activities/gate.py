"""How fast a scan may go: pause, objects at once, bytes and requests a second; all may change while it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from activities._progress import pulse
from replication.passes import SteeringShare

SLICE_S = 0.2
"""Longest sleep before a changed limit is noticed."""


class Pace:
    """A token bucket with a second's worth of tokens. An amount above that goes through, and is paid for afterwards."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
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

    async def take(self, amount: float) -> None:
        while self._waits():
            pulse().touch()
            owed_s = -self._tokens / self._rate if self._rate and not self.paused else SLICE_S
            await asyncio.sleep(min(SLICE_S, max(0.005, owed_s)))
        self._tokens -= amount

    def _waits(self) -> bool:
        self._fill()
        return self.paused or (self._rate is not None and self._tokens <= 0)

    def _fill(self) -> None:
        now = self._clock()
        if self._rate is not None:
            self._tokens = min(self._rate, self._tokens + self._rate * (now - self._filled_at))
        self._filled_at = now


class Gate:
    """Lets the objects of one scan through. `lanes` are shared by all scans of the process."""

    def __init__(self, lanes: asyncio.Semaphore) -> None:
        self._lanes = lanes
        self._bytes, self._requests = Pace(), Pace()
        self._paused = False
        self._limit: int | None = None
        self._inside = 0
        self._changed = asyncio.Event()

    def steer(self, share: SteeringShare) -> None:
        """Takes over this scan's share of the limits of its pass."""
        steering, scans = share.steering, max(1, share.scans)
        self._paused = self._requests.paused = self._bytes.paused = steering.paused
        self._limit = max(1, steering.concurrency // scans) if steering.concurrency else None
        self._bytes.set_rate(steering.bytes_per_s / scans if steering.bytes_per_s else None)
        self._requests.set_rate(steering.requests_per_s / scans if steering.requests_per_s else None)
        self._changed.set()

    @asynccontextmanager
    async def admit(self, size_bytes: int, requests: int) -> AsyncIterator[None]:
        """Waits until an object of this size may start."""
        await self._turn()
        self._inside += 1
        try:
            await self._requests.take(requests)
            await self._bytes.take(size_bytes)
            async with self._lanes:
                yield
        finally:
            self._inside -= 1
            self._changed.set()

    async def _turn(self) -> None:
        while self._paused or (self._limit is not None and self._inside >= self._limit):
            self._changed.clear()
            pulse().touch()
            try:
                await asyncio.wait_for(self._changed.wait(), 1.0)
            except TimeoutError:
                continue
