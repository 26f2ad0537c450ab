"""The tables, as the newest migration leaves them. Keys are bytes, so no collation merges or reorders them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, LargeBinary, MetaData, String, Table, Text

HEAD = "0004"
"""The revision that these tables belong to."""

metadata = MetaData()

alembic_version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
"""Alembic's own table, as Alembic makes it."""


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


receipts = Table(
    "receipts",
    metadata,
    Column("route", Text, primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("source_version", Text, nullable=False),
    Column("destination_version", Text, nullable=False),
    _text("source_listed"),
    _text("destination_listed"),
    Column("size_bytes", BigInteger, nullable=False),
    Column("crc32c", BigInteger),
    Column("verification", Text, nullable=False),
    Column("losses", Text, nullable=False, server_default="[]"),
    _text("workflow"),
    Column("recorded_at", Float, nullable=False),
    sqlite_with_rowid=False,
)

audit = Table(
    "audit",
    metadata,
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
    Index("audit_by_key", "route", "key", "sequence"),
    sqlite_with_rowid=False,
)

chains = Table(
    "chains",
    metadata,
    Column("route", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("route", Text, primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    Column("first_at", Float, nullable=False),
    Column("last_at", Float, nullable=False),
    Column("next_step", Text, nullable=False),
    Index("quarantine_by_reason", "route", "reason", "key"),
    sqlite_with_rowid=False,
)

passes = Table(
    "passes",
    metadata,
    Column("pass_id", Text, primary_key=True),
    Column("route", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("counters", Text, nullable=False),
    Column("workflow", Text, nullable=False),
    _text("scope"),
    Index("passes_by_route", "route", "started_at"),
)

pending_deletions = Table(
    "pending_deletions",
    metadata,
    Column("route", Text, primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("pass_id", Text, nullable=False),
    Column("destination_version", Text, nullable=False),
    Column("since", Float, nullable=False),
    sqlite_with_rowid=False,
)

findings = Table(
    "findings",
    metadata,
    Column("pass_id", Text, primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("key", LargeBinary, nullable=False),
    Column("document", Text, nullable=False),
    Column("at", Float, nullable=False),
    Index("findings_by_age", "at"),
    sqlite_with_rowid=False,
)

leaves = Table(
    "leaves",
    metadata,
    Column("pass_id", Text, primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("level", Text, nullable=False),
    sqlite_with_rowid=False,
)

budget_users = Table(
    "budget_users",
    metadata,
    Column("budget", Text, primary_key=True),
    Column("process", Text, primary_key=True),
    Column("users", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
