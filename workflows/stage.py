"""How one object's workflow runs its steps: pause, repeat while the world heals, show where it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception
from temporalio.types import MethodAsyncSingleParam
from temporalio.workflow import ActivityConfig

with workflow.unsafe.imports_passed_through():
    from replication.models import Pause, Progress
    from replication.retries import waiting_delay

from workflows import options
from workflows.steps import Stop, Suspended, heed_cancellation, heed_cancellation_before_wait
from workflows.visibility import PHASE, object_details

A = TypeVar("A")
R = TypeVar("R")


class Stage:
    """The running state that operators see and steer. `dirty` says that somebody asked for one more look."""

    def __init__(self, route: str, key: str, *, dirty: bool, paused: bool) -> None:
        self._route = route
        self._key = key
        self._suspending = False
        self._marked = False
        self.dirty = dirty
        self.paused = paused
        self.progress = Progress(phase="settling", paused=paused)

    async def step(
        self, method: MethodAsyncSingleParam[Any, A, R], argument: A, config: ActivityConfig, *, transfer: bool = False, summary: str = ""
    ) -> R:
        """Runs an activity; waits and repeats it while the world must heal; raises `Stop` for everything else."""
        waits = 0
        while True:
            self.suspend_if_long()
            await self._while_paused()
            heed_cancellation()
            try:
                return await self.execute(method, argument, config, transfer=transfer, summary=summary)
            except Stop as stop:
                if stop.rests != "waiting":
                    raise
                waits += 1
                await self._wait(stop, waits)

    async def execute(
        self, method: MethodAsyncSingleParam[Any, A, R], argument: A, config: ActivityConfig, *, transfer: bool = False, summary: str = ""
    ) -> R:
        """Runs an activity once (with its own retries); raises `Stop` when it fails."""
        queue = workflow.info().task_queue + (options.TRANSFER_SUFFIX if transfer else "")
        try:
            call: Any = {**config, "task_queue": queue, "summary": summary or None}
            result: R = await workflow.execute_activity_method(method, argument, **call)
            return result
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            stop = Stop.of(error)
            self.show(last_error=f"{stop.reason}: {stop.message}")
            raise stop from error

    def suspend_if_long(self) -> None:
        """Raises `Suspended` once the history is long; from then on always, so that every part of the run ends."""
        if self._suspending or workflow.info().is_continue_as_new_suggested():
            self._suspending = True
            raise Suspended

    async def sleep(self, delay_s: float, summary: str, *, until: Callable[[], bool]) -> None:
        heed_cancellation_before_wait()
        try:
            await workflow.wait_condition(until, timeout=timedelta(seconds=delay_s), timeout_summary=summary)
        except TimeoutError:
            return

    async def pause(self, pause: Pause) -> None:
        """Rests before a deletion, until its time has passed or somebody asks."""
        self.enter(pause.phase, waiting_for=f"{pause.reason}: {pause.message}")
        await self.sleep(pause.seconds, pause.reason, until=lambda: self.dirty)

    async def _wait(self, stop: Stop, waits: int) -> None:
        back = self.progress.phase
        self.enter("waiting", waiting_for=f"{stop.reason}: {stop.message}")
        self.dirty = False
        await self.sleep(
            waiting_delay(waits, workflow.random().random(), reason=stop.reason), f"waiting: {stop.reason}", until=lambda: self.dirty
        )
        self.enter(back, waiting_for="")

    async def _while_paused(self) -> None:
        if self.paused:
            heed_cancellation_before_wait()
            back = self.progress.phase
            self.enter("paused")
            if workflow.patched("paused-suspends"):
                # A run takes 10,000 signals, and every change of a key that is paused for days is one.
                await workflow.wait_condition(lambda: not self.paused or workflow.info().is_continue_as_new_suggested())
                if self.paused:
                    self.suspend_if_long()
            else:
                await workflow.wait_condition(lambda: not self.paused)
            self.enter(back)

    def enter(self, phase: str, **fields: Any) -> None:
        """A phase that operators search for; one look at a small object passes without any."""
        if phase != self.progress.phase:
            self._marked = True
            workflow.upsert_search_attributes([PHASE.value_set(phase)])
        self.show(phase=phase, **fields)

    def close(self, phase: str, **fields: Any) -> None:
        """The last phase. `done` is worth an event only where another phase would be left standing."""
        if self._marked or phase != "done" or _was_marked():
            workflow.upsert_search_attributes([PHASE.value_set(phase)])
        self.show(phase=phase, **fields)

    def show(self, **fields: Any) -> None:
        self.progress = self.progress.model_copy(update=fields)
        workflow.set_current_details(object_details(self._route, self._key, self.progress))


def _was_marked() -> bool:
    """Whether a phase is left of a run before this one."""
    return workflow.info().typed_search_attributes.get(PHASE) is not None and workflow.patched("phase-of-run-before")
