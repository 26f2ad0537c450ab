"""`ReconcileRoute` and `VerifyRoute`: one pass over a route, from the first listing to the last deletion.

A pass is cut into partitions, which split on while they run; data goes before the manifests that may name it; deletions
come last, when every key of both sides was listed without a gap. The workflow holds counters and ranges, never keys; a
run with a long history lets its partitions end, and goes on as a new one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, WorkflowAlreadyStartedError, is_cancelled_exception
from temporalio.workflow import ChildWorkflowCancellationType, ChildWorkflowHandle, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from activities.passes import PassActivities
    from replication.ids import partition_id, pass_workflow_id
    from replication.passes import (
        BeginPassInput,
        Begun,
        Counters,
        EndPassInput,
        ExtraInput,
        Filters,
        KeyRange,
        LimitUpdate,
        PartitionInput,
        PartitionOrders,
        PartitionResult,
        PassInput,
        PassPhase,
        PassProgress,
        PassResult,
        PassSoFar,
        PassState,
        ScanInput,
        SplitInput,
        Steering,
        SteeringShare,
        WeighInput,
        objects_at_once,
    )
    from workflows import options
    from workflows.patience import patiently
    from workflows.steps import Stop, Suspended, heed_cancellation
    from workflows.visibility import PHASE, ROUTE, pass_details, route_attributes

OPEN_PARTITIONS = 8
MAX_PARTITIONS = 400
FIRST_STRETCH = 20_000
QUICK_S = 10.0
"""The first scan looks at so many keys, and at as many as so many seconds allow, before the rest is split: a small route, or
one where little has changed, needs no more than that."""
ENDING_MAX_S = 900.0
"""Longest pause between looks at a partition of a pass before that has not ended."""
UPDATES_PER_RUN = 1_000
"""The server takes 2,000."""


class Pass:
    """The state of one pass, and what operators may say and ask."""

    def __init__(self, input: PassInput) -> None:
        fresh = PassProgress(route=input.route, mode=input.mode, steering=input.limits.applied(Steering()))
        so_far = input.so_far or PassSoFar(progress=fresh, begun=Begun())
        self._input = input
        self._progress = so_far.progress
        self._steering = so_far.progress.steering
        self._counters = so_far.progress.counters
        self._begun = so_far.begun
        self._phase = so_far.phase
        self._ranges = so_far.ranges
        self._started = so_far.partitions
        self._approved = so_far.approved
        self._weighed = so_far.weighed
        self._deleted_up_to = so_far.deleted_up_to
        self._suspends = False
        self._updates = 0
        self._open: dict[int, ChildWorkflowHandle[Any, PartitionResult]] = {}
        self._watching: dict[int, asyncio.Task[None]] = {}
        self._asked_to_share: set[int] = set()
        self._orders: dict[int, PartitionOrders] = {}
        self._done: dict[int, PartitionResult] = {}
        self._problems: list[str] = []

    # --- what others may say and ask ---------------------------------------------------------------------------------

    @workflow.update(description="Objects under way finish, nothing more begins.")
    async def pause(self) -> None:
        await self._set_paused(True)

    @workflow.update(description="Go on after a pause.")
    async def resume(self) -> None:
        await self._set_paused(False)

    @workflow.update(description="Change objects at once, bytes a second, requests a second; 0 lifts a limit.")
    async def limit(self, change: LimitUpdate) -> Steering:
        self._updates += 1
        self._steering = change.applied(self._steering)
        self._show()
        await self._give_orders()
        return self._steering

    @workflow.update(description="Let the deletions go on that wait. Answers what was held.")
    def approve(self) -> str:
        self._updates += 1
        held = self._progress.held
        self._approved = self._approved or bool(held)
        return held

    @workflow.query(description="State, counters, partitions, limits, and what it waits for.")
    def progress(self) -> PassProgress:
        return self._progress

    @workflow.query(description="The limits of the pass, and the partitions that share them.")
    def steering(self) -> SteeringShare:
        return SteeringShare(steering=self._steering, partitions=sorted(self._open))

    async def _set_paused(self, paused: bool) -> None:
        self._updates += 1
        self._steering = self._steering.model_copy(update={"paused": paused})
        self._show(state=self._standing())
        await self._give_orders()

    async def _give_orders(self) -> None:
        """Tells each open partition what has changed for it. Scans ask by themselves, but their partitions begin workflows."""
        for number, handle in list(self._open.items()):
            orders = self._orders_for(number)
            if self._orders.get(number) != orders:
                self._orders[number] = orders
                with suppress(ApplicationError):  # it has ended meanwhile
                    await handle.signal("steer", orders)

    def _orders_for(self, number: int) -> PartitionOrders:
        share = objects_at_once(self._steering.concurrency, number, list(self._open))
        return PartitionOrders(paused=self._steering.paused, objects_at_once=share)

    # --- the order of things -----------------------------------------------------------------------------------------

    async def _run(self) -> PassResult:
        if workflow.info().typed_search_attributes.get(ROUTE) is None:
            workflow.upsert_search_attributes([ROUTE.value_set(self._input.route)])
        canonical = pass_workflow_id(self._input.mode, self._input.route)
        if workflow.info().workflow_id != canonical:
            return await self._delegate(canonical)
        self._suspends = workflow.patched("passes-suspend")
        if self._input.so_far is None:
            self._show(pass_id=workflow.info().run_id, started_at=workflow.info().start_time.timestamp())
        state: PassState = "failed"
        reason = ""
        try:
            state = await self._pass()
        except Suspended:
            state = "running"
        except Stop as stop:
            reason = stop.reason
            raise ApplicationError(stop.message, type=stop.reason, non_retryable=True) from None
        except BaseException as error:
            if is_cancelled_exception(error):
                state = "cancelled"
                await self._stop_partitions()
            raise
        finally:
            if state != "running":
                await self._close(state, reason)
        if state == "running":
            workflow.continue_as_new(self._next_run())
        return self._result(state)

    async def _delegate(self, canonical: str) -> PassResult:
        """A scheduled run has an id of its own; the pass itself runs under the one id that keeps two from running at once."""
        try:
            result: PassResult = await workflow.execute_child_workflow(
                workflow.info().workflow_type,
                self._input,
                id=canonical,
                result_type=PassResult,
                search_attributes=route_attributes(self._input.route),
                priority=options.priority(self._input.route, bulk=True),
                cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
            )
        except WorkflowAlreadyStartedError:
            return PassResult(route=self._input.route, mode=self._input.mode, state="skipped", reason="already-running")
        return result

    async def _pass(self) -> PassState:
        asked = self._input
        if asked.so_far is None:
            self._begun = await patiently(PassActivities.begin_pass, self._beginning(), options.SETTLE, self._troubled)
        if self._phase == "objects":
            await self._partitions("objects")
            self._phase = "manifests"
        if self._phase == "manifests":
            if self._begun.manifests and asked.mode == "repair":
                await self._partitions("manifests")
            self._phase = "deletions"
        if self._begun.mirror and asked.mode == "repair" and not self._problems:
            await self._delete_extra()
        if self._problems:
            raise Stop(self._problems[0].partition(": ")[0], self._problems[0].partition(": ")[2], "failed")
        incomplete = self._counters.failed + self._counters.blocked + self._counters.differing
        return "incomplete" if incomplete else "done"

    def _beginning(self) -> BeginPassInput:
        asked = self._input
        return BeginPassInput(
            route=asked.route,
            pass_id=self._progress.pass_id,
            mode=asked.mode,
            started_at=self._progress.started_at,
            start_after=asked.filters.start_after,
            whole=asked.filters == Filters(),
            since_last=asked.since_last,
        )

    # --- run after run -----------------------------------------------------------------------------------------------

    @property
    def _is_long(self) -> bool:
        """Whether the rest of the pass is for another run. What has failed already ends in this one."""
        return (
            self._suspends and not self._problems and (self._updates >= UPDATES_PER_RUN or workflow.info().is_continue_as_new_suggested())
        )

    async def _suspend(self) -> None:
        """Raises `Suspended`; to be called where no partition is open."""
        await workflow.wait_condition(workflow.all_handlers_finished)
        heed_cancellation()
        raise Suspended

    def _next_run(self) -> PassInput:
        self._show()
        so_far = PassSoFar(
            progress=self._progress,
            begun=self._begun,
            phase=self._phase,
            ranges=self._ranges,
            partitions=self._started,
            approved=self._approved,
            weighed=self._weighed,
            deleted_up_to=self._deleted_up_to,
        )
        return self._input.model_copy(update={"so_far": so_far})

    # --- partitions --------------------------------------------------------------------------------------------------

    async def _partitions(self, phase: PassPhase) -> None:
        """Runs ranges in partitions, a bounded number at once, and shares what is left of a long one as others end."""
        first = not self._ranges
        self._ranges = self._ranges or [self._begun.keys]
        while self._ranges or self._open:
            heed_cancellation()
            if is_long := self._is_long:
                await self._gather()
            while self._ranges and len(self._open) < OPEN_PARTITIONS and not (self._problems or is_long):
                await self._start(phase, self._ranges.pop(0), first=first)
                first = False
            if self._problems:
                self._ranges = []
            await workflow.wait_condition(lambda: bool(self._done) or not self._open or self._is_long != is_long)
            await self._account()
            if not self._ranges and self._open and self._started < MAX_PARTITIONS:
                await self._ask_to_share()

    async def _gather(self) -> None:
        """Has every open partition leave what is behind its stretch, and suspends the run when all have done so."""
        if not self._open:
            await self._suspend()
        for number in sorted(set(self._open) - self._asked_to_share):
            await self._ask_for_rest(number)

    async def _start(self, phase: PassPhase, keys: KeyRange, *, first: bool) -> None:
        number = self._started
        self._started += 1
        orders = self._orders_for(number)
        scan = ScanInput(
            route=self._input.route,
            pass_id=self._progress.pass_id,
            mode=self._input.mode,
            phase=phase,
            filters=self._filters(),
            deep=self._input.deep,
            certificate=self._input.certificate,
            keys=keys,
            number=number,
            max_keys=min(FIRST_STRETCH, self._input.stretch) if first else self._input.stretch,
            quick_s=QUICK_S if first and self._input.stretch >= FIRST_STRETCH else 0.0,
        )
        handle = await self._started_partition(PartitionInput(scan=scan, shares_at_once=first, orders=orders))
        self._open[number] = handle
        self._orders[number] = orders
        self._show()
        await self._give_orders()
        self._watching[number] = asyncio.create_task(self._await(number, handle))

    def _filters(self) -> Filters:
        asked, since = self._input.filters, self._begun.since
        return asked if since is None else asked.model_copy(update={"since": since})

    async def _started_partition(self, asked: PartitionInput) -> ChildWorkflowHandle[Any, PartitionResult]:
        """Where a pass before was terminated, its partitions are asked to end, and have the ids of these until they do."""
        route, number, waits = self._input.route, asked.scan.number, 0
        while True:
            try:
                handle = await workflow.start_child_workflow(
                    "ReconcilePartition",
                    asked,
                    id=partition_id(self._input.mode, route, number),
                    result_type=PartitionResult,
                    static_summary=f"{route}: {asked.scan.phase}, partition {number}",
                    search_attributes=route_attributes(route),
                    priority=options.priority(route, bulk=True),
                    cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                    parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
                )
            except WorkflowAlreadyStartedError:
                waits += 1
                self._troubled(f"partition {number} of a pass before has not ended yet")
                await workflow.sleep(
                    timedelta(seconds=min(ENDING_MAX_S, 2.0 ** min(waits, 10))), summary="a partition of a pass before is ending"
                )
            else:
                if waits:
                    self._troubled("")
                return handle

    async def _await(self, number: int, handle: ChildWorkflowHandle[Any, PartitionResult]) -> None:
        try:
            self._done[number] = await handle
        except ChildWorkflowError as error:
            cancelled = f"partition-cancelled: partition {number} was asked to end"  # before its first step: it answers otherwise
            self._done[number] = PartitionResult(problem=cancelled if is_cancelled_exception(error) else f"defect: {error.cause}")

    async def _stop_partitions(self) -> None:
        """Another pass may begin as soon as this one has ended: its partitions have the ids of these. What they did counts."""
        for handle in self._open.values():
            handle.cancel()
        await asyncio.gather(*self._watching.values(), return_exceptions=True)
        for result in self._done.values():
            self._counters = self._counters.plus(result.counters)

    async def _account(self) -> None:
        """Takes over what ended partitions counted, and splits what they left."""
        for number in sorted(self._done):
            result = self._done.pop(number)
            del self._open[number]
            del self._watching[number]
            del self._orders[number]
            self._counters = self._counters.plus(result.counters)
            if result.problem:
                self._problems.append(result.problem)
            elif result.rest is not None:
                self._ranges += await self._split(result.rest)
            self._show(partitions_done=self._progress.partitions_done + 1)
        await self._give_orders()

    async def _split(self, keys: KeyRange) -> list[KeyRange]:
        pieces = min(OPEN_PARTITIONS - len(self._open), MAX_PARTITIONS - self._started)
        if pieces < 2:
            return [keys]
        split = SplitInput(route=self._input.route, prefix=self._input.filters.prefix, keys=keys, pieces=pieces)
        return await patiently(PassActivities.split_range, split, options.SETTLE, self._troubled)

    async def _ask_to_share(self) -> None:
        """The partition that runs longest gives what it has left to the others, at the end of its stretch."""
        number = min((number for number in self._open if number not in self._asked_to_share), default=None)
        if number is not None and len(self._open) < OPEN_PARTITIONS:
            await self._ask_for_rest(number)

    async def _ask_for_rest(self, number: int) -> None:
        self._asked_to_share.add(number)
        with suppress(ApplicationError):  # it has ended meanwhile
            await self._open[number].signal("share")

    # --- deletions ---------------------------------------------------------------------------------------------------

    async def _delete_extra(self) -> None:
        if not self._weighed:
            await self._weigh()
        ended = False
        while not ended:
            if self._is_long:
                await self._suspend()
            await workflow.wait_condition(lambda: not self._steering.paused)
            after = self._deleted_up_to
            asked = ExtraInput(route=self._input.route, pass_id=self._progress.pass_id, approved=self._approved, after=after)
            done = await patiently(PassActivities.delete_extra, asked, options.SCAN, self._troubled, bulk=True)
            self._counters = self._counters.plus(Counters(deleted=done.deleted, failed=done.failed))
            self._show()
            self._deleted_up_to, ended = done.cursor, done.ended
            if done.held:
                await self._hold(done.held)

    async def _weigh(self) -> None:
        weigh = WeighInput(route=self._input.route, pass_id=self._progress.pass_id, filters=self._input.filters, counters=self._counters)
        if held := await patiently(PassActivities.weigh_deletions, weigh, options.SETTLE, self._troubled):
            await self._hold(held)
        self._weighed = True

    async def _hold(self, reason: str) -> None:
        """Waits for an operator, however long that takes."""
        self._show(held=reason)
        self._show(state=self._standing())
        workflow.upsert_search_attributes([PHASE.value_set("held")])
        await workflow.wait_condition(lambda: self._approved or self._is_long)
        if not self._approved:
            await self._suspend()
        self._show(held="")
        self._show(state=self._standing())
        workflow.upsert_search_attributes([PHASE.value_set("settling")])

    # --- the end -----------------------------------------------------------------------------------------------------

    async def _close(self, state: PassState, reason: str) -> None:
        self._show(state=state)
        if not self._progress.pass_id:
            return
        end = EndPassInput(route=self._input.route, pass_id=self._progress.pass_id, state=state, reason=reason, counters=self._counters)
        with suppress(ActivityError):
            await workflow.execute_activity_method(PassActivities.end_pass, end, **options.RECORD)
        await workflow.wait_condition(workflow.all_handlers_finished)

    def _result(self, state: PassState) -> PassResult:
        return PassResult(
            route=self._input.route,
            mode=self._input.mode,
            pass_id=self._progress.pass_id,
            state=state,
            counters=self._counters,
            seconds=round(workflow.now().timestamp() - self._progress.started_at, 3),
            partitions=self._started,
        )

    def _troubled(self, problem: str) -> None:
        self._show(problem=problem)
        self._show(state=self._standing())

    def _standing(self) -> PassState:
        """The state of a pass that has not ended."""
        if self._steering.paused:
            return "paused"
        if self._progress.held:
            return "held"
        return "waiting" if self._progress.problem else "running"

    def _show(self, **fields: Any) -> None:
        now = {
            "counters": self._counters,
            "partitions_open": len(self._open),
            "open_partitions": sorted(self._open),
            "steering": self._steering,
            **fields,
        }
        self._progress = self._progress.model_copy(update=now)
        workflow.set_current_details(pass_details(self._progress))


@workflow.defn(name="ReconcileRoute", failure_exception_types=options.DEFECTS)
class ReconcileRoute(Pass):
    """Repairs, or with mode `plan` tells what repairing would do."""

    @workflow.init
    def __init__(self, input: PassInput) -> None:
        super().__init__(input)

    @workflow.run
    async def run(self, input: PassInput) -> PassResult:
        return await self._run()


@workflow.defn(name="VerifyRoute", failure_exception_types=options.DEFECTS)
class VerifyRoute(Pass):
    """Compares everything and writes nothing."""

    @workflow.init
    def __init__(self, input: PassInput) -> None:
        super().__init__(input.model_copy(update={"mode": "verify"}))

    @workflow.run
    async def run(self, input: PassInput) -> PassResult:
        return await self._run()
