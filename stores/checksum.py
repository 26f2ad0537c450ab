"""Checksums computed while bytes pass, and their combination over parts (CRCs at memory speed: awscrt, and ISA-L for CRC32)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Literal

from awscrt import checksums
from isal import isal_zlib

from replication.models import Checksums
from replication.verify import companion_kind
from stores.chunks import Chunk

crt: Any = checksums
"""Typed as if it took bytes alone."""


class Digest:
    """Running CRC32C of a byte stream, and of another kind only where the source publishes nothing else.

    `md5` allows the comparison with a plain-MD5 ETag, which cannot be combined over parts and costs more than the copy.
    """

    __slots__ = ("_companion", "_companion_kind", "_md5", "crc32c", "size_bytes")

    def __init__(self, *, like: Checksums | None = None, md5: bool = False) -> None:
        self.crc32c = 0
        self.size_bytes = 0
        self._companion = 0
        self._companion_kind = companion_kind(like) if like is not None else None
        only_md5 = md5 and like is not None and like.md5 is not None and like.crc32c is None and self._companion_kind is None
        self._md5 = hashlib.md5(usedforsecurity=False) if only_md5 else None

    def update(self, chunk: Chunk) -> None:
        self.crc32c = crt.crc32c(chunk, self.crc32c)
        self.size_bytes += len(chunk)
        if self._companion_kind == "crc64nvme":
            self._companion = crt.crc64nvme(chunk, self._companion)
        elif self._companion_kind == "crc32":
            self._companion = isal_zlib.crc32(chunk, self._companion)
        if self._md5 is not None:
            self._md5.update(chunk)

    @property
    def companion(self) -> int | None:
        """The CRC of the kind that `companion_kind` named, or None."""
        return self._companion if self._companion_kind else None

    def checksums(self) -> Checksums:
        md5 = self._md5.hexdigest() if self._md5 is not None else None
        crc64nvme = self._companion if self._companion_kind == "crc64nvme" else None
        crc32 = self._companion if self._companion_kind == "crc32" else None
        return Checksums(crc32c=self.crc32c, crc64nvme=crc64nvme, crc32=crc32, md5=md5)


def crc32c(data: bytes) -> int:
    return int(crt.crc32c(data))


_COMBINE: dict[str, Callable[[int, int, int], int]] = {
    "crc32c": crt.combine_crc32c,
    "crc64nvme": crt.combine_crc64nvme,
    "crc32": crt.combine_crc32,
}


def combine(kind: Literal["crc32c", "crc64nvme", "crc32"], pieces: Iterable[tuple[int | None, int]]) -> int | None:
    """The CRC of a concatenation, from (crc, length) of each piece in order; None as soon as one is unknown."""
    total = 0
    for crc, length in pieces:
        if crc is None:
            return None
        total = _COMBINE[kind](total, crc, length)
    return total


def combine_crc32c(pieces: Iterable[tuple[int, int]]) -> int:
    """CRC32C of a concatenation, from (crc, length) of each piece in order."""
    return combine("crc32c", pieces) or 0


def encode_crc(value: int, width: int = 4) -> str:
    """A CRC as S3 and GCS write it: base64 of the big-endian bytes (4 for CRC32 and CRC32C, 8 for CRC64NVME)."""
    return base64.b64encode(value.to_bytes(width, "big")).decode()


def decode_crc(text: str, width: int = 4) -> int | None:
    """The inverse of `encode_crc`; None for nothing, a composite checksum (`…-N`), or anything else that is not one."""
    try:
        told = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return int.from_bytes(told, "big") if len(told) == width else None
