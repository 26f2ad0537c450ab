"""`pause ROUTE [KEY…]` and `resume ROUTE [KEY…]`: hold open object workflows before their next step, or let them go on.

Without keys, the running passes of the route as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from temporalio.client import Client

from cli.objects import Handle
from cli.open_passes import open_passes
from cli.output import printable
from cli.runs import key_of
from cli.session import DIFFERS, DONE, Session, check_key_argument
from cli.updates import update
from replication.ids import object_workflow_id
from workflows.search import of_route


async def run(session: Session, name: str, route_name: str, keys: Sequence[str]) -> int:
    """Exit code 1 when a key that was named has no open workflow."""
    route = session.route(route_name)
    for key in keys:
        check_key_argument(key)
    client, missing, count = await session.connect(), 0, 0
    if not keys:
        await _steer_passes(session, client, route.name, name)
    async for key, handle in _open(client, route.name, keys):
        steered, _ = await update(handle, name)
        count += steered
        missing += not steered
        told = f"{name}d" if steered else "not open"
        session.output.line(f"{told:<8} {printable(key)}")
        session.output.document({"key": key, "route": route.name, "workflow_id": handle.id, name: steered})
    session.output.line(f"{count} objects of route {route.name}")
    return DIFFERS if missing and keys else DONE


async def _steer_passes(session: Session, client: Client, route: str, name: str) -> None:
    for found in await open_passes(client, route):
        steered, _ = await found.update(name)
        if steered:
            told = f"{name}d"
            session.output.line(f"{told:<8} {found.handle.id}")
            session.output.document({"pass": found.mode, "route": route, "workflow_id": found.handle.id, name: True})


async def _open(client: Client, route: str, keys: Sequence[str]) -> AsyncIterator[tuple[str, Handle]]:
    for key in keys:
        yield key, client.get_workflow_handle(object_workflow_id(route, key))
    if not keys:
        async for run in client.list_workflows(of_route(route, 'ExecutionStatus = "Running"')):
            yield await key_of(client, run), client.get_workflow_handle(run.id)
