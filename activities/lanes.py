"""How many objects all scans of a process have under way at once: fewer while the process follows changes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LANES = 48
BESIDE = 8
"""Enough for a scan to keep going, and few enough that a change does not queue behind it for a core or for a store."""
LINGER_S = 1.0
"""How long after the last change the next one is expected."""


class Lanes:
    """`async with lanes:` is one object of a scan. The longest waiting goes first."""

    def __init__(self, most: int = LANES, beside: int = BESIDE, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._beside = most, beside
        self._clock = clock
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._following = 0
        self._followed_until = clock()

    @contextmanager
    def following(self) -> Iterator[None]:
        """A change is on its way through this process."""
        self._following += 1
        try:
            yield
        finally:
            self._following -= 1
            self._followed_until = self._clock() + LINGER_S

    @property
    def limit(self) -> int:
        return self._beside if self._following or self._clock() < self._followed_until else self._most

    async def __aenter__(self) -> None:
        if self._inside < self.limit and not self._waiting:
            self._inside += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                await self.__aexit__()
            raise

    async def __aexit__(self, *_: object) -> None:
        """Whoever waits, somebody is inside, who lets them in when leaving."""
        self._inside -= 1
        limit = self.limit
        while self._waiting and self._inside < limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._inside += 1
                turn.set_result(None)
