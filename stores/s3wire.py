"""Signed requests to one S3 endpoint: addressing, credentials, the framing of trailers, and answers as values."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import urlsplit

from replication.errors import CredentialsRefused, ObjectError, ServerFault
from stores.checksum import encode_crc
from stores.chunks import Chunks, Data, gathered
from stores.connection import AnswerStream
from stores.http import HttpPlane
from stores.mapping import retry_after, s3_error
from stores.s3credentials import CredentialSource
from stores.s3headers import CRC32C
from stores.s3xml import MAX_DOCUMENT, Fields, is_error, parse_error
from stores.signing import UNSIGNED_PAYLOAD, Credentials, Signer, encode_key, encode_query

COMMIT_IDLE_S = 600.0
"""Longest silence while the store copies or completes: AWS sends whitespace meanwhile, other stores nothing."""
REFUSING = frozenset({400, 401, 403})
"""Statuses that can be about the credentials."""
_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
"""A bucket's name that can stand before a host's: any other stands in the path. Certificates cover no further dots."""
_NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the buckets of an endpoint are: `https://host/bucket/key` or `https://bucket.host/key`."""

    scheme: str
    host: str
    path: str = ""
    path_style: bool = True

    @classmethod
    def of(cls, endpoint: str | None, region: str, path_style: bool | None) -> Address:
        """AWS's own endpoint of `region` (virtual-hosted) or a given one (path-style), unless told otherwise."""
        if endpoint is None:
            suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
            return cls("https", f"s3.{region}.{suffix}", path_style=bool(path_style))
        parts = urlsplit(endpoint)
        standard = {"http": 80, "https": 443}.get(parts.scheme)
        host = (parts.hostname or "").lower()
        host = f"[{host}]" if ":" in host else host
        port = f":{parts.port}" if parts.port not in (None, standard) else ""
        return cls(parts.scheme, host + port, parts.path.rstrip("/"), path_style is not False)

    def locate(self, bucket: str, key: str) -> tuple[str, str]:
        """Host and encoded path of a key, or of the bucket itself for ""."""
        tail = f"/{encode_key(key)}"
        if self.path_style or not _LABEL.fullmatch(bucket):
            return self.host, f"{self.path}/{encode_key(bucket)}{tail if key else ''}"
        return f"{bucket}.{self.host}", f"{self.path}{tail}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `what` names its request; `headers` ignore case; `renewed`: it refused credentials, and there are others now."""

    what: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    renewed: bool = False

    @property
    def fault(self) -> Fields:
        """The fields of the `<Error>` in the body, {} where there is none."""
        return parse_error(self.body) if self.body else {}

    @property
    def failed(self) -> bool:
        return self.status >= 300

    def error(self) -> ObjectError:
        """What the answer means where it is a failure: a fault to try again where the credentials were renewed."""
        fault = self.fault
        message = fault.get("Message", "")
        if region := self.headers.get("x-amz-bucket-region") or fault.get("Region"):
            message = f"{message} (the bucket's region is {region})"
        status = self.status if self.failed else 500
        code = fault.get("Code", "") or ("PermanentRedirect" if status in (301, 308) else "")
        error = s3_error(self.what, status, code, message, retry_after_s=retry_after(self.headers.get("Retry-After")))
        return ServerFault(str(error)) if self.renewed else error


class Opened:
    """An answer whose body is read as it comes, in chunks or as a whole."""

    def __init__(self, stream: AnswerStream, answer: Callable[[int, Mapping[str, str], bytes], Awaitable[Answer]]) -> None:
        self.status, self.headers, self.chunks = stream.status, stream.headers, stream.chunks
        self._answer = answer

    async def whole(self) -> Answer:
        """`ServerFault` beyond `MAX_DOCUMENT` bytes."""
        return await self._answer(self.status, self.headers, await gathered(self.chunks(), MAX_DOCUMENT))


class S3Wire:
    """Sends signed requests and keeps the connections."""

    def __init__(
        self,
        address: Address,
        region: str,
        credentials: CredentialSource,
        *,
        connections: int,
        expected_bucket_owner: str | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._address = address
        self._signer = Signer(region)
        self._credentials = credentials
        self._plane = HttpPlane(connections=connections)
        self._always = {"x-amz-expected-bucket-owner": expected_bucket_owner} if expected_bucket_owner else {}
        self._clock = clock

    @asynccontextmanager
    async def open(
        self, method: str, bucket: str, key: str, query: Mapping[str, str] | None = None, headers: Mapping[str, str] = _NO_HEADERS
    ) -> AsyncIterator[Opened]:
        """The answer with its body unread, whatever its status."""
        credentials = await self._credentials.current()
        origin, target, signed = self._signed(credentials, method, bucket, key, query, headers, UNSIGNED_PAYLOAD)
        async with self._plane.open(method, origin, target, signed) as answer:
            yield Opened(answer, partial(self._answer, method, credentials))

    def _signed(
        self,
        credentials: Credentials,
        method: str,
        bucket: str,
        key: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str],
        payload: str,
    ) -> tuple[str, str, dict[str, str]]:
        """Where the request goes (`https://host:port`, path and query) and its headers."""
        host, path = self._address.locate(bucket, key)
        asked = encode_query(query) if query else ""
        plain = {**headers, **self._always} if self._always else headers
        signed = self._signer.sign(method, host, path, asked, plain, credentials, self._clock(), payload=payload)
        return f"{self._address.scheme}://{host}", f"{path or '/'}?{asked}" if asked else path or "/", signed

    async def send(
        self,
        method: str,
        bucket: str,
        key: str = "",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
        data: Data | None = None,
        *,
        payload: str = UNSIGNED_PAYLOAD,
        idle_timeout_s: float | None = None,
    ) -> Answer:
        """One request and its whole answer, whatever its status; at most `MAX_DOCUMENT` bytes of body are taken."""
        credentials = await self._credentials.current()
        origin, target, signed = self._signed(credentials, method, bucket, key, query, headers, payload)
        status, told, body = await self._plane.exchange(
            method, origin, target, signed, data, max_body=MAX_DOCUMENT, idle_timeout_s=idle_timeout_s
        )
        return await self._answer(method, credentials, status, told, body)

    async def _answer(self, method: str, credentials: Credentials, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
        answer = Answer(method, status, headers, body)
        if status in REFUSING and isinstance(answer.error(), CredentialsRefused) and await self._credentials.renewed(credentials):
            return replace(answer, renewed=True)
        return answer

    async def call(
        self,
        method: str,
        bucket: str,
        key: str = "",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
        data: bytes | None = None,
        *,
        idle_timeout_s: float | None = None,
    ) -> Answer:
        """A request whose failure is an error, an `<Error>` that came with status 200 included."""
        answer = await self.send(method, bucket, key, query, headers, data, idle_timeout_s=idle_timeout_s)
        if answer.failed or (method in ("PUT", "POST") and is_error(answer.body)):
            raise answer.error()
        return answer

    async def close(self) -> None:
        await self._plane.close()


# --- aws-chunked framing with a checksum trailer ---------------------------------------------------------------------


def framed_length(size_bytes: int) -> int:
    """Bytes on the wire of a body of `size_bytes` > 0 in one chunk with its CRC32C trailer."""
    return len(f"{size_bytes:x}\r\n") + size_bytes + len(f"\r\n0\r\n{CRC32C}:{encode_crc(0)}\r\n\r\n")


def trailer_headers(headers: Mapping[str, str], size_bytes: int, *, announce: bool) -> dict[str, str]:
    """`headers` of an upload of `size_bytes`, plus those that say that a trailer follows.

    AWS wants `aws-chunked` announced as a Content-Encoding and takes it off again; other endpoints store it with the
    object and do not need it.
    """
    framing = {"x-amz-trailer": CRC32C, "x-amz-decoded-content-length": str(size_bytes), "content-length": str(framed_length(size_bytes))}
    if announce:
        inner = headers.get("content-encoding")
        framing["content-encoding"] = f"aws-chunked,{inner}" if inner else "aws-chunked"
    return {**headers, **framing}


def framed_bytes(data: bytes, crc32c: int) -> bytes:
    """A small body, framed."""
    return b"%x\r\n%b\r\n0\r\n%b:%b\r\n\r\n" % (len(data), data, CRC32C.encode(), encode_crc(crc32c).encode())


async def framed(chunks: Chunks, size_bytes: int, crc32c: Callable[[], int]) -> Chunks:
    """The body as one aws-chunk, nothing copied, and its CRC32C (asked for once all has passed) as the trailer."""
    yield f"{size_bytes:x}\r\n".encode()
    async for chunk in chunks:
        yield chunk
    yield f"\r\n0\r\n{CRC32C}:{encode_crc(crc32c())}\r\n\r\n".encode()
