"""Finding out what a GCS endpoint really does, by asking it for things that it must refuse."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from replication.errors import ObjectError, ObjectNotFound, PreconditionFailed, Refused
from replication.keys import PROBE_ENDS_S, PROBE_PREFIX
from replication.limits import Capabilities
from stores.checksum import crc32c, encode_crc
from stores.gcs_api import GcsApi
from stores.gcs_resources import Piece, to_listed, to_piece

DATA = b"drayage probe"
NO_GENERATION = "1"
"""A generation that no object has: GCS makes them from the time in microseconds."""


def presumed(*, google: bool, versioned: bool, detail: str) -> Capabilities:
    """What is taken for granted before anything was written: Google's documentation for Google, nothing for others."""
    return Capabilities(
        conditional_writes=google,
        conditional_completes=google,
        conditional_deletes=google,
        pinned_reads=google,
        server_side_copy=True,
        upload_checksum="header" if google else "response",
        part_checksum="response",
        versioned=versioned,
        detail=detail,
    )


async def probe_writes(api: GcsApi, bucket: str, name: str, *, versioned: bool, detail: str) -> Capabilities:
    """Asks with objects named `name…`, which are removed again. A first write that is refused raises its error."""
    spare = f"{name}-2"
    right = {"name": name, "crc32c": encode_crc(crc32c(DATA))}
    wrong = {"name": spare, "crc32c": encode_crc(crc32c(DATA) ^ 1)}
    try:
        piece = to_piece(await api.insert(bucket, right, DATA, len(DATA), if_generation="0"))
        return Capabilities(
            conditional_writes=await _refused(api.insert(bucket, right, DATA, len(DATA), if_generation="0"), PreconditionFailed),
            pinned_reads=await _refused(_read(api, bucket, name), ObjectNotFound),
            server_side_copy=not await _refused(_copy(api, bucket, piece, spare), Refused),
            conditional_completes=await _refused(api.compose(bucket, name, [piece], {}, if_generation="0"), PreconditionFailed),
            conditional_deletes=await _refused(api.delete(bucket, name, if_generation=NO_GENERATION), PreconditionFailed),
            upload_checksum="header"
            if await _refused(api.insert(bucket, wrong, DATA, len(DATA), if_generation=None), Refused)
            else "response",
            part_checksum="response",
            versioned=versioned,
            detail=detail,
        )
    finally:
        for leftover in (name, spare):
            with suppress(ObjectError):
                await api.delete(bucket, leftover)


async def sweep_probes(api: GcsApi, bucket: str) -> None:
    """Removes what probes that were killed left behind. It is no finding of this probe when that is not allowed."""
    before = datetime.now(UTC) - timedelta(seconds=PROBE_ENDS_S)
    with suppress(ObjectError):
        resources, _ = await api.list_page(bucket, PROBE_PREFIX, versions=True)
        for entry in map(to_listed, resources):
            if entry.version.modified is not None and entry.version.modified < before:
                await api.delete(bucket, entry.key, generation=entry.version.id)


async def _refused(request: Awaitable[object], error: type[ObjectError]) -> bool:
    try:
        await request
    except error:
        return True
    return False


async def _read(api: GcsApi, bucket: str, name: str) -> None:
    async with api.media(bucket, name, generation=NO_GENERATION, span=None):
        pass


async def _copy(api: GcsApi, bucket: str, piece: Piece, name: str) -> None:
    await api.rewrite((bucket, piece.name, piece.generation), bucket, name, {}, if_generation=None, token=None)
