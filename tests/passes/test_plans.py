"""A dry run tells what the run does."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.conftest import Sides
from tests.passes.conftest import OpenPass
from tests.passes.test_pairs import put_all


@pytest.mark.parametrize(("source_name", "destination_name"), [("files", "s3"), ("s3", "gcs")])
async def test_a_dry_run_between_routes_back_and_forth_overwrites_no_more_than_the_run(
    sides: Sides, open_pass: OpenPass, source_name: str, destination_name: str
) -> None:
    source, destination = sides[source_name], sides[destination_name]
    async with open_pass(source, destination, back=True) as lab:
        keys = [f"{lab.before}{name}" for name in ("here", "there")]
        await put_all(source, dict.fromkeys(keys, b"the same"))
        await lab.reconcile()
        await asyncio.to_thread(source.put, keys[0], b"written here")
        await asyncio.to_thread(destination.put, keys[1].replace(lab.before, lab.after), b"written there")

        plan = await lab.reconcile(mode="plan")
        async with lab.ledger() as ledger:
            told = {finding.key: finding.document["reason"] for finding in await ledger.findings(plan.pass_id)}
        assert told == {keys[0]: "source-newer", keys[1]: "counterpart-newer"}

        done = await lab.reconcile()
        wanted = (1, 1, len(b"written here"))
        for counters in (plan.counters, done.counters):
            assert (counters.copied, counters.kept, counters.bytes_copied) == wanted
