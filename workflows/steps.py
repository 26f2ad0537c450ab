"""How an activity's failure becomes the next step of an object: look again, wait, or rest."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError

with workflow.unsafe.imports_passed_through():
    from replication.errors import BY_REASON, Rest


class Stop(Exception):
    """A step that did not succeed and is not to be repeated as it is: why, and where that leads."""

    def __init__(self, reason: str, message: str, rests: Rest) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.rests = rests

    @classmethod
    def of(cls, error: ActivityError) -> Stop:
        """From an activity's last failure. An exception outside the error tree is a defect and rests in `failed`."""
        cause = error.cause
        if isinstance(cause, TimeoutError):
            return cls("attempts-lost", f"every attempt was lost ({cause.message})", "failed")
        if isinstance(cause, ApplicationError):
            known = BY_REASON.get(cause.type or "")
            return cls(cause.type or "defect", cause.message, known.rests if known else "failed")
        return cls("defect", str(cause), "failed")


class Suspended(Exception):
    """Raised inside a step when the run should continue as new instead of going on."""


async def suspend() -> NoReturn:
    """Raises `Suspended` once nobody waits for an answer of this run."""
    await workflow.wait_condition(workflow.all_handlers_finished)
    heed_cancellation()
    raise Suspended


async def suspend_if_long() -> None:
    """Raises `Suspended` after a wait that may come again without end: the server ends a run of 51,200 events."""
    if workflow.info().is_continue_as_new_suggested() and workflow.patched("long-waits-suspend"):
        await suspend()


def heed_cancellation() -> None:
    """Raises `CancelledError` once the workflow was asked to end. To be called before each step: an activity that ends well all
    the same gives its result, and no word of that."""
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError


def heed_cancellation_before_wait() -> None:
    """The same before a wait that may be long: what was asked while an activity ended well does not come again. Runs of earlier
    code that wait already go on waiting."""
    if workflow.cancellation_reason() is not None and workflow.patched("cancelled-before-wait"):
        raise asyncio.CancelledError


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that stopped a task group: a `Stop` that rests before one that asks for another look."""
    leaves = list(_leaves(group))
    stops = [leaf for leaf in leaves if isinstance(leaf, Stop)]
    return next((stop for stop in stops if stop.rests != "again"), next(iter(stops), leaves[0]))


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found
