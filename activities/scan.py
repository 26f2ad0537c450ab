"""Scanning one stretch of a route: the two listings and the ledger joined in one pass over the keys.

In the common case a key costs nothing but its share of the listings. A small object without a replica is copied by one
read and one write. Whatever else may need a change is looked at by the same code as an event's object. Large objects and
manifests are only named: they need a workflow each. Replicas without a source are only noted: nothing is deleted here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import aclosing, suppress
from typing import Any

from activities._progress import pulse
from activities.gate import Gate, KeptOut
from activities.grace import GRACE_S
from activities.listings import PAGE, joined
from activities.outcomes import Outcomes
from activities.scan_order import Done, Names, Order, Slot
from activities.turns import SMALL_AT_ONCE
from ledger.ledger import Ledger
from ledger.queries import NO_TOKENS
from ledger.rows import PendingDeletion
from replication.compare import ARCHIVES, compare
from replication.errors import KeyInvalid, LedgerUnavailable, UnknownKind
from replication.globs import compile_globs
from replication.merge import Row
from replication.models import ListedObject
from replication.passes import Counters, Filters, ScanInput, ScanResult
from replication.routes import Route
from stores.crew import ended
from stores.registry import Stores

MAX_LARGE = 200
MAX_LARGE_BYTES = 100 << 10
FLUSH_S = 0.25


class Scan:
    """One attempt at one stretch. `outcomes` does what a key needs; this file knows which keys need what."""

    def __init__(self, asked: ScanInput, route: Route, stores: Stores, ledger: Ledger, outcomes: Outcomes, gate: Gate) -> None:
        self._asked = asked
        self._route = route
        self._stores = stores
        self._ledger = ledger
        self._outcomes = outcomes
        self._gate = gate
        self._kinds = stores.get(route.source.store).kind, stores.get(route.destination.store).kind
        self._order = Order()
        self._work: asyncio.Queue[tuple[Slot, str, ListedObject]] = asyncio.Queue(2 * SMALL_AT_ONCE)
        self._moved = asyncio.Event()
        self._result = _resumed(asked)
        self._busy: set[asyncio.Task[Any]] = set()
        self._stops = False
        self._flushing = asyncio.Lock()
        self._is_gapless = True
        """Everything up to the cursor is on record. What a failed flush took from the order is not, so that none after it moves it."""
        self._named, self._likely = Names(), Names()
        self._named.add([*self._result.large, *self._result.parked])
        self._listed_all = asyncio.Event()
        self._ended = False
        self._include, self._exclude = compile_globs(tuple(asked.filters.include)), compile_globs(tuple(asked.filters.exclude))
        self._deletes = route.settings.deletes_mode == "mirror"
        self._may_stay = not self._deletes and not asked.filters.by_object
        """Nothing is left to be done about an object whose source is gone."""
        self._plain = self._include is None and self._exclude is None and route.takes_every_key
        whole = asked.filters == Filters(prefix=asked.filters.prefix) and route.rules is None and asked.phase == "objects"
        self._takes_all = self._plain and whole and asked.mode != "verify"

    async def run(self) -> ScanResult:
        """Raises what a listing or the ledger raises, once everything under way is recorded or given up."""
        try:
            async with _Tasks() as tasks:
                await self._run(tasks)
        except KeptOut:
            await self._flush()
            return self._result.model_copy(update={"rested": True})
        except BaseException:
            with suppress(LedgerUnavailable):
                await self._flush()
            raise
        return self._result.model_copy(update={"ended": self._ended})

    async def _run(self, tasks: _Tasks) -> None:
        working = [tasks.start(self._work_on()) for _ in range(SMALL_AT_ONCE)]
        working.append(tasks.start(self._rest_when_kept_out()))
        flusher = tasks.start(self._flush_on())
        try:
            await tasks.first_of(tasks.start(self._read()), flusher, *working)
            self._listed_all.set()
            self._moved.set()
            await tasks.first_of(flusher, *working)
        finally:
            self._stops = True
            if self._busy:
                await asyncio.wait(set(self._busy), timeout=GRACE_S)

    async def _rest_when_kept_out(self) -> None:
        while self._busy or not self._gate.keeps_out:  # noqa: ASYNC110
            await asyncio.sleep(FLUSH_S)  # seconds do not matter
        raise KeptOut

    @property
    def recorded(self) -> ScanResult:
        """What is in the ledger already."""
        return self._result

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Joins the sequences from the cursor on, until the range ends or the stretch is long enough."""
        keys = self._asked.keys.model_copy(update={"after": self._result.cursor or self._asked.keys.after})
        looked_at, quick_until = 0, time.monotonic() + self._asked.quick_s
        asked, size = self._asked, min(PAGE, self._asked.max_keys)
        async with aclosing(joined(self._route, self._stores, self._ledger, self._gate, asked.filters.prefix, keys, size)) as rows:
            async for batch in rows:
                pulse().touch()
                await self._take(batch)
                looked_at += len(batch)
                if (looked_at >= self._asked.max_keys and time.monotonic() >= quick_until) or self._is_laden():
                    return
            self._ended = True

    def _is_laden(self) -> bool:
        """Whether the result will name as much as it may: what is known to be named counts before it is on record."""
        return self._named.exceed(MAX_LARGE, MAX_LARGE_BYTES)

    def _may_name(self, listed: ListedObject) -> list[str]:
        """The key, where only settling it tells whether it needs a workflow or waits for an archive."""
        archived = self._route.settings.restore or listed.storage_class in ARCHIVES
        return [listed.key] if archived and self._asked.mode == "repair" else []

    def _is_likely_laden(self) -> bool:
        return self._likely.count > 0 and (self._named + self._likely).exceed(MAX_LARGE, MAX_LARGE_BYTES)

    async def _take(self, batch: list[Row]) -> None:
        """Sorts the rows of a batch: what needs nothing is counted at once, the rest goes to the queue."""
        idle, last = Done(), None
        for below, source, replica, receipt in batch:
            if self._is_laden():
                break
            before, last = last, below
            verdict = compare(source, replica, receipt, *self._kinds)
            if verdict == "equal" and self._takes_all:
                idle.skip(source.version.size_bytes)
                continue
            if not self._concerns(below, source, replica):
                continue
            if verdict == "missing" and not self._is_told(below):
                verdict = "look"
            seen = _seen(source, replica)
            if receipt == NO_TOKENS and verdict == "extra" and self._may_stay:
                idle.released.append((self._route.name, self._route.source.prefix + below))
            if self._settled_by_listing(idle, below, verdict, source, replica):
                idle.count(**seen)
            else:
                await self._give(idle, before, below, seen, verdict, source or replica)
                idle, last = Done(), None
        if last is not None:
            self._order.take(last).done = idle
            self._moved.set()

    async def _give(
        self, idle: Done, before: str | None, below: str, seen: dict[str, int], verdict: str, listed: ListedObject | None
    ) -> None:
        """Queues work for a key; what needed nothing, up to the key `before` it, goes ahead of it in the order."""
        assert listed is not None
        likely = self._may_name(listed)
        while self._order.is_full or (likely and self._is_likely_laden()):
            self._moved.set()
            await asyncio.sleep(0.01)
        if before is not None and not idle.is_empty:
            self._order.take(before).done = idle
        self._likely.add(likely)
        await self._work.put((self._order.take(below, seen), verdict, listed))

    def _concerns(self, below: str, source: ListedObject | None, replica: ListedObject | None) -> bool:
        asked = self._asked
        if not self._plain and not self._is_wanted(below):
            return False
        if source is not None and not asked.filters.admits(source):
            return False
        if not asked.filters.admits_change(source, replica):
            return False
        if self._route.rules is None or asked.mode != "repair":
            return asked.phase == "objects"
        return self._is_manifest(below) == (asked.phase == "manifests")

    def _is_manifest(self, below: str) -> bool:
        rules = self._route.rules
        return rules is not None and self._is_told(below) and rules.rule_of(self._route.source.prefix + below) is not None

    def _is_told(self, below: str) -> bool:
        """False for a key that the route's rules can make nothing of; whoever settles it says so."""
        try:
            _ = self._route.rules and self._route.rules.rule_of(self._route.source.prefix + below)
        except UnknownKind:
            return False
        return True

    def _is_wanted(self, below: str) -> bool:
        if self._exclude is not None and self._exclude.fullmatch(below):
            return False
        if self._include is not None and not self._include.fullmatch(below):
            return False
        return self._route.skip_reason(self._route.source.prefix + below) is None

    def _settled_by_listing(self, idle: Done, below: str, verdict: str, source: ListedObject | None, replica: ListedObject | None) -> bool:
        """Deals with what needs no look at all; False for the rest."""
        key = self._route.source.prefix + below
        if verdict == "vanished":
            idle.forgotten.append((self._route.name, key))
            idle.released.append((self._route.name, key))
        elif verdict == "refused":
            assert source is not None
            idle.add(self._outcomes.refused(key, source, KeyInvalid(source.problem)))
        elif verdict == "extra" and self._asked.filters.by_object:
            return True
        elif self._asked.mode == "verify" or (verdict == "extra" and self._asked.mode == "plan" and self._deletes):
            return False
        elif verdict == "extra":
            assert replica is not None
            self._note_extra(idle, key, replica)
        elif verdict == "equal":
            idle.count(skipped=1)
        elif verdict == "adopt" and self._outcomes.may_adopt(key):
            assert source is not None
            assert replica is not None
            idle.count(skipped=1)
            idle.receipts.append(self._outcomes.adopted(key, source, replica))
        elif source is not None and self._needs_workflow(key, source) and (self._asked.mode == "repair" or verdict == "missing"):
            self._name_large(idle, key, source)
        else:
            return False
        return True

    def _needs_workflow(self, key: str, source: ListedObject) -> bool:
        if source.storage_class in ARCHIVES:
            return False
        return self._asked.phase == "manifests" or source.version.size_bytes > self._outcomes.inline_max

    def _name_large(self, idle: Done, key: str, source: ListedObject) -> None:
        if self._asked.mode == "repair":
            idle.large.append(key)
            self._named.add([key])
        else:
            idle.add(self._outcomes.planned_copy(key, source))

    def _note_extra(self, idle: Done, key: str, replica: ListedObject) -> None:
        idle.count(extra=1)
        if self._asked.mode != "repair":
            idle.add(self._outcomes.told_extra(key))
        elif self._deletes:
            idle.pending.append(PendingDeletion(self._route.name, key, self._asked.pass_id, replica.version.token))

    # --- working -----------------------------------------------------------------------------------------------------

    async def _work_on(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while not self._stops:
            slot, verdict, listed = await self._work.get()
            key, missing = self._route.source.prefix + slot.key, verdict == "missing"
            small = self._outcomes.by_tide(listed, missing=missing)
            async with self._gate.admit(*self._outcomes.cost(listed, missing=missing), small=small):
                if self._stops:
                    return
                self._busy.add(task)
                try:
                    if verdict == "extra":
                        slot.done = await self._outcomes.look_at_extra(key, listed)
                    else:
                        slot.done = await self._outcomes.settle(key, listed, missing=missing)
                finally:
                    self._busy.discard(task)
                self._likely.remove(self._may_name(listed))
                self._named.add([*slot.done.large, *slot.done.parked])
            if self._order.is_ready:
                self._moved.set()

    async def _flush_on(self) -> None:
        """Records what is done, in key order, and moves the cursor; ends when everything is."""
        while not (self._listed_all.is_set() and self._order.is_empty):
            await _wait(self._moved)
            self._moved.clear()
            await _to_the_end(self._flush())
            await _wait(self._listed_all)

    async def _flush(self) -> None:
        """Moves the cursor over what is done without a gap. What was written behind a gap is put on record, too: an attempt that
        comes after this one finds it in place, and could not tell who wrote it."""
        async with self._flushing:
            ready = self._order.ready() if self._is_gapless else None
            early = self._order.early()
            if ready is None and not early.audit:
                return
            gapless, self._is_gapless = self._is_gapless, False
            await self._record(ready[1] if ready else Done(), early)
            self._is_gapless = gapless
            if ready is not None:
                self._move(*ready)

    async def _record(self, done: Done, early: Done) -> None:
        asked = self._asked
        if asked.mode == "repair":
            await self._ledger.record(
                receipts=[*done.receipts, *early.receipts],
                audit=[*done.audit, *early.audit],
                quarantined=done.quarantined,
                released=done.released,
                forgotten=done.forgotten,
            )
            await self._ledger.hold_deletions(done.pending)
        if done.leaves:
            await self._ledger.add_leaves(asked.pass_id, done.leaves)
        if done.findings:
            first = (asked.number << 40) + self._result.found
            await self._ledger.add_findings(asked.pass_id, [(first + n, key, doc) for n, (key, doc) in enumerate(done.findings)])

    def _move(self, cursor: str, done: Done) -> None:
        result = self._result
        self._result = result.model_copy(
            update={
                "cursor": cursor,
                "counters": result.counters.plus(Counters(**done.counters)),
                "large": [*result.large, *done.large],
                "parked": [*result.parked, *done.parked],
                "found": result.found + len(done.findings),
            }
        )
        pulse().details.scan = self._result.model_dump()
        pulse().touch()


def _seen(source: ListedObject | None, replica: ListedObject | None) -> dict[str, int]:
    seen = {"listed": 1, "bytes_listed": source.version.size_bytes} if source is not None else {}
    return {**seen, "replicas": 1} if replica is not None else seen


def _resumed(asked: ScanInput) -> ScanResult:
    """Where the attempt before left off; unreadable details mean the beginning."""
    with suppress(ValueError):
        return ScanResult.model_validate(pulse().details.scan)
    return ScanResult(cursor=asked.keys.after, found=asked.found)


async def _wait(event: asyncio.Event) -> None:
    """Not with `wait_for`, which loses a cancellation that comes together with the event."""
    with suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_S):
            await event.wait()


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Cancelled, it waits for the end of `work` all the same: what the ledger has taken is counted, too."""
    running = asyncio.ensure_future(work)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await ended(running)
        raise


class _Tasks:
    """Tasks that end together: all are cancelled and awaited when the block is left."""

    def __init__(self) -> None:
        self._all: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> _Tasks:
        return self

    def start(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._all.append(task)
        return task

    async def first_of(self, main: asyncio.Task[Any], *others: asyncio.Task[Any]) -> None:
        """Waits for `main`; a failure of any of them is raised at once."""
        while not main.done():
            await asyncio.wait([main, *others], return_when=asyncio.FIRST_COMPLETED)
            for task in others:
                if task.done():
                    task.result()
        main.result()

    async def __aexit__(self, *_: object) -> None:
        for task in self._all:
            task.cancel()
        await asyncio.gather(*self._all, return_exceptions=True)
