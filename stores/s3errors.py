"""What an endpoint's refusal means for the key, the read or the write that was asked for, and which keys it cannot keep."""

from __future__ import annotations

import re

from replication.errors import (
    IntegrityMismatch,
    KeyCollision,
    KeyUnrepresentable,
    NotSupported,
    ObjectError,
    ObjectNotFound,
    PreconditionFailed,
    Refused,
    SourceChanged,
)
from stores.s3wire import Answer

_HIDDEN = re.compile(r"(?:^|/)(?:\.uploads|[^/]*\.versions)/")
"""Below SeaweedFS's own folders, which no listing shows."""


def key_error(answer: Answer, key: str) -> ObjectError:
    """The error of a failed answer about `key`."""
    error = answer.error()
    if type(error) is Refused and answer.status == 400 and unkept_key(key):
        return KeyUnrepresentable(str(error))
    return error


def read_error(answer: Answer, key: str) -> ObjectError:
    """The error of an answer to a pinned read that does not hold what was asked for."""
    if not answer.failed:
        return IntegrityMismatch(f"the answer to a read has status {answer.status}")
    error = key_error(answer, key)
    return SourceChanged(str(error)) if isinstance(error, (PreconditionFailed, ObjectNotFound)) else error


def write_error(answer: Answer, key: str) -> ObjectError:
    """As `key_error`; an absent key answers only a write that should match a version (AWS: 404, others: 412)."""
    error = key_error(answer, key)
    return PreconditionFailed(str(error)) if isinstance(error, ObjectNotFound) else error


def unknown_request(answer: Answer) -> bool:
    """True if the store refused the request itself: it does not know the headers that ask for a full-object checksum."""
    return answer.status in (400, 501) and type(answer.error()) in (Refused, NotSupported)


def unkept_key(key: str) -> bool:
    """True for a key that an endpoint on a file system cannot hold under exactly this name."""
    return "\\" in key or any(segment in ("", ".", "..") for segment in key.split("/")) or bool(_HIDDEN.search(key))


def key_refusal(key: str) -> KeyCollision | KeyUnrepresentable:
    """The error for an `unkept_key`: a collision where the endpoint would store it under another key's name."""
    if _HIDDEN.search(key):
        return KeyUnrepresentable("the endpoint does not list what stands in its own folders, .uploads and ….versions")
    merged = "/".join(segment for segment in key.replace("\\", "/").split("/") if segment)
    if key.rstrip("/") == merged or {".", ".."} & set(key.split("/")):
        return KeyUnrepresentable("the endpoint loses what is stored behind a trailing slash or a dot segment")
    return KeyCollision(f"the endpoint would store {key!r} as {merged!r}")
