"""`retry ROUTE`: look again at every object that failed, is blocked, or waits. Safe to repeat: each look decides anew."""

from __future__ import annotations

from collections.abc import AsyncIterator

from temporalio.client import Client
from temporalio.service import RPCError

from cli.objects import read_progress, start_object
from cli.output import printable
from cli.runs import key_of, rested_objects
from cli.session import DONE, UNREACHABLE, Session, for_each
from ledger.ledger import Ledger
from replication.errors import LedgerUnavailable
from workflows.search import of_route

PAGE = 200
STARTS_AT_ONCE = 16


async def run(session: Session, route_name: str, *, reason: str | None) -> int:
    """Starts the workflow of each resting object again, or wakes the one that waits: what Temporal knows of, then what the
    quarantine holds besides. Exit code 3 where the ledger does not answer; the rest is done anyway."""
    route = session.route(route_name)
    client = await session.connect()
    queue, done = session.settings.temporal.control_queue, set[str]()
    count = 0

    async def again(key: str) -> None:
        nonlocal count
        handle = await start_object(client, queue, route.name, key, cause="retry")
        count += 1
        session.output.line(f"retried  {printable(key)}")
        session.output.document({"key": key, "route": route.name, "workflow_id": handle.id})

    async for key in _resting(client, route.name, reason):
        if key not in done:
            done.add(key)
            await again(key)
    code = DONE
    try:
        async with session.ledger() as ledger:
            async for page in _quarantined(ledger, route.name, reason):
                await for_each([key for key in page if key not in done], STARTS_AT_ONCE, again)
    except LedgerUnavailable as error:
        session.output.note(f"the quarantine cannot be read: {error}")
        code = UNREACHABLE
    session.output.line(f"{count} objects of route {route.name} are looked at again")
    return code


async def _quarantined(ledger: Ledger, route: str, reason: str | None) -> AsyncIterator[list[str]]:
    after = ""
    while page := await ledger.quarantine(route, reason=reason, after=after, limit=PAGE):
        yield [resting.key for resting in page]
        after = page[-1].key


async def _resting(client: Client, route: str, reason: str | None) -> AsyncIterator[str]:
    """The keys of the route's failed, blocked and waiting objects, of that reason if one is given."""
    async for rested in rested_objects(client, route):
        if reason in (None, rested.result.reason):
            yield rested.key
    async for run in client.list_workflows(of_route(route, 'ExecutionStatus = "Running"', 'DrayagePhase IN ("waiting", "stalled")')):
        if reason is None or await _waits_for(client, run.id, reason):
            yield await key_of(client, run)


async def _waits_for(client: Client, workflow_id: str, reason: str) -> bool:
    try:
        progress = await read_progress(client.get_workflow_handle(workflow_id))
    except RPCError:
        return False
    return progress.phase in ("waiting", "stalled") and progress.waiting_for.partition(": ")[0] == reason
