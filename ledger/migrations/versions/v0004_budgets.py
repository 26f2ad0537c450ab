"""Which processes share a budget of bytes or requests a second."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Text

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "budget_users",
        Column("budget", Text, primary_key=True),
        Column("process", Text, primary_key=True),
        Column("users", BigInteger, nullable=False),
        Column("beat", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
