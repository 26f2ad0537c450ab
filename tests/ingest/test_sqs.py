"""From a change in a bucket, through a queue, to the replica; and what a queue may hold besides."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from embedded.temporal import TemporalServer
from ingest.sqs import SqsIngestor
from ingest.sqs_messages import read_message
from replication.ids import object_workflow_id
from tests.ingest.conftest import FAST, Rig, make_queue
from tests.ingest.test_events import s3_body, s3_record
from tests.poll import eventually

ODD = "dir/red flower+50%.é"


@contextlib.asynccontextmanager
async def running(ingestor: SqsIngestor) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(ingestor.run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 15)
        await ingestor.dispatcher.close()


async def replicated(rig: Rig, key: str, data: bytes) -> None:
    await eventually(lambda: rig.is_replicated(key, data), 20, interval_s=0.1)


async def test_changes_reach_the_replica_though_another_queue_is_gone(rig: Rig) -> None:
    rig.notify()
    async with rig.worker(), rig.ingesting():
        rig.source.put(ODD, b"one")
        await replicated(rig, ODD, b"one")
        rig.source.put(ODD, b"two")
        await replicated(rig, ODD, b"two")
        rig.source.client.delete_object(Bucket=rig.source.bucket, Key=ODD)
        await eventually(lambda: rig.replica.see(ODD) is None, 20, interval_s=0.1)
        await eventually(lambda: rig.queue.left() == 0, 10, interval_s=0.1)
    assert "-gone: An error occurred" in rig.log()


async def test_late_delete_event_after_recreate_leaves_the_replica(rig: Rig) -> None:
    rig.source.put("k", b"recreated")
    async with rig.worker(), running(rig.ingestor()):
        rig.queue.send(s3_body(s3_record("k", bucket=rig.source.bucket)))
        await replicated(rig, "k", b"recreated")
        handle = rig.client.get_workflow_handle(object_workflow_id(rig.route, "k"))
        await handle.result()
        before, first = rig.replica.see("k"), (await handle.describe()).run_id
        rig.queue.send(s3_body(s3_record("k", "ObjectRemoved:Delete", bucket=rig.source.bucket)))
        await eventually(lambda: rig.queue.left() == 0, 10, interval_s=0.1)
        assert (await handle.describe()).run_id != first, "the delete event was looked at"
        assert (await handle.result())["outcome"] == "in_sync"
        assert rig.replica.see("k") == before


async def test_only_a_poisoned_message_stays_and_its_good_records_are_started(rig: Rig) -> None:
    for key in ("a", "b", "c", "x.tmp"):
        rig.source.put(key, key.encode())
    a, b, c, skipped = (s3_record(key, bucket=rig.source.bucket) for key in ("a", "b", "c", "x.tmp"))
    rig.queue.send(
        "junk", s3_body(a), s3_body(a), s3_body(b, s3_record("%FF"), c), s3_body(s3_record(bucket="elsewhere")), s3_body(skipped)
    )
    ingestor = rig.ingestor()
    async with rig.worker(), running(ingestor):
        for key in ("a", "b", "c"):
            await replicated(rig, key, key.encode())
        await eventually(lambda: ingestor.counts["received"] == 6 and rig.queue.left() == 2, 10, interval_s=0.1)
    assert rig.replica.keys() == {"a", "b", "c"}
    assert ingestor.counts["unroutable"] == 1
    assert ingestor.counts["quarantined not-json"] == ingestor.counts["quarantined bad-key-encoding"] == 1
    assert ingestor.counts["acknowledged"] == 4


async def test_nothing_is_deleted_while_temporal_is_down(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def looks() -> int:
        return sum("Temporal is still away" in record.getMessage() for record in caplog.records)

    with TemporalServer(headless=True) as server:
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
        server.kill()
        rig.queue.send(s3_body(s3_record("k", bucket=rig.source.bucket)))
        ingestor = rig.ingestor(client=client)
        async with running(ingestor):
            await eventually(lambda: looks() >= 2, 20)
            assert rig.queue.left() == 1
            assert ingestor.counts["acknowledged"] == ingestor.counts["started"] == 0
            await asyncio.to_thread(server.restart)
            await eventually(lambda: ingestor.counts["acknowledged"] == 1, 30)
            handle = client.get_workflow_handle(object_workflow_id(rig.route, "k"))
            assert (await handle.describe()).task_queue == rig.settings.temporal.control_queue
            assert rig.queue.left() == 0
            assert ingestor.counts["received"] == 1, "an outage spends no receives"


async def test_stopping_during_an_outage_ends_and_leaves_the_message(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with TemporalServer(headless=True) as server:
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
    rig.queue.send(s3_body(s3_record("k", bucket=rig.source.bucket)))
    async with running(rig.ingestor(client=client)):
        await eventually(lambda: "Temporal does not take" in caplog.text, 20)
    assert rig.queue.left() == 1


async def test_a_deletion_that_fails_spares_the_others_of_its_batch(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.queue.send(s3_body())
    ingestor = rig.ingestor()
    (raw,) = rig.queue.sqs.receive_message(QueueUrl=rig.queue.url)["Messages"]
    message = read_message(raw, ingestor.routes, ingestor.replicas)
    async with ingestor.client() as sqs:
        await ingestor.delete(sqs, [replace(message, receipt="no-such-receipt"), message])
    assert rig.queue.left() == 0
    assert ingestor.counts["acknowledged"] == 1
    assert [record.getMessage() for record in caplog.records if "not deleted" in record.getMessage()]


@pytest.mark.parametrize("has_redrive", [False, True])
async def test_poison_is_deleted_at_the_fifth_receive_unless_the_queue_redrives(rig: Rig, has_redrive: bool) -> None:
    dead = make_queue(rig.queue.sqs)
    if has_redrive:
        policy = json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": 7})
        rig.queue.sqs.set_queue_attributes(QueueUrl=rig.queue.url, Attributes={"RedrivePolicy": policy})
    rig.queue.send("junk")
    ingestor = rig.ingestor(replace(FAST, visibility_s=1))
    async with running(ingestor):
        await eventually(lambda: rig.queue.left() == 0, 20, interval_s=0.05)
    assert dead.left() == int(has_redrive)
    assert ingestor.counts["quarantined not-json"] == (7 if has_redrive else 5)


@pytest.mark.parametrize(
    ("ingest", "code", "problems"),
    [
        ({}, 2, ["ingest: nothing is configured to take events from"]),
        ({"webhook": {"listen": "127.0.0.1:1", "token": "env:T"}}, 2, ["ingest.webhook.token: the environment variable T is not set"]),
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
