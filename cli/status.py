"""`status [ROUTE]`: workers; for each route its open and resting objects and its passes; what the stores can do."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from temporalio.client import Client

from cli.counts import pending_deletions
from cli.open_passes import limits_text
from cli.output import printable
from cli.pollers import pollers
from cli.runs import rested_objects
from cli.session import UNREACHABLE, Session
from cli.sides import SIDE_COLUMNS, probe_sides, side_document, side_row, worst_code
from cli.standing import ledger_counts, oldest_age, passes_now
from cli.states import RESTING
from replication.errors import LedgerUnavailable
from replication.route_settings import LocationSettings, RouteSettings
from replication.units import format_duration
from workflows.search import of_route
from workflows.visibility import PHASE

COUNTED = {name: name for name in ("listed", "copied", "updated")} | {"skipped": "in sync", "deleted": "deleted", "waiting": "waiting"}
OTHERWISE = {"plan": {"copied": "to copy", "updated": "to update", "deleted": "to delete"}, "verify": {"skipped": "right"}}
MAX_RUNS = 1_000
"""Open runs, and failed runs, that are looked at for each route; the counts say so when there are more."""


async def run(session: Session, route_name: str | None) -> int:
    """Exit code 3 when a store of these routes or the ledger cannot be reached, 1 when a store refuses; the rest is told
    anyway."""
    routes = [session.route(route_name).settings] if route_name else list(session.settings.routes)
    client = await session.connect()
    async with session.stores() as stores:
        sides = await probe_sides(routes, stores)
    counts, problem = await _ledger(session, [route.name for route in routes])
    queues = session.settings.temporal
    document: dict[str, Any] = {
        "temporal": {"address": client.service_client.config.target_host, "namespace": client.namespace},
        "workers": {
            "control": await pollers(client, queues.control_queue),
            "transfer": await pollers(client, queues.transfer_queue, activities=True),
        },
        "ledger": {"ok": not problem, "message": problem},
        "routes": [{**await _route(client, route), **counts.get(route.name, {})} for route in routes],
        "stores": [side_document(side) for side in sides],
    }
    session.output.document(document)
    _tell(session, document)
    session.output.table(SIDE_COLUMNS, [side_row(side) for side in sides])
    if problem:
        session.output.note(problem)
    return UNREACHABLE if problem else worst_code(sides)


async def _ledger(session: Session, routes: list[str]) -> tuple[dict[str, dict[str, Any]], str]:
    """What the ledger counts for each route, or why it cannot."""
    try:
        async with session.ledger() as ledger:
            return {route: await ledger_counts(ledger, route) for route in routes}, ""
    except LedgerUnavailable as error:
        return {}, str(error)


async def _route(client: Client, route: RouteSettings) -> dict[str, Any]:
    """Counts of the open runs by phase, and of the objects whose newest run failed by reason."""
    phases, oldest_s = Counter[str](), 0.0
    async for run in client.list_workflows(of_route(route.name, 'ExecutionStatus = "Running"'), limit=MAX_RUNS):
        phases[run.typed_search_attributes.get(PHASE) or "settling"] += 1
        oldest_s = max(oldest_s, (datetime.now(UTC) - run.start_time).total_seconds())
    if phases.total() == MAX_RUNS:
        oldest_s = await oldest_age(client, route.name, oldest_s)
    resting = Counter(
        [f"{rested.result.outcome}: {rested.result.reason}" async for rested in rested_objects(client, route.name, limit=MAX_RUNS)]
    )
    return {
        "route": route.name,
        "source": _where(route.source),
        "destination": _where(route.destination),
        "open": dict(phases),
        "resting": dict(resting),
        "counted_all": phases.total() < MAX_RUNS and resting.total() < MAX_RUNS,
        "lag_s": round(oldest_s, 3),
        **await passes_now(client, route.name),
    }


def _where(location: LocationSettings) -> str:
    return f"{location.store}/{location.bucket}/{location.prefix}"


def _tell(session: Session, document: dict[str, Any]) -> None:
    output, temporal = session.output, document["temporal"]
    output.line(f"Temporal {temporal['address']}, namespace {temporal['namespace']}")
    for role, found in document["workers"].items():
        output.line(f"{role} workers: {', '.join(found) if found else 'none polls; python worker.py starts one'}")
    rows = []
    for route in document["routes"]:
        cut = "" if route["counted_all"] else f" (of {MAX_RUNS} runs)"
        rows.append((route["route"], route["source"], route["destination"], _counts(route["open"]) + cut, _counts(route["resting"]) + cut))
    output.table(("route", "source", "destination", "open", "resting"), rows)
    for route in document["routes"]:
        for text in _standing(route):
            output.line(printable(text))
    output.line()


def _standing(route: dict[str, Any]) -> list[str]:
    """What the ledger and the passes tell, in lines."""
    told = [f"{route['in_sync']:,} in sync"] if "in_sync" in route else ["the ledger does not answer"]
    for state in RESTING:
        if reasons := route.get(state):
            told.append(f"{sum(reasons.values()):,} {state} ({_counts(reasons)})")
    if pending := route.get("pending_deletions"):
        told.append(pending_deletions(pending))
    lines = [f"{route['route']}: {', '.join(told)}; lag {format_duration(round(route['lag_s']))}"]
    lines += [f"  running: {_running(found)}" for found in route["passes"]]
    if last := route.get("last_pass"):
        lines.append(f"  last pass: {_pass(last)}, ended {last['ended_at']}")
    lines += [f"  next pass: {found['mode']} {found['at'] or ('paused' if found['paused'] else 'none')}" for found in route["next_passes"]]
    return lines


def _running(found: dict[str, Any]) -> str:
    return f"{_pass(found)}; {limits_text(found['limits'])}" if found["state"] else f"{found['mode']}, but no worker answers"


def _pass(found: dict[str, Any]) -> str:
    counters, named = found["counters"], COUNTED | OTHERWISE.get(found["mode"], {})
    told = [f"{counters[name]:,} {word}" for name, word in named.items() if counters.get(name)]
    anomalies = (("differing", "with anomalies"), ("extra", "at the destination only"))
    told += [f"{counters[name]:,} {words}" for name, words in anomalies if found["mode"] == "verify" and counters.get(name)]
    failed = counters.get("failed", 0) + counters.get("blocked", 0)
    why = found.get("held") or found.get("problem") or found.get("reason") or ""
    told += [f"{failed:,} failed"] if failed else []
    return f"{found['mode']} {found['state']}" + (f" ({why})" if why else "") + (f": {', '.join(told)}" if told else "")


def _counts(counted: dict[str, int]) -> str:
    return printable(", ".join(f"{count} {name}" for name, count in sorted(counted.items())) or "-")
