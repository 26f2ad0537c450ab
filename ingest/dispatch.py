"""From change events to object workflows: match routes, coalesce, signal-with-start."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import TemporalError
from temporalio.service import RPCError, RPCStatusCode

from ingest import metrics
from ingest.coalesce import Coalescer
from ingest.events import ChangeEvent
from ingest.pace import Pace, unless_stopped
from replication.ids import object_workflow_id
from replication.routes import Route
from replication.settings import Settings
from workflows.client import answers
from workflows.start import start_object

log = logging.getLogger("drayage.ingest")

STARTS_AT_ONCE = 32
"""Starts in flight, of all queues together."""
START_TIMEOUT = timedelta(seconds=10)
BATCH_TIMEOUT_S = 30.0
"""What is not started by then counts as not started; a queue's visibility timeout must be longer."""
RESULT_PAUSE_S = 1.0
"""Until an answer about a workflow that did not come is asked for again."""
COALESCE_S = 1.0
"""A key is signalled at most once in that time, however many events it has."""
REFUSALS = frozenset(
    {RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.FAILED_PRECONDITION, RPCStatusCode.ALREADY_EXISTS, RPCStatusCode.OUT_OF_RANGE}
)
"""What Temporal says of one object. Anything else is about Temporal: down, overloaded, or closed to us, its namespace missing
included; a connection that breaks is told as UNKNOWN."""

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


class _Away(Exception):
    """Temporal is known to take no starts, so it was not asked."""


class _Start:
    """One start that is pending or under way; everybody who asked for it waits for `done`."""

    __slots__ = ("at", "done", "target")

    def __init__(self, target: Target) -> None:
        self.target = target
        self.at = target.at
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Dispatcher:
    """Starts object workflows, a bounded number at once and each at most once an interval, whoever asks."""

    def __init__(
        self,
        client: Client,
        queue: str,
        *,
        start_timeout: timedelta = START_TIMEOUT,
        coalesce_s: float = COALESCE_S,
        pace: Pace | None = None,
    ) -> None:
        self._client = client
        self._start_timeout = start_timeout
        self._queue = queue
        self._pace = pace or Pace()
        self._slots = asyncio.Semaphore(STARTS_AT_ONCE)
        self._coalescer: Coalescer[Target] = Coalescer(coalesce_s)
        self._pending: dict[Target, _Start] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone = asyncio.Event()
        self._back = asyncio.Event()
        self._back.set()
        self._probing: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Whether Temporal takes starts, as far as the last one told."""
        return self._back.is_set()

    async def wait_available(self, stop: asyncio.Event) -> bool:
        """Returns when Temporal takes starts again, or False when `stop` is set first."""
        await unless_stopped(self._back.wait(), stop)
        return self._back.is_set()

    async def start(self, targets: Iterable[Target]) -> Started:
        """Starts or signals the workflow of each target, however often it is named. Raises nothing of Temporal's."""
        starts = {target: self._join(target) for target in dict.fromkeys(targets)}
        if not starts:
            return Started()
        await asyncio.wait([start.done for start in starts.values()], timeout=BATCH_TIMEOUT_S)
        return _summed(starts)

    async def deliver(self, targets: Iterable[Target], stop: asyncio.Event) -> Started:
        """As `start`, and keeps at it while Temporal is away. What is `unavailable` in the end was given up for `stop`."""
        started = await self.start(targets)
        refused = started.refused
        while started.unavailable and await self.wait_available(stop):
            started = await self.start(started.unavailable)
            refused |= started.refused
        return Started(started.unavailable, refused)

    async def settled(self, targets: Iterable[Target], timeout_s: float) -> None:
        """Waits until the workflow of each target has ended, however, or the time is up."""
        handles = [self._client.get_workflow_handle(object_workflow_id(target.route, target.key)) for target in targets]
        waits = [asyncio.ensure_future(_end(handle)) for handle in handles]
        try:
            await asyncio.wait(waits, timeout=timeout_s)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def healthy(self) -> bool:
        """One request; False while Temporal does not answer."""
        return await answers(self._client, self._start_timeout)

    async def takes_starts(self) -> bool:
        """Whether the last start was taken, and Temporal answers."""
        return self.available and await self.healthy()

    async def close(self) -> None:
        """Gives up what is pending: to whoever waits for it, it is `unavailable`."""
        tasks = [*self._tasks, *([self._probing] if self._probing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for start in self._pending.values():
            start.done.cancel()

    def _join(self, target: Target) -> _Start:
        """The start that answers an event of now: the pending one, or a new one."""
        now = time.monotonic()
        due = self._coalescer.note(target, now)
        if due is None:
            metrics.coalesced(target.route)
            start = self._pending[target]
            start.at = max(filter(None, (start.at, target.at)), default=None)
            return start
        start = self._pending[target] = _Start(target)
        task = asyncio.create_task(self._run(start, due - now))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return start

    async def _run(self, start: _Start, delay_s: float) -> None:
        try:
            if delay_s > 0:
                await asyncio.sleep(delay_s)
            async with self._slots:
                await self._send(start)
        except asyncio.CancelledError:
            start.done.cancel()
            raise
        except Exception as error:
            self._failed(start, error)
        else:
            metrics.started(start.target.route)
            start.done.set_result(None)

    async def _send(self, start: _Start) -> None:
        """From here on an event needs another start. While Temporal is away, only the probe asks it."""
        target = start.target
        self._coalescer.sent(target, time.monotonic())
        del self._pending[target]
        if not self.available:
            raise _Away
        timeout = self._start_timeout
        request = start_object(self._client, self._queue, target.route, target.key, "event", at=start.at, rpc_timeout=timeout)
        # The SDK repeats each request for ten seconds; with one that failed, the others are given up.
        if await unless_stopped(request, self._gone) is None:
            raise _Away

    def _failed(self, start: _Start, error: Exception) -> None:
        if not _is_outage(error):
            log.error("cannot start: %s", error, extra={"route": start.target.route, "key": start.target.key})
        elif self._probing is None:
            log.warning("Temporal does not take starts, so nothing is received: %s", error)
            self._gone.set()
            self._back.clear()
            self._probing = asyncio.create_task(self._probe())
        start.done.set_exception(error)
        start.done.exception()  # nobody may be left to ask for it

    async def _probe(self) -> None:
        """One request after each growing pause, until Temporal answers."""
        failures = 1
        await asyncio.sleep(self._pace.pause_s(failures))
        while not await self.healthy():
            failures += 1
            log.warning("Temporal is still away; asking again in %.0f s", self._pace.pause_s(failures))
            await asyncio.sleep(self._pace.pause_s(failures))
        log.info("Temporal takes starts again")
        self._probing = None
        self._gone.clear()
        self._back.set()


async def _end(handle: WorkflowHandle[Any, Any]) -> Any:
    """Returns when the workflow has ended, however, or is unknown. An answer that does not come is no end."""
    while True:
        try:
            return await handle.result(follow_runs=True)
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return None
            await asyncio.sleep(RESULT_PAUSE_S)
        except TemporalError:
            return None


def _is_outage(error: BaseException | None) -> bool:
    return isinstance(error, _Away) or (isinstance(error, RPCError) and error.status not in REFUSALS)


def _summed(starts: Mapping[Target, _Start]) -> Started:
    unavailable, refused = set(), set()
    for target, start in starts.items():
        if not start.done.done() or start.done.cancelled() or _is_outage(start.done.exception()):
            unavailable.add(target)
        elif start.done.exception() is not None:
            refused.add(target)
    return Started(frozenset(unavailable), frozenset(refused))
