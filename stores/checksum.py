"""Checksums computed while bytes pass, and their combination over parts (awscrt: CRCs at memory speed)."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterable

from awscrt import checksums as crt

from replication.models import Checksums


class Digest:
    """Running CRC32C of a byte stream, and of other kinds only where the source publishes nothing else."""

    __slots__ = ("_crc32", "_crc64nvme", "_md5", "crc32c", "size_bytes")

    def __init__(self, *, like: Checksums | None = None) -> None:
        want = like if like is not None and like.crc32c is None else None
        self.crc32c = 0
        self.size_bytes = 0
        self._crc64nvme = 0 if want and want.crc64nvme is not None else None
        self._crc32 = 0 if want and self._crc64nvme is None and want.crc32 is not None else None
        only_md5 = want is not None and self._crc64nvme is None and self._crc32 is None and want.md5 is not None
        self._md5 = hashlib.md5(usedforsecurity=False) if only_md5 else None

    def update(self, chunk: bytes) -> None:
        self.crc32c = crt.crc32c(chunk, self.crc32c)
        self.size_bytes += len(chunk)
        if self._crc64nvme is not None:
            self._crc64nvme = crt.crc64nvme(chunk, self._crc64nvme)
        if self._crc32 is not None:
            self._crc32 = zlib.crc32(chunk, self._crc32)
        if self._md5 is not None:
            self._md5.update(chunk)

    def checksums(self) -> Checksums:
        md5 = self._md5.hexdigest() if self._md5 is not None else None
        return Checksums(crc32c=self.crc32c, crc64nvme=self._crc64nvme, crc32=self._crc32, md5=md5)


def crc32c(data: bytes) -> int:
    return int(crt.crc32c(data))


def combine_crc32c(pieces: Iterable[tuple[int, int]]) -> int:
    """CRC32C of a concatenation, from (crc, length) of each piece in order."""
    total = 0
    for crc, length in pieces:
        total = crt.combine_crc32c(total, crc, length)
    return total


def encode_crc(value: int, width: int = 4) -> str:
    """A CRC as S3 and GCS write it: base64 of the big-endian bytes (4 for CRC32 and CRC32C, 8 for CRC64NVME)."""
    return base64.b64encode(value.to_bytes(width, "big")).decode()


def decode_crc(text: str) -> int | None:
    """The inverse of `encode_crc`; None for a composite checksum (`…-N`) or anything else that is not one."""
    if "-" in text:
        return None
    try:
        return int.from_bytes(base64.b64decode(text, validate=True), "big")
    except ValueError:
        return None
