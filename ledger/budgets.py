"""Which processes share a budget. A row lives as long as its beat moves: no two machines' clocks are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, delete, select

from ledger import bulk
from ledger.rows import BudgetUser
from ledger.schema import budget_users


def share(connection: Connection, process: str, users: Mapping[str, int], beat: int) -> list[BudgetUser]:
    """Tells how much of each budget is used here, none of those with 0, and reads everybody's part in them."""
    rows = [{"budget": budget, "process": process, "users": count, "beat": beat} for budget, count in sorted(users.items())]
    bulk.upsert(connection, budget_users, [row for row in rows if row["users"]])
    bulk.remove(connection, budget_users, [row for row in rows if not row["users"]])
    found = connection.execute(select(budget_users).where(budget_users.c.budget.in_(users)))
    return [BudgetUser(**row._mapping) for row in found]


def forget(connection: Connection, gone: Sequence[BudgetUser]) -> None:
    """Those that still have the beat that they were seen with."""
    for one in gone:
        same = (budget_users.c[name] == getattr(one, name) for name in ("budget", "process", "beat"))
        connection.execute(delete(budget_users).where(*same))
