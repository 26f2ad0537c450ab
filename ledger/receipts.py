"""Receipts: which version of an object was last known to stand at its destination as which version.

One row per route and key, in SQLite or PostgreSQL. Keys are bytes, so no collation merges or reorders them. A receipt is
evidence and not truth: without it a decision falls back on checksums and marks, so a lost ledger loses no object.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, Engine, Float, LargeBinary, MetaData, Table, Text, create_engine, event, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from replication.errors import LedgerUnavailable

BUSY_S = 10
"""How long SQLite waits for another writer."""

_metadata = MetaData()
_receipts = Table(
    "receipts",
    _metadata,
    Column("route", Text, primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("source_version", Text, nullable=False),
    Column("destination_version", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("crc32c", BigInteger),
    Column("verification", Text, nullable=False),
    Column("recorded_at", Float, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """`source_version` stood at the destination as `destination_version` (tokens of `replication.models.Version`).

    `recorded_at` is in seconds since 1970.
    """

    route: str
    key: str
    source_version: str
    destination_version: str
    size_bytes: int = 0
    crc32c: int | None = None
    verification: str = ""
    recorded_at: float = 0.0


class Receipts:
    """The receipts of all routes at one database URL (`sqlite:///path` or `postgresql://…`), opened when first used.

    Safe for any number of concurrent calls and processes. Every call raises `LedgerUnavailable` when the database fails.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._url = url
        self._clock = clock
        self._opened: Engine | None = None
        self._opening = asyncio.Lock()

    async def find(self, route: str, key: str) -> Receipt | None:
        row = await self._call(lambda engine: _find(engine, route, key))
        return row if row is None else _receipt(row)

    async def record(self, receipts: Sequence[Receipt]) -> None:
        """Keeps the receipts, each in place of the one before for its route and key."""
        if receipts:
            now = self._clock()
            await self._call(lambda engine: _upsert(engine, [_row(receipt, now) for receipt in receipts]))

    async def close(self) -> None:
        engine, self._opened = self._opened, None
        if engine is not None:
            await asyncio.to_thread(engine.dispose)

    async def _call(self, work: Callable[[Engine], Any]) -> Any:
        try:
            async with self._opening:
                if self._opened is None:
                    self._opened = await asyncio.to_thread(_open, self._url)
            return await asyncio.to_thread(work, self._opened)
        except SQLAlchemyError as error:
            raise LedgerUnavailable(f"the ledger does not answer: {type(error).__name__}") from error


def _open(url: str) -> Engine:
    if url.startswith("postgresql://"):
        engine = create_engine("postgresql+psycopg://" + url.removeprefix("postgresql://"), pool_pre_ping=True)
    else:
        engine = create_engine(url, connect_args={"timeout": BUSY_S})
        event.listen(engine, "connect", _prepare_sqlite)
    _metadata.create_all(engine)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Readers go on beside a writer; a crash of the machine may cost the last receipts, which the next look finds again."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _find(engine: Engine, route: str, key: str) -> Any:
    query = select(_receipts).where(_receipts.c.route == route, _receipts.c.key == _bytes(key))
    with engine.connect() as connection:
        return connection.execute(query).mappings().one_or_none()


def _upsert(engine: Engine, rows: list[dict[str, Any]]) -> None:
    dialect: Any = postgresql if engine.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(_receipts)
    replaced = {column.name: statement.excluded[column.name] for column in _receipts.columns if not column.primary_key}
    with engine.begin() as connection:
        connection.execute(statement.on_conflict_do_update(index_elements=["route", "key"], set_=replaced), rows)


def _row(receipt: Receipt, now: float) -> dict[str, Any]:
    return {
        "route": receipt.route,
        "key": _bytes(receipt.key),
        "source_version": receipt.source_version,
        "destination_version": receipt.destination_version,
        "size_bytes": receipt.size_bytes,
        "crc32c": receipt.crc32c,
        "verification": receipt.verification,
        "recorded_at": now,
    }


def _receipt(row: Any) -> Receipt:
    return Receipt(**{**row, "key": bytes(row["key"]).decode("utf-8", "surrogatepass")})


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
