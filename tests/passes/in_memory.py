"""A route `r` between two stores that a test puts in the places of `a` and `b`, without any server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from activities._progress import Pulse, current_pulse
from activities.gate import Gate
from activities.outcomes import Plan, Repair
from activities.passes import nothing_recorded
from activities.scan import Scan
from activities.settle import Settler
from activities.turns import Turns
from ledger.batch import write
from ledger.ledger import Ledger
from replication.errors import LedgerUnavailable, Throttled
from replication.models import ABSENT, Attributes, ObjectInfo, Version
from replication.passes import ScanInput, ScanResult
from replication.settings import Settings, parse_settings
from stores.body import Body
from stores.memory import MemoryStore
from stores.registry import Stores
from tests.ledgers import ledger_url


def settings_of(**route: Any) -> Settings:
    """From bucket `one` of `a` to bucket `two` of `b`; `route` is what else the route has."""
    sides = {"source": {"store": "a", "bucket": "one"}, "destination": {"store": "b", "bucket": "two"}}
    stores = {name: {"type": "file", "root": f"/{name}"} for name in ("a", "b")}
    return parse_settings({"ledger": ledger_url(), "stores": stores, "routes": [{"name": "r", **sides, **route}]})


def away_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The database does not take the first record, which is a stand-in's doing. Empty until then."""
    transaction, fired = ledger._write, list[Any]()

    async def failing(change: Any, *what: Any) -> Any:
        if change is write and not fired:
            fired.append(change)
            raise LedgerUnavailable("the ledger does not answer") from OperationalError("", None, Exception())
        return await transaction(change, *what)

    monkeypatch.setattr(ledger, "_write", failing)
    return fired


class Throttling(MemoryStore):
    """Refuses to hand out one key."""

    busy = ""

    async def fetch(self, bucket: str, key: str, *, pin: Version) -> tuple[ObjectInfo, bytes]:
        if key == self.busy:
            await asyncio.sleep(0.05)
            raise Throttled("slow down")
        return await super().fetch(bucket, key, pin=pin)


class Bench:
    def __init__(self, **route: Any) -> None:
        self.settings = settings_of(**route)
        self.source, self.destination = Throttling("a"), MemoryStore("b")
        self.source.create_bucket("one")
        self.destination.create_bucket("two")
        self.stores, self.ledger = Stores(self.settings, {}), Ledger(self.settings.ledger)
        self.stores.add(self.source)
        self.stores.add(self.destination)
        self.settler = Settler(self.settings, self.stores, self.ledger, None, record=nothing_recorded, collects=True)

    async def put(self, key: str, data: bytes = b"x") -> None:
        await self.source.put("one", key, Body.of(data), Attributes(), ABSENT)

    async def replicas(self) -> list[str]:
        return [entry.key async for page in self.destination.list_objects("two") for entry in page]

    async def scan(self, pulse: Pulse | None = None, **asked: Any) -> ScanResult:
        token = current_pulse.set(pulse or Pulse())
        try:
            wanted = ScanInput(**{"route": "r", "pass_id": "p", **asked})
            route = self.settings.route(wanted.route)
            paired = wanted.route in self.settings.counterparts
            outcomes = (Repair if wanted.mode == "repair" else Plan)(wanted, route, self.stores, self.settler, paired=paired, workflow="")
            return await Scan(wanted, route, self.stores, self.ledger, outcomes, Gate(0, Turns())).run()
        finally:
            current_pulse.reset(token)


@asynccontextmanager
async def bench(**route: Any) -> AsyncIterator[Bench]:
    made = Bench(**route)
    try:
        yield made
    finally:
        await made.ledger.close()
