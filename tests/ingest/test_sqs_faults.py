"""Temporal away or slow, and SQS that does half of what it is asked: nothing is lost, and nothing is deleted too early."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from embedded.temporal import TemporalServer
from ingest.pace import Pace
from ingest.sqs import SqsIngestor
from ingest.sqs_messages import read_message
from replication.ids import object_workflow_id
from tests.ingest.conftest import FAST, Rig, make_queue
from tests.ingest.gates import Call, Carry, SqsGate, TcpGate
from tests.poll import eventually

HELD = 100
DOWN_S = 6.0


async def connected(address: str) -> Client:
    return await Client.connect(address, data_converter=pydantic_data_converter)


def gated(ingestor: SqsIngestor, gate: SqsGate) -> SqsIngestor:
    """The ingestor reaches SQS through the gate."""
    ingestor.settings = ingestor.settings.model_copy(update={"endpoint": gate.endpoint})
    return ingestor


async def test_an_outage_of_temporal_deletes_nothing_spends_no_receives_and_ends_by_itself(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with TemporalServer(headless=True) as server:
        tcp = TcpGate(server.address)
        async with tcp.listening():
            client = await connected(tcp.address)
            server.kill()
            rig.queue.send_many([rig.event(f"k{number}") for number in range(HELD)])
            ingestor = rig.ingestor(client=client)
            async with rig.ingest(ingestor):
                await eventually(lambda: "Temporal is still away" in caplog.text, 30)
                before, received = tcp.connections, ingestor.counts["received"]
                assert before > 0, "Temporal was asked, and did not answer"
                await rests(DOWN_S)
                assert tcp.connections - before < 2 * DOWN_S
                assert ingestor.counts["received"] == received, "nothing more is received"
                assert ingestor.counts["acknowledged"] == ingestor.counts["started"] == 0
                assert rig.queue.left() == HELD
                assert caplog.text.count("Temporal does not take starts") == 1
                await asyncio.to_thread(server.restart)
                # moto may hand a message to two receives at once, so there may be more than were sent.
                await eventually(lambda: rig.queue.left() == 0, 60, interval_s=0.1)
            assert ingestor.counts["acknowledged"] == ingestor.counts["received"] >= HELD
            handles = [client.get_workflow_handle(object_workflow_id(rig.route, f"k{number}")) for number in range(HELD)]
            assert len({(await handle.describe()).run_id for handle in handles}) == HELD


async def rests(seconds: float) -> None:
    """The length of an outage, which is what is under test here."""
    until = time.monotonic() + seconds
    await eventually(lambda: time.monotonic() >= until, seconds + 10)


async def test_stopping_during_an_outage_ends_and_leaves_the_message(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with TemporalServer(headless=True) as server:
        client = await connected(server.address)
    rig.queue.send(rig.event("k"))
    async with rig.ingest(rig.ingestor(client=client)):
        await eventually(lambda: "Temporal does not take" in caplog.text, 30)
    assert rig.queue.left() == 1


async def unextended(request: Call, carry: Carry) -> Call:
    failed = [{"Id": entry["Id"], "SenderFault": True, "Code": "InvalidParameterValue"} for entry in request["Entries"]]
    return {"Successful": [], "Failed": failed}


@pytest.mark.parametrize("is_extended", [True, False])
async def test_a_start_that_outlasts_the_visibility_is_made_and_its_message_deleted(rig: Rig, is_extended: bool) -> None:
    dead = make_queue(rig.queue.sqs)
    policy = json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": 20})
    rig.queue.sqs.set_queue_attributes(QueueUrl=rig.queue.url, Attributes={"RedrivePolicy": policy})
    gate, tcp = SqsGate(rig.source.client.meta.endpoint_url), TcpGate(rig.client.service_client.config.target_host)
    if not is_extended:
        gate.answers["ChangeMessageVisibilityBatch"] = unextended
    async with gate.listening(), tcp.listening():
        ingestor = gated(rig.ingestor(replace(FAST, visibility_s=2), client=await connected(tcp.address)), gate)
        tcp.delay_s = 1.5
        rig.queue.send(rig.event("k"))
        began = time.monotonic()
        async with rig.ingest(ingestor):
            await eventually(lambda: gate.calls("DeleteMessageBatch"), 30)
            assert time.monotonic() - began > 2, "the start took longer than the visibility"
            tcp.delay_s = 0.0
            await eventually(lambda: rig.queue.left() == 0, 20, interval_s=0.1)
        assert gate.calls("ChangeMessageVisibilityBatch")
    assert (ingestor.counts["received"] == 1) == is_extended
    assert dead.left() == 0


async def test_a_deletion_that_fails_in_part_is_tried_again_for_that_part(rig: Rig) -> None:
    gate = SqsGate(rig.source.client.meta.endpoint_url)

    async def first_fails(request: Call, carry: Carry) -> Call:
        failing, *others = request["Entries"]
        if not others:
            return await carry(request)
        del gate.answers["DeleteMessageBatch"]
        answer = await carry({**request, "Entries": others})
        broken.append([entry["ReceiptHandle"] for entry in request["Entries"]])
        return {**answer, "Failed": [{"Id": failing["Id"], "SenderFault": False, "Code": "InternalError"}]}

    broken: list[list[str]] = []
    gate.answers["DeleteMessageBatch"] = first_fails
    async with gate.listening():
        ingestor = gated(rig.ingestor(), gate)
        async with rig.ingest(ingestor):
            while not broken:
                rig.queue.send_many([rig.event(f"k{number}") for number in range(10)])
                await eventually(lambda: rig.queue.left() == 0, 20, interval_s=0.1)
    sent = [[entry["ReceiptHandle"] for entry in call.request["Entries"]] for call in gate.calls("DeleteMessageBatch")]
    failed, *deleted = broken[0]
    assert [failed] in sent, "the one that failed is sent again, by itself"
    assert all(sum(receipt in batch for batch in sent) == 1 for receipt in deleted)
    assert ingestor.counts["acknowledged"] == ingestor.counts["received"]


async def test_a_receipt_that_sqs_does_not_take_spares_the_others_of_its_batch(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.queue.send(rig.event("k"))
    ingestor = rig.ingestor()
    (raw,) = rig.queue.sqs.receive_message(QueueUrl=rig.queue.url)["Messages"]
    message = read_message(raw, ingestor.routes, ingestor.replicas)
    async with ingestor.client() as sqs:
        assert await ingestor.delete(sqs, [replace(message, receipt="no-such-receipt"), message]) == []
    assert rig.queue.left() == 0
    assert ingestor.counts["acknowledged"] == 1
    assert "message not deleted: ReceiptHandleIsInvalid" in caplog.text


async def test_a_failure_of_sqs_ends_no_other_thing_and_what_was_held_comes_back(rig: Rig) -> None:
    gate = SqsGate(rig.source.client.meta.endpoint_url)

    async def broken(request: Call, carry: Carry) -> Call:
        return {"__type": "InternalError", "message": "broken", "_status": 400}

    gate.answers["DeleteMessageBatch"] = broken
    async with gate.listening():
        ingestor = gated(rig.ingestor(Pace(wait_s=1, visibility_s=2, first_pause_s=0.2, longest_pause_s=0.2)), gate)
        rig.queue.send(rig.event("k"))
        async with rig.ingest(ingestor):
            await eventually(lambda: gate.calls("DeleteMessageBatch"), 20)
            assert rig.queue.left() == 1
            del gate.answers["DeleteMessageBatch"]
            await eventually(lambda: rig.queue.left() == 0, 20, interval_s=0.1)
    assert ingestor.counts["received"] == 2
