"""Answers of the GCS JSON API as errors of the tree, by status and by the API's `reason` codes, never by message."""

from __future__ import annotations

import json
from collections.abc import Mapping

from replication.errors import (
    CredentialsRefused,
    NoSpace,
    NotSupported,
    ObjectError,
    ObjectNotFound,
    ObjectTooLarge,
    PermissionRefused,
    PreconditionFailed,
    Refused,
    ServerFault,
    SourceChanged,
    StoreTimeout,
    Throttled,
)

BY_STATUS: dict[int, type[ObjectError]] = {
    304: PreconditionFailed,
    401: CredentialsRefused,
    403: PermissionRefused,
    404: ObjectNotFound,
    408: StoreTimeout,
    409: ServerFault,
    412: PreconditionFailed,
    413: ObjectTooLarge,
    416: SourceChanged,
    429: Throttled,
    501: NotSupported,
    504: StoreTimeout,
    507: NoSpace,
}
"""A 404 names a missing object *or* a missing bucket: the caller finds out which. 409 is a write that raced another."""

BY_REASON: dict[tuple[int, str], type[ObjectError]] = {
    (400, "userProjectMissing"): PermissionRefused,
    (403, "rateLimitExceeded"): Throttled,
    (403, "userRateLimitExceeded"): Throttled,
    (403, "quotaExceeded"): Throttled,
    (503, "rateLimitExceeded"): Throttled,
}
"""Reasons that mean something else than their status (cloud.google.com/storage/docs/json_api/v1/status-codes)."""

MAX_QUOTED = 300


def gcs_error(status: int, body: bytes, headers: Mapping[str, str], what: str) -> ObjectError:
    """The error that an answer other than 2xx stands for. `what` says what was asked, in words."""
    reason, message = _explanation(body)
    kind = BY_REASON.get((status, reason)) or BY_STATUS.get(status) or (ServerFault if status >= 500 or status < 400 else Refused)
    return kind(f"{what}: {status} {reason} {message}".rstrip(), retry_after_s=_retry_after_s(headers))


def _explanation(body: bytes) -> tuple[str, str]:
    """The first `reason` code, and the message for people; a body that is not the API's JSON has neither."""
    try:
        error = json.loads(body)["error"]
        reasons = [str(one.get("reason", "")) for one in error.get("errors", [])]
        return (reasons[0] if reasons else ""), str(error.get("message", ""))[:MAX_QUOTED]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", ""


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds; the form with a date is not used by GCS."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else None
