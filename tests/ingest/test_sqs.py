"""From a change in a bucket, through a queue, to the replica; and what a queue may hold besides."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from replication.ids import object_workflow_id
from tests.e2e.sides import S3Side
from tests.ingest.conftest import FAST, Rig, make_queue
from tests.ingest.gates import Call, Carry, SqsGate
from tests.ingest.test_events import TEST_EVENT, s3_body, s3_record, sns
from tests.poll import eventually

ODD = "dir/red flower+50%.é"
POISON = (
    "junk",
    "[]",
    '{"Records": 7}',
    '{"Records": [NaN]}',
    '{"Records": [], "Records": []}',
    "x" * 65_536,
    "[" * 10_000,
    s3_body(s3_record(None)),
    s3_body(s3_record("%FF")),
    s3_body(s3_record(version="3.0")),
    s3_body(7),
    sns(sns(sns("{}"))),
)
REASONS_SEEN = {
    "not-json",
    "unknown-envelope",
    "duplicate-name",
    "too-deep",
    "no-key",
    "bad-key-encoding",
    "unsupported-major",
    "bad-record",
    "too-many-envelopes",
}


async def test_changes_reach_the_replica_though_another_queue_is_gone(rig: Rig) -> None:
    rig.notify()
    async with rig.worker(), rig.ingesting():
        rig.source.put(ODD, b"one")
        await rig.replicated(ODD, b"one")
        rig.source.put(ODD, b"two")
        await rig.replicated(ODD, b"two")
        rig.source.client.delete_object(Bucket=rig.source.bucket, Key=ODD)
        await eventually(lambda: rig.replica.see(ODD) is None, 20, interval_s=0.1)
        await eventually(lambda: rig.queue.left() == 0, 10, interval_s=0.1)
    assert "-gone: An error occurred" in rig.log()


async def test_only_a_poisoned_message_stays_and_its_good_records_are_started(rig: Rig) -> None:
    for key in ("a", "b", "c", "x.tmp"):
        rig.source.put(key, key.encode())
    a, b, c, skipped = (s3_record(key, bucket=rig.source.bucket) for key in ("a", "b", "c", "x.tmp"))
    rig.queue.send(
        "junk", s3_body(a), s3_body(a), s3_body(b, s3_record("%FF"), c), s3_body(s3_record(bucket="elsewhere")), s3_body(skipped)
    )
    ingestor = rig.ingestor()
    async with rig.worker(), rig.ingest(ingestor):
        for key in ("a", "b", "c"):
            await rig.replicated(key, key.encode())
        # A queue may hand out a message twice, so that the counts are at least these.
        await eventually(lambda: ingestor.counts["received"] >= 6 and rig.queue.left() == 2, 10, interval_s=0.1)
    assert rig.replica.keys() == {"a", "b", "c"}
    for name in ("unroutable", "quarantined not-json", "quarantined bad-key-encoding"):
        assert ingestor.counts[name] >= 1
    assert ingestor.counts["acknowledged"] >= 4


@pytest.mark.parametrize(("redrive_after", "receives"), [(2, 2), (None, 5)])
async def test_poison_is_deleted_at_the_fifth_receive_unless_the_queue_redrives(rig: Rig, redrive_after: int | None, receives: int) -> None:
    dead = make_queue(rig.queue.sqs)
    if redrive_after:
        policy = json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": redrive_after})
        rig.queue.sqs.set_queue_attributes(QueueUrl=rig.queue.url, Attributes={"RedrivePolicy": policy})
    rig.queue.send("junk")
    ingestor = rig.ingestor(replace(FAST, visibility_s=1))
    async with rig.ingest(ingestor):
        await eventually(lambda: rig.queue.left() == 0, 30, interval_s=0.05)
    assert dead.left() == (1 if redrive_after else 0)
    assert ingestor.counts["quarantined not-json"] == receives


async def test_whatever_is_poisoned_ends_in_the_dead_letter_queue_and_nothing_else_does(rig: Rig) -> None:
    dead = make_queue(rig.queue.sqs)
    policy = json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": 2})
    rig.queue.sqs.set_queue_attributes(QueueUrl=rig.queue.url, Attributes={"RedrivePolicy": policy})
    rig.source.put("good", b"good")
    # An empty body cannot be sent at all.
    rig.queue.send_many([POISON[0], rig.event("good"), *POISON[1:5], rig.event("good"), *POISON[5:]])
    ingestor = rig.ingestor(replace(FAST, visibility_s=1))
    async with rig.worker(), rig.ingest(ingestor):
        await rig.replicated("good", b"good")
        await eventually(lambda: dead.left() == len(POISON), 30, interval_s=0.1)
        await eventually(lambda: rig.queue.left() == 0, 10, interval_s=0.1)
    assert dead.bodies() == set(POISON)
    assert ingestor.counts["acknowledged"] >= 2  # a message that took longer than its second is given out again
    assert {name.removeprefix("quarantined ") for name in ingestor.counts if name.startswith("quarantined ")} == REASONS_SEEN


async def test_test_events_are_counted_and_start_nothing(rig: Rig) -> None:
    plain = json.dumps(TEST_EVENT)
    async with rig.through() as (seen, source, replica):
        rig.queue.send(plain, sns(plain), json.dumps({"Type": "SubscriptionConfirmation", "SubscribeURL": source.endpoint}))
        ingestor = seen.ingestor()
        async with seen.worker(), seen.ingest(ingestor):
            await eventually(lambda: ingestor.counts["acknowledged"] == 3, 20)
        assert source.log == replica.log == []
    assert (ingestor.counts["test-event"], ingestor.counts["subscription-confirmation"], ingestor.counts["started"]) == (2, 1, 0)
    assert rig.queue.left() == 0


async def test_an_event_of_a_strange_bucket_or_key_touches_no_store(rig: Rig) -> None:
    async with rig.through() as (seen, source, replica):
        strange = s3_record("k", bucket="elsewhere")
        strange["s3"]["bucket"]["arn"] = f"{source.endpoint}/elsewhere"
        rig.queue.send(s3_body({**strange, "awsRegion": "moon-1", "responseElements": {"x-amz-id-2": source.endpoint}}), rig.event("k.tmp"))
        ingestor = seen.ingestor()
        async with seen.worker(), seen.ingest(ingestor):
            await eventually(lambda: ingestor.counts["acknowledged"] == 2, 20)
            assert source.log == replica.log == []
            rig.source.put("k", b"k")
            rig.queue.send(rig.event("k"))
            await rig.replicated("k", b"k")
            assert source.log, "the proxies are in the way"
            assert replica.log, "the proxies are in the way"
    assert (ingestor.counts["unroutable"], ingestor.counts["started"]) == (1, 1)


async def test_readiness_follows_the_queue(rig: Rig) -> None:
    ingestor, said = rig.ingestor(replace(FAST, wait_s=20)), list[bool]()
    ingestor.report = lambda answers, cause: said.append(answers)
    gate = SqsGate(rig.source.client.meta.endpoint_url)
    async with gate.listening():
        ingestor.settings = ingestor.settings.model_copy(update={"endpoint": gate.endpoint})
        gate.answers["ReceiveMessage"] = gone
        async with rig.ingest(ingestor):
            await eventually(lambda: False in said, 20)
            assert True not in said
            del gate.answers["ReceiveMessage"]
            await eventually(lambda: True in said, 10)  # far less than a long poll
            assert said == sorted(said)


async def gone(request: Call, carry: Carry) -> Call:
    return {"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "gone", "_status": 400}


@pytest.mark.parametrize(
    ("ingest", "code", "problems"),
    [
        ({}, 2, ["ingest: nothing is configured to take events from"]),
        (
            {"webhook": {"listen": "127.0.0.1:1", "token": "env:T"}, "pubsub": [{"subscription": "projects/p/subscriptions/s"}]},
            2,
            ["ingest.webhook.token: the environment variable T is not set"],
        ),
    ],
)
async def test_what_cannot_run_ends_with_one_line_per_field(rig: Rig, ingest: object, code: int, problems: list[str]) -> None:
    rig.document = {**rig.document, "ingest": ingest}
    child = rig.launch()
    assert await asyncio.to_thread(child.wait, 30) == code
    assert rig.log().splitlines() == problems


async def test_an_absent_secret_and_an_absent_temporal_have_their_own_exit_codes(rig: Rig, free_port: int) -> None:
    rig.document = {**rig.document, "temporal": {"address": f"127.0.0.1:{free_port}"}}
    unreachable = rig.launch()
    assert await asyncio.to_thread(unreachable.wait, 60) == 3
    rig.environ = {}
    unset = rig.launch()
    assert await asyncio.to_thread(unset.wait, 30) == 2
    assert rig.log().splitlines() == ["ingest.sqs[0].access_key_id: the environment variable SOURCE_KEY is not set"]


async def test_a_tag_alone_is_told_by_its_event_only_and_moves_no_bytes(rig: Rig) -> None:
    """R84 on S3, where tags change neither the ETag nor the time that a listing shows."""
    events = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectTagging:*"]
    told = {"QueueConfigurations": [{"QueueArn": rig.queue.arn, "Events": events}]}
    rig.source.client.put_bucket_notification_configuration(Bucket=rig.source.bucket, NotificationConfiguration=told)
    async with rig.through() as (made, source, replica), made.worker(), made.ingest(made.ingestor()):
        await asyncio.to_thread(rig.source.put, "k", b"tagged later")
        await made.replicated("k", b"tagged later")
        await eventually(lambda: made.queue.left() == 0, 20)
        await made.client.get_workflow_handle(object_workflow_id(made.route, "k")).result()
        listed = listing(rig.source)
        source.log.clear()
        replica.log.clear()
        tags = {"TagSet": [{"Key": "colour", "Value": "red"}]}
        await asyncio.to_thread(rig.source.client.put_object_tagging, Bucket=rig.source.bucket, Key="k", Tagging=tags)
        await eventually(lambda: asyncio.to_thread(is_tagged, rig.replica, "k", {"colour": "red"}), 20, interval_s=0.1)
        result = await made.client.get_workflow_handle(object_workflow_id(made.route, "k")).result()
    assert listing(rig.source) == listed
    assert (result["outcome"], result["bytes_copied"]) == ("updated", 0)
    assert source.requests("GET", r"/k(\?versionId=.*)?$") == [], "nothing was read"
    written = replica.requests("PUT|POST")
    assert [(seen.method, seen.request_bytes) for seen in written if "?tagging" not in seen.target] == [("PUT", 0)]


def listing(side: S3Side) -> list[tuple[Any, ...]]:
    found = side.client.list_objects_v2(Bucket=side.bucket)["Contents"]
    return [(entry["Key"], entry["ETag"], entry["LastModified"], entry["Size"]) for entry in found]


def is_tagged(side: S3Side, key: str, tags: dict[str, str]) -> bool:
    seen = side.see(key)
    return seen is not None and seen.properties.tags == tags
