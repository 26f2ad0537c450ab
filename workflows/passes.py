"""`ReconcileRoute` and `VerifyRoute`: one pass over a route, from the first listing to the last deletion.

A pass is cut into partitions, which split on while they run; data goes before the manifests that may name it; deletions
come last, when every key of both sides was listed without a gap. The workflow holds counters and ranges, never keys; a
run with a long history lets its partitions end, and goes on as a new one.
"""

from __future__ import annotations

from contextlib import suppress

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError, is_cancelled_exception
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from activities.passes import PassActivities
    from replication.ids import pass_workflow_id
    from replication.passes import (
        BeginPassInput,
        Begun,
        Counters,
        EndPassInput,
        ExtraInput,
        Filters,
        LimitUpdate,
        PassInput,
        PassProgress,
        PassResult,
        PassSoFar,
        PassState,
        Steering,
        SteeringShare,
        WeighInput,
    )
    from workflows import options
    from workflows.board import Board
    from workflows.partitions import Partitions
    from workflows.patience import patiently
    from workflows.steps import Stop, Suspended, heed_cancellation_before_wait, suspend
    from workflows.visibility import PHASE, ROUTE, route_attributes


class Pass:
    """The order of things in one pass, and what operators may say and ask."""

    def __init__(self, input: PassInput) -> None:
        fresh = PassProgress(route=input.route, mode=input.mode, steering=input.limits.applied(Steering()))
        so_far = input.so_far or PassSoFar(progress=fresh)
        self._input = input
        self._board = Board(so_far.progress)
        self._partitions = Partitions(input, self._board)
        self._begun = so_far.begun
        self._phase = so_far.phase
        self._approved = so_far.approved
        self._weighed = so_far.weighed
        self._deleted_up_to = so_far.deleted_up_to
        self._suspends = False
        self._updates = 0

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
        self._board.limit(change)
        await self._partitions.give_orders()
        return self._board.steering

    @workflow.update(description="Let the deletions go on that wait. Answers what was held.")
    def approve(self) -> str:
        self._updates += 1
        held = self._board.progress.held
        self._approved = self._approved or bool(held)
        return held

    @workflow.query(description="State, counters, partitions, limits, and what it waits for.")
    def progress(self) -> PassProgress:
        return self._board.progress

    @workflow.query(description="The limits of the pass, and the partitions that share them.")
    def steering(self) -> SteeringShare:
        return SteeringShare(steering=self._board.steering, partitions=self._partitions.open)

    async def _set_paused(self, paused: bool) -> None:
        self._updates += 1
        self._board.pause(paused)
        await self._partitions.give_orders()

    # --- the order of things -----------------------------------------------------------------------------------------

    async def _run(self) -> PassResult:
        if workflow.info().typed_search_attributes.get(ROUTE) is None:
            workflow.upsert_search_attributes([ROUTE.value_set(self._input.route)])
        canonical = pass_workflow_id(self._input.mode, self._input.route)
        if workflow.info().workflow_id != canonical:
            return await self._delegate(canonical)
        self._suspends = workflow.patched("passes-suspend")
        if self._input.so_far is None:
            first = workflow.info().first_execution_run_id  # a run that was reset is of the same pass
            self._board.show(pass_id=first, started_at=workflow.info().start_time.timestamp())
        state: PassState = "failed"
        reason = ""
        try:
            state = await self._pass()
        except Suspended:
            self._board.troubled("")  # whether it still waits, the next run finds out
            state = "running"
        except Stop as stop:
            reason = stop.reason
            await self._partitions.stop()
            raise ApplicationError(stop.message, type=stop.reason, non_retryable=True) from None
        except BaseException as error:
            if is_cancelled_exception(error):
                state = "cancelled"
                await self._partitions.stop()
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
        begun = self._begun
        if begun is None:
            begun = self._begun = await patiently(PassActivities.begin_pass, self._beginning(), options.SETTLE, self._board.troubled)
        if self._phase == "objects":
            await self._scan(begun)
            self._phase = "manifests"
        if self._phase == "manifests":
            if begun.manifests and asked.mode == "repair":
                await self._scan(begun)
            self._phase = "deletions"
        if begun.mirror and asked.mode == "repair" and not self._partitions.problems:
            await self._delete_extra()
        if problems := self._partitions.problems:
            reason, _, message = problems[0].partition(": ")
            raise Stop(reason, message, "failed")
        counters = self._board.counters
        incomplete = counters.failed + counters.blocked + counters.differing
        return "incomplete" if incomplete else "done"

    async def _scan(self, begun: Begun) -> None:
        filters, since = self._input.filters, begun.since
        if since is not None:
            filters = filters.model_copy(update={"since": since})
        await self._partitions.run(self._phase, filters, begun.keys, self._is_long)

    def _beginning(self) -> BeginPassInput:
        asked = self._input
        return BeginPassInput(
            route=asked.route,
            pass_id=self._board.progress.pass_id,
            mode=asked.mode,
            started_at=self._board.progress.started_at,
            start_after=asked.filters.start_after,
            whole=asked.filters == Filters(),
            since_last=asked.since_last,
        )

    # --- run after run -----------------------------------------------------------------------------------------------

    def _is_long(self) -> bool:
        """Whether the rest of the pass is for another run. What has failed already ends in this one."""
        if not self._suspends or self._partitions.problems:
            return False
        return self._updates >= options.UPDATES_PER_RUN or workflow.info().is_continue_as_new_suggested()

    def _next_run(self) -> PassInput:
        so_far = PassSoFar(
            progress=self._board.progress,
            begun=self._begun,
            phase=self._phase,
            ranges=self._partitions.ranges,
            partitions=self._partitions.started,
            approved=self._approved,
            weighed=self._weighed,
            deleted_up_to=self._deleted_up_to,
        )
        return self._input.model_copy(update={"so_far": so_far})

    # --- deletions ---------------------------------------------------------------------------------------------------

    async def _delete_extra(self) -> None:
        if not self._weighed:
            await self._weigh()
        ended = False
        while not ended:
            if self._is_long():
                await suspend()
            heed_cancellation_before_wait()
            await self._while_paused()
            if self._board.steering.paused:
                continue
            after = self._deleted_up_to
            asked = ExtraInput(route=self._input.route, pass_id=self._board.progress.pass_id, approved=self._approved, after=after)
            done = await patiently(PassActivities.delete_extra, asked, options.SCAN, self._board.troubled, bulk=True)
            self._board.count(Counters(deleted=done.deleted, failed=done.failed))
            self._deleted_up_to, ended = done.cursor, done.ended
            if done.held:
                await self._hold(done.held)

    async def _while_paused(self) -> None:
        """Until somebody lets it go on, or the run is long: it takes so many updates, however long the pause."""
        if self._board.steering.paused:
            suspends = workflow.patched("paused-deletions-suspend")
            await workflow.wait_condition(lambda: not self._board.steering.paused or (suspends and self._is_long()))

    async def _weigh(self) -> None:
        weigh = WeighInput(
            route=self._input.route, pass_id=self._board.progress.pass_id, filters=self._input.filters, counters=self._board.counters
        )
        if held := await patiently(PassActivities.weigh_deletions, weigh, options.SETTLE, self._board.troubled):
            await self._hold(held)
        elif self._board.progress.held:  # in a run before this one
            self._release()
        self._weighed = True

    async def _hold(self, reason: str) -> None:
        """Waits for an operator, however long that takes."""
        heed_cancellation_before_wait()
        self._board.hold(reason)
        workflow.upsert_search_attributes([PHASE.value_set("held")])
        await workflow.wait_condition(lambda: self._approved or self._is_long())
        if not self._approved:
            await suspend()
        self._release()

    def _release(self) -> None:
        self._board.hold("")
        workflow.upsert_search_attributes([PHASE.value_set("settling")])

    # --- the end -----------------------------------------------------------------------------------------------------

    async def _close(self, state: PassState, reason: str) -> None:
        self._board.show(state=state)
        if not self._board.progress.pass_id:
            return
        end = EndPassInput(
            route=self._input.route, pass_id=self._board.progress.pass_id, state=state, reason=reason, counters=self._board.counters
        )
        with suppress(ActivityError):
            await workflow.execute_activity_method(PassActivities.end_pass, end, **options.RECORD)
        await workflow.wait_condition(workflow.all_handlers_finished)

    def _result(self, state: PassState) -> PassResult:
        return PassResult(
            route=self._input.route,
            mode=self._input.mode,
            pass_id=self._board.progress.pass_id,
            state=state,
            counters=self._board.counters,
            seconds=round(workflow.now().timestamp() - self._board.progress.started_at, 3),
            partitions=self._partitions.started,
        )


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
