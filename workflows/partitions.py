"""The partitions of a pass: a bounded number at once, which share its limits and, as others end, what a long one has left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError, ChildWorkflowError, WorkflowAlreadyStartedError, is_cancelled_exception
from temporalio.workflow import ChildWorkflowCancellationType, ChildWorkflowHandle, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from activities.passes import PassActivities
    from replication.ids import partition_id
    from replication.passes import (
        Filters,
        KeyRange,
        PartitionInput,
        PartitionOrders,
        PartitionResult,
        PassInput,
        PassPhase,
        ScanInput,
        SplitInput,
        objects_at_once,
    )

from workflows import options
from workflows.board import Board
from workflows.patience import patiently
from workflows.steps import Suspended, heed_cancellation, suspend, suspend_if_long
from workflows.visibility import route_attributes

OPEN_PARTITIONS = 8
MAX_PARTITIONS = 400
FIRST_STRETCH = 20_000
QUICK_S = 10.0
"""The first scan looks at so many keys, and at as many as so many seconds allow, before the rest is split: a small route, or
one where little has changed, needs no more than that."""
ENDING_MAX_S = 900.0
"""Longest pause between looks at a partition of a pass before that has not ended."""


class Partitions:
    """`ranges` are those of a phase that nobody has looked at yet, `started` counts partitions over all runs of the pass, and
    `problems` says why some have failed: no more are started then."""

    def __init__(self, asked: PassInput, board: Board) -> None:
        self._asked = asked
        self._board = board
        self.ranges: list[KeyRange] = list(asked.so_far.ranges) if asked.so_far else []
        self.started = asked.so_far.partitions if asked.so_far else 0
        self.problems: list[str] = []
        self._open: dict[int, ChildWorkflowHandle[Any, PartitionResult]] = {}
        self._watching: dict[int, asyncio.Task[None]] = {}
        self._asked_to_share: set[int] = set()
        self._orders: dict[int, PartitionOrders] = {}
        self._done: dict[int, PartitionResult] = {}

    @property
    def open(self) -> list[int]:
        return sorted(self._open)

    async def run(self, phase: PassPhase, filters: Filters, keys: KeyRange, is_long: Callable[[], bool]) -> None:
        """Looks at all of `keys`, or at the `ranges` that another run has left. Raises `Suspended` once `is_long` and every partition
        has left what it had not begun."""
        first = not self.ranges
        self.ranges = self.ranges or [keys]
        while self.ranges or self._open:
            heed_cancellation()
            if ends := is_long():
                await self._gather()
            while self.ranges and len(self._open) < OPEN_PARTITIONS and not (self.problems or ends):
                keys = self.ranges.pop(0)
                try:
                    await self._start(phase, filters, keys, first=first)
                except Suspended:
                    if first:
                        raise
                    self.ranges.insert(0, keys)
                    break
                first = False
            if self.problems:
                self.ranges = []
            await workflow.wait_condition(lambda: bool(self._done) or not self._open or is_long() != ends)
            await self._account()
            if not self.ranges and self._open and self.started < MAX_PARTITIONS:
                await self._ask_to_share()

    async def give_orders(self) -> None:
        """Tells each open partition what has changed for it. Scans ask by themselves, but their partitions begin workflows."""
        for number, handle in list(self._open.items()):
            orders = self._orders_for(number)
            if self._orders.get(number) != orders:
                self._orders[number] = orders
                with suppress(ApplicationError):  # it has ended meanwhile
                    await handle.signal("steer", orders)

    async def stop(self) -> None:
        """Another pass may begin as soon as this one has ended: its partitions have the ids of these. What they did counts."""
        for handle in self._open.values():
            handle.cancel()
        await asyncio.gather(*self._watching.values(), return_exceptions=True)
        for result in self._done.values():
            self._board.count(result.counters)

    # --- one partition -----------------------------------------------------------------------------------------------

    async def _start(self, phase: PassPhase, filters: Filters, keys: KeyRange, *, first: bool) -> None:
        asked, number = self._asked, self.started
        orders = self._orders_for(number)
        scan = ScanInput(
            route=asked.route,
            pass_id=self._board.progress.pass_id,
            mode=asked.mode,
            phase=phase,
            filters=filters,
            deep=asked.deep,
            certificate=asked.certificate,
            keys=keys,
            number=number,
            max_keys=min(FIRST_STRETCH, asked.stretch) if first else asked.stretch,
            quick_s=QUICK_S if first and asked.stretch >= FIRST_STRETCH else 0.0,
        )
        handle = await self._handle(PartitionInput(scan=scan, shares_at_once=first, orders=orders))
        self.started += 1
        self._open[number] = handle
        self._orders[number] = orders
        self._show()
        await self.give_orders()
        self._watching[number] = asyncio.create_task(self._await(number, handle))

    async def _handle(self, asked: PartitionInput) -> ChildWorkflowHandle[Any, PartitionResult]:
        """Where a pass before was terminated, its partitions are asked to end, and have the ids of these until they do. Raises
        `Suspended` where that takes so long that the history has become long."""
        route, number, waits = self._asked.route, asked.scan.number, 0
        while True:
            try:
                handle = await workflow.start_child_workflow(
                    "ReconcilePartition",
                    asked,
                    id=partition_id(self._asked.mode, route, number),
                    result_type=PartitionResult,
                    static_summary=f"{route}: {asked.scan.phase}, partition {number}",
                    search_attributes=route_attributes(route),
                    priority=options.priority(route, bulk=True),
                    cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                    parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
                )
            except WorkflowAlreadyStartedError:
                waits += 1
                self._board.troubled(f"partition {number} of a pass before has not ended yet")
                pause_s = min(ENDING_MAX_S, 2.0 ** min(waits, 10))
                await workflow.sleep(timedelta(seconds=pause_s), summary="a partition of a pass before is ending")
                await suspend_if_long()
            else:
                if waits:
                    self._board.troubled("")
                return handle

    async def _await(self, number: int, handle: ChildWorkflowHandle[Any, PartitionResult]) -> None:
        try:
            self._done[number] = await handle
        except ChildWorkflowError as error:
            cancelled = f"partition-cancelled: partition {number} was asked to end"  # before its first step: it answers otherwise
            self._done[number] = PartitionResult(problem=cancelled if is_cancelled_exception(error) else f"defect: {error.cause}")

    def _orders_for(self, number: int) -> PartitionOrders:
        steering = self._board.steering
        return PartitionOrders(paused=steering.paused, objects_at_once=objects_at_once(steering.concurrency, number, list(self._open)))

    # --- all of them -------------------------------------------------------------------------------------------------

    async def _account(self) -> None:
        """Takes over what ended partitions counted, and splits what they left."""
        for number in sorted(self._done):
            result = self._done.pop(number)
            del self._open[number]
            del self._watching[number]
            del self._orders[number]
            self._board.count(result.counters)
            if result.problem:
                self.problems.append(result.problem)
            elif result.rest is not None:
                self.ranges += await self._split(result.rest)
            self._show(partitions_done=self._board.progress.partitions_done + 1)
        await self.give_orders()

    async def _split(self, keys: KeyRange) -> list[KeyRange]:
        pieces = min(OPEN_PARTITIONS - len(self._open), MAX_PARTITIONS - self.started)
        if pieces < 2:
            return [keys]
        split = SplitInput(route=self._asked.route, prefix=self._asked.filters.prefix, keys=keys, pieces=pieces)
        try:
            return await patiently(PassActivities.split_range, split, options.SETTLE, self._board.troubled)
        except Suspended:
            return [keys]  # for the next run: this one begins no partition any more

    async def _gather(self) -> None:
        """Has every open partition leave what is behind its stretch, and suspends the run when all have done so."""
        if not self._open:
            await suspend()
        for number in sorted(set(self._open) - self._asked_to_share):
            await self._ask_for_rest(number)

    async def _ask_to_share(self) -> None:
        """The partition that runs longest gives what it has left to the others, at the end of its stretch."""
        number = min((number for number in self._open if number not in self._asked_to_share), default=None)
        if number is not None and len(self._open) < OPEN_PARTITIONS:
            await self._ask_for_rest(number)

    async def _ask_for_rest(self, number: int) -> None:
        self._asked_to_share.add(number)
        with suppress(ApplicationError):  # it has ended meanwhile
            await self._open[number].signal("share")

    def _show(self, **fields: Any) -> None:
        self._board.show(partitions_open=len(self._open), open_partitions=self.open, **fields)
