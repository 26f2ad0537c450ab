"""The HTTP data plane under the S3 and GCS stores: pooled connections, exact URLs, bounded waits, raw bytes.

URLs are passed percent-encoded and are sent exactly so: nothing here normalises a path, follows a redirect or decodes a
body. Failures to connect or to answer become errors of `replication/errors.py`; statuses are the caller's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TypeVar

from replication.errors import ServerFault
from stores.chunks import Data
from stores.connection import AnswerStream, Unanswered
from stores.connections import Connections

IDLE_TIMEOUT_S = 25.0
"""Longest silence on a socket; below every heartbeat timeout, so that a stalled store is noticed here first."""
READS = ("GET", "HEAD")

T = TypeVar("T")


class HttpPlane:
    """A connection pool for one endpoint."""

    def __init__(self, *, connections: int = 128, verify: bool = True) -> None:
        self._connections = Connections(verify=verify)
        self._turns = asyncio.Semaphore(connections)

    @asynccontextmanager
    async def open(
        self, method: str, origin: str, target: str, headers: Mapping[str, str], *, idle_timeout_s: float = IDLE_TIMEOUT_S
    ) -> AsyncIterator[AnswerStream]:
        """One request to `target` of `https://host:port`; the answer's body is the caller's to read inside the block."""
        async with self._turns, AsyncExitStack() as stack:
            opening = partial(self._connections.open, method, origin, target, headers, idle_timeout_s=idle_timeout_s)
            try:
                answer = await stack.enter_async_context(opening())
            except Unanswered:
                answer = await _asked_again(lambda: stack.enter_async_context(opening(fresh=True)))
            yield answer

    async def exchange(
        self,
        method: str,
        origin: str,
        target: str,
        headers: Mapping[str, str],
        data: Data | None = None,
        *,
        max_body: int,
        idle_timeout_s: float | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request to `target` of `https://host:port`, and its whole answer.

        Raises `ServerFault` for a body of more than `max_body` bytes, and whatever `data` raises as itself.
        """
        idle_s = idle_timeout_s or IDLE_TIMEOUT_S
        asking = partial(self._connections.exchange, method, origin, target, headers, data, max_body=max_body, idle_timeout_s=idle_s)
        async with self._turns:
            try:
                reader = await asking()
            except Unanswered as error:
                if method not in READS:
                    raise _broken(error) from error
                reader = await _asked_again(lambda: asking(fresh=True))
        return reader.status, reader.headers, reader.body

    async def close(self) -> None:
        await self._connections.close()


async def _asked_again(ask: Callable[[], Awaitable[T]]) -> T:
    """The store had closed a pooled connection before an answer began: a read is asked once more."""
    try:
        return await ask()
    except Unanswered as error:
        raise _broken(error) from error


def _broken(error: Unanswered) -> ServerFault:
    return ServerFault(f"the connection broke before an answer: {error}")
