"""Moving the bytes of one object, or of one part, from a pinned source version into a store, checked on the way.

The chain of custody: what is read is hashed; it is compared with the source's own checksum before the
store can commit; the store is told our CRC32C, or tells us what it stored; a difference anywhere means no commit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from replication.errors import IntegrityMismatch, ObjectNotFound, PreconditionFailed, ServerFault, StoreTimeout, UploadLost
from replication.limits import MIB, Capabilities
from replication.models import Attributes, Checksums, Condition, ObjectInfo, Part, Verification, Version
from replication.verify import level, same_checksums
from stores.base import Store
from stores.body import Body
from stores.budget import ByteBudget
from stores.checksum import Digest
from stores.chunks import Chunk
from stores.pace import current_budget

GATHER_MAX = 8 * MIB
"""Up to here a body is gathered in memory, so that its CRC32C is known before the first byte is sent."""
QUICK_TRIES = 3
QUICK_DELAY_S = 0.2

Meter = Callable[[int], None]
"""Called with the number of bytes that just passed."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """One key in one bucket of one store."""

    store: Store
    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class Transferred:
    """What a copy left at the destination, how sure that is, and how many bytes were sent for it."""

    info: ObjectInfo
    checksums: Checksums
    verification: Verification
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class SentPart:
    """A stored part, with the CRCs of what was read for it."""

    part: Part
    crc32c: int | None
    companion: int | None
    bytes_sent: int


async def quick_retry(attempt: Callable[[], Awaitable[T]], *, tries: int = QUICK_TRIES, delay_s: float = QUICK_DELAY_S) -> T:
    """Repeats what a reset connection, a 5xx or a flipped byte broke, a few times at once; the rest is the workflow's."""
    for left in range(tries - 1, -1, -1):
        try:
            return await attempt()
        except (ServerFault, IntegrityMismatch):
            if not left:
                raise
            await asyncio.sleep(delay_s * 2 ** (tries - 1 - left))
    raise AssertionError("unreachable")


async def check_fence(destination: Place, condition: Condition) -> None:
    """The last look before a write that the endpoint does not fence itself. Raises `PreconditionFailed`."""
    if condition.kind == "any":
        return
    try:
        current = await destination.store.head(destination.bucket, destination.key, tags=False)
    except ObjectNotFound:
        held = condition.kind == "absent"
    else:
        held = condition.version is not None and current.version.token == condition.version.token
    if not held:
        raise PreconditionFailed("the destination changed since it was looked at, and the endpoint has no conditional writes")


async def send_object(
    source: Place,
    destination: Place,
    *,
    pin: Version,
    checksums: Checksums,
    attributes: Attributes,
    condition: Condition,
    capabilities: Capabilities,
    meter: Meter,
    budget: ByteBudget,
) -> Transferred:
    """Streams a whole object in one commit. Raises whatever the stores raise; on a mismatch nothing stays visible.

    `budget` bounds what all small bodies, which are gathered, take of memory at once.
    """
    size = pin.size_bytes
    async with contextlib.AsyncExitStack() as held:
        if not size:
            body = Body.of(b"")
        elif size <= GATHER_MAX:
            await held.enter_async_context(budget.hold(size))
            body = await quick_retry(lambda: _gathered(source, pin, checksums, meter))
        else:
            chunks = await held.enter_async_context(_range(source, pin, 0, size, meter))
            check = partial(check_source, checksums)
            body = Body(chunks, size, digest=Digest(like=checksums), check=check, known_crc32c=checksums.crc32c)
        return await _stored(destination, body, checksums, attributes, condition, capabilities)


async def send_bytes(
    destination: Place, data: bytes, *, checksums: Checksums, attributes: Attributes, condition: Condition, capabilities: Capabilities
) -> Transferred:
    """As `send_object`, of bytes that are here already: `checksums` are what their source vouches for."""
    digest = Digest(like=checksums, md5=True)
    digest.update(data)
    check_source(checksums, digest)
    return await _stored(destination, Body.of(data, checked=digest), checksums, attributes, condition, capabilities)


async def _stored(
    destination: Place, body: Body, checksums: Checksums, attributes: Attributes, condition: Condition, capabilities: Capabilities
) -> Transferred:
    info = await destination.store.put(destination.bucket, destination.key, body, attributes, condition)
    ours = body.result().checksums()
    proved = await prove_stored(destination, info, ours, enforced=capabilities.upload_checksum in ("header", "trailer"))
    compared = same_checksums(ours, checksums) is True
    return Transferred(info, ours, level(source_compared=compared, destination_proved=proved), body.size_bytes)


async def _gathered(source: Place, pin: Version, checksums: Checksums, meter: Meter) -> Body:
    size, digest = pin.size_bytes, Digest(like=checksums, md5=True)
    async with _range(source, pin, 0, size, meter) as chunks:
        data = await Body(chunks, size, digest=digest, check=partial(check_source, checksums)).gather()
    return Body.of(data, checked=digest)


def _range(source: Place, pin: Version, offset: int, length: int, meter: Meter) -> contextlib.aclosing[AsyncGenerator[Chunk, None]]:
    """The bytes of a range, metered. Closed at the end of the block, also when a store stops taking them half-way: the
    connection to the source is given back then and not when the garbage is collected."""

    budget = current_budget()

    async def chunks() -> AsyncGenerator[Chunk, None]:
        async with source.store.read(source.bucket, source.key, pin=pin, offset=offset, length=length) as pieces:
            async for piece in pieces:
                meter(len(piece))
                await budget.go_on(size_bytes=len(piece))
                yield piece

    return contextlib.aclosing(chunks())


def check_source(expected: Checksums, digest: Digest) -> None:
    """Raises `IntegrityMismatch` when what was read is not what the source says it holds."""
    if same_checksums(digest.checksums(), expected) is False:
        raise IntegrityMismatch("the bytes read do not have the checksum that the source publishes for this version")


async def prove_stored(destination: Place, info: ObjectInfo, ours: Checksums, *, enforced: bool) -> bool:
    """True if the destination is known to hold what was read; raises `IntegrityMismatch`, after removing the version
    that was just written, if it is known not to; False if the store tells nothing but the size."""
    verdict = same_checksums(ours, info.checksums)
    if verdict is None and not enforced:
        shown = await destination.store.head(destination.bucket, destination.key, tags=False)
        same_version = shown.version.token == info.version.token
        verdict = same_checksums(ours, shown.checksums) if same_version else None
        if same_version and shown.size_bytes != info.size_bytes:
            verdict = False
    if verdict is False:
        await _remove(destination, info.version)
        raise IntegrityMismatch("the destination stored other bytes than were sent; that version was removed again")
    return verdict is True or enforced


async def _remove(destination: Place, version: Version) -> None:
    try:
        await destination.store.delete(destination.bucket, destination.key, version)
    except (PreconditionFailed, ObjectNotFound):
        return  # someone else's newer version stands there now


async def send_part(
    source: Place,
    destination: Place,
    upload_id: str,
    number: int,
    *,
    pin: Version,
    checksums: Checksums,
    offset: int,
    length: int,
    meter: Meter,
) -> SentPart:
    """Streams one part, hashed; repeated quickly where that may help."""

    async def attempt() -> SentPart:
        digest = Digest(like=checksums)
        async with _range(source, pin, offset, length, meter) as chunks:
            body = Body(chunks, length, digest=digest)
            part = await destination.store.put_part(destination.bucket, destination.key, upload_id, number, offset, body)
        if part.crc32c is not None and part.crc32c != digest.crc32c:
            raise IntegrityMismatch(f"part {number} was stored with another checksum than was sent")
        return SentPart(part, digest.crc32c, digest.companion, length)

    return await quick_retry(attempt)


async def copy_part(source: Place, destination: Place, upload_id: str, number: int, *, pin: Version, offset: int, length: int) -> SentPart:
    """One part by a server-side copy: no bytes pass here, so its CRC is known only if the store tells it."""

    async def attempt() -> SentPart:
        part = await destination.store.copy_part(
            destination.bucket, destination.key, upload_id, number, source.bucket, source.key, pin, offset, length
        )
        return SentPart(part, part.crc32c, None, 0)

    return await quick_retry(attempt)


async def commit_recognised(commit: Callable[[], Awaitable[T]], look: Callable[[], Awaitable[T | None]]) -> T:
    """Runs `commit`; when it fails in a way that leaves open whether it happened (a fence that held, a lost answer, an
    unknown upload), asks `look` for our own commit, and only without one lets the failure stand."""
    try:
        return await commit()
    except (PreconditionFailed, UploadLost, ServerFault, StoreTimeout):
        found = await look()
        if found is None:
            raise
        return found
