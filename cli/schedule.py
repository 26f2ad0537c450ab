"""`schedule ROUTE --every DURATION`: passes of a route that begin by themselves."""

from __future__ import annotations

import argparse

from temporalio.client import ScheduleActionStartWorkflow

from cli.schedules import delete_schedule, upsert_schedule
from cli.session import DONE, Session
from replication.errors import UsageError
from replication.ids import pass_schedule_id, pass_workflow_id
from replication.passes import Mode, PassInput
from replication.units import format_duration, parse_duration
from workflows.options import priority
from workflows.visibility import route_attributes

SHORTEST_S = 1.0
JITTER = 0.1
"""Of the interval: passes of many routes do not begin in the same second."""


async def run(session: Session, options: argparse.Namespace) -> int:
    route = session.route(options.route)
    every_s = _interval(options.every, delete=options.delete)
    mode: Mode = "verify" if options.verify else "repair"
    if (options.deep or options.since_last) and mode != "verify":
        raise UsageError(f"argument {'--deep' if options.deep else '--since-last'}: is of --verify only")
    asked = PassInput(route=route.name, mode=mode, cause="schedule", deep=options.deep, since_last=options.since_last)
    client = await session.connect()
    schedule_id = pass_schedule_id(mode, route.name)
    if every_s is None:
        deleted = await delete_schedule(client, schedule_id)
        session.output.line(f"{'deleted' if deleted else 'not scheduled'}  {schedule_id}")
        session.output.document({"schedule_id": schedule_id, "route": route.name, "deleted": deleted})
        return DONE
    text = f"{mode} of route {route.name} every {format_duration(every_s)}"
    action = _action(session, asked, text)
    memo = {"route": route.name, "mode": mode}
    created = await upsert_schedule(client, schedule_id, action, every_s, jitter_s=every_s * JITTER, note=text, memo=memo)
    session.output.line(f"{'scheduled' if created else 'updated'}  {schedule_id}: {text}")
    session.output.document({"schedule_id": schedule_id, "route": route.name, "mode": mode, "every_s": every_s, "created": created})
    return DONE


def _interval(every: str | None, *, delete: bool) -> float | None:
    """Seconds; None to delete the schedule."""
    if (every is None) != delete:
        raise UsageError("argument --every: either this or --delete must be given")
    if every is None:
        return None
    try:
        seconds = parse_duration(every)
    except ValueError as error:
        raise UsageError(f"argument --every: {error}") from None
    if seconds < SHORTEST_S:
        raise UsageError(f"argument --every: must be at least {format_duration(SHORTEST_S)}")
    return seconds


def _action(session: Session, asked: PassInput, summary: str) -> ScheduleActionStartWorkflow:
    """Temporal puts the time behind the id; what it starts there runs the pass under the route's one id, or skips."""
    return ScheduleActionStartWorkflow(
        "VerifyRoute" if asked.mode == "verify" else "ReconcileRoute",
        asked,
        id=pass_workflow_id(asked.mode, asked.route),
        task_queue=session.settings.temporal.control_queue,
        typed_search_attributes=route_attributes(asked.route),
        static_summary=summary,
        priority=priority(asked.route, bulk=True),
    )
