"""Waiting between objects: a manifest for what it names, and an object for the manifests that wait for it.

A manifest sleeps on a timer and looks again, and the workflows of the first keys that it misses say when those stand, so a
chain of manifests follows its last blob at once. An object that is awaited and not at its source yet stays open, so that
the event that brings it finds the waiting manifests on record. Nothing here is needed for the result: a lost word only
means that the timer finds out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from replication.models import ManifestState, ReplicateObjectResult, Waiting

from workflows.stage import Stage

BACKOFF = 1.5
MAX_WAITERS = 1000
"""Manifests that one object tells; those beyond find out by their timers."""
MAX_WOKEN = 1000
WAKES_AT_ONCE = 100


class ManifestWait:
    """What this object's manifest waits for, and since when."""

    def __init__(self, stage: Stage, state: ManifestState | None) -> None:
        self._stage = stage
        self._since = state.since if state else 0.0
        self._polls = state.polls if state else 0
        self.waiting = state.waiting if state else None
        self.woken = list(state.woken) if state else []

    @property
    def state(self) -> ManifestState | None:
        if self.waiting is None:
            return None
        return ManifestState(waiting=self.waiting, since=self._since, polls=self._polls, woken=self.woken)

    def note(self, key: str) -> None:
        """`key` stands now, as its workflow says."""
        if key not in self.woken and len(self.woken) < MAX_WOKEN:
            self.woken.append(key)

    def take_woken(self) -> list[str]:
        woken, self.woken = self.woken, []
        return woken

    def forget(self) -> None:
        self.waiting, self.woken = None, []

    async def sleep(self, waiting: Waiting) -> None:
        """Until the next look is due, something that is missing stands, or somebody asks."""
        now = workflow.time()
        if self.waiting is None or self.waiting.version != waiting.version:
            self._since, self._polls = now, 0
        self.waiting = waiting
        stalled = now - self._since >= waiting.deadline_s
        self._stage.enter("stalled" if stalled else "waiting", waiting_for=told(waiting))
        delay_s = waiting.poll_max_s if stalled else min(waiting.poll_max_s, waiting.poll_s * BACKOFF ** min(self._polls, 30))
        self._polls += 1
        await self._stage.sleep(delay_s, "waiting for dependencies", until=lambda: self._stage.dirty or bool(self.woken))


def told(waiting: Waiting) -> str:
    """`dependencies-missing: 3 of 10,000, first missing: a, b, c`."""
    return f"dependencies-missing: {waiting.missing_count:,} of {waiting.total:,}, first missing: {', '.join(waiting.first)}"


class Waiters:
    """The workflows that wait for this object, in the order in which they asked."""

    def __init__(self, stage: Stage, ids: Iterable[str], until: float) -> None:
        self._stage = stage
        self._ids = dict.fromkeys(ids)
        self.until = until

    @property
    def ids(self) -> list[str]:
        return list(self._ids)

    def add(self, workflow_id: str, for_s: float) -> None:
        if len(self._ids) < MAX_WAITERS:
            self._ids[workflow_id] = None
        self.until = max(self.until, workflow.time() + for_s)

    async def attend(self, key: str, result: ReplicateObjectResult) -> None:
        """Tells them when the replica stands; stays for them while neither side has the object."""
        if not self._ids:
            return
        if result.reason == "both-absent":
            await self._stay()
        elif result.destination_version:
            await self._wake(key)

    async def _stay(self) -> None:
        left_s = self.until - workflow.time()
        if left_s > 0:
            self._stage.enter(
                "awaited", waiting_for=f"awaited: {len(self._ids):,} manifests wait for this object, which is not at its source"
            )
            await self._stage.sleep(left_s, "awaited by manifests", until=lambda: self._stage.dirty)

    async def _wake(self, key: str) -> None:
        while self._ids:
            ids = list(self._ids)[:WAKES_AT_ONCE]
            await asyncio.gather(*(_tell(workflow_id, key) for workflow_id in ids))
            for workflow_id in ids:
                self._ids.pop(workflow_id, None)


async def _tell(workflow_id: str, key: str) -> None:
    try:
        await workflow.get_external_workflow_handle(workflow_id).signal("stands", key)
    except FailureError:
        workflow.logger.info("a manifest that waited is closed: %s", workflow_id)
