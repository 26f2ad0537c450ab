"""An edge of a content delivery network in front of one bucket, after what CloudFront documents: it keeps what it fetched
once, serves ranges of it, and takes URLs only with a policy that was signed for them. No CloudFront can be reached from here.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

PASSED = re.compile(r"content-(type|encoding|disposition|language)|cache-control|etag|last-modified|x-amz-.*")


@cache
def signing_key(name: str = "") -> rsa.RSAPrivateKey:
    """One that signs URLs, the same for a name: making one takes a while."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)


def pem(key: Any) -> str:
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text.decode()


@dataclass
class Edge:
    """`origin` is a boto3 client. With `keys` (key pair id -> private key) only signed URLs are served. `clock` is what policies
    are held against; `compress` sends everything gzipped, as a distribution may that was told to; `answers` come instead."""

    origin: Any
    bucket: str
    keys: dict[str, rsa.RSAPrivateKey] = field(default_factory=dict)
    clock: Callable[[], float] = time.time
    compress: bool = False
    answers: list[web.Response] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    bytes_served: int = 0
    _kept: dict[str, tuple[dict[str, str], bytes]] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/"
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._runner.cleanup()

    async def _serve(self, request: web.BaseRequest) -> web.Response:
        raw = request._message.path
        if self.answers:
            return self.answers.pop(0)
        path, _, query = raw.partition("?")
        if self.keys and not self._is_signed(f"{self.url[:-1]}{path}", query):
            return _refused(403, "AccessDenied")
        key = unquote(path[1:])
        if key not in self._kept and not await asyncio.to_thread(self.keep, key):
            return _refused(404, "NoSuchKey")
        headers, body = self._kept[key]
        self.served[key] += 1
        answer = self._ranged(headers, body, request.headers.get("Range"))
        self.bytes_served += len(answer.body or b"")  # type: ignore[arg-type]
        return answer

    def keep(self, key: str) -> bool:
        """Fetches the object as it is now. False if there is none."""
        try:
            got = self.origin.get_object(Bucket=self.bucket, Key=key)
        except self.origin.exceptions.NoSuchKey:
            return False
        told = got["ResponseMetadata"]["HTTPHeaders"]
        self._kept[key] = {name: value for name, value in told.items() if PASSED.fullmatch(name.lower())}, got["Body"].read()
        return True

    def _ranged(self, headers: dict[str, str], body: bytes, asked: str | None) -> web.Response:
        if self.compress:
            etag = f"W/{next(value for name, value in headers.items() if name.lower() == 'etag')}"
            kept = {name: value for name, value in headers.items() if name.lower() != "etag"}
            return web.Response(body=gzip.compress(body), headers={**kept, "ETag": etag, "Content-Encoding": "gzip"})
        if asked is None:
            return web.Response(body=body, headers=headers)
        first, last = (int(end) for end in asked.removeprefix("bytes=").split("-"))
        if first >= len(body):
            return _refused(416, "InvalidRange")
        piece = body[first : last + 1]
        told = {**headers, "Content-Range": f"bytes {first}-{first + len(piece) - 1}/{len(body)}"}
        return web.Response(status=206, body=piece, headers=told)

    def _is_signed(self, url: str, query: str) -> bool:
        """Whether the query's policy is signed by one of the keys, covers the URL, and has not ended."""
        fields = {name: values[0] for name, values in parse_qs(query).items()}
        try:
            policy, key = _decoded(fields["Policy"]), self.keys[fields["Key-Pair-Id"]]
            key.public_key().verify(_decoded(fields["Signature"]), policy, padding.PKCS1v15(), SHA1())  # noqa: S303
        except (KeyError, InvalidSignature):
            return False
        (statement,) = json.loads(policy)["Statement"]
        until = statement["Condition"]["DateLessThan"]["AWS:EpochTime"]
        return fnmatchcase(url, statement["Resource"].replace("[", "[[]")) and self.clock() < until


def _decoded(text: str) -> bytes:
    return base64.b64decode(text.translate(str.maketrans("-_~", "+=/")))


def _refused(status: int, code: str) -> web.Response:
    return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>", content_type="text/xml")


def until(query: str) -> int:
    """When the policy of a signed target ends, in seconds since the epoch."""
    (policy,) = parse_qs(urlsplit(query).query)["Policy"]
    (statement,) = json.loads(_decoded(policy))["Statement"]
    return int(statement["Condition"]["DateLessThan"]["AWS:EpochTime"])
