"""Amazon S3 and S3-compatible stores over signed HTTP: every key exact, every read pinned, every write conditional."""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace

from replication.errors import (
    IntegrityMismatch,
    KeyCollision,
    NotSupported,
    ObjectError,
    ObjectNotFound,
    PreconditionFailed,
    ServerFault,
    SourceChanged,
)
from replication.keys import PROBE_PREFIX, check_key
from replication.limits import S3_LIMITS, Capabilities
from replication.models import Attributes, Condition, ListedObject, ObjectInfo, OpenUpload, Part, Version
from stores.base import Store
from stores.body import Body
from stores.cdn import Edge
from stores.chunks import Chunks, exactly
from stores.s3credentials import DefaultChain, Given
from stores.s3errors import key_error, key_refusal, read_error, unkept_key, write_error
from stores.s3headers import (
    attribute_headers,
    check_read,
    checksums,
    condition_headers,
    object_info,
    quoted,
    replace_headers,
    source_headers,
    version_id,
)
from stores.s3list import MAX_PAGE, S3Listing
from stores.s3probe import WriteProbe, honours_read_pins, presumed, sweep_probes
from stores.s3send import S3Sending
from stores.s3tags import S3Tags
from stores.s3upload import S3Uploads
from stores.s3wire import COMMIT_IDLE_S, Address, Answer, S3Wire
from stores.s3xml import (
    is_error,
    parse_result,
    parse_versioning,
    restore_document,
    unquote_etag,
)
from stores.signing import Credentials

BUCKET_SEEN_S = 5.0
"""How long the proof that a bucket is there and readable serves for further absent keys."""
RESTORING = frozenset({"RestoreAlreadyInProgress", "ObjectAlreadyInActiveTierError"})
"""A restore that was asked for is under way, or not needed any more."""


class S3Store(Store):
    """One S3 endpoint with one set of credentials (`Store` is the contract).

    Without an endpoint it is AWS's of `region`. `credentials` reads those of the settings, again after a refusal; without them the
    default AWS chain gives some. What one of the `edges` serves is read there: the first of them.
    """

    kind = "s3"
    limits = S3_LIMITS

    def __init__(
        self,
        name: str,
        *,
        region: str,
        endpoint: str | None = None,
        credentials: Callable[[], Credentials] | None = None,
        path_style: bool | None = None,
        connections: int = 128,
        expected_bucket_owner: str | None = None,
        edges: Sequence[Edge] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        source = Given(credentials) if credentials else DefaultChain()
        signer = source.first.access_key_id if isinstance(source, Given) else "default chain"
        address = Address.of(endpoint, region, path_style)
        self.name = name
        self.identity = f"s3 {address.scheme}://{address.host}{address.path} {region} {signer}"
        self._aws = endpoint is None
        self._wire = S3Wire(
            address,
            region,
            source,
            connections=connections,
            expected_bucket_owner=expected_bucket_owner,
            clock=clock,
        )
        self._owner = expected_bucket_owner
        self._edges = tuple(edges)
        self._listing = S3Listing(self._wire)
        self._tags = S3Tags(self._wire, aws=self._aws)
        self._sending = S3Sending(self._wire, aws=self._aws)
        self._uploads = S3Uploads(self._wire, self._sending)
        self._capabilities: dict[str, Capabilities] = {}
        self._keeps_keys: dict[str, bool] = {}
        self._seen_at: dict[str, float] = {}

    # --- looking -----------------------------------------------------------------------------------------------------

    async def probe(self, bucket: str, *, writable: bool) -> Capabilities:
        await self._see(bucket)
        for edge in self._edges:
            if edge.bucket == bucket:
                await self._see_through(edge)
        versioned = await self._versioned(bucket)
        if not writable:
            pins = await honours_read_pins(self._wire, self._listing, bucket)
            detail = "not asked for writes" + ("; no object to test read pins with" if pins is None else "")
            found = presumed(aws=self._aws, versioned=versioned, detail=detail)
            return found if pins is None else replace(found, pinned_reads=pins)
        found, self._keeps_keys[bucket] = await self._write_probe(bucket).run(versioned=versioned)
        await sweep_probes(self._wire, self._listing, bucket)
        self._capabilities[bucket] = found
        self._sending.learn(bucket, found)
        return found

    async def _see(self, bucket: str) -> None:
        """Proves that the bucket is there and readable, or raises."""
        await self._listing.page(bucket, "", 1)
        self._seen_at[bucket] = time.monotonic()

    async def _see_through(self, edge: Edge) -> None:
        """Proves that the edge lets objects be read, if there are any, or raises."""
        for entry in (await self._listing.page(edge.bucket, edge.prefix, MAX_PAGE)).objects:
            if entry.version.size_bytes and self._edge(edge.bucket, entry.key) is edge:
                return await edge.check(entry.key)

    def _write_probe(self, bucket: str) -> WriteProbe:
        return WriteProbe(self._wire, self._listing, bucket, f"{PROBE_PREFIX}{uuid.uuid4().hex}/", aws=self._aws)

    async def _versioned(self, bucket: str) -> bool:
        """False also where the endpoint does not tell: a version then has no id, and nothing relies on one."""
        answer = await self._wire.send("GET", bucket, query={"versioning": ""})
        if answer.failed:
            return False
        return parse_versioning(answer.body)

    async def head(self, bucket: str, key: str, *, tags: bool = True) -> ObjectInfo:
        check_key(key)
        answer = await self._wire.send("HEAD", bucket, key, headers={"x-amz-checksum-mode": "ENABLED"})
        if answer.status == 404:
            raise await self._absence(bucket, key, answer)
        if answer.failed:
            raise await self._told_by_get(bucket, key, answer)
        self._seen_at[bucket] = time.monotonic()
        return object_info(key, answer.headers, tags=await self._tags.of(bucket, key, answer) if tags else None)

    async def _absence(self, bucket: str, key: str, answer: Answer) -> ObjectError:
        """What a HEAD's 404 means. It has no body and so looks the same without key, bucket or permission: absence is
        believed only where the bucket lists (or names a delete marker), which serves further keys for a few seconds."""
        absent = ObjectNotFound("the store has no object of this key")
        if answer.headers.get("x-amz-delete-marker") == "true":
            return absent
        if time.monotonic() - self._seen_at.get(bucket, -BUCKET_SEEN_S) < BUCKET_SEEN_S:
            return absent
        page = await self._listing.page(bucket, key, 1)
        if any(entry.key == key for entry in page.objects):
            return ServerFault("HEAD answers 404 for a key that the listing holds")
        self._seen_at[bucket] = time.monotonic()
        return absent

    async def _told_by_get(self, bucket: str, key: str, answer: Answer) -> ObjectError:
        """The error behind a failed HEAD, which has no body, in the words of a GET."""
        if answer.status in (301, 400, 403):
            again = await self._wire.send("GET", bucket, key, headers={"range": "bytes=0-0"})
            answer = again if again.failed and again.status not in (404, 416) else answer
        return key_error(answer, key)

    def list_objects(
        self, bucket: str, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> AsyncIterator[Sequence[ListedObject]]:
        return self._listing.pages(bucket, prefix, start_after, page_size)

    def _edge(self, bucket: str, key: str) -> Edge | None:
        return next((edge for edge in self._edges if edge.serves(bucket, key)), None)

    def read(self, bucket: str, key: str, *, pin: Version, offset: int, length: int) -> AbstractAsyncContextManager[Chunks]:
        if (edge := self._edge(bucket, key)) is not None:
            return self._read_through(edge, bucket, key, pin, offset, length)
        return self._read(bucket, key, pin, offset, length)

    @asynccontextmanager
    async def _read_through(self, edge: Edge, bucket: str, key: str, pin: Version, offset: int, length: int) -> AsyncIterator[Chunks]:
        async with AsyncExitStack() as stack:
            chunks = await edge.opened(stack, key, pin=pin, offset=offset, length=length)
            if chunks is None:
                chunks = await stack.enter_async_context(self._read(bucket, key, pin, offset, length))
            yield chunks

    @asynccontextmanager
    async def _read(self, bucket: str, key: str, pin: Version, offset: int, length: int) -> AsyncIterator[Chunks]:
        whole = offset == 0 and length == pin.size_bytes
        query = {"versionId": pin.id} if pin.id else None
        headers = {} if pin.id else {"if-match": quoted(pin)}
        if not whole:
            headers["range"] = f"bytes={offset}-{offset + length - 1}"
        async with self._wire.open("GET", bucket, key, query, headers) as answer:
            if answer.status != (200 if whole else 206):
                raise read_error(await answer.whole(), key)
            check_read(answer.headers, pin, None if whole else offset, length)
            yield exactly(answer.chunks(), length)

    async def fetch(self, bucket: str, key: str, *, pin: Version) -> tuple[ObjectInfo, bytes]:
        if self._edge(bucket, key) is not None:
            return await super().fetch(bucket, key, pin=pin)
        check_key(key)
        answer = await self._wire.send("GET", bucket, key, headers={"if-match": quoted(pin), "x-amz-checksum-mode": "ENABLED"})
        if answer.status != 200:
            raise read_error(answer, key)
        check_read(answer.headers, pin, None, pin.size_bytes)
        if len(answer.body) != pin.size_bytes:
            raise IntegrityMismatch(f"the answer has {len(answer.body)} bytes, {pin.size_bytes} were asked for")
        self._seen_at[bucket] = time.monotonic()
        return object_info(key, answer.headers, tags=await self._tags.of(bucket, key, answer)), answer.body

    # --- writing -----------------------------------------------------------------------------------------------------

    async def put(self, bucket: str, key: str, body: Body, attributes: Attributes, condition: Condition) -> ObjectInfo:
        await self._check_writable(bucket, key)
        headers = attribute_headers(attributes) | condition_headers(condition)
        answer = await self._sending.put(bucket, key, headers, body)
        if answer.failed:
            raise await self._fence_of_write(bucket, key, condition, write_error(answer, key))
        version = Version(body.size_bytes, unquote_etag(answer.headers.get("ETag", "")), version_id(answer.headers))
        if not version.etag:  # a page of something that stands in front of the store
            raise ServerFault("a write was answered without the ETag of what was stored")
        return ObjectInfo(key, version, attributes, checksums(answer.headers))

    async def _check_writable(self, bucket: str, key: str) -> None:
        """Raises for a key that cannot be stored under exactly its name. An endpoint is asked once for each bucket
        whether it keeps odd keys apart, when the first such key comes, and whether the bucket is there at all, since
        some (SeaweedFS) make a missing one by themselves."""
        check_key(key)
        if self._aws:
            return
        if bucket not in self._seen_at:
            await self._see(bucket)
        if not unkept_key(key):
            return
        if bucket not in self._keeps_keys:
            probe = self._write_probe(bucket)
            try:
                self._keeps_keys[bucket] = await probe.keeps_keys()
            finally:
                await probe.clean_up()
        if not self._keeps_keys[bucket]:
            raise key_refusal(key)

    async def _fence_of_write(self, bucket: str, key: str, condition: Condition, error: ObjectError) -> ObjectError:
        """SeaweedFS takes a folder for an object of its name: `a` is then absent, yet never to be created."""
        if self._aws or condition.kind != "absent" or not isinstance(error, PreconditionFailed):
            return error
        below = await self._listing.page(bucket, key + "/", 1)
        if below.objects and not await self._is_there(bucket, key):
            return KeyCollision(f"the endpoint does not create {key!r} beside what stands below {key + '/'!r}")
        return error

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
        await self._check_writable(bucket, key)
        if pin.size_bytes > self.limits.max_copy_size:
            raise NotSupported(f"one request copies at most {self.limits.max_copy_size} bytes")
        headers = replace_headers(attributes) | condition_headers(condition) | self._source(source_bucket, source_key, pin)
        try:
            answer = await self._wire.call("PUT", bucket, key, headers=headers, idle_timeout_s=COMMIT_IDLE_S)
        except (PreconditionFailed, ObjectNotFound) as error:
            raise await self._fence_of_copy(source_bucket, source_key, pin, error) from error
        if progress is not None:
            progress(pin.size_bytes)
        return _committed(key, pin.size_bytes, attributes, answer, "CopyObjectResult")

    def _source(self, bucket: str, key: str, pin: Version) -> dict[str, str]:
        owner = {"x-amz-source-expected-bucket-owner": self._owner} if self._owner else {}
        return source_headers(bucket, key, pin) | owner

    async def _fence_of_copy(self, bucket: str, key: str, pin: Version, error: ObjectError) -> ObjectError:
        """Which fence held: a 412 or 404 of a copy does not tell whether it was the source's or the destination's."""
        held = PreconditionFailed(str(error))
        if pin.id:
            return held
        try:
            current = await self.head(bucket, key, tags=False)
        except ObjectNotFound as gone:
            return SourceChanged(str(gone))
        return held if current.version.token == pin.token else SourceChanged("the source is no longer the pinned version")

    async def update_attributes(self, bucket: str, key: str, version: Version, attributes: Attributes) -> ObjectInfo:
        check_key(key)
        if version.size_bytes > self.limits.max_copy_size:
            raise NotSupported(f"S3 sets attributes by a copy onto itself, of at most {self.limits.max_copy_size} bytes")
        headers = replace_headers(attributes) | {"if-match": quoted(version)} | self._source(bucket, key, version)
        try:
            answer = await self._wire.call("PUT", bucket, key, headers=headers, idle_timeout_s=COMMIT_IDLE_S)
        except (ObjectNotFound, SourceChanged) as error:
            raise PreconditionFailed(str(error)) from error
        return _committed(key, version.size_bytes, attributes, answer, "CopyObjectResult")

    async def delete(self, bucket: str, key: str, version: Version) -> None:
        check_key(key)
        known = self._capabilities.get(bucket)
        fenced = known.conditional_deletes if known is not None else self._aws
        if not fenced and not await self._is_current(bucket, key, version):
            return
        answer = await self._wire.send("DELETE", bucket, key, headers={"if-match": quoted(version)})
        if not answer.failed:
            return
        error = key_error(answer, key)
        if not isinstance(error, (PreconditionFailed, ObjectNotFound)):
            raise error
        if await self._is_there(bucket, key):
            raise PreconditionFailed(str(error))

    async def _is_there(self, bucket: str, key: str) -> bool:
        """False on positive evidence of absence: SeaweedFS answers 412 to a conditional delete of an absent key."""
        try:
            await self.head(bucket, key, tags=False)
        except ObjectNotFound:
            return False
        return True

    async def _is_current(self, bucket: str, key: str, version: Version) -> bool:
        """The last look before a delete that the endpoint does not fence; False if the key is absent already."""
        try:
            current = await self.head(bucket, key, tags=False)
        except ObjectNotFound:
            return False
        if current.version.token != version.token:
            raise PreconditionFailed("another version is current, and the endpoint has no conditional delete")
        return True

    async def request_restore(self, bucket: str, key: str, version: Version, *, days: int) -> None:
        query = {"restore": ""} | ({"versionId": version.id} if version.id else {})
        body = restore_document(days)
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        headers = {"content-type": "application/xml", "content-md5": base64.b64encode(digest).decode()}
        answer = await self._wire.send("POST", bucket, key, query, headers, body)
        if answer.failed and answer.fault.get("Code") not in RESTORING:
            raise key_error(answer, key)

    # --- uploads of parts --------------------------------------------------------------------------------------------

    async def begin_upload(self, bucket: str, key: str, attributes: Attributes) -> str:
        await self._check_writable(bucket, key)
        return await self._uploads.begin(bucket, key, attributes)

    async def put_part(self, bucket: str, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        return await self._uploads.put_part(bucket, key, upload_id, number, body)

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
        source = self._source(source_bucket, source_key, pin)
        return await self._uploads.copy_part(bucket, key, upload_id, number, source, offset, length)

    async def list_parts(self, bucket: str, key: str, upload_id: str) -> list[Part]:
        return await self._uploads.list_parts(bucket, key, upload_id)

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
        answer = await self._uploads.complete(bucket, key, upload_id, parts, condition, crc32c)
        if answer.failed or is_error(answer.body):
            raise await self._fence_of_write(bucket, key, condition, write_error(answer, key))
        info = _committed(key, sum(part.size_bytes for part in parts), attributes, answer, "CompleteMultipartUploadResult")
        return info if info.checksums.crc32c is not None else await self._as_shown(bucket, info)

    async def _as_shown(self, bucket: str, info: ObjectInfo) -> ObjectInfo:
        """A commit whose answer told no checksum, as a HEAD tells it, if that shows the same version still."""
        try:
            shown = await self.head(bucket, info.key, tags=False)
        except ObjectError:
            return info
        if shown.version.etag != info.version.etag or (info.version.id and shown.version.id != info.version.id):
            return info
        return replace(info, version=shown.version, checksums=shown.checksums)

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        await self._uploads.abort(bucket, key, upload_id)

    async def list_uploads(self, bucket: str, prefix: str = "") -> AsyncIterator[OpenUpload]:
        async for upload in self._listing.uploads(bucket, prefix):
            yield upload

    async def close(self) -> None:
        for edge in self._edges:
            await edge.close()
        await self._wire.close()


def _committed(key: str, size: int, attributes: Attributes, answer: Answer, name: str) -> ObjectInfo:
    """The object that a copy or a complete made, from its answer."""
    result = parse_result(answer.body, name)
    told = {f"x-amz-checksum-{kind}": result.get(f"Checksum{kind.upper()}", "") for kind in ("crc32c", "crc64nvme", "crc32")}
    told |= {"ETag": result.get("ETag", ""), "x-amz-checksum-type": result.get("ChecksumType", "FULL_OBJECT")}
    encryption = {name: value for name, value in answer.headers.items() if name.lower().startswith("x-amz-server-side-encryption")}
    version = Version(size, unquote_etag(told["ETag"]), version_id(answer.headers))
    return ObjectInfo(key, version, attributes, checksums(told | {name.lower(): value for name, value in encryption.items()}))
