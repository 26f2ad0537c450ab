"""From change events to object workflows: match routes, coalesce, signal-with-start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from ingest.events import ChangeEvent
from replication.routes import Route
from replication.settings import Settings
from workflows.start import start_object

log = logging.getLogger("drayage.ingest")

STARTS_AT_ONCE = 32
"""Starts in flight, of all queues together."""
START_TIMEOUT = timedelta(seconds=10)
BATCH_TIMEOUT_S = 30.0
"""What is not started by then counts as not started; a queue's visibility timeout must be longer."""
OUTAGE = frozenset({RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.RESOURCE_EXHAUSTED, RPCStatusCode.CANCELLED})
"""What says that Temporal is down or overloaded, rather than that it refuses this one object."""

RoutesByBucket = Mapping[str, tuple[Route, ...]]


@dataclass(frozen=True, slots=True)
class Target:
    """One object of one route: what a workflow is started for. `at` is when it changed, in seconds since 1970, for the
    measured delay only."""

    route: str
    key: str
    at: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Started:
    """How the starts of a batch went. `unavailable` and `refused` were not started; only the first heal by waiting."""

    unavailable: frozenset[Target] = frozenset()
    refused: frozenset[Target] = frozenset()


def routes_by_bucket(settings: Settings, kind: Literal["s3", "gcs"]) -> RoutesByBucket:
    """Every route whose source is a store of that kind, by its bucket: a notification tells no more than the bucket's name."""
    found: dict[str, tuple[Route, ...]] = {}
    for route in settings.routes_by_name.values():
        if settings.stores[route.source.store].type == kind:
            found[route.source.bucket] = (*found.get(route.source.bucket, ()), route)
    return found


def targets_of(event: ChangeEvent, routes: RoutesByBucket) -> tuple[Target, ...] | None:
    """What the event asks to look at: empty where every route skips the key, None for a bucket that no route knows."""
    if event.bucket not in routes:
        return None
    return tuple(Target(route.name, event.key, event.at) for route in routes[event.bucket] if route.skip_reason(event.key) is None)


class Dispatcher:
    """Starts object workflows, a bounded number at once, whoever asks."""

    def __init__(self, client: Client, queue: str, *, start_timeout: timedelta = START_TIMEOUT) -> None:
        self._client = client
        self._start_timeout = start_timeout
        self._queue = queue
        self._slots = asyncio.Semaphore(STARTS_AT_ONCE)

    async def start(self, targets: Iterable[Target]) -> Started:
        """Starts or signals the workflow of each target once, however often it is named. Raises nothing of Temporal's."""
        tasks = {target: asyncio.create_task(self._start(target)) for target in dict.fromkeys(targets)}
        if not tasks:
            return Started()
        try:
            await asyncio.wait(tasks.values(), timeout=BATCH_TIMEOUT_S)
        finally:
            for task in tasks.values():
                task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        return _summed(tasks)

    async def healthy(self) -> bool:
        """One request; False while Temporal does not answer."""
        try:
            return await self._client.service_client.check_health(timeout=self._start_timeout)
        except (RPCError, RuntimeError):
            return False

    async def _start(self, target: Target) -> None:
        async with self._slots:
            await start_object(self._client, self._queue, target.route, target.key, "event", at=target.at, rpc_timeout=self._start_timeout)


def _summed(tasks: Mapping[Target, asyncio.Task[None]]) -> Started:
    unavailable, refused = set(), set()
    for target, task in tasks.items():
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or (isinstance(error, RPCError) and error.status in OUTAGE):
            unavailable.add(target)
        elif error is not None:
            refused.add(target)
            log.error("cannot start: %s", error, extra={"route": target.route, "key": target.key})
    return Started(frozenset(unavailable), frozenset(refused))
