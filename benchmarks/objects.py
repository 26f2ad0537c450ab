"""Single objects through `ReplicateObject`: large ones, many small ones, and one at a time, beside the peers."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from benchmarks.lab import MIB, WARM_KEY, BenchLab, check_equal, seed_objects
from benchmarks.measure import Usage, cpu_seconds, peak_bytes, reset_peak, turned
from benchmarks.peers import PEERS
from replication.ids import object_workflow_id
from workflows.visibility import object_attributes

IN_FLIGHT = 64


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table. `ratio` is the speed in relation to `against`; above 1 is faster."""

    case: str
    program: str
    wall_s: float
    """0 for what was not measured, as below."""
    rate: str
    cpu_s: float
    peak_mib: float
    ratio: float | None = None
    against: str = ""


async def objects(lab: BenchLab, *, rounds: int, large: int = 4, large_size: int = 256 * MIB, small: int = 2000) -> list[Row]:
    """Every case of this file, with `rounds` interleaved runs of each program; the median run counts."""
    for server, bucket in ((lab.source, "large"), (lab.destination, "large-warm-up")):
        seed_objects(server, bucket, "big-", large, large_size)
    lab.leave("large-warm-up")
    keys = seed_objects(lab.source, "small", "small/", small, 4096)
    large_keys = [f"big-{number:06d}" for number in range(large)]
    mib = large * large_size / MIB
    rows = await _bulk(
        lab, "large", large_keys, rounds, f"{large} x {large_size // MIB} MiB", lambda wall: f"{mib / wall:.0f} MiB/s", "juicefs sync"
    )
    rows += await _bulk(lab, "small", keys, rounds, f"{small:,} x 4 KiB", lambda wall: f"{small / wall:.0f}/s", "no-op workflow")
    return rows + await _latency(lab)


async def _bulk(
    lab: BenchLab, bucket: str, keys: list[str], rounds: int, case: str, rate: Callable[[float], str], against: str
) -> list[Row]:
    runs: dict[str, list[Usage]] = {}
    programs = ["drayage", *PEERS, *(["no-op workflow"] if against == "no-op workflow" else [])]
    for number in range(rounds):
        for name in turned(programs, number):
            if name == "no-op workflow":
                runs.setdefault(name, []).append(await noop_usage(lab, keys))
                continue
            destination = f"{bucket}-{name.split()[0]}-{number}"
            lab.used_bucket(destination)
            ours = name == "drayage"
            usage = await _drayage(lab, bucket, destination, keys) if ours else PEERS[name].run(lab, bucket, destination)
            check_equal(lab, bucket, destination, len(keys))
            runs.setdefault(name, []).append(usage)
            lab.leave(destination)
    return rows_of(case, runs, rate, against)


def rows_of(case: str, runs: dict[str, list[Usage]], rate: Callable[[float], str], against: str) -> list[Row]:
    """The median of each program; drayage's ratios to the others are medians of pairs from the same round."""
    rows = []
    for program, used in runs.items():
        middle = sorted(used, key=lambda usage: usage.wall_s)[len(used) // 2]
        ratio = None
        if program != "drayage":
            ratio = statistics.median(other.wall_s / ours.wall_s for other, ours in zip(used, runs["drayage"], strict=True))
        rows.append(Row(case, program, middle.wall_s, rate(middle.wall_s), middle.cpu_s, middle.peak_bytes / MIB, ratio, against))
    return rows


async def _drayage(lab: BenchLab, bucket: str, destination: str, keys: list[str]) -> Usage:
    config = lab.write_config(bucket, destination)
    with lab.process(["worker.py", "--config", str(config)], ready="worker is ready") as worker:
        return await _timed(lab, worker.pid, keys, lambda client, key: _replicate(client, f"bench-{destination}", key))


async def noop_usage(lab: BenchLab, keys: list[str]) -> Usage:
    queue = f"noop-{uuid.uuid4().hex}"
    with lab.process(["-m", "benchmarks.noop", lab.temporal.address, queue]) as worker:
        return await _timed(lab, worker.pid, keys, lambda client, key: _nothing(client, queue, key))


async def _timed(lab: BenchLab, pid: int, keys: list[str], one: Callable[[Client, str], Awaitable[Any]]) -> Usage:
    """Starts one workflow for each key, a bounded number at once, until all are done. One before, to warm up."""
    client = await Client.connect(lab.temporal.address, data_converter=pydantic_data_converter)
    await one(client, WARM_KEY)
    lab.settle()
    reset_peak(pid)
    gate, cpu, began = asyncio.Semaphore(IN_FLIGHT), cpu_seconds(pid), time.perf_counter()

    async def bounded(key: str) -> None:
        async with gate:
            await one(client, key)

    await asyncio.gather(*(bounded(key) for key in keys))
    wall = time.perf_counter() - began
    return Usage(wall, cpu_seconds(pid) - cpu, peak_bytes(pid))


async def _replicate(client: Client, queue: str, key: str) -> None:
    result = await client.execute_workflow(
        "ReplicateObject", {"route": "bench", "key": key}, id=f"{object_workflow_id('bench', key)}#{queue}", task_queue=queue,
        search_attributes=object_attributes("bench", key),
    )  # fmt: skip
    if result["outcome"] != "copied":
        raise RuntimeError(f"{key}: {result}")


async def _nothing(client: Client, queue: str, key: str) -> None:
    await client.execute_workflow(
        "Noop",
        {"route": "bench", "key": key},
        id=f"noop-{uuid.uuid4()}",
        task_queue=queue,
        search_attributes=object_attributes("bench", key),
    )


async def _latency(lab: BenchLab, count: int = 40) -> list[Row]:
    """One object at a time on an idle server: from the start of the workflow to its result."""
    keys = seed_objects(lab.source, "idle", "one-", count, 4096)
    lab.destination.create_bucket("idle-drayage")
    config = lab.write_config("idle", "idle-drayage")
    client = await Client.connect(lab.temporal.address, data_converter=pydantic_data_converter)
    queue = f"noop-{uuid.uuid4().hex}"
    with (
        lab.process(["worker.py", "--config", str(config)], ready="worker is ready") as worker,
        lab.process(["-m", "benchmarks.noop", lab.temporal.address, queue]) as noop,
    ):
        ours = await _one_by_one(keys, lambda key: _replicate(client, "bench-idle-drayage", key))
        theirs = await _one_by_one(keys, lambda key: _nothing(client, queue, key))
        peaks = peak_bytes(worker.pid) / MIB, peak_bytes(noop.pid) / MIB
    return [
        _latency_row("drayage", ours, peaks[0], None),
        _latency_row("no-op workflow", theirs, peaks[1], statistics.median(theirs) / statistics.median(ours)),
    ]


async def _one_by_one(keys: list[str], one: Callable[[str], Awaitable[Any]]) -> list[float]:
    await one(WARM_KEY)
    taken = []
    for key in keys:
        began = time.perf_counter()
        await one(key)
        taken.append(time.perf_counter() - began)
    return taken


def _latency_row(program: str, taken: list[float], peak_mib: float, ratio: float | None) -> Row:
    p50, p99 = statistics.median(taken), sorted(taken)[int(len(taken) * 0.99)]
    return Row(
        "idle, one 4 KiB object",
        program,
        0.0,
        f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms",
        0.0,
        peak_mib,
        ratio,
        "no-op workflow",
    )
