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
    """The progress of a pass with the counters of what is under way. A partition that does not answer adds nothing."""
    ids = [partition_id(progress.mode, progress.route, number) for number in progress.open_partitions]
    parts = await asyncio.gather(*(_counted(client, workflow_id) for workflow_id in ids))
    total = progress.counters
    for part in parts:
        total = total.plus(part)
    return progress.model_copy(update={"counters": total})


async def _counted(client: Client, workflow_id: str) -> Counters:
    """What the partition's ended stretches counted, and what its scan beat last."""
    handle = client.get_workflow_handle(workflow_id)
    counters = Counters()
    with suppress(RPCError):
        part: PassProgress = await handle.query("progress", result_type=PassProgress, rpc_timeout=ANSWER)
        counters = part.counters
        description = await handle.describe(rpc_timeout=ANSWER)
        for pending in description.raw_description.pending_activities:
            if pending.activity_type.name == "scan_range" and pending.heartbeat_details.payloads:
                (details,) = await client.data_converter.decode(pending.heartbeat_details.payloads)
                counters = counters.plus(_beaten(details))
    return counters


def _beaten(details: object) -> Counters:
    scan = details.get("scan") if isinstance(details, dict) else None
    try:
        return ScanResult.model_validate(scan).counters if scan else Counters()
    except ValidationError:
        return Counters()
