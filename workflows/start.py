"""Starting an object workflow from outside: one call for the command line and for every ingestor."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from replication.ids import object_workflow_id
from replication.models import ReplicateObjectInput, ReplicateObjectResult
from workflows.options import priority
from workflows.visibility import object_attributes, object_summary

WORKFLOW = "ReplicateObject"

Handle = WorkflowHandle[Any, ReplicateObjectResult]


async def await_object(client: Client, queue: str, route: str, key: str, waiter: str, for_s: float) -> Handle:
    """Starts or joins the object workflow of `key`; it will say to the workflow `waiter` when the replica stands, if that
    is within `for_s` seconds. Raises `RPCError`."""
    return await _start(client, queue, route, key, "awaited", "awaited", [waiter, for_s])


async def start_object(
    client: Client,
    queue: str,
    route: str,
    key: str,
    cause: str = "request",
    *,
    at: float | None = None,
    rpc_timeout: timedelta | None = None,
) -> Handle:
    """Starts the object workflow of `key`. If it runs already it is joined, and looks once more. Raises `RPCError`.

    The signal and the start are one request, so that the look is never lost between an end and a start. `at` is when the
    object changed, in seconds since 1970, for the measured delay only.
    """
    return await _start(client, queue, route, key, cause, "check", [cause, at], at=at, rpc_timeout=rpc_timeout)


async def _start(
    client: Client,
    queue: str,
    route: str,
    key: str,
    cause: str,
    signal: str,
    signal_args: list[Any],
    *,
    at: float | None = None,
    rpc_timeout: timedelta | None = None,
) -> Handle:
    return await client.start_workflow(
        WORKFLOW,
        ReplicateObjectInput(route=route, key=key, cause=cause, changed_at=at),
        id=object_workflow_id(route, key),
        task_queue=queue,
        result_type=ReplicateObjectResult,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        start_signal=signal,
        start_signal_args=signal_args,
        search_attributes=object_attributes(route, key),
        static_summary=object_summary(route, key),
        priority=priority(route),
        rpc_timeout=rpc_timeout,
    )
