"""Uploads of parts at an S3 endpoint: begun, filled, listed, committed and given up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from replication.errors import BucketNotFound, ObjectNotFound, PreconditionFailed, ServerFault, SourceChanged, UploadLost
from replication.models import Attributes, Condition, Part
from stores.body import Body
from stores.checksum import decode_crc
from stores.s3errors import key_error, unknown_request, write_error
from stores.s3headers import FULL_OBJECT, attribute_headers, condition_headers, whole_headers
from stores.s3send import S3Sending
from stores.s3wire import COMMIT_IDLE_S, Answer, S3Wire
from stores.s3xml import complete_document, parse_parts, parse_result, unquote_etag

ABORT_TRIES = 5
ABORT_DELAY_S = 0.2


class S3Uploads:
    """The uploads of one endpoint. They are begun with a checksum of the whole until the endpoint does not know it."""

    def __init__(self, wire: S3Wire, sending: S3Sending) -> None:
        self._wire = wire
        self._sending = sending

    async def begin(self, bucket: str, key: str, attributes: Attributes) -> str:
        """The id of a new upload."""
        headers, query = attribute_headers(attributes), {"uploads": ""}
        asked = FULL_OBJECT if self._sending.whole_verified else {}
        answer = await self._wire.send("POST", bucket, key, query, headers | asked)
        if asked and unknown_request(answer):
            self._sending.whole_verified = False
            answer = await self._wire.send("POST", bucket, key, query, headers)
        if answer.failed:
            raise key_error(answer, key)
        upload_id = parse_result(answer.body, "InitiateMultipartUploadResult").get("UploadId", "")
        if not upload_id:
            raise ServerFault("the store began an upload without telling its id")
        return upload_id

    async def put_part(self, bucket: str, key: str, upload_id: str, number: int, body: Body) -> Part:
        answer, crc = await self._sending.put_part(bucket, key, {"uploadId": upload_id, "partNumber": str(number)}, body)
        if answer.failed:
            raise write_error(answer, key)
        return Part(number, body.size_bytes, unquote_etag(answer.headers.get("ETag", "")), crc)

    async def copy_part(self, bucket: str, key: str, upload_id: str, number: int, source: dict[str, str], offset: int, length: int) -> Part:
        """A part of bytes that the endpoint has already; `source` are the headers that name and pin them."""
        headers = source | {"x-amz-copy-source-range": f"bytes={offset}-{offset + length - 1}"}
        query = {"uploadId": upload_id, "partNumber": str(number)}
        try:
            answer = await self._wire.call("PUT", bucket, key, query, headers, idle_timeout_s=COMMIT_IDLE_S)
        except (PreconditionFailed, ObjectNotFound) as error:
            raise SourceChanged(str(error)) from error
        result = parse_result(answer.body, "CopyPartResult")
        return Part(number, length, unquote_etag(result.get("ETag", "")), decode_crc(result.get("ChecksumCRC32C", "")))

    async def list_parts(self, bucket: str, key: str, upload_id: str) -> list[Part]:
        newest: dict[int, tuple[datetime, Part]] = {}
        marker = ""
        while True:
            query = {"uploadId": upload_id, "max-parts": "1000"} | ({"part-number-marker": marker} if marker else {})
            try:
                page = parse_parts((await self._wire.call("GET", bucket, key, query)).body)
            except ObjectNotFound as error:
                raise UploadLost(str(error)) from error
            for modified, part in page.parts:
                # SeaweedFS keeps and lists what was replaced by sending a part again.
                if part.number not in newest or modified >= newest[part.number][0]:
                    newest[part.number] = (modified, part)
            if not page.truncated:
                return [newest[number][1] for number in sorted(newest)]
            if not page.parts or page.marker == marker:
                raise ServerFault("the listing of parts is truncated but does not go on")
            marker = page.marker

    async def complete(
        self, bucket: str, key: str, upload_id: str, parts: Sequence[Part], condition: Condition, crc32c: int | None
    ) -> Answer:
        """The answer to the commit, which may be a failure with any status."""
        whole: dict[str, str] = {}
        if crc32c is not None and self._sending.whole_verified:
            whole = whole_headers(crc32c, sum(part.size_bytes for part in parts))
        answer = await self._complete(bucket, key, upload_id, parts, condition, whole)
        if whole and unknown_request(answer) and not self._sending.relies_on_whole(bucket):
            answer = await self._complete(bucket, key, upload_id, parts, condition, {})
        return answer

    async def _complete(
        self, bucket: str, key: str, upload_id: str, parts: Sequence[Part], condition: Condition, whole: dict[str, str]
    ) -> Answer:
        document = complete_document(parts, checksums=bool(whole))
        headers = condition_headers(condition) | whole
        return await self._wire.send("POST", bucket, key, {"uploadId": upload_id}, headers, document, idle_timeout_s=COMMIT_IDLE_S)

    async def abort(self, bucket: str, key: str, upload_id: str) -> None:
        """Parts that were on their way can land after an abort, so it is repeated until the upload is unknown."""
        for attempt in range(ABORT_TRIES):
            answer = await self._wire.send("DELETE", bucket, key, {"uploadId": upload_id})
            if answer.failed and answer.status != 404:
                raise key_error(answer, key)
            if answer.fault.get("Code") == "NoSuchBucket":
                raise BucketNotFound("the bucket of the upload does not exist")
            try:
                await self.list_parts(bucket, key, upload_id)
            except UploadLost:
                return
            await asyncio.sleep(ABORT_DELAY_S * (attempt + 1))
        raise ServerFault("the upload is still listed after it was aborted")
