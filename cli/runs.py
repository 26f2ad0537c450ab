"""Finding object workflows of a route by visibility, and reading what a closed one said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode

from cli.objects import failure_result
from replication.ids import object_of_id
from replication.models import ReplicateObjectInput, ReplicateObjectResult
from workflows.search import of_route
from workflows.visibility import KEY

CUT = 255
"""Characters of a key that its search attribute holds at most."""
PAGE = 50


@dataclass(frozen=True)
class Rested:
    """An object whose latest run failed, and what that run said."""

    run: WorkflowExecution
    key: str
    result: ReplicateObjectResult


async def rested_objects(client: Client, route: str, *, limit: int | None = None) -> AsyncIterator[Rested]:
    """The objects of a route that rest in `failed` or `blocked`: each once, unless a later run did better.

    `limit` bounds the failed runs that are looked at."""
    seen: set[str] = set()
    page: list[WorkflowExecution] = []
    async for run in client.list_workflows(of_route(route, 'ExecutionStatus = "Failed"'), limit=limit):
        if run.id not in seen:
            seen.add(run.id)
            page.append(run)
        if len(page) == PAGE:
            for rested in await _read(client, route, page):
                yield rested
            page = []
    for rested in await _read(client, route, page):
        yield rested


async def _read(client: Client, route: str, runs: list[WorkflowExecution]) -> list[Rested]:
    found = await asyncio.gather(*(_rested(client, route, run) for run in runs))
    return [rested for rested in found if rested is not None]


async def _rested(client: Client, route: str, run: WorkflowExecution) -> Rested | None:
    latest = await client.get_workflow_handle(run.id).describe()
    if latest.status != WorkflowExecutionStatus.FAILED:
        return None
    key = await key_of(client, latest)
    result = await closed_result(client, latest, route, key)
    return Rested(latest, key, result) if result else None


async def key_of(client: Client, run: WorkflowExecution) -> str:
    """The full key of an object workflow: from its id or its search attribute, or from its input where both are cut."""
    named = object_of_id(run.id)
    if named is not None and named.key is not None:
        return named.key
    shown = run.typed_search_attributes.get(KEY)
    if shown is not None and len(shown) < CUT:
        return shown
    return (await _input(client, run)).key


async def _input(client: Client, run: WorkflowExecution) -> ReplicateObjectInput:
    events = client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history_events(page_size=1)
    async for event in events:
        payloads = event.workflow_execution_started_event_attributes.input.payloads
        decoded = await client.data_converter.decode(payloads, [ReplicateObjectInput])
        found: ReplicateObjectInput = decoded[0]
        return found
    raise LookupError(f"the history of {run.id} is empty")


async def closed_result(client: Client, run: WorkflowExecution, route: str, key: str) -> ReplicateObjectResult | None:
    """What a closed run returned or failed with; None where the server has forgotten it."""
    handle = client.get_workflow_handle(run.id, run_id=run.run_id, result_type=ReplicateObjectResult)
    try:
        result: ReplicateObjectResult = await handle.result(follow_runs=False)
        return result
    except WorkflowFailureError as error:
        return failure_result(error.cause, route, key)
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return None
        raise
