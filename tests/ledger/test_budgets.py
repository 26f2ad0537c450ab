"""Who shares a budget of bytes or requests."""

from __future__ import annotations

from ledger.ledger import Ledger
from ledger.rows import BudgetUser


async def test_each_process_tells_its_users_and_hears_of_the_others(ledger: Ledger) -> None:
    await ledger.share_budgets("p1", {"store a": 2, "store b": 1}, 1)
    await ledger.share_budgets("p1", {"store a": 3}, 2)
    told = await ledger.share_budgets("p2", {"store a": 1}, 1)

    assert sorted(told, key=lambda one: one.process) == [BudgetUser("store a", "p1", 3, 2), BudgetUser("store a", "p2", 1, 1)]


async def test_a_process_that_uses_a_budget_no_more_is_not_among_its_users(ledger: Ledger) -> None:
    await ledger.share_budgets("p1", {"store a": 2}, 1)
    assert await ledger.share_budgets("p1", {"store a": 0}, 2) == []


async def test_only_users_that_have_not_moved_since_are_forgotten(ledger: Ledger) -> None:
    for process in ("p1", "p2"):
        await ledger.share_budgets(process, {"store a": 1}, 1)
    await ledger.share_budgets("p2", {"store a": 1}, 2)
    await ledger.forget_budget_users([BudgetUser("store a", "p1", 1, 1), BudgetUser("store a", "p2", 1, 1)])
    assert await ledger.share_budgets("p3", {"store a": 0}, 1) == [BudgetUser("store a", "p2", 1, 2)]
