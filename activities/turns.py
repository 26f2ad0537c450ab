"""How many objects all scans of a process have under way at once, and how fast they follow each other beside changes.

While a process follows changes, its scans go only as fast as some of the machine's cores stay free and its timers punctual, so
that a change finds a core for each of its steps, and no queue before it.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from activities._progress import pulse
from activities.load import Load, measure_load
from activities.tide import STEP
from stores.pace import Pace

AT_ONCE = 96
"""Objects under way, over all scans of a process."""
SMALL_AT_ONCE = 384
"""And of those that are read and written by turns (`activities/tide.py`), which are waiting most of the time. What
begins beside changes counts as any other object."""
LINGER_S = 60.0
"""How long after the last change the next one is expected. Each first one meets a machine without a free core."""
FREE = 0.7
"""How many cores are to stay free, per square root of their number: half of two, a quarter of eight. What comes then finds a core
equally often, however many there are (square-root staffing)."""
SCARCE = 0.2
"""With less than this much of what is to stay free, what comes is about to queue."""
LATE_S = 0.003
"""How late timers may be on average; beside changes alone it is a third of that."""
FIRST_PER_S, LEAST_PER_S, MOST_PER_S = 50.0, 10.0, 10_000.0
SLOWER, FASTER = 0.5, 1.1
"""What the rate is multiplied with in a step, where cores are scarce or timers late, and at most."""
EAGERNESS = 0.3
"""How much of the step to the wanted part of free cores is made at once, where cores and rate went together."""


class Turns:
    """`async with turns.turn():` is one object of a scan."""

    def __init__(
        self,
        most: int = AT_ONCE,
        small: int = SMALL_AT_ONCE,
        *,
        linger_s: float = LINGER_S,
        measure: Callable[[], Awaitable[Load]] = measure_load,
        cores: int | None = None,
    ) -> None:
        self._any, self._small = asyncio.Semaphore(most), asyncio.Semaphore(small)
        self.pace = Pace(on_wait=lambda: pulse().touch())
        """That of objects that begin, and of the steps of small ones."""
        self._linger_s = linger_s
        self._measure = measure
        self._free = free_share(cores or os.cpu_count() or 1)
        self._per_s: float | None = None
        self._following = 0
        self._followed_at = 0.0
        self._governing: asyncio.Task[None] | None = None

    @property
    def per_s(self) -> float | None:
        """How many objects a second may begin; None for no limit."""
        return self._per_s

    @contextmanager
    def following(self) -> Iterator[None]:
        """A change is on its way through this process."""
        self._following += 1
        if self._governing is None:
            self._governing = asyncio.create_task(self._govern())
        try:
            yield
        finally:
            self._following -= 1
            self._followed_at = time.monotonic()

    @asynccontextmanager
    async def turn(self, *, small: bool = False) -> AsyncIterator[None]:
        """Waits until an object may start; `small` is one that a tide moves."""
        async with self._small if small and self._governing is None else self._any:
            await self.pace.take(STEP if small else 1)
            yield

    async def _govern(self) -> None:
        per_s = FIRST_PER_S
        try:
            while self._following or time.monotonic() < self._followed_at + self._linger_s:
                self._set(per_s)
                per_s = next_rate(per_s, await self._measure(), self._free)
        finally:
            self._set(None)
            self._governing = None

    def _set(self, per_s: float | None) -> None:
        self._per_s = per_s
        self.pace.set_rate(per_s)


def free_share(cores: int) -> float:
    """The part of all cores that is to stay free, from 0 to 1/2."""
    return min(0.5, FREE / math.sqrt(cores))


def next_rate(per_s: float, load: Load, free: float) -> float:
    """Towards the rate that leaves `free` of the cores: down in bigger steps than up, and by half where it is high time."""
    scarce = load.idle < SCARCE * free or load.late_s > LATE_S
    change = SLOWER if scarce else min(FASTER, 1 + EAGERNESS * (load.idle / free - 1))
    return min(MOST_PER_S, max(LEAST_PER_S, per_s * change))
