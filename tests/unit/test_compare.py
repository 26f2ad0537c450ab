"""What two listings and a receipt settle, and which changes the tokens of a version show."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from replication.compare import compare, replica_token, source_token
from replication.models import Checksums, ListedObject, Version

AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
S3 = Version(3, "900150983cd24fb0d6963f7d28e17f72", modified=AT)
GCS = Version(3, "CKih", id="17", revision="1", modified=AT)
COMPOSITE = replace(S3, etag="900150983cd24fb0d6963f7d28e17f72-2")


def listed(version: Version, crc32c: int | None = None, storage_class: str = "") -> ListedObject:
    return ListedObject("k", version, Checksums(crc32c=crc32c), storage_class)


def receipt(source: Version, replica: Version) -> tuple[str, str]:
    return source_token(source, "s3"), replica_token(replica, "gcs")


@pytest.mark.parametrize(
    ("source", "replica", "remembered", "verdict"),
    [
        (listed(S3), None, None, "missing"),
        (listed(S3), None, receipt(S3, GCS), "missing"),
        (listed(S3, storage_class="GLACIER"), None, None, "look"),
        (listed(S3, storage_class="DEEP_ARCHIVE"), None, None, "look"),
        (listed(S3, 7)._replace(problem="a name of no encoding"), listed(GCS, 7), None, "refused"),
        (listed(S3)._replace(problem="a name of no encoding"), None, None, "refused"),
        (None, listed(GCS), None, "extra"),
        (None, None, receipt(S3, GCS), "vanished"),
        (listed(S3), listed(GCS), receipt(S3, GCS), "equal"),
        (listed(S3, 7), listed(GCS, 7), None, "adopt"),
        (listed(S3, 7), listed(GCS, 8), None, "look"),
        (listed(S3), listed(GCS), None, "look"),
        (listed(S3), listed(S3), None, "adopt"),
        (listed(COMPOSITE), listed(COMPOSITE), None, "look"),
        (listed(S3), listed(replace(S3, size_bytes=4)), None, "look"),
        (listed(S3, 7), listed(GCS, 7), receipt(replace(S3, modified=AT.replace(second=6)), GCS), "look"),
        (listed(S3, 7), listed(GCS, 7), receipt(S3, replace(GCS, revision="2")), "look"),
    ],
)
def test_every_row_has_one_verdict(
    source: ListedObject | None, replica: ListedObject | None, remembered: tuple[str, str] | None, verdict: str
) -> None:
    assert compare(source, replica, remembered, "s3", "gcs") == verdict


def test_a_listing_and_a_head_of_one_version_have_the_same_token() -> None:
    head = replace(S3, id="a-version-id", modified=AT.replace(microsecond=0))
    assert source_token(head, "s3") == source_token(S3, "s3")
    assert replica_token(replace(S3, id="v", modified=None), "s3") == replica_token(S3, "s3")


def test_versions_of_another_length_have_another_token() -> None:
    """However unlikely with one ETag and one time: that of a multipart upload is no checksum."""
    for token in (source_token, replica_token):
        assert token(S3, "s3") != token(replace(S3, size_bytes=4), "s3")


@pytest.mark.parametrize("kind", ["gcs", "file", "memory"])
def test_a_change_of_metadata_alone_moves_the_token_of_stores_that_count_it(kind: str) -> None:
    assert source_token(GCS, kind) != source_token(replace(GCS, revision="2"), kind)
    assert replica_token(GCS, kind) != replica_token(replace(GCS, revision="2"), kind)
