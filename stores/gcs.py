"""Google Cloud Storage, over its JSON API: generations pin reads and fence writes, compose joins parts.

An upload of parts is a folder of ordinary objects under the reserved prefix (`stores/gcs_temporaries.py`). They take the bucket's
default storage class, because a composite has the class of its sources; where another class is wanted, the composite is made
as one more temporary and rewritten into that class.

fake-gcs-server ignores preconditions on compose, rewrite, patch and delete, and merges attributes where GCS replaces
them. There (`Capabilities` say so) the destination is looked at just before such a write, and attributes that were
merged are replaced by way of one more temporary.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from typing import Any, Literal

from google.api_core.exceptions import Forbidden, GoogleAPICallError
from google.auth.credentials import AnonymousCredentials, Credentials
from google.cloud import storage
from requests.exceptions import RequestException

from replication.errors import (
    EndpointUnreachable,
    IntegrityMismatch,
    NotSupported,
    ObjectError,
    ObjectNotFound,
    PreconditionFailed,
    ServerFault,
    SourceChanged,
    UploadLost,
)
from replication.keys import PROBE_PREFIX, is_reserved
from replication.limits import GCS_LIMITS, MIB, Capabilities, Limits
from replication.models import Attributes, Condition, ListedObject, ObjectInfo, OpenUpload, Part, Version
from stores.base import Store
from stores.body import Body
from stores.checksum import encode_crc
from stores.chunks import Chunks, Data, exactly
from stores.gcs_api import GcsApi
from stores.gcs_compose import joined, pieces_of
from stores.gcs_credentials import BearerTokens
from stores.gcs_errors import gcs_error
from stores.gcs_media import check_media
from stores.gcs_objects import GcsObjects
from stores.gcs_probe import presumed, probe_writes, sweep_probes
from stores.gcs_resources import (
    Piece,
    Resource,
    check_name,
    part_name,
    part_number,
    same_attributes,
    stored_metadata,
    temporary_resource,
    to_info,
    to_listed,
    to_patch,
    to_piece,
    to_resource,
    to_version,
    upload_prefix,
)
from stores.gcs_temporaries import GcsTemporaries
from stores.http import HttpPlane

GOOGLE = "https://storage.googleapis.com"
GATHER_MAX = MIB
"""Up to here a body is sent from memory: its CRC32C is known first, and no temporary object is needed."""
BUCKET_TIMEOUT_S = 10.0


class GcsStore(Store):
    """One GCS endpoint. `endpoint` is None for Google's own; `anonymous` sends no credentials."""

    kind: Literal["s3", "gcs", "file", "memory"] = "gcs"
    limits: Limits = GCS_LIMITS

    def __init__(
        self,
        name: str,
        *,
        project: str | None = None,
        endpoint: str | None = None,
        anonymous: bool = False,
        connections: int = 128,
        tokens: BearerTokens | None = None,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._base = (endpoint or GOOGLE).rstrip("/")
        self.identity = f"gcs {self._base} {'anonymous' if anonymous else 'application-default'}"
        self._project = project
        self._google = self._base == GOOGLE
        self._tokens = None if anonymous else tokens or BearerTokens()
        self._plane = HttpPlane(connections=connections)
        self._api = GcsApi(self._base, self._plane, self._tokens, new_id)
        self._objects = GcsObjects(self._api, clock)
        self._temporaries = GcsTemporaries(self._api, self._objects)
        self._new_id = new_id
        self._probed: dict[str, Capabilities] = {}

    async def close(self) -> None:
        await self._plane.close()

    # --- looking -----------------------------------------------------------------------------------------------------

    def check_key(self, key: str) -> None:
        check_name(key)

    async def probe(self, bucket: str, *, writable: bool) -> Capabilities:
        await self._objects.look_at(bucket)
        versioned, detail = await self._versioning(bucket)
        if not writable:
            return presumed(google=self._google, versioned=versioned, detail=f"{detail}; nothing was written")
        name = f"{PROBE_PREFIX}{self._new_id()}"
        self._probed[bucket] = await probe_writes(self._api, bucket, name, versioned=versioned, detail=detail)
        await sweep_probes(self._api, bucket)
        return self._probed[bucket]

    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        check_name(key)
        info = to_info(await self._objects.get(bucket, key))
        if info.key != key:
            raise ServerFault(f"asked for {key!r}, the answer is about {info.key!r}")
        return info

    async def list_objects(
        self, bucket: str, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> AsyncIterator[Sequence[ListedObject]]:
        last = start_after
        async for resources in self._objects.pages(bucket, prefix, start=start_after, page_size=page_size):
            page: list[ListedObject] = []
            for entry in map(to_listed, resources):
                if entry.key == start_after:
                    continue  # startOffset is inclusive
                # Comparing str compares code points, whose order is that of the UTF-8 bytes.
                if entry.key <= last or not entry.key.startswith(prefix):
                    raise ServerFault(f"the listing of {bucket!r} is out of order: {entry.key!r} after {last!r}")
                last = entry.key
                if not is_reserved(entry.key):
                    page.append(entry)
            if page:
                yield page

    @asynccontextmanager
    async def read(self, bucket: str, key: str, *, pin: Version, offset: int, length: int) -> AsyncIterator[Chunks]:
        check_name(key)
        if offset + length > pin.size_bytes:
            raise IntegrityMismatch(f"bytes {offset} to {offset + length} of an object of {pin.size_bytes}")
        span = None if length == pin.size_bytes else f"bytes={offset}-{offset + length - 1}"
        async with AsyncExitStack() as stack:
            try:
                response = await stack.enter_async_context(self._api.media(bucket, key, generation=pin.id, span=span))
            except ObjectNotFound as error:
                await self._objects.require_bucket(bucket)
                raise SourceChanged(f"generation {pin.id} of {key!r} is gone") from error
            check_media(response.status, response.headers, pin, offset, length)
            yield exactly(response.chunks(), length)

    # --- writing -----------------------------------------------------------------------------------------------------

    async def put(self, bucket: str, key: str, body: Body, attributes: Attributes, condition: Condition) -> ObjectInfo:
        """A body that is large, and whose CRC32C is unknown or would not be enforced, goes to a temporary object, is
        verified there, and published by compose: an object with wrong bytes is at no time visible under `key`."""
        check_name(key)
        if body.size_bytes <= GATHER_MAX:
            data = await body.gather()
            if body.known_crc32c not in (None, body.digest.crc32c):
                raise IntegrityMismatch(f"the bytes for {key!r} do not have the CRC32C that was announced")
            return await self._insert(bucket, key, data, body.size_bytes, attributes, body.digest.crc32c, condition)
        if body.known_crc32c is not None and self._capabilities(bucket).upload_checksum == "header":
            return await self._insert(bucket, key, aiter(body), body.size_bytes, attributes, body.known_crc32c, condition)
        return await self._put_by_temporary(bucket, key, body, attributes, condition)

    async def copy(
        self,
        source_bucket: str,
        source_key: str,
        pin: Version,
        bucket: str,
        key: str,
        attributes: Attributes,
        condition: Condition,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> ObjectInfo:
        check_name(key)
        await self._check_fence(bucket, key, condition)
        source = (source_bucket, source_key, pin.id)
        resource = await self._objects.rewrite(source, bucket, key, to_resource(attributes), _generation(condition), progress)
        return await self._with_attributes(bucket, resource, attributes)

    async def update_attributes(self, bucket: str, key: str, version: Version, attributes: Attributes) -> ObjectInfo:
        check_name(key)
        current = await self._objects.find(bucket, key)
        if current is None or current.version.id != version.id or version.revision not in ("", current.version.revision):
            raise PreconditionFailed(f"{key!r} is no longer generation {version.id}, metageneration {version.revision}")
        if attributes.storage_class not in ("", current.attributes.storage_class):
            raise NotSupported("only a rewrite changes the storage class")
        patch = to_patch(attributes, stored_metadata(current.attributes))
        revision = current.version.revision or None
        try:
            resource = await self._api.patch(bucket, key, patch, if_generation=version.id, if_metageneration=revision)
        except ObjectNotFound as error:
            raise PreconditionFailed(f"{key!r} was deleted meanwhile") from error
        if "metageneration" not in resource:
            resource = await self._objects.get(bucket, key, generation=version.id)
        info = await self._with_attributes(bucket, resource, attributes)
        if not same_attributes(info.attributes, attributes):
            raise NotSupported("the endpoint does not replace attributes")
        return info

    async def delete(self, bucket: str, key: str, version: Version) -> None:
        check_name(key)
        if not self._capabilities(bucket).conditional_deletes:
            current = await self._objects.find(bucket, key)
            if current is None:
                return
            if current.version.id != version.id:
                raise PreconditionFailed(f"{key!r} is no longer generation {version.id}")
        try:
            await self._api.delete(bucket, key, if_generation=version.id)
        except ObjectNotFound:
            await self._objects.require_bucket(bucket)
        except PreconditionFailed:
            if await self._objects.find(bucket, key) is not None:
                raise

    # --- uploads of parts --------------------------------------------------------------------------------------------

    async def begin_upload(self, bucket: str, key: str, attributes: Attributes) -> str:
        check_name(key)
        upload_id = self._new_id()
        await self._temporaries.open_upload(bucket, key, upload_id)
        return upload_id

    async def put_part(self, bucket: str, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        piece = await self._temporaries.stage(bucket, part_name(upload_id, number), key, body)
        await self._temporaries.keep_if_open(bucket, key, upload_id, piece)
        return _part(number, piece)

    async def copy_part(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        source_bucket: str,
        source_key: str,
        pin: Version,
        offset: int,
        length: int,
    ) -> Part:
        """`NotSupported` but for a whole object: GCS copies no ranges."""
        if offset or length != pin.size_bytes:
            raise NotSupported("GCS cannot copy a range of an object into a part")
        name, source = part_name(upload_id, number), (source_bucket, source_key, pin.id)
        piece = to_piece(await self._objects.rewrite(source, bucket, name, temporary_resource(name, key), None))
        await self._temporaries.keep_if_open(bucket, key, upload_id, piece)
        return _part(number, piece)

    async def list_parts(self, bucket: str, key: str, upload_id: str) -> list[Part]:
        stored = await self._temporaries.of_upload(bucket, upload_id)
        numbered = [(number, piece) for name, piece in stored.items() if (number := part_number(name)) is not None]
        return [_part(number, piece) for number, piece in sorted(numbered, key=lambda pair: pair[0])]

    async def complete_upload(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        parts: Sequence[Part],
        attributes: Attributes,
        condition: Condition,
        *,
        crc32c: int | None,
    ) -> ObjectInfo:
        """May be repeated after a failure at any step: intermediate composites that are right are used again."""
        stored = await self._temporaries.of_upload(bucket, upload_id)
        pieces = pieces_of(parts, upload_id, stored)
        if crc32c is not None and (joined("", pieces).crc32c if pieces else 0) != crc32c:
            raise IntegrityMismatch(f"the parts of {key!r} do not make up the CRC32C of the whole")
        if pieces:
            pieces = await self._temporaries.joined(bucket, key, upload_id, pieces, stored)
            info = await self._publish(bucket, key, upload_id, pieces, attributes, condition)
        else:
            info = await self._insert(bucket, key, b"", 0, attributes, 0, condition)
        with suppress(ObjectError):
            await self.abort_upload(bucket, key, upload_id)
        return info

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        await self._temporaries.remove_upload(bucket, upload_id)

    async def list_uploads(self, bucket: str, prefix: str = "") -> AsyncIterator[OpenUpload]:
        async for upload in self._temporaries.uploads(bucket, prefix):
            yield upload

    # --- the bucket and its conditions -------------------------------------------------------------------------------

    async def _versioning(self, bucket: str) -> tuple[bool, str]:
        """Whether the bucket keeps old generations, and a remark. The right to read a bucket's settings is not required."""
        credentials = await self._tokens.credentials() if self._tokens else AnonymousCredentials()  # type: ignore[no-untyped-call]
        try:
            versioned = await asyncio.to_thread(self._bucket_versioning, bucket, credentials)
        except Forbidden:
            return False, "storage.buckets.get is not granted: versioning is unknown"
        except GoogleAPICallError as error:
            raise gcs_error(int(error.code or 500), b"", {}, f"get bucket {bucket!r}") from error
        except ValueError as error:
            raise ServerFault(f"get bucket {bucket!r}: the answer is not JSON") from error
        except RequestException as error:
            raise EndpointUnreachable(f"get bucket {bucket!r}: {error}") from error
        return versioned, "versioned" if versioned else "not versioned"

    def _bucket_versioning(self, bucket: str, credentials: Credentials) -> bool:
        options = {"api_endpoint": self._base}
        client: Any = storage.Client(project=self._project or "-", credentials=credentials, client_options=options)  # type: ignore[no-untyped-call]
        with closing(client):
            return bool(client.get_bucket(bucket, timeout=BUCKET_TIMEOUT_S, retry=None).versioning_enabled)

    def _capabilities(self, bucket: str) -> Capabilities:
        return self._probed.get(bucket) or presumed(google=self._google, versioned=False, detail="not probed")

    async def _check_fence(self, bucket: str, key: str, condition: Condition) -> None:
        """Looks whether `condition` holds, on an endpoint that does not enforce it on compose and rewrite."""
        if condition.kind == "any" or self._capabilities(bucket).conditional_completes:
            return
        current = await self._objects.find(bucket, key)
        if (current.version.id if current else "0") != _generation(condition):
            raise PreconditionFailed(f"{key!r} is not what the condition names")

    # --- objects and their attributes --------------------------------------------------------------------------------

    async def _insert(
        self, bucket: str, key: str, data: Data, size_bytes: int, attributes: Attributes, crc32c: int, condition: Condition
    ) -> ObjectInfo:
        resource = {"name": key, "crc32c": encode_crc(crc32c)} | to_resource(attributes)
        stored = await self._objects.insert(bucket, resource, data, size_bytes, _generation(condition))
        await self._objects.verify(bucket, key, stored, size_bytes, crc32c)
        return to_info(stored)

    async def _with_attributes(self, bucket: str, resource: Resource, wanted: Attributes) -> ObjectInfo:
        """The object with exactly the attributes that are wanted: one that got others besides is composed into a new
        temporary, which has no others, and rewritten from there."""
        info, exact = to_info(resource), to_resource(wanted)
        if same_attributes(info.attributes, wanted):
            return info
        spare, made = f"{upload_prefix(self._new_id())}whole", None
        try:
            made = to_version(await self._api.compose(bucket, spare, [to_piece(resource)], exact, if_generation="0")).id
            return to_info(await self._objects.rewrite((bucket, spare, made), bucket, info.key, exact, info.version.id))
        except ObjectNotFound as error:
            raise PreconditionFailed(f"{info.key!r} was replaced meanwhile") from error
        finally:
            with suppress(ObjectError):
                await self._objects.remove(bucket, [(spare, made)])

    # --- what is seen only when it is right --------------------------------------------------------------------------

    async def _put_by_temporary(self, bucket: str, key: str, body: Body, attributes: Attributes, condition: Condition) -> ObjectInfo:
        upload_id = self._new_id()
        name, staged = part_name(upload_id, 1), None
        try:
            piece = await self._temporaries.stage(bucket, name, key, body)
            staged = piece.generation
            return await self._publish(bucket, key, upload_id, [piece], attributes, condition)
        finally:
            with suppress(ObjectError):
                await self._objects.remove(bucket, [(name, staged)])

    async def _publish(
        self, bucket: str, key: str, upload_id: str, pieces: Sequence[Piece], attributes: Attributes, condition: Condition
    ) -> ObjectInfo:
        """Makes 1 to 32 verified pieces visible as one object, in one conditional request that sets its attributes."""
        expected, resource = joined(key, pieces), to_resource(attributes)
        if attributes.storage_class not in ("", expected.storage_class):
            whole = await self._temporaries.compose(bucket, key, f"{upload_prefix(upload_id)}whole", pieces)
            await self._check_fence(bucket, key, condition)
            stored = await self._objects.rewrite((bucket, whole.name, whole.generation), bucket, key, resource, _generation(condition))
            await self._objects.remove(bucket, [(whole.name, whole.generation)])
        else:
            await self._check_fence(bucket, key, condition)
            try:
                stored = await self._api.compose(bucket, key, pieces, resource, if_generation=_generation(condition))
            except ObjectNotFound as error:
                await self._objects.require_bucket(bucket)
                raise UploadLost(f"a part of {key!r} is gone") from error
        await self._objects.verify(bucket, key, stored, expected.size_bytes, expected.crc32c)
        return await self._with_attributes(bucket, stored, attributes)


# --- small pure helpers ------------------------------------------------------------------------------------------------


def _generation(condition: Condition) -> str | None:
    """The generation that must be current at the destination: "0" for none, None for any."""
    if condition.kind == "any":
        return None
    return condition.version.id if condition.version is not None else "0"


def _part(number: int, piece: Piece) -> Part:
    return Part(number, piece.size_bytes, piece.generation, piece.crc32c)
