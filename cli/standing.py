"""Where a route stands: what its ledger counts, its passes, and how long its oldest open object has been at it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import Client

from cli.live import with_open_partitions
from cli.open_passes import OpenPass, open_passes
from cli.output import moment
from cli.schedules import NextPass, next_passes
from cli.states import RESTING, quarantine_state
from ledger.ledger import Ledger
from ledger.rows import PassRecord, last_ended
from workflows.search import of_route

PRECISION = 1.05
PASSES = 50
"""The newest passes on record among which the last one that ended is looked for."""


async def ledger_counts(ledger: Ledger, route: str) -> dict[str, Any]:
    """Receipts, resting objects by state and reason, pending deletions, the last pass. Raises `LedgerUnavailable`."""
    resting: dict[str, dict[str, int]] = defaultdict(dict)
    for reason, count in (await ledger.quarantine_counts(route)).items():
        resting[quarantine_state(reason)][reason] = count
    last = last_ended(await ledger.passes(route, PASSES))
    return {
        "in_sync": await ledger.in_sync_count(route),
        **{state: resting[state] for state in RESTING},
        "pending_deletions": await ledger.pending_count(route),
        "last_pass": pass_document(last) if last else None,
    }


def pass_document(record: PassRecord) -> dict[str, Any]:
    return {
        "mode": record.mode,
        "state": record.state,
        "reason": record.reason,
        "started_at": moment(record.started_at),
        "ended_at": None if record.ended_at is None else moment(record.ended_at),
        "counters": record.counters,
    }


async def passes_now(client: Client, route: str) -> dict[str, Any]:
    """The passes that run, and when the next ones begin."""
    return {
        "passes": [await _running(client, found) for found in await open_passes(client, route)],
        "next_passes": [next_document(found) for found in await next_passes(client, route)],
    }


async def _running(client: Client, found: OpenPass) -> dict[str, Any]:
    """State None where no worker answers."""
    told: dict[str, Any] = {"mode": found.mode, "workflow_id": found.handle.id, "state": None}
    progress = await found.progress()
    if progress is None:
        return told
    progress = await with_open_partitions(client, progress)
    return {
        **told,
        "state": progress.state,
        "started_at": moment(progress.started_at),
        "counters": progress.counters.model_dump(),
        "limits": progress.steering.model_dump(exclude={"paused"}),
        "partitions_done": progress.partitions_done,
        "partitions_open": progress.partitions_open,
        "held": progress.held,
        "problem": progress.problem,
    }


def next_document(found: NextPass) -> dict[str, Any]:
    return {"mode": found.mode, "at": found.at and moment(found.at.timestamp()), "paused": found.paused, "note": found.note}


async def oldest_age(client: Client, route: str, known_s: float) -> float:
    """Seconds since the oldest open object workflow began, within a twentieth; one of that age is `known_s` old.

    Visibility knows no order, so what is older than some time is asked for, and the time is halved in on.
    """
    now = datetime.now(UTC)

    async def is_any_older(seconds: float) -> bool:
        before = (now - timedelta(seconds=seconds)).isoformat()
        query = of_route(route, 'ExecutionStatus = "Running"', f'StartTime < "{before}"')
        return bool([run async for run in client.list_workflows(query, limit=1)])

    return await _largest(is_any_older, max(1.0, known_s))


async def _largest(holds: Callable[[float], Awaitable[bool]], low: float) -> float:
    """The largest number for which it holds, as it does for `low` and everything below."""
    high = 2 * low
    while await holds(high):
        low, high = high, 2 * high
    while high > low * PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if await holds(middle) else (low, middle)
    return low
