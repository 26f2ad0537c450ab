"""The database itself: migrations, several processes, and failures."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import BigInteger, Column, Float, LargeBinary, MetaData, Table, Text, make_url, text

from ledger import schema
from ledger.engine import open_engine, upgrade, writing
from ledger.ledger import Ledger
from ledger.rows import AuditEntry, Receipt
from replication.errors import LedgerUnavailable

ROOT = Path(__file__).parents[2]

WRITER = """
import asyncio, sys
from ledger.ledger import Ledger
from ledger.rows import AuditEntry, Receipt

async def main(url, name):
    ledger = Ledger(url)
    sys.stdin.readline()
    for number in range(20):
        key = f"{name}-{number}"
        await ledger.record(receipts=[Receipt("r", key, "v", "d"), Receipt("r", f"shared-{number}", name, "d")],
                            audit=[AuditEntry("r", key, "copied")])
    await ledger.close()

print("ready", flush=True)
asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_new_database_gets_the_tables_of_the_schema(ledger: Ledger, url: str) -> None:
    assert await ledger.migrate() == schema.HEAD
    assert differences(url) == []


async def test_the_migrations_from_an_empty_database_lead_to_the_same_tables(url: str) -> None:
    engine = open_engine(url)
    with writing(engine).begin() as connection:
        upgrade(connection)
    engine.dispose()

    assert differences(url) == []


def differences(url: str) -> list[Any]:
    engine = open_engine(url)
    with engine.connect() as connection:
        found: list[Any] = compare_metadata(MigrationContext.configure(connection), schema.metadata)
    engine.dispose()
    return found


async def test_receipts_from_before_the_migrations_stay(ledger: Ledger, url: str) -> None:
    before = Table(
        "receipts",
        MetaData(),
        Column("route", Text, primary_key=True),
        Column("key", LargeBinary, primary_key=True),
        Column("source_version", Text, nullable=False),
        Column("destination_version", Text, nullable=False),
        Column("size_bytes", BigInteger, nullable=False),
        Column("crc32c", BigInteger),
        Column("verification", Text, nullable=False),
        Column("recorded_at", Float, nullable=False),
    )
    rows: list[dict[str, Any]] = [
        {"key": b"a", "size_bytes": 2**40, "crc32c": 2**32 - 1, "recorded_at": 0.1 + 0.2},
        {"key": b"\xed\xb2\x80", "size_bytes": 0, "crc32c": None, "recorded_at": 7.0},
    ]
    same = {"route": "r", "source_version": "v", "destination_version": "d", "verification": "end-to-end"}
    engine = open_engine(url)
    with writing(engine).begin() as connection:
        before.create(connection)
        connection.execute(before.insert(), [same | row for row in rows])
    engine.dispose()

    assert await ledger.range("r") == [
        Receipt("r", "a", "v", "d", size_bytes=2**40, crc32c=2**32 - 1, verification="end-to-end", recorded_at=0.1 + 0.2),
        Receipt("r", "\udc80", "v", "d", verification="end-to-end", recorded_at=7.0),
    ]
    assert differences(url) == []


async def test_migrating_leaves_logging_alone(ledger: Ledger) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers), logging.getLogger("drayage").disabled
    await ledger.migrate()
    assert (root.level, list(root.handlers), logging.getLogger("drayage").disabled) == before


async def test_processes_open_and_write_a_new_database_at_once(ledger: Ledger, url: str, tmp_path: Path) -> None:
    names = ["one", "two", "three", "four"]
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, url, name,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for name in names
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [process.returncode for process in processes] == [0] * len(names)

    assert await ledger.in_sync_count("r") == 20 * len(names) + 20
    report = await ledger.verify_chain("r")
    assert (report.intact, report.entries) == (True, 20 * len(names))


async def test_one_process_opens_a_new_database_several_times_at_once(url: str) -> None:
    ledgers = [Ledger(url) for _ in range(4)]
    await asyncio.gather(*(ledger.record(audit=[AuditEntry("r", "k", "copied")]) for ledger in ledgers))
    assert (await ledgers[0].verify_chain("r")).entries == 4
    for ledger in ledgers:
        await ledger.close()


async def test_a_closed_ledger_opens_again(ledger: Ledger) -> None:
    await ledger.record(receipts=[Receipt("r", "k", "v", "d")])
    await ledger.close()
    assert await ledger.find("r", "k")


async def test_a_database_of_a_later_release_is_refused(ledger: Ledger, url: str) -> None:
    await ledger.migrate()
    await ledger.close()
    engine = open_engine(url)
    with writing(engine).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(LedgerUnavailable, match="'9999', of another release"):
        await ledger.find("r", "k")


async def test_a_database_that_goes_away_is_unavailable_until_it_is_back(ledger: Ledger, url: str) -> None:
    await ledger.record(receipts=[Receipt("r", "k", "v", "d")])
    await take_away(url, back=False)
    with pytest.raises(LedgerUnavailable):
        await ledger.find("r", "k")
    with pytest.raises(LedgerUnavailable):
        await ledger.record(receipts=[Receipt("r", "k2", "v", "d")])
    await take_away(url, back=True)
    await ledger.record(receipts=[Receipt("r", "k3", "v", "d")])
    assert [receipt.key for receipt in await ledger.range("r")] == ["k", "k3"]


async def take_away(url: str, *, back: bool) -> None:
    """A table under another name; on PostgreSQL the connections are cut as well."""
    names = ("hidden", "receipts") if back else ("receipts", "hidden")
    engine = open_engine(url)
    with writing(engine).begin() as connection:
        connection.execute(text(f"ALTER TABLE {names[0]} RENAME TO {names[1]}"))
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                                    "AND datname = current_database()"))  # fmt: skip
    engine.dispose()


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"something else" * 1000)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    with pytest.raises(LedgerUnavailable):
        await ledger.record(receipts=[Receipt("r", "k", "v", "d")])
    await ledger.close()


async def test_a_server_without_the_database_is_unavailable(postgres: str) -> None:
    ledger = Ledger(make_url(postgres).set(database="no_such").render_as_string(hide_password=False))
    with pytest.raises(LedgerUnavailable):
        await ledger.find("r", "k")
    await ledger.close()
