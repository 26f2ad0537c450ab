"""A pass whose worker and whose Temporal server are killed at random moments: nothing lost, nothing written twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError

from embedded.temporal import TemporalServer
from replication.ids import reconcile_id
from replication.passes import LimitUpdate, PassInput, PassResult
from tests.conftest import running
from tests.e2e.sides import S3Side
from tests.faults.conftest import MakeRig
from tests.faults.rig import MIB, Rig, WorkerProcess, noise
from tests.passes.test_pairs import put_all

SIZE = 20_000
LARGE = 12 * MIB


@pytest.mark.parametrize(
    ("objects", "kills"), [(300, 6), pytest.param(3000, 20, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])], ids=["6", "20"]
)
async def test_kills_of_worker_and_server_lose_nothing_and_repeat_nothing(
    s3: S3Side, s3b: S3Side, make_rig: MakeRig, tmp_path: Path, objects: int, kills: int
) -> None:
    chance = random.Random(kills)
    with running(TemporalServer(tmp_path / "temporal", db_filename="state.db", headless=True)) as server:
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
        rig = await make_rig(s3, s3b, client=client)
        wanted = {f"{rig.before}{number:05d}": noise(SIZE) for number in range(objects)} | {f"{rig.before}large": noise(LARGE)}
        await put_all(s3, wanted)
        handle = await start(rig, requests_per_s=objects / kills)
        process: WorkerProcess | None = await rig.process()
        killed = Counter[str]()
        while killed.total() < kills and not await ended(handle):
            await asyncio.sleep(chance.uniform(1.0, 2.5))
            if killed.total() % 3 == 2:
                await asyncio.to_thread(kill_server, server)
                killed["server"] += 1
            else:
                assert process is not None
                process.kill()
                killed["worker"] += 1
                process = await rig.process()
        await handle.execute_update("limit", LimitUpdate(requests_per_s=0))
        result = await handle.result()

    assert (killed["worker"] >= kills // 2, killed["server"] >= 1) == (True, True), killed
    assert (result.state, result.counters.failed, result.counters.blocked) == ("done", 0, 0)
    await check(rig, wanted)


def kill_server(server: TemporalServer) -> None:
    server.kill()
    server.restart()


async def start(rig: Rig, *, requests_per_s: float) -> WorkflowHandle[Any, PassResult]:
    route = rig.settings.routes[0].name
    asked = PassInput(route=route, limits=LimitUpdate(requests_per_s=requests_per_s))
    return await rig.client.start_workflow(
        "ReconcileRoute", asked, id=reconcile_id(route), task_queue=rig.settings.temporal.control_queue, result_type=PassResult
    )


async def ended(handle: WorkflowHandle[Any, PassResult]) -> bool:
    try:
        return (await handle.describe()).close_time is not None
    except RPCError:
        return False


async def check(rig: Rig, wanted: dict[str, bytes]) -> None:
    """Every replica is right, was committed once, and under 1 % of the bytes were sent more than once."""
    assert rig.writing is not None
    for key, data in wanted.items():
        assert await rig.holds(key.removeprefix(rig.before), data), key
    puts = rig.writing.requests("PUT", f"/{rig.destination.bucket}/{rig.after}")
    small = [put for put in puts if "?" not in put.target]
    commits = Counter(put.target for put in small if put.status == 200)
    assert set(commits.values()) == {1}, [target for target, count in commits.items() if count > 1]
    sent, needed = sum(put.request_bytes for put in puts), sum(map(len, wanted.values()))
    assert needed <= sent <= needed * 1.01 + LARGE, (sent, needed)
    assert sum(put.request_bytes for put in small) <= (needed - LARGE) * 1.01, "small objects"
