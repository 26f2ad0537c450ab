"""Receipts that many ask for at once: whoever asks while one query runs is answered by the next one, with all the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ledger.batch import Place
from ledger.group import settle
from ledger.rows import Receipt

AT_ONCE = 500
"""Places that a query asks for, at most."""


class Lookup:
    """Asks `read` for the receipts of many places; those that have none are not in its answer. Used from one event loop."""

    def __init__(self, read: Callable[[Sequence[Place]], Awaitable[Mapping[Place, Receipt]]]) -> None:
        self._read = read
        self._waiting: list[tuple[Place, asyncio.Future[Receipt | None]]] = []
        self._running: asyncio.Task[None] | None = None

    async def find(self, place: Place) -> Receipt | None:
        """What stands there at some time after the call; raises what `read` raises."""
        told: asyncio.Future[Receipt | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((place, told))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._drain())
        return await told

    async def _drain(self) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            try:
                found = await self._read(list(dict.fromkeys(place for place, _ in asked)))
                for place, told in asked:
                    settle(told, found.get(place))
            except Exception as error:
                for _, told in asked:
                    settle(told, error)
            finally:
                for _, told in asked:
                    told.cancel()  # of no effect but where this task itself was cancelled
