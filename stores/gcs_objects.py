"""Requests for objects of one GCS endpoint, with what their answers mean: a 404 is an object or a bucket that is missing, what
was stored is what was sent or is removed again, a rewrite goes on until it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from replication.errors import BucketNotFound, IntegrityMismatch, ObjectError, ObjectNotFound, Refused, ServerFault, SourceChanged
from replication.keys import RESERVED_PREFIX
from replication.models import ObjectInfo
from stores.chunks import Data
from stores.gcs_api import GcsApi
from stores.gcs_resources import Resource, to_checksums, to_info, to_version

BUCKET_SEEN_S = 5.0
"""How long a bucket that answered is taken to be there, when a 404 has to be told apart."""
IN_FLIGHT = 16
"""Compose and delete requests at a time for one upload."""

EMPTY_PAGES = 1000
"""So many may follow each other in a listing."""

T = TypeVar("T")


class GcsObjects:
    """Objects by bucket and name, temporary ones included."""

    def __init__(self, api: GcsApi, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._seen: dict[str, float] = {}

    async def look_at(self, bucket: str) -> None:
        """Lists the bucket, which needs no more than the right that every route needs. `BucketNotFound`, or seen now."""
        try:
            await self._api.list_page(bucket, RESERVED_PREFIX, page_size=1)
        except ObjectNotFound as error:
            raise BucketNotFound(f"there is no bucket {bucket!r}") from error
        self._seen[bucket] = self._clock()

    async def require_bucket(self, bucket: str) -> None:
        seen = self._seen.get(bucket)
        if seen is None or self._clock() - seen > BUCKET_SEEN_S:
            await self.look_at(bucket)

    async def get(self, bucket: str, key: str, *, generation: str | None = None) -> Resource:
        try:
            return await self._api.get(bucket, key, generation=generation)
        except ObjectNotFound:
            await self.require_bucket(bucket)
            raise

    async def find(self, bucket: str, key: str) -> ObjectInfo | None:
        try:
            return to_info(await self.get(bucket, key))
        except ObjectNotFound:
            return None

    async def pages(
        self, bucket: str, prefix: str, *, start: str = "", page_size: int = 1000, metadata: bool = False, versions: bool = False
    ) -> AsyncIterator[list[Resource]]:
        token: str | None = None
        empty = 0
        while True:
            before = token
            try:
                page, token = await self._api.list_page(
                    bucket, prefix, start=start, token=token, page_size=page_size, metadata=metadata, versions=versions
                )
            except ObjectNotFound as error:
                raise BucketNotFound(f"there is no bucket {bucket!r}") from error
            yield page
            if token is None:
                return
            empty = 0 if page else empty + 1
            if token == before or empty > EMPTY_PAGES:
                raise ServerFault(f"the listing of {bucket!r} is cut short but does not go on")

    async def insert(self, bucket: str, resource: Resource, data: Data, size_bytes: int, if_generation: str | None) -> Resource:
        """Inserts an object. A value in the resource that the store calls invalid may be the CRC32C: tried again."""
        try:
            return await self._api.insert(bucket, resource, data, size_bytes, if_generation=if_generation)
        except ObjectNotFound as error:
            raise BucketNotFound(f"there is no bucket {bucket!r}") from error
        except Refused as error:
            if type(error) is Refused and "crc32c" in resource:
                raise IntegrityMismatch(f"refused, maybe for its checksum: {error}") from error
            raise

    async def verify(self, bucket: str, name: str, stored: Resource, size_bytes: int, crc32c: int) -> None:
        """Removes what was just stored, and raises `IntegrityMismatch`, if it is not what was sent."""
        version, found = to_version(stored), to_checksums(stored).crc32c
        if (version.size_bytes, found) == (size_bytes, crc32c):
            return
        with suppress(ObjectError):
            await self._api.delete(bucket, name, generation=version.id, if_generation=version.id)
        raise IntegrityMismatch(f"{name!r} was stored as {version.size_bytes} bytes, CRC32C {found}; sent were {size_bytes}, {crc32c}")

    async def rewrite(
        self,
        source: tuple[str, str, str],
        bucket: str,
        name: str,
        resource: Resource,
        if_generation: str | None,
        progress: Callable[[int], None] | None = None,
    ) -> Resource:
        """Repeats the rewrite until it is done; GCS gives up a call after some 30 s and goes on with the next."""
        token: str | None = None
        while True:
            try:
                answer = await self._api.rewrite(source, bucket, name, resource, if_generation=if_generation, token=token)
            except ObjectNotFound as error:
                await self.look_at(source[0])
                await self.look_at(bucket)
                raise SourceChanged(f"generation {source[2]} of {source[1]!r} is gone") from error
            made, token = answer.get("resource"), answer.get("rewriteToken")
            if progress is not None:
                progress(_count(answer.get("totalBytesRewritten", 0)))
            if answer.get("done") and isinstance(made, dict):
                return made
            if answer.get("done") or not isinstance(token, str):
                raise ServerFault(f"rewrite of {source[1]!r} to {name!r}: the answer neither ends it nor leads on")

    async def remove(self, bucket: str, temporaries: Iterable[tuple[str, str | None]]) -> None:
        """Removes temporary objects, by name and generation; one that is gone already is no error, a missing bucket is.

        A bucket that keeps versions keeps what is removed without its generation."""

        async def one(name: str, generation: str | None) -> None:
            try:
                await self._api.delete(bucket, name, generation=generation)
            except ObjectNotFound:
                await self.require_bucket(bucket)

        await in_parallel(partial(one, *temporary) for temporary in temporaries)


def _count(told: object) -> int:
    """64-bit numbers of the API are JSON strings."""
    try:
        return int(str(told))
    except ValueError as error:
        raise ServerFault("the answer to a rewrite tells no number of bytes") from error


async def in_parallel(calls: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
    """The results in order, at most `IN_FLIGHT` at a time; the first failure cancels the rest and is raised."""
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one(call: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await call()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(call)) for call in calls]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]
