"""Which part of a budget this process may take, where every worker process takes its own.

A budget is divided by what each process has under way on it, as the ledger tells. Each process tells its own once a second; one
whose row has not moved for a while, by the clock of whoever looks, is dead, and the others take its part over.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

from ledger.ledger import Ledger
from ledger.rows import BudgetUser
from replication.errors import LedgerUnavailable

LIFE_S = 5.0


class Shares:
    """What is under way in this process, by budget, and what is elsewhere."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._process = uuid.uuid4().hex
        self._beat = 0
        self._here: Counter[str] = Counter()
        self._elsewhere: dict[str, int] = {}
        self._moved: dict[tuple[str, str], tuple[int, float]] = {}

    @contextmanager
    def using(self, budgets: Collection[str]) -> Iterator[None]:
        """Something that takes from these budgets is under way in the block."""
        self._here.update(budgets)
        try:
            yield
        finally:
            self._here.subtract(budgets)

    def here(self, budget: str) -> int:
        """How many use a budget in this process."""
        return self._here[budget]

    def part(self, budget: str) -> float:
        """From 0 to 1; of a budget that nobody else is known to use, all."""
        here = max(1, self.here(budget))
        return here / (here + self._elsewhere.get(budget, 0))

    async def refresh(self, budgets: Collection[str]) -> None:
        """Tells of this process and hears of the others. While the ledger does not answer, what was known goes on."""
        if not budgets:
            return
        self._beat += 1
        with suppress(LedgerUnavailable):
            told = await self._ledger.share_budgets(self._process, {budget: self._here[budget] for budget in budgets}, self._beat)
            others = [one for one in told if one.process != self._process]
            living = [one for one in others if self._lives(one)]
            for budget in budgets:
                self._elsewhere[budget] = sum(one.users for one in living if one.budget == budget)
            if gone := [one for one in others if one not in living]:
                await self._ledger.forget_budget_users(gone)

    def _lives(self, one: BudgetUser) -> bool:
        place, now = (one.budget, one.process), self._clock()
        beat, at = self._moved.get(place, (-1, now))
        if beat != one.beat:
            self._moved[place] = one.beat, now
            return True
        if now - at < LIFE_S:
            return True
        del self._moved[place]
        return False
