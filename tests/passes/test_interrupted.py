"""A scan that ends before its end: every write that it made is in the audit trail, whatever comes after."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from activities._progress import Pulse
from activities.gate import Gate
from activities.outcomes import Repair
from activities.scan import Scan
from activities.turns import Turns
from replication.errors import LedgerUnavailable
from replication.limits import MIB
from replication.models import ObjectInfo, Version
from replication.passes import ScanInput
from tests.passes.in_memory import Throttling, away_once, bench
from tests.passes.test_by_turns import Pair, Slow
from tests.poll import eventually


class SlowFirst(Slow):
    """Its first object takes long."""

    async def fetch(self, bucket: str, key: str, *, pin: Version) -> tuple[ObjectInfo, bytes]:
        if key == "k0000":
            await asyncio.sleep(30)
        return await super().fetch(bucket, key, pin=pin)


def scan_of(pair: Pair) -> Scan:
    asked = ScanInput(route="r", pass_id="p")
    outcomes = Repair(asked, pair.route, pair.stores, pair.settler, paired=False, workflow="")
    return Scan(asked, pair.route, pair.stores, pair.ledger, outcomes, Gate(0, Turns()))


async def trail_is_whole(pair: Pair) -> None:
    await scan_of(pair).run()
    written = sum([len(page) async for page in pair.destination.list_objects("two", "")])
    assert (await pair.ledger.verify_chain("r")).entries == written == 1000
    await pair.ledger.close()


async def test_what_a_cancelled_scan_wrote_behind_a_slow_object_is_recorded() -> None:
    pair = Pair()
    await pair.fill(1000, 10)
    pair.source.__class__ = SlowFirst
    scanning = asyncio.create_task(scan_of(pair).run())
    await asyncio.sleep(1.5)
    assert scanning.cancel(), "it was under way"
    with pytest.raises(asyncio.CancelledError):
        await scanning
    pair.source.__class__ = Slow
    await trail_is_whole(pair)


async def test_a_killed_scan_leaves_no_gap_but_its_last_moment() -> None:
    """What stands behind a slow object is on record while that is still under way."""
    pair = Pair()
    await pair.fill(1000, 10)
    pair.source.__class__ = SlowFirst
    scanning = asyncio.create_task(scan_of(pair).run())

    async def is_recorded() -> bool:
        return (await pair.ledger.verify_chain("r")).entries == 999

    await eventually(is_recorded)
    assert not scanning.done()
    assert await pair.ledger.find("r", "k0999") is not None, "nor does the next pass have to look at it again"
    scanning.cancel()
    with suppress(asyncio.CancelledError):
        await scanning
    await pair.ledger.close()


async def test_what_the_ledger_did_not_take_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    await pair.fill(1000, 10)
    fired = away_once(pair.ledger, monkeypatch)
    with pytest.raises(LedgerUnavailable):
        await scan_of(pair).run()
    assert fired
    await trail_is_whole(pair)


class SlowLast(Throttling):
    """Its last objects take so long that others are on record before."""

    async def fetch(self, bucket: str, key: str, *, pin: Version) -> tuple[ObjectInfo, bytes]:
        if key >= "k010":
            await asyncio.sleep(0.8)
        return await super().fetch(bucket, key, pin=pin)


async def test_no_later_record_moves_the_cursor_over_what_the_ledger_did_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the database was asked while it was away is asked again by the next attempt."""
    async with bench() as made:
        large = made.source.put_synthetic("one", "a", 9 * MIB)
        for number in range(20):
            await made.put(f"k{number:03d}")
        made.source.__class__ = SlowLast
        fired = away_once(made.ledger, monkeypatch)
        pulse = Pulse()
        with pytest.raises(LedgerUnavailable):
            await made.scan(pulse)
        assert fired
        assert len(await made.replicas()) == 20
        result = await made.scan(Pulse(pulse.details))
        assert result.large == [large.key]
        assert result.counters.listed == 21
        assert (await made.ledger.verify_chain("r")).entries == 20
