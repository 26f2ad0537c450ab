"""Finding out what an S3 endpoint really does, by asking it for things that it must refuse, and which keys it keeps apart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from replication.errors import IntegrityMismatch, ObjectError, ServerFault, StoreTimeout
from replication.keys import PROBE_ENDS_S, PROBE_PREFIX
from replication.limits import Capabilities
from replication.models import Part
from stores.checksum import crc32c, decode_crc, encode_crc
from stores.s3headers import ASKED, CRC32C, FULL_OBJECT, version_id, whole_headers
from stores.s3list import MAX_PAGE, S3Listing
from stores.s3wire import Answer, S3Wire, framed_bytes, trailer_headers
from stores.s3xml import complete_document, is_error, parse_result, unquote_etag
from stores.signing import UNSIGNED_PAYLOAD_TRAILER, encode_key

DATA = b"drayage probe"
NO_ETAG = '"00000000000000000000000000000000"'
"""An ETag that no probe object has: it is the MD5 of nothing known."""
ODD_NAME = "k\\e//y/"
"""A name that an endpoint on a file system cannot keep: empty segments, a body behind a trailing slash, a backslash."""
KEYS_MERGED = "merges or loses keys with empty segments, '.', '..', backslashes or a trailing slash: they are refused"


def presumed(*, aws: bool, versioned: bool, detail: str) -> Capabilities:
    """What is taken for granted before anything was written: AWS's documentation for AWS, for others only the upload
    checksum in a header, which an endpoint that does not know it ignores."""
    return Capabilities(
        conditional_writes=aws,
        conditional_completes=aws,
        conditional_deletes=aws,
        pinned_reads=aws,
        server_side_copy=True,
        upload_checksum="trailer" if aws else "header",
        part_checksum="trailer" if aws else "header",
        versioned=versioned,
        detail=detail,
    )


async def honours_read_pins(wire: S3Wire, listing: S3Listing, bucket: str) -> bool | None:
    """True if a read with a wrong ETag is refused, None if there is no object to ask for. Writes nothing."""
    page = await listing.page(bucket, "", 1)
    if not page.objects:
        return None
    return (await _pinned_read(wire, bucket, page.objects[0].key)).status == 412


async def _pinned_read(wire: S3Wire, bucket: str, key: str) -> Answer:
    return await wire.send("GET", bucket, key, headers={"if-match": NO_ETAG, "range": "bytes=0-0"})


async def sweep_probes(wire: S3Wire, listing: S3Listing, bucket: str) -> None:
    """Removes what probes that were killed left behind, by version where there are versions. It is no finding of this probe
    when that is not allowed."""
    before = datetime.now(UTC) - timedelta(seconds=PROBE_ENDS_S)
    with suppress(ObjectError):
        for entry in (await listing.page(bucket, PROBE_PREFIX, MAX_PAGE)).objects:
            if entry.version.modified is not None and entry.version.modified < before:
                shown = await wire.send("HEAD", bucket, entry.key)
                await wire.send("DELETE", bucket, entry.key, {"versionId": found} if (found := version_id(shown.headers)) else None)
        async for upload in listing.uploads(bucket, PROBE_PREFIX):
            if upload.started < before:
                await wire.send("DELETE", bucket, upload.key, {"uploadId": upload.upload_id})


class WriteProbe:
    """One probe of one bucket with objects under `folder`, which it removes again: about 25 small requests, several at once."""

    def __init__(self, wire: S3Wire, listing: S3Listing, bucket: str, folder: str, *, aws: bool) -> None:
        self._wire = wire
        self._listing = listing
        self._bucket = bucket
        self._folder = folder
        self._aws = aws
        self._made: set[tuple[str, str]] = set()

    async def run(self, *, versioned: bool) -> tuple[Capabilities, bool]:
        """The capabilities, and whether the endpoint keeps every key apart. A refused first write raises its error."""
        try:
            base = self._folder + "base"
            await self._must("PUT", base, {CRC32C: encode_crc(crc32c(DATA))}, DATA)
            kept, writes, completes, pinned, copies, checksum, told = await _all(
                self.keeps_keys(),
                self._fences_writes(base),
                self._fences_completes(base),
                _pinned_read(self._wire, self._bucket, base),
                self._copies(base),
                self._upload_checksum(),
                self._tells_parts(self._folder + "part"),  # SeaweedFS has uploads of one key wait a second for each other
            )
            capabilities = Capabilities(
                conditional_writes=writes,
                conditional_completes=completes,
                pinned_reads=pinned.status == 412,
                server_side_copy=copies,
                upload_checksum=checksum,
                part_checksum="response" if told else checksum,
                conditional_deletes=await self._fenced("DELETE", base, {"if-match": NO_ETAG}, None),
                versioned=versioned,
                detail="" if kept else KEYS_MERGED,
            )
            return capabilities, kept
        finally:
            await self.clean_up()

    async def keeps_keys(self) -> bool:
        """True if a key that a file system would change comes back from a listing as it was stored."""
        stored = await self._try("PUT", self._folder + ODD_NAME, {}, DATA)
        if stored.failed:
            return False
        page = await self._listing.page(self._bucket, self._folder + ODD_NAME[0], 10)
        return [(entry.key, entry.version.size_bytes) for entry in page.objects] == [(self._folder + ODD_NAME, len(DATA))]

    async def clean_up(self) -> None:
        """Removes what was stored, by version where there are versions."""
        made, self._made = self._made, set()
        removals = [self._wire.send("DELETE", self._bucket, key, {"versionId": version} if version else None) for key, version in made]
        await asyncio.gather(*removals, return_exceptions=True)

    async def _upload_checksum(self) -> Literal["trailer", "header", "none"]:
        with suppress(ServerFault, StoreTimeout):
            if await self._verifies_trailers():
                return "trailer"
        wrong = await self._try("PUT", self._folder + "header", {CRC32C: encode_crc(crc32c(DATA) ^ 1)}, DATA)
        return "header" if wrong.failed else "none"

    async def _verifies_trailers(self) -> bool:
        """A right trailer must be taken and taken off, a wrong one refused."""
        key = self._folder + "trailer"
        right = await self._framed(key, crc32c(DATA))
        shown = await self._wire.send("HEAD", self._bucket, key)
        if right.failed or shown.failed or shown.headers.get("Content-Length") != str(len(DATA)):
            return False
        return (await self._framed(key, crc32c(DATA) ^ 1)).failed

    async def _framed(self, key: str, crc: int) -> Answer:
        headers = trailer_headers({}, len(DATA), announce=self._aws)
        return await self._try("PUT", key, headers, framed_bytes(DATA, crc), payload=UNSIGNED_PAYLOAD_TRAILER)

    async def _tells_parts(self, key: str) -> bool:
        """True if the answer to a part that is sent without a checksum tells the right one, and no upload is completed that is
        not what its parts were to be together. AWS's documentation says no to the first."""
        if self._aws:
            return False
        begun = await self._try("POST", key, FULL_OBJECT, None, {"uploads": ""})
        if begun.failed:
            return False
        upload = {"uploadId": parse_result(begun.body, "InitiateMultipartUploadResult").get("UploadId", "")}
        try:
            part = await self._try("PUT", key, ASKED, DATA, upload | {"partNumber": "1"})
            if part.failed or decode_crc(part.headers.get(CRC32C, "")) != crc32c(DATA):
                return False
            document = complete_document([Part(1, len(DATA), unquote_etag(part.headers.get("ETag", "")), crc32c(DATA))], checksums=True)
            completed = await self._try("POST", key, whole_headers(crc32c(DATA) ^ 1, len(DATA)), document, upload)
            if not completed.failed and not is_error(completed.body):
                self._made.add((key, completed.headers.get("x-amz-version-id", "")))
            return completed.failed and isinstance(completed.error(), IntegrityMismatch)
        finally:
            await self._abort(key, upload)

    async def _copies(self, base: str) -> bool:
        source = {"x-amz-copy-source": f"/{self._bucket}/{encode_key(base)}"}
        answer = await self._try("PUT", self._folder + "copy", source, None)
        return not answer.failed and not answer.fault

    async def _fences_writes(self, base: str) -> bool:
        conditions = {"if-none-match": "*"}, {"if-match": NO_ETAG}
        return all([await self._fenced("PUT", base, condition, DATA) for condition in conditions])

    async def _fences_completes(self, base: str) -> bool:
        begun = await self._must("POST", base, {}, None, {"uploads": ""})
        upload = {"uploadId": parse_result(begun.body, "InitiateMultipartUploadResult").get("UploadId", "")}
        try:
            part = await self._must("PUT", base, {}, DATA, upload | {"partNumber": "1"})
            parts = [Part(1, len(DATA), unquote_etag(part.headers.get("ETag", "")))]
            return await self._fenced("POST", base, {"if-none-match": "*"}, complete_document(parts, checksums=False), upload)
        finally:
            await self._abort(base, upload)

    async def _abort(self, key: str, upload: Mapping[str, str]) -> None:
        with suppress(ObjectError):
            await self._wire.send("DELETE", self._bucket, key, upload)

    async def _fenced(
        self, method: str, key: str, condition: Mapping[str, str], data: bytes | None, query: Mapping[str, str] | None = None
    ) -> bool:
        """True if a condition that does not hold keeps the request from being done."""
        return (await self._try(method, key, condition, data, query)).status == 412

    async def _must(
        self, method: str, key: str, headers: Mapping[str, str], data: bytes | None, query: Mapping[str, str] | None = None
    ) -> Answer:
        answer = await self._try(method, key, headers, data, query)
        if answer.failed:
            raise answer.error()
        return answer

    async def _try(
        self,
        method: str,
        key: str,
        headers: Mapping[str, str],
        data: bytes | None,
        query: Mapping[str, str] | None = None,
        *,
        payload: str = "UNSIGNED-PAYLOAD",
    ) -> Answer:
        """One request; a 5xx or 429 is no finding and raises. What it may have stored is remembered."""
        stored = {(key, "")} - self._made if method == "PUT" and not query else set()
        self._made |= stored
        answer = await self._wire.send(method, self._bucket, key, query, headers, data, payload=payload)
        if (answer.status >= 500 and answer.status != 501) or answer.status == 429:
            raise answer.error()
        version = answer.headers.get("x-amz-version-id")
        if version or answer.failed:
            self._made -= stored
        if version:
            self._made.add((key, version))
        return answer


async def _all(*checks: Awaitable[Any]) -> list[Any]:
    """What each check found, once all have ended: what they stored is known only then. Raises the first failure."""
    found = await asyncio.gather(*checks, return_exceptions=True)
    for failure in found:
        if isinstance(failure, BaseException):
            raise failure
    return found
