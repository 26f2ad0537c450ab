"""The HTTP data plane under the S3 and GCS stores: pooled connections, exact URLs, bounded waits, raw bytes.

A body that is sent as it comes passes through aiohttp; everything else goes over connections of our own
(`stores/connections.py`). URLs are passed percent-encoded and are sent exactly so: nothing here normalises a path,
follows a redirect or decodes a body. Failures to connect or to answer become errors of `replication/errors.py`;
statuses are the caller's business.
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import aiohttp
import yarl

from replication.errors import EndpointUnreachable, ServerFault, StoreTimeout
from stores.chunks import Chunks, gathered
from stores.connections import CONNECT_TIMEOUT_S, ONE_WRITE, AnswerStream, Connections, Unanswered

IDLE_TIMEOUT_S = 25.0
"""Longest silence on a socket; below every heartbeat timeout, so that a stalled store is noticed here first."""
MAX_WHOLE = 8 << 20
"""The largest body that is handed to a connection in one piece."""
READS = ("GET", "HEAD")
FAILURES = (TimeoutError, aiohttp.ClientError, ssl.SSLError, OSError)

Data = bytes | Chunks | None
T = TypeVar("T")


class HttpPlane:
    """A connection pool for one endpoint."""

    def __init__(self, *, connections: int = 128, verify: bool = True) -> None:
        self._connections = connections
        self._verify = verify
        self._session: aiohttp.ClientSession | None = None
        self._lean = Connections(verify=verify)
        self._turns = asyncio.Semaphore(connections)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._connections, ssl=self._verify, ttl_dns_cache=60)
            self._session = aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding", "User-Agent", "Content-Type"),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            # aiohttp would repeat a PUT or DELETE whose answer was lost; no call here repeats a write. It has no public switch.
            self._session._retry_connection = False
        return self._session

    @asynccontextmanager
    async def open(
        self, method: str, origin: str, target: str, headers: Mapping[str, str], *, idle_timeout_s: float = IDLE_TIMEOUT_S
    ) -> AsyncIterator[AnswerStream]:
        """One request to `target` of `https://host:port`; the answer's body is the caller's to read inside the block."""
        async with self._turns, AsyncExitStack() as stack:
            opening = partial(self._lean.open, method, origin, target, headers, idle_timeout_s=idle_timeout_s)
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
        data: Data = None,
        *,
        max_body: int,
        idle_timeout_s: float | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request to `target` of `https://host:port`, and its whole answer.

        Raises `ServerFault` for a body of more than `max_body` bytes, and whatever `data` raises as itself.
        """
        idle_s = idle_timeout_s or IDLE_TIMEOUT_S
        if not (data is None or isinstance(data, bytes)) or len(data or b"") > MAX_WHOLE:
            return await self._upload(method, origin + target, headers, data, max_body, idle_s)
        asking = partial(self._lean.exchange, method, origin, target, headers, data, max_body=max_body, idle_timeout_s=idle_s)
        async with self._turns:
            try:
                reader = await asking()
            except Unanswered as error:
                if method not in READS:
                    raise connection_error(error) from error
                reader = await _asked_again(lambda: asking(fresh=True))
        return reader.status, reader.headers, reader.body

    async def _upload(
        self, method: str, url: str, headers: Mapping[str, str], data: Data, max_body: int, idle_timeout_s: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        """A request with a body that is sent as it comes."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=idle_timeout_s)
        failure: list[BaseException] = []
        options: dict[str, Any] = {"headers": headers, "data": _body(data, failure), "timeout": timeout, "allow_redirects": False}
        try:
            async with self._turns, self._open().request(method, yarl.URL(url, encoded=True), **options) as response:
                try:
                    return response.status, response.headers, await gathered(response.content.iter_any(), max_body)
                except BaseException:
                    response.close()
                    raise
        except FAILURES as error:
            raise (failure[0] if failure else connection_error(error)) from error

    async def close(self) -> None:
        await self._lean.close()
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def _body(data: Data, failure: list[BaseException]) -> Any:
    """A file object goes out in pieces; aiohttp would write large bytes to the socket in one go, and warn of that."""
    if not isinstance(data, bytes):
        return None if data is None else _watched(data, failure)
    return data if len(data) <= ONE_WRITE else io.BytesIO(data)


async def _asked_again(ask: Callable[[], Awaitable[T]]) -> T:
    """The store had closed a pooled connection before an answer began: a read is asked once more."""
    try:
        return await ask()
    except Unanswered as error:
        raise connection_error(error) from error


async def _watched(data: Chunks, failure: list[BaseException]) -> Chunks:
    try:
        async for chunk in data:
            yield chunk
    except Exception as error:
        failure.append(error)
        raise


def connection_error(error: BaseException) -> Exception:
    """An aiohttp or socket failure as an error of the tree."""
    if isinstance(error, (aiohttp.ServerTimeoutError, asyncio.TimeoutError)):
        return StoreTimeout(f"no answer within the time limit ({type(error).__name__})")
    if isinstance(error, (aiohttp.ClientConnectorError, ssl.SSLError)):
        return EndpointUnreachable(f"cannot connect: {error}")
    return ServerFault(f"the connection broke: {type(error).__name__}: {error}")
