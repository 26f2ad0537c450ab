"""Writes that are under way when their activity has to end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from stores.crew import ended

GRACE_S = 2.0
"""What is being written when an activity has to end may take so long to be done."""

T = TypeVar("T")


async def seen_through(work: Coroutine[Any, Any, T]) -> T:
    """The result of a write and of its record. Cancelled, it gives them `GRACE_S`: what is written then is on record."""
    running = asyncio.create_task(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running], timeout=GRACE_S)
        raise
    finally:
        running.cancel()
        await ended(running)
