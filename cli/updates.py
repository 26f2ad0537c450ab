"""Updates of open workflows: what a command asks of them, answered within a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from workflows.client import TemporalUnreachable

TAKEN_S = 30.0
"""How long an update may take: a server sends it to a worker that has just died for about ten seconds. It answers within
that time that nobody took the update, and the client asks again: the bound is on all of that, not on one request."""


async def update(
    handle: WorkflowHandle[Any, Any], name: str, arguments: Sequence[Any] = (), *, answer: type | None = None
) -> tuple[bool, Any]:
    """Whether the workflow was still open, and its answer. Raises `TemporalUnreachable` where no worker takes it."""
    try:
        async with asyncio.timeout(TAKEN_S):
            return True, await handle.execute_update(name, args=arguments, result_type=answer)
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from None
        raise TemporalUnreachable(f"no worker answers for {handle.id}: what was asked may still be done later") from None
    except WorkflowUpdateFailedError:
        return False, None
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return False, None
