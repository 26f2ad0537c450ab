"""A plan of a route that another leads back from tells what the pass would do: what came from the other side stays there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from replication.limits import MIB, Capabilities
from replication.models import ANY, Attributes
from replication.settings import parse_settings
from stores.body import Body
from stores.memory import MemoryStore
from tests.ledgers import ledger_url
from tests.passes.in_memory import Bench


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
