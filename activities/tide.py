"""Small objects are read many at a time, and then written many at a time.

A request costs a server about half when it comes among others, without an idle moment before it; and a machine that source,
destination and worker share changes between them less often. So reads and writes of small objects take turns: reads go on
until nobody can read more before something is written, and the other way round. Nobody stands still for it where answers are
slow: the next side begins while the last answers of the side before are still on their way, and after a second both go on.

Beside changes, each step waits for the pace of scans (`activities/turns.py`) once more, so that they slow down at once.
"""

from __future__ import annotations

import asyncio

from activities.line import Line
from replication.limits import KIB
from stores.pace import Pace

SMALL = 32 * KIB
"""Larger objects are read and written side by side: what takes time with them are bytes, which go both ways at once."""
SIDE_AT_ONCE = 96
STRAGGLERS = 16
"""How many requests of one side may still be under way when the other begins."""
PATIENCE_S = 1.0
STEP = 1 / 3
"""What the beginning, the read and the write of an object each take of its token in the pace of scans."""


class Tide:
    """`async with tide.reads:` is one read, `async with tide.writes:` one write."""

    def __init__(
        self,
        at_once: int = SIDE_AT_ONCE,
        stragglers: int = STRAGGLERS,
        *,
        patience_s: float = PATIENCE_S,
        pace: Pace | None = None,
    ) -> None:
        self.pace = pace or Pace()
        self._at_once = at_once
        self._stragglers = stragglers
        self._patience_s = patience_s
        self.reads, self.writes = Side(self), Side(self)
        self._runs, self._rests = self.reads, self.writes
        self._both = False
        self._opening: asyncio.TimerHandle | None = None

    def flow(self) -> None:
        """Lets in whoever may go now."""
        runs, rests = self._runs, self._rests
        if rests.line and not runs.line and runs.under_way <= self._stragglers:
            self._runs, self._rests = runs, rests = rests, runs
            self._turned()
        for side in (runs, rests) if self._both else (runs,):
            while side.line and side.under_way < self._at_once:
                side.under_way += side.line.let_in()

    def _turned(self) -> None:
        self._both = False
        if self._opening is not None:
            self._opening.cancel()
        self._opening = asyncio.get_running_loop().call_later(self._patience_s, self._open)

    def _open(self) -> None:
        self._both = True
        self.flow()


class Side:
    """The reads, or the writes, of a tide."""

    __slots__ = ("_tide", "line", "under_way")

    def __init__(self, tide: Tide) -> None:
        self._tide = tide
        self.line = Line()
        self.under_way = 0

    async def __aenter__(self) -> None:
        place = self.line.join()
        self._tide.flow()
        await self.line.wait(place, given_back=self._leave)
        try:
            await self._tide.pace.take(STEP)
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self.under_way -= 1
        self._tide.flow()
