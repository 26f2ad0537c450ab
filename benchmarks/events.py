"""Events through SQS to the replica: how late at a steady trickle, and how many a second when the queue is full."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import yaml
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from benchmarks.lab import MIB, BenchLab, check_equal, seed_objects
from benchmarks.measure import cpu_seconds, peak_bytes
from benchmarks.objects import Row, noop_usage
from embedded.moto import MotoServer
from replication.ids import object_workflow_id

TRICKLE_PER_S = 20
WARM_UP = 40
"""Events before the first that is measured: a worker's first ones find no connection and no compiled workflow."""
RECORDS = 10
"""Events in a message of the full queue: moto walks through its whole queue to hand out a message, and with one event each it
would be moto that is measured (ten a second of a thousand waiting)."""
MOST = 0.99
"""A message whose answer was lost on the way comes again when its visibility ends, two minutes later: rates are of the others."""


@dataclass(frozen=True, slots=True)
class Run:
    """Processes of one configuration: their task queue's keys, and where events go."""

    lab: BenchLab
    sqs: Any
    url: str
    bucket: str
    pids: tuple[int, int]

    @property
    def route(self) -> str:
        return f"bench-{self.bucket}"

    def send(self, keys: Sequence[str]) -> None:
        """One message with an event for each key, with the body that S3 sends."""
        self.sqs.send_message(QueueUrl=self.url, MessageBody=event_body(self.bucket, keys))


def event_body(bucket: str, keys: Sequence[str]) -> str:
    return json.dumps({"Records": [_record(bucket, key) for key in keys]})


def _record(bucket: str, key: str) -> dict[str, Any]:
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventTime": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 4096}},
    }


async def events(lab: BenchLab, *, trickle: int = 600, full: int = 2000) -> list[Row]:
    """The trickle and the full queue, and the rate of the no-op workflow in the same run."""
    client = await Client.connect(lab.temporal.address, data_converter=pydantic_data_converter)
    with MotoServer() as moto:
        late = await _trickle(lab, moto, client, trickle)
        wall, last, cpu_s, peak = await _full(lab, moto, client, full)
    noop = await noop_usage(lab, [f"noop-{number}" for number in range(full)])
    p50, p99 = spread(late)
    return [
        Row(f"{TRICKLE_PER_S} events/s", "drayage", 0.0, f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms", 0.0, 0.0),
        Row(
            f"{full:,} events waiting", "drayage", wall, f"{full * MOST / wall:.0f}/s, the last after {last:.0f} s", cpu_s, peak / MIB
        ),
        Row(
            f"{full:,} events waiting", "no-op workflow", noop.wall_s, f"{full / noop.wall_s:.0f}/s", noop.cpu_s, noop.peak_bytes / MIB,
            noop.wall_s * MOST / wall, "no-op workflow",
        ),
    ]  # fmt: skip


async def _trickle(lab: BenchLab, moto: MotoServer, client: Client, count: int) -> list[float]:
    """Seconds from the sending of each event to the end of its workflow, which is after the commit."""
    keys = seed_objects(lab.source, "trickle", "e/", WARM_UP + count, 4096)
    with following(lab, moto, "trickle") as run:
        await delays(client, run, keys[:WARM_UP])
        return await delays(client, run, keys[WARM_UP:])


async def delays(client: Client, run: Run, keys: Sequence[str], *, per_s: float = TRICKLE_PER_S) -> list[float]:
    """Sends an event for each key, so many a second; seconds from each to the end of its workflow."""
    sent, began = {}, time.time()
    for number, key in enumerate(keys):
        await asyncio.sleep(max(0.0, began + number / per_s - time.time()))
        sent[key] = time.time()
        await asyncio.to_thread(run.send, [key])
    ended = await _ended(client, run, keys)
    return [ended[key] - sent[key] for key in keys]


def spread(late: Sequence[float]) -> tuple[float, float]:
    """The median and the 99th percentile, in seconds."""
    return statistics.median(late), sorted(late)[int(len(late) * 0.99)]


async def _full(lab: BenchLab, moto: MotoServer, client: Client, count: int) -> tuple[float, float, float, int]:
    """Wall seconds from the ingestor's readiness until most had ended, and until all had; CPU seconds and peak memory of
    both processes."""
    keys = seed_objects(lab.source, "full", "e/", count, 4096)

    def fill(run: Run) -> None:
        for start in range(0, count, RECORDS):
            run.send(keys[start : start + RECORDS])

    with following(lab, moto, "full", before=fill) as run:
        began = time.time()
        ended = await _ended(client, run, keys)
        check_equal(lab, "full", "full-drayage", count, warm=False)
        ends = sorted(end - began for end in ended.values())
        return ends[int(count * MOST)], ends[-1], sum(map(cpu_seconds, run.pids)), sum(map(peak_bytes, run.pids))


async def _ended(client: Client, run: Run, keys: Sequence[str]) -> dict[str, float]:
    """When each key's workflow ended, in seconds since 1970; waits for all."""
    found: dict[str, float] = {}
    wanted = {object_workflow_id(run.route, key): key for key in keys}
    while len(found) < len(keys):
        await asyncio.sleep(0.5)
        async for execution in client.list_workflows(f"DrayageRoute = '{run.route}' AND ExecutionStatus = 'Completed'", page_size=1000):
            if execution.close_time is not None and execution.id in wanted:
                found[wanted[execution.id]] = execution.close_time.timestamp()
    return found


@contextmanager
def following(lab: BenchLab, moto: MotoServer, bucket: str, before: Any = None, routes: Sequence[dict[str, Any]] = ()) -> Iterator[Run]:
    """A worker, of more `routes` if there are, and an ingestor that follow a queue of their own; `before` runs while only the
    worker does."""
    keys = {"aws_access_key_id": moto.access_key, "aws_secret_access_key": moto.secret_key, "region_name": moto.region}
    sqs: Any = boto3.client("sqs", endpoint_url=moto.endpoint, **keys)  # type: ignore[call-overload]  # no stubs of SQS
    url = sqs.create_queue(QueueName=f"bench-{uuid.uuid4().hex}")["QueueUrl"]
    lab.destination.create_bucket(f"{bucket}-drayage")
    config = _config(lab, moto, url, bucket, routes)
    variables = {"MOTO_KEY": moto.access_key, "MOTO_SECRET": moto.secret_key}
    with lab.process(["worker.py", "--config", str(config)], ready="worker is ready") as worker:
        if before:
            before(Run(lab, sqs, url, bucket, (worker.pid, worker.pid)))
        with lab.process(["-m", "ingest", "--config", str(config)], ready="ingest is ready", **variables) as ingest:
            yield Run(lab, sqs, url, bucket, (worker.pid, ingest.pid))
    sqs.close()


def _config(lab: BenchLab, moto: MotoServer, url: str, bucket: str, routes: Sequence[dict[str, Any]]) -> Path:
    path = lab.write_config(bucket, f"{bucket}-drayage")
    document = yaml.safe_load(path.read_text())
    document["routes"][0]["name"] = f"bench-{bucket}"
    document["routes"] += routes
    queue = {"queue_url": url, "endpoint": moto.endpoint, "region": moto.region}
    document["ingest"] = {"sqs": [{**queue, "access_key_id": "env:MOTO_KEY", "secret_access_key": "env:MOTO_SECRET"}]}
    path.write_text(yaml.safe_dump(document))
    return path
