"""Keep-alive connections for requests whose body and answer are small enough to be held whole.

A request goes out in one write and its answer comes back as one value, which costs a fraction of what a general client
does for each. Nothing is repeated, redirected, decoded or normalised here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from functools import cache
from typing import cast
from urllib.parse import urlsplit

from replication.errors import EndpointUnreachable, ServerFault, StoreTimeout
from stores.answer import AnswerReader

CONNECT_TIMEOUT_S = 10.0
KEEP_S = 15.0
"""How long an unused connection is trusted to be open still."""
ONE_WRITE = 64 * 1024
"""Bytes of a body that are put behind the head in one piece."""


class Unanswered(ConnectionError):
    """The connection ended before an answer began."""


class Connections:
    """Connections to any number of origins (`https://host:port`), opened as they are needed."""

    def __init__(self, *, verify: bool = True) -> None:
        self._verify = verify
        self._idle: dict[str, list[_Connection]] = {}
        self._busy: set[_Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    async def exchange(
        self,
        method: str,
        origin: str,
        target: str,
        headers: Mapping[str, str],
        data: bytes | None,
        *,
        max_body: int,
        idle_timeout_s: float,
        fresh: bool = False,
    ) -> AnswerReader:
        """One request and its whole answer; `fresh` on a connection that was not used before.

        Raises `Unanswered`, or an error of the tree. A cancelled request takes its connection with it.
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

    async def close(self) -> None:
        """Ends every connection; a request under way fails."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in [*self._busy, *(one for idle in self._idle.values() for one in idle)]:
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # the event loop closes the sockets now

    def _take(self, origin: str) -> _Connection | None:
        """The connection that was used last, if one is open."""
        idle, oldest = self._idle.get(origin), asyncio.get_running_loop().time() - KEEP_S
        while idle:
            connection = idle.pop()
            if connection.is_open and connection.used_at > oldest:
                return connection
            connection.abort()
        return None

    def _give_back(self, origin: str, connection: _Connection, keeps: bool) -> None:
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

    async def _connect(self, origin: str) -> _Connection:
        parts, loop = urlsplit(origin), asyncio.get_running_loop()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        context = _context(self._verify) if parts.scheme == "https" else None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await loop.create_connection(lambda: _Connection(loop), parts.hostname or "", port, ssl=context)
        except TimeoutError as error:
            raise StoreTimeout("no connection within the time limit") from error
        except (OSError, ssl.SSLError) as error:
            raise EndpointUnreachable(f"cannot connect: {error}") from error
        return connection


@cache
def _context(verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def encode_head(method: str, target: str, headers: Mapping[str, str], data: bytes | None) -> bytes:
    """The head of a request. ValueError for what would not arrive as it was meant."""
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
    if "content-length" not in headers and (data is not None or method in ("PUT", "POST", "PATCH")):
        lines.append(f"content-length: {len(data or b'')}")
    text = "\r\n".join(lines)
    if text.count("\n") + text.count("\r") != 2 * (len(lines) - 1) or "\0" in text or " " in target:
        raise ValueError("a request's target or header holds a character that cannot be sent")
    return f"{text}\r\n\r\n".encode()


class _Connection(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._reader: AnswerReader | None = None
        self._answered: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._unsent = 0
        self.used_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_clean(self) -> bool:
        """Open, and everything of the last request has left."""
        return self._transport is not None and not self._transport.is_closing() and not self._transport.get_write_buffer_size()

    async def ask(self, head: bytes, data: bytes | None, reader: AnswerReader, idle_timeout_s: float) -> None:
        """Sends a request and feeds its answer to `reader` until that is whole."""
        if self._transport is None:
            raise Unanswered("closed")
        self._reader, self._answered = reader, self._loop.create_future()
        self._heard_at, self._unsent = self._loop.time(), len(data or b"")
        self._timer = self._loop.call_later(idle_timeout_s, self._watch, idle_timeout_s)
        if data is not None and len(data) <= ONE_WRITE:
            self._transport.write(head + data)
        else:
            self._transport.writelines([head, data or b""])
        try:
            await self._answered
        finally:
            self._reader = self._answered = None
            self._timer.cancel()
            self.used_at = self._loop.time()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _watch(self, idle_timeout_s: float) -> None:
        """Fails the request when nothing has come and nothing has left for so long."""
        assert self._transport is not None
        if (unsent := self._transport.get_write_buffer_size()) < self._unsent:
            self._unsent, self._heard_at = unsent, self._loop.time()
        left = self._heard_at + idle_timeout_s - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._watch, idle_timeout_s)
        else:
            self._fail(StoreTimeout("no answer within the time limit"))

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)

    # --- what the event loop calls -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._reader is None or self._answered is None or self._answered.done():
            self.abort()  # nobody asked: whatever comes next on this connection would be an answer to the wrong request
            return
        self._heard_at = self._loop.time()
        try:
            if self._reader.feed(data):
                self._answered.set_result(None)
        except ServerFault as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._reader is None or self._answered is None or self._answered.done():
            return
        if exc is None and self._reader.end():
            self._answered.set_result(None)
        elif self._reader.began:
            self._fail(ServerFault(f"the connection broke in the middle of an answer: {exc or 'closed'}"))
        else:
            self._fail(Unanswered(str(exc or "closed")))
