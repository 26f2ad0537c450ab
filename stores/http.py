"""The HTTP data plane under the S3 and GCS stores: pooled connections, exact URLs, bounded waits, raw bytes.

Bodies that are streamed pass through aiohttp; what is small enough to be held whole goes over connections of our own
(`stores/connections.py`). URLs are passed percent-encoded and are sent exactly so: nothing here normalises a path,
follows a redirect or decodes a body. Failures to connect or to answer become errors of `replication/errors.py`;
statuses are the caller's business.
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import yarl

from replication.errors import EndpointUnreachable, ServerFault, StoreTimeout
from stores.answer import AnswerReader
from stores.connections import CONNECT_TIMEOUT_S, ONE_WRITE, Connections, Unanswered

IDLE_TIMEOUT_S = 25.0
"""Longest silence on a socket; below every heartbeat timeout, so that a stalled store is noticed here first."""
MAX_ERROR_BODY = 64 * 1024
MAX_WHOLE = 8 << 20
"""The largest body that is handed to a connection in one piece."""
READS = ("GET", "HEAD")
FAILURES = (TimeoutError, aiohttp.ClientError, ssl.SSLError, OSError)

Data = bytes | AsyncIterator[bytes] | None


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
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=IDLE_TIMEOUT_S)
            connector = aiohttp.TCPConnector(limit=self._connections, ssl=self._verify, ttl_dns_cache=60)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                auto_decompress=False,
                read_bufsize=1 << 18,
                skip_auto_headers=("Accept-Encoding", "User-Agent", "Content-Type"),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            # aiohttp would repeat a PUT or DELETE whose answer was lost; no call here repeats a write. It has no public switch.
            self._session._retry_connection = False
        return self._session

    @asynccontextmanager
    async def request(
        self, method: str, url: str, headers: Mapping[str, str], data: Data = None, *, idle_timeout_s: float | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; the answer's body is the caller's to read inside the block. An exception raised by `data`
        reaches the caller as itself."""
        failure: list[BaseException] = []
        try:
            async with self._turns, await self._answer(method, url, headers, data, idle_timeout_s, failure) as response:
                yield response
        except FAILURES as error:
            raise (failure[0] if failure else connection_error(error)) from error

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

        Raises as `request`, and `ServerFault` for a body of more than `max_body` bytes.
        """
        if not (data is None or isinstance(data, bytes)) or len(data or b"") > MAX_WHOLE:
            return await self._exchange_streamed(method, origin + target, headers, data, max_body, idle_timeout_s)
        idle_s = idle_timeout_s or IDLE_TIMEOUT_S
        async with self._turns:
            try:
                reader = await self._lean.exchange(method, origin, target, headers, data, max_body=max_body, idle_timeout_s=idle_s)
            except Unanswered as error:
                if method not in READS:
                    raise connection_error(error) from error
                reader = await self._asked_again(method, origin, target, headers, max_body, idle_s)
        return reader.status, reader.headers, reader.body

    async def _asked_again(
        self, method: str, origin: str, target: str, headers: Mapping[str, str], max_body: int, idle_s: float
    ) -> AnswerReader:
        """The store had closed a pooled connection before an answer began: a read is asked once more."""
        try:
            return await self._lean.exchange(method, origin, target, headers, None, max_body=max_body, idle_timeout_s=idle_s, fresh=True)
        except Unanswered as error:
            raise connection_error(error) from error

    async def _exchange_streamed(
        self, method: str, url: str, headers: Mapping[str, str], data: Data, max_body: int, idle_timeout_s: float | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        async with self.request(method, url, headers, data, idle_timeout_s=idle_timeout_s) as response:
            try:
                return response.status, response.headers, await _whole(response, max_body)
            except BaseException:
                response.close()
                raise

    async def _answer(
        self, method: str, url: str, headers: Mapping[str, str], data: Data, idle_timeout_s: float | None, failure: list[BaseException]
    ) -> aiohttp.ClientResponse:
        options: dict[str, Any] = {"allow_redirects": False}
        if idle_timeout_s is not None:
            options["timeout"] = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=idle_timeout_s)
        target, session = yarl.URL(url, encoded=True), self._open()
        try:
            return await session.request(method, target, headers=headers, data=_body(data, failure), **options)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if method not in READS or isinstance(error, aiohttp.ClientConnectorError):
                raise
            # The store had closed a pooled connection before an answer began: a read is asked once more.
            return await session.request(method, target, headers=headers, **options)

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


async def _whole(response: aiohttp.ClientResponse, max_body: int) -> bytes:
    announced = response.content_length
    if announced is not None and announced <= max_body:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > max_body:
            raise ServerFault(f"{response.method}: the answer is larger than {max_body} bytes")
    return bytes(body)


async def _watched(data: AsyncIterator[bytes], failure: list[BaseException]) -> AsyncIterator[bytes]:
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


async def read_error_body(response: aiohttp.ClientResponse) -> bytes:
    """At most 64 KiB of an error's body; a hostile endpoint can send no more than that into memory."""
    return await response.content.read(MAX_ERROR_BODY)
