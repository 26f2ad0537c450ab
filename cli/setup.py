"""`setup`: registers the search attributes, schedules the housekeeping, and checks every store and bucket that a route
names. Repeatable."""

from __future__ import annotations

from typing import Any

from cli.housekeep import schedule_housekeeping
from cli.session import DONE, Session
from cli.sides import SIDE_COLUMNS, Side, probe_sides, side_document, side_row, worst_code
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
    async with session.stores() as stores:
        sides = await probe_sides(session.settings.routes, stores)
    output.table(SIDE_COLUMNS, [side_row(side) for side in sides])
    output.document(document(added, created, sides))
    return worst_code(sides) if sides else DONE


def document(added: list[str], created: bool, sides: list[Side]) -> dict[str, Any]:
    return {"search_attributes_added": added, "schedule_created": created, "stores": [side_document(side) for side in sides]}
