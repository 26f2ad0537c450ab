"""Receipts that are asked for at once: few queries, and each call is told what stands there after it was made."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from ledger.batch import Place
from ledger.ledger import Ledger
from ledger.lookup import AT_ONCE, Lookup
from ledger.rows import Receipt
from replication.errors import LedgerUnavailable


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Every statement that a database was given."""
    seen: list[str] = []

    def listener(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", listener)
    yield seen
    event.remove(Engine, "before_cursor_execute", listener)


async def test_many_who_ask_share_few_queries(ledger: Ledger, statements: list[str]) -> None:
    odd = ["", "\x00", "a\ud800", "é", "k'); --", "k" * 1024]
    await ledger.record(receipts=[Receipt(route, key, f"{route}-{n}", "d") for route in ("r", "s") for n, key in enumerate(odd)])
    statements.clear()
    asked = [(route, key) for route in ("r", "s", "t") for key in [*odd, *(f"none-{number}" for number in range(100))]]
    found = await asyncio.gather(*(ledger.find(*place) for place in asked))
    assert [receipt and receipt.source_version for receipt in found] == [
        f"{route}-{odd.index(key)}" if route != "t" and key in odd else None for route, key in asked
    ]
    assert 0 < len(statements) <= 6


async def test_who_asks_twice_is_answered_twice(ledger: Ledger) -> None:
    await ledger.record(receipts=[Receipt("r", "k", "v", "d")])
    found = await asyncio.gather(*(ledger.find("r", "k") for _ in range(AT_ONCE + 1)))
    assert {receipt and receipt.source_version for receipt in found} == {"v"}


async def test_what_was_recorded_before_the_call_is_found() -> None:
    """Also by who asks while a query that began before is still under way."""
    stands: dict[Place, Receipt] = {}
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def read(places: Sequence[Place]) -> Mapping[Place, Receipt]:
        seen = {place: stands[place] for place in places if place in stands}
        begun.set()
        await go_on.wait()
        return seen

    lookup = Lookup(read)
    early = asyncio.create_task(lookup.find(("r", "k")))
    await begun.wait()
    stands["r", "k"] = Receipt("r", "k", "v", "d")
    late = asyncio.create_task(lookup.find(("r", "k")))
    await asyncio.sleep(0)
    go_on.set()
    assert await early is None
    assert await late == stands["r", "k"]


async def test_a_query_has_a_bound() -> None:
    sizes: list[int] = []

    async def read(places: Sequence[Place]) -> Mapping[Place, Receipt]:
        sizes.append(len(places))
        return {}

    lookup = Lookup(read)
    await asyncio.gather(*(lookup.find(("r", str(number))) for number in range(2 * AT_ONCE + 1)))
    assert sizes == [AT_ONCE, AT_ONCE, 1]


async def test_a_failure_is_told_to_each_and_the_next_one_asks_again() -> None:
    failing = True

    async def read(places: Sequence[Place]) -> Mapping[Place, Receipt]:
        if failing:
            raise LedgerUnavailable("away") from OperationalError("", None, Exception())
        return {}

    lookup = Lookup(read)
    answers = await asyncio.gather(*(lookup.find(("r", str(number))) for number in range(5)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [LedgerUnavailable] * 5
    assert len(set(map(id, answers))) == 5
    failing = False
    assert await lookup.find(("r", "k")) is None


async def test_a_cancelled_call_disturbs_no_other(ledger: Ledger) -> None:
    await ledger.record(receipts=[Receipt("r", f"k{number}", "v", "d") for number in range(10)])
    calls = [asyncio.create_task(ledger.find("r", f"k{number}")) for number in range(10)]
    await asyncio.sleep(0)
    calls[0].cancel()
    calls[3].cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [number for number, answer in enumerate(answers) if isinstance(answer, asyncio.CancelledError)] == [0, 3]
    assert sum(isinstance(answer, Receipt) for answer in answers) == 8
