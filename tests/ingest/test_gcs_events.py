"""Notifications of Cloud Storage, as recorded, as forged, and as no sender means them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.events import REASONS, ChangeEvent, Quarantined
from ingest.gcs_events import parse_pubsub
from replication.keys import key_problem

ATTRIBUTES = {
    "bucketId": "photos",
    "objectId": "dir/a+b %41.jpg",
    "eventType": "OBJECT_FINALIZE",
    "eventTime": "2026-11-21T08:00:00.123456Z",
    "payloadFormat": "JSON_API_V1",
    "objectGeneration": "1795248000123456",
    "notificationConfig": "projects/_/buckets/photos/notificationConfigs/1",
}
RESOURCE = {
    "kind": "storage#object",
    "resourceState": "exists",
    "bucket": "photos",
    "name": "a b",
    "size": "3",
    "metageneration": "1",
    "generation": "1795248000123456",
    "updated": "2026-11-21T08:00:00Z",
    "selfLink": "https://www.googleapis.com/storage/v1/b/photos/o/a%20b",
}


def event(key: str, kind: Any, cause: str, bucket: str = "photos") -> ChangeEvent:
    return ChangeEvent(bucket, key, kind, cause)


@pytest.mark.parametrize(
    ("attributes", "data", "outcome"),
    [
        (ATTRIBUTES, json.dumps(RESOURCE).encode(), event("dir/a+b %41.jpg", "created", "OBJECT_FINALIZE")),
        (ATTRIBUTES | {"payloadFormat": "NONE"}, b"", event("dir/a+b %41.jpg", "created", "OBJECT_FINALIZE")),
        (ATTRIBUTES | {"eventType": "OBJECT_DELETE"}, b"{", event("dir/a+b %41.jpg", "removed", "OBJECT_DELETE")),
        (ATTRIBUTES | {"eventType": "OBJECT_ARCHIVE"}, b"", event("dir/a+b %41.jpg", "removed", "OBJECT_ARCHIVE")),
        (ATTRIBUTES | {"eventType": "OBJECT_METADATA_UPDATE"}, b"", event("dir/a+b %41.jpg", "other", "OBJECT_METADATA_UPDATE")),
        (ATTRIBUTES | {"eventType": "OBJECT_FROM_THE_FUTURE"}, b"", event("dir/a+b %41.jpg", "other", "OBJECT_FROM_THE_FUTURE")),
        ({}, json.dumps(RESOURCE).encode(), event("a b", "created", "object.change")),
        ({}, json.dumps(RESOURCE | {"resourceState": "not_exists"}).encode(), event("a b", "removed", "object.change")),
        ({"bucketId": "photos"}, b"", Quarantined("no-key")),
        ({"objectId": "a"}, b"", Quarantined("no-bucket")),
        (ATTRIBUTES | {"objectId": "a\0b"}, b"", Quarantined("bad-key")),
        ({}, b"", Quarantined("not-json")),
        ({}, b"\xff", Quarantined("not-json")),
        ({}, b"[]", Quarantined("unknown-envelope")),
        ({}, json.dumps(RESOURCE | {"kind": "pubsub#message"}).encode(), Quarantined("unknown-envelope")),
        ({}, json.dumps({"bucket": "photos"}).encode(), Quarantined("no-key")),
        ({}, json.dumps(RESOURCE | {"name": ["a"]}).encode(), Quarantined("no-key")),
    ],
)
def test_every_notification_is_read(attributes: dict[str, str], data: bytes, outcome: object) -> None:
    assert parse_pubsub(attributes, data) == [outcome]


def test_the_time_of_the_change_is_told() -> None:
    (found,) = parse_pubsub(ATTRIBUTES, b"")
    assert isinstance(found, ChangeEvent)
    assert found.at == 1795248000.123456


NAMES = st.sampled_from(["bucketId", "objectId", "eventType", "eventTime"])


@given(st.dictionaries(NAMES, st.text()), st.binary() | st.text().map(str.encode))
def test_no_message_raises_or_yields_a_key_that_cannot_be(attributes: dict[str, str], data: bytes) -> None:
    (outcome,) = parse_pubsub(attributes, data)
    if isinstance(outcome, ChangeEvent):
        assert key_problem(outcome.key) is None
        assert outcome.key == attributes.get("objectId", outcome.key)
    else:
        assert isinstance(outcome, Quarantined)
        assert outcome.reason in REASONS
