"""How fast something may go: token buckets of bytes and requests, and those that the work of a context is counted against."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

SLICE_S = 0.2
"""Longest sleep before a changed limit is noticed."""
LONGEST_WAIT_S = 1.0
"""Longest time until `on_wait` is called again."""


class Pace:
    """A token bucket with a second's worth of tokens. An amount above that goes through, and is paid for afterwards.

    `on_wait` is called before each sleep of whoever waits.
    """

    def __init__(self, *, on_wait: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._on_wait = on_wait
        self._rate: float | None = None
        self._tokens = 0.0
        self._filled_at = clock()
        self._lines = defaultdict[tuple[bool, bool], deque[asyncio.Future[None]]](deque)
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

    async def take(self, amount: float, *, under_way: bool = False, first: bool = False) -> None:
        """In order of arrival. What is `under_way` already goes on through a pause, at the rate. What comes `first` takes what
        the others would get in the next second. Each of the three has a line of its own."""
        line = self._lines[under_way, first]
        if line or self._waits(under_way, first):
            await self._stand_in(line, under_way, first)
        self._tokens -= amount

    async def _stand_in(self, line: deque[asyncio.Future[None]], under_way: bool, first: bool) -> None:
        place = asyncio.get_running_loop().create_future()
        line.append(place)
        try:
            while line[0] is not place or self._waits(under_way, first):
                self._on_wait()
                if line[0] is not place:
                    await asyncio.wait([place], timeout=LONGEST_WAIT_S)
                else:
                    owed_s = -self._tokens / self._rate if self._rate and not self.paused else SLICE_S
                    await asyncio.sleep(min(SLICE_S, max(0.005, owed_s)))
        finally:
            line.remove(place)
            if line and not line[0].done():
                line[0].set_result(None)

    def reserve(self, amount: float) -> float:
        """Takes it for something that comes first; in how many seconds that may start."""
        self._fill()
        self._tokens -= amount
        return max(0.0, -self._tokens / self._rate - 1.0) if self._rate else 0.0

    def _waits(self, under_way: bool, first: bool) -> bool:
        self._fill()
        if self._rate is None:
            return self.paused and not under_way
        return (self.paused and not under_way) or self._tokens <= (-self._rate if first else 0)

    def _fill(self) -> None:
        now = self._clock()
        if self._rate is not None:
            self._tokens = min(self._rate, self._tokens + self._rate * (now - self._filled_at))
        self._filled_at = now


@dataclass
class Paces:
    """Bytes a second and requests a second."""

    bytes: Pace = field(default_factory=Pace)
    requests: Pace = field(default_factory=Pace)

    def set(self, bytes_per_s: float | None, requests_per_s: float | None, share: float = 1.0, *, paused: bool = False) -> None:
        self.bytes.set_rate(bytes_per_s * share if bytes_per_s else None)
        self.requests.set_rate(requests_per_s * share if requests_per_s else None)
        self.bytes.paused = self.requests.paused = paused


class Budget:
    """Everything that a piece of work is counted against. What comes `first` goes before what does not, in order of its
    reservations; requests that it has to make afterwards are counted, and do not wait behind later ones."""

    def __init__(self, paces: Sequence[Paces] = (), *, first: bool = False) -> None:
        self._paces = paces
        self._first = first

    @property
    def limits_bytes(self) -> bool:
        return any(pace.bytes.is_limited for pace in self._paces)

    async def begin(self, *, size_bytes: int = 0, requests: int = 0) -> None:
        """Waits until something new may start."""
        await self._take(size_bytes, requests, under_way=False)

    async def go_on(self, *, size_bytes: int = 0, requests: int = 0) -> None:
        """Waits for the rate alone, and not for the end of a pause."""
        await self._take(size_bytes, requests, under_way=True)

    def reserve(self, *, requests: int) -> float:
        """Takes them now; in how many seconds their turn comes."""
        return max((pace.requests.reserve(requests) for pace in self._paces), default=0.0)

    async def _take(self, size_bytes: int, requests: int, *, under_way: bool) -> None:
        for pace in self._paces:
            if requests and self._first:
                pace.requests.reserve(requests)
            elif requests:
                await pace.requests.take(requests, under_way=under_way)
            if size_bytes:
                await pace.bytes.take(size_bytes, under_way=under_way, first=self._first)


_budget: ContextVar[Budget] = ContextVar("drayage_budget", default=Budget())  # noqa: B039  # without limits it never changes


def current_budget() -> Budget:
    """That of the work in whose context this is asked; without one, a budget that lets everything through."""
    return _budget.get()


@contextmanager
def on_budget(budget: Budget) -> Iterator[None]:
    """What is read in the block is counted against a budget."""
    token = _budget.set(budget)
    try:
        yield
    finally:
        _budget.reset(token)
