"""What lets the objects of a scan through: pause, objects at once, bytes and requests a second; all may change meanwhile."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from activities.line import Line
from activities.turns import Turns
from replication.passes import SteeringShare, objects_at_once
from stores.pace import Budget

REST_S = 2.0
"""What may begin nothing for so long gives its slot to others: there are few, and an operator's pause may take days."""


class KeptOut(Exception):
    """Nothing may begin, and has not for a while."""


class Gate:
    """The gate of one partition's scan. `turns` are shared by all scans of the process."""

    def __init__(self, partition: int, turns: Turns, budget: Budget | None = None) -> None:
        self._partition = partition
        self._turns = turns
        self._budget = budget or Budget()
        self._paused = False
        self._limit: int | None = None
        self._inside = 0
        self._waiting = Line()
        self._closed_at: float | None = None

    def steer(self, share: SteeringShare) -> None:
        """Takes over whether the pass is paused, and this scan's share of its objects at once."""
        self._paused = share.steering.paused
        self._limit = objects_at_once(share.steering.concurrency, self._partition, share.partitions)
        is_closed = self._paused or self._limit == 0
        self._closed_at = (self._closed_at or time.monotonic()) if is_closed else None
        self._let_in()

    @asynccontextmanager
    async def admit(self, size_bytes: int, requests: int, *, small: bool = False, rests: bool = False) -> AsyncIterator[None]:
        """Waits until an object of this size may start, in order of arrival; `small` is one that a tide moves. One that `rests` raises
        `KeptOut` rather than wait for long."""
        await self._enter(rests)
        try:
            await self._budget.begin(size_bytes=size_bytes, requests=requests)
            async with self._turns.turn(small=small):
                yield
        finally:
            self._leave()

    async def listed(self) -> None:
        """Waits until a page of a listing may be asked for."""
        await self._budget.begin(requests=1)

    @property
    def keeps_out(self) -> bool:
        """Whether it has long been closed to whoever waits: the pass is paused, or this scan has no share of its objects at once."""
        if self._closed_at is None or not (self._paused or self._waiting):
            return False
        return time.monotonic() - self._closed_at >= REST_S

    async def _enter(self, rests: bool) -> None:
        """Whoever came first goes first: the cursor of a scan stands for everything up to it."""

        def give_up() -> None:
            if rests and self.keeps_out:
                raise KeptOut

        place = self._waiting.join()
        self._let_in()
        await self._waiting.wait(place, given_back=self._leave, long=True, meanwhile=give_up)

    def _leave(self) -> None:
        self._inside -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and not self._paused and (self._limit is None or self._inside < self._limit):
            self._inside += self._waiting.let_in()
