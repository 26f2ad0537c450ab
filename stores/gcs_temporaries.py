"""The temporary objects of one GCS endpoint, which stand for uploads of parts: a marker that says that the upload is open and
for which key, the parts, and the intermediate composites of `stores/gcs_compose.py`. Each is verified when it is stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from urllib.parse import quote

from replication.errors import ObjectError, ObjectNotFound, ServerFault, UploadLost
from replication.models import OpenUpload
from stores.body import Body
from stores.checksum import crc32c
from stores.gcs_api import GcsApi
from stores.gcs_compose import Span, compose_rounds, intermediate_name, joined, same_content
from stores.gcs_objects import GcsObjects, in_parallel
from stores.gcs_resources import (
    KEY_KEY,
    PARTS_PREFIX,
    Piece,
    marker_name,
    temporary_resource,
    to_piece,
    to_version,
    upload_of,
    upload_prefix,
)

SWEEPS = 8
"""Listings until an aborted upload must be empty; late parts remove themselves, so more than two are rare."""


class GcsTemporaries:
    """Markers, parts and composites by bucket and upload."""

    def __init__(self, api: GcsApi, objects: GcsObjects) -> None:
        self._api = api
        self._objects = objects

    # --- uploads -----------------------------------------------------------------------------------------------------

    async def open_upload(self, bucket: str, key: str, upload_id: str) -> None:
        await self._objects.insert(bucket, temporary_resource(marker_name(upload_id), key, crc32c(b"")), b"", 0, "0")

    async def of_upload(self, bucket: str, upload_id: str) -> dict[str, Piece]:
        """Everything stored for an open upload but its marker, by name."""
        pages = self._objects.pages(bucket, upload_prefix(upload_id))
        stored = {str(resource["name"]): to_piece(resource) async for page in pages for resource in page}
        if stored.pop(marker_name(upload_id), None) is None:
            raise UploadLost(f"there is no upload {upload_id!r}")
        return stored

    async def remove_upload(self, bucket: str, upload_id: str) -> None:
        await self._objects.remove(bucket, [(marker_name(upload_id), None)])  # first: a part that arrives from now on removes itself
        for _ in range(SWEEPS):
            pages = self._objects.pages(bucket, upload_prefix(upload_id), versions=True)
            found = [resource async for page in pages for resource in page]
            await self._objects.remove(bucket, [(str(resource["name"]), to_version(resource).id) for resource in found])
            if all("timeDeleted" in resource for resource in found):
                return  # nothing was there but what a bucket with versions keeps of removed objects
        raise ServerFault(f"upload {upload_id} still has objects after {SWEEPS} sweeps")

    async def uploads(self, bucket: str, prefix: str) -> AsyncIterator[OpenUpload]:
        open_upload: OpenUpload | None = None
        async for page in self._objects.pages(bucket, PARTS_PREFIX, metadata=True):
            for found in filter(None, map(upload_of, page)):
                if open_upload is not None and found.upload_id == open_upload.upload_id:
                    open_upload = replace(open_upload, started=min(open_upload.started, found.started))
                    continue
                if open_upload is not None and open_upload.key.startswith(prefix):
                    yield open_upload
                open_upload = found
        if open_upload is not None and open_upload.key.startswith(prefix):
            yield open_upload

    # --- parts and composites ----------------------------------------------------------------------------------------

    async def stage(self, bucket: str, name: str, key: str, body: Body) -> Piece:
        """Stores a body as a temporary object, verified."""
        stored = await self._objects.insert(bucket, temporary_resource(name, key, body.known_crc32c), aiter(body), body.size_bytes, None)
        await self._objects.verify(
            bucket, name, stored, body.size_bytes, body.digest.crc32c if body.known_crc32c is None else body.known_crc32c
        )
        return to_piece(stored)

    async def keep_if_open(self, bucket: str, key: str, upload_id: str, piece: Piece) -> None:
        """Checked after the part has arrived: one that an abort did not see removes itself."""
        marker = await self._objects.find(bucket, marker_name(upload_id))
        if marker is None or marker.attributes.metadata.get(KEY_KEY) != quote(key):
            with suppress(ObjectError):
                await self._api.delete(bucket, piece.name, generation=piece.generation)
            raise UploadLost(f"there is no upload {upload_id!r} of {key!r}")

    async def joined(self, bucket: str, key: str, upload_id: str, pieces: list[Piece], stored: dict[str, Piece]) -> list[Piece]:
        """Few enough pieces for the last compose; intermediate composites that are `stored` and right are used again."""
        for level, spans in enumerate(compose_rounds(len(pieces))):
            pieces = await self._compose_round(bucket, key, upload_id, level, spans, pieces, stored)
        return pieces

    async def _compose_round(
        self, bucket: str, key: str, upload_id: str, level: int, spans: list[Span], pieces: list[Piece], stored: dict[str, Piece]
    ) -> list[Piece]:
        async def one(index: int, first: int, last: int) -> Piece:
            if last - first == 1:
                return pieces[first]
            name = intermediate_name(upload_id, level, index)
            expected = joined(name, pieces[first:last])
            there = stored.get(name)
            return there if there and same_content(there, expected) else await self.compose(bucket, key, name, pieces[first:last])

        return await in_parallel(partial(one, index, *span) for index, span in enumerate(spans))

    async def compose(self, bucket: str, key: str, name: str, pieces: Sequence[Piece]) -> Piece:
        """A temporary composite, verified."""
        try:
            stored = await self._api.compose(bucket, name, pieces, temporary_resource(name, key), if_generation=None)
        except ObjectNotFound as error:
            await self._objects.require_bucket(bucket)
            raise UploadLost(f"a source of {name!r} is gone") from error
        expected = joined(name, pieces)
        await self._objects.verify(bucket, name, stored, expected.size_bytes, expected.crc32c)
        return replace(expected, generation=to_version(stored).id)
