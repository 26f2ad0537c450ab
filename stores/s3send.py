"""Sending a body to an S3 endpoint so that a byte that flips on the way is caught.

Its CRC32C goes in a header where it is known or the body is small, else in a trailer, else (an endpoint without
trailers) in a header after the body was gathered in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

from replication.errors import IntegrityMismatch, NotSupported
from replication.limits import KIB, MIB, Capabilities, UploadChecksum
from stores.body import Body
from stores.budget import ByteBudget
from stores.checksum import decode_crc, encode_crc
from stores.s3headers import CRC32C
from stores.s3wire import Answer, S3Wire, framed, trailer_headers
from stores.signing import UNSIGNED_PAYLOAD, UNSIGNED_PAYLOAD_TRAILER

SMALL_BODY = 256 * KIB
"""Up to here a body is gathered, so that its checksum goes ahead of it in a header."""
MAX_GATHERED = 64 * MIB
"""The most that is gathered for an endpoint that verifies headers only; a larger body of unknown checksum is refused."""
GATHERED_AT_ONCE = 128 * MIB
"""What gathered bodies take of memory at once, whatever the number of streams."""


class S3Sending:
    """Bodies on their way to one endpoint; how their checksums travel is what was found out about each bucket."""

    def __init__(self, wire: S3Wire, *, aws: bool) -> None:
        self._wire = wire
        self._aws = aws
        self._gathering = ByteBudget(GATHERED_AT_ONCE)
        self._found: dict[str, Capabilities] = {}

    def learn(self, bucket: str, found: Capabilities) -> None:
        """What a probe of the bucket found."""
        self._found[bucket] = found

    async def put(self, bucket: str, key: str, headers: dict[str, str], body: Body) -> Answer:
        """A whole object."""
        return await self._send(bucket, key, None, headers, body)

    async def put_part(self, bucket: str, key: str, query: Mapping[str, str], body: Body) -> tuple[Answer, int | None]:
        """One part, and the CRC32C under which it is stored as far as that is known."""
        answer = await self._send(bucket, key, query, {}, body)
        told = decode_crc(answer.headers.get(CRC32C, "-"))
        if told is not None or answer.failed:
            return answer, told
        verified = body.known_crc32c is not None or self._checksum(bucket) in ("header", "trailer")
        return answer, body.result().crc32c if verified else None

    async def _send(self, bucket: str, key: str, query: Mapping[str, str] | None, headers: dict[str, str], body: Body) -> Answer:
        if body.whole is not None:
            headers[CRC32C] = encode_crc(body.result().crc32c)
            return await self._wire.send("PUT", bucket, key, query, headers, body.whole)
        mode, known, size = self._checksum(bucket), body.known_crc32c, body.size_bytes
        data: bytes | AsyncIterator[bytes]
        payload = UNSIGNED_PAYLOAD
        async with AsyncExitStack() as holding:
            if size <= SMALL_BODY or (mode == "header" and known is None):
                await holding.enter_async_context(self._gathering.hold(size))
                data = await _gathered(body)
                headers[CRC32C] = encode_crc(body.digest.crc32c)
            elif mode == "trailer" and known is None:
                headers = trailer_headers(headers, size, announce=self._aws)
                data, payload = framed(aiter(body), size, lambda: body.digest.crc32c), UNSIGNED_PAYLOAD_TRAILER
            else:
                data = aiter(body)
                if known is not None:
                    headers[CRC32C] = encode_crc(known)
            headers.setdefault("content-length", str(size))
            return await self._wire.send("PUT", bucket, key, query, headers, data, payload=payload)

    def _checksum(self, bucket: str) -> UploadChecksum:
        found = self._found.get(bucket)
        return found.upload_checksum if found else "trailer" if self._aws else "header"


async def _gathered(body: Body) -> bytes:
    """All bytes of a body that is not too large for it, and that has the checksum it announced."""
    if body.size_bytes > MAX_GATHERED:
        raise NotSupported(f"the endpoint verifies no trailers, and {body.size_bytes} bytes of unknown checksum are too many to gather")
    data = await body.gather()
    if body.known_crc32c not in (None, body.digest.crc32c):
        raise IntegrityMismatch("the bytes do not have the CRC32C that was announced for them")
    return data
