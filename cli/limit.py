"""`limit ROUTE`: how fast the running passes of a route may go, from now on."""

from __future__ import annotations

import argparse

from cli.filters import limits_of
from cli.open_passes import limits_text, open_passes
from cli.session import DIFFERS, DONE, Session
from replication.errors import UsageError
from replication.passes import LimitUpdate, Steering


async def run(session: Session, options: argparse.Namespace) -> int:
    """Exit code 1 when no pass runs."""
    route, change = session.route(options.route), limits_of(options)
    if change == LimitUpdate():
        raise UsageError("argument --concurrency: at least one of --concurrency, --bandwidth and --requests must be given")
    client, count = await session.connect(), 0
    for found in await open_passes(client, route.name):
        there, steering = await found.update("limit", change, answer=Steering)
        if there:
            count += 1
            limits = steering.model_dump(exclude={"paused"})
            session.output.line(f"limited  {found.handle.id}: {limits_text(limits)}")
            session.output.document({"route": route.name, "workflow_id": found.handle.id, **limits})
    if not count:
        session.output.note(f"no pass of route {route.name} is running")
    return DONE if count else DIFFERS
