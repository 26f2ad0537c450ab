"""`housekeep`: one sweep now, and the Temporal Schedule that repeats it."""

from __future__ import annotations

from temporalio.client import Client, ScheduleActionStartWorkflow, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy

from cli.output import printable
from cli.schedules import upsert_schedule
from cli.session import DIFFERS, DONE, Session
from replication.ids import HOUSEKEEPING_ID
from replication.models import HousekeepingInput, HousekeepingResult

SUMMARY = "sweep unfinished uploads and temporary parts"


async def run(session: Session, *, older_than_s: float, dry_run: bool, wait: bool) -> int:
    """Starts a sweep, or joins the one that runs. Exit code 1 when something could not be removed."""
    client = await session.connect()
    handle: WorkflowHandle[object, HousekeepingResult] = await client.start_workflow(
        "Housekeeping",
        HousekeepingInput(older_than_s=older_than_s, dry_run=dry_run),
        id=HOUSEKEEPING_ID,
        task_queue=session.settings.temporal.control_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        result_type=HousekeepingResult,
        static_summary=SUMMARY,
    )
    if not wait:
        session.output.line(f"started  {handle.id}")
        session.output.document({"workflow_id": handle.id})
        return DONE
    result = await handle.result()
    removed = "to be removed" if dry_run else "removed"
    session.output.line(f"{result.found} found, {result.aborted} {removed}, {result.kept} kept, {result.failed} failed")
    for problem in result.problems:
        session.output.line(f"  {printable(problem)}")
    session.output.document(result.model_dump())
    return DIFFERS if result.failed or result.problems else DONE


async def schedule_housekeeping(client: Client, queue: str, every_s: float) -> bool:
    """Creates the schedule (True), or brings the one that is there to this interval and queue (False)."""
    action = ScheduleActionStartWorkflow("Housekeeping", HousekeepingInput(), id=HOUSEKEEPING_ID, task_queue=queue, static_summary=SUMMARY)
    return await upsert_schedule(client, HOUSEKEEPING_ID, action, every_s)
