"""Whole passes beside the peers: small, medium and large objects, and passes that find nothing to do."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter

from activities._progress import BEAT_S
from benchmarks.lab import MIB, BenchLab, Place, check_equal, name_of, seed_objects
from benchmarks.measure import Usage, cpu_seconds, peak_bytes, reset_peak, turned
from benchmarks.objects import Row, rows_of
from benchmarks.peers import PEERS
from benchmarks.seed import seed_tiny
from cli.passes import start_pass
from replication.passes import PassInput, PassResult

KIB = 1 << 10
SEEN_S = 10.0
ACTIONS = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, EventType.EVENT_TYPE_TIMER_STARTED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
    EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
    EventType.EVENT_TYPE_MARKER_RECORDED,
}  # fmt: skip
"""Events that stand for an action (docs.temporal.io/cloud/actions). A heartbeat is one too, and leaves no event."""


@dataclass(frozen=True, slots=True)
class Case:
    """`count` objects of `size` bytes in a bucket of its own."""

    bucket: str
    label: str
    count: int
    size: int

    def rate(self, wall_s: float) -> str:
        return f"{self.count * self.size / MIB / wall_s:.0f} MiB/s" if self.size >= MIB else f"{self.count / wall_s:,.0f}/s"


CASES = (Case("small", "4 KiB", 20_000, 4 * KIB), Case("medium", "1 MiB", 2_000, MIB), Case("large", "256 MiB", 4, 256 * MIB))


async def passes(lab: BenchLab, *, rounds: int, cases: Sequence[Case] = CASES, many: int = 200_000) -> list[Row]:
    """Every case with `rounds` interleaved runs of each program, then twice that with nothing to do."""
    rows: list[Row] = []
    for case in cases:
        for server, bucket in ((lab.source, case.bucket), (lab.destination, f"{case.bucket}-warm-up")):
            seed_objects(server, bucket, "o/", case.count, case.size)
        lab.leave(f"{case.bucket}-warm-up")
        rows += await _copied(lab, case, rounds)
    return rows + await _unchanged(lab, many, rounds)


async def _copied(lab: BenchLab, case: Case, rounds: int) -> list[Row]:
    """A bucket of its own for each program in each round, copied to, copied to again, and removed."""
    first: dict[str, list[Usage]] = {}
    again: dict[str, list[Usage]] = {}
    actions: list[float] = []
    for number in range(rounds):
        for name in turned(("drayage", *PEERS), number):
            destination = f"{case.bucket}-{name.split()[0]}-{number}"
            lab.used_bucket(destination)
            if name == "drayage":
                usages, spent = await _ours(lab, case, destination)
                actions.append(spent / (case.count + 1))
            else:
                runs = 1 if name == "s5cmd cp" else 2  # it would copy everything again
                usages = [PEERS[name].run(lab, case.bucket, destination) for _ in range(runs)]
            for kept, usage in zip((first, again), usages, strict=False):
                kept.setdefault(name, []).append(usage)
            check_equal(lab, case.bucket, destination, case.count)
            lab.leave(destination)
    label = f"{case.count:,} x {case.label}"
    copied = [_with_actions(row, max(actions)) for row in rows_of(label, first, case.rate, "juicefs sync")]
    return copied + rows_of(f"{label}, unchanged", again, lambda wall: f"{case.count / wall:,.0f}/s", "juicefs sync")


async def _ours(lab: BenchLab, case: Case, destination: str) -> tuple[list[Usage], int]:
    """A pass that copies and one that finds nothing to do; the actions of the first."""
    async with passing_worker(lab, case.bucket, destination) as passing:
        copying, spent = await passing.measured(copied=case.count + 1, skipped=0)
        idle, _ = await passing.measured(copied=0, skipped=case.count + 1)
    return [copying, idle], spent


def _with_actions(row: Row, actions: float) -> Row:
    return replace(row, rate=f"{row.rate}, {actions:.4f} actions an object") if row.program == "drayage" else row


async def _unchanged(lab: BenchLab, many: int, rounds: int) -> list[Row]:
    """Many tiny objects that stand on both sides from the beginning: a first pass takes them over, unmeasured."""
    for server, bucket in ((lab.source, "many"), (lab.destination, "many-replica")):
        server.create_bucket(bucket)
    count = await seed_tiny(many, (lab.source, "many"), (lab.destination, "many-replica"))
    runs: dict[str, list[Usage]] = {}
    async with passing_worker(lab, "many", "many-replica") as passing:
        await passing.measured(copied=0, skipped=count)
        for _ in range(rounds):
            for name in ("juicefs sync", "rclone copy"):
                runs.setdefault(name, []).append(PEERS[name].run(lab, "many", "many-replica"))
            runs.setdefault("drayage", []).append((await passing.measured(copied=0, skipped=count))[0])
    return rows_of(f"{count:,} x 6 bytes, unchanged", runs, lambda wall: f"{count / wall:,.0f}/s", "juicefs sync")


# --- our pass --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def passing_worker(lab: BenchLab, source: Place, destination: Place) -> AsyncIterator[Passing]:
    config = lab.write_config(source, destination)
    client = await Client.connect(lab.temporal.address, data_converter=pydantic_data_converter)
    with lab.process(["worker.py", "--config", str(config)], ready="worker is ready") as worker:
        yield Passing(lab, client, f"bench-{name_of(destination)}", worker.pid)


class Passing:
    """Passes of one route by one worker process."""

    def __init__(self, lab: BenchLab, client: Client, queue: str, pid: int) -> None:
        self._lab = lab
        self._client = client
        self._queue = queue
        self._pid = pid

    async def measured(self, *, copied: int, skipped: int) -> tuple[Usage, int]:
        """What one pass took, from its start to its result, and the Temporal actions of all its workflows."""
        self._lab.settle()
        reset_peak(self._pid)
        since, cpu, began = datetime.now(UTC), cpu_seconds(self._pid), time.perf_counter()
        handle, _ = await start_pass(self._client, self._queue, PassInput(route="bench"))
        result = await handle.result()
        usage = Usage(time.perf_counter() - began, cpu_seconds(self._pid) - cpu, peak_bytes(self._pid))
        counters = result.counters
        if result.state != "done" or (counters.copied, counters.skipped) != (copied, skipped):
            raise RuntimeError(f"{self._queue}: {result}")
        return usage, await self._actions(since, result)

    async def _actions(self, since: datetime, result: PassResult) -> int:
        """Counted in the histories; heartbeats as many as there can have been."""
        query, deadline = f'DrayageRoute = "bench" AND StartTime >= "{since.isoformat()}"', time.monotonic() + SEEN_S
        while True:
            runs = [found async for found in self._client.list_workflows(query)]
            if len(runs) > result.partitions or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        histories = [await self._client.get_workflow_handle(one.id, run_id=one.run_id).fetch_history() for one in runs]
        if len(histories) <= result.partitions:
            raise RuntimeError(f"{len(histories)} workflows are found, the pass had {result.partitions} partitions")
        return sum(map(actions_of, histories))


def actions_of(history: WorkflowHistory) -> int:
    """Actions of one workflow run. A heartbeat is sent each `BEAT_S` at most."""
    started: dict[int, float] = {}
    beats = 0
    for event in history.events:
        at = event.event_time.ToNanoseconds() / 1e9
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
            started[event.event_id] = at
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            beats += math.ceil((at - started[event.activity_task_completed_event_attributes.started_event_id]) / BEAT_S) - 1
    return beats + sum(event.event_type in ACTIONS for event in history.events)
