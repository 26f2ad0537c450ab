"""What a running activity tells Temporal: that it lives, how far it is, and what another attempt need not do again.

One `Pulse` stands behind every activity (set up in `_boundary.py`). A beat goes out every few seconds while work
advances; if nothing advances for `STALL_S`, the attempt is failed from inside, because a beat alone only proves that
the event loop runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from pydantic import BaseModel, ValidationError
from temporalio import activity

BEAT_S = 4.0
STALL_S = 900.0
"""Longer than the longest silence that a store is allowed (ten minutes, for publishing a large object)."""


class PartRecord(BaseModel):
    """A part that this activity stored: what `list_parts` must still show for it to be trusted."""

    number: int
    size_bytes: int
    etag: str = ""
    crc32c: int | None = None
    companion: int | None = None


class PulseDetails(BaseModel):
    """The heartbeat details: how often this activity failed on its own account, bytes moved, and finished parts.

    Failures are counted here and not by Temporal's attempt number, because a worker that is stopped or killed uses up
    attempts too.
    """

    errors: int = 0
    timeouts: int = 0
    has_turn: bool = False
    """The requests of this activity are counted against the limits of its stores, also while it waits for its turn."""
    bytes_done: int = 0
    parts: list[PartRecord] = []
    scan: dict[str, Any] | None = None
    """How far a scan is (`replication.passes.ScanResult`)."""
    deletions: dict[str, int] = {}
    """How many of a page of deletions were made, and found needless."""


class Pulse:
    """The progress of one attempt. `advance` is cheap enough for every chunk."""

    def __init__(self, details: PulseDetails | None = None) -> None:
        self.details = details or PulseDetails()
        self.stalled = False
        self.so_far: Callable[[], object | None] = lambda: None
        """What is answered instead of the failure that ends the retries: with the work that was done, the next call begins behind it."""
        self._moved = time.monotonic()

    @classmethod
    def resume(cls, recorded: Any) -> Pulse:
        """From the last attempt's details; unreadable ones mean a start from zero."""
        try:
            return cls(PulseDetails.model_validate(recorded[0]))
        except (ValidationError, IndexError, TypeError):
            return cls()

    def advance(self, size_bytes: int) -> None:
        self.details.bytes_done += size_bytes
        self._moved = time.monotonic()

    def touch(self) -> None:
        """Says that work advanced although no bytes passed here (a server-side copy, a page of a listing)."""
        self._moved = time.monotonic()

    def record(self, part: PartRecord) -> None:
        self.details.parts.append(part)

    def beat(self) -> None:
        activity.heartbeat(self.details)

    async def run(self, task: asyncio.Task[Any], *, beat_s: float = BEAT_S, stall_s: float = STALL_S) -> None:
        """Beats until cancelled; cancels `task` when nothing advanced for `stall_s`."""
        while True:
            await asyncio.sleep(beat_s)
            self.beat()
            if time.monotonic() - self._moved > stall_s:
                self.stalled = True
                task.cancel("stalled")
                return


current_pulse: ContextVar[Pulse] = ContextVar("drayage_pulse")


def pulse() -> Pulse:
    """The pulse of the running activity; a silent one outside of any."""
    return current_pulse.get(None) or Pulse()
