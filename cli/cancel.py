"""`cancel ROUTE`: stops the running passes of a route. What they did stays; run again, they do only the rest."""

from __future__ import annotations

import asyncio

from temporalio.client import WorkflowFailureError

from cli.open_passes import OpenPass, open_passes
from cli.session import DIFFERS, DONE, Session

END_S = 30.0
"""How long the objects under way get before the command leaves them to end by themselves."""


async def run(session: Session, route_name: str) -> int:
    """Exit code 1 when no pass runs."""
    route = session.route(route_name)
    client = await session.connect()
    found = await open_passes(client, route.name)
    if not found:
        session.output.note(f"no pass of route {route.name} is running")
    for one in found:
        await one.handle.cancel()
    for one, ended in zip(found, await asyncio.gather(*map(_ended, found)), strict=True):
        session.output.line(f"{'cancelled' if ended else 'ending'}  {one.handle.id}")
        session.output.document({"route": route.name, "workflow_id": one.handle.id, "ended": ended})
    return DONE if found else DIFFERS


async def _ended(found: OpenPass) -> bool:
    try:
        await asyncio.wait_for(found.handle.result(), END_S)
    except WorkflowFailureError:
        return True
    except TimeoutError:
        return False
    return True
