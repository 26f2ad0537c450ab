"""Temporal Schedules: making or updating one, and when the next pass of a route begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from replication.ids import pass_schedule_id

CATCH_UP = timedelta(hours=1)
"""What was due while the server was down is made up for within this time; what is older is not."""
SCHEDULED = ("repair", "verify")
"""The modes of passes that can be scheduled."""


@dataclass(frozen=True)
class NextPass:
    """A schedule of a route. `at` is None where nothing is due: it is paused, or has ended."""

    mode: str
    at: datetime | None
    paused: bool
    note: str = ""


async def upsert_schedule(
    client: Client,
    schedule_id: str,
    action: ScheduleActionStartWorkflow,
    every_s: float,
    *,
    jitter_s: float = 0.0,
    note: str = "",
    memo: Mapping[str, str] | None = None,
) -> bool:
    """Creates the schedule (True), or brings the one that is there to this action and interval (False)."""
    intervals = [ScheduleIntervalSpec(every=timedelta(seconds=every_s))]
    spec = ScheduleSpec(intervals=intervals, jitter=timedelta(seconds=jitter_s) if jitter_s else None)
    policy = SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCH_UP)
    schedule = Schedule(action=action, spec=spec, policy=policy, state=ScheduleState(note=note or None))

    def replaced(found: ScheduleUpdateInput) -> ScheduleUpdate:
        before = found.description.schedule.state
        # Paused or not is an operator's choice, and so is why.
        schedule.state = before if before.paused else ScheduleState(note=note or before.note)
        return ScheduleUpdate(schedule=schedule)

    try:
        await client.create_schedule(schedule_id, schedule, memo=memo)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(schedule_id).update(replaced)
        return False
    return True


async def delete_schedule(client: Client, schedule_id: str) -> bool:
    """False where there is none."""
    try:
        await client.get_schedule_handle(schedule_id).delete()
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return False
    return True


async def next_passes(client: Client, route: str) -> list[NextPass]:
    """One for each schedule of the route."""
    found = [await _next_pass(client, mode, route) for mode in SCHEDULED]
    return [one for one in found if one is not None]


async def _next_pass(client: Client, mode: str, route: str) -> NextPass | None:
    try:
        description = await client.get_schedule_handle(pass_schedule_id(mode, route)).describe()
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return None
    state, times = description.schedule.state, description.info.next_action_times
    return NextPass(mode, times[0] if times and not state.paused else None, state.paused, state.note or "")
