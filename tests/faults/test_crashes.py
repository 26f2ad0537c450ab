"""Workers and the Temporal server die, stop and come back in the middle of a copy; the workers are real processes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from embedded.temporal import TemporalServer
from tests.conftest import running
from tests.e2e.sides import S3Side
from tests.faults.conftest import MakeRig
from tests.faults.rig import MIB, PART, Relay, Rig, noise
from tests.poll import eventually
from tests.proxy import Rule, Stall

LOST_S = 60.0
"""A lost attempt is noticed after the heartbeat timeout of 20 s."""


def parts_sent(rig: Rig, name: str) -> Counter[int]:
    """How often each part of the replica was sent, whole or not."""
    assert rig.writing is not None
    found = (re.search(r"partNumber=(\d+)", seen.target) for seen in rig.writing.requests("PUT", rig.on(name)))
    return Counter(int(match[1]) for match in found if match)


def completes(rig: Rig, name: str) -> list[int | None]:
    """The answers to every attempt to publish the replica."""
    assert rig.writing is not None
    return [seen.status for seen in rig.writing.requests("POST", rig.on(name) + r"\?uploadId=")]


async def test_a_worker_killed_in_a_part_costs_only_the_run_in_flight(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.writing is not None
    data = noise(6 * PART - 7)
    key = await rig.put("k", data)
    held = rig.writing.add(Rule(Stall(), when="mid_request", at=MIB, method="PUT", path=rig.on("k") + ".*partNumber=4"))
    first = await rig.process()
    handle = await rig.lab.start(key)
    await eventually(lambda: held.fired == 1, 30.0)
    first.kill()
    held.release()
    assert await rig.digest("k") is None

    await rig.process()
    result = await handle.result()

    sent = parts_sent(rig, "k")
    assert {number: sent[number] for number in (1, 2, 5, 6)} == {1: 1, 2: 1, 5: 1, 6: 1}
    assert sent[3] <= 2
    assert sent[4] == 2
    assert (result.outcome, result.verification) == ("copied", "end-to-end")
    assert completes(rig, "k") == [200]
    await rig.assert_settled("k", data, handle)


async def test_a_commit_whose_worker_died_before_it_was_recorded_is_recognised(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.writing is not None
    data = noise(2 * PART + 1)
    key = await rig.put("k", data)
    held = rig.writing.add(Rule(Stall(), when="after_upstream", method="POST", path=rig.on("k") + r"\?uploadId="))
    first = await rig.process()
    handle = await rig.lab.start(key)
    await eventually(lambda: held.fired == 1, 30.0)
    committed = await rig.version("k")
    first.kill()
    held.release()

    await rig.process()
    result = await handle.result()

    assert committed is not None
    assert await rig.version("k") == committed, "the object was written twice"
    assert len(completes(rig, "k")) == 1, "the upload was completed again"
    assert set(parts_sent(rig, "k").values()) == {1}
    assert result.outcome == "copied"
    await rig.assert_settled("k", data, handle)


async def test_a_zombie_worker_cannot_put_an_old_version_over_a_new_one(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.writing is not None
    old, new = noise(2 * PART), noise(2 * PART + 3)
    key = await rig.put("k", old)
    held = rig.writing.add(Rule(Stall(), when="before_upstream", method="POST", path=rig.on("k") + r"\?uploadId="))
    async with Relay(rig.client.service_client.config.target_host) as relay:
        zombie = await rig.process(temporal=relay.address)
        handle = await rig.lab.start(key)
        await eventually(lambda: held.fired == 1, 30.0)
        zombie.suspend()
        # Without its polls the server cannot hand it another task, which nobody would do before the next timeout.
        await relay.cut()
        await rig.put("k", new)
        await rig.process()
        await eventually(lambda: rig.holds("k", new), LOST_S)
        # The stopped worker's commit of the old version is still on its way to the store.
        held.release()
        zombie.resume()
        result = await handle.result()
        late = rig.writing.requests("POST", rig.on("k") + r"\?uploadId=")[0]
        await eventually(lambda: late.status is not None, 10.0)

    assert late.status in (404, 412), "the zombie's commit was not refused"
    assert result.outcome == "copied"
    await rig.assert_settled("k", new, handle)


async def test_sigterm_hands_the_copy_over_without_sending_a_finished_run_again(make_rig: MakeRig, s3: S3Side, s3b: S3Side) -> None:
    rig = await make_rig(s3, s3b)
    assert rig.writing is not None
    data = noise(8 * PART)
    key = await rig.put("k", data)
    held = rig.writing.add(Rule(Stall(), when="mid_request", at=MIB, method="PUT", path=rig.on("k") + ".*partNumber=5"))
    first = await rig.process(graceful_stop="1s")
    handle = await rig.lab.start(key)
    await eventually(lambda: held.fired == 1, 30.0)
    code = await first.terminate(10.0)
    held.release()
    assert code == 0, first.log.read_text()
    assert (await rig.leftovers()) != [], "the upload must be kept for the next worker"

    await rig.process()
    result = await handle.result()

    sent = parts_sent(rig, "k")
    assert {number for number, count in sent.items() if count > 1} <= {5, 6}
    assert sent[5] == 2
    assert result.outcome == "copied"
    await rig.assert_settled("k", data, handle)


async def test_a_temporal_server_killed_in_a_copy_loses_nothing_and_commits_once(
    make_rig: MakeRig, s3: S3Side, s3b: S3Side, tmp_path: Path
) -> None:
    with running(TemporalServer(tmp_path / "temporal", db_filename="state.db", headless=True)) as server:
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
        rig = await make_rig(s3, s3b, client=client)
        assert rig.writing is not None
        data = noise(4 * PART)
        key = await rig.put("k", data)
        held = rig.writing.add(Rule(Stall(), when="mid_request", at=MIB, method="PUT", path=rig.on("k") + ".*partNumber=3"))
        await rig.process(temporal=server.address)
        handle = await rig.lab.start(key)
        await eventually(lambda: held.fired == 1, 30.0)
        server.kill()
        assert not server.is_running
        held.release()
        server.restart()
        result = await handle.result()

        sent = parts_sent(rig, "k")
        assert {number: sent[number] for number in (1, 2)} == {1: 1, 2: 1}
        assert completes(rig, "k").count(200) == 1
        assert result.outcome == "copied"
        await rig.assert_settled("k", data, handle)
