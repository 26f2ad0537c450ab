"""Sending a body to an S3 endpoint so that a byte that flips on the way is caught.

Its CRC32C goes in a header where it is known or the body is small, else in a trailer, else (an endpoint without
trailers) in a header after the body was gathered in memory. An endpoint that tells the CRC32C of a part it has taken is
asked to: taking a trailer apart costs a SeaweedFS a tenth more CPU, and no part is seen before all are committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace

from replication.errors import IntegrityMismatch, NotSupported, ServerFault
from replication.limits import KIB, MIB, Capabilities, UploadChecksum
from stores.body import Body
from stores.budget import ByteBudget
from stores.checksum import decode_crc, encode_crc
from stores.chunks import Data
from stores.s3headers import ASKED, CRC32C
from stores.s3wire import Answer, S3Wire, framed, trailer_headers
from stores.signing import UNSIGNED_PAYLOAD, UNSIGNED_PAYLOAD_TRAILER

SMALL_BODY = 256 * KIB
"""Up to here a body is gathered, so that its checksum goes ahead of it in a header."""
MAX_GATHERED = 64 * MIB
"""The most that is gathered for an endpoint that verifies headers only; a larger body of unknown checksum is refused."""
GATHERED_AT_ONCE = 128 * MIB
"""What gathered bodies take of memory at once, whatever the number of streams."""
REPLACED_S = 1.1
"""Parts are listed with the second of their arrival: what is sent again after a wrong part is to be the newest (SeaweedFS lists both)."""


class S3Sending:
    """Bodies on their way to one endpoint; how their checksums travel is what was found out about each bucket."""

    def __init__(self, wire: S3Wire, *, aws: bool) -> None:
        self._wire = wire
        self._aws = aws
        self._gathering = ByteBudget(GATHERED_AT_ONCE)
        self._found: dict[str, Capabilities] = {}
        self.whole_verified = True
        """Uploads are begun with a checksum of the whole; without, each part has to be verified on arrival."""

    def learn(self, bucket: str, found: Capabilities) -> None:
        """What a probe of the bucket found."""
        self._found[bucket] = found

    def relies_on_whole(self, bucket: str) -> bool:
        """True if only the checksum of the whole keeps wrong parts from being published."""
        return self._part_checksum(bucket) == "response"

    async def put(self, bucket: str, key: str, headers: dict[str, str], body: Body) -> Answer:
        """A whole object."""
        return await self._send(bucket, key, None, headers, body, self._checksum(bucket))

    async def put_part(self, bucket: str, key: str, query: Mapping[str, str], body: Body) -> tuple[Answer, int | None]:
        """One part, and the CRC32C under which it is stored as far as that is known."""
        mode = self._part_checksum(bucket)
        answer = await self._send(bucket, key, query, {}, body, mode)
        told, ours = decode_crc(answer.headers.get(CRC32C, "")), body.result().crc32c
        if answer.failed:
            return answer, None
        if mode == "response" and told is None and body.known_crc32c is None:
            self._found[bucket] = replace(self._found[bucket], part_checksum=self._checksum(bucket))
            raise ServerFault("the endpoint did not tell the checksum of a part, which it did when it was probed")
        if told not in (None, ours):
            await asyncio.sleep(REPLACED_S)
            raise IntegrityMismatch("the endpoint took other bytes for a part than were sent")
        verified = told is not None or body.known_crc32c is not None or mode in ("header", "trailer")
        return answer, ours if verified else None

    async def _send(
        self, bucket: str, key: str, query: Mapping[str, str] | None, headers: dict[str, str], body: Body, mode: UploadChecksum
    ) -> Answer:
        if body.whole is not None:
            headers[CRC32C] = encode_crc(body.result().crc32c)
            return await self._wire.send("PUT", bucket, key, query, headers, body.whole)
        known, size = body.known_crc32c, body.size_bytes
        data: Data
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
                elif mode == "response":
                    headers |= ASKED
            headers.setdefault("content-length", str(size))
            return await self._wire.send("PUT", bucket, key, query, headers, data, payload=payload)

    def _checksum(self, bucket: str) -> UploadChecksum:
        found = self._found.get(bucket)
        return found.upload_checksum if found else "trailer" if self._aws else "header"

    def _part_checksum(self, bucket: str) -> UploadChecksum:
        found = self._found.get(bucket)
        return found.part_checksum if found and self.whole_verified else self._checksum(bucket)


async def _gathered(body: Body) -> bytes:
    """All bytes of a body that is not too large for it, and that has the checksum it announced."""
    if body.size_bytes > MAX_GATHERED:
        raise NotSupported(f"the endpoint verifies no trailers, and {body.size_bytes} bytes of unknown checksum are too many to gather")
    data = await body.gather()
    if body.known_crc32c not in (None, body.digest.crc32c):
        raise IntegrityMismatch("the bytes do not have the CRC32C that was announced for them")
    return data
