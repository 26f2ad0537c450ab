"""`report ROUTE`: one line for each object that the ledger knows, in the order of the keys, or for each prefix; however many there are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from cli.output import moment, printable
from cli.prefixes import Summary, summed_up
from cli.session import DONE, Session
from cli.states import STATES, State, quarantine_state
from ledger.ledger import Ledger
from ledger.rows import PendingDeletion, Quarantined, Receipt
from replication.units import format_size

PAGE = 1_000

Row = Receipt | Quarantined | PendingDeletion
Pages = Callable[[str], Awaitable[Sequence[Row]]]


async def run(session: Session, route_name: str, *, state: State | None, depth: int | None) -> int:
    """With a `depth`, one line for each prefix instead."""
    route = session.route(route_name)
    async with session.ledger() as ledger:
        rows = _of_state(_rows(ledger, route.name, state), state)
        if depth is not None:
            objects = ((row.key, state_of(row), row.size_bytes if isinstance(row, Receipt) else 0) async for row in rows)
            async for summary in summed_up(objects, route.source.prefix, depth):
                session.output.document(summary_document(route.name, summary))
                session.output.line(summary_line(summary))
        else:
            async for row in rows:
                session.output.document(document(row))
                session.output.line(line(row))
    return DONE


async def _of_state(rows: AsyncIterator[Row], state: State | None) -> AsyncIterator[Row]:
    async for row in rows:
        if state in (None, state_of(row)):
            yield row


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


def summary_document(route: str, summary: Summary) -> dict[str, Any]:
    counts: dict[str, int] = {state: summary.states[state] for state in STATES}
    return {"route": route, "prefix": summary.prefix, "objects": summary.states.total(), **counts, "size_bytes": summary.size_bytes}


def summary_line(summary: Summary) -> str:
    counts = ", ".join(f"{summary.states[state]:,} {state}" for state in STATES if summary.states[state])
    return printable(f"{summary.prefix or '(no prefix)'}  {counts}; {format_size(summary.size_bytes)} in sync")


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
