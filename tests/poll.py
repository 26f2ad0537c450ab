"""Waiting for a state instead of sleeping: poll a condition until it holds or a deadline passes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, overload

from temporalio.service import RPCError, RPCStatusCode

Found = TypeVar("Found")

INTERVAL_S = 0.02
SLACK = 6.0
"""Times are those of an idle machine; tests run side by side with their servers, on machines that others use as well. Only what
fails takes longer for it."""
BUSY = frozenset({RPCStatusCode.RESOURCE_EXHAUSTED, RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED})
"""What Temporal's server says of a workflow that cannot answer right now: only so many queries of a workflow wait while a task
of it is under way."""


@overload
async def eventually(
    predicate: Callable[[], Coroutine[Any, Any, Found | None]], timeout_s: float = ..., *, interval_s: float = ...
) -> Found: ...


@overload
async def eventually(predicate: Callable[[], Found | None], timeout_s: float = ..., *, interval_s: float = ...) -> Found: ...


async def eventually(predicate: Callable[[], Any], timeout_s: float = 10.0, *, interval_s: float = INTERVAL_S) -> Any:
    """The first true value of `predicate`, plain or asynchronous. Fails with the last value after `timeout_s`, times
    `SLACK`.

    An AssertionError in the predicate means "not yet", and so does a server that is `BUSY`; both are raised as they are when the
    time is up."""
    deadline = time.monotonic() + timeout_s * SLACK
    while True:
        late = time.monotonic() >= deadline
        try:
            outcome = predicate()
            value = await outcome if inspect.isawaitable(outcome) else outcome
        except AssertionError:
            if late:
                raise
        except RPCError as error:
            if late or error.status not in BUSY:
                raise
        else:
            if value:
                return value
            if late:
                raise AssertionError(f"not within {timeout_s * SLACK} s; the last value was {value!r}")
        await asyncio.sleep(interval_s)


async def within(what: Awaitable[Found], timeout_s: float) -> Found:
    """The result of `what`. Raises `TimeoutError` after `timeout_s`, times `SLACK`."""
    return await asyncio.wait_for(what, timeout_s * SLACK)
