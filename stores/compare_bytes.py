"""Reading every byte of two pinned objects, range by range, and comparing their SHA-256; CRC32C on the way.

Memory holds a chunk of each side. A range that was cut off is read anew, so a long object is not begun again.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

from replication.limits import MIB
from replication.models import ObjectInfo
from stores.checksum import Digest, combine_crc32c
from stores.transfer import Meter, Place, quick_retry

RANGE = 64 * MIB


@dataclass(frozen=True, slots=True)
class Range:
    """The first range that differs, and the CRC32C of its bytes on each side."""

    offset: int
    length: int
    crc32c: int
    other_crc32c: int


async def first_difference(one: Place, info: ObjectInfo, other: Place, other_info: ObjectInfo, meter: Meter) -> tuple[Range | None, int]:
    """Of two objects of equal size: the first range that differs, or None and the CRC32C of all bytes.

    Raises whatever a store's `read` raises.
    """
    size, pieces = info.size_bytes, list[tuple[int, int]]()
    for offset in range(0, size, RANGE):
        length = min(RANGE, size - offset)
        (here, crc), (there, other_crc) = await asyncio.gather(
            _digests(one, info, offset, length, meter), _digests(other, other_info, offset, length, meter)
        )
        if here != there:
            return Range(offset, length, crc, other_crc), 0
        pieces.append((crc, length))
    return None, combine_crc32c(pieces)


async def _digests(place: Place, info: ObjectInfo, offset: int, length: int, meter: Meter) -> tuple[bytes, int]:
    """SHA-256 and CRC32C of a range."""

    async def attempt() -> tuple[bytes, int]:
        sha256, digest = hashlib.sha256(), Digest()
        async with place.store.read(place.bucket, place.key, pin=info.version, offset=offset, length=length) as chunks:
            async for chunk in chunks:
                sha256.update(chunk)
                digest.update(chunk)
                meter(len(chunk))
        return sha256.digest(), digest.crc32c

    return await quick_retry(attempt)
