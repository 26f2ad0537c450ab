"""The tags of objects, asked for only where there may be some: a request for each object is too dear."""

from __future__ import annotations

from collections.abc import Mapping

from replication.errors import NotSupported, SourceArchived
from stores.s3headers import version_id
from stores.s3wire import Answer, S3Wire
from stores.s3xml import parse_tags

COUNT = "x-amz-tagging-count"


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
        try:
            tags = parse_tags((await self._wire.call("GET", bucket, key, query)).body)
        except (NotSupported, SourceArchived):  # AWS tells the tags of archived objects too
            return None
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
