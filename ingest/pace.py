"""How long ingestors wait: for messages, and after failures."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. `visibility_s` is longer than a batch's starts may take; pauses double from the first to the longest."""

    wait_s: int = 20
    visibility_s: int = 60
    first_pause_s: float = 1.0
    longest_pause_s: float = 15.0

    def pause_s(self, failures: int) -> float:
        """The pause after so many failures on end, from 1."""
        return min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(failures - 1, 10))


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Sleeps, or returns when `stop` is set."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def unless_stopped(request: Coroutine[Any, Any, T], stop: asyncio.Event) -> T | None:
    """What the request answers, or raises what it raises; None where `stop` is set first, and the request is given up."""
    asked, stopped = asyncio.ensure_future(request), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({asked, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return asked.result() if asked.done() else None
    finally:
        for task in (asked, stopped):
            task.cancel()
        await asyncio.gather(asked, stopped, return_exceptions=True)
