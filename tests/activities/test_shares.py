"""What part of a budget a process may take. Two `Shares` over one ledger are two processes."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from activities.shares import LIFE_S, Shares
from ledger.ledger import Ledger
from replication.errors import LedgerUnavailable

BUDGET = "store a"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest_asyncio.fixture(loop_scope="session")
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    yield opened
    await opened.close()


async def test_a_budget_is_divided_by_what_each_process_has_under_way(ledger: Ledger) -> None:
    one, other = Shares(ledger), Shares(ledger)
    with one.using([BUDGET]), one.using([BUDGET]), one.using([BUDGET]):
        await one.refresh([BUDGET])
        assert one.part(BUDGET) == 1.0
        with other.using([BUDGET]):
            await other.refresh([BUDGET])
            await one.refresh([BUDGET])
            assert (one.part(BUDGET), other.part(BUDGET)) == (0.75, 0.25)
        await other.refresh([BUDGET])
        await one.refresh([BUDGET])
        assert one.part(BUDGET) == 1.0


async def test_the_part_of_a_dead_process_is_taken_over(ledger: Ledger) -> None:
    clock = Clock()
    living, dead = Shares(ledger, clock=clock), Shares(ledger)
    with living.using([BUDGET]), dead.using([BUDGET]):
        await dead.refresh([BUDGET])
        parts = []
        for _ in range(4):
            await living.refresh([BUDGET])
            parts.append(living.part(BUDGET))
            clock.now += LIFE_S / 2
        assert parts == [0.5, 0.5, 1.0, 1.0]
        await dead.refresh([BUDGET])
        await living.refresh([BUDGET])
        assert living.part(BUDGET) == 0.5, "it was only slow"


async def test_while_the_ledger_is_away_what_was_known_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    folder.mkdir()
    ledger = Ledger(f"sqlite:///{folder}/ledger.db")
    one, other, late = Shares(ledger), Shares(ledger), Shares(ledger)
    with one.using([BUDGET]), other.using([BUDGET]), late.using([BUDGET]):
        await other.refresh([BUDGET])
        await one.refresh([BUDGET])
        await ledger.close()
        shutil.rmtree(folder)
        with pytest.raises(LedgerUnavailable):
            await ledger.share_budgets("p", {BUDGET: 1}, 1)
        for process in (one, late):
            await process.refresh([BUDGET])
        assert (one.part(BUDGET), late.part(BUDGET)) == (0.5, 1.0)
