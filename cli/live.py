"""How far a pass is right now: what its workflow has counted, and what the scans of its open partitions told last."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

from pydantic import ValidationError
from temporalio.client import Client
from temporalio.service import RPCError

from replication.ids import partition_id
from replication.passes import Counters, PassProgress, ScanResult

ANSWER = timedelta(seconds=5)


async def with_open_partitions(client: Client, progress: PassProgress) -> PassProgress:
    """The progress of a pass with the counters of what is under way. A partition that does not answer adds nothing.

    A pass whose open partitions all wait for something waits too: they do not tell it."""
    ids = [partition_id(progress.mode, progress.route, number) for number in progress.open_partitions]
    parts = await asyncio.gather(*(_counted(client, workflow_id) for workflow_id in ids))
    total = progress.counters
    for counters, _ in parts:
        total = total.plus(counters)
    waits = progress.state == "running" and parts and all(problem for _, problem in parts)
    trouble = {"state": "waiting", "problem": parts[0][1]} if waits else {}
    return progress.model_copy(update={"counters": total, **trouble})


async def _counted(client: Client, workflow_id: str) -> tuple[Counters, str]:
    """What the partition's ended stretches counted, and what its scan beat last; and what it waits for."""
    handle = client.get_workflow_handle(workflow_id)
    counters, problem = Counters(), ""
    with suppress(RPCError):
        part: PassProgress = await handle.query("progress", result_type=PassProgress, rpc_timeout=ANSWER)
        counters, problem = part.counters, part.problem
        description = await handle.describe(rpc_timeout=ANSWER)
        for pending in description.raw_description.pending_activities:
            if pending.activity_type.name == "scan_range" and pending.heartbeat_details.payloads:
                (details,) = await client.data_converter.decode(pending.heartbeat_details.payloads)
                counters = counters.plus(_beaten(details))
    return counters, problem


def _beaten(details: object) -> Counters:
    scan = details.get("scan") if isinstance(details, dict) else None
    try:
        return ScanResult.model_validate(scan).counters if scan else Counters()
    except ValidationError:
        return Counters()
