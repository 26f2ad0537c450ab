"""Opens the database: SQLite or PostgreSQL, its transactions, and the migrations that ship with this package."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, func, inspect, make_url, select
from sqlalchemy.exc import OperationalError

from ledger.schema import HEAD, alembic_version, metadata
from replication.errors import LedgerUnavailable

BUSY_S = 10
"""How long SQLite waits for another writer, and a connection to PostgreSQL for its answer."""
LOCKED_S = 30
"""How long a statement waits for a lock of PostgreSQL, which ends transactions that are idle for as long."""
CONNECTIONS = 4
"""The most connections of one process, and the threads that use them."""
ATTEMPTS = 5
MOST_WORDS = 300
"""Characters of a driver's message that are told."""
DEADLOCK = "40P01"

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x64726179616765

T = TypeVar("T")

_migrating = threading.Lock()  # Alembic's context is one of the process


def open_engine(url: str) -> Engine:
    """`sqlite:///path` or `postgresql://…`; nothing is contacted yet."""
    if url.startswith("postgresql://"):
        engine = create_engine(
            "postgresql+psycopg://" + url.removeprefix("postgresql://"),
            pool_size=CONNECTIONS,
            pool_pre_ping=True,
            connect_args={"connect_timeout": BUSY_S, "tcp_user_timeout": LOCKED_S * 1000},
        )
        event.listen(engine, "connect", _prepare_postgres)
    else:
        engine = create_engine(url, pool_size=CONNECTIONS, connect_args={"timeout": BUSY_S, "isolation_level": None})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def place_of(url: str) -> str:
    """Where the database is, for people: a path, or host and name; nobody's name or password."""
    parts = make_url(url)
    if parts.get_backend_name() == "sqlite":
        return str(Path(parts.database or "").absolute())
    host = parts.host or parts.query.get("host") or "the local server"
    return f"{host}:{parts.port}/{parts.database}" if parts.port else f"{host}/{parts.database}"


def words_of(error: Exception) -> str:
    """What the driver says, in one line; SQLAlchemy would add the statement and its values."""
    told = getattr(error, "orig", None) or (error if isinstance(error, OSError) else None)
    return " ".join(str(told).split())[:MOST_WORDS] if told is not None else type(error).__name__


def writing(engine: Engine) -> Engine:
    """The same engine, whose transactions are going to write: SQLite takes its lock at the beginning, and waits for it there."""
    return engine.execution_options(writes=True)


def transact(engine: Engine, change: Callable[[Connection], T]) -> T:
    """Runs `change` in a transaction that writes; again, where PostgreSQL ended it to let another one through."""
    for _ in range(ATTEMPTS - 1):
        try:
            with writing(engine).begin() as connection:
                return change(connection)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != DEADLOCK:
                raise
    with writing(engine).begin() as connection:
        return change(connection)


def is_postgres(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def migrate(engine: Engine) -> str:
    """Brings the schema to the newest revision, and returns it. Any number of processes may do so at once."""
    with engine.connect() as connection:
        if _revision(connection) == HEAD:
            return HEAD
    with _migrating, writing(engine).begin() as connection:
        if is_postgres(connection):
            connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        if not inspect(connection).get_table_names():
            _create(connection)
        elif _revision(connection) != HEAD:
            upgrade(connection)
        return _revision(connection)


def _create(connection: Connection) -> None:
    """An empty database gets the newest tables at once: importing Alembic takes longer than many a pass."""
    metadata.create_all(connection)
    alembic_version.create(connection)
    connection.execute(alembic_version.insert().values(version_num=HEAD))


def upgrade(connection: Connection) -> None:
    """Alembic is imported here only: the other starts of a program do not wait for it."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise LedgerUnavailable(f"the ledger has the schema {_revision(connection)!r}, of another release") from error


def _revision(connection: Connection) -> str:
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return connection.execute(select(alembic_version.c.version_num)).scalar() or ""


def _prepare_postgres(connection: Any, _: Any) -> None:
    """Arrays travel in binary form, in half the time of text. A worker that stands still does not hold its locks for ever."""
    from psycopg.types.array import ListBinaryDumper

    connection.adapters.register_dumper(list, ListBinaryDumper)
    connection.execute(f"SET lock_timeout = '{LOCKED_S}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{LOCKED_S}s'")
    connection.commit()


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Readers go on beside a writer; what is committed survives a crash of the machine."""
    _enter_wal(connection)
    connection.execute("PRAGMA synchronous=FULL")


def _enter_wal(connection: sqlite3.Connection) -> None:
    """SQLite does not wait by itself where several connections enter this mode of a new file at once."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")
