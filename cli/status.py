"""`status [ROUTE]`: workers, open and resting objects of each route, and what the stores can do."""

from __future__ import annotations

from collections import Counter
from typing import Any

from temporalio.client import Client

from cli.output import printable
from cli.pollers import pollers
from cli.runs import of_route, rested_objects
from cli.session import Session
from cli.sides import SIDE_COLUMNS, probe_sides, side_document, side_row, worst_code
from replication.route_settings import LocationSettings, RouteSettings
from workflows.visibility import PHASE

MAX_RUNS = 1_000
"""Open runs, and failed runs, that are looked at for each route; the counts say so when there are more."""


async def run(session: Session, route_name: str | None) -> int:
    """Exit code 3 when a store of these routes cannot be reached, 1 when one refuses; the rest is told anyway."""
    routes = [session.route(route_name).settings] if route_name else list(session.settings.routes)
    client = await session.connect()
    async with session.stores() as stores:
        sides = await probe_sides(routes, stores)
    queues = session.settings.temporal
    document: dict[str, Any] = {
        "temporal": {"address": client.service_client.config.target_host, "namespace": client.namespace},
        "workers": {
            "control": await pollers(client, queues.control_queue),
            "transfer": await pollers(client, queues.transfer_queue, activities=True),
        },
        "routes": [await _route(client, route) for route in routes],
        "stores": [side_document(side) for side in sides],
    }
    session.output.document(document)
    _tell(session, document)
    session.output.table(SIDE_COLUMNS, [side_row(side) for side in sides])
    return worst_code(sides)


async def _route(client: Client, route: RouteSettings) -> dict[str, Any]:
    """Counts of the open runs by phase, and of the objects whose newest run failed by reason."""
    phases = Counter[str]()
    async for run in client.list_workflows(of_route(route.name, 'ExecutionStatus = "Running"'), limit=MAX_RUNS):
        phases[run.typed_search_attributes.get(PHASE) or "settling"] += 1
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
    output.line()


def _counts(counted: dict[str, int]) -> str:
    return printable(", ".join(f"{count} {name}" for name, count in sorted(counted.items())) or "-")
