"""The tags of objects, asked for only where there may be some: a request for each object is too dear."""

from __future__ import annotations

from collections.abc import Mapping

from replication.errors import NotSupported, ObjectError, ObjectNotFound, ServerFault, SourceArchived
from stores.s3headers import version_id
from stores.s3wire import Answer, S3Wire
from stores.s3xml import parse_tags

COUNT = "x-amz-tagging-count"
NO_TAGS = frozenset({"NoSuchTagSet", "NoSuchTagSetError"})
"""How some endpoints (Wasabi, OBS, versitygw), with status 404, tell that an object has none."""


class S3Tags:
    """What one endpoint tells of tags, remembered for each bucket.

    AWS and SeaweedFS count tags in HEAD, AWS only for who may read them. So an absent count is taken for none once the
    endpoint is known to count: it did so, or AWS let us read an empty set.
    """

    def __init__(self, wire: S3Wire, *, aws: bool) -> None:
        self._wire = wire
        self._aws = aws
        self._counted: dict[str, bool] = {}
        self._known: dict[str, bool] = {}

    async def of(self, bucket: str, key: str, answer: Answer) -> dict[str, str] | None:
        """Those of the object that a HEAD or a GET was answered with; None on an endpoint without tags."""
        counts = COUNT in answer.headers
        if counts or answer.headers.get("Server", "").startswith("SeaweedFS"):
            self._counted[bucket] = True
        if not counts and self._counted.get(bucket):
            return {}
        query = {"tagging": ""}
        if version := version_id(answer.headers):
            query["versionId"] = version
        if not counts and not self._aws and not await self._are_known(bucket, key, query, answer):
            return None
        told = await self._wire.send("GET", bucket, key, query)
        if told.fault.get("Code") in NO_TAGS:
            return {}
        if told.failed:
            error = _untold(told)
            if isinstance(error, (NotSupported, SourceArchived)):  # AWS tells the tags of archived objects too
                return None
            raise error
        tags = parse_tags(told.body)
        if self._aws and not counts:
            self._counted[bucket] = not tags
        return tags

    async def _are_known(self, bucket: str, key: str, query: Mapping[str, str], answer: Answer) -> bool:
        """False on an endpoint that ignores the question, and answers with the object itself (rclone serve s3). Asked
        once for each bucket."""
        if bucket not in self._known:
            async with self._wire.open("GET", bucket, key, query) as response:
                told, object_told = (
                    [headers.get(name) for name in ("ETag", "Content-Length")] for headers in (response.headers, answer.headers)
                )
            self._known[bucket] = None in told or told != object_told
        return self._known[bucket]


def _untold(answer: Answer) -> ObjectError:
    """What keeps tags from being known. A 404 that does not name the key is about its tags: it is no evidence that the object, which
    was there a moment ago, is gone."""
    error = answer.error()
    if isinstance(error, ObjectNotFound) and answer.fault.get("Code") != "NoSuchKey":
        return ServerFault(f"the tags of an object that is there are not found: {error}")
    return error
