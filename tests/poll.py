"""Waiting for a state instead of sleeping: poll a condition until it holds or a deadline passes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

Found = TypeVar("Found")

INTERVAL_S = 0.02
SLACK = 6.0
"""Times are those of an idle machine; tests run side by side with their servers, on machines that others use as well. Only what
fails takes longer for it."""


@overload
async def eventually(
    predicate: Callable[[], Coroutine[Any, Any, Found | None]], timeout_s: float = ..., *, interval_s: float = ...
) -> Found: ...


@overload
async def eventually(predicate: Callable[[], Found | None], timeout_s: float = ..., *, interval_s: float = ...) -> Found: ...


async def eventually(predicate: Callable[[], Any], timeout_s: float = 10.0, *, interval_s: float = INTERVAL_S) -> Any:
    """The first true value of `predicate`, plain or asynchronous. Fails with the last value after `timeout_s`, times
    `SLACK`.

    An AssertionError in the predicate means "not yet" and is raised as it is when the time is up."""
    deadline = time.monotonic() + timeout_s * SLACK
    while True:
        late = time.monotonic() >= deadline
        try:
            outcome = predicate()
            value = await outcome if inspect.isawaitable(outcome) else outcome
        except AssertionError:
            if late:
                raise
        else:
            if value:
                return value
            if late:
                raise AssertionError(f"not within {timeout_s * SLACK} s; the last value was {value!r}")
        await asyncio.sleep(interval_s)
