"""Passes that spread over partitions, and passes over manifests."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowFailureError

from tests.dss import Dss
from tests.e2e.conftest import Sides
from tests.passes.conftest import OpenPass
from tests.passes.test_pairs import assert_equal, contents, put_all
from tests.poll import eventually


@pytest.mark.parametrize("shape", ["flat", "deep"])
async def test_a_range_that_turns_out_large_is_shared_while_it_runs(sides: Sides, open_pass: OpenPass, shape: str) -> None:
    source, destination = sides["s3"], sides["s3b"]
    below = "one/deep/prefix/" if shape == "deep" else ""
    async with open_pass(source, destination) as lab:
        wanted = {f"{lab.before}{below}{number:05d}": str(number).encode() for number in range(600)}
        await put_all(source, wanted)
        result = await lab.reconcile(stretch=50)
        assert result.partitions > 4, "the range was split, and what was left was split again"
        assert (result.counters.listed, result.counters.copied, result.state) == (600, 600, "done")
        await assert_equal(lab, source, destination, wanted)
        again = await lab.reconcile(stretch=50)
        assert (again.counters.copied, again.counters.skipped) == (0, 600)


async def test_filters_choose_the_same_on_both_sides(sides: Sides, open_pass: OpenPass) -> None:
    source, destination = sides["s3"], sides["gcs"]
    async with open_pass(source, destination) as lab:
        wanted = {f"{lab.before}{kind}/{number:02d}.{kind}": b"x" * number for kind in ("csv", "tmp", "txt") for number in range(1, 11)}
        await put_all(source, wanted)
        for filters, expected in (
            ({"prefix": "csv/"}, 10),
            ({"include": ["**/*.txt"], "exclude": ["**/0*"]}, 1),
            ({"min_size": 3, "max_size": 4}, 6),
            ({"start_after": f"{lab.before}tmp/05.tmp"}, 15),
            ({"modified_before": 1.0}, 0),
            ({"storage_classes": ["GLACIER"]}, 0),
        ):
            plan = await lab.reconcile(mode="plan", filters=filters)
            assert plan.counters.listed == expected, filters
        result = await lab.reconcile(filters={"include": ["csv/**"]})
        assert (result.counters.listed, result.counters.copied) == (10, 10)


async def test_manifests_come_after_what_they_name(sides: Sides, open_pass: OpenPass) -> None:
    """The data store's layout, where collections and bundles sort before the files that they name."""
    source, destination = sides["s3"], sides["s3b"]
    async with open_pass(source, destination, dependencies="dss", dependency_wait={"poll": "1s"}) as lab:
        chains = [Dss(seed) for seed in range(6)]
        wanted = {lab.before + key: chain.content(key) for chain in chains for key in chain.chain}
        await put_all(source, wanted)
        result = await lab.reconcile()
        settled = result.counters.copied + result.counters.skipped  # some are copied because a manifest waits for them
        assert (result.counters.listed, settled, result.counters.blocked, result.state) == (24, 24, 0, "done"), result
        there = await contents(destination, [lab.after + key.removeprefix(lab.before) for key in wanted])
        assert None not in there.values()


async def test_an_interrupted_pass_does_only_the_rest(sides: Sides, open_pass: OpenPass) -> None:
    source, destination = sides["s3"], sides["s3b"]
    async with open_pass(source, destination) as lab:
        wanted = {f"{lab.before}{number:04d}": b"y" * 50 for number in range(400)}
        await put_all(source, wanted)
        handle = await lab.start_pass(limits={"requests_per_s": 20})

        def replicas() -> int:
            return sum(key.startswith(lab.after) for key in destination.keys())

        await eventually(lambda: replicas() >= 40, 60)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        done = await asyncio.to_thread(replicas)
        assert 40 <= done < 400
        async with lab.ledger() as ledger:
            (told,) = await ledger.passes(lab.route)
        assert told.state == "cancelled"
        assert done - 50 <= told.counters["copied"] <= done, "what was under way when it was cancelled is the only difference"
        result = await lab.reconcile()
        assert (result.counters.copied, result.counters.skipped) == (400 - done, done)
