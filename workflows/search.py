"""Queries of Temporal's visibility for the object workflows of a route."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from temporalio.client import Client

from workflows.start import WORKFLOW


def quoted(text: str) -> str:
    """A string literal of a visibility query."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def of_route(route: str, *conditions: str) -> str:
    """The query for the object workflows of a route."""
    return " AND ".join((f'WorkflowType = "{WORKFLOW}"', f"DrayageRoute = {quoted(route)}", *conditions))


async def count_open(client: Client, route: str, older_than_s: float) -> int:
    """How many object workflows of a route are open, and began at least so long ago."""
    before = (datetime.now(UTC) - timedelta(seconds=older_than_s)).isoformat()
    return (await client.count_workflows(of_route(route, 'ExecutionStatus = "Running"', f'StartTime <= "{before}"'))).count
