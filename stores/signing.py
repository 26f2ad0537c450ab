"""AWS Signature Version 4 for S3, in its header form with unsigned payloads.

S3 differs from other services: the path is encoded once and never normalised, so that `a//b` and `../x` are signed and
sent as they are. Rules: "Authenticating Requests: Using the Authorization Header" in the Amazon S3 API reference.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
UNSIGNED_PAYLOAD_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

_NOT_SIGNED = frozenset({"content-length", "expect", "transfer-encoding", "user-agent"})
"""Headers that belong to the connection and may change on the way."""

_PLAIN = re.compile(r"[A-Za-z0-9_.~/-]*")
"""What stands in a path as it is."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """One set of AWS credentials; the secrets stay out of its repr."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


def encode_key(key: str) -> str:
    """A key as the path of a URL: everything but unreserved characters and `/` percent-encoded, nothing normalised."""
    return key if _PLAIN.fullmatch(key) else quote(key, safe="/")


def encode_query(query: Mapping[str, str]) -> str:
    """The query in the canonical form, which is also the form that is sent: sorted, a flag as `name=`."""
    pairs = sorted((quote(name, safe=""), quote(value, safe="")) for name, value in query.items())
    return "&".join([f"{name}={value}" for name, value in pairs])


class Signer:
    """Signs requests of one region and keeps the derived key of the day."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._key = b""
        self._key_of = ("", "")
        self._second = -1
        self._stamp = ""

    def sign(
        self,
        method: str,
        host: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        credentials: Credentials,
        now: float,
        *,
        payload: str = UNSIGNED_PAYLOAD,
    ) -> dict[str, str]:
        """`headers` (lower-case names) plus those that sign the request, `host` included.

        `path` and `query` are encoded as they will be sent; `now` is in seconds since the epoch.
        """
        stamp = self._amz_date(now)
        signed = {**headers, "host": host, "x-amz-content-sha256": payload, "x-amz-date": stamp}
        if credentials.session_token:
            signed["x-amz-security-token"] = credentials.session_token
        names = sorted(name for name in signed if name not in _NOT_SIGNED)
        lines = "".join([f"{name}:{' '.join(signed[name].split())}\n" for name in names])
        listed = ";".join(names)
        canonical = f"{method}\n{path}\n{query}\n{lines}\n{listed}\n{payload}"
        scope = f"{stamp[:8]}/{self._region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._day_key(stamp[:8], credentials.secret_access_key), text.encode(), "sha256").hex()
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key_id}/{scope}, SignedHeaders={listed}, Signature={signature}"
        )
        return signed

    def _amz_date(self, now: float) -> str:
        second = int(now)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        return self._stamp

    def _day_key(self, day: str, secret: str) -> bytes:
        if self._key_of != (day, secret):
            key = f"AWS4{secret}".encode()
            for step in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            self._key, self._key_of = key, (day, secret)
        return self._key
