"""Finding and removing unfinished uploads and temporary parts that no open workflow owns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from temporalio import activity
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities import metrics
from activities._progress import pulse
from replication.errors import ObjectError
from replication.ids import object_workflow_id
from replication.models import HousekeepingInput, HousekeepingResult, OpenUpload, Progress
from replication.routes import Route
from replication.settings import Settings
from stores.registry import Stores

STARTED_SLACK = timedelta(minutes=5)
"""Clocks of the store and of Temporal may differ by this much."""


class HousekeepingActivities:
    """Built once per worker.

    On S3 an upload is ours only if a workflow of its key ran when it was begun: other programs may keep uploads of
    their own under the same prefix. Elsewhere unfinished uploads stand under reserved names, which are ours alone.
    """

    def __init__(self, settings: Settings, stores: Stores, client: Client) -> None:
        self._settings = settings
        self._stores = stores
        self._client = client

    @activity.defn(name="list_routes")
    async def list_routes(self) -> list[str]:
        """The names of the configured routes."""
        return list(self._settings.routes_by_name)

    @activity.defn(name="sweep_orphans")
    async def sweep_orphans(self, input: HousekeepingInput) -> HousekeepingResult:
        """Sweeps the destination of one route."""
        route = self._settings.route(input.route)
        location = route.settings.destination
        store = self._stores.get(location.store)
        before = datetime.now(UTC) - timedelta(seconds=input.older_than_s)
        total = HousekeepingResult()
        async for upload in store.list_uploads(location.bucket, location.prefix):
            pulse().touch()
            total = total.plus(await self._sweep(route, upload, before, dry_run=input.dry_run))
        metrics.swept("removed", total.aborted)
        metrics.swept("kept", total.kept)
        metrics.swept("failed", total.failed)
        return total

    async def _sweep(self, route: Route, upload: OpenUpload, before: datetime, *, dry_run: bool) -> HousekeepingResult:
        found = HousekeepingResult(found=1)
        location = route.settings.destination
        if upload.started > before or not await self._is_orphan(route, upload):
            return found.plus(HousekeepingResult(kept=1))
        if dry_run:
            return found.plus(HousekeepingResult(aborted=1))
        try:
            await self._stores.get(location.store).abort_upload(location.bucket, upload.key, upload.upload_id)
        except ObjectError as error:
            return found.plus(HousekeepingResult(failed=1, problems=[f"{upload.key!r}: {error.reason}: {error}"]))
        return found.plus(HousekeepingResult(aborted=1))

    async def _is_orphan(self, route: Route, upload: OpenUpload) -> bool:
        """Ours, and not in use by an open workflow."""
        try:
            workflow_id = object_workflow_id(route.name, route.source_key(upload.key))
        except ValueError:
            return False
        ours = self._stores.get(route.settings.destination.store).kind != "s3"
        async for run in self._client.list_workflows(f'WorkflowId = "{_escaped(workflow_id)}"'):
            if not _ran_at(run, upload.started):
                continue
            ours = True
            if run.status == WorkflowExecutionStatus.RUNNING and await self._in_use(run, upload.upload_id):
                return False
        return ours

    async def _in_use(self, run: WorkflowExecution, upload_id: str) -> bool:
        """Unless the workflow says that it uses another upload, it uses this one."""
        try:
            progress = await self._client.get_workflow_handle(run.id, run_id=run.run_id).query("progress", result_type=Progress)
        except RPCError as error:
            return error.status != RPCStatusCode.NOT_FOUND
        return not progress.upload_id or progress.upload_id == upload_id


def _ran_at(run: WorkflowExecution, moment: datetime) -> bool:
    began = run.start_time - STARTED_SLACK <= moment
    return began and (run.close_time is None or moment <= run.close_time + STARTED_SLACK)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
