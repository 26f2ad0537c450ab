"""The table of S3 codes: what happens next depends on the class, so the classes are spelled out here."""

from __future__ import annotations

import pytest

from replication.errors import (
    BucketNotFound,
    ClockSkewed,
    CredentialsRefused,
    IntegrityMismatch,
    KeyCollision,
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
from stores.mapping import MAX_TEXT, S3_CODES, retry_after, s3_error


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchKey", ObjectNotFound),
        (404, "NoSuchBucket", BucketNotFound),
        (404, "NoSuchUpload", UploadLost),
        (400, "InvalidPart", UploadLost),
        (404, "NoSuchVersion", SourceChanged),
        (412, "PreconditionFailed", PreconditionFailed),
        (409, "ConditionalRequestConflict", PreconditionFailed),
        (409, "OperationAborted", ServerFault),
        (409, "ExistingObjectIsDirectory", KeyCollision),
        (403, "AccessDenied", PermissionRefused),
        (403, "InvalidAccessKeyId", CredentialsRefused),
        (403, "SignatureDoesNotMatch", CredentialsRefused),
        (400, "ExpiredToken", CredentialsRefused),
        (403, "RequestTimeTooSkewed", ClockSkewed),
        (403, "InvalidObjectState", SourceArchived),
        (503, "SlowDown", Throttled),
        (400, "RequestTimeout", StoreTimeout),
        (400, "BadDigest", IntegrityMismatch),
        (400, "InvalidDigest", IntegrityMismatch),
        (400, "EntityTooLarge", ObjectTooLarge),
        (400, "MetadataTooLarge", MetadataUnrepresentable),
        (301, "PermanentRedirect", BucketNotFound),
        (507, "XMinioStorageFull", NoSpace),
        (501, "NotImplemented", NotSupported),
    ],
)
def test_a_code_decides(status: int, code: str, expected: type[ObjectError]) -> None:
    assert type(s3_error("GET", status, code)) is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, Refused),
        (401, CredentialsRefused),
        (403, PermissionRefused),
        (404, ObjectNotFound),
        (408, StoreTimeout),
        (409, ServerFault),
        (412, PreconditionFailed),
        (418, Refused),
        (429, Throttled),
        (500, ServerFault),
        (501, NotSupported),
        (502, ServerFault),
        (503, Throttled),
        (504, ServerFault),
        (507, NoSpace),
        (302, ServerFault),
    ],
)
@pytest.mark.parametrize("code", ["", "SomethingNew"])
def test_without_a_known_code_the_status_decides(status: int, code: str, expected: type[ObjectError]) -> None:
    assert type(s3_error("GET", status, code)) is expected


def test_a_code_outweighs_its_status() -> None:
    assert type(s3_error("POST", 500, "NoSuchUpload")) is UploadLost


def test_no_message_is_ever_inspected() -> None:
    assert type(s3_error("GET", 400, "", "NoSuchKey: AccessDenied SlowDown")) is Refused


def test_the_text_is_one_short_line_with_status_and_code() -> None:
    text = str(s3_error("GET", 403, "AccessDenied", "two\nlines " + "x" * 1000))
    assert text.startswith("S3 GET: 403 AccessDenied: two lines x")
    assert len(text) < MAX_TEXT + 40


def test_every_class_of_the_table_is_more_than_the_bare_refusal() -> None:
    """`Refused` itself stands for a request that the store does not understand, which the S3 store reads so."""
    assert Refused not in S3_CODES.values()


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, None), ("", None), ("3", 3.0), ("-1", None), ("1e9", 3600.0), ("nan", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)],
)
def test_retry_after_is_read_in_its_numeric_form_and_bounded(header: str | None, expected: float | None) -> None:
    assert retry_after(header) == expected
    assert s3_error("GET", 503, "SlowDown", retry_after_s=retry_after(header)).retry_after_s == expected
