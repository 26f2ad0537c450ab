"""HTTP/1.1 on a stream, no more than a proxy needs: heads kept byte for byte, bodies as pieces without their framing."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace

PIECE = 64 * 1024
LONGEST_HEAD = 256 * 1024


@dataclass(frozen=True)
class Head:
    """The start line and the fields of a message, in their order and spelling."""

    start: str
    fields: tuple[tuple[str, str], ...]

    @property
    def method(self) -> str:
        return self.start.split(" ", 2)[0]

    @property
    def target(self) -> str:
        """Path and query as they were sent, percent-encoded."""
        return self.start.split(" ", 2)[1]

    @property
    def status(self) -> int:
        return int(self.start.split(" ", 2)[1])

    def get(self, name: str) -> str | None:
        return next((value for field, value in self.fields if field.lower() == name.lower()), None)

    def without(self, name: str) -> Head:
        return replace(self, fields=tuple(field for field in self.fields if field[0].lower() != name.lower()))

    def having(self, name: str, value: str) -> Head:
        """With this one value of the field, in the place of the first that was there."""
        if self.get(name) is None:
            return replace(self, fields=(*self.fields, (name, value)))
        first = next(place for place, field in enumerate(self.fields) if field[0].lower() == name.lower())
        others = [(place, field) for place, field in enumerate(self.fields) if place == first or field[0].lower() != name.lower()]
        return replace(self, fields=tuple((name, value) if place == first else field for place, field in others))

    @property
    def chunked(self) -> bool:
        return (self.get("transfer-encoding") or "").lower().endswith("chunked")

    @property
    def keeps_alive(self) -> bool:
        connection = (self.get("connection") or "").lower()
        return "keep-alive" in connection if "HTTP/1.0" in self.start else "close" not in connection

    def encode(self) -> bytes:
        lines = [self.start, *(f"{name}: {value}" for name, value in self.fields), "", ""]
        return "\r\n".join(lines).encode("latin-1")


@dataclass(frozen=True)
class Wire:
    """One side of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @staticmethod
    def of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Wire:
        # `drain` then means that the kernel has every byte, so that a later reset cuts exactly there.
        writer.transport.set_write_buffer_limits(high=0)
        return Wire(reader, writer)

    async def read_head(self) -> Head | None:
        """None at the end of the connection between two messages."""
        try:
            raw = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as end:
            if end.partial:
                raise
            return None
        start, *lines = raw[:-4].decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines)
        return Head(start, tuple((name, value.strip()) for name, _, value in fields))

    async def read_request_body(self, head: Head) -> AsyncIterator[bytes]:
        length = None if head.chunked else int(head.get("content-length") or 0)
        async for piece in self._read_body(head, length):
            yield piece

    async def read_response_body(self, head: Head, method: str) -> AsyncIterator[bytes]:
        """Without a length and not chunked, a body ends with the connection."""
        declared = head.get("content-length")
        length = None if head.chunked or declared is None else int(declared)
        if method == "HEAD" or head.status in {204, 304}:
            length = 0
        if length is None and not head.chunked:
            while piece := await self.reader.read(PIECE):
                yield piece
            return
        async for piece in self._read_body(head, length):
            yield piece

    async def _read_body(self, head: Head, length: int | None) -> AsyncIterator[bytes]:
        if length is not None:
            async for piece in self._read_exactly(length):
                yield piece
            return
        while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
            async for piece in self._read_exactly(size):
                yield piece
            await self.reader.readexactly(2)
        while await self.reader.readuntil(b"\r\n") != b"\r\n":
            pass

    async def _read_exactly(self, size: int) -> AsyncIterator[bytes]:
        while size:
            piece = await self.reader.read(min(size, PIECE))
            if not piece:
                raise asyncio.IncompleteReadError(b"", size)
            size -= len(piece)
            yield piece

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def send_piece(self, piece: bytes, *, chunked: bool) -> None:
        if piece:
            await self.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)

    def reset(self) -> None:
        """Ends the connection with RST, so that the peer sees ECONNRESET and not an end of file."""
        raw = self.writer.get_extra_info("socket")
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()
