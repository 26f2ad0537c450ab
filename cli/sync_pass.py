"""One pass of a route from outside: joined or started, followed until it ends or rests, and how that came out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, TerminatedError
from temporalio.exceptions import CancelledError as WorkflowCancelled
from temporalio.service import RPCError, RPCStatusCode

from cli.live import with_open_partitions
from cli.session import ANSWER, DIFFERS, DONE, UNREACHABLE
from replication.errors import (
    BY_REASON,
    BucketNotFound,
    CredentialsRefused,
    DestinationReadOnly,
    PermissionRefused,
    Transient,
    Unavailable,
)
from replication.ids import pass_workflow_id
from replication.passes import LimitUpdate, PassInput, PassProgress, PassResult
from workflows.visibility import ROUTE

WORKFLOW = "ReconcileRoute"
ASKED = "asked"
"""Memo: the options of the command that started the pass."""
CANCEL_S = 60.0
WAITING_S = 30.0
"""How long a pass may wait for a store before the command gives up waiting with it."""
STORE_FAULTS = (Unavailable, Transient, CredentialsRefused, PermissionRefused, BucketNotFound, DestinationReadOnly)

Handle = WorkflowHandle[Any, PassResult]


@dataclass(frozen=True)
class OpenPass:
    """`options` are those of the command that started it, "unknown" if it does not say."""

    handle: Handle
    options: str


@dataclass(frozen=True)
class Ending:
    """How a command's look at a pass ended: `state` is the pass's, or `interrupted`. `progress` is the last that is known of the whole
    pass, `bytes_before` what it had copied when this command joined it, `seconds` how long this command took part."""

    code: int
    state: str
    progress: PassProgress
    seconds: float
    reason: str = ""
    notes: tuple[str, ...] = ()
    bytes_before: int = 0


async def open_pass(client: Client, asked: PassInput) -> OpenPass | None:
    """The pass of this route and mode that an earlier command left open. Needs no worker."""
    handle: Handle = client.get_workflow_handle(pass_workflow_id(asked.mode, asked.route), result_type=PassResult)
    try:
        found = await handle.describe()
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return None
        raise
    if found.status != WorkflowExecutionStatus.RUNNING:
        return None
    return OpenPass(handle, str(await found.memo_value(ASKED, "unknown")))


async def start(client: Client, queue: str, asked: PassInput, options: str) -> Handle:
    return await client.start_workflow(
        WORKFLOW,
        asked,
        id=pass_workflow_id(asked.mode, asked.route),
        task_queue=queue,
        result_type=PassResult,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        memo={ASKED: options},
        search_attributes=TypedSearchAttributes([SearchAttributePair(ROUTE, asked.route)]),
        static_summary=f"{asked.mode} {asked.route}",
    )


async def cancel(handle: Handle) -> None:
    """Asks an open pass to end; it does so once a worker runs. What it has copied stays copied."""
    with suppress(RPCError):
        await handle.cancel()


async def cancelled(handle: Handle) -> None:
    """Waits for the end of a pass that was asked to."""
    try:
        async with asyncio.timeout(CANCEL_S):
            await handle.result()
    except WorkflowFailureError:
        return
    except TimeoutError:
        await handle.terminate("did not end when it was cancelled")


async def progress_of(handle: Handle) -> PassProgress | None:
    """None while nobody answers."""
    try:
        progress: PassProgress = await handle.query("progress", result_type=PassProgress, rpc_timeout=ANSWER)
        return progress
    except RPCError:
        return None


async def first_progress(handle: Handle, check: Callable[[], None], every_s: float = 0.1) -> PassProgress:
    """The first answer of a pass, as soon as its worker gives one. `check` raises when none will come."""
    while (progress := await progress_of(handle)) is None:
        check()
        await asyncio.sleep(every_s)
    return progress


async def limit(handle: Handle, progress: PassProgress, wanted: LimitUpdate) -> None:
    """Brings a pass that was started with other limits to these; what is not wanted is lifted."""
    steering = progress.steering
    if (steering.concurrency, steering.bytes_per_s) != (wanted.concurrency, wanted.bytes_per_s):
        update = LimitUpdate(concurrency=wanted.concurrency or 0, bytes_per_s=wanted.bytes_per_s or 0)
        with suppress(RPCError, WorkflowUpdateFailedError):
            await handle.execute_update("limit", update)


async def follow(
    client: Client,
    handle: Handle,
    *,
    every_s: float,
    show: Callable[[PassProgress], None],
    check: Callable[[], None],
    clock: Callable[[], float] = time.monotonic,
) -> Ending:
    """Until the pass ends, is held, or has waited for a store for `WAITING_S`. `check` raises when its engine is gone."""
    began, waiting_since = clock(), None
    progress = PassProgress(route="")
    ending = asyncio.create_task(handle.result())
    try:
        while not (await asyncio.wait({ending}, timeout=every_s))[0]:
            check()
            if (found := await progress_of(handle)) is None:
                continue
            progress = await with_open_partitions(client, found)
            show(progress)
            if progress.state == "held":
                return Ending(DIFFERS, "held", progress, clock() - began, progress.held)
            waiting_since = (waiting_since or clock()) if progress.state == "waiting" else None
            if waiting_since is not None and clock() - waiting_since > WAITING_S:
                return Ending(UNREACHABLE, "waiting", progress, clock() - began, progress.problem)
        return await _ended(ending, progress, clock() - began, check)
    finally:
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)


async def _ended(ending: asyncio.Task[PassResult], progress: PassProgress, seconds: float, check: Callable[[], None]) -> Ending:
    try:
        result = await ending
    except WorkflowFailureError as error:
        return _failed(error.cause, progress, seconds)
    except RPCError:
        check()
        raise
    last = {name: getattr(result, name) for name in ("route", "mode", "pass_id", "counters", "state")}
    counted = progress.model_copy(update=last)
    return Ending(
        exit_code(result.state, result.reason), result.state, counted, result.seconds or seconds, result.reason, tuple(result.notes)
    )


def _failed(cause: BaseException | None, progress: PassProgress, seconds: float) -> Ending:
    if isinstance(cause, WorkflowCancelled | TerminatedError):
        return Ending(DIFFERS, "cancelled", progress, seconds, "the pass was cancelled")
    reason = f"{cause.type or 'defect'}: {cause.message}" if isinstance(cause, ApplicationError) else str(cause or "defect")
    return Ending(exit_code("failed", reason), "failed", progress, seconds, reason)


def exit_code(state: str, reason: str) -> int:
    """A pass that failed because a store does not answer or does not let it in is told from one that failed by itself."""
    if state == "done":
        return DONE
    fault = BY_REASON.get(reason.partition(":")[0])
    return UNREACHABLE if state == "failed" and fault is not None and issubclass(fault, STORE_FAULTS) else DIFFERS
