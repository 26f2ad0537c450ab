"""Running an activity until the world has healed: what waits is repeated for ever, slowly; what somebody must act on is raised."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception
from temporalio.types import MethodAsyncSingleParam
from temporalio.workflow import ActivityConfig

with workflow.unsafe.imports_passed_through():
    from replication.retries import waiting_delay

from workflows import options
from workflows.steps import Stop, heed_cancellation, heed_cancellation_before_wait, suspend_if_long

A = TypeVar("A")
R = TypeVar("R")


async def patiently(
    method: MethodAsyncSingleParam[Any, A, R],
    argument: A,
    config: ActivityConfig,
    troubled: Callable[[str], None],
    *,
    bulk: bool = False,
    summary: str = "",
) -> R:
    """Runs an activity; `troubled` hears what it waits for, and "" when that is over. Raises `Stop` for what does not heal, and
    `Suspended` after a wait where the history has become long."""
    queue = workflow.info().task_queue + (options.BULK_SUFFIX if bulk else "")
    waits = 0
    while True:
        heed_cancellation()
        try:
            call: Any = {**config, "task_queue": queue, "summary": summary or None}
            result: R = await workflow.execute_activity_method(method, argument, **call)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            stop = Stop.of(error)
            if stop.rests not in ("waiting", "failed") or (stop.rests == "failed" and waits >= options.PATIENCE):
                raise stop from error
            heed_cancellation_before_wait()
            waits += 1
            troubled(f"{stop.reason}: {stop.message}")
            await workflow.sleep(
                timedelta(seconds=waiting_delay(waits, workflow.random().random(), reason=stop.reason)), summary=f"waiting: {stop.reason}"
            )
            await suspend_if_long()
        else:
            if waits:
                troubled("")
            return result
