"""A dry run tells what the run does: between routes back and forth, what came from the other side stays there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from replication.limits import MIB, Capabilities
from replication.models import ANY, Attributes
from replication.settings import parse_settings
from stores.body import Body
from stores.memory import MemoryStore
from tests.e2e.conftest import Sides
from tests.ledgers import ledger_url
from tests.passes.conftest import OpenPass
from tests.passes.in_memory import Bench
from tests.passes.test_pairs import put_all


class Unwritten(MemoryStore):
    """Whose probe must not write."""

    async def probe(self, bucket: str, *, writable: bool) -> Capabilities:
        assert not writable
        return await super().probe(bucket, writable=writable)


@pytest.fixture
async def pair(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Routes `r` and `back`; `new` was written at either side of `r`, and copied."""
    ends: list[Any] = [{"store": "a", "bucket": "one"}, {"store": "b", "bucket": "two"}]
    routes = [{"name": "r", "source": ends[0], "destination": ends[1]}, {"name": "back", "source": ends[1], "destination": ends[0]}]
    stores = {name: {"type": "file", "root": f"/{name}"} for name in ("a", "b")}
    settings = parse_settings({"ledger": ledger_url(), "stores": stores, "routes": routes})
    monkeypatch.setattr("tests.passes.in_memory.settings_of", lambda: settings)
    made = Bench()
    for store, bucket in ((made.source, "one"), (made.destination, "two")):
        await store.put(bucket, f"of-{bucket}", Body.of(b"data"), Attributes(), ANY)
    for route in ("r", "back"):
        assert (await made.scan(route=route)).counters.copied == 1
    yield made
    await made.ledger.close()


async def told(made: Bench) -> dict[str, int]:
    """What the plan counts, which is what the pass counts then."""
    made.destination.__class__ = Unwritten
    plan = (await made.scan(mode="plan")).counters
    made.destination.__class__ = MemoryStore
    done = (await made.scan()).counters
    counted = ("listed", "skipped", "kept", "copied")
    assert [getattr(plan, name) for name in counted] == [getattr(done, name) for name in counted]
    return {name: getattr(plan, name) for name in counted if getattr(plan, name)}


async def test_a_copy_whose_origin_was_deleted_is_not_planned_to_go_back(pair: Bench) -> None:
    await pair.destination.delete("two", "of-two", (await pair.destination.head("two", "of-two")).version)
    assert await told(pair) == {"listed": 2, "skipped": 1, "kept": 1}


async def test_what_the_other_side_has_changed_since_is_not_planned_to_be_overwritten(pair: Bench) -> None:
    await pair.destination.put("two", "of-one", Body.of(b"newer"), Attributes(), ANY)
    assert await told(pair) == {"listed": 2, "kept": 2}


async def test_what_is_new_is_planned_to_be_copied(pair: Bench) -> None:
    await pair.put("new")
    pair.source.put_synthetic("one", "large", 9 * MIB)
    assert (await pair.scan(mode="plan")).counters.copied == 2


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
