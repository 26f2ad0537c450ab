"""`setup`: registers the search attributes, schedules the housekeeping, migrates the ledger, and checks every store and
bucket that a route names. Repeatable."""

from __future__ import annotations

from typing import Any

from cli.housekeep import schedule_housekeeping
from cli.session import UNREACHABLE, Session
from cli.sides import SIDE_COLUMNS, Side, probe_sides, side_document, side_row, worst_code
from replication.errors import LedgerUnavailable
from replication.units import format_duration
from workflows.client import ensure_search_attributes

HOUSEKEEPING_EVERY_S = 86_400.0


async def run(session: Session) -> int:
    output = session.output
    client = await session.connect()
    added = await ensure_search_attributes(client)
    output.line(f"search attributes: {', '.join(added)} added" if added else "search attributes: all there")
    created = await schedule_housekeeping(client, session.settings.temporal.control_queue, HOUSEKEEPING_EVERY_S)
    output.line(f"housekeeping: {'scheduled' if created else 'scheduled already'}, every {format_duration(HOUSEKEEPING_EVERY_S)}")
    revision = await _migrate(session)
    async with session.stores() as stores:
        sides = await probe_sides(session.settings.routes, stores)
    output.table(SIDE_COLUMNS, [side_row(side) for side in sides])
    output.document(document(added, created, revision, sides))
    return worst_code(sides) if revision is not None else UNREACHABLE


async def _migrate(session: Session) -> str | None:
    """The ledger's revision; None, and a line that says why, where it does not answer."""
    try:
        async with session.ledger() as ledger:
            revision = await ledger.migrate()
    except LedgerUnavailable as error:
        session.output.note(str(error))
        return None
    session.output.line(f"ledger: revision {revision}")
    return revision


def document(added: list[str], created: bool, revision: str | None, sides: list[Side]) -> dict[str, Any]:
    return {
        "search_attributes_added": added,
        "schedule_created": created,
        "ledger_revision": revision,
        "stores": [side_document(side) for side in sides],
    }
