"""Which parts of an interrupted run need not be sent again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from replication.models import Part


@dataclass(frozen=True, slots=True)
class KnownPart:
    """A stored part and the CRCs of the bytes that were read for it. `crc32c` is None after a server-side copy that told none."""

    number: int
    size_bytes: int
    etag: str
    crc32c: int | None
    companion: int | None = None


def resumable(listed: Iterable[Part], recorded: Iterable[KnownPart], sizes: dict[int, int], *, trusted: bool) -> dict[int, KnownPart]:
    """The parts of a run that are stored and whose checksum is known, by number.

    `sizes` holds the planned length of every part of the run. A part counts if the store lists it with that length and
    either this run recorded it under the same ETag, or the store itself tells its CRC32C and that is `trusted`: it is the
    CRC32C of what was read, not only of what arrived. Whatever is only half known is sent again.
    """
    by_number = {part.number: part for part in recorded}
    found: dict[int, KnownPart] = {}
    for part in listed:
        if sizes.get(part.number) != part.size_bytes:
            continue
        known = by_number.get(part.number)
        if known is not None and known.size_bytes == part.size_bytes and known.etag == part.etag:
            found[part.number] = known
        elif part.crc32c is not None and trusted:
            found[part.number] = KnownPart(part.number, part.size_bytes, part.etag, part.crc32c)
    return found
