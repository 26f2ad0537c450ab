"""Queue bodies as the senders write them, and everything else that may stand in a queue."""

from __future__ import annotations

import json
import string
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.events import MAX_BODY_BYTES, REASONS, ChangeEvent, Nothing, Outcome, Quarantined, parse_sqs_body
from replication.keys import key_problem

TEST_EVENT = {
    "Service": "Amazon S3",
    "Event": "s3:TestEvent",
    "Time": "2026-01-02T03:04:05.678Z",
    "Bucket": "photos",
    "RequestId": "5582815E1AEA5ADF",
    "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE",
}


def s3_record(key: Any = "a.txt", name: str = "ObjectCreated:Put", version: Any = "2.6", bucket: Any = "photos") -> dict[str, Any]:
    return {
        "eventVersion": version,
        "eventSource": "aws:s3",
        "awsRegion": "us-west-2",
        "eventTime": "2026-01-02T03:04:05.678Z",
        "eventName": name,
        "userIdentity": {"principalId": "AWS:EXAMPLE"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "all",
            "bucket": {"name": bucket, "ownerIdentity": {"principalId": "EXAMPLE"}, "arn": f"arn:aws:s3:::{bucket}"},
            "object": {"key": key, "size": 1024, "eTag": "d41d8cd98f00b204e9800998ecf8427e", "sequencer": "0055AED6DCD90281E5"},
        },
    }


def s3_body(*records: Any) -> str:
    return json.dumps({"Records": list(records)})


def sns(message: str) -> str:
    envelope = {"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:us-west-2:1:t", "Subject": "Amazon S3 Notification"}
    return json.dumps({**envelope, "Message": message, "SignatureVersion": "1"})


def bridged(key: Any = "a.txt", kind: str = "Object Created", **detail: Any) -> str:
    place = {"version": "0", "bucket": {"name": "photos"}, "object": {"key": key, "size": 5, "sequencer": "617f08299329d189"}}
    envelope = {"version": "0", "id": "1", "detail-type": kind, "source": "aws.s3", "account": "1", "region": "ca-central-1"}
    return json.dumps({**envelope, "detail": {**place, "reason": "PutObject", **detail}})


def created(key: str = "a.txt", cause: str = "ObjectCreated:Put") -> ChangeEvent:
    return ChangeEvent("photos", key, "created", cause)


@pytest.mark.parametrize(
    ("body", "outcomes"),
    [
        (s3_body(s3_record()), [created()]),
        (s3_body(s3_record(version="2.1")), [created()]),
        (s3_body(s3_record(version="2.99")), [created()]),
        (s3_body({**s3_record(), "added": {"later": 1}}), [created()]),
        (s3_body(s3_record(name="s3:ObjectCreated:Put")), [created()]),
        (s3_body(s3_record(name="ObjectRemoved:Delete")), [ChangeEvent("photos", "a.txt", "removed", "ObjectRemoved:Delete")]),
        (s3_body(s3_record(name="ObjectTagging:Put")), [ChangeEvent("photos", "a.txt", "other", "ObjectTagging:Put")]),
        (s3_body(s3_record(name="NotYetKnown")), [ChangeEvent("photos", "a.txt", "other", "NotYetKnown")]),
        (s3_body(s3_record("a"), s3_record("b")), [created("a"), created("b")]),
        (sns(s3_body(s3_record())), [created()]),
        (sns(sns(s3_body(s3_record()))), [created()]),
        (sns(bridged()), [created(cause="Object Created")]),
        (bridged(), [created(cause="Object Created")]),
        (bridged(**{"event-version": "1.0"}), [created(cause="Object Created")]),
        (bridged(kind="Object Deleted"), [ChangeEvent("photos", "a.txt", "removed", "Object Deleted")]),
        (bridged(kind="Object Tags Added"), [ChangeEvent("photos", "a.txt", "other", "Object Tags Added")]),
        (json.dumps({"EventName": "s3:ObjectCreated:Put", "Key": "photos/a.txt", **json.loads(s3_body(s3_record()))}), [created()]),
        (json.dumps(TEST_EVENT), [Nothing("test-event")]),
        (sns(json.dumps(TEST_EVENT)), [Nothing("test-event")]),
        (s3_body(), [Nothing("no-records")]),
    ],
)
def test_every_envelope_is_read(body: str, outcomes: list[Outcome]) -> None:
    assert parse_sqs_body(body) == outcomes


@pytest.mark.parametrize(
    ("encoded", "key"),
    [
        ("red+flower.jpg", "red flower.jpg"),
        ("a%2Bb", "a+b"),
        ("a%252Bb", "a%2Bb"),
        ("caf%C3%A9/%E2%98%83", "café/☃"),
        ("dir/a%3Fb%23c", "dir/a?b#c"),
    ],
)
def test_the_key_of_an_s3_notification_is_form_decoded_once(encoded: str, key: str) -> None:
    assert parse_sqs_body(s3_body(s3_record(encoded))) == [created(key)]


@pytest.mark.parametrize("key", ["red+flower.jpg", "a%2Bb", "100%", "a b"])
def test_the_key_of_an_eventbridge_event_is_taken_as_it_is(key: str) -> None:
    assert parse_sqs_body(bridged(key)) == [created(key, "Object Created")]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "not-json"),
        ("hello", "not-json"),
        ('{"Records": [NaN]}', "not-json"),
        ('{"Records": [Infinity]}', "not-json"),
        ("9" * 5000, "not-json"),
        (sns("hello"), "not-json"),
        ("x" * 65_536, "not-json"),
        ('"' * 65_537, "not-json"),
        (" " * (MAX_BODY_BYTES + 1), "too-large"),
        ("é" * (MAX_BODY_BYTES // 2 + 1), "too-large"),
        ("[" * 60_000, "too-deep"),
        ('{"Records":' * 33 + "1" + "}" * 33, "too-deep"),
        ('{"Records": [], "Records": []}', "duplicate-name"),
        ('{"Records": [{"s3": {"object": {"key": "a", "key": "b"}}}]}', "duplicate-name"),
        ("[]", "unknown-envelope"),
        ("1", "unknown-envelope"),
        ("{}", "unknown-envelope"),
        ('{"Records": {}}', "unknown-envelope"),
        ('{"source": "aws.ec2", "detail": {}}', "unknown-envelope"),
        (sns(sns(sns(s3_body(s3_record())))), "too-many-envelopes"),
        (s3_body(1), "bad-record"),
        (s3_body({"eventVersion": "2.1"}), "bad-record"),
        (s3_body(s3_record(version="3.0")), "unsupported-major"),
        (s3_body(s3_record(version=2)), "unsupported-major"),
        (bridged(**{"event-version": "2.0"}), "unsupported-major"),
        (s3_body(s3_record(bucket="")), "no-bucket"),
        (s3_body(s3_record(bucket="b" * 256)), "no-bucket"),
        (s3_body(s3_record("")), "no-key"),
        (s3_body(s3_record(None)), "no-key"),
        (s3_body(s3_record("%FF")), "bad-key-encoding"),
        (s3_body(s3_record("100%")), "bad-key-encoding"),
        (s3_body(s3_record("a%00b")), "bad-key"),
        (s3_body(s3_record("\ud800")), "bad-key"),
        (bridged("k" * 1025), "bad-key"),
    ],
)
def test_what_cannot_be_read_is_quarantined_with_its_reason(body: str, reason: str) -> None:
    assert parse_sqs_body(body) == [Quarantined(reason)]  # type: ignore[arg-type]  # the table holds plain strings
    assert reason in REASONS


def test_one_bad_record_does_not_lose_the_others() -> None:
    body = s3_body(s3_record("a"), s3_record("%FF"), 7, s3_record("b"))
    assert parse_sqs_body(body) == [created("a"), Quarantined("bad-key-encoding"), Quarantined("bad-record"), created("b")]


KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=80)


@given(KEYS)
def test_every_key_comes_back_as_it_was(key: str) -> None:
    assert parse_sqs_body(s3_body(s3_record(quote_plus(key)))) == [created(key)]
    assert parse_sqs_body(sns(bridged(key))) == [created(key, "Object Created")]


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["Notification", "aws.s3", "2.1"])
NAMES = st.sampled_from(
    ["Records", "s3", "bucket", "object", "key", "name", "Type", "Message", "source", "detail", "eventVersion", "Event"]
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(string.printable, max_size=5), inner, max_size=5),
    max_leaves=20,
)


@given(
    st.text() | TREES.map(json.dumps) | TREES.map(lambda tree: sns(json.dumps(tree))) | TREES.map(lambda tree: s3_body(tree, s3_record()))
)
def test_no_body_raises_or_yields_a_key_that_cannot_be(body: str) -> None:
    outcomes = parse_sqs_body(body)
    assert outcomes
    for outcome in outcomes:
        if isinstance(outcome, ChangeEvent):
            assert key_problem(outcome.key) is None
            assert outcome.bucket
        elif isinstance(outcome, Quarantined):
            assert outcome.reason in REASONS
