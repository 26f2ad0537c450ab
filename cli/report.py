"""`report ROUTE`: one line for each object that the ledger knows, in the order of the keys, however many there are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from cli.output import moment, printable
from cli.session import DONE, Session
from cli.states import State, quarantine_state
from ledger.ledger import Ledger
from ledger.rows import PendingDeletion, Quarantined, Receipt
from replication.units import format_size

PAGE = 1_000

Row = Receipt | Quarantined | PendingDeletion
Pages = Callable[[str], Awaitable[Sequence[Row]]]


async def run(session: Session, route_name: str, *, state: State | None) -> int:
    route = session.route(route_name)
    async with session.ledger() as ledger:
        async for row in _rows(ledger, route.name, state):
            if state in (None, state_of(row)):
                session.output.document(document(row))
                session.output.line(line(row))
    return DONE


def state_of(row: Row) -> State:
    if isinstance(row, Receipt):
        return "in_sync"
    return "deletion_pending" if isinstance(row, PendingDeletion) else quarantine_state(row.reason)


def document(row: Row) -> dict[str, Any]:
    told: dict[str, Any] = {"route": row.route, "key": row.key, "state": state_of(row)}
    if isinstance(row, Receipt):
        return {**told, **receipt_document(row)}
    if isinstance(row, Quarantined):
        return {**told, **quarantine_document(row)}
    return {**told, "since": moment(row.since), "pass_id": row.pass_id}


def receipt_document(receipt: Receipt) -> dict[str, Any]:
    return {
        "size_bytes": receipt.size_bytes,
        "crc32c": None if receipt.crc32c is None else f"{receipt.crc32c:08x}",
        "source_version": receipt.source_version,
        "destination_version": receipt.destination_version,
        "verification": receipt.verification,
        "losses": list(receipt.losses),
        "workflow": receipt.workflow,
        "recorded_at": moment(receipt.recorded_at),
    }


def quarantine_document(row: Quarantined) -> dict[str, Any]:
    return {
        "reason": row.reason,
        "message": row.message,
        "attempts": row.attempts,
        "since": moment(row.first_at),
        "last_at": moment(row.last_at),
        "next_step": row.next_step,
    }


def line(row: Row) -> str:
    if isinstance(row, Receipt):
        told = f"{format_size(row.size_bytes)}, {row.verification or 'not verified'}, {moment(row.recorded_at)}"
    elif isinstance(row, Quarantined):
        told = f"{row.reason} since {moment(row.first_at)}, {row.attempts} attempts: {row.message}; {row.next_step}"
    else:
        told = f"since {moment(row.since)}"
    return printable(f"{state_of(row):<16}  {row.key}  {told}")


# --- three tables, one object at a time ------------------------------------------------------------------------------


async def _rows(ledger: Ledger, route: str, state: State | None) -> AsyncIterator[Row]:
    """Each object once: one that rests or waits to be deleted may have the receipt of an older version as well."""
    tables: list[Pages] = [lambda after: ledger.quarantine(route, after=after, limit=PAGE)]
    if state in (None, "in_sync", "deletion_pending"):
        tables.append(lambda after: ledger.pending_deletions(route, after=after, limit=PAGE))
    if state in (None, "in_sync"):
        tables.append(lambda after: ledger.range(route, after=after, limit=PAGE))
    streams = [_paged(pages) for pages in tables]
    heads = [await anext(stream, None) for stream in streams]
    while keys := [_order(head.key) for head in heads if head is not None]:
        lowest = min(keys)
        here = [number for number, head in enumerate(heads) if head is not None and _order(head.key) == lowest]
        first = heads[here[0]]
        assert first is not None
        yield first
        for number in here:
            heads[number] = await anext(streams[number], None)


async def _paged(pages: Pages) -> AsyncIterator[Row]:
    after = ""
    while page := await pages(after):
        for row in page:
            yield row
        after = page[-1].key


def _order(key: str) -> bytes:
    """The order of the ledger's pages: that of the keys' bytes."""
    return key.encode("utf-8", "surrogatepass")
