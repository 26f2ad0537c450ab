"""Vendor codes and HTTP statuses -> errors of the tree: a table of S3's codes, a fallback by status, never a message.

Which call failed decides a few readings (a 412 of a pinned read is `SourceChanged`); the stores do those where they
make the call. Everything else is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from replication.errors import (
    BucketNotFound,
    ClockSkewed,
    CredentialsRefused,
    IntegrityMismatch,
    KeyCollision,
    KeyUnrepresentable,
    MetadataUnrepresentable,
    NoSpace,
    NotSupported,
    ObjectError,
    ObjectNotFound,
    ObjectTooLarge,
    PermissionRefused,
    PreconditionFailed,
    Refused,
    ServerFault,
    SourceArchived,
    SourceChanged,
    StoreTimeout,
    Throttled,
    UploadLost,
)

MAX_TEXT = 300
"""Characters of a vendor's own message that are kept."""

BY_STATUS: dict[int, type[ObjectError]] = {
    400: Refused,
    401: CredentialsRefused,
    403: PermissionRefused,
    404: ObjectNotFound,
    405: NotSupported,
    408: StoreTimeout,
    409: ServerFault,
    410: ObjectNotFound,
    411: NotSupported,
    412: PreconditionFailed,
    413: ObjectTooLarge,
    416: IntegrityMismatch,
    429: Throttled,
    501: NotSupported,
    503: Throttled,
    507: NoSpace,
}
"""What a status means where the body tells no known code. Anything else is a `ServerFault`."""


def error_class(table: Mapping[str, type[ObjectError]], status: int, code: str) -> type[ObjectError]:
    """The class for a vendor's `code`, else for the HTTP `status`, else `Refused` for 4xx and `ServerFault`."""
    known = table.get(code) or BY_STATUS.get(status)
    return known or (Refused if 400 <= status < 500 else ServerFault)


def error_text(vendor: str, what: str, status: int, code: str, message: str) -> str:
    """One line for people: `S3 PUT: 403 AccessDenied: …`."""
    told = " ".join(message.split())[:MAX_TEXT]
    return f"{vendor} {what}: {status}{' ' + code if code else ''}{': ' + told if told else ''}"


def retry_after(header: str | None) -> float | None:
    """Seconds from a `Retry-After` header in its numeric form, at most an hour; None for anything else."""
    try:
        seconds = float(header) if header else -1.0
    except ValueError:
        return None
    return min(seconds, 3600.0) if seconds >= 0 else None


def in_utc(told: datetime) -> datetime:
    """A time that a store told; one without a zone (`-0000`, or none) is in UTC. It could be compared with no other else."""
    return told if told.tzinfo is not None else told.replace(tzinfo=UTC)


# --- S3 --------------------------------------------------------------------------------------------------------------
# "Error responses" of the Amazon S3 API reference, and the codes that S3-compatible stores add.

S3_CODES: dict[str, type[ObjectError]] = {
    # absence
    "NoSuchKey": ObjectNotFound,
    "NoSuchVersion": SourceChanged,
    "NoSuchUpload": UploadLost,
    "InvalidPart": UploadLost,
    "InvalidPartOrder": UploadLost,
    "NoSuchBucket": BucketNotFound,
    "InvalidBucketName": BucketNotFound,
    # Another region's bucket: this store cannot reach it as it is configured.
    "PermanentRedirect": BucketNotFound,
    "AuthorizationHeaderMalformed": BucketNotFound,
    "IllegalLocationConstraintException": BucketNotFound,
    "TemporaryRedirect": ServerFault,
    # fences
    "PreconditionFailed": PreconditionFailed,
    "ConditionalRequestConflict": PreconditionFailed,
    "OperationAborted": ServerFault,
    # access
    "AccessDenied": PermissionRefused,
    "AllAccessDisabled": PermissionRefused,
    "AccountProblem": PermissionRefused,
    "AccessControlListNotSupported": PermissionRefused,
    "MethodNotAllowed": NotSupported,
    "InvalidAccessKeyId": CredentialsRefused,
    "SignatureDoesNotMatch": CredentialsRefused,
    "ExpiredToken": CredentialsRefused,
    "InvalidToken": CredentialsRefused,
    "TokenRefreshRequired": CredentialsRefused,
    "InvalidSecurity": CredentialsRefused,
    "NotSignedUp": CredentialsRefused,
    "RequestTimeTooSkewed": ClockSkewed,
    "RequestExpired": ClockSkewed,
    "KMS.AccessDeniedException": PermissionRefused,
    "KMS.DisabledException": PermissionRefused,
    "KMS.NotFoundException": PermissionRefused,
    "KMS.KMSInvalidStateException": PermissionRefused,
    "KMS.InvalidStateException": PermissionRefused,
    "KMS.ThrottlingException": Throttled,
    # pace and faults
    "SlowDown": Throttled,
    "SlowDownRead": Throttled,
    "SlowDownWrite": Throttled,
    "ServiceUnavailable": Throttled,
    "Busy": Throttled,
    "Throttling": Throttled,
    "ThrottlingException": Throttled,
    "RequestThrottled": Throttled,
    "RequestLimitExceeded": Throttled,
    "TooManyRequests": Throttled,
    "BandwidthLimitExceeded": Throttled,
    "RequestTimeout": StoreTimeout,
    "InternalError": ServerFault,
    "XMinioStorageFull": NoSpace,
    "QuotaExceeded": NoSpace,
    "XMinioAdminBucketQuotaExceeded": NoSpace,
    # integrity
    "BadDigest": IntegrityMismatch,
    "InvalidDigest": IntegrityMismatch,
    "XAmzContentChecksumMismatch": IntegrityMismatch,
    "XAmzContentSHA256Mismatch": IntegrityMismatch,
    "IncompleteBody": IntegrityMismatch,
    "InvalidRange": IntegrityMismatch,
    # what the store cannot hold
    "InvalidObjectState": SourceArchived,
    "EntityTooLarge": ObjectTooLarge,
    "KeyTooLongError": KeyUnrepresentable,
    "KeyTooLong": KeyUnrepresentable,
    "InvalidObjectName": KeyUnrepresentable,
    "XMinioInvalidObjectName": KeyUnrepresentable,
    "InvalidURI": KeyUnrepresentable,
    "XMinioParentIsObject": KeyCollision,
    "XMinioObjectExistsAsDirectory": KeyCollision,
    "ExistingObjectIsDirectory": KeyCollision,
    "ExistingObjectIsFile": KeyCollision,
    "MetadataTooLarge": MetadataUnrepresentable,
    "InvalidTag": MetadataUnrepresentable,
    "NotImplemented": NotSupported,
    "InvalidStorageClass": NotSupported,
    "EntityTooSmall": NotSupported,
    "MissingContentLength": NotSupported,
    "UnsupportedOperation": NotSupported,
}


def s3_error(what: str, status: int, code: str = "", message: str = "", *, retry_after_s: float | None = None) -> ObjectError:
    """The error for an S3 answer of `status` with the XML `code` ("" where it had none); `what` names the request."""
    return error_class(S3_CODES, status, code)(error_text("S3", what, status, code, message), retry_after_s=retry_after_s)


# --- a content delivery network in front of one ------------------------------------------------------------------------


def cdn_error(host: str, status: int, *, retry_after_s: float | None = None) -> ObjectError:
    """The error for an answer of the edge at `host`; bodies of refusals are pages for people, and tell no code."""
    kind = Refused if 300 <= status < 400 else error_class({}, status, "")
    return kind(error_text("CDN", host, status, "", ""), retry_after_s=retry_after_s)
