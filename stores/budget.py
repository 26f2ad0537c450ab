"""A bound on bytes that are held in memory at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """Lets holders in, in order of arrival, while their sizes add up to at most `limit_bytes`; a larger one goes alone."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def hold(self, size_bytes: int) -> AsyncIterator[None]:
        async with self._turn:
            while self.held_bytes and self.held_bytes + size_bytes > self.limit_bytes:
                self._freed.clear()
                await self._freed.wait()
            self.held_bytes += size_bytes
        try:
            yield
        finally:
            self.held_bytes -= size_bytes
            self._freed.set()
