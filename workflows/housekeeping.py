"""`Housekeeping`: sweeps what interrupted copies left behind, once per start (a Temporal Schedule repeats it)."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.housekeeping import HousekeepingActivities
    from replication.models import HousekeepingInput, HousekeepingResult

from workflows import options
from workflows.steps import Stop


@workflow.defn(name="Housekeeping", failure_exception_types=options.DEFECTS)
class Housekeeping:
    """One sweep over the destination of every route; a destination that cannot be read does not stop the others."""

    @workflow.run
    async def run(self, input: HousekeepingInput) -> HousekeepingResult:
        routes = await workflow.execute_activity_method(HousekeepingActivities.list_routes, **options.SETTLE)
        total = HousekeepingResult()
        for route in routes:
            workflow.set_current_details(f"sweeping route `{route}`; so far {total.aborted} removed, {total.kept} kept")
            request = input.model_copy(update={"route": route})
            try:
                swept = await workflow.execute_activity_method(HousekeepingActivities.sweep_orphans, request, **options.SWEEP)
            except ActivityError as error:
                stop = Stop.of(error)
                swept = HousekeepingResult(problems=[f"{route}: {stop.reason}: {stop.message}"])
            total = total.plus(swept)
        return total
