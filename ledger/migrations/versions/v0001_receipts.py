"""Receipts of routes that lead back and forth: the table as releases without migrations make it."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Float, LargeBinary, Text

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "receipts",
        Column("route", Text, primary_key=True),
        Column("key", LargeBinary, primary_key=True),
        Column("source_version", Text, nullable=False),
        Column("destination_version", Text, nullable=False),
        Column("size_bytes", BigInteger, nullable=False),
        Column("crc32c", BigInteger),
        Column("verification", Text, nullable=False),
        Column("recorded_at", Float, nullable=False),
        if_not_exists=True,
    )
