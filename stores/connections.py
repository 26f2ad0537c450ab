"""A pool of keep-alive connections. Nothing is repeated, redirected, decoded or normalised here."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache, partial
from urllib.parse import urlsplit

from aiohappyeyeballs import start_connection

from replication.errors import EndpointUnreachable, StoreTimeout
from stores.answer import AnswerReader
from stores.chunks import Data
from stores.connection import SCRATCH, AnswerStream, Connection, encode_head

CONNECT_TIMEOUT_S = 10.0
NEXT_ADDRESS_S = 0.25
"""How long one address of a name is waited for before the next is tried too: one that is dead must not hide the others."""
KEEP_S = 15.0
"""How long an unused connection is trusted to be open still."""


class Connections:
    """Connections to any number of origins (`https://host:port`), opened as they are needed."""

    def __init__(self, *, verify: bool = True) -> None:
        self._verify = verify
        self._idle: dict[str, list[Connection]] = {}
        self._busy: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._scratch = memoryview(bytearray(SCRATCH))

    async def exchange(
        self,
        method: str,
        origin: str,
        target: str,
        headers: Mapping[str, str],
        data: Data | None,
        *,
        max_body: int,
        idle_timeout_s: float,
        fresh: bool = False,
    ) -> AnswerReader:
        """One request and its whole answer; `fresh` on a connection that was not used before.

        Raises `Unanswered`, an error of the tree, or whatever `data` raises, as itself. A cancelled request takes its
        connection with it.
        """
        head = encode_head(method, target, headers, data)
        reader = AnswerReader(method, max_body)
        connection = (None if fresh else self._take(origin)) or await self._connect(origin)
        self._busy.add(connection)
        try:
            await connection.ask(head, data, reader, idle_timeout_s)
        except BaseException:
            connection.abort()
            raise
        finally:
            self._busy.discard(connection)
        self._give_back(origin, connection, reader.keeps)
        return reader

    @asynccontextmanager
    async def open(
        self, method: str, origin: str, target: str, headers: Mapping[str, str], *, idle_timeout_s: float, fresh: bool = False
    ) -> AsyncIterator[AnswerStream]:
        """One request without a body, and its answer as it comes. Raises as `exchange`.

        A connection whose answer was not read to its end is closed.
        """
        head = encode_head(method, target, headers, None)
        reader = AnswerReader(method, sys.maxsize)
        connection = (None if fresh else self._take(origin)) or await self._connect(origin)
        self._busy.add(connection)
        try:
            yield await connection.open(head, reader, idle_timeout_s)
        except BaseException:
            connection.abort()
            raise
        finally:
            self._busy.discard(connection)
            connection.end()
        self._give_back(origin, connection, reader.keeps)

    async def close(self) -> None:
        """Ends every connection; a request under way fails."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in [*self._busy, *(one for idle in self._idle.values() for one in idle)]:
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # the event loop closes the sockets now

    def _take(self, origin: str) -> Connection | None:
        """The connection that was used last, if one is open."""
        idle, oldest = self._idle.get(origin), asyncio.get_running_loop().time() - KEEP_S
        while idle:
            connection = idle.pop()
            if connection.is_open and connection.used_at > oldest:
                return connection
            connection.abort()
        return None

    def _give_back(self, origin: str, connection: Connection, keeps: bool) -> None:
        if not keeps or not connection.is_clean:
            connection.abort()
            return
        self._idle.setdefault(origin, []).append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(KEEP_S, self._sweep_idle)

    def _sweep_idle(self) -> None:
        """Closes what nobody has used for a while."""
        loop = asyncio.get_running_loop()
        oldest = loop.time() - KEEP_S
        for origin, idle in list(self._idle.items()):
            for connection in idle:
                if connection.used_at <= oldest:
                    connection.abort()
            self._idle[origin] = [connection for connection in idle if connection.is_open]
        self._idle = {origin: idle for origin, idle in self._idle.items() if idle}
        self._sweep = loop.call_later(KEEP_S, self._sweep_idle) if self._idle else None

    async def _connect(self, origin: str) -> Connection:
        parts, loop = urlsplit(origin), asyncio.get_running_loop()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        context = _context(self._verify) if parts.scheme == "https" else None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                made, host = partial(Connection, loop, self._scratch), parts.hostname or ""
                addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                connected = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_S, loop=loop)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _, connection = await loop.create_connection(made, sock=connected, ssl=context, server_hostname=host if context else None)
        except TimeoutError as error:
            raise StoreTimeout("no connection within the time limit") from error
        except (OSError, ssl.SSLError, UnicodeError) as error:  # the last: a name that no resolver takes
            raise EndpointUnreachable(f"cannot connect: {error}") from error
        return connection


@cache
def _context(verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
