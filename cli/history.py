"""`history ROUTE KEY`: every change that was made for one object; `history ROUTE --check`: whether the trail is whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cli.output import moment, printable
from cli.session import DIFFERS, DONE, Session, check_key_argument
from ledger.rows import AuditEntry
from replication.errors import UsageError
from replication.units import format_size


async def run(session: Session, route_name: str, key: str | None, *, check: bool, head: str | None) -> int:
    """Exit code 1 for a trail that is not whole. No change is no error."""
    route = session.route(route_name)
    if (key is None) != check:
        raise UsageError("argument KEY: either a key or --check must be given")
    if head is not None and not check:
        raise UsageError("argument --head: is of --check only")
    if key is None:
        return await _check(session, route.name, head)
    check_key_argument(key)
    async with session.ledger() as ledger:
        entries = await ledger.history(route.name, key)
    for entry in entries:
        session.output.document(document(entry))
        session.output.line(line(entry))
    if not entries:
        session.output.note(f"no change of this object is on record in route {route.name}")
    return DONE


async def _check(session: Session, route: str, head: str | None) -> int:
    async with session.ledger() as ledger:
        report = await ledger.verify_chain(route, kept=head)
    session.output.document(asdict(report))
    if report.intact:
        session.output.line(f"intact: {report.entries:,} entries of route {route}, head {report.head or 'none'}")
    else:
        at = "" if report.broken_at is None else f" at {report.broken_at}"
        session.output.line(f"broken{at} after {report.entries:,} entries of route {route}: {printable(report.problem)}")
    return DONE if report.intact else DIFFERS


def document(entry: AuditEntry) -> dict[str, Any]:
    crc32c = None if entry.crc32c is None else f"{entry.crc32c:08x}"
    return {**asdict(entry), "at": moment(entry.at), "crc32c": crc32c}


def line(entry: AuditEntry) -> str:
    what = f"{format_size(entry.size_bytes)}, version {entry.source_version}" if entry.action != "deleted" else ""
    told = "  ".join(text for text in (what, entry.reason, entry.workflow) if text)
    return printable(f"{entry.sequence:>6}  {moment(entry.at)}  {entry.action:<11} {told}".rstrip())
