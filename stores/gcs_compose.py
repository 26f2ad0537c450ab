"""Joining any number of parts with GCS's compose, which takes 32 sources a call: which spans, in which rounds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from replication.errors import UploadLost
from replication.models import Part
from stores.checksum import combine_crc32c
from stores.gcs_resources import Piece, part_name, upload_prefix

FAN_IN = 32
"""Most sources of one compose call (cloud.google.com/storage/docs/composite-objects). Depth and total are not limited."""

Span = tuple[int, int]
"""First (inclusive) and last (exclusive) index into the pieces of the round before."""


def compose_rounds(count: int, fan_in: int = FAN_IN) -> list[list[Span]]:
    """The rounds of intermediate composites that leave at most `fan_in` pieces for the last compose.

    Each round's spans cover the pieces of the round before, in order and without gaps; a span of one piece needs no
    call. Up to `fan_in` parts need no round, and n parts need ceil(log_fan_in(n)) - 1.
    """
    rounds: list[list[Span]] = []
    while count > fan_in:
        rounds.append([(first, min(first + fan_in, count)) for first in range(0, count, fan_in)])
        count = len(rounds[-1])
    return rounds


def intermediate_name(upload_id: str, level: int, index: int) -> str:
    """The name of composite `index` of round `level` (both from 0); never that of a part."""
    return f"{upload_prefix(upload_id)}c{level}-{index:06d}"


def joined(name: str, pieces: Sequence[Piece]) -> Piece:
    """What the concatenation of `pieces` will be; its generation is not known yet."""
    crc32c = combine_crc32c((piece.crc32c, piece.size_bytes) for piece in pieces)
    return Piece(name, "", sum(piece.size_bytes for piece in pieces), crc32c, pieces[0].storage_class)


def same_content(one: Piece, other: Piece) -> bool:
    return (one.size_bytes, one.crc32c) == (other.size_bytes, other.crc32c)


def pieces_of(parts: Sequence[Part], upload_id: str, stored: Mapping[str, Piece]) -> list[Piece]:
    """The stored pieces that `parts` name, by number. `UploadLost` when one is gone or is not what the caller knows."""
    pieces: list[Piece] = []
    for part in sorted(parts, key=lambda part: part.number):
        piece = stored.get(part_name(upload_id, part.number))
        if piece is None:
            raise UploadLost(f"part {part.number} of upload {upload_id} is gone")
        if piece.size_bytes != part.size_bytes or part.crc32c not in (None, piece.crc32c):
            raise UploadLost(f"part {part.number} of upload {upload_id} was replaced by other bytes")
        pieces.append(piece)
    return pieces
