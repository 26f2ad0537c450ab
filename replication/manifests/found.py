"""Which references are still missing, as text that fits into a payload.

Base85 of a compressed bitmap, one bit a reference: a few bytes when few or nearly all are missing, and for the most
references that a manifest may have (`MAX_REFERENCES`) at most 240 KiB.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable


def encode_missing(missing: Iterable[int], total: int) -> str:
    """The code of some of the numbers 0 to `total` - 1, in any order. Raises ValueError for any other number."""
    bitmap = bytearray(-(-total // 8))
    for index in missing:
        if not 0 <= index < total:
            raise ValueError(f"{index} is not one of {total} references")
        bitmap[index >> 3] |= 1 << (index & 7)
    return base64.b85encode(zlib.compress(bytes(bitmap), 6)).decode("ascii")


def decode_missing(text: str, total: int) -> list[int]:
    """The numbers in order. Raises ValueError for what `encode_missing` cannot have made of `total` references."""
    size = -(-total // 8)
    try:
        unpacker = zlib.decompressobj()
        bitmap = unpacker.decompress(base64.b85decode(text), size + 1)
    except (ValueError, binascii.Error, zlib.error) as error:
        raise ValueError("is no code of missing references") from error
    if len(bitmap) != size or not unpacker.eof:
        raise ValueError("is the code of another number of references")
    found = [at * 8 + bit for at, byte in enumerate(bitmap) if byte for bit in range(8) if byte >> bit & 1]
    if found and found[-1] >= total:
        raise ValueError("is the code of another number of references")
    return found
