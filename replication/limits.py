"""What stores can hold (documented limits of a kind) and what an endpoint was seen to do (probed capabilities)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40


@dataclass(frozen=True, slots=True)
class Limits:
    """What the kind of store can hold, in bytes and counts. `max_copy_size` is the largest one-request server-side copy."""

    max_object_size: int
    max_put_size: int
    max_copy_size: int
    min_part_size: int
    max_part_size: int
    max_parts: int
    default_part_size: int
    max_metadata_bytes: int
    metadata_ascii: bool
    """Metadata is ASCII with lower-case keys (S3)."""
    tags: bool
    max_key_bytes: int = 1024


UploadChecksum = Literal["trailer", "header", "response", "none"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an endpoint was seen to do for one bucket, by asking it to.

    `upload_checksum` is how a byte that flips on the way in is caught: the store verifies a `header` or a `trailer`
    that we send, or `response` tells what was stored and we compare, or `none`. `part_checksum` is the same for parts,
    of which nothing is seen before the commit.
    """

    conditional_writes: bool
    conditional_completes: bool
    conditional_deletes: bool
    pinned_reads: bool
    server_side_copy: bool
    upload_checksum: UploadChecksum
    part_checksum: UploadChecksum
    versioned: bool = False
    detail: str = ""

    @property
    def wrong_parts_refused(self) -> bool:
        """True if no part ever stands in an upload with other bytes than were sent."""
        return self.part_checksum in ("header", "trailer")

    @property
    def fencing(self) -> Literal["full", "partial", "none"]:
        kinds = (self.conditional_writes, self.conditional_completes, self.conditional_deletes)
        return "full" if all(kinds) else "partial" if any(kinds) else "none"


S3_LIMITS = Limits(
    max_object_size=50_000_000_000_000,  # "50 TB", AWS since 2025; many S3-compatible stores hold 5 TiB
    max_put_size=5 * GIB,
    max_copy_size=5 * GIB,
    min_part_size=5 * MIB,
    max_part_size=5 * GIB,
    max_parts=10_000,
    default_part_size=64 * MIB,
    max_metadata_bytes=2 * KIB,
    metadata_ascii=True,
    tags=True,
)

GCS_LIMITS = Limits(
    max_object_size=5 * TIB,
    max_put_size=5 * TIB,
    max_copy_size=5 * TIB,
    min_part_size=1,
    max_part_size=5 * TIB,
    max_parts=1_000_000,
    default_part_size=640 * MIB,
    max_metadata_bytes=8 * KIB,
    metadata_ascii=False,
    tags=False,
)

FILE_LIMITS = Limits(
    max_object_size=8 * 1024 * TIB,
    max_put_size=8 * 1024 * TIB,
    max_copy_size=8 * 1024 * TIB,
    min_part_size=1,
    max_part_size=8 * 1024 * TIB,
    max_parts=1_000_000,
    default_part_size=64 * MIB,
    max_metadata_bytes=60 * KIB,
    metadata_ascii=False,
    tags=True,
)
