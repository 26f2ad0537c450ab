"""Receipts of every route, the audit chain, the quarantine, and what passes keep."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Float, LargeBinary, Text, insert, select, table
from sqlalchemy import column as named

revision = "0002"
down_revision = "0001"

KEPT = ("route", "key", "source_version", "destination_version", "size_bytes", "crc32c", "verification", "recorded_at")


def upgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        _cluster_receipts()
    else:
        for column in _added():
            op.add_column("receipts", column)
    _audit()
    _quarantine()
    _passes()


def _added() -> tuple[Column[str], ...]:
    return (
        Column("source_listed", Text, nullable=False, server_default=""),
        Column("destination_listed", Text, nullable=False, server_default=""),
        Column("losses", Text, nullable=False, server_default="[]"),
        Column("workflow", Text, nullable=False, server_default=""),
    )


def _cluster_receipts() -> None:
    """SQLite keeps rows in the order of their keys only in a table that is made so."""
    op.rename_table("receipts", "receipts_before")
    made = op.create_table(
        "receipts",
        Column("route", Text, primary_key=True),
        Column("key", LargeBinary, primary_key=True),
        Column("source_version", Text, nullable=False),
        Column("destination_version", Text, nullable=False),
        Column("size_bytes", BigInteger, nullable=False),
        Column("crc32c", BigInteger),
        Column("verification", Text, nullable=False),
        Column("recorded_at", Float, nullable=False),
        *_added(),
        sqlite_with_rowid=False,
    )
    before = table("receipts_before", *(named(name) for name in KEPT))
    op.execute(insert(made).from_select(KEPT, select(*(before.c[name] for name in KEPT))))
    op.drop_table("receipts_before")


def _audit() -> None:
    op.create_table(
        "audit",
        Column("route", Text, primary_key=True),
        Column("sequence", BigInteger, primary_key=True, autoincrement=False),
        Column("key", LargeBinary, nullable=False),
        Column("action", Text, nullable=False),
        Column("source_version", Text, nullable=False),
        Column("destination_version", Text, nullable=False),
        Column("size_bytes", BigInteger, nullable=False),
        Column("crc32c", BigInteger),
        Column("reason", Text, nullable=False),
        Column("workflow", Text, nullable=False),
        Column("at", Float, nullable=False),
        Column("hash", LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("audit_by_key", "audit", ["route", "key", "sequence"])
    op.create_table(
        "chains",
        Column("route", Text, primary_key=True),
        Column("sequence", BigInteger, nullable=False),
        Column("hash", LargeBinary, nullable=False),
    )


def _quarantine() -> None:
    op.create_table(
        "quarantine",
        Column("route", Text, primary_key=True),
        Column("key", LargeBinary, primary_key=True),
        Column("reason", Text, nullable=False),
        Column("message", Text, nullable=False),
        Column("attempts", BigInteger, nullable=False),
        Column("first_at", Float, nullable=False),
        Column("last_at", Float, nullable=False),
        Column("next_step", Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("quarantine_by_reason", "quarantine", ["route", "reason", "key"])


def _passes() -> None:
    op.create_table(
        "passes",
        Column("pass_id", Text, primary_key=True),
        Column("route", Text, nullable=False),
        Column("mode", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("started_at", Float, nullable=False),
        Column("ended_at", Float),
        Column("counters", Text, nullable=False),
        Column("workflow", Text, nullable=False),
    )
    op.create_index("passes_by_route", "passes", ["route", "started_at"])
    op.create_table(
        "pending_deletions",
        Column("route", Text, primary_key=True),
        Column("key", LargeBinary, primary_key=True),
        Column("pass_id", Text, nullable=False),
        Column("destination_version", Text, nullable=False),
        Column("since", Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "findings",
        Column("pass_id", Text, primary_key=True),
        Column("sequence", BigInteger, primary_key=True, autoincrement=False),
        Column("key", LargeBinary, nullable=False),
        Column("document", Text, nullable=False),
        Column("at", Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("findings_by_age", "findings", ["at"])
