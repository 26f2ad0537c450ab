"""The GCS JSON API over the HTTP data plane: one method for each request, no decisions.

Object names are percent-encoded exactly. Errors are `gcs_error`'s; a 404 is `ObjectNotFound` even where the bucket is
what is missing. `if_generation` is the generation that must be current ("0": none may be), None for no condition.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from urllib.parse import quote, urlencode, urlsplit

from replication.errors import CredentialsRefused, ObjectError, ServerFault
from stores.chunks import Chunks, Data, gathered
from stores.connection import AnswerStream
from stores.gcs_credentials import BearerTokens
from stores.gcs_errors import gcs_error
from stores.gcs_resources import LISTING_FIELDS, OBJECT_FIELDS, Piece, Resource, object_path
from stores.http import HttpPlane

Query = Mapping[str, str | None]
"""Query parameters; one that is None is left out."""

WORK_TIMEOUT_S = 60.0
"""Longest silence of a compose or rewrite, which answer only when the bytes are in place (rewrites: about 30 s a call)."""
MAX_JSON = 64 << 20
"""The largest answer that is read. A page of 1,000 objects with 8 KiB of metadata each is 8 MiB."""
MAX_REFUSAL = 64 << 10
"""The largest answer that is read in place of an object's bytes: many of these are under way at once."""
JSON_TYPE = "application/json; charset=UTF-8"


def query_string(parameters: Query) -> str:
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"?{urlencode(given, quote_via=quote)}" if given else ""


class GcsApi:
    """Requests to one endpoint. `tokens` is None for anonymous access; `boundary` makes a text that no body contains."""

    def __init__(self, base: str, plane: HttpPlane, tokens: BearerTokens | None, boundary: Callable[[], str]) -> None:
        parts = urlsplit(base)
        self._origin, self._host, self._root = f"{parts.scheme}://{parts.netloc}", parts.netloc, parts.path
        self._plane = plane
        self._tokens = tokens
        self._boundary = boundary

    # --- objects -----------------------------------------------------------------------------------------------------

    async def get(self, bucket: str, name: str, *, generation: str | None = None) -> Resource:
        return await self._json("GET", object_path(bucket, name), {"generation": generation, "fields": OBJECT_FIELDS}, f"get {name!r}")

    async def insert(self, bucket: str, resource: Resource, data: Data, size_bytes: int, *, if_generation: str | None) -> Resource:
        """A new object with its metadata, in one request of declared length: what is cut short is not stored."""
        boundary = self._boundary()
        media = f"Content-Type: {resource['contentType']}\r\n" if "contentType" in resource else ""
        head = f"--{boundary}\r\nContent-Type: {JSON_TYPE}\r\n\r\n{json.dumps(resource)}\r\n--{boundary}\r\n{media}\r\n".encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "content-type": f"multipart/related; boundary={boundary}",
            "content-length": str(len(head) + size_bytes + len(tail)),
        }
        query = {"uploadType": "multipart", "ifGenerationMatch": if_generation, "fields": OBJECT_FIELDS}
        path = f"/upload/storage/v1/b/{quote(bucket, safe='')}/o{query_string(query)}"
        body = head + data + tail if isinstance(data, bytes) else _between(head, data, tail)
        return await self._send("POST", path, headers, body, f"insert {resource['name']!r}")

    @asynccontextmanager
    async def media(self, bucket: str, name: str, *, generation: str, span: str | None) -> AsyncIterator[AnswerStream]:
        """The stored bytes of one generation; `span` is the value of a Range header. The answer is 200 or 206.

        `Accept-Encoding: gzip` asks for gzip-encoded objects as they are stored: without it GCS decompresses them and
        ignores the range (cloud.google.com/storage/docs/transcoding).
        """
        path = f"{self._root}/storage/v1{object_path(bucket, name)}{query_string({'alt': 'media', 'generation': generation})}"
        headers = await self._headers({"accept-encoding": "gzip"} | ({"range": span} if span else {}))
        async with self._plane.open("GET", self._origin, path, headers) as answer:
            if not 200 <= answer.status < 300:
                refusal = await gathered(answer.chunks(), MAX_REFUSAL)
                raise await self._error(answer.status, refusal, answer.headers, f"read {name!r}", headers)
            yield answer

    async def compose(self, bucket: str, name: str, pieces: Sequence[Piece], resource: Resource, *, if_generation: str | None) -> Resource:
        """1 to 32 pinned pieces as one object. A composite has the storage class of its sources."""
        destination = {**resource, "storageClass": pieces[0].storage_class} if pieces[0].storage_class else resource
        sources = [{"name": piece.name, "generation": piece.generation} for piece in pieces]
        query = {"ifGenerationMatch": if_generation, "fields": OBJECT_FIELDS}
        payload = {"kind": "storage#composeRequest", "sourceObjects": sources, "destination": destination}
        return await self._json("POST", f"{object_path(bucket, name)}/compose", query, f"compose {name!r}", payload, WORK_TIMEOUT_S)

    async def rewrite(
        self,
        source: tuple[str, str, str],
        bucket: str,
        name: str,
        resource: Resource,
        *,
        if_generation: str | None,
        token: str | None,
    ) -> Resource:
        """One step of a server-side copy of `source` (bucket, name, generation); `token` continues an earlier step."""
        source_bucket, source_name, generation = source
        path = f"{object_path(source_bucket, source_name)}/rewriteTo{object_path(bucket, name)}"
        query = {"sourceGeneration": generation, "ifGenerationMatch": if_generation, "rewriteToken": token}
        return await self._json("POST", path, query, f"rewrite {source_name!r} to {name!r}", resource, WORK_TIMEOUT_S)

    async def patch(self, bucket: str, name: str, resource: Resource, *, if_generation: str, if_metageneration: str | None) -> Resource:
        query = {"ifGenerationMatch": if_generation, "ifMetagenerationMatch": if_metageneration, "fields": OBJECT_FIELDS}
        return await self._json("PATCH", object_path(bucket, name), query, f"patch {name!r}", resource)

    async def delete(self, bucket: str, name: str, *, generation: str | None = None, if_generation: str | None = None) -> None:
        """With `generation`, removes that generation for good; else the current one (kept as noncurrent if versioned)."""
        query = {"generation": generation, "ifGenerationMatch": if_generation}
        await self._json("DELETE", object_path(bucket, name), query, f"delete {name!r}")

    async def list_page(
        self,
        bucket: str,
        prefix: str,
        *,
        start: str = "",
        token: str | None = None,
        page_size: int = 1000,
        metadata: bool = False,
        versions: bool = False,
    ) -> tuple[list[Resource], str | None]:
        """One page of the objects under `prefix` from `start` (inclusive), with `versions` noncurrent ones too, and the token of the
        next page."""
        fields = LISTING_FIELDS.replace("storageClass)", "storageClass,metadata)") if metadata else LISTING_FIELDS
        query = {
            "prefix": prefix or None,
            "startOffset": start or None,
            "pageToken": token,
            "maxResults": str(page_size),
            "versions": "true" if versions else None,
            "fields": fields,
        }
        page = await self._json("GET", f"/b/{quote(bucket, safe='')}/o", query, f"list {bucket!r}")
        items, following = page.get("items") or [], page.get("nextPageToken") or None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items) or not isinstance(following, str | None):
            raise ServerFault(f"list {bucket!r}: the answer is no page of a listing")
        return items, following

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _json(
        self, method: str, path: str, query: Query, what: str, payload: Resource | None = None, idle_timeout_s: float | None = None
    ) -> Resource:
        data = None if payload is None else json.dumps(payload).encode()
        headers = {} if payload is None else {"content-type": JSON_TYPE}
        return await self._send(method, f"/storage/v1{path}{query_string(query)}", headers, data, what, idle_timeout_s)

    async def _send(
        self, method: str, path: str, headers: dict[str, str], data: Data | None, what: str, idle_timeout_s: float | None = None
    ) -> Resource:
        told = await self._headers(headers)
        status, answered, text = await self._plane.exchange(
            method, self._origin, self._root + path, told, data, max_body=MAX_JSON, idle_timeout_s=idle_timeout_s
        )
        if not 200 <= status < 300:
            raise await self._error(status, text, answered, what, told)
        try:
            answer = json.loads(text) if text.strip() else {}
        except (ValueError, RecursionError) as error:
            raise ServerFault(f"{what}: the answer is not JSON") from error
        if answer is not None and not isinstance(answer, dict):
            raise ServerFault(f"{what}: the answer is not a JSON object")
        return answer or {}

    async def _error(self, status: int, body: bytes, answered: Mapping[str, str], what: str, asked: Mapping[str, str]) -> ObjectError:
        """What a failure means: a fault to try again where the token was renewed."""
        error = gcs_error(status, body, answered, what)
        if isinstance(error, CredentialsRefused) and self._tokens and await self._tokens.renewed(asked.get("authorization", "")):
            return ServerFault(str(error))
        return error

    async def _headers(self, headers: dict[str, str]) -> dict[str, str]:
        authorization = await self._tokens.headers() if self._tokens else {}
        return {"host": self._host} | headers | authorization


async def _between(head: bytes, data: Chunks, tail: bytes) -> Chunks:
    yield head
    async for chunk in data:
        yield chunk
    yield tail
