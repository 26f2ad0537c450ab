"""`ReconcilePartition`: a range of a pass. Scans it stretch by stretch, and sees to the objects that need a workflow each."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from temporalio import workflow
from temporalio.exceptions import ApplicationError, ChildWorkflowError, WorkflowAlreadyStartedError, is_cancelled_exception
from temporalio.workflow import ChildWorkflowCancellationType, ChildWorkflowHandle, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from activities.passes import PassActivities
    from replication.ids import object_workflow_id, pass_workflow_id
    from replication.models import ReplicateObjectInput, ReplicateObjectResult
    from replication.passes import KeyRange, PartitionInput, PartitionOrders, PartitionResult, PassProgress, count_outcome
    from workflows import options
    from workflows.patience import patiently
    from workflows.steps import Stop, Suspended, heed_cancellation
    from workflows.visibility import object_attributes, object_summary, partition_progress, pass_details

OBJECTS_AT_ONCE = 16
MANIFESTS_AT_ONCE = 100
LOOKS_AT_OPEN = 6
"""How often a pass comes back to an object whose workflow was open already, over a minute; then it goes on without it."""
MANIFEST_PATIENCE_S = 300.0
"""How long a pass waits for a manifest that waits for others; it goes on without the pass."""


@workflow.defn(name="ReconcilePartition", failure_exception_types=options.DEFECTS)
class ReconcilePartition:
    @workflow.init
    def __init__(self, input: PartitionInput) -> None:
        self._scan = input.scan
        self._counters = input.done
        self._shares = input.shares_at_once
        self._orders = input.orders
        self._under_way = 0
        self._has_rested = False
        self._objects: list[asyncio.Task[None]] = []
        self._problem = ""

    @workflow.signal(description="Whether workflows of objects may begin, and how many at once.")
    def steer(self, orders: PartitionOrders) -> None:
        self._orders = orders

    @workflow.signal(description="Leave what is behind the stretch under way to others.")
    def share(self) -> None:
        self._shares = True

    @workflow.query(description="State and counters, without those of the stretch under way.")
    def progress(self) -> PassProgress:
        return partition_progress(self._scan, self._counters, self._problem)

    @workflow.run
    async def run(self, input: PartitionInput) -> PartitionResult:
        rest: KeyRange | None = None
        try:
            while True:
                try:
                    ended = await self._stretch()
                except Suspended:
                    await self._go_on_anew()
                if self._has_rested:
                    await workflow.wait_condition(lambda: self._shares or self._may_begin())
                if ended or self._shares:
                    rest = None if ended else self._scan.keys
                    break
                if workflow.info().is_continue_as_new_suggested():
                    await self._go_on_anew()
            await self._drained(0)
        except Stop as stop:
            return PartitionResult(counters=self._counters, problem=f"{stop.reason}: {stop.message}")
        except BaseException as error:
            if not is_cancelled_exception(error):
                raise
            return PartitionResult(counters=self._counters, problem=f"partition-cancelled: partition {self._scan.number} was asked to end")
        await workflow.wait_condition(workflow.all_handlers_finished)
        return PartitionResult(counters=self._counters, rest=rest)

    async def _go_on_anew(self) -> NoReturn:
        """In a new run, behind the last stretch, once no object is under way."""
        await self._drained(0)
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(PartitionInput(scan=self._scan, done=self._counters, shares_at_once=self._shares, orders=self._orders))

    async def _stretch(self) -> bool:
        """Scans one stretch; True where the range ends with it."""
        self._show()
        summary = f"{self._scan.phase} after {self._scan.keys.after!r}"[:200]
        found = await patiently(PassActivities.scan_range, self._scan, options.SCAN, self._troubled, bulk=True, summary=summary)
        self._counters = self._counters.plus(found.counters)
        self._has_rested = found.rested
        heed_cancellation()
        for key in found.parked:
            await self._started(key)
        for key in found.large:
            self._objects.append(asyncio.create_task(self._object(key)))
        await self._drained(options.MAX_RUNS_IN_FLIGHT)
        rest = KeyRange(after=found.cursor, up_to=self._scan.keys.up_to)
        self._scan = self._scan.model_copy(update={"keys": rest, "found": found.found})
        self._show()
        return found.ended

    def _may_begin(self) -> bool:
        return not self._orders.paused and self._orders.objects_at_once != 0

    async def _drained(self, left: int) -> None:
        """Waits until at most `left` objects are under way."""
        await workflow.wait_condition(lambda: sum(not task.done() for task in self._objects) <= left)
        for task in [task for task in self._objects if task.done()]:
            self._objects.remove(task)
            task.result()

    async def _object(self, key: str) -> None:
        while self._under_way >= self._window:  # others may have been let in by the same change
            await workflow.wait_condition(lambda: self._under_way < self._window)
        self._under_way += 1
        try:
            result = await self._replicated(key)
        finally:
            self._under_way -= 1
        self._counters = count_outcome(self._counters, result)
        self._show()

    @property
    def _window(self) -> int:
        """Manifests wait for each other and move few bytes: the limit of the pass is not for them."""
        if self._orders.paused:
            return 0
        if self._scan.phase == "manifests":
            return MANIFESTS_AT_ONCE
        limit = self._orders.objects_at_once
        return OBJECTS_AT_ONCE if limit is None else min(OBJECTS_AT_ONCE, limit)

    async def _replicated(self, key: str) -> ReplicateObjectResult | None:
        """How the object's own workflow ended; None for one that goes on without the pass."""
        handle, waits = await self._started(key), 0
        while handle is None and waits < LOOKS_AT_OPEN:
            await workflow.sleep(2**waits, summary="an event's workflow is at it")
            handle, waits = await self._started(key), waits + 1
        if handle is None:
            return None
        patience = MANIFEST_PATIENCE_S if self._scan.phase == "manifests" else None
        try:
            result: ReplicateObjectResult = await asyncio.wait_for(asyncio.shield(handle), patience)
        except TimeoutError:
            return None
        except ChildWorkflowError as error:
            if is_cancelled_exception(error):
                return None
            return _failure(error, self._scan.route, key)
        return result

    async def _started(self, key: str) -> ChildWorkflowHandle[Any, ReplicateObjectResult] | None:
        """The object's workflow; None where an event has started it already: it looks once more, and nobody waits for it."""
        route = self._scan.route
        try:
            return await workflow.start_child_workflow(
                "ReplicateObject",
                ReplicateObjectInput(route=route, key=key, cause="pass", paced_by=pass_workflow_id(self._scan.mode, route)),
                id=object_workflow_id(route, key),
                result_type=ReplicateObjectResult,
                static_summary=object_summary(route, key),
                search_attributes=object_attributes(route, key),
                priority=options.priority(route, bulk=True),
                cancellation_type=ChildWorkflowCancellationType.ABANDON,
                parent_close_policy=ParentClosePolicy.ABANDON,
            )
        except WorkflowAlreadyStartedError:
            await self._check(object_workflow_id(route, key))
            return None

    async def _check(self, workflow_id: str) -> None:
        """An event's workflow is at it already: it looks once more."""
        try:
            await workflow.get_external_workflow_handle(workflow_id).signal("check", "pass")
        except ApplicationError:
            return  # it has just ended

    def _troubled(self, problem: str) -> None:
        self._problem = problem
        self._show()

    def _show(self) -> None:
        workflow.set_current_details(pass_details(self.progress()))


def _failure(error: ChildWorkflowError, route: str, key: str) -> ReplicateObjectResult:
    if isinstance(error.cause, ApplicationError) and error.cause.details:
        return ReplicateObjectResult.model_validate(error.cause.details[0])
    return ReplicateObjectResult(route=route, key=key, outcome="failed", reason="defect", message=str(error.cause))
