"""What certificates are made of, and which passes looked at the whole of their route."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary, Text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("passes", Column("scope", Text, nullable=False, server_default=""))
    op.create_table(
        "leaves",
        Column("pass_id", Text, primary_key=True),
        Column("key", LargeBinary, primary_key=True),
        Column("size_bytes", BigInteger, nullable=False),
        Column("digest", Text, nullable=False),
        Column("level", Text, nullable=False),
        sqlite_with_rowid=False,
    )
