"""What the memory store keeps: bytes in one of four forms, and buckets that hold them in the order of their keys."""

from __future__ import annotations

import itertools
import random
from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from replication.errors import NotSupported
from replication.limits import MIB
from replication.models import Condition, ObjectInfo, Part, Version
from stores.checksum import combine_crc32c, crc32c

PERIOD = 1_048_573
"""Length of a synthetic object's repeating block: a prime, so that no usual part size is a multiple of it and bytes at
a wrong offset show."""


# --- contents --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """Bytes that are kept."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    @cached_property
    def crc32c(self) -> int:
        return crc32c(self.data)

    def slices(self, offset: int, length: int) -> Iterator[bytes]:
        for start in range(offset, offset + length, MIB):
            yield self.data[start : min(start + MIB, offset + length)]


@dataclass(frozen=True)
class Synthetic:
    """Bytes that are computed: a block of `PERIOD` random bytes made from `seed`, repeated."""

    size_bytes: int
    seed: int

    @cached_property
    def _block(self) -> bytes:
        return random.Random(self.seed).randbytes(PERIOD)  # noqa: S311  (test data, not a secret)

    @cached_property
    def crc32c(self) -> int:
        whole, rest = divmod(self.size_bytes, PERIOD)
        block = crc32c(self._block)
        return combine_crc32c([*itertools.repeat((block, PERIOD), whole), (crc32c(self._block[:rest]), rest)])

    def slices(self, offset: int, length: int) -> Iterator[bytes]:
        end = offset + length
        while offset < end:
            start = offset % PERIOD
            piece = self._block[start : start + end - offset]
            yield piece
            offset += len(piece)


@dataclass(frozen=True)
class Counted:
    """Bytes that were verified and let go."""

    size_bytes: int
    crc32c: int

    def slices(self, offset: int, length: int) -> Iterator[bytes]:
        raise NotSupported("this memory store keeps sizes and checksums only")


@dataclass(frozen=True)
class Joined:
    """The parts of a completed upload, in order."""

    pieces: tuple[Content, ...]

    @cached_property
    def size_bytes(self) -> int:
        return sum(piece.size_bytes for piece in self.pieces)

    @cached_property
    def crc32c(self) -> int:
        return combine_crc32c((piece.crc32c, piece.size_bytes) for piece in self.pieces)

    def slices(self, offset: int, length: int) -> Iterator[bytes]:
        for piece in self.pieces:
            if length <= 0:
                return
            take = min(length, piece.size_bytes - offset)
            if take > 0:
                yield from piece.slices(offset, take)
                length -= take
            offset = max(0, offset - piece.size_bytes)


Content = Held | Synthetic | Counted | Joined


# --- buckets ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """One object: what a HEAD tells, and its bytes."""

    info: ObjectInfo
    content: Content


@dataclass(slots=True)
class Upload:
    """One unfinished upload: part number -> (part, offset, bytes)."""

    key: str
    started: datetime
    parts: dict[int, tuple[Part, int, Content]] = field(default_factory=dict)


@dataclass(slots=True)
class Bucket:
    """Objects by key, their keys in order (code point order is UTF-8 byte order), and open uploads by id."""

    objects: dict[str, Stored] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    uploads: dict[str, Upload] = field(default_factory=dict)

    def set(self, stored: Stored) -> None:
        if stored.info.key not in self.objects:
            insort(self.keys, stored.info.key)
        self.objects[stored.info.key] = stored

    def remove(self, key: str) -> None:
        del self.objects[key]
        del self.keys[bisect_right(self.keys, key) - 1]


def same_content(current: Version, wanted: Version) -> bool:
    """Whether `wanted` names the present bytes."""
    return bool(wanted.id) and current.id == wanted.id


def same_version(current: Version, wanted: Version) -> bool:
    """Whether `wanted` names the present bytes and, where it says so, the present attributes."""
    return same_content(current, wanted) and wanted.revision in ("", current.revision)


def holds(condition: Condition, current: Version | None) -> bool:
    """Whether a write under `condition` may replace `current` (None: the key is absent)."""
    if condition.kind == "any":
        return True
    if condition.kind == "absent":
        return current is None
    return current is not None and condition.version is not None and same_version(current, condition.version)
