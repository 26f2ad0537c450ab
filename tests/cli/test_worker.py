"""`worker.py` as a process: its roles, its end, its metrics and its log."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embedded.ports import free_port
from tests.cli.conftest import PART
from tests.cli.site import Site
from tests.e2e.sides import GcsSide, S3Side
from tests.faults.rig import WorkerProcess, noise, sha256
from tests.poll import eventually

PutKey = Callable[[bytes], str]
MakeSite = Callable[..., Site]
GRACE_S = 2.0
STOP_S = 15.0
"""The graceful time, and what a process on a busy machine needs to close everything."""


def lines(worker: WorkerProcess) -> list[dict[str, Any]]:
    """The log; fails where a line is not one JSON object."""
    found = [json.loads(line) for line in worker.log.read_text().splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in found)
    return found


async def test_an_idle_worker_stops_at_sigterm_with_0_and_wrote_only_json(make_site: MakeSite) -> None:
    worker = await make_site().worker()
    code = await worker.terminate(STOP_S)

    assert code == 0
    assert worker.log.with_suffix(".out").read_bytes() == b""
    messages = [line["message"] for line in lines(worker)]
    assert "worker is stopping" in messages


async def test_a_worker_whose_ledger_cannot_be_used_says_so_before_anything_needs_it(make_site: MakeSite, tmp_path: Path) -> None:
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")
    worker = await make_site(ledger=f"sqlite:///{newer}").worker()

    def told() -> list[dict[str, Any]]:
        return [line for line in lines(worker) if line["level"] == "warning"]

    assert await eventually(lambda: bool(told()), 20.0)
    assert "the schema '9999', of another release; what needs it waits" in told()[0]["message"]
    assert await worker.terminate(STOP_S) == 0


async def test_both_roles_in_processes_of_their_own_do_the_job_together_and_serve_metrics(
    make_site: MakeSite, s3b: S3Side, new_key: PutKey
) -> None:
    site = make_site()
    address, other = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    data = noise(2 * PART + 1)
    key, small = new_key(data), new_key(b"small")
    await site.worker("control", metrics=address)
    started = await site.starter("copy", "pair", key, small, "--json")
    alone = await asyncio.to_thread(scrape, address)
    await site.worker("transfer", metrics=other)
    ended = await site.starter("copy", "pair", key, small, "--wait", "--json")
    status = (await site.starter("status", "pair", "--json")).document

    assert (started.code, ended.code) == (0, 0)
    assert "drayage_objects_total" not in alone or 'outcome="copied"} 2' not in alone
    seen = s3b.see(key.replace("in/", "out/"))
    assert seen is not None
    assert seen.sha256 == sha256(data)
    assert len(status["workers"]["control"]) == len(status["workers"]["transfer"]) == 1
    assert status["workers"]["control"] != status["workers"]["transfer"]
    control, transfer = await asyncio.to_thread(scrape, address), await asyncio.to_thread(scrape, other)
    assert samples(control, "drayage_objects_total", route="pair", outcome="copied") == 2
    assert samples(transfer, "drayage_bytes_total", route="pair") == len(data)
    assert samples(transfer, "drayage_activity_seconds_count", activity="copy_part_run") >= 1
    assert samples(control, "drayage_activity_seconds_count", activity="settle_object") >= 2
    assert samples(control, "temporal_worker_task_slots_available") > 0
    assert "temporal_activity_schedule_to_start_latency" in transfer
    assert key not in control + transfer


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def samples(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that carry these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    found = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
    return sum(float(line.rpartition(" ")[2]) for line in found if all(label in line for label in wanted))


async def test_a_failure_is_one_json_line_with_its_subject_and_no_key_can_forge_another(
    make_site: MakeSite, gcs: GcsSide, tmp_path_factory: Any
) -> None:
    disk = tmp_path_factory.mktemp("bare")
    plain = make_site()
    routes = [{"name": "bare", "source": {"store": gcs.name, "bucket": gcs.bucket}, "destination": {"store": "disk", "bucket": "gone"}}]
    stores = {gcs.name: gcs.settings(), "disk": {"type": "file", "root": str(disk)}}
    site = Site(plain.folder, {**plain.document, "stores": stores, "routes": routes})
    key = f'{uuid.uuid4().hex}\x1b[2J\u2028\t{{"level": "forged"}}'
    await asyncio.to_thread(gcs.put, key, b"x")
    worker = await site.worker()
    try:
        ended = await site.starter("copy", "bare", key, "--wait", "--json")
        await worker.terminate(STOP_S)
    finally:
        site.close()

    assert (ended.code, ended.document["key"], ended.document["reason"]) == (1, key, "bucket-not-found")
    told = [line for line in lines(worker) if line.get("reason") == "bucket-not-found" and line["logger"] == "drayage.activity"]
    assert [(line["route"], line["key"], line["activity"], line["level"]) for line in told] == [("bare", key, "settle_object", "warning")]
    raw = worker.log.read_bytes()
    assert raw.isascii()
    assert b"\x1b" not in raw
