"""What may be concluded from two sets of checksums, and which verification level that earns."""

from __future__ import annotations

import re
from typing import Literal

from replication.models import Checksums, ListedObject, Verification

KINDS: tuple[Literal["crc32c", "crc64nvme", "crc32", "md5"], ...] = ("crc32c", "crc64nvme", "crc32", "md5")

Companion = Literal["crc64nvme", "crc32"]


def same_checksums(one: Checksums, other: Checksums) -> bool | None:
    """True or False when a kind is known on both sides (all such kinds must agree); None when none is."""
    pairs = ((one.crc32c, other.crc32c), (one.crc64nvme, other.crc64nvme), (one.crc32, other.crc32), (one.md5, other.md5))
    verdicts = [here == there for here, there in pairs if here is not None and there is not None]
    return all(verdicts) if verdicts else None


_MD5 = re.compile(r"[0-9a-f]{32}")


def listed_equal(one: ListedObject, other: ListedObject) -> bool:
    """True if two listings alone prove equal content: sizes, and checksums or ETags of the plain MD5 form. False proves nothing."""
    if one.version.size_bytes != other.version.size_bytes:
        return False
    agree = same_checksums(one.checksums, other.checksums)
    if agree is not None:
        return agree
    here, there = one.checksums.md5 or one.version.etag, other.checksums.md5 or other.version.etag
    return here == there and _MD5.fullmatch(here) is not None


def companion_kind(source: Checksums) -> Companion | None:
    """The combinable CRC to compute beside CRC32C, because the source publishes it and no CRC32C."""
    if source.crc32c is not None:
        return None
    if source.crc64nvme is not None:
        return "crc64nvme"
    return "crc32" if source.crc32 is not None else None


def level(*, source_compared: bool, destination_proved: bool) -> Verification:
    """The level that was earned: never more than what was checked."""
    if not destination_proved:
        return "size-only"
    return "end-to-end" if source_compared else "dest-verified"
