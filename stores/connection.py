"""One keep-alive connection, as thin as HTTP/1.1 allows.

A body goes out in one write, or as it comes and no faster than the other side takes it. An answer comes back as one value,
or as it comes, read into memory that is handed on and not copied. All of it costs a fraction of what a general client does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import cast

from replication.errors import ServerFault, StoreTimeout
from stores.answer import AnswerReader
from stores.chunks import Chunk, Chunks, Data, pieces

ONE_WRITE = 64 * 1024
"""Bytes of a body that are put behind the head in one piece."""
MAX_WHOLE = 8 << 20
"""The largest body that is handed to the event loop in one go."""
BLOCK = 512 * 1024
"""Memory that pieces of one answer are read into, one behind the other."""
MIN_ROOM = 256 * 1024
"""What must be left of a block for another piece."""
AHEAD = 512 * 1024
"""What is read of an answer before somebody takes it."""
SCRATCH = 256 * 1024
"""The most that is read in one go of an answer that comes back as one value."""

_NO_ROOM = memoryview(b"")


class Unanswered(ConnectionError):
    """The connection ended before an answer began."""


def encode_head(method: str, target: str, headers: Mapping[str, str], data: Data | None) -> bytes:
    """The head of a request. ValueError for what would not arrive as it was meant."""
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
    if "content-length" not in headers:
        if not (data is None or isinstance(data, bytes)):
            raise ValueError("a body that is sent as it comes needs its length in a header")
        if data is not None or method in ("PUT", "POST", "PATCH"):
            lines.append(f"content-length: {len(data or b'')}")
    text = "\r\n".join(lines)
    if text.count("\n") + text.count("\r") != 2 * (len(lines) - 1) or "\0" in text or " " in target:
        raise ValueError("a request's target or header holds a character that cannot be sent")
    return f"{text}\r\n\r\n".encode()


class AnswerStream:
    """An answer whose head is there, and whose body is read as it comes."""

    def __init__(self, connection: Connection, reader: AnswerReader) -> None:
        self._connection = connection
        self._reader = reader
        self.status = reader.status
        self.headers = reader.headers

    async def chunks(self) -> Chunks:
        """Raises `ServerFault` where the connection breaks before the end, `StoreTimeout` where nothing comes."""
        while not self._connection.is_whole or self._reader.has_more:
            await self._connection.more()
            for chunk in self._reader.take():
                yield chunk


class Connection(asyncio.BufferedProtocol):
    """One connection, with at most one request under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, scratch: memoryview) -> None:
        self._loop = loop
        self._scratch = scratch
        self._transport: asyncio.Transport | None = None
        self._is_tls = False
        """Then nobody tells how much of what was written has left: a body goes out in pieces, each of which is seen to go."""
        self._reader: AnswerReader | None = None
        self.is_whole = False
        """The answer to the request under way is there to its end."""
        self._failure: Exception | None = None
        self._awaited: Callable[[], bool] = bool
        self._woken: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._unsent = 0
        self._flows = True
        """The other side takes what is sent."""
        self._room: memoryview | None = None
        self._into = scratch
        self._ahead = 0
        self._is_paused = False
        self.used_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_clean(self) -> bool:
        """Open, the last answer was whole, and everything of its request has left."""
        if self._transport is None or self._transport.is_closing():
            return False
        return self.is_whole and not self._is_paused and not self._transport.get_write_buffer_size()

    async def ask(self, head: bytes, data: Data | None, reader: AnswerReader, idle_timeout_s: float) -> None:
        """Sends a request and feeds its answer to `reader` until that is whole."""
        self._begin(reader, idle_timeout_s)
        try:
            assert self._transport is not None
            if data is None:
                self._transport.write(head)
            elif not isinstance(data, bytes) or len(data) > (ONE_WRITE if self._is_tls else MAX_WHOLE):
                self._transport.write(head)
                await self._send(pieces(data) if isinstance(data, bytes) else data)
            elif len(data) <= ONE_WRITE:
                self._transport.write(head + data)
            else:
                self._unsent = len(data)
                self._transport.writelines([head, data])
            await self._until(lambda: self.is_whole)
        finally:
            self.end()

    async def _send(self, data: Chunks) -> None:
        """Sends a body as it comes. A refusal that is there before its end ends it, and the connection with it."""
        async for chunk in data:
            await self._until(lambda: self.is_whole or (self._flows and self._failure is None))
            if self.is_whole:
                self.abort()
                if self._reader is not None and self._reader.status < 300:
                    raise ServerFault("the store answered before it had the whole body")
                return
            assert self._transport is not None
            self._transport.write(chunk)
            self._unsent = self._transport.get_write_buffer_size()

    async def open(self, head: bytes, reader: AnswerReader, idle_timeout_s: float) -> AnswerStream:
        """Sends a request and feeds its answer to `reader` until the head of that is there; `end` has to follow."""
        self._begin(reader, idle_timeout_s)
        assert self._transport is not None
        self._room = _NO_ROOM
        self._transport.write(head)
        await self._until(lambda: reader.has_head)
        return AnswerStream(self, reader)

    async def more(self) -> None:
        """Waits until there is more of the body to take, or the answer is whole."""
        self._ahead = 0
        reader, transport = self._reader, self._transport
        assert reader is not None
        if self._is_paused and transport is not None:
            self._is_paused = False
            transport.resume_reading()
        await self._until(lambda: self.is_whole or reader.has_more)

    def end(self) -> None:
        """Nothing more of the answer is wanted."""
        self._reader = self._room = None
        if self._timer is not None:
            self._timer.cancel()
        self.used_at = self._loop.time()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _begin(self, reader: AnswerReader, idle_timeout_s: float) -> None:
        if self._transport is None:
            raise Unanswered("closed")
        self._reader, self.is_whole, self._failure = reader, False, None
        self._ahead, self._unsent = 0, 0
        self._timer = self._loop.call_later(idle_timeout_s, self._watch, idle_timeout_s)

    async def _until(self, met: Callable[[], bool]) -> None:
        if not met() and self._failure is None:
            self._heard_at = self._loop.time()
            self._awaited, self._woken = met, self._loop.create_future()
            try:
                await self._woken
            finally:
                self._woken = None
        if self._failure is not None and not met():
            raise self._failure

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _watch(self, idle_timeout_s: float) -> None:
        """Fails the request when somebody waits, and nothing has come and nothing has left for so long."""
        if self._transport is None:
            return
        if self._woken is None:
            self._heard_at = self._loop.time()
        if (unsent := self._transport.get_write_buffer_size()) < self._unsent:
            self._unsent, self._heard_at = unsent, self._loop.time()
        left = self._heard_at + idle_timeout_s - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._watch, idle_timeout_s)
        else:
            self._fail(StoreTimeout("no answer within the time limit"))

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._wake()

    # --- what the event loop calls -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._is_tls = transport.get_extra_info("sslcontext") is not None

    def pause_writing(self) -> None:
        self._flows = False

    def resume_writing(self) -> None:
        self._flows = True
        if self._awaited():
            self._wake()

    def get_buffer(self, sizehint: int) -> memoryview:
        """What is handed on as it comes is read into memory of its own, anything else into what all connections share."""
        if self._room is None:
            self._into = self._scratch
        else:
            if len(self._room) < MIN_ROOM:
                self._room = memoryview(bytearray(BLOCK))
            self._into = self._room
        return self._into

    def buffer_updated(self, nbytes: int) -> None:
        if self._room is None:
            self._received(bytes(self._scratch[:nbytes]))
        else:
            self._room = self._into[nbytes:]
            self._received(self._into[:nbytes])

    def _received(self, data: Chunk) -> None:
        if self._reader is None or self.is_whole or self._failure is not None:
            self.abort()  # nobody asked: whatever comes next on this connection would be an answer to the wrong request
            return
        self._heard_at = self._loop.time()
        try:
            self.is_whole = self._reader.feed(data)
        except ServerFault as error:
            self._fail(error)
            return
        if self._room is not None and not self.is_whole:
            self._hold_back(len(data))
        if self._awaited():
            self._wake()

    def _hold_back(self, size_bytes: int) -> None:
        """Reads no further while so much waits to be taken."""
        self._ahead += size_bytes
        if self._ahead >= AHEAD and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._reader is None or self.is_whole:
            return
        if exc is None and self._reader.end():
            self.is_whole = True
            self._wake()
        elif self._reader.began:
            self._fail(ServerFault(f"the connection broke in the middle of an answer: {exc or 'closed'}"))
        else:
            self._fail(Unanswered(str(exc or "closed")))
