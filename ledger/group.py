"""Group commit: what arrives while one transaction runs goes into the next one together."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError

from ledger.batch import Batch

GROUP_MAX = 10_000
"""The most rows of one transaction, unless one call brings more."""

Answer = TypeVar("Answer")


class GroupCommit:
    """Hands batches to `write`, one group after another. Used from one event loop."""

    def __init__(self, write: Callable[[Sequence[Batch]], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: deque[tuple[Batch, asyncio.Future[None]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def add(self, batch: Batch) -> None:
        """Returns when the batch is committed; raises what `write` raises for it. Once handed over, it is not cancelled."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, done))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._drain())
        await done

    async def finish(self) -> None:
        """Waits until all that was added is committed or failed."""
        if self._running is not None:
            await asyncio.wait([self._running])

    async def _drain(self) -> None:
        while self._waiting:
            group = self._next()
            try:
                await self._commit(group)
            finally:
                for _, done in group:
                    done.cancel()  # of no effect but where this task itself was cancelled

    def _next(self) -> list[tuple[Batch, asyncio.Future[None]]]:
        group, rows = [self._waiting.popleft()], 0
        while self._waiting and (rows := rows + len(group[-1][0])) < GROUP_MAX:
            group.append(self._waiting.popleft())
        return group

    async def _commit(self, group: list[tuple[Batch, asyncio.Future[None]]]) -> None:
        """One transaction. If the database is there but refuses it, each batch has one of its own: only the bad one fails."""
        try:
            await self._write([batch for batch, _ in group])
        except Exception as error:
            if len(group) > 1 and not is_away(error):
                for item in group:
                    await self._commit([item])
                return
            for _, done in group:
                settle(done, error)
        else:
            for _, done in group:
                settle(done, None)


def is_away(error: Exception) -> bool:
    """The database does not answer, where others are refused."""
    return isinstance(error.__cause__, OperationalError | InterfaceError | OSError)


def settle(told: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    """Tells one of several who wait for the same work."""
    if told.done():
        return
    if isinstance(answer, Exception):
        raised = copy.copy(answer)  # a traceback grows with every task that raises it
        raised.__cause__ = answer.__cause__
        told.set_exception(raised)
    else:
        told.set_result(answer)
