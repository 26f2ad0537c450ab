"""Bytes as they come: pieces of a body, in order."""

from __future__ import annotations

from collections.abc import AsyncIterator

from replication.errors import IntegrityMismatch, ServerFault

Chunk = bytes | memoryview
"""A piece of a body. What a view shows does not change as long as the view is held."""
Chunks = AsyncIterator[Chunk]
Data = bytes | Chunks
"""A body that is all there, or comes in pieces."""
PIECE = 512 * 1024


async def pieces(data: bytes) -> Chunks:
    """Bytes that are all there, in views of at most `PIECE` bytes."""
    for start in range(0, len(data), PIECE):
        yield memoryview(data)[start : start + PIECE]


async def exactly(chunks: Chunks, length: int) -> Chunks:
    """The chunks, if they are `length` bytes together; `IntegrityMismatch` otherwise."""
    left = length
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise IntegrityMismatch(f"more than {length} bytes came")
        yield chunk
    if left:
        raise IntegrityMismatch(f"{left} of {length} bytes did not come")


async def gathered(chunks: Chunks, at_most: int) -> bytes:
    """All of it; `ServerFault` for more than `at_most` bytes."""
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > at_most:
            raise ServerFault(f"the answer is larger than {at_most} bytes")
    return bytes(body)
