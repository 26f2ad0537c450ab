"""Events beside a backfill: how late they are when one worker process carries both, against the same trickle alone."""

from __future__ import annotations

import asyncio
import time
from itertools import islice
from typing import Any

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from benchmarks.events import WARM_UP, delays, following, spread
from benchmarks.lab import MIB, BenchLab, seed_objects
from benchmarks.measure import cpu_seconds, peak_bytes
from benchmarks.objects import Row
from benchmarks.seed import seed_tiny
from cli.passes import start_pass
from embedded.moto import MotoServer
from replication.passes import PassInput, PassProgress

BACKFILL = "backfill"
RATES = 10, 20
"""Events a second. At 20, with its servers on the same two cores, there is hardly anything left for anybody else."""
WARMING_S = 10.0
"""How long the backfill runs before the first event beside it."""


async def lanes(lab: BenchLab, *, for_s: int = 60, many: int = 200_000) -> list[Row]:
    """Trickles of events without and with a backfill that runs from before the first event until after the last."""
    client = await Client.connect(lab.temporal.address, data_converter=pydantic_data_converter)
    left = iter(seed_objects(lab.source, "lane", "e/", WARM_UP + 2 * for_s * sum(RATES), 4096))
    lab.source.create_bucket(BACKFILL)
    lab.destination.create_bucket(f"{BACKFILL}-drayage")
    count = await seed_tiny(many, (lab.source, BACKFILL))
    backfill = {
        "name": BACKFILL,
        "source": {"store": "source", "bucket": BACKFILL},
        "destination": {"store": "destination", "bucket": f"{BACKFILL}-drayage"},
    }
    with MotoServer() as moto, following(lab, moto, "lane", routes=[backfill]) as run:

        async def trickles() -> dict[int, list[float]]:
            return {rate: await delays(client, run, list(islice(left, for_s * rate)), per_s=rate) for rate in RATES}

        await delays(client, run, list(islice(left, WARM_UP)))
        alone = await trickles()
        handle, _ = await start_pass(client, "bench-lane-drayage", PassInput(route=BACKFILL))
        began, cpu_s = time.perf_counter(), cpu_seconds(run.pids[0])
        await asyncio.sleep(WARMING_S)
        beside = await trickles()
        progress: PassProgress = await handle.query("progress", result_type=PassProgress)
        if progress.state != "running":
            raise RuntimeError(f"the backfill was {progress.state} before the last event was")
        result = await handle.result()
        wall = time.perf_counter() - began
        used = cpu_seconds(run.pids[0]) - cpu_s, peak_bytes(run.pids[0]) / MIB
    if result.counters.copied != count:
        raise RuntimeError(f"the backfill copied {result.counters.copied} of {count}: {result}")
    rows = []
    for rate in RATES:
        rows += [_row(f"{rate} events/s, alone", alone[rate]), _row(f"{rate} events/s beside the backfill", beside[rate], alone[rate])]
    return [*rows, Row(f"backfill of {count:,} x 6 bytes", "drayage", wall, f"{count / wall:,.0f}/s", *used)]


def _row(case: str, late: list[float], idle: Any = None) -> Row:
    p50, p99 = spread(late)
    times = f", {p99 / spread(idle)[1]:.1f} times that alone" if idle else ""
    return Row(case, "drayage", 0.0, f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms{times}", 0.0, 0.0)
