"""A bound on bytes that are held in memory at once."""

from __future__ import annotations

import asyncio


class ByteBudget:
    """Lets holders in, in order of arrival, while their sizes add up to at most `limit_bytes`; a larger one goes alone."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    def hold(self, size_bytes: int) -> Held:
        return Held(self, size_bytes)

    async def take(self, size_bytes: int) -> None:
        if not self._turn.locked() and self.held_bytes + size_bytes <= self.limit_bytes:
            self.held_bytes += size_bytes
            return
        async with self._turn:
            while self.held_bytes and self.held_bytes + size_bytes > self.limit_bytes:
                self._freed.clear()
                await self._freed.wait()
            self.held_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes
        self._freed.set()


class Held:
    """A share of a budget, for the length of an `async with`."""

    __slots__ = ("_budget", "_size_bytes")

    def __init__(self, budget: ByteBudget, size_bytes: int) -> None:
        self._budget = budget
        self._size_bytes = size_bytes

    async def __aenter__(self) -> None:
        await self._budget.take(self._size_bytes)

    async def __aexit__(self, *_: object) -> None:
        self._budget.give_back(self._size_bytes)
