"""Bytes on their way into a store: hashed as they pass, and withheld at the end until they are known to be right."""

from __future__ import annotations

from collections.abc import Callable

from replication.errors import IntegrityMismatch
from stores.checksum import Digest
from stores.chunks import Chunk, Chunks


class Body:
    """`size_bytes` bytes to be stored, iterated once.

    The last chunk is handed out only after the length and `check` (if any) have passed, so a request with a declared
    length that streams this body cannot be committed by the store with bytes that are known to be wrong.
    `known_crc32c` is the CRC32C where it is known before the first byte is sent.
    """

    def __init__(
        self,
        chunks: Chunks,
        size_bytes: int,
        *,
        digest: Digest | None = None,
        check: Callable[[Digest], None] | None = None,
        known_crc32c: int | None = None,
    ) -> None:
        self._chunks = chunks
        self._check = check
        self.size_bytes = size_bytes
        self.digest = digest or Digest()
        self.known_crc32c = known_crc32c
        self.whole: bytes | None = None
        """All the bytes, where they are there already."""
        self._gathered: Digest | None = None

    @classmethod
    def of(cls, data: bytes, *, checked: Digest | None = None) -> Body:
        """A body whose bytes are all there; `checked` is their digest where it was computed already."""

        async def once() -> Chunks:
            if data:
                yield data

        if checked is None:
            checked = Digest()
            checked.update(data)
        body = cls(once(), len(data), known_crc32c=checked.crc32c)
        body.whole, body._gathered = data, checked
        return body

    def result(self) -> Digest:
        """The digest of the bytes once they have passed; of a gathered body with every checksum that was computed."""
        return self._gathered or self.digest

    async def __aiter__(self) -> Chunks:
        held: Chunk | None = None
        async for chunk in self._chunks:
            self.digest.update(chunk)
            if held is not None:
                yield held
            held = chunk
        if self.digest.size_bytes != self.size_bytes:
            raise IntegrityMismatch(f"expected {self.size_bytes} bytes, the source gave {self.digest.size_bytes}")
        if self._check is not None:
            self._check(self.digest)
        if held is not None:
            yield held

    async def gather(self) -> bytes:
        """The whole body in memory, checked. For small bodies only."""
        return b"".join([chunk async for chunk in self])
