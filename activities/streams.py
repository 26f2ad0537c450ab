"""How many parts a process has under way at once from one store to another: as many as make them faster together.

A store far away fills the line only with many streams. One nearby is at its fastest with a few, and every further one costs
it memory. So a process begins with a few, takes half as many more as long as that pays, and goes back where it does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from activities.line import Line

FEW = 4
WINDOW_S = 1.0
WIDER = 1.5
PAYS = 0.5
"""A wider window must bring this much of what it would bring if nothing but the number of streams were in its way."""
RESTS = 15
"""Windows until wider is tried again after it did not pay."""


@dataclass(frozen=True, slots=True)
class Width:
    """`streams` at once. `before` and `rate_before` are those of the last window, where this one is a try at more."""

    streams: int = FEW
    before: int = 0
    rate_before: float = 0.0
    rests: int = 1

    def after(self, rate: float, most: int) -> Width:
        """What follows a window in which `rate` bytes a second passed and every stream was taken."""
        if self.before and rate < self.rate_before * (1 + PAYS * (self.streams / self.before - 1)):
            return Width(self.before, rests=RESTS)
        if self.rests:
            return Width(self.streams, rests=self.rests - 1)
        wider = min(most, math.ceil(self.streams * WIDER))
        return Width(wider, self.streams, rate, rests=0) if wider > self.streams else self


class Ways:
    """The streams of each way from one store to another; those of passes and those of changes do not wait for each other."""

    def __init__(self, most: int) -> None:
        """`most` streams at once on each way."""
        self._most = most
        self._ways: dict[tuple[str, str, bool], Streams] = {}

    def streams(self, source: str, destination: str, *, of_pass: bool) -> Streams:
        """Between two stores, by their names in the settings."""
        way = source, destination, of_pass
        if way not in self._ways:
            self._ways[way] = Streams(self._most)
        return self._ways[way]


class Streams:
    """`async with streams.stream() as moved:` is one part, in order of arrival; `moved` is told of its bytes as they pass."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._width = Width(min(FEW, most))
        self._under_way = 0
        self._waiting = Line()
        self._bytes, self._since = 0, clock()

    @property
    def width(self) -> int:
        """How many may be under way at once."""
        return self._width.streams

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Callable[[int], None]]:
        """Waits until a part may start."""
        await self._enter()
        try:
            yield self._moved
        finally:
            self._leave()

    async def _enter(self) -> None:
        if not self._under_way:
            self._width = Width(min(FEW, self._most))
            self._begin_window()
        place = self._waiting.join()
        self._admit()
        await self._waiting.wait(place, given_back=self._leave, long=True)

    def _leave(self) -> None:
        self._under_way -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._under_way < self._width.streams:
            self._under_way += self._waiting.let_in()

    def _moved(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        passed_s = self._clock() - self._since
        if passed_s < WINDOW_S:
            return
        if self._waiting:
            self._width = self._width.after(self._bytes / passed_s, self._most)
            self._admit()
        self._begin_window()

    def _begin_window(self) -> None:
        self._bytes, self._since = 0, self._clock()
