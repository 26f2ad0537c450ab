"""Object workflows from outside: start or join one, wait until it ends or rests, and say how that went in one value."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError, TimeoutError
from temporalio.service import RPCError

from cli.session import ANSWER
from replication.models import Progress, ReplicateObjectResult
from workflows.start import WORKFLOW, Handle, start_object

__all__ = ["RESTING", "RIGHT", "WORKFLOW", "Handle", "failure_result", "read_progress", "settled", "start_object"]

RIGHT = frozenset({"copied", "updated", "in_sync", "deleted", "kept"})
"""Outcomes that leave nothing to do; every other one makes a command end with exit code 1."""
RESTING = frozenset({"waiting", "stalled", "awaited", "held", "paused"})
"""Phases of an open workflow that only the world, or an operator, ends."""


async def read_progress(handle: Handle) -> Progress:
    """Raises `RPCError` where there is no such workflow, or no worker to answer."""
    progress: Progress = await handle.query("progress", result_type=Progress, rpc_timeout=ANSWER)
    return progress


async def settled(
    handle: Handle, route: str, key: str, *, interval_s: Callable[[], float], unanswered: Callable[[], None]
) -> ReplicateObjectResult:
    """How the workflow ended; outcome `waiting` as soon as an open one rests. `result.seconds` counts from this call.

    `interval_s` is asked before each look at the phase. `unanswered` is called when no worker answers such a look.
    """
    began = time.monotonic()
    ending = asyncio.create_task(_ended(handle, route, key))
    try:
        while not (await asyncio.wait({ending}, timeout=interval_s()))[0]:
            if resting := await _resting(handle, route, key, unanswered):
                return _timed(resting, began)
        return _timed(ending.result(), began)
    finally:
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)


async def _resting(handle: Handle, route: str, key: str, unanswered: Callable[[], None]) -> ReplicateObjectResult | None:
    try:
        progress = await read_progress(handle)
    except RPCError:
        unanswered()
        return None
    if progress.phase not in RESTING:
        return None
    if progress.phase == "paused":
        reason, message = "paused", "an operator holds it; `resume` lets it go on"
    else:
        reason, _, message = progress.waiting_for.partition(": ")
    return ReplicateObjectResult(route=route, key=key, outcome="waiting", reason=reason, message=message, size_bytes=progress.size_bytes)


async def _ended(handle: Handle, route: str, key: str) -> ReplicateObjectResult:
    try:
        return await handle.result()
    except WorkflowFailureError as error:
        return failure_result(error.cause, route, key)


def failure_result(cause: BaseException | None, route: str, key: str) -> ReplicateObjectResult:
    """The result that a failed workflow carries in its failure, or one made of the failure itself."""
    if isinstance(cause, ApplicationError) and cause.details:
        with suppress(ValueError):
            return ReplicateObjectResult.model_validate(cause.details[0])
    reason = _reason(cause)
    return ReplicateObjectResult(route=route, key=key, outcome="failed", reason=reason, message=str(cause or ""))


def _reason(cause: BaseException | None) -> str:
    match cause:
        case ApplicationError():
            return cause.type or "defect"
        case CancelledError():
            return "cancelled"
        case TerminatedError():
            return "terminated"
        case TimeoutError():
            return "timed-out"
        case _:
            return "defect"


def _timed(result: ReplicateObjectResult, began: float) -> ReplicateObjectResult:
    return result.model_copy(update={"seconds": round(time.monotonic() - began, 3)})
