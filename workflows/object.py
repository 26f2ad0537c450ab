"""`ReplicateObject`: one key of one route, brought to where the source is now.

One workflow id per (route, key) serialises the work on that key. A start or signal that arrives while it runs sets a
dirty bit and causes one more look, never a second writer. Decisions are made in activities from both sides as they are;
this file says what happens in what order, and for how long.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.objects import ObjectActivities
    from replication.models import (
        AbortInput,
        CompleteInput,
        CopyObjectInput,
        CopyPlan,
        PartRunInput,
        PartRunResult,
        Progress,
        QuarantineInput,
        ReplicateObjectInput,
        ReplicateObjectResult,
        ReplicateObjectState,
        SettleInput,
        Settlement,
    )
    from replication.parts import run_parts

    # Without state of their own, so they need not be loaded anew for every workflow.
    from workflows import options
    from workflows.stage import Stage
    from workflows.steps import Stop, Suspended, first_cause
    from workflows.visibility import missing_attributes
    from workflows.waiting import ManifestWait, Waiters


@workflow.defn(name="ReplicateObject", failure_exception_types=options.DEFECTS)
class ReplicateObject:
    """Input and state are one model each; `check` is the only signal, `progress` the only query."""

    @workflow.init
    def __init__(self, input: ReplicateObjectInput) -> None:
        state = input.state or ReplicateObjectState()
        self._route, self._key, self._cause = input.route, input.key, input.cause
        self._changed_at = input.changed_at
        self._paced_by = input.paced_by
        self._plan: CopyPlan | None = state.plan
        self._runs: dict[int, PartRunResult] = dict(state.runs)
        self._copied: ReplicateObjectResult | None = state.copied
        self._churns, self._fences, self._restarts = state.churns, state.fences, state.restarts
        self._stage = Stage(input.route, input.key, dirty=state.dirty, paused=state.paused)
        self._manifest = ManifestWait(self._stage, state.manifest)
        self._waiters = Waiters(self._stage, state.waiters, state.waiters_until)
        self._absent_since = state.absent_since

    # --- what others may say and ask ---------------------------------------------------------------------------------

    @workflow.signal(description="The key may have changed: look once more. Wakes a waiting object.")
    def check(self, cause: str = "request", changed_at: float | None = None) -> None:
        if cause != "pass":  # what a change has begun is not left to the next pass
            self._cause = cause
        self._changed_at = changed_at or self._changed_at
        self._stage.dirty = True

    @workflow.signal(description="That workflow waits for this object: tell it `stands` when the replica does.")
    def awaited(self, workflow_id: str, for_s: float) -> None:
        self._waiters.add(workflow_id, for_s)
        self._stage.dirty = self._stage.dirty or self._manifest.waiting is None

    @workflow.signal(description="That key, which this manifest names, stands at the destination.")
    def stands(self, key: str) -> None:
        self._manifest.note(key)

    @workflow.update(description="Hold before the next step; steps under way finish.")
    def pause(self) -> None:
        self._stage.paused = True
        self._stage.show(paused=True)

    @workflow.update(description="Go on after a pause.")
    def resume(self) -> None:
        self._stage.paused = False
        self._stage.show(paused=False)

    @workflow.query(description="Phase, bytes, parts, what it waits for, the last error, and the result once there is one.")
    def progress(self) -> Progress:
        return self._stage.progress

    # --- the order of things -----------------------------------------------------------------------------------------

    @workflow.run
    async def run(self, input: ReplicateObjectInput) -> ReplicateObjectResult:
        if missing := missing_attributes(self._route, self._key, workflow.info().typed_search_attributes):
            workflow.upsert_search_attributes(missing)
        try:
            return await self._settle()
        except Suspended:
            await workflow.wait_condition(workflow.all_handlers_finished)
            workflow.continue_as_new(self._next_run())
        except BaseException as error:
            if is_cancelled_exception(error):
                await self._abort()
            raise

    async def _settle(self) -> ReplicateObjectResult:
        while True:
            try:
                settlement = await self._look() if self._plan is None else await self._carry_out(self._plan)
            except Stop as stop:
                await self._abort()
                if result := await self._after(stop):
                    return result
                continue
            self._plan = settlement.plan
            if settlement.waiting is not None:
                await self._manifest.sleep(settlement.waiting)
                continue
            self._manifest.forget()
            if settlement.pause is not None:
                self._absent_since = self._absent_since or workflow.time()
                await self._stage.pause(settlement.pause)
                continue
            self._absent_since = None
            if settlement.result is not None:
                result = self._account(settlement.result)
                if not (self._stage.dirty or settlement.dirty):
                    await self._waiters.attend(self._key, result)
                    if not self._stage.dirty:
                        return await self._finish(result)
                self._stage.suspend_if_long()

    async def _look(self) -> Settlement:
        self._stage.dirty = False
        waiting = self._manifest.waiting
        if waiting is None and self._absent_since is None:
            self._stage.show(phase="settling")
        request = SettleInput(
            route=self._route,
            key=self._key,
            cause=self._cause,
            changed_at=self._changed_at,
            waiting=waiting,
            woken=self._manifest.take_woken(),
            absent_for_s=workflow.time() - self._absent_since if self._absent_since else 0.0,
        )
        return await self._stage.step(ObjectActivities.settle_object, request, options.SETTLE)

    async def _carry_out(self, plan: CopyPlan) -> Settlement:
        self._stage.enter("copying", size_bytes=plan.source.size_bytes, parts_total=plan.part_count, upload_id=plan.upload_id)
        if plan.mode == "object":
            whole = CopyObjectInput(route=self._route, key=self._key, plan=plan, changed_at=self._changed_at, paced_by=self._paced_by)
            return await self._stage.step(ObjectActivities.copy_object, whole, options.COPY, transfer=True)
        await self._copy_runs(plan)
        self._stage.show(phase="completing")
        runs = [self._runs[index] for index in range(plan.run_count)]
        complete = CompleteInput(
            route=self._route,
            key=self._key,
            plan=plan,
            run_crc32c=[run.crc32c for run in runs],
            run_companion=[run.companion for run in runs],
            bytes_copied=sum(run.bytes_copied for run in runs),
            changed_at=self._changed_at,
        )
        settlement = await self._stage.step(ObjectActivities.complete_copy, complete, options.COMPLETE)
        self._runs = {}
        return settlement

    async def _copy_runs(self, plan: CopyPlan) -> None:
        """A sliding window over the runs that are not done; the first failure cancels the others and waits for them.

        Before continue-as-new the window drains instead: a run under way would be sent again.
        """
        todo = [index for index in range(plan.run_count) if index not in self._runs]
        self._count_parts(plan)

        async def lane() -> None:
            while todo:
                index = todo.pop(0)
                first, last = run_parts(plan, index)
                part_run = PartRunInput(route=self._route, key=self._key, plan=plan, first=first, last=last, paced_by=self._paced_by)
                summary = f"parts {first}-{last} of {plan.part_count}"
                try:
                    run = await self._stage.step(ObjectActivities.copy_part_run, part_run, options.RUN, transfer=True, summary=summary)
                except Suspended:
                    return
                except BaseException:
                    todo.clear()  # a run that ends well before it hears of this begins no other
                    raise
                self._runs[index] = run
                self._count_parts(plan)

        failed: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as lanes:
                for _ in range(min(len(todo), plan.runs_in_flight, options.MAX_RUNS_IN_FLIGHT)):
                    lanes.create_task(lane())
        except BaseExceptionGroup as group:
            failed = first_cause(group)
        if failed is not None:
            raise failed  # outside of the handler: its own cause tells a cancellation from a failure
        if len(self._runs) < plan.run_count:
            raise Suspended

    async def _abort(self) -> None:
        """Removes what an unfinished copy left at the destination. What cannot be removed now is Housekeeping's."""
        plan, self._plan, self._runs = self._plan, None, {}
        if plan is None or not plan.upload_id:
            return
        abort = AbortInput(route=self._route, key=self._key, plan=plan)
        try:
            await self._stage.execute(ObjectActivities.abort_copy, abort, options.ABORT)
        except Stop as stop:
            workflow.logger.warning("the upload was not aborted: %s", stop.message)

    # --- where it leads ----------------------------------------------------------------------------------------------

    async def _after(self, stop: Stop) -> ReplicateObjectResult | None:
        """After a `Stop`: None to look again, the result of a conflict, or the failure of the workflow."""
        if stop.rests != "again":
            await self._rest(stop)
        elif stop.reason == "precondition-failed":
            self._fences += 1
            if self._fences >= options.CONFLICT_LOOKS:
                if workflow.patched("conflict-quarantined"):
                    await self._quarantine(stop, "blocked")
                return await self._finish(self._ended("conflict", stop))
        elif stop.reason in ("upload-lost", "upload-corrupt"):
            self._restarts += 1
            if self._restarts > options.RESTARTS:
                await self._rest(Stop(stop.reason, f"{stop.message} (after {options.RESTARTS} restarts)", "failed"))
        elif stop.reason == "source-changed":
            await self._churn()
        return None

    async def _churn(self) -> None:
        self._churns += 1
        if self._churns > 1:
            self._stage.enter("churning")
            delay_s = min(options.CHURN_DELAY_S, 0.5 * 2 ** min(self._churns, 10))
            await self._stage.sleep(delay_s, "the source keeps changing", until=lambda: False)

    def _account(self, result: ReplicateObjectResult) -> ReplicateObjectResult:
        """Several looks, one result: what was copied on the way is not hidden by the last look's `in_sync`."""
        before = self._copied
        if before is None:
            merged = result
        elif result.outcome == "in_sync":
            merged = before
        else:
            merged = result.model_copy(update={"bytes_copied": before.bytes_copied + result.bytes_copied})
        self._copied = merged if merged.outcome in ("copied", "updated") else before
        return merged

    async def _finish(self, result: ReplicateObjectResult) -> ReplicateObjectResult:
        phase = result.outcome if result.outcome in ("kept", "conflict") else "done"
        result = result.model_copy(update={"seconds": self._seconds()})
        self._stage.close(phase, result=result, bytes_done=self._stage.progress.size_bytes)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return result

    async def _rest(self, stop: Stop) -> None:
        """Fails the workflow; returns where somebody has asked for one more look meanwhile."""
        outcome: Literal["failed", "blocked"] = "blocked" if stop.rests == "blocked" else "failed"
        if workflow.patched("quarantine"):
            await self._quarantine(stop, outcome)
            if self._stage.dirty:
                return
        result = self._ended(outcome, stop)
        self._stage.close(outcome, result=result)
        raise ApplicationError(stop.message, result, type=stop.reason, non_retryable=True)

    async def _quarantine(self, stop: Stop, rests: Literal["failed", "blocked"]) -> None:
        resting = QuarantineInput(route=self._route, key=self._key, rests=rests, reason=stop.reason, message=stop.message[:1000])
        try:
            await workflow.execute_activity_method(ObjectActivities.quarantine_object, resting, **options.RECORD)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("the object is not in the quarantine: %s", error.cause)

    def _ended(self, outcome: Any, stop: Stop) -> ReplicateObjectResult:
        return ReplicateObjectResult(
            route=self._route,
            key=self._key,
            outcome=outcome,
            reason=stop.reason,
            message=stop.message,
            bytes_copied=self._copied.bytes_copied if self._copied else 0,
            seconds=self._seconds(),
        )

    def _seconds(self) -> float:
        """Since this run began; a run that continued another counts from there."""
        return round((workflow.now() - workflow.info().start_time).total_seconds(), 3)

    # --- state -------------------------------------------------------------------------------------------------------

    def _next_run(self) -> ReplicateObjectInput:
        state = ReplicateObjectState(
            plan=self._plan,
            runs=self._runs,
            copied=self._copied,
            churns=self._churns,
            fences=self._fences,
            restarts=self._restarts,
            dirty=self._stage.dirty,
            paused=self._stage.paused,
            manifest=self._manifest.state,
            absent_since=self._absent_since,
            waiters=self._waiters.ids,
            waiters_until=self._waiters.until,
        )
        return ReplicateObjectInput(
            route=self._route, key=self._key, cause=self._cause, changed_at=self._changed_at, paced_by=self._paced_by, state=state
        )

    def _count_parts(self, plan: CopyPlan) -> None:
        done = [run_parts(plan, index) for index in self._runs]
        parts = sum(last - first + 1 for first, last in done)
        self._stage.show(parts_done=parts, bytes_done=min(parts * plan.part_size, plan.source.size_bytes))
