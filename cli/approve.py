"""`approve ROUTE`: lets the deletions go on that were stopped because there were too many at once."""

from __future__ import annotations

from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from cli.open_passes import open_passes
from cli.output import printable
from cli.session import DONE, Session
from cli.updates import update
from replication.deletions import DeletionsProgress
from replication.ids import deletions_id
from workflows.search import of_route


async def run(session: Session, route_name: str) -> int:
    """Nothing held is no error."""
    route = session.route(route_name)
    client = await session.connect()
    held = await _approve(client.get_workflow_handle(deletions_id(route.name)))
    woken = await _wake(client, route.name) if held.hold else 0
    _tell(session, held, woken, await _approve_passes(client, route.name))
    return DONE


async def _approve_passes(client: Client, route: str) -> dict[str, str]:
    """What the running passes held, by workflow id."""
    held: dict[str, str] = {}
    for found in await open_passes(client, route):
        if found.mode == "repair":
            _, reason = await found.update("approve", answer=str)
            held |= {found.handle.id: reason} if reason else {}
    return held


async def _approve(handle: WorkflowHandle[Any, Any]) -> DeletionsProgress:
    there, held = await update(handle, "approve", answer=DeletionsProgress)
    return held if there else DeletionsProgress(route=handle.id, granted=0)


async def _wake(client: Client, route: str) -> int:
    """Lets the objects that wait look again, and so ask again."""
    count = 0
    async for run in client.list_workflows(of_route(route, 'DrayagePhase = "held"', 'ExecutionStatus = "Running"')):
        try:
            await client.get_workflow_handle(run.id).signal("check", "approve")
            count += 1
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
    return count


def _tell(session: Session, held: DeletionsProgress, woken: int, passes: dict[str, str]) -> None:
    hold = held.hold
    for workflow_id, reason in passes.items():
        session.output.line(f"approved: {workflow_id}: {reason}")
    if hold is None and not passes:
        session.output.line("nothing is held")
    if hold is not None:
        session.output.line(f"approved: {hold.reason}; {woken} objects look again")
        for key in hold.first:
            session.output.line(f"  {printable(key)}")
    session.output.document({"held": hold.model_dump() if hold else None, "woken": woken, "passes": passes})
