"""The ingestor's process dies around an acknowledgement: the change is replicated all the same, once."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator

import pytest

from tests.ingest.conftest import Rig
from tests.ingest.gates import Call, SqsGate, TcpGate
from tests.ingest.test_order import writes
from tests.poll import eventually

VISIBILITY_S = 2


def soon_visible(request: Call) -> Call:
    """The process asks for a minute, for which a test would wait; the polls of a dead process go on for a while."""
    return {**request, "VisibilityTimeout": VISIBILITY_S, "WaitTimeSeconds": 1}


@contextlib.asynccontextmanager
async def ended(child: subprocess.Popen[bytes]) -> AsyncIterator[None]:
    """Kills the process at the end, with SIGKILL."""
    try:
        yield
    finally:
        child.kill()
        await asyncio.to_thread(child.wait, 10)


@pytest.mark.parametrize("point", ["before_start", "before_ack", "after_ack"])
async def test_a_kill_around_the_ack_loses_nothing_and_copies_once(rig: Rig, point: str) -> None:
    gate, tcp = SqsGate(rig.source.client.meta.endpoint_url), TcpGate(rig.client.service_client.config.target_host)
    gate.asks["ReceiveMessage"] = soon_visible
    rig.source.put("k", b"k")
    async with gate.listening(), tcp.listening(), rig.through(sqs=gate.endpoint, temporal=tcp.address) as (seen, _, replica):
        async with ended(seen.launch()):
            await eventually(lambda: gate.calls("ReceiveMessage"), 30)
            if point == "before_start":
                tcp.shut()
            (gate.held_after if point == "after_ack" else gate.held_before).add("DeleteMessageBatch")
            rig.queue.send(rig.event("k"))
            if point == "before_start":
                await eventually(lambda: any(call.answer.get("Messages") for call in gate.calls("ReceiveMessage")), 20)
            else:
                await eventually(lambda: gate.waiting, 20)
        assert rig.queue.left() == (0 if point == "after_ack" else 1), "the process died at this point"
        gate.held_before.clear()
        gate.held_after.clear()
        tcp.open()
        async with seen.worker(), seen.ingesting():
            await rig.replicated("k", b"k", 30)
            await eventually(lambda: rig.queue.left() == 0, 20, interval_s=0.1)
        assert writes(replica) == ["PUT k"]
    deliveries = [message for call in gate.calls("ReceiveMessage") for message in call.answer.get("Messages", [])]
    # The polls of the dead process may take it once more, for nobody.
    assert (len(deliveries) >= 2) == (point != "after_ack")
