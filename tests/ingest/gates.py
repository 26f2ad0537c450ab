"""What stands between an ingestor and its servers: a relay that knows SQS's calls by name, and one for any TCP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

Call = dict[str, Any]
Carry = Callable[[Call], Awaitable[Call]]
Held = asyncio.Queue[tuple[float, bytes]]
"""Pieces on their way, and when each arrives."""


@dataclass(frozen=True)
class Seen:
    """One call of SQS, and what the caller got."""

    name: str
    request: Call
    answer: Call


@dataclass
class SqsGate:
    """Relays SQS's JSON protocol. `asks` rewrites the requests of a name, `answers` tells instead what their caller gets:
    it is given the request and a function that carries one out. A name in `held_before` or `held_after` gets no answer, before
    or after the call is carried out; `waiting` counts those."""

    upstream: str
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    asks: dict[str, Callable[[Call], Call]] = field(default_factory=dict)
    answers: dict[str, Callable[[Call, Carry], Awaitable[Call]]] = field(default_factory=dict)
    held_before: set[str] = field(default_factory=set)
    held_after: set[str] = field(default_factory=set)
    waiting: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def calls(self, name: str) -> list[Seen]:
        return [call for call in self.seen if call.name == name]

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[SqsGate]:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._relay)
        runner: Any = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as self._session:
            try:
                yield self
            finally:
                await runner.cleanup()

    async def _relay(self, request: web.Request) -> web.Response:
        name = request.headers["X-Amz-Target"].rpartition(".")[2]
        asked: Call = await request.json()
        if name in self.asks:
            asked = self.asks[name](asked)
        if name in self.held_before:
            await self._hold()

        async def carry(call: Call) -> Call:
            return await self._carry(request, call)

        if name in self.answers:
            answer = await self.answers[name](asked, carry)
        else:
            answer = await carry(asked)
        status = answer.pop("_status", 200)
        if name in self.held_after:
            await self._hold()
        self.seen.append(Seen(name, asked, answer))
        return web.json_response(answer, status=status, content_type="application/x-amz-json-1.0")

    async def _hold(self) -> None:
        self.waiting += 1
        await asyncio.Event().wait()

    async def _carry(self, request: web.Request, call: Call) -> Call:
        kept = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "content-length")}
        try:
            async with self._session.post(self.upstream, data=json.dumps(call), headers=kept) as answer:
                found: Call = await answer.json(content_type=None)
        except aiohttp.ClientError as error:  # the gate was closed while a poll was under way
            raise web.HTTPBadGateway from error
        return {**(found or {}), "_status": answer.status}


@dataclass
class TcpGate:
    """Relays TCP, `delay_s` later each way. `connections` counts those that were opened,
    `stopped` the pieces that found the gate shut."""

    upstream: str
    delay_s: float = 0.0
    connections: int = 0
    stopped: int = 0
    port: int = 0
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._open.set()

    def shut(self) -> None:
        """Nothing passes until `open`, and nothing breaks."""
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[TcpGate]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = urlsplit(f"//{self.upstream}")
        try:
            other_reader, other_writer = await asyncio.open_connection(address.hostname, address.port)
        except OSError:
            writer.close()
            return
        there: Held = asyncio.Queue()
        back: Held = asyncio.Queue()
        ways = [asyncio.create_task(self._give(there, other_writer)), asyncio.create_task(self._give(back, writer))]
        ways += [asyncio.create_task(self._take(reader, there)), asyncio.create_task(self._take(other_reader, back))]
        try:
            await asyncio.wait(ways[:2], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, other_writer):
                end.close()

    async def _take(self, reader: asyncio.StreamReader, held: Held) -> None:
        """Each piece is held for itself: a long way, which carries as much as a short one."""
        try:
            while piece := await reader.read(65_536):
                held.put_nowait((time.monotonic() + self.delay_s, piece))
        finally:
            held.put_nowait((time.monotonic() + self.delay_s, b""))

    async def _give(self, held: Held, writer: asyncio.StreamWriter) -> None:
        while True:
            due, piece = await held.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not piece:
                return
            self.stopped += not self._open.is_set()
            await self._open.wait()
            writer.write(piece)
            await writer.drain()
