"""Reads through a content delivery network in front of a bucket: the bytes come from its edge, everything else from the store.

An edge may hold another version than the store, or an encoded copy of the right one. So the head of each answer is held against
the pinned version, and `SourceChanged` or `IntegrityMismatch` says that the store itself has to be read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from replication.errors import (
    CredentialsRefused,
    IntegrityMismatch,
    ObjectError,
    ObjectNotFound,
    Refused,
    ServerFault,
    SettingsError,
    SourceChanged,
)
from replication.models import Version
from stores.chunks import Chunks, exactly
from stores.connection import AnswerStream
from stores.http import HttpPlane
from stores.mapping import cdn_error, retry_after
from stores.s3headers import check_read
from stores.signing import encode_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

TOLD_EVERY_S = 60.0
"""Pause between two lines in the log about reads that an edge could not serve."""

log = logging.getLogger(__name__)


class SignedUrls:
    """CloudFront's signature of all URLs below one, by a custom policy that ends `lifetime_s` after it was made.

    It is made anew when half of that has passed. `private_key` reads an RSA key in PEM form, again after a refusal.
    """

    def __init__(
        self, below: str, key_pair_id: str, private_key: Callable[[], str], *, lifetime_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._below = below
        self._key_pair_id = key_pair_id
        self._read = private_key
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._pem = private_key()
        self._query = ""
        self._renew_at = 0.0

    def query(self) -> str:
        """What stands behind the `?` of a URL. Raises `CredentialsRefused` for a key that cannot sign."""
        now = self._clock()
        if now >= self._renew_at:
            self._query = self._sign(now + self._lifetime_s)
            self._renew_at = now + self._lifetime_s / 2
        return self._query

    def renewed(self) -> bool:
        """Whether the private key is another one by now: then the next query is signed with that."""
        used = self._pem
        with suppress(SettingsError):
            self._pem = self._read()
        if self._pem == used:
            return False
        self._renew_at = 0.0
        return True

    def _sign(self, until: float) -> str:
        from botocore.signers import CloudFrontSigner
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA1

        key = _rsa_key(self._pem)
        # SHA-1 is what CloudFront verifies.
        signer = CloudFrontSigner(self._key_pair_id, lambda message: key.sign(message, PKCS1v15(), SHA1()))  # noqa: S303
        policy = signer.build_policy(f"{self._below}*", datetime.fromtimestamp(until, UTC))
        return urlsplit(signer.generate_presigned_url(self._below, policy=policy)).query


def _rsa_key(pem: str) -> RSAPrivateKey:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        raise CredentialsRefused("the private key of the CDN is not an unencrypted key in PEM form") from None
    if not isinstance(key, RSAPrivateKey):
        raise CredentialsRefused("the private key of the CDN is not an RSA key")
    return key


class Edge:
    """One distribution in front of the keys of `bucket` that begin with `prefix`. `url` is what stands in front of the whole key;
    `rewrite` replaces text of the encoded key, in its order."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        url: str,
        *,
        rewrite: Mapping[str, str] | None = None,
        signed: SignedUrls | None = None,
        connections: int = 128,
    ) -> None:
        parts = urlsplit(url)
        self.bucket = bucket
        self.prefix = prefix
        self.url = url
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._host = parts.netloc
        self._path = parts.path
        self._rewrite = rewrite or {}
        self._signed = signed
        self._plane = HttpPlane(connections=connections)
        self._missed = 0
        self._told_at = -TOLD_EVERY_S

    def serves(self, bucket: str, key: str) -> bool:
        return bucket == self.bucket and key.startswith(self.prefix)

    def target(self, key: str) -> str:
        """Path and query of the key's URL."""
        path = encode_key(key)
        for old, new in self._rewrite.items():
            path = path.replace(old, new)
        return f"{self._path}{path}" + (f"?{self._signed.query()}" if self._signed else "")

    async def opened(self, stack: AsyncExitStack, key: str, *, pin: Version, offset: int, length: int) -> Chunks | None:
        """As `Store.read`, inside `stack`. None, which the log tells, where the edge does not have that version as it is."""
        try:
            return await stack.enter_async_context(self.read(key, pin=pin, offset=offset, length=length))
        except (SourceChanged, IntegrityMismatch) as error:
            self._missed += 1
            if time.monotonic() - self._told_at >= TOLD_EVERY_S:
                log.warning("%s of %r: %s; so far %d reads went to the store itself", self.url, key, error, self._missed)
                self._told_at = time.monotonic()
            return None

    @asynccontextmanager
    async def read(self, key: str, *, pin: Version, offset: int, length: int) -> AsyncIterator[Chunks]:
        """As `Store.read`. Entering raises `SourceChanged` or `IntegrityMismatch` where the edge does not have that version as it is."""
        whole = offset == 0 and length == pin.size_bytes
        async with self._open(key, None if whole else (offset, length)) as answer:
            if answer.status != (200 if whole else 206):
                raise self._refusal(answer.status, answer.headers)
            if not answer.headers.get("ETag"):
                raise IntegrityMismatch("the CDN does not tell which version it has")
            check_read(answer.headers, pin, None if whole else offset, length)
            yield exactly(answer.chunks(), length)

    async def check(self, key: str) -> None:
        """Asks for one byte of an object that the store has. Raises what refuses it, and `Refused` where nothing could ever be read."""
        async with self._open(key, (0, 1)) as answer:
            error = self._refusal(answer.status, answer.headers) if answer.status >= 300 else None
            if isinstance(error, SourceChanged):
                raise Refused(f"{self.url} does not have {key!r}, which the store has ({answer.status})")
            if error is not None and not isinstance(error, IntegrityMismatch):
                raise error
            if error is None and not answer.headers.get("ETag"):
                raise Refused(f"{self.url} tells no ETag: nobody could know which version it has")

    def _open(self, key: str, part: tuple[int, int] | None) -> AbstractAsyncContextManager[AnswerStream]:
        """The answer to a request for the whole object, or a `part` of it: (offset, length)."""
        headers = {"host": self._host, "user-agent": "drayage"}
        if part is not None:
            headers["range"] = f"bytes={part[0]}-{part[0] + part[1] - 1}"
        return self._plane.open("GET", self._origin, self.target(key), headers)

    def _refusal(self, status: int, headers: Mapping[str, str]) -> ObjectError:
        """What an answer means that has not the status of a success."""
        if status < 300:
            return IntegrityMismatch(f"the CDN answered a read with status {status}")
        error = cdn_error(self._host, status, retry_after_s=retry_after(headers.get("Retry-After")))
        if isinstance(error, ObjectNotFound):
            return SourceChanged(str(error))
        if status in (401, 403) and self._signed is not None and self._signed.renewed():
            return ServerFault(str(error))
        return error

    async def close(self) -> None:
        await self._plane.close()
