"""`undo ROUTE`: forgets the deletions that passes have collected and not made. The next pass collects afresh."""

from __future__ import annotations

from cli.counts import pending_deletions
from cli.session import DONE, Session


async def run(session: Session, route_name: str) -> int:
    route = session.route(route_name)
    async with session.ledger() as ledger:
        dropped = await ledger.drop_deletions(route.name)
    session.output.line(f"forgotten: {pending_deletions(dropped)} of route {route.name}")
    session.output.document({"route": route.name, "dropped": dropped})
    return DONE
