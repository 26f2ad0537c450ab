"""An HTTP listener for machines: bounded connections, headers and waiting times, JSON answers, no cookies.

A client that is slow to send its headers is closed after `idle_s`; so is a connection between two requests. aiohttp
bounds the request line, each header and their number. What a stranger sends never reaches the log.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import web
from aiohttp.typedefs import Handler

from replication.errors import SettingsError

log = logging.getLogger("drayage.service")

MAX_CONNECTIONS = 256
IDLE_S = 15.0
"""From the connection, or from the last answer, to the end of the next request's headers."""
LINGER_S = 2.0
"""How long the rest of a refused body is read and dropped, so that the sender gets to read the answer."""
DRAIN_S = 15.0
"""How long the requests under way have once the listener stops."""
CUT_S = 1.0
"""How long those have that are left then."""

_SILENT = logging.Logger("http")  # aiohttp logs a malformed request as an error, with an excerpt of it
_SILENT.disabled = True

_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Refused(Exception):
    """A request that gets the error `status` with `{"error": reason}` and these headers."""

    def __init__(self, status: int, reason: str, *headers: tuple[str, str]) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers


@asynccontextmanager
async def listening(app: web.Application, listen: str, field: str, *, idle_s: float = IDLE_S) -> AsyncIterator[None]:
    """Serves `app` at `listen` (host:port) while the block runs, then finishes the requests under way.

    Raises `SettingsError` naming the setting `field` for an address that cannot be bound.
    """
    traffic = _Traffic()
    app.middlewares[:0] = [traffic.counted, _json_errors]
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_SILENT,
        keepalive_timeout=idle_s,
        lingering_time=LINGER_S,
        shutdown_timeout=CUT_S,
        auto_decompress=False,
    )
    await runner.setup()
    try:
        server = await _bound(runner, listen, field)
        try:
            yield
        finally:
            server.close()
            await traffic.end()
    finally:
        await runner.cleanup()


async def _bound(runner: web.AppRunner, listen: str, field: str) -> asyncio.Server:
    handlers, (host, port) = runner.server, split_listen(listen)
    assert handlers is not None, "set up"

    def protocol() -> asyncio.Protocol:
        return handlers() if len(handlers.connections) < MAX_CONNECTIONS else _Busy()

    try:
        return await asyncio.get_running_loop().create_server(protocol, host, port)
    except OSError as error:
        raise SettingsError([f"{field}: cannot listen on {listen}: {error.strerror or error}"]) from None


class _Busy(asyncio.Protocol):
    """Answers a connection that is one too many, and closes it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(_BUSY)
        transport.close()


class _Traffic:
    """The requests under way. aiohttp drops what is left of a body once it shuts down, so they end before that."""

    def __init__(self) -> None:
        self._under_way = 0
        self._ending = False
        self._over = asyncio.Event()

    @web.middleware
    async def counted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._under_way += 1
        try:
            answer = await handler(request)
            if self._ending:
                answer.force_close()
            return answer
        finally:
            self._under_way -= 1
            if self._ending and not self._under_way:
                self._over.set()

    async def end(self) -> None:
        """Returns when no request is under way, after `DRAIN_S` at most. Every answer from now on closes its connection."""
        self._ending = True
        if self._under_way:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), DRAIN_S)


@web.middleware
async def _json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as refused:
        answer = web.json_response({"error": refused.reason}, status=refused.status)
        for name, value in refused.headers:
            answer.headers.add(name, value)
        return answer
    except web.HTTPException as error:
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return web.json_response({"error": error.reason}, status=error.status, headers=allowed)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception:
        log.exception("a defect in a request handler")
        return web.json_response({"error": "internal error"}, status=500)


def split_listen(listen: str) -> tuple[str, int]:
    """Host, without the brackets of IPv6, and port."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def own_hosts(listen: str) -> frozenset[str] | None:
    """The Host headers, in lower case, that a listener on loopback answers; None for one that the network reaches, whose
    names it cannot know. A page in a browser whose domain was pointed at 127.0.0.1 sends that domain as its Host."""
    host, port = split_listen(listen)
    if not _is_loopback(host):
        return None
    names = {"localhost", "127.0.0.1", "[::1]", listen.rpartition(":")[0].lower()}
    return frozenset(f"{name}:{port}" for name in names) | (names if port == 80 else frozenset())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
