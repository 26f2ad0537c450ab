"""The HTTP data plane under the S3 and GCS stores: one pooled aiohttp session, exact URLs, bounded waits, raw bytes.

URLs are passed percent-encoded and are sent exactly so: nothing here normalises a path, follows a redirect or decodes
a body. Failures to connect or to answer become errors of `replication/errors.py`; statuses are the caller's business.
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import yarl

from replication.errors import EndpointUnreachable, ServerFault, StoreTimeout

CONNECT_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 25.0
"""Longest silence on a socket; below every heartbeat timeout, so that a stalled store is noticed here first."""
MAX_ERROR_BODY = 64 * 1024
READS = ("GET", "HEAD")


class HttpPlane:
    """A connection pool for one endpoint."""

    def __init__(self, *, connections: int = 128, verify: bool = True) -> None:
        self._connections = connections
        self._verify = verify
        self._session: aiohttp.ClientSession | None = None

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
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: bytes | AsyncIterator[bytes] | None = None,
        *,
        idle_timeout_s: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; the answer's body is the caller's to read inside the block. An exception raised by `data`
        reaches the caller as itself."""
        options: dict[str, Any] = {}
        if idle_timeout_s is not None:
            options["timeout"] = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=idle_timeout_s)
        failure: list[BaseException] = []
        # A file object goes out in pieces; aiohttp would write large bytes to the socket in one go, and warn of that.
        body = io.BytesIO(data) if isinstance(data, bytes) else None if data is None else _watched(data, failure)
        target = yarl.URL(url, encoded=True)
        try:
            async with AsyncExitStack() as answered:
                try:
                    request = self._open().request(method, target, headers=headers, data=body, allow_redirects=False, **options)
                    response = await answered.enter_async_context(request)
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                    if method not in READS or isinstance(error, aiohttp.ClientConnectorError):
                        raise
                    # The store had closed a pooled connection before an answer began: a read is asked once more.
                    request = self._open().request(method, target, headers=headers, allow_redirects=False, **options)
                    response = await answered.enter_async_context(request)
                yield response
        except (TimeoutError, aiohttp.ClientError, ssl.SSLError, OSError) as error:
            if failure:
                raise failure[0] from error
            raise connection_error(error) from error

    async def close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


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
