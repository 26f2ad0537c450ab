"""`RouteDeletions`: how many deletions a route makes, and the stop that only an operator lifts. One for each route.

Runs while deletions are asked for; ends by itself when the window is empty and nothing is held. It starts no activity:
those that ask wait for its answer in a worker's slot, and count replicas themselves when it tells them to.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from replication.deletions import (
        DeletionsInput,
        DeletionsProgress,
        PermitAnswer,
        PermitRequest,
        Window,
        admit,
        approve,
        counted,
        needs_count,
    )

from workflows import options
from workflows.visibility import PHASE, ROUTE, deletions_details

IDLE = timedelta(minutes=1)


@workflow.defn(name="RouteDeletions", failure_exception_types=options.DEFECTS)
class RouteDeletions:
    @workflow.init
    def __init__(self, input: DeletionsInput) -> None:
        self._route = input.route
        self._window = input.window or Window()
        self._limits = input.limits
        self._updates = 0
        self._shown_held = False

    @workflow.run
    async def run(self, input: DeletionsInput) -> None:
        if workflow.info().typed_search_attributes.get(ROUTE) is None:
            workflow.upsert_search_attributes([ROUTE.value_set(self._route)])
        self._show()
        while True:
            if await self._is_quiet() and self._window.is_idle(workflow.time(), self._limits):
                return
            if self._updates >= options.UPDATES_PER_RUN or workflow.info().is_continue_as_new_suggested():
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(DeletionsInput(route=self._route, limits=self._limits, window=self._window))

    async def _is_quiet(self) -> bool:
        """True when nobody asked for a while and every answer was given; False after the next request."""
        seen = self._updates
        try:
            await workflow.wait_condition(lambda: self._updates != seen, timeout=IDLE, timeout_summary="idle")
        except TimeoutError:
            return workflow.all_handlers_finished()
        return False

    @workflow.update(description="Asks for the deletion of keys. Answers how many of them, from the first on, may go.")
    def permit(self, request: PermitRequest) -> PermitAnswer:
        self._updates += 1
        now, self._limits = workflow.time(), request.limits
        if request.count is not None:
            self._window = counted(self._window, request.count, now, self._limits)
        elif enough := needs_count(self._window, len(request.keys), now, self._limits):
            return PermitAnswer(granted=0, count=enough)
        granted, self._window = admit(self._window, request.keys, now, self._limits)
        self._show()
        return PermitAnswer(granted=granted, reason=self._window.hold.reason if self._window.hold else "")

    @workflow.update(description="Lifts the stop. Answers what was held.")
    def approve(self) -> DeletionsProgress:
        self._updates += 1
        held = self.progress()
        self._window = approve(self._window)
        self._show()
        return held

    @workflow.query(description="Deletions within the window, and what is held.")
    def progress(self) -> DeletionsProgress:
        granted = self._window.granted(workflow.time(), self._limits)
        return DeletionsProgress(route=self._route, granted=granted, peak=self._window.peak, hold=self._window.hold)

    def _show(self) -> None:
        workflow.set_current_details(deletions_details(self.progress(), self._limits))
        held = self._window.hold is not None
        if held != self._shown_held:
            workflow.upsert_search_attributes([PHASE.value_set("held" if held else "settling")])
            self._shown_held = held
